/* tokenize.c - text to ids: special tokens first, the text between them through BPE or SPM.
 *
 * At each place the longest special token that may stand there is taken, from left to right (as
 * SentencePiece and Hugging Face do; llama.cpp searches the whole text for the longest token first,
 * which differs only where two special tokens overlap). Control and unknown tokens count only
 * wholly inside one trusted span. A user-defined token counts everywhere, but gives way where a
 * trusted control token begins inside it: text of a user must not hide the template's tokens.
 *
 * What lies between is one fragment for the splitter, across span borders, so harmless text gets
 * the ids that the whole prompt would get.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "base/unicode.h"
#include "base/utf8.h"
#include "model/vocab_internal.h"

void lp_ids_add(lp_ids *ids, int32_t id) {
    if (ids->failed) return;
    if (ids->limit != 0 && ids->len >= ids->limit) {
        ids->failed = true;
        return;
    }
    if (ids->len == ids->size) {
        size_t size = ids->size + ids->size / 2 + 64;
        int32_t *data = lp_realloc(ids->data, size, sizeof *data);
        if (data == NULL) {
            ids->failed = true;
            return;
        }
        ids->data = data;
        ids->size = size;
    }
    ids->data[ids->len++] = id;
}

void lp_ids_free(lp_ids *ids) {
    lp_free(ids->data);
    *ids = (lp_ids){.limit = ids->limit};
}

typedef struct walk {
    lp_tok_work work;
    lp_str text;
    const lp_span *spans; /* trusted, borrowed */
    size_t n_spans;
    size_t span;        /* the first one that ends after the place being looked at */
    size_t fragment;    /* begin of the text not given to the tokenizer yet */
    bool after_special; /* true at the beginning, too */
} walk;

static lp_code check_spans(const lp_span *spans, size_t n, lp_error *err) {
    for (size_t i = 0; i < n; i++) {
        bool ordered =
            spans[i].begin <= spans[i].end && (i == 0 || spans[i - 1].end <= spans[i].begin);
        if (!ordered) return lp_fail(err, LP_ERR_ARGUMENT, "trusted span %zu is out of order", i);
    }
    return LP_OK;
}

/* End of the trusted bytes that begin at `at`; `at` itself if it is not trusted. Spans that touch
 * count as one. `*span` only moves forward. */
static size_t trusted_end(const walk *w, size_t at, size_t *span) {
    while (*span < w->n_spans && w->spans[*span].end <= at) (*span)++;
    if (*span == w->n_spans || w->spans[*span].begin > at) return at;
    size_t last = *span;
    size_t end = w->spans[last].end;
    /* A token has at most LP_SPECIAL_LONGEST bytes; further spans cannot matter. */
    while (end < at + LP_SPECIAL_LONGEST && last + 1 < w->n_spans &&
           w->spans[last + 1].begin == end) {
        end = w->spans[++last].end;
    }
    return end < w->text.len ? end : w->text.len;
}

/* First place after `at` and before `end` where a trusted control token begins; `end` if none. */
static size_t next_control(const walk *w, size_t at, size_t end) {
    size_t span = w->span;
    for (size_t i = at + 1; i < end; i++) {
        if (!w->work.vocab->control_begins[(uint8_t)w->text.data[i]]) continue;
        lp_special_query query = {i, SIZE_MAX, trusted_end(w, i, &span), false};
        if (query.trusted_end > i && lp_vocab_match_special(w->work.vocab, w->text, query) >= 0) {
            return i;
        }
    }
    return end;
}

static size_t length_of(const walk *w, int32_t id) {
    return lp_vocab_text(w->work.vocab, id).len;
}

/* The special token to take at `at`, -1 = none. */
static int32_t special_at(walk *w, size_t at) {
    const lp_vocab *vocab = w->work.vocab;
    lp_special_query query = {at, SIZE_MAX, trusted_end(w, at, &w->span), true};
    int32_t id = lp_vocab_match_special(vocab, w->text, query);
    while (id >= 0 && lp_vocab_attr(vocab, id) == LP_TOKEN_USER_DEFINED) {
        size_t control = next_control(w, at, at + length_of(w, id));
        if (control == at + length_of(w, id)) break;
        query.longest = control - at;
        id = lp_vocab_match_special(vocab, w->text, query);
    }
    return id;
}

static size_t skip_space(lp_str text, size_t at) {
    while (at < text.len) {
        uint32_t code = 0;
        bool ok = false;
        size_t len = lp_utf8_decode(text.data + at, text.len - at, &code, &ok);
        if ((lp_unicode_class(code) & LP_UC_SPACE) == 0) break;
        at += len;
    }
    return at;
}

static lp_code give_fragment(walk *w, size_t end, lp_error *err) {
    if (end <= w->fragment) return LP_OK;
    lp_str text = lp_str_slice(w->text, w->fragment, end);
    const lp_vocab *vocab = w->work.vocab;
    bool prefix = vocab->space_prefix && w->after_special;
    w->after_special = false;
    if (vocab->kind == LP_VOCAB_BPE) return lp_bpe_tokenize(&w->work, text, err);
    return lp_spm_tokenize(&w->work, text, prefix, err);
}

static lp_code run(walk *w, bool add_special, lp_error *err) {
    const lp_vocab *vocab = w->work.vocab;
    lp_ids *ids = w->work.ids;
    bool add_bos = add_special && lp_vocab_adds_bos(vocab);
    bool ends_with_eos = false;
    if (add_bos) lp_ids_add(ids, vocab->bos);
    for (size_t at = 0; at < w->text.len && !ids->failed;) {
        uint8_t byte = (uint8_t)w->text.data[at];
        bool may_begin = vocab->special_begin[byte] < vocab->special_begin[byte + 1];
        int32_t id = may_begin ? special_at(w, at) : -1;
        if (id < 0) {
            at++;
            continue;
        }
        LP_TRY(give_fragment(w, at, err));
        if (!(at == 0 && add_bos && id == vocab->bos)) lp_ids_add(ids, id);
        at += length_of(w, id);
        if ((vocab->flags[id] & LP_FLAG_STRIP) != 0) at = skip_space(w->text, at);
        w->fragment = at;
        w->after_special = true;
        ends_with_eos = id == vocab->eos && at == w->text.len;
    }
    LP_TRY(give_fragment(w, w->text.len, err));
    if (add_special && lp_vocab_adds_eos(vocab) && !ends_with_eos) lp_ids_add(ids, vocab->eos);
    return LP_OK;
}

lp_code lp_tokenize(const lp_vocab *vocab, lp_str text, const lp_span *trusted, size_t n_trusted,
                    bool add_special, lp_ids *ids, lp_error *err) {
    LP_TRY(check_spans(trusted, n_trusted, err));
    walk w = {.text = text, .spans = trusted, .n_spans = n_trusted, .after_special = true};
    w.work.vocab = vocab;
    w.work.ids = ids;
    lp_buf_init(&w.work.word, 0);
    lp_buf_init(&w.work.pair, 0);
    lp_code code = run(&w, add_special, err);
    lp_merger_free(&w.work.merger);
    lp_buf_free(&w.work.word);
    lp_buf_free(&w.work.pair);
    if (code != LP_OK || !ids->failed) return code;
    if (ids->limit != 0 && ids->len >= ids->limit) {
        return lp_fail(err, LP_ERR_LIMIT, "the text has more than %zu tokens", ids->limit);
    }
    return lp_fail(err, LP_ERR_MEMORY, "no memory for the tokens of the text");
}
