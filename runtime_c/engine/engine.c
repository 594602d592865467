/* engine.c - opening (all memory is planned here), checking a step's rows, bookkeeping.
 *
 * Step buffers and cache are reserved address space: a page costs memory once it was used, so that
 * a chat of short turns stays small whatever n_ctx and n_batch allow.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/memory.h"
#include "engine/attention.h"
#include "engine/engine_internal.h"
#include "engine/rope.h"
#include "platform/file.h"

enum { DEFAULT_BATCH = 512, MAX_BATCH = 1 << 16, MAX_SEQUENCES = 4096 };

/* Adds a buffer of a * b bytes to a plan; returns its offset. `ok` remembers any overflow. */
typedef struct plan {
    size_t total;
    bool ok;
} plan;

static size_t add(plan *p, size_t a, size_t b) {
    size_t bytes = 0, at = p->total;
    p->ok = p->ok && lp_size_mul(a, b, &bytes) && lp_size_add(bytes, 63, &bytes) &&
            lp_size_add(p->total, bytes & ~(size_t)63, &p->total) && p->total < SIZE_MAX / 4;
    return at;
}

typedef struct widths {
    size_t q, k, v, o, ff;          /* largest of any layer */
    size_t acts[LP_ACT_KIND_COUNT]; /* longest row of each activation kind; 0 = not wanted */
} widths;

static void want(widths *w, const lp_engine *e, const lp_weight *weight) {
    if (!weight->data) return;
    lp_act_kind kind = lp_act_kind_for(weight->type, e->act);
    if (w->acts[kind] < weight->n_in) w->acts[kind] = weight->n_in;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static widths measure(const lp_engine *e) {
    const lp_model *m = e->model;
    static const lp_role matrices[] = {LP_ROLE_Q,    LP_ROLE_K,  LP_ROLE_V,   LP_ROLE_O,
                                       LP_ROLE_GATE, LP_ROLE_UP, LP_ROLE_DOWN};
    widths w = {0};
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const lp_layer *layer = &m->layers[i];
        w.q = larger(w.q, (size_t)layer->n_head * m->key_len);
        w.k = larger(w.k, (size_t)layer->n_head_kv * m->key_len);
        w.v = larger(w.v, (size_t)layer->n_head_kv * m->value_len);
        w.o = larger(w.o, (size_t)layer->n_head * m->value_len);
        w.ff = larger(w.ff, layer->n_ff);
        for (size_t r = 0; r < sizeof matrices / sizeof matrices[0]; r++)
            want(&w, e, &layer->w[matrices[r]]);
    }
    want(&w, e, &m->output);
    return w;
}

static void note_buffer(lp_engine *e, size_t at, size_t row_bytes, bool of_logits) {
    e->buffers[e->n_buffers++] = (lp_row_buffer){at, row_bytes, of_logits};
}

/* Alone or among others, whichever takes more. */
static size_t act_row_bytes(const lp_engine *e, lp_act_kind kind, size_t n_in) {
    return larger(e->kernels->act_bytes(kind, 1, n_in), e->kernels->act_bytes(kind, 2, n_in) / 2);
}

/* A step of so many rows fills its buffers, so that large pages cost no memory, and reads them
 * again and again (F16 on AVX2: 2 % less time). */
enum { LARGE_STEP = 256 };

/* Before a step of more rows than any before. */
static void ready_rows(lp_engine *e, size_t n_rows, size_t n_logits) {
    if (n_rows <= e->n_rows_ready && n_logits <= e->n_logits_ready) return;
    if (n_rows >= LARGE_STEP && e->n_rows_ready < LARGE_STEP)
        lp_map_large_pages(e->pages, e->pages_bytes);
    e->n_rows_ready = larger(e->n_rows_ready, n_rows);
    e->n_logits_ready = larger(e->n_logits_ready, n_logits);
    for (size_t i = 0; i < e->n_buffers; i++) {
        const lp_row_buffer *b = &e->buffers[i];
        size_t group = b->of_logits ? 1 : e->kernels->act_row_group; /* activations come in these */
        size_t rows = b->of_logits ? e->n_logits_ready : e->n_rows_ready;
        rows = lp_divide_up(rows, group) * group;
        lp_pages_commit(e->pages + b->at, rows * b->row_bytes);
    }
}

/* Two passes: sizes first, then the same offsets become pointers. */
static lp_code plan_buffers(lp_engine *e, lp_error *err) {
    const lp_model *m = e->model;
    const lp_kernels *kernels = e->kernels;
    widths w = measure(e);
    size_t n = e->n_batch, f = sizeof(float);
    plan p = {0, true};
    size_t x = add(&p, n * f, m->n_embd), tmp = add(&p, n * f, m->n_embd);
    size_t shared = p.total;
    size_t q = add(&p, n * f, w.q), k = add(&p, n * f, w.k), v = add(&p, n * f, w.v),
           attn = add(&p, n * f, w.o);
    size_t end = p.total;
    p.total = shared; /* the feed-forward's buffers lie over those of the attention */
    size_t gate = add(&p, n * f, w.ff), up = add(&p, n * f, w.ff);
    p.total = larger(p.total, end);
    size_t turns[LP_ROPE_KINDS], acts[LP_ACT_KIND_COUNT];
    for (size_t i = 0; i < LP_ROPE_KINDS; i++) turns[i] = add(&p, n * f, m->n_rot);
    for (int i = 0; i < LP_ACT_KIND_COUNT; i++)
        acts[i] = add(&p, w.acts[i] ? kernels->act_bytes((lp_act_kind)i, n, w.acts[i]) : 0, 1);
    size_t logits = add(&p, e->n_logit_rows * f, m->n_vocab);
    e->scratch_bytes =
        larger(kernels->matmul_scratch, kernels->attention_scratch(m->key_len, m->value_len));
    e->scratch_bytes = (e->scratch_bytes + 127) & ~(size_t)63; /* a line between two threads */
    size_t scratch = add(&p, e->scratch_bytes, (size_t)lp_pool_threads(e->pool));
    e->parts_bytes = lp_attend_part_bytes(e);
    size_t parts = add(&p, e->parts_bytes, 1),
           tasks_done = add(&p, lp_attend_most_chunks(e), sizeof *e->tasks_done);
    size_t slots = add(&p, n, sizeof *e->slots),
           selected = add(&p, e->n_logit_rows, sizeof *e->selected);

    e->pages_bytes = p.total;
    if (p.ok) e->pages = lp_pages_reserve(p.total);
    if (!e->pages)
        return lp_fail(err, LP_ERR_MEMORY,
                       "buffers for steps of %zu tokens need %zu MiB, more than there is", n,
                       p.total >> 20);
    size_t row_bytes[][2] = {{x, m->n_embd * f}, {tmp, m->n_embd * f}, {q, w.q * f},
                             {k, w.k * f},       {v, w.v * f},         {attn, w.o * f},
                             {gate, w.ff * f},   {up, w.ff * f},       {slots, sizeof *e->slots}};
    for (size_t i = 0; i < sizeof row_bytes / sizeof row_bytes[0]; i++)
        note_buffer(e, row_bytes[i][0], row_bytes[i][1], false);
    for (size_t i = 0; i < LP_ROPE_KINDS; i++) note_buffer(e, turns[i], m->n_rot * f, false);
    for (int i = 0; i < LP_ACT_KIND_COUNT; i++)
        if (w.acts[i]) note_buffer(e, acts[i], act_row_bytes(e, (lp_act_kind)i, w.acts[i]), false);
    note_buffer(e, logits, m->n_vocab * f, true);
    note_buffer(e, selected, sizeof *e->selected, true);
    lp_pages_commit(e->pages + scratch, e->scratch_bytes * (size_t)lp_pool_threads(e->pool));
    lp_pages_commit(e->pages + tasks_done, lp_attend_most_chunks(e) * sizeof *e->tasks_done);
    e->x = (float *)(void *)(e->pages + x);
    e->tmp = (float *)(void *)(e->pages + tmp);
    e->q = (float *)(void *)(e->pages + q);
    e->k = (float *)(void *)(e->pages + k);
    e->v = (float *)(void *)(e->pages + v);
    e->attn = (float *)(void *)(e->pages + attn);
    e->gate = (float *)(void *)(e->pages + gate);
    e->up = (float *)(void *)(e->pages + up);
    e->logits = (float *)(void *)(e->pages + logits);
    e->scratch = e->pages + scratch;
    e->parts = (float *)(void *)(e->pages + parts);
    e->tasks_done = (atomic_uint *)(void *)(e->pages + tasks_done);
    e->slots = (lp_kv_slots *)(void *)(e->pages + slots);
    e->selected = (int32_t *)(void *)(e->pages + selected);
    for (size_t i = 0; i < LP_ROPE_KINDS; i++) e->turns[i] = (float *)(void *)(e->pages + turns[i]);
    for (int i = 0; i < LP_ACT_KIND_COUNT; i++) e->acts[i] = w.acts[i] ? e->pages + acts[i] : NULL;
    return LP_OK;
}

static lp_code plan_ropes(lp_engine *e, lp_error *err) {
    for (uint32_t i = 0; i < e->model->n_rope; i++) {
        e->frequencies[i] = lp_alloc(e->model->n_rot / 2, sizeof(double));
        if (!e->frequencies[i]) return lp_fail(err, LP_ERR_MEMORY, "no memory for the positions");
        lp_rope_frequencies(&e->model->rope[i], e->model->n_rot, e->frequencies[i]);
    }
    return LP_OK;
}

static lp_code check_params(const lp_engine_params *p, lp_error *err) {
    if (p->n_ctx < 1 || p->n_ctx > INT32_MAX)
        return lp_fail(err, LP_ERR_ARGUMENT, "a context of %zu tokens: expected 1 to %ld", p->n_ctx,
                       (long)INT32_MAX);
    if (p->n_seq < 1 || p->n_seq > MAX_SEQUENCES)
        return lp_fail(err, LP_ERR_ARGUMENT, "%zu sequences: expected 1 to %d", p->n_seq,
                       MAX_SEQUENCES);
    if (p->n_batch > MAX_BATCH)
        return lp_fail(err, LP_ERR_ARGUMENT, "steps of %zu tokens: expected at most %d", p->n_batch,
                       MAX_BATCH);
    if (p->n_logit_rows > MAX_BATCH)
        return lp_fail(err, LP_ERR_ARGUMENT, "%zu rows of logits: expected at most %d",
                       p->n_logit_rows, MAX_BATCH);
    if (p->act != LP_ACT_INT8 && p->act != LP_ACT_INT16 && p->act != LP_ACT_F32)
        return lp_fail(err, LP_ERR_ARGUMENT, "unknown activation mode %d", (int)p->act);
    if (p->kv_type != LP_KV_F16 && p->kv_type != LP_KV_F32 && p->kv_type != LP_KV_Q8_0)
        return lp_fail(err, LP_ERR_ARGUMENT, "unknown cache type %d", (int)p->kv_type);
    return LP_OK;
}

lp_kv_type lp_engine_kv_type_for(lp_act_mode act) {
    return act == LP_ACT_F32 ? LP_KV_F32 : LP_KV_F16;
}

/* Below this many parameters activations are int16 unless --act says otherwise. Rounding them to
 * int8 costs a small model visible answers (SmolLM2 135M: mean KL 0.003, another token on top in 4
 * % of positions, and "the capital of France" answered wrongly), and a small model is fast either
 * way.
 */
static const uint64_t PRECISE_BELOW = 500u * 1000u * 1000u;

static const char *const act_names[] = {
    [LP_ACT_INT8] = "int8", [LP_ACT_F32] = "f32", [LP_ACT_INT16] = "int16"};
static const char *const kv_type_names[] = {
    [LP_KV_F16] = "f16", [LP_KV_F32] = "f32", [LP_KV_Q8_0] = "q8_0"};

const char *lp_act_name(lp_act_mode act) {
    size_t i = (size_t)act;
    return i < sizeof act_names / sizeof act_names[0] ? act_names[i] : "?";
}

const char *lp_kv_type_name(lp_kv_type type) {
    size_t i = (size_t)type;
    return i < sizeof kv_type_names / sizeof kv_type_names[0] ? kv_type_names[i] : "?";
}

lp_code lp_engine_choose_modes(const lp_model *model, const char *act_name,
                               const char *kv_type_name, lp_act_mode *act, lp_kv_type *kv_type,
                               lp_error *err) {
    *act = model->n_params < PRECISE_BELOW ? LP_ACT_INT16 : LP_ACT_INT8;
    if (act_name != NULL) {
        size_t i = 0, count = sizeof act_names / sizeof act_names[0];
        while (i < count && strcmp(act_name, act_names[i]) != 0) i++;
        if (i == count)
            return lp_fail(err, LP_ERR_ARGUMENT, "--act is int8, int16 or f32, not '%s'", act_name);
        *act = (lp_act_mode)i;
    }
    *kv_type = lp_engine_kv_type_for(*act);
    if (kv_type_name == NULL) return LP_OK;
    for (size_t i = 0; i < sizeof kv_type_names / sizeof kv_type_names[0]; i++) {
        if (strcmp(kv_type_name, kv_type_names[i]) != 0) continue;
        *kv_type = (lp_kv_type)i;
        return LP_OK;
    }
    return lp_fail(err, LP_ERR_ARGUMENT, "--kv-type is f16, f32 or q8_0, not '%s'", kv_type_name);
}

lp_code lp_engine_open(lp_engine **out, const lp_model *model, const lp_engine_params *params,
                       lp_error *err) {
    *out = NULL;
    LP_TRY(check_params(params, err));
    const char *why = NULL;
    const lp_kernels *kernels = lp_kernels_select(params->cpu, &why);
    if (!kernels)
        return lp_fail(err, LP_ERR_ARGUMENT, "CPU level '%s': %s", params->cpu ? params->cpu : "",
                       why ? why : "not available");
    lp_engine *e = lp_alloc(1, sizeof *e);
    if (!e) return lp_fail(err, LP_ERR_MEMORY, "no memory for the engine");
    e->model = model;
    e->kernels = kernels;
    e->act = params->act;
    e->n_batch = params->n_batch ? params->n_batch : DEFAULT_BATCH;
    e->n_logit_rows = params->n_logit_rows ? params->n_logit_rows : params->n_seq;
    lp_code code = plan_ropes(e, err);
    if (code == LP_OK)
        code = lp_kv_open(&e->kv, model, params->kv_type, params->n_ctx, params->n_seq, e->n_batch,
                          err);
    if (code == LP_OK) code = lp_pool_open(&e->pool, params->n_threads, err);
    if (code == LP_OK) code = plan_buffers(e, err);
    if (code != LP_OK) {
        lp_engine_close(e);
        return code;
    }
    *out = e;
    return LP_OK;
}

void lp_engine_close(lp_engine *engine) {
    if (!engine) return;
    lp_pool_close(engine->pool);
    lp_kv_close(&engine->kv);
    if (engine->pages) lp_pages_release(engine->pages, engine->pages_bytes);
    for (size_t i = 0; i < LP_ROPE_KINDS; i++) lp_free(engine->frequencies[i]);
    lp_free(engine);
}

/* Checks row i and, when it is right, gives it its slot. */
static lp_code admit(lp_engine *e, size_t i, lp_error *err) {
    const lp_batch_row *row = &e->rows[i];
    if (row->sequence < 0 || (size_t)row->sequence >= e->kv.n_seq)
        return lp_fail(err, LP_ERR_ARGUMENT, "sequence %ld of %zu", (long)row->sequence,
                       e->kv.n_seq);
    if (row->token < 0 || (uint32_t)row->token >= e->model->n_vocab)
        return lp_fail(err, LP_ERR_ARGUMENT, "token %ld of a vocabulary of %lu", (long)row->token,
                       (unsigned long)e->model->n_vocab);
    size_t length = e->kv.seqs[row->sequence].length;
    if (row->position < 0 || (size_t)row->position != length)
        return lp_fail(err, LP_ERR_ARGUMENT, "position %ld after %zu tokens", (long)row->position,
                       length);
    if (length >= e->kv.n_ctx)
        return lp_fail(err, LP_ERR_FULL, "the context of %zu tokens is full", e->kv.n_ctx);
    if (row->wants_logits) {
        if (e->n_selected == e->n_logit_rows)
            return lp_fail(err, LP_ERR_ARGUMENT, "more than %zu rows want logits", e->n_logit_rows);
        e->selected[e->n_selected++] = (int32_t)i;
    }
    e->slots[i] = lp_kv_append(&e->kv, (size_t)row->sequence);
    return LP_OK;
}

lp_code lp_engine_step(lp_engine *engine, const lp_batch_row *rows, size_t n, lp_error *err) {
    if (n < 1 || n > engine->n_batch)
        return lp_fail(err, LP_ERR_ARGUMENT, "a step of %zu rows: expected 1 to %zu", n,
                       engine->n_batch);
    size_t n_logits = 0;
    for (size_t i = 0; i < n; i++) n_logits += rows[i].wants_logits ? 1 : 0;
    if (n_logits <= engine->n_logit_rows) ready_rows(engine, n, n_logits); /* else: see admit */
    engine->rows = rows;
    engine->n_rows = n;
    engine->n_selected = 0;
    size_t admitted = 0;
    lp_code code = LP_OK;
    while (admitted < n && (code = admit(engine, admitted, err)) == LP_OK) admitted++;
    if (code == LP_OK) code = lp_forward(engine, err);
    if (code != LP_OK) {
        while (admitted-- > 0)
            (void)lp_kv_truncate(&engine->kv, (size_t)rows[admitted].sequence,
                                 (size_t)rows[admitted].position);
    }
    engine->rows = NULL;
    atomic_store(&engine->stop, false);
    return code;
}

float *lp_engine_logits(lp_engine *engine, size_t i) {
    return i < engine->n_selected ? engine->logits + i * engine->model->n_vocab : NULL;
}

size_t lp_engine_keepable(const lp_engine *engine, int32_t sequence, size_t n) {
    if (sequence < 0 || (size_t)sequence >= engine->kv.n_seq) return 0;
    return lp_kv_keepable(&engine->kv, (size_t)sequence, n);
}

size_t lp_engine_truncate(lp_engine *engine, int32_t sequence, size_t n_keep) {
    if (sequence < 0 || (size_t)sequence >= engine->kv.n_seq) return 0;
    return lp_kv_truncate(&engine->kv, (size_t)sequence, n_keep);
}

void lp_engine_mark(lp_engine *engine, int32_t sequence) {
    if (sequence < 0 || (size_t)sequence >= engine->kv.n_seq) return;
    lp_kv_mark(&engine->kv, (size_t)sequence);
}

size_t lp_engine_length(const lp_engine *engine, int32_t sequence) {
    if (sequence < 0 || (size_t)sequence >= engine->kv.n_seq) return 0;
    return engine->kv.seqs[sequence].length;
}

void lp_engine_stop(lp_engine *engine) {
    atomic_store(&engine->stop, true);
}

const lp_kernels *lp_engine_kernels(const lp_engine *engine) {
    return engine->kernels;
}
const lp_model *lp_engine_model(const lp_engine *engine) {
    return engine->model;
}
size_t lp_engine_n_ctx(const lp_engine *engine) {
    return engine->kv.n_ctx;
}
size_t lp_engine_n_batch(const lp_engine *engine) {
    return engine->n_batch;
}
size_t lp_engine_n_seq(const lp_engine *engine) {
    return engine->kv.n_seq;
}
size_t lp_engine_n_logit_rows(const lp_engine *engine) {
    return engine->n_logit_rows;
}
lp_act_mode lp_engine_act(const lp_engine *engine) {
    return engine->act;
}

int lp_engine_n_threads(const lp_engine *engine) {
    return lp_pool_threads(engine->pool);
}
size_t lp_engine_kv_bytes(const lp_engine *engine) {
    return engine->kv.bytes;
}

lp_kv_need lp_engine_kv_need(const lp_model *model, lp_kv_type type, size_t n_ctx, size_t n_seq) {
    return lp_kv_reckon(model, type, n_ctx, n_seq, DEFAULT_BATCH);
}
