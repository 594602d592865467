/* vocab_special.c - special tokens sorted by text, and the search for one at a place in a text.
 *
 * The sorted list is walked like a tree: the tokens that agree with the text up to byte d are one
 * range of it, and byte d + 1 narrows the range by two binary searches. A token of exactly d bytes
 * stands first in its range, so the longest match is the last one met. At most LP_SPECIAL_LONGEST
 * bytes are looked at, whatever the file holds.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/memory.h"
#include "model/vocab_internal.h"

static lp_str text_of(const lp_vocab *vocab, size_t index) {
    return lp_text_table_text(&vocab->tokens, (uint32_t)vocab->specials[index]);
}

static bool before(const lp_vocab *vocab, int32_t a, int32_t b) {
    int order = lp_str_compare(lp_text_table_text(&vocab->tokens, (uint32_t)a),
                               lp_text_table_text(&vocab->tokens, (uint32_t)b));
    return order != 0 ? order < 0 : a < b;
}

static void sift_down(lp_vocab *vocab, size_t at, size_t n) {
    int32_t *ids = vocab->specials;
    int32_t id = ids[at];
    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && before(vocab, ids[child], ids[child + 1])) child++;
        if (!before(vocab, id, ids[child])) break;
        ids[at] = ids[child];
        at = child;
    }
    ids[at] = id;
}

/* Heapsort: qsort has no argument for the table, and on some systems an order that makes it slow.
 */
static void sort(lp_vocab *vocab) {
    size_t n = vocab->n_specials;
    for (size_t i = n / 2; i-- > 0;) sift_down(vocab, i, n);
    for (size_t i = n; i-- > 1;) {
        int32_t largest = vocab->specials[0];
        vocab->specials[0] = vocab->specials[i];
        vocab->specials[i] = largest;
        sift_down(vocab, 0, i);
    }
}

static bool is_listed(const lp_vocab *vocab, uint32_t id) {
    return !lp_vocab_is_ordinary(vocab, (int32_t)id) &&
           lp_text_table_text(&vocab->tokens, id).len > 0;
}

lp_code lp_vocab_sort_specials(lp_vocab *vocab, lp_error *err) {
    size_t n = 0;
    for (uint32_t i = 0; i < vocab->tokens.count; i++) n += is_listed(vocab, i);
    vocab->specials = lp_alloc(n, sizeof *vocab->specials);
    if (vocab->specials == NULL) return lp_fail(err, LP_ERR_MEMORY, "no memory for special tokens");
    for (uint32_t i = 0; i < vocab->tokens.count; i++) {
        if (is_listed(vocab, i)) vocab->specials[vocab->n_specials++] = (int32_t)i;
    }
    sort(vocab);
    for (size_t i = 0; i < n; i++) {
        uint8_t first = (uint8_t)text_of(vocab, i).data[0];
        lp_token_attr attr = lp_vocab_attr(vocab, vocab->specials[i]);
        bool control = attr == LP_TOKEN_CONTROL || attr == LP_TOKEN_UNKNOWN;
        vocab->special_begin[first + 1] = (uint32_t)i + 1;
        vocab->control_begins[first] = vocab->control_begins[first] || control;
    }
    for (size_t b = 1; b < 257; b++) {
        uint32_t previous = vocab->special_begin[b - 1];
        if (vocab->special_begin[b] < previous) vocab->special_begin[b] = previous;
    }
    return LP_OK;
}

/* First index of begin..end whose byte `depth` is at least `byte`. All of them are longer. */
static size_t lower_bound(const lp_vocab *vocab, size_t begin, size_t end, size_t depth,
                          unsigned byte) {
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        if ((uint8_t)text_of(vocab, middle).data[depth] < byte) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

typedef struct range {
    size_t begin, end; /* of specials */
} range;

static range first_range(const lp_vocab *vocab, char byte) {
    return (range){vocab->special_begin[(uint8_t)byte], vocab->special_begin[(uint8_t)byte + 1]};
}

static range narrow(const lp_vocab *vocab, range r, size_t depth, char byte) {
    r.begin = lower_bound(vocab, r.begin, r.end, depth, (uint8_t)byte);
    r.end = lower_bound(vocab, r.begin, r.end, depth, (unsigned)(uint8_t)byte + 1);
    return r;
}

int32_t lp_vocab_find_special(const lp_vocab *vocab, lp_str text) {
    if (text.len == 0) return -1;
    range r = first_range(vocab, text.data[0]);
    while (r.begin < r.end) {
        size_t middle = r.begin + (r.end - r.begin) / 2;
        if (lp_str_compare(text_of(vocab, middle), text) < 0) {
            r.begin = middle + 1;
        } else {
            r.end = middle;
        }
    }
    bool found = r.begin < vocab->n_specials && lp_str_equal(text_of(vocab, r.begin), text);
    return found ? vocab->specials[r.begin] : -1;
}

int32_t lp_vocab_match_special(const lp_vocab *vocab, lp_str text, lp_special_query query) {
    int32_t best = -1;
    size_t most = text.len - query.at;
    if (most > query.longest) most = query.longest;
    if (most > LP_SPECIAL_LONGEST) most = LP_SPECIAL_LONGEST;
    if (most == 0) return -1;
    const char *here = text.data + query.at;
    range r = first_range(vocab, here[0]);
    for (size_t depth = 1; r.begin < r.end; depth++) {
        bool found = false;
        for (; r.begin < r.end && text_of(vocab, r.begin).len == depth; r.begin++) {
            lp_token_attr attr = lp_vocab_attr(vocab, vocab->specials[r.begin]);
            bool allowed = attr == LP_TOKEN_USER_DEFINED
                               ? query.user_defined
                               : attr != LP_TOKEN_BYTE && query.at + depth <= query.trusted_end;
            if (allowed && !found)
                best = vocab->specials[r.begin]; /* of duplicates the lowest id */
            found = found || allowed;
        }
        if (depth == most) break;
        r = narrow(vocab, r, depth, here[depth]);
    }
    return best;
}
