/* http.h - HTTP/1.1 requests in, responses out, as bytes: no sockets here.
 *
 * A parser takes bytes as they come and stops at three points: the head is whole, the request is
 * whole, or something is wrong. It is strict: where RFC 9112 leaves a choice it takes the narrow
 * one, and any doubt about where a message ends is a 400 after which the connection must close.
 * Limits count bytes really received.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_HTTP_H
#define LP_SERVE_HTTP_H

#include "base/text.h"

#define LP_HTTP_LINE_MAX    8192u     /* request line */
#define LP_HTTP_FIELDS_MAX  16384u    /* all header lines together */
#define LP_HTTP_FIELD_COUNT 64u       /* header lines */
#define LP_HTTP_BODY_MAX    33554432u /* 32 MiB, after the chunks are joined */
#define LP_HTTP_CHUNK_LINE  256u      /* a chunk's size line with its extensions */

typedef enum lp_http_event {
    LP_HTTP_MORE, /* all bytes taken, the request goes on */
    LP_HTTP_HEAD, /* request line and header are in; called again, the parser goes on with the body
                   */
    LP_HTTP_DONE, /* the request is whole; bytes not taken belong to the next one */
    LP_HTTP_BAD   /* see status and reason; the connection must close after the answer */
} lp_http_event;

typedef enum lp_http_method {
    LP_HTTP_GET,
    LP_HTTP_HEAD_METHOD,
    LP_HTTP_POST,
    LP_HTTP_OPTIONS,
    LP_HTTP_OTHER
} lp_http_method;

typedef struct lp_http_field {
    lp_str name, value;
} lp_http_field; /* name in lower case */

typedef struct lp_http_request {
    /* From LP_HTTP_HEAD on. All strings are borrowed from head and live until the reset. */
    lp_http_method method;
    lp_str target;    /* as sent */
    lp_str path;      /* of the target, up to the '?'; "*" for OPTIONS * */
    lp_str authority; /* of an absolute-form target; empty otherwise */
    int minor;        /* HTTP/1.minor: 0 or 1 */
    lp_http_field fields[LP_HTTP_FIELD_COUNT];
    size_t n_fields;
    bool keep_alive; /* the client would send another request */
    bool has_body;
    bool chunked;
    uint64_t content_length;
    bool wants_continue; /* Expect: 100-continue */
    lp_buf body;         /* owned; whole at LP_HTTP_DONE */
    /* With LP_HTTP_BAD. */
    int status;
    const char *reason; /* static text */
    /* Private to the parser. */
    int state;
    lp_buf head;       /* owned */
    size_t line_begin; /* of the header line being read, in head */
    size_t fields_begin;
    uint64_t left;     /* bytes of the body or chunk still to come */
    uint64_t received; /* bytes of a chunked body, framing included */
    uint32_t chunk_line_len;
    char chunk_line[LP_HTTP_CHUNK_LINE];
} lp_http_request;

void lp_http_init(lp_http_request *request);
void lp_http_reset(lp_http_request *request); /* ready for the next request; gives memory back */
void lp_http_free(lp_http_request *request);
/* Nothing of a request has come yet. */
bool lp_http_idle(const lp_http_request *request);

/* Takes bytes up to the next event; *taken tells how many. After LP_HTTP_BAD and LP_HTTP_DONE it
 * takes no more until lp_http_reset. */
lp_http_event lp_http_feed(lp_http_request *request, const char *data, size_t len, size_t *taken);

/* The value of a header field (name in lower case), or false. *count gets how often it came. */
bool lp_http_field_get(const lp_http_request *request, const char *name, lp_str *value);
size_t lp_http_field_count(const lp_http_request *request, const char *name);
/* True if a comma-separated list (Connection, Accept-Encoding) has this token, without regard to
 * case; parameters: "gzip;q=0" does not count as having it. */
bool lp_http_list_has(lp_str list, const char *token);
bool lp_http_same_text(lp_str a, lp_str b); /* ASCII case does not count */

/* Writing. */
typedef struct lp_http_reply {
    int status;
    const char *content_type; /* NULL = no body type */
    uint64_t length;          /* of the body; ignored when chunked or until_close */
    bool chunked;
    bool until_close; /* HTTP/1.0 clients of a stream: the end is the close */
    bool keep_alive;
    bool no_store;     /* Cache-Control: no-store; else no-cache (ask again with the ETag) */
    const char *extra; /* whole header lines, each ending in CRLF; may be NULL */
    int64_t now;       /* for Date, seconds since 1970 */
} lp_http_reply;
void lp_http_add_head(lp_buf *out, const lp_http_reply *reply);
void lp_http_add_chunk(lp_buf *out,
                       lp_str data); /* nothing for the empty text: that ends a reply */
void lp_http_add_last_chunk(lp_buf *out);
const char *lp_http_status_text(int status);

#endif
