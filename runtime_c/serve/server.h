/* server.h - the HTTP server of an executable: the page, the API, one model for all clients.
 *
 * Three threads whatever the number of clients: the caller of lp_server_run moves bytes (one poll
 * loop for all sockets), one prepares requests (JSON, template, tokens), one runs the model.
 * README.md in this folder lists the endpoints and fields.
 *
 * Order of use: listen (before the confinement), run (blocks until stopped), close.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_SERVER_H
#define LP_SERVE_SERVER_H

#include "chat/chat.h"
#include "engine/draft.h"
#include "engine/engine.h"
#include "engine/kv_file.h"
#include "engine/sampler.h"
#include "model/container.h"
#include "model/vocab.h"

#define LP_SERVER_PORT      8080 /* the first port tried */
#define LP_SERVER_PORT_LAST 8180

typedef struct lp_server lp_server;

typedef struct lp_listen_params {
    const char *host; /* NULL = this machine only: 127.0.0.1 and, where it can be had, [::1] */
    uint16_t port;    /* 0 = any free one */
    bool port_fixed;  /* a taken port is an error; else the next free one up to 8180, or any */
    lp_str api_key;   /* empty = none; 16 or more characters. Needed off loopback */
    const lp_str *allow_hosts; /* more values of Host to answer to: "name" or "name:port"; copied */
    size_t n_allow_hosts;
} lp_listen_params;

/* Binds, serves nothing yet. LP_ERR_ARGUMENT: a host outside this machine without a key (main exits
 * with 2), a key that is too short. LP_ERR_IO: a taken port, said so. */
lp_code lp_server_listen(lp_server **out, const lp_listen_params *params,
                         lp_error *err) LP_MUST_USE;
uint16_t lp_server_port(const lp_server *server);
const char *lp_server_url(const lp_server *server); /* "http://127.0.0.1:8080/"; owned by server */

typedef struct lp_server_params {
    lp_engine *engine; /* borrowed, all of them, until lp_server_run returns */
    const lp_vocab *vocab;
    const lp_template *tmpl;
    const lp_container *container; /* where the page is (web/...); NULL = a line of text instead */
    const char *name;              /* what page and /v1/models call the model */
    const char *instance;          /* tells programs apart for lp_server_probe */
    const char *version;           /* "0.1.0" */
    const char *sandbox;           /* what lp_confine returned */
    lp_str license;                /* licence name; may be empty */
    lp_str system;                 /* system text for chats that bring none; may be empty */
    const int64_t *date;           /* what prompts that print a date print; NULL = the clock's */
    lp_kv_file *ready;             /* see lp_scheduler_prepare; may be NULL */
    lp_sampling sampling;          /* for fields a request does not give; its seed is not used */
    bool seed_given;               /* sampling.seed is the seed of requests without one */
    lp_draft_params draft;         /* see lp_scheduler_open */
    size_t max_tokens;             /* for requests without a limit; 0 = until the end */
    double idle_exit_seconds; /* end when no page and no request was there for so long; 0 = never */
    void (*on_listening)(void *user,
                         const char *url); /* once, when requests are answered; or NULL */
    void *user;
} lp_server_params;

/* Serves until lp_server_stop, the page's quit button or idle_exit_seconds. LP_OK then. */
lp_code lp_server_run(lp_server *server, const lp_server_params *params, lp_error *err) LP_MUST_USE;
/* Any thread, any signal handler: streams are told, lp_server_run returns within two seconds. */
void lp_server_stop(lp_server *server);
void lp_server_close(lp_server *server);

/* What /health says of an instance text, which may hold a path that is nobody's business: 32
 * hexadecimal digits of its SHA-256. */
#define LP_INSTANCE_ID 33
void lp_server_instance_id(const char *instance, char out[LP_INSTANCE_ID]);

/* The port from first to last at which a server of this user with the same instance text answers; 0
 * = none. Each that listens is asked for up to `patience` seconds; *silent is one that said nothing
 * in that time (a copy that is just starting, perhaps), 0 = none. Servers of other users are not
 * asked: what they say of themselves proves nothing. */
uint16_t lp_server_probe(uint16_t first, uint16_t last, const char *instance, double patience,
                         uint16_t *silent);

#endif
