/* attention.c - a step's attention, cut into work for the pool.
 *
 * Every (kv head, row, query head of its group) is a unit, in this order: neighbours read nearly
 * the same keys and values, so a chunk's units of one kv head and sequence go to the kernel
 * together. With many rows the chunks are enough for all threads. One row of a model with few kv
 * heads has too few of them: then the stretches of the cache (LP_ATTENTION_STRETCH) are shared out
 * as well, each gives its units a part, and whoever finishes a chunk's last stretch merges its
 * parts. The kernel sums by stretches either way, so the bits are the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/attention.h"

#include "platform/file.h"

enum {
    UNITS_TOGETHER = LP_ATTENTION_QUERIES,
    ENOUGH_UNITS = 32, /* of a chunk */
    ENOUGH_CHUNKS = 4, /* per thread, not to take stretches apart */
    MOST_PART_BYTES = 16 << 20,
};

typedef struct attention_job {
    lp_engine *e;
    const lp_layer *layer;
    const int32_t *selected; /* rows that take part, or NULL = all */
    size_t n_rows, group;    /* group: query heads of a kv head */
    size_t units, per_chunk;
    size_t first_stretch, n_stretches; /* that any unit sees */
    size_t per_task, tasks; /* stretches per task, tasks per chunk; 0 = not taken apart */
} attention_job;

typedef struct attention_unit {
    size_t kv_head, head, row;
    size_t i; /* number of the row among those that take part: of its query and its output */
} attention_unit;

static attention_unit unit_at(const attention_job *j, size_t index) {
    size_t in_head = index % (j->n_rows * j->group), kv_head = index / (j->n_rows * j->group);
    size_t i = in_head / j->group;
    return (attention_unit){.kv_head = kv_head,
                            .head = kv_head * j->group + in_head % j->group,
                            .row = j->selected ? (size_t)j->selected[i] : i,
                            .i = i};
}

/* What the units of one kv head and sequence share. */
static lp_attention shared_attention(const attention_job *j, size_t kv_head, int32_t sequence) {
    const lp_engine *e = j->e;
    const lp_model *m = e->model;
    const lp_kv_layer *cache = &e->kv.layers[j->layer - m->layers];
    size_t key = lp_kv_bytes(e->kv.type, m->key_len), value = lp_kv_bytes(e->kv.type, m->value_len);
    return (lp_attention){.kv_type = e->kv.type,
                          .keys = e->kv.pages + cache->keys,
                          .values = e->kv.pages + cache->values,
                          .key_slot_bytes = key,
                          .value_slot_bytes = value,
                          .key_head_offset = kv_head * LP_KV_BLOCK * key,
                          .value_head_offset = kv_head * LP_KV_BLOCK * value,
                          .table = lp_kv_table(&e->kv, cache->pool, (size_t)sequence),
                          .table_step = cache->n_head,
                          .block_len = LP_KV_BLOCK,
                          .head_dim = m->key_len,
                          .value_dim = m->value_len,
                          .scale = m->attn_scale,
                          .softcap = m->attn_softcap};
}

/* First position that a row sees. */
static size_t first_seen(const attention_job *j, size_t row) {
    size_t position = (size_t)j->e->rows[row].position, window = j->layer->window;
    return window && position >= window ? position - window + 1 : 0;
}

static lp_attention_query query_of(const attention_job *j, attention_unit unit) {
    const lp_engine *e = j->e;
    const lp_model *m = e->model;
    return (lp_attention_query){.q = e->q + (unit.i * j->layer->n_head + unit.head) * m->key_len,
                                .out = e->attn +
                                       (unit.i * j->layer->n_head + unit.head) * m->value_len,
                                .first = first_seen(j, unit.row),
                                .last = (size_t)e->rows[unit.row].position};
}

static float *part_of(const attention_job *j, size_t unit, size_t stretch) {
    size_t index = unit * j->n_stretches + (stretch - j->first_stretch);
    return j->e->parts + index * lp_attention_part_floats(j->e->model->value_len);
}

/* A run of units of one kv head and sequence, at most UNITS_TOGETHER. */
typedef struct unit_run {
    lp_attention shared;
    lp_attention_query queries[UNITS_TOGETHER];
    size_t first, n; /* units first .. first + n - 1 */
} unit_run;

/* The run that begins with a unit. */
static void gather_run(const attention_job *j, size_t begin, size_t end, unit_run *run) {
    attention_unit first = unit_at(j, begin);
    int32_t sequence = j->e->rows[first.row].sequence;
    run->first = begin;
    run->n = 0;
    for (size_t u = begin; u < end && run->n < UNITS_TOGETHER; u++) {
        attention_unit unit = unit_at(j, u);
        if (unit.kv_head != first.kv_head || j->e->rows[unit.row].sequence != sequence) break;
        run->queries[run->n++] = query_of(j, unit);
    }
    run->shared = shared_attention(j, first.kv_head, sequence);
}

static void attend_stretch(const attention_job *j, const unit_run *run, size_t stretch,
                           void *scratch) {
    size_t begin = stretch * LP_ATTENTION_STRETCH, end = begin + LP_ATTENTION_STRETCH, n = 0;
    lp_attention_query seeing[UNITS_TOGETHER];
    for (size_t i = 0; i < run->n; i++) {
        lp_attention_query query = run->queries[i];
        if (query.first >= end || query.last < begin) continue;
        if (query.first < begin) query.first = begin;
        if (query.last >= end) query.last = end - 1;
        query.out = part_of(j, run->first + i, stretch);
        seeing[n++] = query;
    }
    if (n > 0) j->e->kernels->attention_parts(&run->shared, seeing, n, scratch);
}

static void merge_run(const attention_job *j, const unit_run *run) {
    for (size_t i = 0; i < run->n; i++) {
        const lp_attention_query *query = &run->queries[i];
        size_t first = query->first / LP_ATTENTION_STRETCH;
        size_t n = query->last / LP_ATTENTION_STRETCH - first + 1;
        j->e->kernels->attention_merge(part_of(j, run->first + i, first), n, j->e->model->value_len,
                                       query->out);
    }
}

static void run_chunk(void *job, size_t index, int thread) {
    const attention_job *j = job;
    lp_engine *e = j->e;
    size_t chunk = j->tasks ? index / j->tasks : index;
    size_t begin = chunk * j->per_chunk, end = begin + j->per_chunk;
    if (end > j->units) end = j->units;
    unit_run run;
    if (j->tasks == 0) {
        for (size_t u = begin; u < end; u += run.n) {
            gather_run(j, u, end, &run);
            e->kernels->attention_many(&run.shared, run.queries, run.n,
                                       lp_engine_scratch(e, thread));
        }
        return;
    }
    size_t from = index % j->tasks * j->per_task, to = from + j->per_task;
    if (to > j->n_stretches) to = j->n_stretches;
    for (size_t u = begin; u < end; u += run.n) {
        gather_run(j, u, end, &run);
        for (size_t s = from; s < to; s++)
            attend_stretch(j, &run, j->first_stretch + s, lp_engine_scratch(e, thread));
    }
    size_t done = atomic_fetch_add_explicit(&e->tasks_done[chunk], 1, memory_order_acq_rel) + 1;
    if (done < j->tasks) return;
    for (size_t u = begin; u < end; u += run.n) {
        gather_run(j, u, end, &run);
        merge_run(j, &run);
    }
}

/* About so many units, in whole groups, which read the cache once. */
static size_t whole_groups(const attention_job *j, size_t units) {
    return lp_larger_of(units / j->group, 1) * j->group;
}

/* The stretches that the job's rows see. */
static void find_stretches(attention_job *j) {
    size_t first = SIZE_MAX, last = 0;
    for (size_t i = 0; i < j->n_rows; i++) {
        size_t row = j->selected ? (size_t)j->selected[i] : i, seen = first_seen(j, row);
        size_t position = (size_t)j->e->rows[row].position;
        first = seen < first ? seen : first;
        last = position > last ? position : last;
    }
    j->first_stretch = first / LP_ATTENTION_STRETCH;
    j->n_stretches = last / LP_ATTENTION_STRETCH - j->first_stretch + 1;
}

/* Takes stretches apart where chunks of units are too few for the threads; false where they are
 * not, or there is nothing to take apart. */
static bool take_apart(attention_job *j) {
    lp_engine *e = j->e;
    size_t threads = (size_t)lp_pool_threads(e->pool);
    size_t per_chunk = lp_smaller_of(whole_groups(j, ENOUGH_UNITS), j->n_rows * j->group);
    size_t chunks = lp_divide_up(j->units, per_chunk);
    if (threads == 1 || chunks >= threads * ENOUGH_CHUNKS) return false;
    find_stretches(j);
    size_t parts = j->units * j->n_stretches;
    size_t part_bytes = lp_attention_part_floats(e->model->value_len) * sizeof(float);
    if (j->n_stretches == 1 || parts > e->parts_bytes / part_bytes) return false;
    if (parts * part_bytes > e->parts_ready) {
        e->parts_ready = parts * part_bytes;
        lp_pages_commit(e->parts, e->parts_ready);
    }
    j->per_chunk = per_chunk;
    j->per_task = lp_larger_of(chunks * j->n_stretches / (threads * LP_CHUNKS_PER_THREAD), 1);
    j->tasks = lp_divide_up(j->n_stretches, j->per_task);
    for (size_t c = 0; c < chunks; c++)
        atomic_store_explicit(&e->tasks_done[c], 0, memory_order_relaxed);
    return true;
}

void lp_attend(lp_engine *e, const lp_layer *layer, const int32_t *selected, size_t n_rows) {
    attention_job j = {.e = e, .layer = layer, .selected = selected, .n_rows = n_rows};
    j.group = layer->n_head / layer->n_head_kv;
    j.units = n_rows * layer->n_head;
    if (!take_apart(&j)) {
        /* Late rows take longer than early ones, so chunks stay small. */
        size_t share = (size_t)lp_pool_threads(e->pool) * LP_CHUNKS_PER_THREAD;
        j.per_chunk = lp_divide_up(lp_divide_up(j.units, share), j.group) * j.group;
        j.per_chunk = lp_smaller_of(j.per_chunk, whole_groups(&j, UNITS_TOGETHER));
    }
    size_t chunks = lp_divide_up(j.units, j.per_chunk);
    lp_pool_run(e->pool, run_chunk, &j, j.tasks ? chunks * j.tasks : chunks);
}

size_t lp_attend_part_bytes(const lp_engine *e) {
    bool whole = lp_pool_threads(e->pool) == 1 || e->kv.n_ctx <= LP_ATTENTION_STRETCH;
    return whole ? 0 : MOST_PART_BYTES;
}

size_t lp_attend_most_chunks(const lp_engine *e) {
    return (size_t)lp_pool_threads(e->pool) * ENOUGH_CHUNKS;
}
