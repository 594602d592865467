/* kv_file.c - see kv_file.h for the layout and what is checked when.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/kv_file.h"

#include <string.h>

#include "base/memory.h"
#include "engine/engine_internal.h"

enum {
    FORMAT = 2,
    AT_FORMAT = 8,
    AT_VERSION = 12,
    AT_SIZE = 16,
    AT_CHECKSUM = 24,
    AT_SUMMED = 32, /* the checksum's first byte */
    AT_SHA256 = 32,
    AT_MODEL_BYTES = 64,
    AT_ACT = 72,
    AT_TYPE = 76,
    AT_LAYERS = 80,
    AT_VOCAB = 84,
    AT_TOKENS = 88,
    AT_ZERO = 92,
    AT_LEVEL = 96,
    HEADER_BYTES = AT_LEVEL + LP_KV_LEVEL_BYTES,
    SLOTS_BYTES = 12, /* per layer */
    ALIGNMENT = 64
};

static const char magic[8] = {'L', 'P', 'K', 'V', 'D', 'A', 'T', 'A'};

static uint32_t read32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t read64(const uint8_t *p) {
    return read32(p) | (uint64_t)read32(p + 4) << 32;
}

static void write32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> 8 * i);
}

static void write64(uint8_t *p, uint64_t value) {
    write32(p, (uint32_t)value);
    write32(p + 4, (uint32_t)(value >> 32));
}

/* ---- the checksum -------------------------------------------------------------------------- */

/* One step is invertible for a given word, so that a single changed word always shows. */
static uint64_t mix(uint64_t lane, uint64_t word) {
    uint64_t x = lane ^ word;
    return (x << 29 | x >> 35) * UINT64_C(0x9E3779B97F4A7C15);
}

/* Words of 64 bits, four at a time into four lanes that do not wait for each other: tens of
 * megabytes stand between a cold start and its first token, which a byte-wise CRC would double. */
static uint64_t checksum(const uint8_t *data, size_t size) {
    uint64_t lanes[4] = {1, 2, 3, 4};
    size_t at = 0;
    for (; size - at >= 32; at += 32) {
        for (size_t i = 0; i < 4; i++) lanes[i] = mix(lanes[i], read64(data + at + 8 * i));
    }
    uint8_t rest[32] = {0};
    memcpy(rest, data + at, size - at);
    uint64_t sum = size;
    for (size_t i = 0; i < 4; i++) sum = mix(sum, mix(lanes[i], read64(rest + 8 * i)));
    return sum ^ sum >> 32;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void add32(lp_buf *out, uint32_t value) {
    uint8_t bytes[4];
    write32(bytes, value);
    lp_buf_add(out, bytes, sizeof bytes);
}

/* The first of n positions that is stored of a layer. */
static size_t first_stored(const lp_kvcache *kv, const lp_kv_layer *layer, size_t n) {
    return layer->pool == LP_KV_RECENT ? lp_kv_oldest(kv->window, n) : 0;
}

/* One layer's keys or values (`base`: those of the layer; slot_bytes: of all heads) of positions
 * begin .. end - 1 in order, each with its heads' vectors one after another. */
static void add_slots(lp_buf *out, const lp_kvcache *kv, const int32_t *table,
                      const lp_kv_layer *layer, size_t base, size_t slot_bytes, size_t begin,
                      size_t end) {
    size_t bytes = slot_bytes / layer->n_head;
    for (size_t p = begin; p < end; p++) {
        size_t slot = (size_t)table[p / LP_KV_BLOCK] * LP_KV_BLOCK + p % LP_KV_BLOCK;
        for (size_t h = 0; h < layer->n_head; h++)
            lp_buf_add(out, kv->pages + base + lp_kv_vector(layer, slot, h) * bytes, bytes);
    }
}

/* Whether the window layers have what is to be stored of n tokens. */
static bool holds_all(const lp_kvcache *kv, int32_t sequence, size_t n) {
    if (!kv->window) return true;
    const int32_t *table = lp_kv_table(kv, LP_KV_RECENT, (size_t)sequence);
    for (size_t p = lp_kv_oldest(kv->window, n); p < n; p += LP_KV_BLOCK) {
        if (table[p / LP_KV_BLOCK] < 0) return false;
    }
    return true;
}

lp_code lp_kv_file_write(lp_buf *out, const lp_engine *engine, int32_t sequence,
                         const int32_t *tokens, size_t n_tokens, lp_error *err) {
    const lp_kvcache *kv = &engine->kv;
    const lp_model *model = engine->model;
    if (n_tokens < 1 || n_tokens > lp_engine_length(engine, sequence))
        return lp_fail(err, LP_ERR_ARGUMENT, "%zu tokens of a sequence of %zu", n_tokens,
                       lp_engine_length(engine, sequence));
    if (!holds_all(kv, sequence, n_tokens))
        return lp_fail(err, LP_ERR_ARGUMENT, "what the sequence's windows saw is gone");
    const char *level = engine->kernels->name;
    size_t start = out->len, level_len = strlen(level);
    uint8_t header[HEADER_BYTES] = {0};
    memcpy(header, magic, sizeof magic);
    write32(header + AT_FORMAT, FORMAT);
    write32(header + AT_VERSION, LP_KV_VERSION);
    write32(header + AT_ACT, (uint32_t)engine->act);
    write32(header + AT_TYPE, (uint32_t)kv->type);
    write32(header + AT_LAYERS, model->n_layer);
    write32(header + AT_VOCAB, model->n_vocab);
    write32(header + AT_TOKENS, (uint32_t)n_tokens);
    memcpy(header + AT_LEVEL, level, level_len < LP_KV_LEVEL_BYTES ? level_len : LP_KV_LEVEL_BYTES);
    lp_buf_add(out, header, sizeof header);
    for (uint32_t i = 0; i < model->n_layer; i++) {
        add32(out, (uint32_t)kv->layers[i].key_slot);
        add32(out, (uint32_t)kv->layers[i].value_slot);
        add32(out, (uint32_t)first_stored(kv, &kv->layers[i], n_tokens));
    }
    for (size_t i = 0; i < n_tokens; i++) add32(out, (uint32_t)tokens[i]);
    while (!out->failed && (out->len - start) % ALIGNMENT != 0) lp_buf_add_char(out, 0);
    for (uint32_t i = 0; i < model->n_layer; i++) {
        const lp_kv_layer *layer = &kv->layers[i];
        const int32_t *table = lp_kv_table(kv, layer->pool, (size_t)sequence);
        size_t first = first_stored(kv, layer, n_tokens);
        add_slots(out, kv, table, layer, layer->keys, layer->key_slot, first, n_tokens);
        add_slots(out, kv, table, layer, layer->values, layer->value_slot, first, n_tokens);
    }
    LP_TRY(lp_buf_check(out, err));
    write64((uint8_t *)out->data + start + AT_SIZE, out->len - start);
    return LP_OK;
}

void lp_kv_file_seal(uint8_t *data, size_t size, const uint8_t *model_sha256,
                     uint64_t model_bytes) {
    if (size < HEADER_BYTES) return;
    memcpy(data + AT_SHA256, model_sha256, 32);
    write64(data + AT_MODEL_BYTES, model_bytes);
    write64(data + AT_CHECKSUM, checksum(data + AT_SUMMED, size - AT_SUMMED));
}

/* ---- reading ------------------------------------------------------------------------------- */

static lp_code damaged(lp_error *err, const char *what) {
    return lp_fail(err, LP_ERR_FORMAT, "the prepared system prompt is damaged: %s", what);
}

/* Where the three parts behind the header lie, and that they end where the file does. */
static bool locate(lp_kv_file *f) {
    size_t slots, ids, at = HEADER_BYTES, total = 0;
    if (!lp_size_mul(f->n_layer, SLOTS_BYTES, &slots) || !lp_size_mul(f->n_tokens, 4, &ids) ||
        slots > f->size - at || ids > f->size - at - slots)
        return false;
    f->slots = f->data + at;
    f->tokens = f->slots + slots;
    at = (at + slots + ids + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (at > f->size) return false;
    f->layers = f->data + at;
    for (uint32_t i = 0; i < f->n_layer; i++) {
        const uint8_t *layer = f->slots + (size_t)i * SLOTS_BYTES;
        size_t per_token, bytes, first = read32(layer + 8);
        if (first >= f->n_tokens || !lp_size_add(read32(layer), read32(layer + 4), &per_token) ||
            !lp_size_mul(per_token, f->n_tokens - first, &bytes) ||
            !lp_size_add(total, bytes, &total))
            return false;
        if (first > 0) f->least = f->n_tokens > LP_KV_SLACK ? f->n_tokens - LP_KV_SLACK : 0;
    }
    return total == f->size - at;
}

static bool read_level(lp_kv_file *f) {
    const uint8_t *text = f->data + AT_LEVEL;
    size_t len = 0;
    while (len < LP_KV_LEVEL_BYTES && text[len] > 0x20 && text[len] < 0x7F) len++;
    memcpy(f->level, text, len);
    for (size_t i = len; i < LP_KV_LEVEL_BYTES; i++) {
        if (text[i] != 0) return false;
    }
    return len > 0;
}

static int32_t token_at(const lp_kv_file *f, size_t i) {
    return (int32_t)read32(f->tokens + 4 * i);
}

lp_code lp_kv_file_open(lp_kv_file *file, const uint8_t *data, size_t size, lp_error *err) {
    *file = (lp_kv_file){.data = data, .size = size};
    if (size < HEADER_BYTES) return damaged(err, "it is cut off");
    if (memcmp(data, magic, sizeof magic) != 0) return damaged(err, "its header is not there");
    if (read32(data + AT_FORMAT) != FORMAT)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "the prepared system prompt has another format");
    file->version = read32(data + AT_VERSION);
    if (file->version != LP_KV_VERSION)
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "the prepared system prompt was made by another version of the engine");
    if (read64(data + AT_SIZE) != size) return damaged(err, "it has another size");
    if (read32(data + AT_ZERO) != 0) return damaged(err, "its header makes no sense");
    uint32_t act = read32(data + AT_ACT), type = read32(data + AT_TYPE);
    if (act > INT32_MAX || type > INT32_MAX) return damaged(err, "its header makes no sense");
    file->act = (lp_act_mode)act;
    file->type = (lp_kv_type)type;
    file->n_layer = read32(data + AT_LAYERS);
    file->n_vocab = read32(data + AT_VOCAB);
    file->n_tokens = read32(data + AT_TOKENS);
    file->model_sha256 = data + AT_SHA256;
    file->model_bytes = read64(data + AT_MODEL_BYTES);
    if (file->n_layer < 1 || file->n_tokens < 1 || file->n_tokens > INT32_MAX || !locate(file))
        return damaged(err, "its sizes disagree");
    if (!read_level(file)) return damaged(err, "it does not say how it was computed");
    for (size_t i = 0; i < file->n_tokens; i++) {
        if (read32(file->tokens + 4 * i) >= file->n_vocab || token_at(file, i) < 0)
            return damaged(err, "it holds a token that the vocabulary does not");
    }
    return LP_OK;
}

lp_code lp_kv_file_check(lp_kv_file *file, lp_error *err) {
    if (file->state == LP_KV_UNCHECKED) {
        bool whole = checksum(file->data + AT_SUMMED, file->size - AT_SUMMED) ==
                     read64(file->data + AT_CHECKSUM);
        file->state = whole ? LP_KV_WHOLE : LP_KV_DAMAGED;
    }
    return file->state == LP_KV_WHOLE ? LP_OK : damaged(err, "its checksum differs");
}

lp_code lp_kv_file_fits(const lp_kv_file *file, const lp_engine *engine,
                        const uint8_t *model_sha256, uint64_t model_bytes, lp_error *err) {
    const lp_model *model = engine->model;
    const char *what = NULL;
    if (file->model_bytes != model_bytes || memcmp(file->model_sha256, model_sha256, 32) != 0)
        what = "is of other weights";
    else if (file->act != engine->act)
        what = "was computed in another --act mode";
    else if (file->type != engine->kv.type)
        what = "is of another --kv-type";
    else if (file->n_layer != model->n_layer || file->n_vocab != model->n_vocab)
        what = "is of a model of another shape";
    for (uint32_t i = 0; what == NULL && i < model->n_layer; i++) {
        const uint8_t *stored = file->slots + (size_t)i * SLOTS_BYTES;
        const lp_kv_layer *layer = &engine->kv.layers[i];
        if (read32(stored) != layer->key_slot || read32(stored + 4) != layer->value_slot ||
            read32(stored + 8) != first_stored(&engine->kv, layer, file->n_tokens))
            what = "is of a model of another shape";
    }
    if (what == NULL) return LP_OK;
    return lp_fail(err, LP_ERR_ARGUMENT, "the prepared system prompt %s", what);
}

/* ---- use ----------------------------------------------------------------------------------- */

/* Reading a token's keys and values takes a hundredth of the time that evaluating it does, from a
 * slow disk a tenth; the checksum reads all of them. */
enum { WORTH = 16 };

size_t lp_kv_file_common(const lp_kv_file *file, const int32_t *ids, size_t n) {
    if (n > file->n_tokens) n = file->n_tokens;
    size_t i = 0;
    while (i < n && token_at(file, i) == ids[i]) i++;
    return i < file->n_tokens / WORTH || i < file->least ? 0 : i;
}

typedef struct load_job {
    const lp_kv_file *file;
    lp_kvcache *kv;
    size_t sequence, n; /* positions */
} load_job;

/* Positions begin .. end - 1 of `from` into the blocks of a sequence, where it has any; the
 * counterpart of add_slots. */
static void take_slots(lp_kvcache *kv, const int32_t *table, const lp_kv_layer *layer, size_t base,
                       size_t slot_bytes, size_t begin, size_t end, const uint8_t *from) {
    size_t bytes = slot_bytes / layer->n_head;
    for (size_t p = begin; p < end; p++, from += slot_bytes) {
        int32_t block = table[p / LP_KV_BLOCK];
        if (block < 0) continue;
        size_t slot = (size_t)block * LP_KV_BLOCK + p % LP_KV_BLOCK;
        for (size_t h = 0; h < layer->n_head; h++)
            memcpy(kv->pages + base + lp_kv_vector(layer, slot, h) * bytes, from + h * bytes,
                   bytes);
    }
}

/* A layer is a chunk: most of the time goes into the first touch of the cache's pages. */
static void load_layer(void *job, size_t chunk, int thread) {
    const load_job *j = job;
    lp_kvcache *kv = j->kv;
    const lp_kv_layer *layer = &kv->layers[chunk];
    const uint8_t *from = j->file->layers;
    const int32_t *table = lp_kv_table(kv, layer->pool, j->sequence);
    size_t all = j->file->n_tokens, first = first_stored(kv, layer, all);
    (void)thread;
    for (size_t i = 0; i < chunk; i++)
        from += (all - first_stored(kv, &kv->layers[i], all)) *
                (kv->layers[i].key_slot + kv->layers[i].value_slot);
    take_slots(kv, table, layer, layer->keys, layer->key_slot, first, j->n, from);
    from += (all - first) * layer->key_slot;
    take_slots(kv, table, layer, layer->values, layer->value_slot, first, j->n, from);
}

lp_code lp_kv_file_load(lp_kv_file *file, lp_engine *engine, int32_t sequence, size_t n,
                        lp_error *err) {
    lp_kvcache *kv = &engine->kv;
    if (sequence < 0 || (size_t)sequence >= kv->n_seq || n > file->n_tokens || n > kv->n_ctx ||
        n < file->least)
        return lp_fail(err, LP_ERR_ARGUMENT, "%zu prepared tokens into sequence %ld", n,
                       (long)sequence);
    LP_TRY(lp_kv_file_check(file, err));
    (void)lp_kv_truncate(kv, (size_t)sequence, 0);
    for (size_t i = 0; i < n; i++) (void)lp_kv_append(kv, (size_t)sequence);
    lp_kv_forget(kv, (size_t)sequence, lp_kv_oldest(kv->window, file->n_tokens));
    load_job job = {.file = file, .kv = kv, .sequence = (size_t)sequence, .n = n};
    lp_pool_run(engine->pool, load_layer, &job, engine->model->n_layer);
    return LP_OK;
}
