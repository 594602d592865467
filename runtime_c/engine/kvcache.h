/* kvcache.h - keys and values of every sequence, in blocks of LP_KV_BLOCK positions.
 *
 * All layers lie in one reservation of address space; pages are touched as positions are used.
 * Layer l: its keys, block after block, then its values. In a block the kv heads follow one
 * another, each with its vectors of all positions side by side: attention reads a head at a time,
 * and memory gives long pieces faster than short ones. A sequence owns a table of block numbers
 * (the same for every layer); blocks go back to a stack, so those touched already are used first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_KVCACHE_H
#define LP_ENGINE_KVCACHE_H

#include "kernels.h"
#include "model/model_internal.h"

enum { LP_KV_BLOCK = 64 };

typedef struct lp_kv_layer {
    size_t keys, values;         /* offsets of block 0 in the reservation */
    size_t key_slot, value_slot; /* bytes of a position, all heads */
    size_t n_head;               /* kv heads */
} lp_kv_layer;

typedef struct lp_kv_sequence {
    int32_t *table;  /* block numbers; n_blocks_per_sequence, owned by the cache */
    size_t n_blocks; /* in use */
    size_t length;   /* positions held */
} lp_kv_sequence;

typedef struct lp_kvcache {
    lp_kv_type type;
    uint8_t *pages; /* owned */
    size_t bytes;   /* of pages */
    size_t n_ctx, n_seq, blocks_per_seq;
    lp_kv_layer *layers;  /* owned */
    lp_kv_sequence *seqs; /* owned */
    int32_t *tables;      /* n_seq * blocks_per_seq, owned */
    int32_t *free_blocks; /* a stack, owned */
    size_t n_free;
    size_t n_layer, n_ready; /* n_ready: blocks whose pages were asked for, 0 .. n_ready - 1 */
} lp_kvcache;

lp_code lp_kv_open(lp_kvcache *kv, const lp_model *model, lp_kv_type type, size_t n_ctx,
                   size_t n_seq, lp_error *err) LP_MUST_USE;
void lp_kv_close(lp_kvcache *kv);

/* Where the vector of a slot (as lp_kv_append gives it) and a head stands: vector number from the
 * layer's first key or value on. */
static inline size_t lp_kv_vector(const lp_kv_layer *layer, size_t slot, size_t head) {
    return (slot / LP_KV_BLOCK * layer->n_head + head) * LP_KV_BLOCK + slot % LP_KV_BLOCK;
}

/* Makes room for one more position and returns its slot number (block * LP_KV_BLOCK + offset). The
 * caller has checked that the sequence is shorter than n_ctx. */
size_t lp_kv_append(lp_kvcache *kv, size_t sequence);
/* Keeps the first n_keep positions. */
void lp_kv_truncate(lp_kvcache *kv, size_t sequence, size_t n_keep);

#endif
