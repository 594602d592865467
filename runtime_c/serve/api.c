/* api.c - the route table.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/work.h"

static const lp_route routes[] = {
    {"/health", LP_HTTP_GET, true, LP_ACTION_NONE, lp_api_health, NULL},
    {"/v1/models", LP_HTTP_GET, false, LP_ACTION_NONE, lp_api_models, NULL},
    {"/api/info", LP_HTTP_GET, false, LP_ACTION_NONE, lp_api_info, NULL},
    {"/v1/chat/completions", LP_HTTP_POST, false, LP_ACTION_NONE, NULL, lp_api_chat},
    {"/v1/completions", LP_HTTP_POST, false, LP_ACTION_NONE, NULL, lp_api_completion},
    {"/tokenize", LP_HTTP_POST, false, LP_ACTION_NONE, NULL, lp_api_tokenize},
    {"/detokenize", LP_HTTP_POST, false, LP_ACTION_NONE, NULL, lp_api_detokenize},
    {"/api/presence", LP_HTTP_POST, false, LP_ACTION_PRESENCE, lp_api_empty, NULL},
    {"/api/quit", LP_HTTP_POST, false, LP_ACTION_QUIT, lp_api_empty, NULL},
};

const lp_route *lp_api_route(lp_str path) {
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (lp_str_is(path, routes[i].path)) return &routes[i];
    return NULL;
}

lp_code lp_api_with_json(lp_work *work,
                         lp_code (*handler)(lp_work *work, const lp_json *json, lp_error *err),
                         lp_error *err) {
    lp_json *json = NULL;
    lp_code code = lp_json_parse(&json, lp_buf_str(&work->body), err);
    if (code != LP_OK) {
        lp_error_prefix(err, "the body is not JSON");
        return code;
    }
    code = handler(work, json, err);
    lp_json_free(json);
    return code;
}
