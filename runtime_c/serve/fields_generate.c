/* fields_generate.c - the field table of the completion endpoints: a row per field.
 *
 * Names and meanings are those of the OpenAI API and of llama.cpp's server, so that their clients
 * work unchanged. What is not done here and would change the answer is refused by its name.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/fields_generate.h"

#include "platform/thread.h"

#include <string.h>

#define AT(member) offsetof(lp_generate_fields, member)
#define MAX_TOKENS 2147483647.0

static const lp_field table[] = {
    {"messages", LP_FIELD_LIST, AT(messages), 1, 4096},
    {"prompt", LP_FIELD_ANY, AT(prompt), 0, 0},
    {"stream", LP_FIELD_BOOL, AT(stream), 0, 0},
    {"stream_options", LP_FIELD_OBJECT, AT(stream_options), 0, 0},
    {"max_tokens", LP_FIELD_INT, AT(max_tokens), -1, MAX_TOKENS},
    {"max_completion_tokens", LP_FIELD_INT, AT(max_completion_tokens), -1, MAX_TOKENS},
    {"n_predict", LP_FIELD_INT, AT(n_predict), -1, MAX_TOKENS},
    {"temperature", LP_FIELD_NUMBER, AT(temperature), 0, 100},
    {"top_k", LP_FIELD_INT, AT(top_k), -1, MAX_TOKENS},
    {"top_p", LP_FIELD_NUMBER, AT(top_p), 0, 1},
    {"min_p", LP_FIELD_NUMBER, AT(min_p), 0, 1},
    {"seed", LP_FIELD_INT, AT(seed), -1, 9007199254740992.0},
    {"stop", LP_FIELD_ANY, AT(stop), 0, 0},
    {"presence_penalty", LP_FIELD_NUMBER, AT(presence_penalty), -2, 2},
    {"frequency_penalty", LP_FIELD_NUMBER, AT(frequency_penalty), -2, 2},
    {"repeat_penalty", LP_FIELD_NUMBER, AT(repeat_penalty), 0.1, 10},
    {"repeat_last_n", LP_FIELD_INT, AT(repeat_last_n), -1, 1048576},
    {"ignore_eos", LP_FIELD_BOOL, AT(ignore_eos), 0, 0},
    {"chat_template_kwargs", LP_FIELD_OBJECT, AT(chat_template_kwargs), 0, 0},
    {"reasoning_format", LP_FIELD_TEXT, AT(reasoning_format), 0, 32},
    {"return_progress", LP_FIELD_BOOL, AT(return_progress), 0, 0},
    /* Refused, unless the value is the one that asks for nothing. */
    {"tools", LP_FIELD_REFUSED, 0, 0, 0},
    {"functions", LP_FIELD_REFUSED, 0, 0, 0},
    {"n", LP_FIELD_REFUSED, 0, 1, 1},
    {"best_of", LP_FIELD_REFUSED, 0, 0, 1},
    {"logprobs", LP_FIELD_REFUSED, 0, 0, 0},
    {"top_logprobs", LP_FIELD_REFUSED, 0, 0, 0},
    {"n_probs", LP_FIELD_REFUSED, 0, 0, 0},
    {"echo", LP_FIELD_REFUSED, 0, 0, 0},
    {"suffix", LP_FIELD_REFUSED, 0, 0, 0},
    {"logit_bias", LP_FIELD_REFUSED, 0, 0, 0},
    {"grammar", LP_FIELD_REFUSED, 0, 0, 0},
    {"json_schema", LP_FIELD_REFUSED, 0, 0, 0},
    {"audio", LP_FIELD_REFUSED, 0, 0, 0},
    {"prediction", LP_FIELD_REFUSED, 0, 0, 0},
    {"web_search_options", LP_FIELD_REFUSED, 0, 0, 0},
    {"lora", LP_FIELD_REFUSED, 0, 0, 0},
    {"typical_p", LP_FIELD_REFUSED, 0, 1, 1},
    {"top_n_sigma", LP_FIELD_REFUSED, 0, -1, 0},
    {"mirostat", LP_FIELD_REFUSED, 0, 0, 0},
    {"dry_multiplier", LP_FIELD_REFUSED, 0, 0, 0},
    {"xtc_probability", LP_FIELD_REFUSED, 0, 0, 0},
    {"dynatemp_range", LP_FIELD_REFUSED, 0, 0, 0},
    {"continue_final_message", LP_FIELD_REFUSED, 0, 0, 0},
    {"return_tokens", LP_FIELD_REFUSED, 0, 0, 0},
};

typedef struct stream_options {
    bool include_usage;
} stream_options;
static const lp_field stream_table[] = {
    {"include_usage", LP_FIELD_BOOL, offsetof(stream_options, include_usage), 0, 0}};

/* Fields with a choice of texts or shapes, of which one kind is done here. */
static lp_code check_choices(const lp_json_node *object, lp_error *err) {
    const lp_json_node *format = lp_json_get(object, "response_format");
    if (format != NULL && lp_json_type_of(format) != LP_JSON_NULL) {
        const lp_json_node *type =
            lp_json_type_of(format) == LP_JSON_OBJECT ? lp_json_get(format, "type") : NULL;
        if (type == NULL || lp_json_type_of(type) != LP_JSON_STRING)
            return lp_fail(err, LP_ERR_FORMAT,
                           "\"response_format\" must be an object with a \"type\"");
        if (!lp_str_is(lp_json_string(type), "text"))
            return lp_fail(err, LP_ERR_UNSUPPORTED,
                           "\"response_format\" other than text is not supported here");
    }
    const lp_json_node *choice = lp_json_get(object, "tool_choice");
    if (choice != NULL && lp_json_type_of(choice) != LP_JSON_NULL) {
        lp_str text =
            lp_json_type_of(choice) == LP_JSON_STRING ? lp_json_string(choice) : lp_str_from("");
        if (!lp_str_is(text, "none") && !lp_str_is(text, "auto"))
            return lp_fail(err, LP_ERR_UNSUPPORTED,
                           "\"tool_choice\" other than none or auto is not supported here");
    }
    const lp_json_node *modalities = lp_json_get(object, "modalities");
    if (modalities == NULL || lp_json_type_of(modalities) == LP_JSON_NULL) return LP_OK;
    const lp_json_node *only =
        lp_json_type_of(modalities) == LP_JSON_ARRAY ? lp_json_first(modalities) : NULL;
    bool text_only = only != NULL && lp_json_count(modalities) == 1 &&
                     lp_json_type_of(only) == LP_JSON_STRING &&
                     lp_str_is(lp_json_string(only), "text");
    if (!text_only)
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "\"modalities\" other than [\"text\"] is not supported here");
    return LP_OK;
}

lp_code lp_generate_fields_read(lp_generate_fields *f, const lp_server_params *params,
                                const lp_json_node *object, lp_error *err) {
    memset(f, 0, sizeof *f);
    const lp_sampling *s = &params->sampling;
    f->temperature = (double)s->temp;
    f->top_k = s->top_k;
    f->top_p = (double)s->top_p;
    f->min_p = (double)s->min_p;
    f->repeat_penalty = (double)s->repeat_penalty;
    f->presence_penalty = (double)s->presence_penalty;
    f->frequency_penalty = (double)s->frequency_penalty;
    f->repeat_last_n = s->repeat_last_n;
    f->seed = -2; /* not given */
    f->reasoning_format = lp_str_from("auto");
    LP_TRY(lp_fields_read(table, sizeof table / sizeof table[0], object, f, err));
    return check_choices(object, err);
}

static lp_code add_stop(lp_generation *g, const lp_json_node *node, lp_error *err) {
    if (lp_json_type_of(node) != LP_JSON_STRING)
        return lp_fail(err, LP_ERR_FORMAT, "\"stop\" must be a string or an array of strings");
    lp_str text = lp_json_string(node);
    if (text.len == 0 || text.len > LP_STOP_BYTES_MAX)
        return lp_fail(err, LP_ERR_FORMAT, "a text of \"stop\" must have 1 to %u bytes",
                       LP_STOP_BYTES_MAX);
    lp_buf_add_str(&g->stop_text, text);
    g->stop_end[g->n_stops++] = g->stop_text.len;
    return lp_buf_check(&g->stop_text, err);
}

static lp_code read_stops(lp_generation *g, const lp_json_node *stop, lp_error *err) {
    if (stop == NULL) return LP_OK;
    if (lp_json_type_of(stop) != LP_JSON_ARRAY) return add_stop(g, stop, err);
    if (lp_json_count(stop) > LP_STOPS_MAX)
        return lp_fail(err, LP_ERR_FORMAT, "\"stop\" may have %u texts at most", LP_STOPS_MAX);
    for (const lp_json_node *node = lp_json_first(stop); node != NULL; node = lp_json_next(node))
        LP_TRY(add_stop(g, node, err));
    return LP_OK;
}

/* Three names for one thing; the first that is given counts. -1 is "no limit", none the program's.
 */
static size_t read_limit(const lp_generate_fields *f, const lp_server_params *params) {
    int64_t given = f->max_completion_tokens != 0 ? f->max_completion_tokens
                    : f->max_tokens != 0          ? f->max_tokens
                                                  : f->n_predict;
    return given > 0 ? (size_t)given : given < 0 ? 0 : params->max_tokens;
}

static void read_sampling(const lp_generate_fields *f, const lp_server_params *params,
                          lp_sampling *s) {
    *s = params->sampling;
    s->temp = (float)f->temperature;
    s->top_k = (int32_t)f->top_k;
    s->top_p = (float)f->top_p;
    s->min_p = (float)f->min_p;
    s->repeat_penalty = (float)f->repeat_penalty;
    s->presence_penalty = (float)f->presence_penalty;
    s->frequency_penalty = (float)f->frequency_penalty;
    s->repeat_last_n = (int32_t)f->repeat_last_n;
    if (f->seed >= 0)
        s->seed = (uint64_t)f->seed;
    else if (f->seed == -1 || !params->seed_given)
        s->seed = lp_random_seed();
}

/* An id no one can guess, so that two programs' answers are not mixed up. */
static lp_code make_id(lp_generation *g, lp_error *err) {
    uint8_t random[12];
    if (!lp_random_bytes(random, sizeof random))
        return lp_fail(err, LP_ERR_IO, "the system gave no random bytes");
    const char *prefix = g->chat ? "chatcmpl-" : "cmpl-";
    size_t n = strlen(prefix);
    memcpy(g->id, prefix, n);
    for (size_t i = 0; i < sizeof random; i++) {
        g->id[n++] = "0123456789abcdef"[random[i] >> 4];
        g->id[n++] = "0123456789abcdef"[random[i] & 15];
    }
    g->id[n] = '\0';
    return LP_OK;
}

lp_code lp_generate_fields_apply(const lp_generate_fields *f, lp_work *work, lp_error *err) {
    lp_generation *g = &work->gen;
    const lp_server_params *params = work->api->params;
    stream_options options = {false};
    if (f->stream_options != NULL)
        LP_TRY(lp_fields_read(stream_table, 1, f->stream_options, &options, err));
    if (!lp_str_is(f->reasoning_format, "none") && !lp_str_is(f->reasoning_format, "auto") &&
        !lp_str_is(f->reasoning_format, "deepseek"))
        return lp_fail(err, LP_ERR_FORMAT, "\"reasoning_format\" must be auto, deepseek or none");
    g->stream = f->stream;
    g->include_usage = options.include_usage;
    g->progress = f->return_progress;
    g->ignore_end = f->ignore_eos;
    g->created = lp_clock_unix();
    LP_TRY(read_stops(g, f->stop, err));
    g->max_tokens = read_limit(f, params);
    read_sampling(f, params, &g->sampling);
    LP_TRY(lp_sampling_check(&g->sampling, err));
    return make_id(g, err);
}
