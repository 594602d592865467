/* server.c - listening, the poll loop, limits on numbers and time, start and stop.
 *
 * Start and stop mirror each other. After a stop nothing new is accepted; the workers cancel what
 * runs, every stream gets an error event, and whoever has not taken its last bytes after a second
 * and a half is cut off.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/server.h"

#include "base/memory.h"
#include "platform/net.h"
#include "platform/thread.h"
#include "serve/connection.h"

#include <stdatomic.h>
#include <string.h>

#define CONNECTIONS_MAX 1000u /* served at a time */
#define REFUSALS_MAX    8u    /* more, being told that there are too many */
#define STOP_SECONDS    1.5
#define ROUND_SECONDS   60.0 /* the longest wait of the loop */
#define LISTENERS       2u

struct lp_server {
    lp_socket listeners[LISTENERS];
    size_t n_listeners;
    uint16_t port;
    lp_buf url;
    lp_guard guard;
    bool may_quit; /* whoever reaches it sits at this machine */
    lp_waker *waker;
    atomic_bool stop;
    /* While running. */
    lp_hub hub;
    lp_api api;
    lp_assets assets;
    lp_connection **connections; /* (CONNECTIONS_MAX + REFUSALS_MAX), the first n in use */
    size_t n;
    lp_poll_item *items; /* one per listener, then one per connection */
    double accept_again; /* not before this time: the last accept failed */
    double looked;       /* when it was last looked at how long nothing happened */
};

/* ---- listening ------------------------------------------------------------------------------ */

static bool is_loopback(const char *host) {
    if (host == NULL || strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0) return true;
    return strncmp(host, "127.", 4) == 0;
}

static bool is_wildcard(const char *host) {
    return host != NULL && (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0);
}

static lp_code bind_port(lp_server *s, const lp_listen_params *p, lp_error *err) {
    const char *host = p->host != NULL ? p->host : "127.0.0.1";
    uint16_t last = p->port_fixed || p->port == 0 || p->port > LP_SERVER_PORT_LAST
                        ? p->port
                        : LP_SERVER_PORT_LAST;
    lp_code code = LP_OK;
    for (uint32_t port = p->port; port <= last; port++) {
        bool busy = false;
        code = lp_net_listen(&s->listeners[0], host, (uint16_t)port, &s->port, &busy, err);
        if (code == LP_OK) break;
        if (!busy) return code;
    }
    if (code != LP_OK && !p->port_fixed)
        code = lp_net_listen(&s->listeners[0], host, 0, &s->port, NULL, err);
    if (code != LP_OK) return code;
    s->n_listeners = 1;
    if (p->host == NULL || strcmp(p->host, "localhost") == 0) {
        uint16_t same;
        if (lp_net_listen(&s->listeners[1], "::1", s->port, &same, NULL, NULL) == LP_OK)
            s->n_listeners = 2;
    }
    return LP_OK;
}

static lp_code make_url(lp_server *s, const char *host, lp_error *err) {
    const char *name = host == NULL || is_wildcard(host) ? "127.0.0.1" : host;
    bool ipv6 = strchr(name, ':') != NULL;
    lp_buf_add_format(&s->url, "http://%s%s%s:%u/", ipv6 ? "[" : "", name, ipv6 ? "]" : "",
                      (unsigned)s->port);
    return lp_buf_check(&s->url, err);
}

static lp_code listen_all(lp_server *s, const lp_listen_params *p, lp_error *err) {
    if (!is_loopback(p->host) && p->api_key.len == 0)
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "--host %s is open to other machines: that needs --api-key-file", p->host);
    LP_TRY(lp_net_start(err)); /* before the waker, which is a socket on Windows */
    s->waker = lp_waker_new();
    if (s->waker == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the server");
    LP_TRY(bind_port(s, p, err));
    /* A name of its own means a proxy in front of it, and people behind that. */
    s->may_quit = is_loopback(p->host) && p->n_allow_hosts == 0;
    LP_TRY(make_url(s, p->host, err));
    return lp_guard_open(&s->guard, is_wildcard(p->host) ? NULL : p->host, s->port, p->allow_hosts,
                         p->n_allow_hosts, p->api_key, err);
}

lp_code lp_server_listen(lp_server **out, const lp_listen_params *params, lp_error *err) {
    lp_server *s = lp_alloc(1, sizeof *s);
    if (s == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the server");
    for (size_t i = 0; i < LISTENERS; i++) s->listeners[i] = LP_SOCKET_NONE;
    lp_buf_init(&s->url, 0);
    atomic_init(&s->stop, false);
    lp_code code = listen_all(s, params, err);
    if (code != LP_OK) {
        lp_server_close(s);
        return code;
    }
    *out = s;
    return LP_OK;
}

uint16_t lp_server_port(const lp_server *s) {
    return s->port;
}
const char *lp_server_url(const lp_server *s) {
    return s->url.data;
}

void lp_server_stop(lp_server *s) {
    atomic_store(&s->stop, true);
    lp_waker_ring(s->waker);
}

void lp_server_close(lp_server *s) {
    if (s == NULL) return;
    for (size_t i = 0; i < LISTENERS; i++)
        if (s->listeners[i] != LP_SOCKET_NONE) lp_net_close(s->listeners[i]);
    lp_guard_close(&s->guard);
    lp_buf_free(&s->url);
    if (s->waker != NULL) lp_waker_free(s->waker);
    lp_free(s);
}

/* ---- one round of the loop ------------------------------------------------------------------ */

static void accept_some(lp_server *s, lp_socket listener) {
    for (int i = 0; i < 64; i++) {
        lp_socket socket = lp_net_accept(listener);
        if (socket == LP_SOCKET_NONE) {
            /* Ready and yet none: out of descriptors, or the client left. A pause keeps the loop
             * from spinning on a listener that stays ready. */
            if (i == 0) s->accept_again = s->hub.now + 0.05;
            return;
        }
        if (s->n == CONNECTIONS_MAX + REFUSALS_MAX) {
            lp_net_close(socket);
            continue;
        }
        lp_connection *c = lp_connection_new(socket, &s->hub);
        if (c == NULL) return;
        s->connections[s->n++] = c;
        if (s->n > CONNECTIONS_MAX) lp_connection_refuse(c, &s->hub);
    }
}

static void remove_closed(lp_server *s) {
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        lp_connection *c = s->connections[i];
        if (c->socket == LP_SOCKET_NONE)
            lp_free(c);
        else
            s->connections[kept++] = c;
    }
    s->n = kept;
}

static bool may_accept(const lp_server *s) {
    return !s->hub.stopping && s->hub.now >= s->accept_again;
}

/* Fills the poll list and returns how long to sleep at most. */
static double prepare_round(lp_server *s) {
    double wake = s->hub.now + ROUND_SECONDS;
    bool accepting = may_accept(s);
    if (!accepting && !s->hub.stopping && s->accept_again < wake) wake = s->accept_again;
    for (size_t i = 0; i < s->n_listeners; i++)
        s->items[i] = (lp_poll_item){.socket = s->listeners[i], .want_read = accepting};
    for (size_t i = 0; i < s->n; i++) {
        lp_connection *c = s->connections[i];
        s->items[s->n_listeners + i] = (lp_poll_item){.socket = c->socket,
                                                      .want_read = lp_connection_wants_read(c),
                                                      .want_write = lp_connection_wants_write(c)};
        double deadline = lp_connection_deadline(c);
        if (deadline > 0 && deadline < wake) wake = deadline;
    }
    double idle = s->api.params->idle_exit_seconds;
    if (idle > 0 && s->hub.last_active + idle < wake) wake = s->hub.last_active + idle;
    return wake > s->hub.now ? wake - s->hub.now : 0;
}

static void serve_round(lp_server *s, double seconds) {
    size_t polled = s->n;
    lp_net_poll(s->items, s->n_listeners + polled, s->waker, seconds);
    s->hub.now = lp_clock_seconds();
    for (size_t i = 0; i < polled; i++) {
        lp_connection *c = s->connections[i];
        const lp_poll_item *item = &s->items[s->n_listeners + i];
        if (item->broken) lp_connection_close(c, &s->hub);
        if (item->can_read && c->socket != LP_SOCKET_NONE) lp_connection_readable(c, &s->hub);
        if (item->can_write && c->socket != LP_SOCKET_NONE) lp_connection_writable(c, &s->hub);
        lp_connection_collect(c, &s->hub);
        if (c->socket == LP_SOCKET_NONE) continue;
        double deadline = lp_connection_deadline(c);
        if (deadline > 0 && s->hub.now >= deadline) lp_connection_expire(c, &s->hub);
    }
    for (size_t i = 0; i < s->n_listeners; i++)
        if (s->items[i].can_read && may_accept(s)) accept_some(s, s->listeners[i]);
    remove_closed(s);
}

static bool idle_too_long(lp_server *s) {
    double limit = s->api.params->idle_exit_seconds;
    if (limit <= 0) return false;
    /* No round is that long: the machine slept. Its pages slept, too, and now have their turn. */
    double asleep = s->hub.now - s->looked - 2 * ROUND_SECONDS;
    if (asleep > 0) s->hub.last_active = s->hub.now;
    s->looked = s->hub.now;
    if (lp_workers_busy(s->hub.workers)) s->hub.last_active = s->hub.now;
    return s->hub.now - s->hub.last_active >= limit;
}

/* ---- running -------------------------------------------------------------------------------- */

static bool anything_to_send(const lp_server *s) {
    for (size_t i = 0; i < s->n; i++)
        if (s->connections[i]->work != NULL || lp_connection_wants_write(s->connections[i]))
            return true;
    return false;
}

static void say_goodbye(lp_server *s) {
    s->hub.stopping = true;
    lp_workers_stop(s->hub.workers);
    double end = s->hub.now + STOP_SECONDS;
    while (anything_to_send(s) && s->hub.now < end) {
        double left = end - s->hub.now;
        double seconds = prepare_round(s);
        serve_round(s, seconds < left ? seconds : left);
    }
}

static void loop(lp_server *s) {
    while (!atomic_load(&s->stop) && !s->hub.quit && !idle_too_long(s))
        serve_round(s, prepare_round(s));
    say_goodbye(s);
}

static lp_code start(lp_server *s, const lp_server_params *params, lp_error *err) {
    s->api = (lp_api){.params = params, .assets = &s->assets, .may_quit = s->may_quit};
    LP_TRY(lp_assets_open(&s->assets, params->container, err));
    s->connections = lp_alloc(CONNECTIONS_MAX + REFUSALS_MAX, sizeof(lp_connection *));
    s->items = lp_alloc(LISTENERS + CONNECTIONS_MAX + REFUSALS_MAX, sizeof *s->items);
    if (s->connections == NULL || s->items == NULL)
        return lp_fail(err, LP_ERR_MEMORY, "out of memory for the server");
    double now = lp_clock_seconds();
    s->hub = (lp_hub){.guard = &s->guard, .api = &s->api, .now = now, .last_active = now};
    s->looked = now;
    return lp_workers_open(&s->hub.workers, &s->api, s->waker, err);
}

static void finish(lp_server *s) {
    for (size_t i = 0; i < s->n; i++) lp_connection_close(s->connections[i], &s->hub);
    remove_closed(s);
    lp_workers_close(s->hub.workers);
    s->hub.workers = NULL;
    lp_free(s->items);
    lp_free(s->connections);
    s->items = NULL;
    s->connections = NULL;
    lp_assets_close(&s->assets);
}

lp_code lp_server_run(lp_server *s, const lp_server_params *params, lp_error *err) {
    lp_code code = start(s, params, err);
    if (code == LP_OK) {
        if (params->on_listening != NULL) params->on_listening(params->user, s->url.data);
        loop(s);
    }
    finish(s);
    return code;
}
