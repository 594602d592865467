/* kvcache.h - keys and values of every sequence, in blocks of LP_KV_BLOCK positions.
 *
 * All layers lie in one reservation of address space; pages are touched as positions are used.
 * Layer l: its keys, block after block, then its values. A position takes one slot: the vectors of
 * all kv heads, one after another. A sequence owns a table of block numbers (the same for every
 * layer); blocks go back to a stack, so those touched already are used first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_KVCACHE_H
#define LP_ENGINE_KVCACHE_H

#include "kernels.h"
#include "model/model_internal.h"

enum { LP_KV_BLOCK = 64 };

typedef struct lp_kv_layer {
    size_t keys, values;         /* offsets of block 0 in the reservation */
    size_t key_slot, value_slot; /* bytes of a position */
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

/* Makes room for one more position and returns its slot number (block * LP_KV_BLOCK + offset). The
 * caller has checked that the sequence is shorter than n_ctx. */
size_t lp_kv_append(lp_kvcache *kv, size_t sequence);
/* Keeps the first n_keep positions. */
void lp_kv_truncate(lp_kvcache *kv, size_t sequence, size_t n_keep);

#endif
