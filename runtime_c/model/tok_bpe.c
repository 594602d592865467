/* tok_bpe.c - byte-level BPE: words, the byte alphabet, merges by rank.
 *
 * Every byte of a word becomes one printable character, so that a vocabulary is readable text:
 * 21..7E, A1..AC and AE..FF stand for themselves, the other 68 bytes in order are U+0100 onwards
 * (GPT-2, 2019). Then the pair with the lowest rank joins, the leftmost of equals, until none is
 * left. What remains and is no token is given byte by byte. A byte whose character is no token is
 * dropped before the merges, so that its neighbours meet: this is what Hugging Face's tokenizers
 * do, and SmolLM2 lacks 21 bytes (control characters and parts of rare ones).
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/utf8.h"
#include "model/vocab_internal.h"

static bool stands_for_itself(uint32_t code) {
    return (code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xAC) ||
           (code >= 0xAE && code <= 0xFF);
}

/* The 68 others in order: 00..20, 7F..A0, AD. */
size_t lp_bpe_encode_byte(uint8_t byte, char out[4]) {
    uint32_t code = byte;
    if (byte <= 0x20) {
        code = 0x100u + byte;
    } else if (byte >= 0x7F && byte <= 0xA0) {
        code = 0x100u + 33u + (byte - 0x7Fu);
    } else if (byte == 0xAD) {
        code = 0x143;
    }
    return lp_utf8_encode(code, out);
}

bool lp_bpe_decode_char(uint32_t code, uint8_t *byte) {
    if (stands_for_itself(code)) {
        *byte = (uint8_t)code;
    } else if (code >= 0x100 && code <= 0x120) {
        *byte = (uint8_t)(code - 0x100);
    } else if (code >= 0x121 && code <= 0x142) {
        *byte = (uint8_t)(code - 0x121 + 0x7F);
    } else if (code == 0x143) {
        *byte = 0xAD;
    } else {
        return false;
    }
    return true;
}

static uint32_t merge_rank(void *user, const char *text, size_t left, size_t right) {
    lp_tok_work *work = user;
    const lp_text_table *merges = &work->vocab->merges;
    if (left + right + 1 > merges->longest) return LP_MERGE_NONE;
    char *pair = work->pair.data;
    memcpy(pair, text, left);
    pair[left] = ' ';
    memcpy(pair + left + 1, text + left, right);
    int64_t rank = lp_text_table_find(merges, (lp_str){pair, left + 1 + right});
    return rank < 0 ? LP_MERGE_NONE : (uint32_t)rank;
}

static void add_bytes(lp_tok_work *work, lp_str symbol) {
    for (size_t at = 0; at < symbol.len;) {
        uint32_t code = 0;
        bool ok = false;
        uint8_t byte = 0;
        at += lp_utf8_decode(symbol.data + at, symbol.len - at, &code, &ok);
        if (lp_bpe_decode_char(code, &byte)) lp_ids_add(work->ids, work->vocab->bytes[byte]);
    }
}

static lp_code add_word(lp_tok_work *work, lp_str raw, lp_error *err) {
    const lp_vocab *vocab = work->vocab;
    lp_buf_clear(&work->word);
    for (size_t i = 0; i < raw.len; i++) {
        char mapped[4];
        if (vocab->bytes[(uint8_t)raw.data[i]] < 0) continue;
        lp_buf_add(&work->word, mapped, lp_bpe_encode_byte((uint8_t)raw.data[i], mapped));
    }
    LP_TRY(lp_buf_check(&work->word, err));
    lp_str word = lp_buf_str(&work->word);
    if (vocab->pre->ignore_merges) {
        int64_t id = lp_text_table_find(&vocab->tokens, word);
        if (id >= 0) {
            lp_ids_add(work->ids, (int32_t)id);
            return LP_OK;
        }
    }
    LP_TRY(lp_merge_word(&work->merger, word, err));
    for (size_t at = 0; at < word.len; at += work->merger.lens[at]) {
        lp_str symbol = {word.data + at, work->merger.lens[at]};
        int64_t id = lp_text_table_find(&vocab->tokens, symbol);
        if (id >= 0) {
            lp_ids_add(work->ids, (int32_t)id);
        } else {
            add_bytes(work, symbol);
        }
    }
    return LP_OK;
}

static lp_code reserve_pair(lp_tok_work *work, lp_error *err) {
    while (work->pair.len < work->vocab->merges.longest && !work->pair.failed) {
        lp_buf_add_char(&work->pair, 0);
    }
    return lp_buf_check(&work->pair, err);
}

lp_code lp_bpe_tokenize(lp_tok_work *work, lp_str text, lp_error *err) {
    LP_TRY(reserve_pair(work, err));
    work->merger.rank_of = merge_rank;
    work->merger.user = work;
    lp_pretok walk;
    lp_pretok_start(&walk, work->vocab->pre->family, text);
    lp_str word = {"", 0};
    while (!work->ids->failed && lp_pretok_next(&walk, &word)) LP_TRY(add_word(work, word, err));
    return LP_OK;
}
