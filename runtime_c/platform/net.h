/* net.h - loopback sockets, readiness, wake-up from another thread. Bodies: net_posix.c,
 * net_windows.c. All sockets are non-blocking. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_NET_H
#define LP_PLATFORM_NET_H

#include "base/status.h"

typedef intptr_t lp_socket; /* LP_SOCKET_NONE when invalid */
#define LP_SOCKET_NONE ((lp_socket) - 1)

lp_code lp_net_start(lp_error *err) LP_MUST_USE; /* once; also ignores SIGPIPE */

/* Listens on host (an IPv4 or IPv6 literal, or "localhost") and port (0 = any free one). *bound
 * gets the port in use. A busy port gives LP_ERR_IO with a text that says so; *busy (may be NULL)
 * tells it apart. */
lp_code lp_net_listen(lp_socket *out, const char *host, uint16_t port, uint16_t *bound, bool *busy,
                      lp_error *err) LP_MUST_USE;
lp_socket
lp_net_accept(lp_socket listener); /* LP_SOCKET_NONE = none waiting, or out of descriptors */
/* A blocking connect to a loopback port with a time limit (is another copy running?). */
lp_socket lp_net_connect_loopback(uint16_t port, double seconds);
/* The ports from first to last on which a process of this very user listens (IPv4, loopback or all
 * addresses), in rising order, `most` at most; returns how many. None where the system does not
 * tell whose a socket is. */
size_t lp_net_own_listeners(uint16_t first, uint16_t last, uint16_t *ports, size_t most);
void lp_net_close(lp_socket s);
/* Tells the peer that no more will be sent; what it still sends can be read (RFC 9112, 9.6). */
void lp_net_end_sending(lp_socket s);

/* > 0 bytes moved; 0 = would block; -1 = closed by the peer or failed. */
int64_t lp_net_read(lp_socket s, void *data, size_t size);
int64_t lp_net_write(lp_socket s, const void *data, size_t size);

typedef struct lp_poll_item {
    lp_socket socket;
    bool want_read, want_write;
    bool can_read, can_write, broken; /* results */
} lp_poll_item;
/* Waits until something is ready, the waker rings or the time runs out (< 0: no limit). Returns
 * the number of ready items, 0 on time-out or wake-up. */
typedef struct lp_waker lp_waker;
lp_waker *lp_waker_new(void);
void lp_waker_free(lp_waker *waker);
void lp_waker_ring(lp_waker *waker); /* any thread or signal handler */
int lp_net_poll(lp_poll_item *items, size_t n, lp_waker *waker, double seconds);

#endif
