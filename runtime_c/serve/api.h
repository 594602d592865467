/* api.h - the endpoints: a table of routes, what handlers may know, how a request is prepared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_API_H
#define LP_SERVE_API_H

#include "base/json.h"
#include "serve/assets.h"
#include "serve/reply.h"
#include "serve/server.h"

#define LP_PRESENCE_SECONDS 30 /* how often an open page says that it is there */

typedef struct lp_work lp_work;

typedef struct lp_api {
    const lp_server_params *params;
    lp_assets *assets;
    bool may_quit; /* POST /api/quit ends the program */
} lp_api;

/* Runs in the preparing thread. Either fills work->scratch with a whole reply, or sets
 * work->gen.wanted; an error becomes an error reply. */
typedef lp_code (*lp_prepare)(lp_work *work, lp_error *err);

typedef enum lp_action { LP_ACTION_NONE, LP_ACTION_PRESENCE, LP_ACTION_QUIT } lp_action;

typedef struct lp_route {
    const char *path;
    lp_http_method method; /* LP_HTTP_GET stands for HEAD, too */
    bool open_to_all;      /* other sites may link to it, and it needs no key */
    lp_action action;
    void (*answer)(const lp_api *api, lp_buf *body); /* a JSON body at once, in the poll loop */
    lp_prepare prepare;                              /* or: work */
} lp_route;

/* The route of a path, NULL if there is none. */
const lp_route *lp_api_route(lp_str path);

/* The handlers, by file. */
void lp_api_health(const lp_api *api, lp_buf *body); /* api_info.c */
void lp_api_models(const lp_api *api, lp_buf *body);
void lp_api_info(const lp_api *api, lp_buf *body);
void lp_api_empty(const lp_api *api, lp_buf *body);
lp_code lp_api_tokenize(lp_work *work, lp_error *err); /* api_tokens.c */
lp_code lp_api_detokenize(lp_work *work, lp_error *err);
lp_code lp_api_chat(lp_work *work, lp_error *err);       /* api_chat.c */
lp_code lp_api_completion(lp_work *work, lp_error *err); /* api_completions.c */

/* For handlers: parses the body, runs the function on the document, frees it (api.c). */
lp_code lp_api_with_json(lp_work *work,
                         lp_code (*handler)(lp_work *work, const lp_json *json, lp_error *err),
                         lp_error *err);
/* An array of token ids (api_tokens.c). */
lp_code lp_api_read_ids(const lp_json_node *list, const lp_vocab *vocab, lp_ids *ids,
                        lp_error *err);

#endif
