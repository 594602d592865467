/* kvcache.c - see kvcache.h for the layout. Every sequence can reach its full n_ctx, so the stack
 * of free blocks never runs dry. SPDX-License-Identifier: Apache-2.0 */
#include "engine/kvcache.h"

#include "base/memory.h"
#include "platform/file.h"

/* Lays the layers out one after another; false when the sum is more than an address can hold. */
static bool lay_out(lp_kvcache *kv, const lp_model *model) {
    size_t slots = 0, total = 0;
    if (!lp_size_mul(kv->blocks_per_seq, kv->n_seq, &slots) ||
        !lp_size_mul(slots, LP_KV_BLOCK, &slots))
        return false;
    for (uint32_t i = 0; i < model->n_layer; i++) {
        lp_kv_layer *layer = &kv->layers[i];
        size_t keys, values;
        layer->n_head = model->layers[i].n_head_kv;
        layer->key_slot = layer->n_head * lp_kv_bytes(kv->type, model->key_len);
        layer->value_slot = layer->n_head * lp_kv_bytes(kv->type, model->value_len);
        if (!lp_size_mul(slots, layer->key_slot, &keys) ||
            !lp_size_mul(slots, layer->value_slot, &values))
            return false;
        layer->keys = total;
        if (!lp_size_add(total, keys, &total)) return false;
        layer->values = total;
        if (!lp_size_add(total, values, &total)) return false;
    }
    kv->bytes = total;
    return total <= SIZE_MAX / 2;
}

lp_code lp_kv_open(lp_kvcache *kv, const lp_model *model, lp_kv_type type, size_t n_ctx,
                   size_t n_seq, lp_error *err) {
    *kv = (lp_kvcache){.type = type, .n_ctx = n_ctx, .n_seq = n_seq, .n_layer = model->n_layer};
    if (type == LP_KV_Q8_0 && (model->key_len % 32 != 0 || model->value_len % 32 != 0))
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "a q8_0 cache needs heads of a multiple of 32 values, and this model's have "
                       "%lu and %lu; take --kv-type f16",
                       (unsigned long)model->key_len, (unsigned long)model->value_len);
    kv->blocks_per_seq = n_ctx / LP_KV_BLOCK + (n_ctx % LP_KV_BLOCK != 0);
    size_t n_blocks = 0;
    kv->layers = lp_alloc(model->n_layer, sizeof *kv->layers);
    bool ok = kv->layers && lp_size_mul(kv->blocks_per_seq, n_seq, &n_blocks) &&
              n_blocks <= INT32_MAX && lay_out(kv, model);
    uint64_t total = lp_memory_total();
    if (ok && total && kv->bytes > total) ok = false;
    if (ok) {
        kv->pages = lp_pages_reserve(kv->bytes);
        kv->seqs = lp_alloc(n_seq, sizeof *kv->seqs);
        kv->tables = lp_alloc(n_blocks, sizeof *kv->tables);
        kv->free_blocks = lp_alloc(n_blocks, sizeof *kv->free_blocks);
    }
    if (!ok || !kv->pages || !kv->seqs || !kv->tables || !kv->free_blocks) {
        size_t mib = kv->bytes >> 20;
        lp_kv_close(kv);
        return lp_fail(err, LP_ERR_MEMORY,
                       "a context of %zu tokens for %zu sequence%s needs %zu MiB, more than there "
                       "is; take a smaller one",
                       n_ctx, n_seq, n_seq == 1 ? "" : "s", mib);
    }
    for (size_t s = 0; s < n_seq; s++) kv->seqs[s].table = kv->tables + s * kv->blocks_per_seq;
    /* Lowest number on top: the cache fills from its beginning. */
    for (size_t b = 0; b < n_blocks; b++) kv->free_blocks[b] = (int32_t)(n_blocks - 1 - b);
    kv->n_free = n_blocks;
    return LP_OK;
}

void lp_kv_close(lp_kvcache *kv) {
    if (kv->pages) lp_pages_release(kv->pages, kv->bytes);
    lp_free(kv->layers);
    lp_free(kv->seqs);
    lp_free(kv->tables);
    lp_free(kv->free_blocks);
    *kv = (lp_kvcache){0};
}

/* Blocks come into use in the order of their numbers. */
static void ready_block(lp_kvcache *kv, size_t block) {
    for (; kv->n_ready <= block; kv->n_ready++) {
        for (size_t i = 0; i < kv->n_layer; i++) {
            const lp_kv_layer *layer = &kv->layers[i];
            size_t keys = LP_KV_BLOCK * layer->key_slot, values = LP_KV_BLOCK * layer->value_slot;
            lp_pages_commit(kv->pages + layer->keys + kv->n_ready * keys, keys);
            lp_pages_commit(kv->pages + layer->values + kv->n_ready * values, values);
        }
    }
}

size_t lp_kv_append(lp_kvcache *kv, size_t sequence) {
    lp_kv_sequence *s = &kv->seqs[sequence];
    size_t block = s->length / LP_KV_BLOCK;
    if (block == s->n_blocks) {
        s->table[s->n_blocks++] = kv->free_blocks[--kv->n_free];
        ready_block(kv, (size_t)s->table[block]);
    }
    size_t slot = (size_t)s->table[block] * LP_KV_BLOCK + s->length % LP_KV_BLOCK;
    s->length++;
    return slot;
}

void lp_kv_truncate(lp_kvcache *kv, size_t sequence, size_t n_keep) {
    lp_kv_sequence *s = &kv->seqs[sequence];
    if (n_keep >= s->length) return;
    s->length = n_keep;
    size_t keep = n_keep / LP_KV_BLOCK + (n_keep % LP_KV_BLOCK != 0);
    while (s->n_blocks > keep) kv->free_blocks[kv->n_free++] = s->table[--s->n_blocks];
}
