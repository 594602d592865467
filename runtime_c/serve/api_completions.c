/* api_completions.c - POST /v1/completions: a raw prompt, as text or as token ids.
 *
 * The prompt is the client's own, special tokens included: who wants the chat's protection of
 * text against being read as markup uses the chat endpoint.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/fields_generate.h"

static lp_code tokenize_prompt(lp_work *work, lp_str text, lp_error *err) {
    if (text.len > LP_TEXT_MAX)
        return lp_fail(err, LP_ERR_LIMIT, "\"prompt\" is longer than %u bytes", LP_TEXT_MAX);
    lp_span all = {0, text.len};
    return lp_tokenize(work->api->params->vocab, text, &all, 1, true, &work->gen.prompt, err);
}

/* A string, an array of ids, or an array of one string (as the openai client may send it). */
static lp_code read_prompt(lp_work *work, const lp_json_node *prompt, lp_error *err) {
    if (prompt == NULL) return lp_fail(err, LP_ERR_FORMAT, "\"prompt\" is missing");
    if (lp_json_type_of(prompt) == LP_JSON_STRING)
        return tokenize_prompt(work, lp_json_string(prompt), err);
    if (lp_json_type_of(prompt) != LP_JSON_ARRAY)
        return lp_fail(err, LP_ERR_FORMAT, "\"prompt\" must be a string or an array of token ids");
    const lp_json_node *first = lp_json_first(prompt);
    if (first == NULL || lp_json_type_of(first) == LP_JSON_NUMBER)
        return lp_api_read_ids(prompt, work->api->params->vocab, &work->gen.prompt, err);
    if (lp_json_type_of(first) == LP_JSON_STRING && lp_json_count(prompt) == 1)
        return tokenize_prompt(work, lp_json_string(first), err);
    return lp_fail(err, LP_ERR_UNSUPPORTED,
                   "more than one prompt in a request is not supported here");
}

static lp_code completion(lp_work *work, const lp_json *json, lp_error *err) {
    lp_generate_fields f;
    LP_TRY(lp_generate_fields_read(&f, work->api->params, lp_json_root(json), err));
    LP_TRY(lp_generate_fields_apply(&f, work, err));
    LP_TRY(read_prompt(work, f.prompt, err));
    if (work->gen.prompt.len == 0) return lp_fail(err, LP_ERR_FORMAT, "\"prompt\" is empty");
    work->gen.wanted = true;
    return LP_OK;
}

lp_code lp_api_completion(lp_work *work, lp_error *err) {
    return lp_api_with_json(work, completion, err);
}
