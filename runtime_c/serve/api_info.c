/* api_info.c - what the program says about itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/api.h"

#include "base/json.h"
#include "kernels.h"

static void add_text(lp_buf *body, const char *name, lp_str value) {
    lp_buf_add_format(body, "\"%s\":", name);
    lp_json_add_string(body, value);
}

static void add_number(lp_buf *body, const char *name, double value) {
    lp_buf_add_format(body, ",\"%s\":", name);
    lp_json_add_number(body, value);
}

void lp_api_empty(const lp_api *api, lp_buf *body) {
    (void)api;
    lp_buf_add_text(body, "{}");
}

void lp_api_health(const lp_api *api, lp_buf *body) {
    lp_buf_add_text(body, "{\"status\":\"ok\",\"app\":\"llamapack\",");
    char id[LP_INSTANCE_ID];
    lp_server_instance_id(api->params->instance, id);
    add_text(body, "instance", lp_str_from(id));
    lp_buf_add_char(body, ',');
    add_text(body, "sandbox", lp_str_from(api->params->sandbox));
    lp_buf_add_char(body, '}');
}

void lp_api_models(const lp_api *api, lp_buf *body) {
    lp_model_info info = lp_model_describe(lp_engine_model(api->params->engine));
    lp_buf_add_text(body, "{\"object\":\"list\",\"data\":[{");
    add_text(body, "id", lp_str_from(api->params->name));
    lp_buf_add_format(
        body,
        ",\"object\":\"model\",\"created\":0,\"owned_by\":\"llamapack\",\"meta\":{\"n_vocab\":%u,"
        "\"n_ctx\":%zu,\"n_ctx_train\":%u,\"n_embd\":%u,\"n_params\":%llu,\"size\":%llu}}]}",
        info.n_vocab, lp_engine_n_ctx(api->params->engine), info.n_ctx_train, info.n_embd,
        (unsigned long long)info.n_params, (unsigned long long)info.weight_bytes);
}

static void add_model(const lp_api *api, lp_buf *body) {
    lp_model_info info = lp_model_describe(lp_engine_model(api->params->engine));
    lp_buf_add_text(body, ",\"model\":{");
    add_text(body, "id", lp_str_from(api->params->name));
    lp_buf_add_char(body, ',');
    add_text(body, "architecture", lp_str_from(info.arch));
    lp_buf_add_format(
        body,
        ",\"parameters\":%llu,\"bytes\":%llu,\"layers\":%u,\"embedding\":%u,\"vocabulary\":%u,"
        "\"context_trained\":%u}",
        (unsigned long long)info.n_params, (unsigned long long)info.weight_bytes, info.n_layer,
        info.n_embd, info.n_vocab, info.n_ctx_train);
}

static void add_defaults(const lp_sampling *s, lp_buf *body) {
    lp_buf_add_format(body, ",\"defaults\":{\"top_k\":%d,\"repeat_last_n\":%d", (int)s->top_k,
                      (int)s->repeat_last_n);
    /* Floats as their nearest short decimals: 0.8, not 0.800000011920929. */
    lp_buf_add_format(body, ",\"temperature\":%g,\"top_p\":%g,\"min_p\":%g", (double)s->temp,
                      (double)s->top_p, (double)s->min_p);
    lp_buf_add_format(
        body, ",\"repeat_penalty\":%g,\"presence_penalty\":%g,\"frequency_penalty\":%g}",
        (double)s->repeat_penalty, (double)s->presence_penalty, (double)s->frequency_penalty);
}

void lp_api_info(const lp_api *api, lp_buf *body) {
    const lp_server_params *p = api->params;
    char id[LP_INSTANCE_ID];
    lp_buf_add_text(body, "{\"app\":\"llamapack\",");
    add_text(body, "version", lp_str_from(p->version));
    lp_buf_add_char(body, ',');
    add_text(body, "name", lp_str_from(p->name));
    lp_buf_add_char(body, ',');
    lp_server_instance_id(p->instance, id);
    add_text(body, "instance", lp_str_from(id));
    add_model(api, body);
    add_number(body, "context", (double)lp_engine_n_ctx(p->engine));
    add_number(body, "parallel", (double)lp_engine_n_seq(p->engine));
    lp_buf_add_char(body, ',');
    add_text(body, "system", p->system);
    lp_buf_add_char(body, ',');
    add_text(body, "license", p->license);
    add_defaults(&p->sampling, body);
    lp_str source = lp_template_source(p->tmpl);
    bool thinking = lp_str_find(source, lp_str_from("enable_thinking"), 0) < source.len;
    lp_buf_add_format(body, ",\"thinking\":%s,", thinking ? "true" : "false");
    add_text(body, "cpu", lp_str_from(lp_engine_kernels(p->engine)->name));
    add_number(body, "threads", (double)lp_engine_n_threads(p->engine));
    add_number(body, "draft", (double)p->draft.most);
    lp_buf_add_char(body, ',');
    add_text(body, "sandbox", lp_str_from(p->sandbox));
    lp_buf_add_text(body, ",\"speed_unit\":\"tokens/s\"");
    lp_buf_add_format(body, ",\"may_quit\":%s", api->may_quit ? "true" : "false");
    add_number(body, "idle_exit_seconds", p->idle_exit_seconds);
    add_number(body, "presence_seconds", LP_PRESENCE_SECONDS);
    lp_buf_add_char(body, '}');
}
