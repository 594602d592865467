/* tok_merge.c - merging with a heap: O(n log n) for a word of n characters, whatever they are.
 *
 * Symbols are ranges of the word's bytes. Each leaves its length at its first and at its last
 * byte, so both neighbours are found without links. `ranks[i]` is the rank of the pair that begins
 * at byte i as things stand now, NONE where no symbol begins or the pair does not join. The heap
 * holds rank and position in one number: the smallest is the best pair, the leftmost of equals.
 * An entry whose rank is no longer ranks[position] is out of date and is dropped when it comes up;
 * one that still agrees describes a pair that is there now, whenever it was pushed.
 *
 * Each join pushes at most two entries, so there are at most 3n of them in all.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/tok_merge.h"

#include "base/memory.h"
#include "base/utf8.h"

void lp_merger_free(lp_merger *merger) {
    lp_free(merger->lens);
    lp_free(merger->ranks);
    lp_free(merger->heap);
    *merger = (lp_merger){0};
}

static lp_code no_memory(lp_error *err) {
    return lp_fail(err, LP_ERR_MEMORY, "no memory to tokenize a long word");
}

static lp_code reserve(lp_merger *m, size_t len, lp_error *err) {
    if (len <= m->size) return LP_OK;
    size_t size = len + len / 4 + 64;
    uint32_t *lens = lp_realloc(m->lens, size, sizeof *lens);
    if (lens == NULL) return no_memory(err);
    m->lens = lens;
    uint32_t *ranks = lp_realloc(m->ranks, size, sizeof *ranks);
    if (ranks == NULL) return no_memory(err);
    m->ranks = ranks;
    m->size = size;
    return LP_OK;
}

static lp_code push(lp_merger *m, uint64_t entry, lp_error *err) {
    if (m->heap_len == m->heap_size) {
        size_t size = m->heap_size + m->heap_size / 2 + 64;
        uint64_t *heap = lp_realloc(m->heap, size, sizeof *heap);
        if (heap == NULL) return no_memory(err);
        m->heap = heap;
        m->heap_size = size;
    }
    size_t at = m->heap_len++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (m->heap[parent] <= entry) break;
        m->heap[at] = m->heap[parent];
        at = parent;
    }
    m->heap[at] = entry;
    return LP_OK;
}

static uint64_t pop(lp_merger *m) {
    uint64_t top = m->heap[0];
    uint64_t entry = m->heap[--m->heap_len];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= m->heap_len) break;
        if (child + 1 < m->heap_len && m->heap[child + 1] < m->heap[child]) child++;
        if (entry <= m->heap[child]) break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = entry;
    return top;
}

static void set_symbol(lp_merger *m, size_t begin, size_t len) {
    m->lens[begin] = (uint32_t)len;
    m->lens[begin + len - 1] = (uint32_t)len;
}

/* Ranks the pair whose left symbol begins at `begin` and queues it if it joins. */
static lp_code rank_pair(lp_merger *m, lp_str word, size_t begin, lp_error *err) {
    size_t left = m->lens[begin];
    uint32_t rank = LP_MERGE_NONE;
    if (begin + left < word.len) {
        rank = m->rank_of(m->user, word.data + begin, left, m->lens[begin + left]);
    }
    m->ranks[begin] = rank;
    return rank == LP_MERGE_NONE ? LP_OK : push(m, (uint64_t)rank << 32 | begin, err);
}

static lp_code join(lp_merger *m, lp_str word, size_t begin, lp_error *err) {
    size_t middle = begin + m->lens[begin];
    set_symbol(m, begin, m->lens[begin] + m->lens[middle]);
    m->ranks[middle] = LP_MERGE_NONE;
    LP_TRY(rank_pair(m, word, begin, err));
    return begin > 0 ? rank_pair(m, word, begin - m->lens[begin - 1], err) : LP_OK;
}

static lp_code split_characters(lp_merger *m, lp_str word, lp_error *err) {
    for (size_t at = 0; at < word.len;) {
        uint32_t code = 0;
        bool ok = false;
        size_t len = lp_utf8_decode(word.data + at, word.len - at, &code, &ok);
        set_symbol(m, at, len);
        for (size_t i = 0; i < len; i++) m->ranks[at + i] = LP_MERGE_NONE;
        at += len;
    }
    for (size_t at = 0; at < word.len; at += m->lens[at]) LP_TRY(rank_pair(m, word, at, err));
    return LP_OK;
}

lp_code lp_merge_word(lp_merger *m, lp_str word, lp_error *err) {
    if (word.len > LP_MERGE_MAX) {
        return lp_fail(err, LP_ERR_LIMIT, "a word of %zu bytes is too long to tokenize", word.len);
    }
    m->heap_len = 0;
    LP_TRY(reserve(m, word.len, err));
    LP_TRY(split_characters(m, word, err));
    while (m->heap_len > 0) {
        uint64_t entry = pop(m);
        size_t begin = (size_t)(entry & UINT32_MAX);
        if (m->ranks[begin] == (uint32_t)(entry >> 32)) LP_TRY(join(m, word, begin, err));
    }
    return LP_OK;
}
