/* api_tokens.c - POST /tokenize and /detokenize.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"
#include "serve/fields.h"
#include "serve/work.h"

typedef struct tokenize_fields {
    lp_str content;
    bool add_special, parse_special, with_pieces;
} tokenize_fields;

static const lp_field tokenize_table[] = {
    {"content", LP_FIELD_TEXT, offsetof(tokenize_fields, content), 0, LP_TEXT_MAX},
    {"add_special", LP_FIELD_BOOL, offsetof(tokenize_fields, add_special), 0, 0},
    {"parse_special", LP_FIELD_BOOL, offsetof(tokenize_fields, parse_special), 0, 0},
    {"with_pieces", LP_FIELD_BOOL, offsetof(tokenize_fields, with_pieces), 0, 0},
};

typedef struct detokenize_fields {
    const lp_json_node *tokens;
} detokenize_fields;
static const lp_field detokenize_table[] = {
    {"tokens", LP_FIELD_LIST, offsetof(detokenize_fields, tokens), 0, LP_TEXT_MAX}};

/* A piece that is not whole characters goes as an array of its bytes, as llama.cpp's server does.
 */
static void add_piece(lp_buf *out, const lp_vocab *vocab, int32_t id, lp_buf *piece) {
    lp_buf_clear(piece);
    lp_vocab_add_piece(vocab, id, true, piece);
    lp_buf_add_format(out, "{\"id\":%d,\"piece\":", (int)id);
    if (lp_utf8_valid(lp_buf_str(piece))) {
        lp_json_add_string(out, lp_buf_str(piece));
    } else {
        for (size_t i = 0; i < piece->len; i++)
            lp_buf_add_format(out, "%c%u", i == 0 ? '[' : ',',
                              (unsigned)(unsigned char)piece->data[i]);
        lp_buf_add_char(out, ']');
    }
    lp_buf_add_char(out, '}');
}

static lp_code tokens_reply(lp_work *work, const lp_ids *ids, bool with_pieces, lp_error *err) {
    lp_buf body, piece;
    lp_buf_init(&body, LP_OUT_MAX - 4096);
    lp_buf_init(&piece, 0);
    lp_buf_add_text(&body, "{\"tokens\":[");
    for (size_t i = 0; i < ids->len && !body.failed; i++) {
        if (i > 0) lp_buf_add_char(&body, ',');
        if (with_pieces)
            add_piece(&body, work->api->params->vocab, ids->data[i], &piece);
        else
            lp_buf_add_format(&body, "%d", (int)ids->data[i]);
    }
    lp_buf_add_text(&body, "]}");
    lp_code code = lp_buf_check(&body, err);
    if (code == LP_OK) lp_reply_json(&work->scratch, work->framing, 200, NULL, lp_buf_str(&body));
    lp_buf_free(&body);
    lp_buf_free(&piece);
    return code;
}

static lp_code tokenize(lp_work *work, const lp_json *json, lp_error *err) {
    static const char missing[] = ""; /* an address no document has */
    tokenize_fields f = {.content = {missing, 0}, .parse_special = true};
    LP_TRY(lp_fields_read(tokenize_table, 4, lp_json_root(json), &f, err));
    if (f.content.data == missing) return lp_fail(err, LP_ERR_FORMAT, "\"content\" is missing");
    lp_span all = {0, f.content.len};
    lp_ids ids = {0};
    lp_code code = lp_tokenize(work->api->params->vocab, f.content, &all, f.parse_special ? 1 : 0,
                               f.add_special, &ids, err);
    if (code == LP_OK) code = tokens_reply(work, &ids, f.with_pieces, err);
    lp_ids_free(&ids);
    return code;
}

lp_code lp_api_read_ids(const lp_json_node *list, const lp_vocab *vocab, lp_ids *ids,
                        lp_error *err) {
    for (const lp_json_node *node = lp_json_first(list); node != NULL; node = lp_json_next(node)) {
        int64_t id;
        bool whole = lp_json_type_of(node) == LP_JSON_NUMBER && lp_json_integer(node, &id);
        if (!whole || id < 0 || (uint64_t)id >= lp_vocab_size(vocab))
            return lp_fail(err, LP_ERR_FORMAT, "a token must be a whole number from 0 to %zu",
                           lp_vocab_size(vocab) - 1);
        lp_ids_add(ids, (int32_t)id);
    }
    if (ids->failed) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the tokens");
    return LP_OK;
}

static lp_code detokenize(lp_work *work, const lp_json *json, lp_error *err) {
    detokenize_fields f = {NULL};
    LP_TRY(lp_fields_read(detokenize_table, 1, lp_json_root(json), &f, err));
    if (f.tokens == NULL) return lp_fail(err, LP_ERR_FORMAT, "\"tokens\" is missing");
    lp_ids ids = {0};
    lp_buf text, body;
    lp_buf_init(&text, LP_OUT_MAX / 8);
    lp_buf_init(&body, LP_OUT_MAX - 4096);
    lp_code code = lp_api_read_ids(f.tokens, work->api->params->vocab, &ids, err);
    if (code == LP_OK) {
        lp_detokenize(work->api->params->vocab, ids.data, ids.len, true, &text);
        lp_buf_add_text(&body, "{\"content\":");
        lp_json_add_string(&body, lp_buf_str(&text));
        lp_buf_add_char(&body, '}');
        code = lp_buf_check(&text, err);
        if (code == LP_OK) code = lp_buf_check(&body, err);
    }
    if (code == LP_OK) lp_reply_json(&work->scratch, work->framing, 200, NULL, lp_buf_str(&body));
    lp_ids_free(&ids);
    lp_buf_free(&text);
    lp_buf_free(&body);
    return code;
}

lp_code lp_api_tokenize(lp_work *work, lp_error *err) {
    return lp_api_with_json(work, tokenize, err);
}
lp_code lp_api_detokenize(lp_work *work, lp_error *err) {
    return lp_api_with_json(work, detokenize, err);
}
