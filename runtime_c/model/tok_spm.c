/* tok_spm.c - SentencePiece's BPE: characters joined by the score of what they make.
 *
 * Spaces become U+2581. The adjacent pair whose concatenation is the token with the highest score
 * joins first, the leftmost of equals. A remaining character that is no token is given as byte
 * tokens <0xXX>, or as the unknown token where the vocabulary has none.
 *
 * The text is worked on word by word. A cut before U+2581 changes nothing if no token holds the
 * byte before it followed by U+2581, since then no join can ever reach across: the table
 * joins_space says so, and it keeps the heap small.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/vocab_internal.h"

/* Scores as ranks: the highest score is the smallest number. Equal scores have equal ranks. */
static uint32_t rank_of_score(float score) {
    score += 0.0f; /* -0 and +0 are one score */
    uint32_t bits = 0;
    memcpy(&bits, &score, sizeof bits);
    uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

static uint32_t merge_rank(void *user, const char *text, size_t left, size_t right) {
    const lp_tok_work *work = user;
    const lp_vocab *vocab = work->vocab;
    int64_t id = lp_text_table_find(&vocab->tokens, (lp_str){text, left + right});
    if (id < 0) return LP_MERGE_NONE;
    return rank_of_score(lp_gguf_array_f32(&vocab->scores, (size_t)id));
}

static void add_bytes(lp_tok_work *work, lp_str symbol) {
    const lp_vocab *vocab = work->vocab;
    bool complete = true;
    for (size_t i = 0; i < symbol.len; i++) {
        complete = complete && vocab->bytes[(uint8_t)symbol.data[i]] >= 0;
    }
    if (!complete) {
        if (vocab->unknown >= 0) lp_ids_add(work->ids, vocab->unknown);
        return;
    }
    for (size_t i = 0; i < symbol.len; i++) {
        lp_ids_add(work->ids, vocab->bytes[(uint8_t)symbol.data[i]]);
    }
}

static lp_code add_word(lp_tok_work *work, lp_error *err) {
    LP_TRY(lp_buf_check(&work->word, err));
    lp_str word = lp_buf_str(&work->word);
    LP_TRY(lp_merge_word(&work->merger, word, err));
    for (size_t at = 0; at < word.len; at += work->merger.lens[at]) {
        lp_str symbol = {word.data + at, work->merger.lens[at]};
        int64_t id = lp_text_table_find(&work->vocab->tokens, symbol);
        if (id >= 0) {
            lp_ids_add(work->ids, (int32_t)id);
        } else {
            add_bytes(work, symbol);
        }
    }
    lp_buf_clear(&work->word);
    return LP_OK;
}

/* True if a word may end here, before a space. */
static bool cuts(const lp_tok_work *work) {
    lp_str word = lp_buf_str(&work->word);
    return word.len > 0 && !work->vocab->joins_space[(uint8_t)word.data[word.len - 1]];
}

lp_code lp_spm_tokenize(lp_tok_work *work, lp_str text, bool prefix, lp_error *err) {
    work->merger.rank_of = merge_rank;
    work->merger.user = work;
    lp_buf_clear(&work->word);
    if (prefix && text.len > 0) lp_buf_add(&work->word, LP_SPM_SPACE, LP_SPM_SPACE_BYTES);
    for (size_t at = 0; at < text.len && !work->ids->failed;) {
        size_t end = at;
        while (end < text.len && text.data[end] != ' ') end++;
        lp_buf_add(&work->word, text.data + at, end - at);
        if (end < text.len) {
            if (cuts(work)) LP_TRY(add_word(work, err));
            lp_buf_add(&work->word, LP_SPM_SPACE, LP_SPM_SPACE_BYTES);
            end++;
        }
        at = end;
    }
    return work->word.len > 0 || work->word.failed ? add_word(work, err) : LP_OK;
}
