/* kvcache.h - keys and values of every sequence, in blocks of LP_KV_BLOCK positions.
 *
 * All layers lie in one reservation of address space; pages are touched as positions are used.
 * Layer l: its keys, block after block, then its values. In a block the kv heads follow one
 * another, each with its vectors of all positions side by side: attention reads a head at a time,
 * and memory gives long pieces faster than short ones.
 *
 * Layers are of two pools of blocks, and a sequence owns a table of block numbers in each. Layers
 * that see everything keep everything. Layers with a sliding window keep what a query can still
 * see: a sequence has a limited number of blocks there, and when those are used up the oldest one
 * goes to the newest positions. Entry b of a table always stands for positions b * LP_KV_BLOCK on,
 * so attention notices nothing of it.
 *
 * After every step the window layers hold at least the window before any of the last LP_KV_SLACK
 * positions, so guessed tokens can be cut off again. Further back a sequence can be cut where its
 * blocks happen to be there still (lp_kv_keepable says where), which includes its marks: places
 * that are likely to be returned to, as long as the window is short enough to be worth keeping a
 * second time (MARKED_WINDOW in kvcache.c).
 *
 * Blocks go back to a stack, so those touched already are used first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_KVCACHE_H
#define LP_ENGINE_KVCACHE_H

#include "engine/engine.h"
#include "model/model_internal.h"

enum { LP_KV_BLOCK = 64, LP_KV_SLACK = 64, LP_KV_MARKS = 2 };
/* The pools: of layers that see everything, of layers that see a window. */
enum { LP_KV_ALL = 0, LP_KV_RECENT = 1, LP_KV_POOLS = 2 };

typedef struct lp_kv_layer {
    size_t keys, values;         /* offsets of block 0 in the reservation */
    size_t key_slot, value_slot; /* bytes of a position, all heads */
    size_t n_head;               /* kv heads */
    size_t pool;                 /* LP_KV_ALL or LP_KV_RECENT */
} lp_kv_layer;

typedef struct lp_kv_sequence {
    size_t n_blocks;           /* table entries in use: of LP_KV_RECENT not all have a block */
    size_t n_recent;           /* blocks of LP_KV_RECENT held */
    size_t length;             /* positions */
    size_t marks[LP_KV_MARKS]; /* lengths that may be returned to, the older first; 0 = none */
} lp_kv_sequence;

typedef struct lp_kv_pool {
    int32_t *tables;        /* (n_seq, blocks_per_seq): block numbers, < 0 = given back; owned */
    int32_t *free_blocks;   /* a stack, owned */
    size_t n_free, n_ready; /* n_ready: blocks whose pages were asked for, 0 .. n_ready - 1 */
    size_t most;            /* blocks of one sequence */
} lp_kv_pool;

typedef struct lp_kvcache {
    lp_kv_type type;
    uint8_t *pages; /* owned */
    size_t bytes;   /* of pages */
    size_t n_ctx, n_seq, n_batch, blocks_per_seq;
    size_t window; /* the longest of any layer; 0 = no layer has one */
    bool marked;   /* whether marks are kept */
    lp_kv_pool pools[LP_KV_POOLS];
    lp_kv_layer *layers;  /* owned */
    lp_kv_sequence *seqs; /* owned */
    size_t n_layer;
} lp_kvcache;

/* Where a position's vectors go: a slot in each pool (block * LP_KV_BLOCK + offset). */
typedef struct lp_kv_slots {
    size_t in[LP_KV_POOLS];
} lp_kv_slots;

/* n_batch: rows of one step at most. */
lp_kv_need lp_kv_reckon(const lp_model *model, lp_kv_type type, size_t n_ctx, size_t n_seq,
                        size_t n_batch);

lp_code lp_kv_open(lp_kvcache *kv, const lp_model *model, lp_kv_type type, size_t n_ctx,
                   size_t n_seq, size_t n_batch, lp_error *err) LP_MUST_USE;
void lp_kv_close(lp_kvcache *kv);

/* Where the vector of a slot (as lp_kv_append gives it) and a head stands: vector number from the
 * layer's first key or value on. */
static inline size_t lp_kv_vector(const lp_kv_layer *layer, size_t slot, size_t head) {
    return (slot / LP_KV_BLOCK * layer->n_head + head) * LP_KV_BLOCK + slot % LP_KV_BLOCK;
}

/* The block numbers of a sequence: entry p / LP_KV_BLOCK is that of position p. */
static inline int32_t *lp_kv_table(const lp_kvcache *kv, size_t pool, size_t sequence) {
    return kv->pools[pool].tables + sequence * kv->blocks_per_seq;
}

/* Makes room for one more position. The caller has checked that the sequence is shorter than n_ctx,
 * and appends at most n_batch positions before what the first of them sees may go. */
lp_kv_slots lp_kv_append(lp_kvcache *kv, size_t sequence);
/* How many of the first n positions can stay so that the sequence may go on behind them: n, or as
 * many as the window layers still hold what comes next would see of. 0 is always possible. */
size_t lp_kv_keepable(const lp_kvcache *kv, size_t sequence, size_t n);
/* Keeps the first lp_kv_keepable(n_keep) positions; returns how many. */
size_t lp_kv_truncate(lp_kvcache *kv, size_t sequence, size_t n_keep);
/* The present length is likely to be returned to. The latest LP_KV_MARKS count, the older of them
 * as long as there is room for it. */
void lp_kv_mark(lp_kvcache *kv, size_t sequence);

/* The first position that must be there to cut up to LP_KV_SLACK positions off a sequence of this
 * length and go on, at the beginning of its block. window 0: every position. */
size_t lp_kv_oldest(size_t window, size_t length);
/* Gives back the window layers' blocks before this position, a multiple of LP_KV_BLOCK. */
void lp_kv_forget(lp_kvcache *kv, size_t sequence, size_t before);

#endif
