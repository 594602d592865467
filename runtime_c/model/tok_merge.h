/* tok_merge.h - joins neighbouring symbols of a word, best pair first: the core of BPE and SPM.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_TOK_MERGE_H
#define LP_MODEL_TOK_MERGE_H

#include "base/text.h"

#ifndef LP_CDEF
enum { LP_MERGE_MAX = 0x7FFFFFFF }; /* bytes of a word */
#define LP_MERGE_NONE UINT32_MAX    /* rank of a pair that does not join */

/* Rank of joining text[0..left) with text[left..left + right): the smallest joins first. */
typedef uint32_t lp_merge_rank(void *user, const char *text, size_t left, size_t right);

/* Working memory, kept from word to word. */
typedef struct lp_merger {
    lp_merge_rank *rank_of;
    void *user;      /* borrowed, for rank_of */
    uint32_t *lens;  /* (size), owned: a symbol's bytes, at its first and at its last byte */
    uint32_t *ranks; /* (size), owned: of the pair whose left symbol begins here */
    size_t size;     /* bytes of the longest word so far */
    uint64_t *heap;  /* (heap_size), owned: rank << 32 | begin of the left symbol */
    size_t heap_len, heap_size;
} lp_merger;

void lp_merger_free(lp_merger *merger);

/* Joins until no pair is left. Symbols are the characters of word at first. Then word falls into
 * symbols of lens[0], lens[lens[0]], ... bytes. LP_ERR_MEMORY, LP_ERR_LIMIT (a word over
 * LP_MERGE_MAX bytes). */
lp_code lp_merge_word(lp_merger *merger, lp_str word, lp_error *err) LP_MUST_USE;
#endif

#endif
