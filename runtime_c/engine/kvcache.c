/* kvcache.c - see kvcache.h for the layout. Every sequence can reach its full n_ctx: the pool of
 * layers that keep everything has blocks for that, and in the other one a sequence that has all its
 * blocks gives one back first, so no stack of free blocks ever runs dry.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/kvcache.h"

#include "base/memory.h"
#include "platform/file.h"

/* A mark costs a window more. Regenerating an answer, or leaving its thinking out of the next
 * prompt, returns to where the answer began; without a mark such a prompt is evaluated from its
 * first token once the answer was longer than what the pool has to spare. With long windows that is
 * rare and the second window large. */
enum { MARKED_WINDOW = 1024, MARK_ROOM = 4 };

static const int32_t GIVEN_BACK = -1;

/* Blocks that so many neighbouring positions lie in at most. */
static size_t blocks_of(size_t positions) {
    return positions < 2 ? positions : (positions - 2) / LP_KV_BLOCK + 2;
}

/* The first position that may be needed by what follows position `length`, up to LP_KV_SLACK
 * positions having been cut off. */
static size_t first_needed(size_t window, size_t length) {
    size_t back = window + LP_KV_SLACK - 1;
    return length > back ? length - back : 0;
}

size_t lp_kv_oldest(size_t window, size_t length) {
    return window ? first_needed(window, length) / LP_KV_BLOCK * LP_KV_BLOCK : 0;
}

/* ---- opening ------------------------------------------------------------------------------ */

static size_t longest_window(const lp_model *model) {
    size_t window = 0;
    for (uint32_t i = 0; i < model->n_layer; i++) {
        if (window < model->layers[i].window) window = model->layers[i].window;
    }
    return window;
}

static size_t blocks_per_sequence(size_t n_ctx) {
    return n_ctx / LP_KV_BLOCK + (n_ctx % LP_KV_BLOCK != 0);
}

/* Window layers: what a step's first row sees once LP_KV_SLACK positions were cut off, the step's
 * rows, and where marks are kept one of them with its window and MARK_ROOM blocks for the second,
 * which mostly lies close by. */
static size_t recent_blocks(size_t window, size_t n_ctx, size_t n_batch) {
    size_t whole = blocks_per_sequence(n_ctx);
    if (n_batch > n_ctx) n_batch = n_ctx;
    if (window > n_ctx) window = n_ctx;
    size_t n = blocks_of(window + LP_KV_SLACK + n_batch - 1);
    if (window <= MARKED_WINDOW) n += blocks_of(window + LP_KV_SLACK - 1) + MARK_ROOM;
    return n < whole ? n : whole;
}

static lp_kv_layer layer_of(const lp_model *model, lp_kv_type type, uint32_t i) {
    size_t n_head = model->layers[i].n_head_kv;
    return (lp_kv_layer){.n_head = n_head,
                         .key_slot = n_head * lp_kv_bytes(type, model->key_len),
                         .value_slot = n_head * lp_kv_bytes(type, model->value_len),
                         .pool = model->layers[i].window ? LP_KV_RECENT : LP_KV_ALL};
}

/* Lays the layers out one after another (layers NULL: only adds up); false when the sum is more
 * than an address can hold. */
static bool lay_out(const lp_model *model, lp_kv_type type, const size_t blocks[LP_KV_POOLS],
                    size_t n_seq, lp_kv_layer *layers, lp_kv_need *need) {
    size_t slots[LP_KV_POOLS], total = 0;
    for (size_t p = 0; p < LP_KV_POOLS; p++) {
        if (!lp_size_mul(blocks[p], n_seq, &slots[p]) ||
            !lp_size_mul(slots[p], LP_KV_BLOCK, &slots[p]))
            return false;
    }
    for (uint32_t i = 0; i < model->n_layer; i++) {
        lp_kv_layer layer = layer_of(model, type, i);
        size_t keys, values, before = total;
        if (!lp_size_mul(slots[layer.pool], layer.key_slot, &keys) ||
            !lp_size_mul(slots[layer.pool], layer.value_slot, &values))
            return false;
        layer.keys = total;
        if (!lp_size_add(total, keys, &total)) return false;
        layer.values = total;
        if (!lp_size_add(total, values, &total)) return false;
        if (layers) layers[i] = layer;
        if (layer.pool == LP_KV_RECENT)
            need->window_bytes += total - before;
        else
            need->per_token += layer.key_slot + layer.value_slot;
    }
    need->bytes = total;
    return total <= SIZE_MAX / 2;
}

lp_kv_need lp_kv_reckon(const lp_model *model, lp_kv_type type, size_t n_ctx, size_t n_seq,
                        size_t n_batch) {
    lp_kv_need need = {.window = longest_window(model)};
    size_t blocks[LP_KV_POOLS] = {[LP_KV_ALL] = blocks_per_sequence(n_ctx),
                                  [LP_KV_RECENT] =
                                      need.window ? recent_blocks(need.window, n_ctx, n_batch) : 0};
    if (!lay_out(model, type, blocks, n_seq, NULL, &need)) need.bytes = SIZE_MAX;
    return need;
}

static bool open_pool(lp_kvcache *kv, size_t p) {
    lp_kv_pool *pool = &kv->pools[p];
    size_t n_blocks = 0, n_entries = 0;
    if (pool->most == 0) return true;
    if (!lp_size_mul(pool->most, kv->n_seq, &n_blocks) || n_blocks > INT32_MAX ||
        !lp_size_mul(kv->blocks_per_seq, kv->n_seq, &n_entries))
        return false;
    pool->tables = lp_alloc(n_entries, sizeof *pool->tables);
    pool->free_blocks = lp_alloc(n_blocks, sizeof *pool->free_blocks);
    if (!pool->tables || !pool->free_blocks) return false;
    /* Lowest number on top: the cache fills from its beginning. */
    for (size_t b = 0; b < n_blocks; b++) pool->free_blocks[b] = (int32_t)(n_blocks - 1 - b);
    pool->n_free = n_blocks;
    return true;
}

lp_code lp_kv_open(lp_kvcache *kv, const lp_model *model, lp_kv_type type, size_t n_ctx,
                   size_t n_seq, size_t n_batch, lp_error *err) {
    *kv = (lp_kvcache){.type = type,
                       .n_ctx = n_ctx,
                       .n_seq = n_seq,
                       .n_batch = n_batch,
                       .n_layer = model->n_layer,
                       .window = longest_window(model),
                       .blocks_per_seq = blocks_per_sequence(n_ctx)};
    if (type == LP_KV_Q8_0 && (model->key_len % 32 != 0 || model->value_len % 32 != 0))
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "a q8_0 cache needs heads of a multiple of 32 values, and this model's have "
                       "%lu and %lu; take --kv-type f16",
                       (unsigned long)model->key_len, (unsigned long)model->value_len);
    size_t blocks[LP_KV_POOLS] = {[LP_KV_ALL] = kv->blocks_per_seq};
    if (kv->window) blocks[LP_KV_RECENT] = recent_blocks(kv->window, n_ctx, n_batch);
    kv->marked = kv->window && kv->window <= MARKED_WINDOW;
    lp_kv_need need = {0};
    kv->layers = lp_alloc(model->n_layer, sizeof *kv->layers);
    bool ok = kv->layers && lay_out(model, type, blocks, n_seq, kv->layers, &need);
    kv->bytes = need.bytes;
    uint64_t total = lp_memory_total();
    if (ok && total && kv->bytes > total) ok = false;
    for (size_t p = 0; ok && p < LP_KV_POOLS; p++) {
        kv->pools[p].most = blocks[p];
        ok = open_pool(kv, p);
    }
    if (ok) {
        kv->pages = lp_pages_reserve(kv->bytes);
        kv->seqs = lp_alloc(n_seq, sizeof *kv->seqs);
    }
    if (!ok || !kv->pages || !kv->seqs) {
        size_t mib = kv->bytes >> 20;
        lp_kv_close(kv);
        return lp_fail(err, LP_ERR_MEMORY,
                       "a context of %zu tokens for %zu sequence%s needs %zu MiB, more than there "
                       "is; take a smaller one",
                       n_ctx, n_seq, n_seq == 1 ? "" : "s", mib);
    }
    return LP_OK;
}

void lp_kv_close(lp_kvcache *kv) {
    if (kv->pages) lp_pages_release(kv->pages, kv->bytes);
    for (size_t p = 0; p < LP_KV_POOLS; p++) {
        lp_free(kv->pools[p].tables);
        lp_free(kv->pools[p].free_blocks);
    }
    lp_free(kv->layers);
    lp_free(kv->seqs);
    *kv = (lp_kvcache){0};
}

/* ---- blocks ------------------------------------------------------------------------------- */

/* Blocks come into use in the order of their numbers. */
static void ready_block(lp_kvcache *kv, size_t p, size_t block) {
    for (size_t *ready = &kv->pools[p].n_ready; *ready <= block; (*ready)++) {
        for (size_t i = 0; i < kv->n_layer; i++) {
            const lp_kv_layer *layer = &kv->layers[i];
            if (layer->pool != p) continue;
            size_t keys = LP_KV_BLOCK * layer->key_slot, values = LP_KV_BLOCK * layer->value_slot;
            lp_pages_commit(kv->pages + layer->keys + *ready * keys, keys);
            lp_pages_commit(kv->pages + layer->values + *ready * values, values);
        }
    }
}

static void take_block(lp_kvcache *kv, size_t p, size_t sequence, size_t block) {
    lp_kv_pool *pool = &kv->pools[p];
    int32_t number = pool->free_blocks[--pool->n_free];
    lp_kv_table(kv, p, sequence)[block] = number;
    ready_block(kv, p, (size_t)number);
}

static void give_back(lp_kvcache *kv, size_t p, size_t sequence, size_t block) {
    int32_t *entry = &lp_kv_table(kv, p, sequence)[block];
    if (*entry < 0) return;
    kv->pools[p].free_blocks[kv->pools[p].n_free++] = *entry;
    *entry = GIVEN_BACK;
    if (p == LP_KV_RECENT) kv->seqs[sequence].n_recent--;
}

static bool is_marked(const lp_kvcache *kv, const lp_kv_sequence *s, size_t block) {
    for (size_t i = 0; i < LP_KV_MARKS; i++) {
        size_t mark = s->marks[i];
        if (mark && block >= first_needed(kv->window, mark) / LP_KV_BLOCK &&
            block <= (mark - 1) / LP_KV_BLOCK)
            return true;
    }
    return false;
}

/* Gives back the oldest block that neither the step under way nor a mark needs. The step began at
 * most n_batch - 1 positions ago, and recent_blocks has room for one more block than such a step
 * and the shorter way back need; so once no mark is left there is one. */
static void make_room(lp_kvcache *kv, size_t sequence) {
    lp_kv_sequence *s = &kv->seqs[sequence];
    const int32_t *table = lp_kv_table(kv, LP_KV_RECENT, sequence);
    size_t begun = s->length + 1 > kv->n_batch ? s->length + 1 - kv->n_batch : 0;
    size_t end = first_needed(kv->window, begun) / LP_KV_BLOCK;
    for (;;) {
        for (size_t b = 0; b < end; b++) {
            if (table[b] < 0 || is_marked(kv, s, b)) continue;
            give_back(kv, LP_KV_RECENT, sequence, b);
            return;
        }
        s->marks[s->marks[0] ? 0 : 1] = 0;
    }
}

lp_kv_slots lp_kv_append(lp_kvcache *kv, size_t sequence) {
    lp_kv_sequence *s = &kv->seqs[sequence];
    size_t block = s->length / LP_KV_BLOCK, offset = s->length % LP_KV_BLOCK;
    lp_kv_slots slots = {{0}};
    if (block == s->n_blocks) {
        take_block(kv, LP_KV_ALL, sequence, block);
        if (kv->window) {
            if (s->n_recent == kv->pools[LP_KV_RECENT].most) make_room(kv, sequence);
            take_block(kv, LP_KV_RECENT, sequence, block);
            s->n_recent++;
        }
        s->n_blocks++;
    }
    for (size_t p = 0; p < LP_KV_POOLS; p++) {
        if (kv->pools[p].most == 0) continue;
        slots.in[p] = (size_t)lp_kv_table(kv, p, sequence)[block] * LP_KV_BLOCK + offset;
    }
    s->length++;
    return slots;
}

size_t lp_kv_keepable(const lp_kvcache *kv, size_t sequence, size_t n) {
    const lp_kv_sequence *s = &kv->seqs[sequence];
    if (n > s->length) n = s->length;
    if (!kv->window) return n;
    const int32_t *table = lp_kv_table(kv, LP_KV_RECENT, sequence);
    while (n > 0) {
        size_t first = n >= kv->window ? n - kv->window + 1 : 0; /* what position n sees */
        size_t block = (n - 1) / LP_KV_BLOCK + 1;
        while (block > first / LP_KV_BLOCK && table[block - 1] >= 0) block--;
        if (block <= first / LP_KV_BLOCK) return n;
        n = (block - 1) * LP_KV_BLOCK; /* that block is not there: end before it */
    }
    return 0;
}

size_t lp_kv_truncate(lp_kvcache *kv, size_t sequence, size_t n_keep) {
    lp_kv_sequence *s = &kv->seqs[sequence];
    if (n_keep >= s->length) return s->length;
    s->length = lp_kv_keepable(kv, sequence, n_keep);
    size_t keep = blocks_per_sequence(s->length);
    while (s->n_blocks > keep) {
        s->n_blocks--;
        give_back(kv, LP_KV_ALL, sequence, s->n_blocks);
        if (kv->window) give_back(kv, LP_KV_RECENT, sequence, s->n_blocks);
    }
    for (size_t i = 0; i < LP_KV_MARKS; i++) {
        if (s->marks[i] > s->length) s->marks[i] = 0;
    }
    return s->length;
}

void lp_kv_mark(lp_kvcache *kv, size_t sequence) {
    lp_kv_sequence *s = &kv->seqs[sequence];
    if (!kv->marked || s->length == 0 || s->length == s->marks[0] || s->length == s->marks[1])
        return;
    if (s->marks[1]) s->marks[0] = s->marks[1];
    s->marks[1] = s->length;
}

void lp_kv_forget(lp_kvcache *kv, size_t sequence, size_t before) {
    size_t end = before / LP_KV_BLOCK;
    if (!kv->window) return;
    if (end > kv->seqs[sequence].n_blocks) end = kv->seqs[sequence].n_blocks;
    for (size_t b = 0; b < end; b++) give_back(kv, LP_KV_RECENT, sequence, b);
}
