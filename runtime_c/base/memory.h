/* memory.h - the one place where memory is asked for and sizes are multiplied.
 *
 * Every allocation of the runtime goes through lp_alloc, so that tests can fail the n-th one
 * (lp_alloc_fail_at) and watch the peak (lp_alloc_peak). Sizes that come from a file or a
 * client pass lp_size_add / lp_size_mul before any use.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_MEMORY_H
#define LP_BASE_MEMORY_H

#include "base/common.h"

/* Both return false on overflow and leave *out untouched. */
bool lp_size_add(size_t a, size_t b, size_t *out) LP_MUST_USE;
bool lp_size_mul(size_t a, size_t b, size_t *out) LP_MUST_USE;

/* count * size bytes, zeroed, 64-byte aligned; NULL when refused or when the product
 * overflows. A product of zero gives a valid pointer. The caller frees with lp_free. */
void *lp_alloc(size_t count, size_t size) LP_MUST_USE;

/* Grows or shrinks a block of lp_alloc, keeping its contents; new bytes are not zeroed. On
 * refusal returns NULL and the old block stays valid. block may be NULL. */
void *lp_realloc(void *block, size_t count, size_t size) LP_MUST_USE;

void lp_free(void *block); /* NULL is fine */

/* Test hooks. fail_at(n): the n-th allocation from now (0 = next) is refused, once; -1 = off.
 * fail_from(n): that one and every later one. live/peak: bytes asked for, not yet freed. */
void lp_alloc_fail_at(int64_t n);
void lp_alloc_fail_from(int64_t n);
uint64_t lp_alloc_count(void);
size_t lp_alloc_live(void);
size_t lp_alloc_peak(void);
void lp_alloc_peak_reset(void);

/* Arena: many small blocks, freed together. Blocks are zeroed and 16-byte aligned. */
typedef struct lp_arena {
    void *chunks; /* owned, newest first */
    size_t left;  /* bytes left in the newest chunk */
    size_t used;  /* bytes handed out in all */
    size_t limit; /* refuse beyond this many bytes; 0 = no limit */
} lp_arena;

void lp_arena_init(lp_arena *arena, size_t limit);
void *lp_arena_alloc(lp_arena *arena, size_t count, size_t size) LP_MUST_USE;
void lp_arena_free(lp_arena *arena);

#endif
