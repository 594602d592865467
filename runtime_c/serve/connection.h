/* connection.h - one client: bytes to requests, requests to answers, answers to bytes.
 *
 * One request at a time: what a client sends ahead waits until the answer before it is out. Every
 * state has a time limit, every buffer a size. Private to the server.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_CONNECTION_H
#define LP_SERVE_CONNECTION_H

#include "platform/net.h"
#include "serve/guard.h"
#include "serve/work.h"

#define LP_HEAD_SECONDS  10.0 /* from a request's first byte to the end of its header */
#define LP_IDLE_SECONDS  60.0 /* between requests */
#define LP_BODY_SECONDS  30.0 /* for a body, and a second more for each 64 KiB that came */
#define LP_SEND_SECONDS  30.0 /* without a byte taken by the client */
#define LP_DRAIN_SECONDS 2.0  /* reading on after a refusal, so that the client sees the answer */
#define LP_STREAM_QUEUE  (1u << 20)   /* bytes a stream's client may be behind */
#define LP_AHEAD_MAX     65536u       /* bytes a client may send ahead */
#define LP_BODIES_MAX    (256u << 20) /* bytes of all requests together */

/* What all connections share; owned by the server, touched by the poll loop alone. */
typedef struct lp_hub {
    const lp_guard *guard;
    const lp_api *api;
    lp_workers *workers;
    size_t charged;     /* bytes of requests held */
    double now;         /* lp_clock_seconds at the start of this round */
    double last_active; /* of the last request */
    bool quit;          /* the page's quit button was pressed */
    bool stopping;
} lp_hub;

typedef struct lp_connection {
    lp_socket socket; /* LP_SOCKET_NONE: closed, to be removed */
    lp_http_request request;
    lp_buf ahead; /* bytes read and not yet parsed */
    lp_buf out;   /* to be sent, from `sent` on */
    size_t sent;
    lp_str body, tail; /* to be sent after out; borrowed from an asset */
    lp_work *work;     /* owned while not NULL */
    size_t work_bytes; /* of its request */
    size_t charged;
    bool stream;      /* the answer being sent has no end known: the queue is limited */
    bool close_after; /* close when all is sent */
    bool drain;       /* then read on for a while first */
    bool draining;
    bool peer_done;  /* the client sends no more */
    double deadline; /* of reading; 0 = none */
    double moved;    /* when bytes last went out */
} lp_connection;

lp_connection *lp_connection_new(lp_socket socket,
                                 lp_hub *hub);           /* NULL: no memory, socket closed */
void lp_connection_close(lp_connection *c, lp_hub *hub); /* gives everything back but c itself */

/* Answers 503 and closes: one connection too many. */
void lp_connection_refuse(lp_connection *c, lp_hub *hub);
bool lp_connection_wants_read(const lp_connection *c);
bool lp_connection_wants_write(const lp_connection *c);
void lp_connection_readable(lp_connection *c, lp_hub *hub);
void lp_connection_writable(lp_connection *c, lp_hub *hub);
void lp_connection_collect(lp_connection *c, lp_hub *hub); /* takes what its work has ready */
/* When this connection must be looked at again: a clock time, 0 = no limit. */
double lp_connection_deadline(const lp_connection *c);
void lp_connection_expire(lp_connection *c, lp_hub *hub); /* its deadline has passed */

#endif
