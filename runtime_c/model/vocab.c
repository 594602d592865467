/* vocab.c - opens the token table of a GGUF: checks it once, keeps offsets, flags and hash slots.
 *
 * Keys read (prefix tokenizer.ggml.): model, pre, tokens, token_type, scores, merges,
 * add_bos_token, add_eos_token, add_space_prefix and the ids of bos, eos, unknown; vocab_ends.c
 * reads those of the other ends. An id of 2^32 - 1 means "none". What a file leaves out follows
 * llama.cpp's defaults, except that a default id counts only if such a token exists and is a
 * special one.
 *
 * Memory for n tokens: 4n offsets, n flags, 8n to 16n hash slots; the same per merge but the flags.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/vocab.h"

#include <string.h>

#include "base/memory.h"
#include "model/vocab_internal.h"

#define KEY(name) lp_str_from("tokenizer.ggml." name)

static lp_code read_kind(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    lp_str model = {"", 0};
    LP_TRY(lp_gguf_get_str(gguf, KEY("model"), &model, err));
    if (model.len == 0) {
        return lp_fail(err, LP_ERR_FORMAT, "the file has no tokenizer (tokenizer.ggml.model)");
    }
    if (lp_str_is(model, "llama")) {
        vocab->kind = LP_VOCAB_SPM;
        return LP_OK;
    }
    if (!lp_str_is(model, "gpt2")) {
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "tokenizer.ggml.model \"%.*s\" is not supported (known: gpt2, llama)",
                       model.len < 80 ? (int)model.len : 80, model.data);
    }
    vocab->kind = LP_VOCAB_BPE;
    lp_str pre = {"", 0};
    LP_TRY(lp_gguf_get_str(gguf, KEY("pre"), &pre, err));
    vocab->pre = lp_pretok_find(pre);
    if (vocab->pre != NULL) return LP_OK;
    return lp_fail(err, LP_ERR_UNSUPPORTED, "tokenizer.ggml.pre \"%.*s\" is not supported",
                   pre.len < 80 ? (int)pre.len : 80, pre.data);
}

static lp_code open_texts(lp_text_table *table, const lp_gguf *gguf, const char *key,
                          size_t longest, lp_error *err) {
    const lp_gguf_kv *strings = NULL;
    LP_TRY(lp_gguf_get_array(gguf, lp_str_from(key), LP_GGUF_STRING, &strings, err));
    if (strings == NULL) return lp_fail(err, LP_ERR_FORMAT, "the file has no %s", key);
    return lp_text_table_open(table, strings, longest, key, err);
}

/* An array with an element per token; *out NULL when the file has none. */
static lp_code per_token(const lp_vocab *vocab, const lp_gguf *gguf, const char *key,
                         lp_gguf_type element, const lp_gguf_kv **out, lp_error *err) {
    LP_TRY(lp_gguf_get_array(gguf, lp_str_from(key), element, out, err));
    if (*out != NULL && (*out)->count < vocab->tokens.count) {
        return lp_fail(err, LP_ERR_FORMAT, "%s has %llu elements for %u tokens", key,
                       (unsigned long long)(*out)->count, vocab->tokens.count);
    }
    return LP_OK;
}

static lp_code read_attributes(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    const lp_gguf_kv *types = NULL;
    LP_TRY(per_token(vocab, gguf, "tokenizer.ggml.token_type", LP_GGUF_I32, &types, err));
    vocab->flags = lp_alloc(vocab->tokens.count, 1);
    if (vocab->flags == NULL) return lp_fail(err, LP_ERR_MEMORY, "no memory for the token table");
    for (uint32_t i = 0; i < vocab->tokens.count; i++) {
        int64_t type = types != NULL ? lp_gguf_array_int(types, i) : LP_TOKEN_NORMAL;
        bool known = type >= LP_TOKEN_NORMAL && type <= LP_TOKEN_BYTE;
        vocab->flags[i] = known ? (uint8_t)type : LP_TOKEN_NORMAL;
    }
    return LP_OK;
}

/* An id that the file may name; `otherwise` counts if that token exists and is special. */
static lp_code read_id(const lp_vocab *vocab, const lp_gguf *gguf, const char *key,
                       uint32_t otherwise, int32_t *out, lp_error *err) {
    bool given = lp_gguf_find(gguf, lp_str_from(key)) != NULL;
    uint32_t id = otherwise;
    LP_TRY(lp_gguf_get_u32(gguf, lp_str_from(key), &id, err));
    *out = -1;
    if (id == UINT32_MAX) return LP_OK;
    if (id < vocab->tokens.count) {
        if (given || !lp_vocab_is_ordinary(vocab, (int32_t)id)) *out = (int32_t)id;
        return LP_OK;
    }
    if (!given) return LP_OK;
    return lp_fail(err, LP_ERR_FORMAT, "%s is %u, but there are %u tokens", key, id,
                   vocab->tokens.count);
}

static lp_code read_ids(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    bool spm = vocab->kind == LP_VOCAB_SPM;
    LP_TRY(read_id(vocab, gguf, "tokenizer.ggml.bos_token_id", spm ? 1 : 11, &vocab->bos, err));
    LP_TRY(read_id(vocab, gguf, "tokenizer.ggml.eos_token_id", spm ? 2 : 11, &vocab->eos, err));
    LP_TRY(read_id(vocab, gguf, "tokenizer.ggml.unknown_token_id", spm ? 0 : UINT32_MAX,
                   &vocab->unknown, err));
    vocab->add_bos = spm || vocab->pre->add_bos;
    LP_TRY(lp_gguf_get_bool(gguf, KEY("add_bos_token"), &vocab->add_bos, err));
    return lp_gguf_get_bool(gguf, KEY("add_eos_token"), &vocab->add_eos, err);
}

/* Makes strings findable: those of ordinary tokens, or all where no vocabulary is given. */
static void index_texts(lp_text_table *table, const lp_vocab *ordinary) {
    uint32_t batch[LP_TEXT_TABLE_BATCH];
    size_t n = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (ordinary != NULL && !lp_vocab_is_ordinary(ordinary, (int32_t)i)) continue;
        batch[n++] = i;
        if (n == LP_TEXT_TABLE_BATCH) {
            lp_text_table_add(table, batch, n);
            n = 0;
        }
    }
    lp_text_table_add(table, batch, n);
}

static lp_code open_bpe(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    LP_TRY(open_texts(&vocab->merges, gguf, "tokenizer.ggml.merges", 2 * LP_TOKEN_LONGEST, err));
    /* A merge without a space, or of pieces that no token has, is never asked for. */
    index_texts(&vocab->merges, NULL);
    for (int b = 0; b < 256; b++) {
        char text[4];
        size_t len = lp_bpe_encode_byte((uint8_t)b, text);
        vocab->bytes[b] = (int32_t)lp_text_table_find(&vocab->tokens, (lp_str){text, len});
    }
    return LP_OK;
}

static lp_code open_spm(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    const lp_gguf_kv *scores = NULL;
    LP_TRY(per_token(vocab, gguf, "tokenizer.ggml.scores", LP_GGUF_F32, &scores, err));
    if (scores == NULL) return lp_fail(err, LP_ERR_FORMAT, "the file has no tokenizer.ggml.scores");
    vocab->scores = *scores;
    vocab->space_prefix = true;
    LP_TRY(lp_gguf_get_bool(gguf, KEY("add_space_prefix"), &vocab->space_prefix, err));
    for (int b = 0; b < 256; b++) {
        static const char digits[] = "0123456789ABCDEF";
        char text[6] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'};
        int32_t id = lp_vocab_find(vocab, (lp_str){text, sizeof text});
        bool usable = id >= 0 && lp_vocab_attr(vocab, id) != LP_TOKEN_CONTROL &&
                      lp_vocab_attr(vocab, id) != LP_TOKEN_UNKNOWN;
        vocab->bytes[b] = usable ? id : -1;
    }
    lp_str space = {LP_SPM_SPACE, LP_SPM_SPACE_BYTES};
    for (uint32_t i = 0; i < vocab->tokens.count; i++) {
        if (!lp_vocab_is_ordinary(vocab, (int32_t)i)) continue;
        lp_str text = lp_text_table_text(&vocab->tokens, i);
        for (size_t at = lp_str_find(text, space, 1); at != SIZE_MAX;
             at = lp_str_find(text, space, at + 1)) {
            vocab->joins_space[(uint8_t)text.data[at - 1]] = true;
        }
    }
    return LP_OK;
}

static lp_code fill(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    LP_TRY(read_kind(vocab, gguf, err));
    LP_TRY(open_texts(&vocab->tokens, gguf, "tokenizer.ggml.tokens", LP_TOKEN_LONGEST, err));
    if (vocab->tokens.count == 0) {
        return lp_fail(err, LP_ERR_FORMAT, "tokenizer.ggml.tokens is empty");
    }
    LP_TRY(read_attributes(vocab, gguf, err));
    LP_TRY(read_ids(vocab, gguf, err));
    LP_TRY(lp_vocab_mark_ends(vocab, gguf, err));
    /* Strange characters must not begin or end a text, whatever token the file names for them. */
    if (lp_vocab_is_end(vocab, vocab->unknown) || vocab->unknown == vocab->bos) vocab->unknown = -1;
    LP_TRY(lp_vocab_sort_specials(vocab, err));
    index_texts(&vocab->tokens, vocab);
    return vocab->kind == LP_VOCAB_BPE ? open_bpe(vocab, gguf, err) : open_spm(vocab, gguf, err);
}

lp_code lp_vocab_open(lp_vocab **out, const lp_gguf *gguf, lp_error *err) {
    *out = NULL;
    lp_vocab *vocab = lp_alloc(1, sizeof *vocab);
    if (vocab == NULL) return lp_fail(err, LP_ERR_MEMORY, "no memory for the token table");
    lp_code code = fill(vocab, gguf, err);
    if (code == LP_OK) {
        *out = vocab;
    } else {
        lp_vocab_close(vocab);
    }
    return code;
}

void lp_vocab_close(lp_vocab *vocab) {
    if (vocab == NULL) return;
    lp_text_table_close(&vocab->tokens);
    lp_text_table_close(&vocab->merges);
    lp_free(vocab->flags);
    lp_free(vocab->specials);
    lp_free(vocab);
}

static bool is_id(const lp_vocab *vocab, int32_t id) {
    return id >= 0 && (uint32_t)id < vocab->tokens.count;
}

size_t lp_vocab_size(const lp_vocab *vocab) {
    return vocab->tokens.count;
}

lp_vocab_kind lp_vocab_kind_of(const lp_vocab *vocab) {
    return vocab->kind;
}

lp_str lp_vocab_text(const lp_vocab *vocab, int32_t id) {
    if (!is_id(vocab, id)) return (lp_str){"", 0};
    return lp_text_table_text(&vocab->tokens, (uint32_t)id);
}

lp_token_attr lp_vocab_attr(const lp_vocab *vocab, int32_t id) {
    if (!is_id(vocab, id)) return LP_TOKEN_UNKNOWN;
    return (lp_token_attr)(vocab->flags[id] & LP_FLAG_ATTR);
}

bool lp_vocab_is_ordinary(const lp_vocab *vocab, int32_t id) {
    lp_token_attr attr = lp_vocab_attr(vocab, id);
    return attr == LP_TOKEN_NORMAL || attr == LP_TOKEN_UNUSED;
}

int32_t lp_vocab_find(const lp_vocab *vocab, lp_str text) {
    int32_t special = lp_vocab_find_special(vocab, text);
    int32_t ordinary = (int32_t)lp_text_table_find(&vocab->tokens, text);
    if (special < 0) return ordinary;
    return ordinary >= 0 && ordinary < special ? ordinary : special;
}

int32_t lp_vocab_bos(const lp_vocab *vocab) {
    return vocab->bos;
}

int32_t lp_vocab_eos(const lp_vocab *vocab) {
    return vocab->eos;
}

bool lp_vocab_adds_bos(const lp_vocab *vocab) {
    return vocab->add_bos && vocab->bos >= 0;
}

bool lp_vocab_adds_eos(const lp_vocab *vocab) {
    return vocab->add_eos && vocab->eos >= 0;
}

bool lp_vocab_is_end(const lp_vocab *vocab, int32_t id) {
    return is_id(vocab, id) && (vocab->flags[id] & LP_FLAG_END) != 0;
}
