/* reply.c - answers as bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/reply.h"

#include "base/json.h"
#include "platform/thread.h"

static const char json_type[] = "application/json; charset=utf-8";

void lp_reply_json(lp_buf *out, lp_framing framing, int status, const char *extra, lp_str body) {
    lp_http_reply reply = {.status = status,
                           .content_type = json_type,
                           .length = body.len,
                           .keep_alive = framing.keep_alive,
                           .no_store = true,
                           .extra = extra,
                           .now = lp_clock_unix()};
    lp_http_add_head(out, &reply);
    if (!framing.head_only) lp_buf_add_str(out, body);
}

void lp_reply_empty(lp_buf *out, lp_framing framing, int status, const char *extra) {
    lp_http_reply reply = {.status = status,
                           .keep_alive = framing.keep_alive,
                           .no_store = true,
                           .extra = extra,
                           .now = lp_clock_unix()};
    lp_http_add_head(out, &reply);
}

static const char *type_for(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 500:
        return "server_error";
    case 501:
        return "not_supported_error";
    case 503:
        return "unavailable_error";
    default:
        return "invalid_request_error";
    }
}

static const char *extra_for(int status) {
    if (status == 401) return "WWW-Authenticate: Bearer\r\n";
    if (status == 503) return "Retry-After: 2\r\n";
    return NULL;
}

void lp_reply_add_error_object(lp_buf *out, int status, const char *type, const char *message) {
    lp_buf_add_text(out, "{\"error\":{\"message\":");
    lp_json_add_string(out, lp_str_from(message));
    lp_buf_add_format(out, ",\"type\":\"%s\",\"code\":%d}}", type != NULL ? type : type_for(status),
                      status);
}

void lp_reply_error(lp_buf *out, lp_framing framing, int status, const char *type,
                    const char *message) {
    lp_buf body;
    lp_buf_init(&body, 0);
    lp_reply_add_error_object(&body, status, type, message);
    lp_reply_json(out, framing, status, extra_for(status), lp_buf_str(&body));
    if (body.failed) out->failed = true;
    lp_buf_free(&body);
}

int lp_reply_status_for(lp_code code) {
    switch (code) {
    case LP_ERR_ARGUMENT:
    case LP_ERR_FORMAT:
    case LP_ERR_UNSUPPORTED:
    case LP_ERR_FULL:
    case LP_ERR_LIMIT:
        return 400;
    case LP_ERR_MEMORY:
    case LP_ERR_STOPPED:
        return 503;
    default:
        return 500;
    }
}

/* ---- server-sent events --------------------------------------------------------------------- */

void lp_sse_begin(lp_buf *out, lp_framing framing) {
    lp_http_reply reply = {.status = 200,
                           .content_type = "text/event-stream; charset=utf-8",
                           .chunked = framing.minor == 1,
                           .until_close = framing.minor == 0,
                           .keep_alive = framing.keep_alive,
                           .no_store = true,
                           .extra = "X-Accel-Buffering: no\r\n",
                           .now = lp_clock_unix()};
    lp_http_add_head(out, &reply);
}

/* JSON text holds no line break, so one data line is enough. */
void lp_sse_event(lp_buf *out, lp_framing framing, lp_str json) {
    if (framing.minor == 1) lp_buf_add_format(out, "%zx\r\n", json.len + 8);
    lp_buf_add_text(out, "data: ");
    lp_buf_add_str(out, json);
    lp_buf_add_text(out, framing.minor == 1 ? "\n\n\r\n" : "\n\n");
}

void lp_sse_end(lp_buf *out, lp_framing framing) {
    if (framing.minor == 1) lp_http_add_last_chunk(out);
}
