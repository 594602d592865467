/* net_windows.c - loopback sockets on Windows: non-blocking, not inherited, readiness by WSAPoll.
 *
 * On Windows SO_REUSEADDR lets any program take over a port in use, so the listener asks for
 * SO_EXCLUSIVEADDRUSE instead; a restart works without either. WSAPoll knows only sockets, hence
 * the waker is a pair of connected loopback sockets.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <winsock2.h>
#include <ws2tcpip.h>

#include <windows.h>

#include "platform/net.h"

#include <string.h>

#include "base/memory.h"
#include "platform/thread.h"
#include "platform/wide_windows.h"

static lp_code net_failed(lp_error *err, const char *subject) {
    return lp_wide_fail(err, subject, (unsigned long)WSAGetLastError());
}

lp_code lp_net_start(lp_error *err) {
    WSADATA data;
    int reason = WSAStartup(MAKEWORD(2, 2), &data);
    return reason == 0 ? LP_OK
                       : lp_wide_fail(err, "cannot start networking", (unsigned long)reason);
}

static SOCKET open_socket(int family) {
    return WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, NULL, 0,
                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
}

static void prepare_socket(SOCKET s) {
    u_long non_blocking = 1;
    ioctlsocket(s, (long)FIONBIO, &non_blocking);
    SetHandleInformation((HANDLE)s, HANDLE_FLAG_INHERIT, 0);
    /* Answers go out token by token: none may wait for the acknowledgement of the last. */
    BOOL on = TRUE;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (const char *)&on, sizeof on);
}

typedef union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} address;

/* Literals only: a name would need a resolver, and the answer could change. */
static bool parse_host(address *out, int *size, const char *host, uint16_t port) {
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
    int size;
    *out = LP_SOCKET_NONE;
    if (busy) *busy = false;
    if (!parse_host(&a, &size, host, port)) {
        return lp_fail(err, LP_ERR_ARGUMENT, "host \"%s\" is not an IP address or localhost", host);
    }
    SOCKET s = open_socket(a.any.sa_family);
    if (s == INVALID_SOCKET) return net_failed(err, "cannot open a socket");
    prepare_socket(s);
    BOOL on = TRUE;
    setsockopt(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (const char *)&on, sizeof on);
    if (a.any.sa_family == AF_INET6) {
        setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, (const char *)&on, sizeof on);
    }
    bool done =
        bind(s, &a.any, size) == 0 && listen(s, 128) == 0 && getsockname(s, &a.any, &size) == 0;
    if (!done) {
        int reason = WSAGetLastError();
        closesocket(s);
        /* A port held exclusively answers "access denied". */
        if (reason == WSAEADDRINUSE || reason == WSAEACCES) {
            if (busy) *busy = true;
            return lp_fail(err, LP_ERR_IO, "port %u of %s is in use by another program",
                           (unsigned)port, host);
        }
        return lp_wide_fail(err, "cannot listen", (unsigned long)reason);
    }
    *out = (lp_socket)s;
    *bound = ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
    return LP_OK;
}

lp_socket lp_net_accept(lp_socket listener) {
    for (;;) {
        SOCKET s = accept((SOCKET)listener, NULL, NULL);
        if (s != INVALID_SOCKET) {
            prepare_socket(s);
            return (lp_socket)s;
        }
        /* A client that is gone before we looked is no reason to stop looking. */
        if (WSAGetLastError() != WSAECONNRESET) return LP_SOCKET_NONE;
    }
}

static int milliseconds(double seconds) {
    if (seconds < 0) return -1;
    if (seconds > 1e6) seconds = 1e6;
    return (int)(seconds * 1000.0 + 0.999); /* up, so that a short wait is not a busy one */
}

lp_socket lp_net_connect_loopback(uint16_t port, double seconds) {
    address a;
    int size;
    if (!parse_host(&a, &size, "127.0.0.1", port)) return LP_SOCKET_NONE;
    SOCKET s = open_socket(AF_INET);
    if (s == INVALID_SOCKET) return LP_SOCKET_NONE;
    prepare_socket(s);
    if (connect(s, &a.any, size) == 0) return (lp_socket)s;
    bool done = false;
    if (WSAGetLastError() == WSAEWOULDBLOCK) {
        /* select, since WSAPoll did not report refused connections before Windows 10 2004. */
        fd_set can_write, failed;
        FD_ZERO(&can_write);
        FD_ZERO(&failed);
        FD_SET(s, &can_write);
        FD_SET(s, &failed);
        int ms = milliseconds(seconds);
        struct timeval limit = {ms / 1000, ms % 1000 * 1000};
        done = select(0, NULL, &can_write, &failed, ms < 0 ? NULL : &limit) > 0 &&
               FD_ISSET(s, &can_write) && !FD_ISSET(s, &failed);
    }
    if (done) return (lp_socket)s;
    closesocket(s);
    return LP_SOCKET_NONE;
}

void lp_net_close(lp_socket s) {
    if (s != LP_SOCKET_NONE) closesocket((SOCKET)s);
}

void lp_net_end_sending(lp_socket s) {
    if (s != LP_SOCKET_NONE) shutdown((SOCKET)s, SD_SEND);
}

/* Turns the result of recv or send into ours. */
static int64_t moved(int n) {
    if (n >= 0) return n;
    int reason = WSAGetLastError();
    return reason == WSAEWOULDBLOCK || reason == WSAENOBUFS ? 0 : -1;
}

static int cut(size_t size) {
    return size > 0x100000 ? 0x100000 : (int)size;
}

int64_t lp_net_read(lp_socket s, void *data, size_t size) {
    if (size == 0) return 0;
    int n = recv((SOCKET)s, data, cut(size), 0);
    return n == 0 ? -1 : moved(n);
}

int64_t lp_net_write(lp_socket s, const void *data, size_t size) {
    if (size == 0) return 0;
    return moved(send((SOCKET)s, data, cut(size), 0));
}

/* ---- waiting ------------------------------------------------------------------------------- */

struct lp_waker {
    lp_socket in, out; /* rung at `in`, heard at `out` */
};

static bool same_end(lp_socket connected, lp_socket accepted) {
    address here, there;
    int here_size = sizeof here, there_size = sizeof there;
    return getsockname((SOCKET)connected, &here.any, &here_size) == 0 &&
           getpeername((SOCKET)accepted, &there.any, &there_size) == 0 &&
           here.v4.sin_port == there.v4.sin_port;
}

lp_waker *lp_waker_new(void) {
    lp_waker *waker = lp_alloc(1, sizeof *waker);
    lp_socket listener = LP_SOCKET_NONE;
    uint16_t port;
    if (!waker) return NULL;
    waker->in = waker->out = LP_SOCKET_NONE;
    if (lp_net_listen(&listener, "127.0.0.1", 0, &port, NULL, NULL) == LP_OK) {
        waker->in = lp_net_connect_loopback(port, 5);
        /* Any program of this machine may connect first; only our own end is taken. */
        for (int tries = 0; tries < 100 && waker->in != LP_SOCKET_NONE; tries++) {
            waker->out = lp_net_accept(listener);
            if (waker->out != LP_SOCKET_NONE && same_end(waker->in, waker->out)) break;
            lp_net_close(waker->out);
            waker->out = LP_SOCKET_NONE;
            lp_sleep_seconds(0.01);
        }
        lp_net_close(listener);
    }
    if (waker->out == LP_SOCKET_NONE) {
        lp_net_close(waker->in);
        lp_free(waker);
        return NULL;
    }
    return waker;
}

void lp_waker_free(lp_waker *waker) {
    if (!waker) return;
    lp_net_close(waker->in);
    lp_net_close(waker->out);
    lp_free(waker);
}

void lp_waker_ring(lp_waker *waker) {
    (void)lp_net_write(waker->in, "", 1);
}

static void silence(lp_waker *waker) {
    char part[256];
    while (lp_net_read(waker->out, part, sizeof part) > 0) {
    }
}

enum { ON_STACK = 256 };

int lp_net_poll(lp_poll_item *items, size_t n, lp_waker *waker, double seconds) {
    WSAPOLLFD on_stack[ON_STACK + 1];
    WSAPOLLFD *list = on_stack;
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
        list[i].fd = item->socket == LP_SOCKET_NONE ? INVALID_SOCKET : (SOCKET)item->socket;
        list[i].events =
            (SHORT)((item->want_read ? POLLRDNORM : 0) | (item->want_write ? POLLWRNORM : 0));
        list[i].revents = 0;
    }
    ULONG total = (ULONG)n;
    if (waker) {
        list[n].fd = (SOCKET)waker->out;
        list[n].events = POLLRDNORM;
        list[n].revents = 0;
        total++;
    }
    int got = 0, ms = milliseconds(seconds);
    /* WSAPoll refuses an empty list, where poll would just wait. */
    if (total == 0)
        Sleep(ms < 0 ? INFINITE : (DWORD)ms);
    else
        got = WSAPoll(list, total, ms);
    int ready = 0;
    for (size_t i = 0; i < n; i++) {
        SHORT events = got > 0 ? list[i].revents : 0;
        bool hang_up = (events & POLLHUP) != 0;
        items[i].broken = items[i].socket != LP_SOCKET_NONE && (events & (POLLERR | POLLNVAL)) != 0;
        /* As on POSIX: a hang-up is read as the end, and who does not read hears of it. */
        items[i].can_read = items[i].want_read && ((events & POLLRDNORM) != 0 || hang_up);
        items[i].can_write = items[i].want_write && (events & POLLWRNORM) != 0;
        if (hang_up && !items[i].want_read) items[i].broken = true;
        if (items[i].can_read || items[i].can_write || items[i].broken) ready++;
    }
    if (got > 0 && waker && list[n].revents) silence(waker);
    if (list != on_stack) lp_free(list);
    return ready;
}
