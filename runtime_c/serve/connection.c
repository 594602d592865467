/* connection.c - the life of a connection, driven by the poll loop.
 *
 * Reading, answering and sending follow one another: request bytes are parsed only while nothing
 * is being answered or sent. While a work item runs, reading goes on (into a small buffer) because
 * the end of the stream is how a client that went away is noticed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/connection.h"

#include "base/memory.h"

#include <string.h>

lp_connection *lp_connection_new(lp_socket socket, lp_hub *hub) {
    lp_connection *c = lp_alloc(1, sizeof *c);
    if (c == NULL) {
        lp_net_close(socket);
        return NULL;
    }
    c->socket = socket;
    lp_http_init(&c->request);
    lp_buf_init(&c->ahead, 0);
    lp_buf_init(&c->out, 0);
    c->deadline = hub->now + LP_HEAD_SECONDS;
    c->moved = hub->now;
    return c;
}

/* Keeps the sum of request bytes that all connections hold. */
static void recharge(lp_connection *c, lp_hub *hub) {
    size_t bytes = c->ahead.size + c->request.body.size + (c->work != NULL ? c->work_bytes : 0);
    hub->charged = hub->charged - c->charged + bytes;
    c->charged = bytes;
}

void lp_connection_close(lp_connection *c, lp_hub *hub) {
    if (c->socket == LP_SOCKET_NONE) return;
    if (c->work != NULL) lp_workers_abandon(c->work);
    c->work = NULL;
    lp_net_close(c->socket);
    c->socket = LP_SOCKET_NONE;
    lp_http_free(&c->request);
    lp_buf_free(&c->ahead);
    lp_buf_free(&c->out);
    hub->charged -= c->charged;
    c->charged = 0;
}

static size_t waiting(const lp_connection *c) {
    return c->out.len - c->sent + c->body.len + c->tail.len;
}

bool lp_connection_wants_write(const lp_connection *c) {
    return waiting(c) > 0;
}

bool lp_connection_wants_read(const lp_connection *c) {
    if (c->peer_done) return false;
    if (c->draining) return true;
    return c->ahead.len < LP_AHEAD_MAX;
}

/* ---- sending -------------------------------------------------------------------------------- */

/* Sends what the socket takes; false when the connection is gone. */
static bool send_part(lp_connection *c, lp_hub *hub, lp_str *part) {
    while (part->len > 0) {
        int64_t n = lp_net_write(c->socket, part->data, part->len);
        if (n < 0) return false;
        if (n == 0) return true;
        part->data += n;
        part->len -= (size_t)n;
        c->moved = hub->now;
    }
    return true;
}

static void read_ahead(lp_connection *c, lp_hub *hub);

/* All is sent: close, drain, or take the next request. */
static void sent_all(lp_connection *c, lp_hub *hub) {
    if (c->work != NULL || !c->close_after || c->draining) return;
    if (!c->drain || c->peer_done) {
        lp_connection_close(c, hub);
        return;
    }
    lp_net_end_sending(c->socket);
    c->draining = true;
    c->deadline = hub->now + LP_DRAIN_SECONDS;
}

static void flush(lp_connection *c, lp_hub *hub) {
    if (c->socket == LP_SOCKET_NONE) return;
    if (c->out.failed) { /* out of memory in the middle of an answer: nothing true can follow */
        lp_connection_close(c, hub);
        return;
    }
    lp_str out = lp_str_slice(lp_buf_str(&c->out), c->sent, c->out.len);
    bool alive = send_part(c, hub, &out);
    c->sent = c->out.len - out.len;
    if (alive && out.len == 0) alive = send_part(c, hub, &c->body);
    if (alive && out.len == 0 && c->body.len == 0) alive = send_part(c, hub, &c->tail);
    if (!alive) {
        lp_connection_close(c, hub);
        return;
    }
    if (out.len == 0) {
        if (c->out.size > 16384) { /* an idle connection keeps no large buffer */
            lp_buf_free(&c->out);
            lp_buf_init(&c->out, 0);
        }
        lp_buf_clear(&c->out);
        c->sent = 0;
    }
    if (waiting(c) == 0) sent_all(c, hub);
}

/* ---- answering ------------------------------------------------------------------------------ */

static lp_framing framing_of(const lp_connection *c, const lp_hub *hub) {
    return (lp_framing){.keep_alive = c->request.keep_alive && !hub->stopping,
                        .head_only = c->request.method == LP_HTTP_HEAD_METHOD,
                        .minor = c->request.minor};
}

/* An answer that ends the connection, because it is unclear or unwelcome what the client sends
 * next. */
static void refuse(lp_connection *c, lp_hub *hub, int status, const char *message) {
    lp_framing framing = {
        .keep_alive = false, .head_only = c->request.method == LP_HTTP_HEAD_METHOD, .minor = 1};
    lp_reply_error(&c->out, framing, status, NULL, message);
    c->close_after = true;
    c->drain = true;
    flush(c, hub);
}

void lp_connection_refuse(lp_connection *c, lp_hub *hub) {
    refuse(c, hub, 503, "too many connections");
}

/* The request may be answered with an error and the connection go on, if its end is known. */
static void answer_error(lp_connection *c, lp_hub *hub, int status, const char *message) {
    if (c->request.has_body || status == 400) {
        refuse(c, hub, status, message);
        return;
    }
    lp_framing framing = framing_of(c, hub);
    lp_reply_error(&c->out, framing, status, NULL, message);
    c->close_after = !framing.keep_alive;
}

static bool method_fits(const lp_route *route, lp_http_method method) {
    return method == route->method ||
           (route->method == LP_HTTP_GET && method == LP_HTTP_HEAD_METHOD);
}

static const char *allow_of(const lp_route *route) {
    return route == NULL || route->method == LP_HTTP_GET ? "Allow: GET, HEAD, OPTIONS\r\n"
                                                         : "Allow: POST, OPTIONS\r\n";
}

static void answer_method(lp_connection *c, lp_hub *hub, const lp_route *route) {
    lp_framing framing = framing_of(c, hub);
    bool options = c->request.method == LP_HTTP_OPTIONS;
    if (!options && c->request.has_body) framing.keep_alive = false;
    if (options) {
        lp_reply_empty(&c->out, framing, 204, allow_of(route));
    } else {
        lp_buf body;
        lp_buf_init(&body, 0);
        lp_reply_add_error_object(&body, 405, NULL, "that method is not for this path");
        lp_reply_json(&c->out, framing, 405, allow_of(route), lp_buf_str(&body));
        lp_buf_free(&body);
    }
    c->close_after = !framing.keep_alive;
    c->drain = !framing.keep_alive;
}

/* Everything that can be said before the body: guard, key, route, method. True: go on. */
static bool check_head(lp_connection *c, lp_hub *hub) {
    const lp_http_request *r = &c->request;
    const lp_route *route = lp_api_route(r->path);
    bool asset = route == NULL && lp_assets_find(hub->api->assets, r->path) != NULL;
    bool open_to_all = asset || (route != NULL && route->open_to_all);
    const char *reason = NULL;
    int status = lp_guard_check(hub->guard, r, open_to_all, &reason);
    if (status == 0 && !open_to_all && !lp_guard_key_ok(hub->guard, r)) {
        status = 401;
        reason = "the API key is missing or wrong";
    }
    if (status == 0 && r->method == LP_HTTP_OTHER) {
        status = 501;
        reason = "that method is not known here";
    }
    if (status == 0 && route == NULL && !asset && !lp_str_is(r->path, "*")) {
        status = 404;
        reason = "there is nothing at that path";
    }
    if (status != 0) {
        answer_error(c, hub, status, reason);
        return false;
    }
    bool fits = route != NULL
                    ? method_fits(route, r->method)
                    : asset && (r->method == LP_HTTP_GET || r->method == LP_HTTP_HEAD_METHOD);
    if (!fits) {
        answer_method(c, hub, route);
        return false;
    }
    return true;
}

static void answer_work(lp_connection *c, lp_hub *hub, const lp_route *route) {
    lp_framing framing = framing_of(c, hub);
    size_t bytes = c->request.body.size;
    lp_work *work = lp_work_new(hub->api, route->prepare, framing, &c->request.body);
    if (work != NULL && lp_workers_submit(hub->workers, work)) {
        c->work = work;
        c->work_bytes = bytes;
        c->stream = true;
        c->close_after = !framing.keep_alive;
        return;
    }
    lp_work_free(work);
    lp_reply_error(&c->out, framing, 503, NULL, "too many requests are waiting");
    c->close_after = !framing.keep_alive;
}

static void answer(lp_connection *c, lp_hub *hub) {
    const lp_route *route = lp_api_route(c->request.path);
    lp_framing framing = framing_of(c, hub);
    hub->last_active = hub->now;
    if (route == NULL) {
        lp_asset *asset = lp_assets_find(hub->api->assets, c->request.path);
        lp_asset_reply reply = {{NULL, 0}, {NULL, 0}};
        if (asset != NULL) lp_asset_answer(asset, &c->request, &c->out, &reply);
        c->body = reply.body;
        c->tail = reply.tail;
        c->close_after = !c->request.keep_alive;
    } else if (route->action == LP_ACTION_QUIT && !hub->api->may_quit) {
        lp_reply_error(&c->out, framing, 403, NULL,
                       "others use this program, too: it is ended where it runs");
        c->close_after = !framing.keep_alive;
    } else if (route->answer != NULL) {
        lp_buf body;
        lp_buf_init(&body, 0);
        route->answer(hub->api, &body);
        lp_reply_json(&c->out, framing, 200, NULL, lp_buf_str(&body));
        if (body.failed) c->out.failed = true;
        lp_buf_free(&body);
        c->close_after = !framing.keep_alive;
        if (route->action == LP_ACTION_QUIT) hub->quit = true;
    } else {
        answer_work(c, hub, route);
    }
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Ready for the next request: nothing being answered or sent. */
static bool ready(const lp_connection *c) {
    return c->socket != LP_SOCKET_NONE && c->work == NULL && waiting(c) == 0 && !c->close_after;
}

static void next_request(lp_connection *c, lp_hub *hub) {
    lp_http_reset(&c->request);
    c->stream = false;
    c->deadline = hub->now + LP_IDLE_SECONDS;
}

/* One event of the parser; false: stop parsing for now. */
static bool take_event(lp_connection *c, lp_hub *hub, lp_http_event event) {
    switch (event) {
    case LP_HTTP_HEAD:
        if (!check_head(c, hub)) {
            if (!c->close_after) next_request(c, hub);
            flush(c, hub);
            return true;
        }
        c->deadline = hub->now + LP_BODY_SECONDS;
        if (c->request.wants_continue) lp_buf_add_text(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
        flush(c, hub);
        return true;
    case LP_HTTP_DONE:
        answer(c, hub);
        if (c->socket != LP_SOCKET_NONE) next_request(c, hub);
        flush(c, hub);
        return true;
    case LP_HTTP_BAD:
        refuse(c, hub, c->request.status, c->request.reason);
        return false;
    default:
        return false;
    }
}

/* Parses bytes while the connection is ready for them; the rest is kept for later. */
static void process(lp_connection *c, lp_hub *hub, const char *data, size_t len) {
    bool more = true;
    while (more && ready(c)) {
        bool fresh = lp_http_idle(&c->request);
        size_t before = c->request.body.len, taken = 0;
        lp_http_event event = lp_http_feed(&c->request, data, len, &taken);
        data += taken;
        len -= taken;
        if (fresh && taken > 0) c->deadline = hub->now + LP_HEAD_SECONDS;
        if (c->request.body.len > before)
            c->deadline += (double)(c->request.body.len - before) / 65536.0;
        more = take_event(c, hub, event) && (len > 0 || event == LP_HTTP_HEAD);
    }
    if (c->socket == LP_SOCKET_NONE) return;
    if (len > 0 && !c->close_after) lp_buf_add(&c->ahead, data, len);
    recharge(c, hub);
    if (c->ahead.failed) {
        lp_connection_close(c, hub);
    } else if (hub->charged > LP_BODIES_MAX && c->request.body.len > 0 && ready(c)) {
        refuse(c, hub, 503, "too many large requests at a time");
    }
}

/* Parses what came ahead, now that the answer before it is out. */
static void read_ahead(lp_connection *c, lp_hub *hub) {
    while (ready(c) && c->ahead.len > 0) {
        lp_buf bytes = c->ahead;
        lp_buf_init(&c->ahead, 0);
        process(c, hub, bytes.data, bytes.len);
        bool stuck = c->ahead.len == bytes.len;
        lp_buf_free(&bytes);
        if (stuck) return;
    }
}

void lp_connection_readable(lp_connection *c, lp_hub *hub) {
    char bytes[65536];
    /* A few rounds, so that one fast client does not keep the others waiting. */
    for (int round = 0; round < 4 && c->socket != LP_SOCKET_NONE && lp_connection_wants_read(c);
         round++) {
        int64_t n = lp_net_read(c->socket, bytes, sizeof bytes);
        if (n == 0) return;
        if (n < 0) {
            c->peer_done = true;
            /* A client that closed early still gets an answer that is ready; work is for nobody. */
            if (c->work != NULL || waiting(c) == 0)
                lp_connection_close(c, hub);
            else
                c->close_after = true;
            return;
        }
        if (c->draining) continue;
        if (ready(c) && c->ahead.len == 0)
            process(c, hub, bytes, (size_t)n);
        else if (!c->close_after)
            lp_buf_add(&c->ahead, bytes, (size_t)n);
        if (c->socket != LP_SOCKET_NONE) {
            recharge(c, hub);
            if (c->ahead.failed) lp_connection_close(c, hub);
        }
    }
}

void lp_connection_writable(lp_connection *c, lp_hub *hub) {
    flush(c, hub);
    read_ahead(c, hub);
}

void lp_connection_collect(lp_connection *c, lp_hub *hub) {
    if (c->socket == LP_SOCKET_NONE || c->work == NULL) return;
    size_t before = c->out.len;
    if (waiting(c) == 0) c->moved = hub->now; /* the client's time to take it begins now */
    bool done = lp_workers_collect(c->work, &c->out);
    if (done) {
        lp_work_free(c->work);
        c->work = NULL;
        c->deadline = hub->now + LP_IDLE_SECONDS;
        recharge(c, hub);
        hub->last_active = hub->now;
    }
    if (!done && c->out.len == before && !c->out.failed) return;
    flush(c, hub);
    if (c->socket == LP_SOCKET_NONE) return;
    if (c->work != NULL && waiting(c) > LP_STREAM_QUEUE) {
        lp_connection_close(c, hub); /* reads too slowly: the model works for someone who listens */
        return;
    }
    read_ahead(c, hub);
}

/* ---- time ----------------------------------------------------------------------------------- */

double lp_connection_deadline(const lp_connection *c) {
    if (c->draining) return c->deadline;
    if (waiting(c) > 0) return c->moved + LP_SEND_SECONDS;
    return c->work != NULL ? 0 : c->deadline;
}

void lp_connection_expire(lp_connection *c, lp_hub *hub) {
    bool reading = !c->draining && waiting(c) == 0 && !lp_http_idle(&c->request);
    if (reading)
        refuse(c, hub, 408, "the request took too long to arrive");
    else
        lp_connection_close(c, hub);
}
