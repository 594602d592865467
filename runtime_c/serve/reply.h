/* reply.h - whole answers: JSON with a status, errors in the one shape clients know.
 *
 * {"error":{"message":..,"type":..,"code":<status>}}. Messages are fixed texts or lp_error texts,
 * which are printable UTF-8 whatever a client sent.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_REPLY_H
#define LP_SERVE_REPLY_H

#include "serve/http.h"

/* How the request wants its answer framed. */
typedef struct lp_framing {
    bool keep_alive;
    bool head_only; /* HEAD: the header alone */
    int minor;      /* of HTTP/1.minor; 0 cannot read chunks */
} lp_framing;

void lp_reply_json(lp_buf *out, lp_framing framing, int status, const char *extra, lp_str body);
void lp_reply_error(lp_buf *out, lp_framing framing, int status, const char *type,
                    const char *message);
void lp_reply_empty(lp_buf *out, lp_framing framing, int status, const char *extra);
/* The error object alone, for streams. type NULL: by status. */
void lp_reply_add_error_object(lp_buf *out, int status, const char *type, const char *message);
/* The status and type for a failed preparation: 400, 413, 500, 501 ... */
int lp_reply_status_for(lp_code code);

/* Server-sent events in a reply of unknown length. */
void lp_sse_begin(lp_buf *out, lp_framing framing);
void lp_sse_event(lp_buf *out, lp_framing framing, lp_str json); /* "data: " json, blank line */
void lp_sse_end(lp_buf *out, lp_framing framing);

#endif
