/* net_posix.c - loopback sockets on POSIX systems: non-blocking, closed on exec, readiness by poll.
 *
 * The listener uses SO_REUSEADDR, so that a restart need not wait for connections of the last run
 * to die; on these systems it does not let two programs share a listening port. SO_REUSEPORT
 * would, and is never used. The waker is a pipe; a ring that finds it full is one already ringing.
 *
 * Out of descriptors, accept would fail and poll would report the listener again at once, for ever.
 * One descriptor is therefore kept in reserve: it is given up to take the connection and close it.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/memory.h"
#include "platform/thread.h"

#if !defined(MSG_NOSIGNAL)
#define MSG_NOSIGNAL 0
#endif

static int reserve = -1;

static void prepare_descriptor(int fd) {
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, (flags < 0 ? 0 : flags) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void prepare_socket(int fd) {
    prepare_descriptor(fd);
    int on = 1;
    /* Answers go out token by token: none may wait for the acknowledgement of the last. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#if defined(SO_NOSIGPIPE)
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
}

/* An unused socket, since files cannot be opened any more after lp_confine. */
static void open_reserve(void) {
    if (reserve >= 0) return;
    reserve = socket(AF_INET, SOCK_STREAM, 0);
    if (reserve >= 0) prepare_descriptor(reserve);
}

lp_code lp_net_start(lp_error *err) {
    (void)err;
    signal(SIGPIPE, SIG_IGN);
    open_reserve();
    return LP_OK;
}

typedef union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} address;

/* Literals only: a name would need a resolver, and the answer could change. */
static bool parse_host(address *out, socklen_t *size, const char *host, uint16_t port) {
    memset(out, 0, sizeof *out);
    if (strcmp(host, "localhost") == 0) host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &out->v4.sin_addr) == 1) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(port);
        *size = sizeof out->v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1) {
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons(port);
        *size = sizeof out->v6;
        return true;
    }
    return false;
}

lp_code lp_net_listen(lp_socket *out, const char *host, uint16_t port, uint16_t *bound, bool *busy,
                      lp_error *err) {
    address a;
    socklen_t size;
    *out = LP_SOCKET_NONE;
    if (busy) *busy = false;
    if (!parse_host(&a, &size, host, port)) {
        return lp_fail(err, LP_ERR_ARGUMENT, "host \"%s\" is not an IP address or localhost", host);
    }
    int fd = socket(a.any.sa_family, SOCK_STREAM, 0);
    if (fd < 0) return lp_fail(err, LP_ERR_IO, "cannot open a socket: %s", strerror(errno));
    prepare_socket(fd);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a.any.sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);

    bool done =
        bind(fd, &a.any, size) == 0 && listen(fd, 128) == 0 && getsockname(fd, &a.any, &size) == 0;
    if (!done) {
        int reason = errno;
        close(fd);
        if (reason == EADDRINUSE) {
            if (busy) *busy = true;
            return lp_fail(err, LP_ERR_IO, "port %u of %s is in use by another program",
                           (unsigned)port, host);
        }
        return lp_fail(err, LP_ERR_IO, "cannot listen on port %u of %s: %s", (unsigned)port, host,
                       strerror(reason));
    }
    *out = fd;
    *bound = ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
    return LP_OK;
}

lp_socket lp_net_accept(lp_socket listener) {
    for (;;) {
        int fd = accept((int)listener, NULL, NULL);
        if (fd >= 0) {
            prepare_socket(fd);
            return fd;
        }
        /* A client that is gone before we looked is no reason to stop looking. */
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if ((errno == EMFILE || errno == ENFILE) && reserve >= 0) {
            close(reserve);
            reserve = -1;
            fd = accept((int)listener, NULL, NULL);
            if (fd >= 0) close(fd);
            open_reserve();
        }
        return LP_SOCKET_NONE;
    }
}

static int milliseconds(double seconds) {
    if (seconds < 0) return -1;
    if (seconds > 1e6) seconds = 1e6;
    return (int)(seconds * 1000.0 + 0.999); /* up, so that a short wait is not a busy one */
}

lp_socket lp_net_connect_loopback(uint16_t port, double seconds) {
    address a;
    socklen_t size;
    if (!parse_host(&a, &size, "127.0.0.1", port)) return LP_SOCKET_NONE;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return LP_SOCKET_NONE;
    prepare_socket(fd);
    if (connect(fd, &a.any, size) == 0) return fd;
    bool done = false;
    if (errno == EINPROGRESS || errno == EINTR) {
        double end = lp_clock_seconds() + (seconds < 0 ? 0 : seconds);
        struct pollfd item = {fd, POLLOUT, 0};
        int ready;
        do {
            double left = seconds < 0 ? -1 : end - lp_clock_seconds();
            ready = poll(&item, 1, milliseconds(seconds >= 0 && left < 0 ? 0 : left));
        } while (ready < 0 && errno == EINTR);
        int reason = 0;
        socklen_t len = sizeof reason;
        done = ready > 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &len) == 0 && reason == 0;
    }
    if (done) return fd;
    close(fd);
    return LP_SOCKET_NONE;
}

void lp_net_close(lp_socket s) {
    if (s != LP_SOCKET_NONE) close((int)s);
}

void lp_net_end_sending(lp_socket s) {
    if (s != LP_SOCKET_NONE) shutdown((int)s, SHUT_WR);
}

/* Turns the result of recv or send into ours. */
static int64_t moved(ssize_t n) {
    if (n >= 0) return (int64_t)n;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -1;
}

int64_t lp_net_read(lp_socket s, void *data, size_t size) {
    if (size == 0) return 0;
    ssize_t n;
    do {
        n = recv((int)s, data, size, 0);
    } while (n < 0 && errno == EINTR);
    return n == 0 ? -1 : moved(n);
}

int64_t lp_net_write(lp_socket s, const void *data, size_t size) {
    if (size == 0) return 0;
    ssize_t n;
    do {
        n = send((int)s, data, size, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return moved(n);
}

/* ---- waiting ------------------------------------------------------------------------------- */

struct lp_waker {
    int in, out; /* pipe ends: rung at `in`, heard at `out` */
};

lp_waker *lp_waker_new(void) {
    lp_waker *waker = lp_alloc(1, sizeof *waker);
    int ends[2];
    if (!waker) return NULL;
    if (pipe(ends) != 0) {
        lp_free(waker);
        return NULL;
    }
    prepare_descriptor(ends[0]);
    prepare_descriptor(ends[1]);
    waker->out = ends[0];
    waker->in = ends[1];
    return waker;
}

void lp_waker_free(lp_waker *waker) {
    if (!waker) return;
    close(waker->in);
    close(waker->out);
    lp_free(waker);
}

void lp_waker_ring(lp_waker *waker) {
    int saved = errno; /* we may be inside a signal handler */
    ssize_t done = write(waker->in, "", 1);
    (void)done;
    errno = saved;
}

static void silence(lp_waker *waker) {
    char part[256];
    while (read(waker->out, part, sizeof part) > 0) {
    }
}

enum { ON_STACK = 256 };

int lp_net_poll(lp_poll_item *items, size_t n, lp_waker *waker, double seconds) {
    struct pollfd on_stack[ON_STACK + 1];
    struct pollfd *list = on_stack;
    if (n > ON_STACK) {
        list = lp_alloc(n + 1, sizeof *list);
        if (!list) {
            /* Serve those that fit rather than none; the others have their turn later. */
            list = on_stack;
            for (size_t i = ON_STACK; i < n; i++) {
                items[i].can_read = items[i].can_write = items[i].broken = false;
            }
            n = ON_STACK;
        }
    }
    for (size_t i = 0; i < n; i++) {
        const lp_poll_item *item = &items[i];
        list[i].fd = item->socket == LP_SOCKET_NONE ? -1 : (int)item->socket;
        list[i].events = (short)((item->want_read ? POLLIN : 0) | (item->want_write ? POLLOUT : 0));
        list[i].revents = 0;
    }
    list[n].fd = waker ? waker->out : -1;
    list[n].events = POLLIN;
    list[n].revents = 0;

    int got = poll(list, (nfds_t)(n + 1), milliseconds(seconds));
    int ready = 0;
    for (size_t i = 0; i < n; i++) {
        short events = got > 0 ? list[i].revents : 0;
        items[i].broken = (events & (POLLERR | POLLNVAL)) != 0;
        /* A hang-up is read as the end of the stream, after the bytes that came before it; who does
         * not read must hear of it, or poll would return at once for ever. */
        bool hang_up = (events & POLLHUP) != 0;
        items[i].can_read = items[i].want_read && ((events & POLLIN) != 0 || hang_up);
        items[i].can_write = items[i].want_write && (events & POLLOUT) != 0;
        if (hang_up && !items[i].want_read) items[i].broken = true;
        if (items[i].can_read || items[i].can_write || items[i].broken) ready++;
    }
    if (got > 0 && waker && list[n].revents) silence(waker);
    if (list != on_stack) lp_free(list);
    return ready;
}
