/* memory.c - allocation with a size header, so that live bytes and the peak are known and a test
 * can refuse the n-th request.
 *
 * A block is preceded by 64 bytes: its size and where the system's block begins. 64 keeps the
 * caller's bytes on a cache line, which the kernels want, without aligned_alloc, which Windows'
 * libc lacks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, ARENA_CHUNK = 64 * 1024, ARENA_ALIGN = 16 };

typedef struct header {
    size_t size;  /* bytes the caller asked for */
    void *system; /* what malloc returned */
} header;

static _Atomic size_t live_bytes;
static _Atomic size_t peak_bytes;
static _Atomic uint64_t n_requests;
static _Atomic int64_t countdown = -1; /* requests left until one is refused; -1 = never */
static _Atomic bool refuse_all_later;

bool lp_size_add(size_t a, size_t b, size_t *out) {
    size_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

bool lp_size_mul(size_t a, size_t b, size_t *out) {
    size_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

/* Counts a request and tells whether a test wants it refused. */
static bool refused_by_test(void) {
    atomic_fetch_add(&n_requests, 1);
    int64_t left = atomic_load(&countdown);
    if (left < 0) return false;
    if (left > 0) {
        atomic_store(&countdown, left - 1);
        return false;
    }
    if (!atomic_load(&refuse_all_later)) atomic_store(&countdown, -1);
    return true;
}

static void count_live(size_t added) {
    size_t now = atomic_fetch_add(&live_bytes, added) + added;
    size_t peak = atomic_load(&peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) continue;
}

static header *header_of(void *block) {
    return (header *)(void *)((char *)block - ALIGN);
}

static void *request(size_t size, bool zero) {
    size_t total = 0;
    if (refused_by_test() || !lp_size_add(size, 2 * ALIGN, &total)) return NULL;
    char *system = zero ? calloc(1, total) : malloc(total);
    if (system == NULL) return NULL;
    uintptr_t first = ((uintptr_t)system + 2 * ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    char *block = system + (first - (uintptr_t)system);
    *header_of(block) = (header){.size = size, .system = system};
    count_live(size);
    return block;
}

void *lp_alloc(size_t count, size_t size) {
    size_t bytes = 0;
    if (!lp_size_mul(count, size, &bytes)) return NULL;
    return request(bytes, true);
}

void *lp_realloc(void *block, size_t count, size_t size) {
    size_t bytes = 0;
    if (!lp_size_mul(count, size, &bytes)) return NULL;
    void *grown = request(bytes, false);
    if (grown == NULL) return NULL;
    if (block != NULL) {
        size_t old = header_of(block)->size;
        memcpy(grown, block, old < bytes ? old : bytes);
        lp_free(block);
    }
    return grown;
}

void lp_free(void *block) {
    if (block == NULL) return;
    header *h = header_of(block);
    atomic_fetch_sub(&live_bytes, h->size);
    free(h->system);
}

void lp_alloc_fail_at(int64_t n) {
    atomic_store(&refuse_all_later, false);
    atomic_store(&countdown, n);
}

void lp_alloc_fail_from(int64_t n) {
    atomic_store(&refuse_all_later, true);
    atomic_store(&countdown, n);
}

uint64_t lp_alloc_count(void) {
    return atomic_load(&n_requests);
}

size_t lp_alloc_live(void) {
    return atomic_load(&live_bytes);
}

size_t lp_alloc_peak(void) {
    return atomic_load(&peak_bytes);
}

void lp_alloc_peak_reset(void) {
    atomic_store(&peak_bytes, atomic_load(&live_bytes));
}

/* An arena's chunk: a link to the older one, then ARENA_ALIGN-aligned bytes. */
typedef struct chunk {
    struct chunk *older;
    size_t size; /* bytes after the link */
} chunk;

void lp_arena_init(lp_arena *arena, size_t limit) {
    *arena = (lp_arena){.limit = limit};
}

void *lp_arena_alloc(lp_arena *arena, size_t count, size_t size) {
    size_t bytes = 0;
    if (!lp_size_mul(count, size, &bytes) || !lp_size_add(bytes, ARENA_ALIGN - 1, &bytes)) {
        return NULL;
    }
    bytes &= ~(size_t)(ARENA_ALIGN - 1);
    if (arena->limit != 0 && bytes > arena->limit - arena->used) return NULL;
    if (arena->chunks == NULL || bytes > arena->left) {
        /* A large block gets a chunk of its own size; the rest of the old chunk is given up. */
        size_t room = bytes > ARENA_CHUNK ? bytes : ARENA_CHUNK;
        size_t total = 0;
        if (!lp_size_add(room, ARENA_ALIGN, &total)) return NULL;
        chunk *fresh = lp_alloc(1, total);
        if (fresh == NULL) return NULL;
        *fresh = (chunk){.older = arena->chunks, .size = room};
        arena->chunks = fresh;
        arena->left = room;
    }
    chunk *newest = arena->chunks;
    char *block = (char *)newest + ARENA_ALIGN + (newest->size - arena->left);
    arena->left -= bytes;
    arena->used += bytes;
    return block;
}

void lp_arena_free(lp_arena *arena) {
    chunk *c = arena->chunks;
    while (c != NULL) {
        chunk *older = c->older;
        lp_free(c);
        c = older;
    }
    lp_arena_init(arena, arena->limit);
}
