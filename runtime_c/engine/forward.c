/* forward.c - one decoder block, top to bottom, for every family; the row of arch.c says which of
 * its parts apply.
 *
 *     x = embedding(token)                                   (* sqrt(embd))
 *     per layer:  h = norm(x);  q, k, v = Wq h, Wk h, Wv h   (+ biases, norm per head), rotated
 *                 h = Wo attention(q, cache)                 (post-norm);  x = x + h
 *                 h = Wdown (act(Wgate norm(x)) * (Wup norm(x)))  (post-norm);  x = x + h
 *     logits = Wout norm(x)                                  (softcap)
 *
 * A block is nine jobs of the pool (the last one ten), alternating between work on rows (norms,
 * rotation, conversion of activations) and work on columns or heads (matrix products, attention).
 * With one row the row jobs have one chunk and run at once on the calling thread, which leaves four
 * meetings per layer.
 *
 * Only what a row itself holds goes into its result (see kernels.h), so the way work is cut here
 * may follow the number of rows and threads freely. Column chunks begin at multiples of 16, so that
 * an element always falls to the same lane or tail of the element-wise kernels.
 *
 * In the last layer all rows give keys and values, and only those that want logits the rest.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "engine/attention.h"
#include "engine/engine_internal.h"
#include "engine/rope.h"
#include "engine/shares.h"

enum { LEAST_COLUMNS = 32, LEAST_BYTES = 256 << 10, AHEAD_BYTES = 128 << 10 /* of a thread */ };

static unsigned kind_bit(const lp_engine *e, const lp_weight *w) {
    return w->data ? 1u << lp_act_kind_for(w->type, e->act) : 0u;
}

/* ---- jobs on rows ------------------------------------------------------------------------- */

typedef struct row_job {
    lp_engine *e;
    const lp_layer *layer;
    void (*work)(lp_engine *e, const lp_layer *layer, size_t row); /* NULL = only convert */
    unsigned kinds;      /* activation kinds to convert `source` into afterwards */
    const float *source; /* (n_rows, n_in) */
    size_t n_in, n_rows, per_chunk;
} row_job;

static void run_row_chunk(void *job, size_t chunk, int thread) {
    (void)thread;
    const row_job *j = job;
    size_t begin = chunk * j->per_chunk, end = begin + j->per_chunk;
    if (end > j->n_rows) end = j->n_rows;
    size_t group = j->e->kernels->act_row_group;
    for (size_t row = begin; row < end; row += group) { /* while what was written is near */
        size_t next = end - row < group ? end : row + group;
        for (size_t i = row; j->work && i < next; i++) j->work(j->e, j->layer, i);
        for (int kind = 0; kind < LP_ACT_KIND_COUNT; kind++) {
            if (!(j->kinds >> kind & 1u)) continue;
            j->e->kernels->quantize_acts((lp_act_kind)kind, j->source, j->n_in, j->n_rows, row,
                                         next, j->n_in, j->e->acts[kind]);
        }
    }
}

static void run_rows(row_job job) {
    size_t group = job.e->kernels->act_row_group;
    size_t share =
        lp_divide_up(job.n_rows, (size_t)lp_pool_threads(job.e->pool) * LP_CHUNKS_PER_THREAD);
    job.per_chunk = lp_divide_up(share, group) * group;
    lp_pool_run(job.e->pool, run_row_chunk, &job, lp_divide_up(job.n_rows, job.per_chunk));
}

static void add_bias(const lp_engine *e, const lp_weight *bias, float *x) {
    if (bias->data) e->kernels->add(x, bias->data, bias->n_in);
}

/* Adds a sub-block's output, which stands in tmp, to the stream. */
static void add_output(lp_engine *e, const lp_weight *bias, const lp_weight *post_norm,
                       size_t row) {
    const lp_model *m = e->model;
    float *x = e->x + row * m->n_embd, *tmp = e->tmp + row * m->n_embd;
    add_bias(e, bias, tmp);
    if (post_norm->data) e->kernels->rms_norm(tmp, post_norm->data, m->norm_eps, tmp, m->n_embd);
    e->kernels->add(x, tmp, m->n_embd);
}

static void norm_stream(lp_engine *e, const lp_weight *norm, size_t row) {
    size_t n = e->model->n_embd;
    e->kernels->rms_norm(e->x + row * n, norm->data, e->model->norm_eps, e->tmp + row * n, n);
}

static void embed(lp_engine *e, size_t row) {
    const lp_model *m = e->model;
    const lp_batch_row *r = &e->rows[row];
    float *x = e->x + row * m->n_embd;
    const uint8_t *table = m->token_embd.data;
    e->kernels->dequantize_row(m->token_embd.type,
                               table + (size_t)r->token * m->token_embd.row_bytes, x, m->n_embd);
    if (m->arch->scale_embedding) e->kernels->scale(x, m->embedding_scale, m->n_embd);
    for (uint32_t i = 0; i < m->n_rope; i++)
        lp_rope_turn(e->frequencies[i], m->n_rot, r->position, m->rope[i].magnitude,
                     e->turns[i] + row * m->n_rot);
}

static void begin_first_layer(lp_engine *e, const lp_layer *layer, size_t row) {
    embed(e, row);
    norm_stream(e, &layer->w[LP_ROLE_ATTN_NORM], row);
}

static void begin_layer(lp_engine *e, const lp_layer *layer, size_t row) {
    const lp_layer *before = layer - 1;
    add_output(e, &before->w[LP_ROLE_DOWN_BIAS], &before->w[LP_ROLE_POST_FFN_NORM], row);
    norm_stream(e, &layer->w[LP_ROLE_ATTN_NORM], row);
}

static void norm_heads(lp_engine *e, const lp_weight *norm, float *x, size_t n_head) {
    size_t n = e->model->key_len;
    if (!norm->data) return;
    for (size_t h = 0; h < n_head; h++)
        e->kernels->rms_norm(x + h * n, norm->data, e->model->norm_eps, x + h * n, n);
}

static void rotate_heads(lp_engine *e, const lp_layer *layer, float *x, size_t n_head, size_t row) {
    const lp_model *m = e->model;
    const float *turns = e->turns[layer->rope] + row * m->n_rot;
    for (size_t h = 0; h < n_head; h++)
        e->kernels->rope(x + h * m->key_len, turns, m->n_rot, m->arch->rope_neox);
}

/* Queries number i become final; they are of a row. */
static void finish_query(lp_engine *e, const lp_layer *layer, size_t i, size_t row) {
    size_t n_q = (size_t)layer->n_head * e->model->key_len;
    float *q = e->q + i * n_q;
    add_bias(e, &layer->w[LP_ROLE_Q_BIAS], q);
    norm_heads(e, &layer->w[LP_ROLE_Q_NORM], q, layer->n_head);
    rotate_heads(e, layer, q, layer->n_head, row);
}

/* Keys and values of a row go into the cache. */
static void store_row(lp_engine *e, const lp_layer *layer, size_t row) {
    const lp_model *m = e->model;
    size_t n_k = (size_t)layer->n_head_kv * m->key_len;
    size_t n_v = (size_t)layer->n_head_kv * m->value_len;
    float *k = e->k + row * n_k, *v = e->v + row * n_v;
    add_bias(e, &layer->w[LP_ROLE_K_BIAS], k);
    add_bias(e, &layer->w[LP_ROLE_V_BIAS], v);
    norm_heads(e, &layer->w[LP_ROLE_K_NORM], k, layer->n_head_kv);
    rotate_heads(e, layer, k, layer->n_head_kv, row);
    const lp_kv_layer *cache = &e->kv.layers[layer - m->layers];
    size_t key = lp_kv_bytes(e->kv.type, m->key_len), value = lp_kv_bytes(e->kv.type, m->value_len);
    for (size_t h = 0; h < layer->n_head_kv; h++) {
        size_t at = lp_kv_vector(cache, e->slots[row].in[cache->pool], h);
        e->kernels->store_kv(e->kv.type, k + h * m->key_len, e->kv.pages + cache->keys + at * key,
                             m->key_len);
        e->kernels->store_kv(e->kv.type, v + h * m->value_len,
                             e->kv.pages + cache->values + at * value, m->value_len);
    }
}

static void finish_row(lp_engine *e, const lp_layer *layer, size_t row) {
    finish_query(e, layer, row, row);
    store_row(e, layer, row);
}

static void finish_selected(lp_engine *e, const lp_layer *layer, size_t i) {
    finish_query(e, layer, i, (size_t)e->selected[i]);
}

static void begin_ffn(lp_engine *e, const lp_layer *layer, size_t row) {
    add_output(e, &layer->w[LP_ROLE_O_BIAS], &layer->w[LP_ROLE_POST_ATTN_NORM], row);
    norm_stream(e, &layer->w[LP_ROLE_FFN_NORM], row);
}

static void begin_output(lp_engine *e, const lp_layer *layer, size_t row) {
    add_output(e, &layer->w[LP_ROLE_DOWN_BIAS], &layer->w[LP_ROLE_POST_FFN_NORM], row);
    norm_stream(e, &e->model->output_norm, row);
}

/* ---- jobs on columns ---------------------------------------------------------------------- */

enum { MOST_PRODUCTS = 3 };

/* Matrix products over the same rows, cut into chunks of columns. */
typedef struct column_job {
    lp_engine *e;
    lp_matmul product[MOST_PRODUCTS];
    size_t n_products;
    size_t first[MOST_PRODUCTS]; /* this product's first column among those of all */
    lp_shares shares;            /* of the columns; of a gated pair: of each one's */
    const lp_layer *layer;       /* of the gated pair */
    const lp_weight *next;       /* the weight that the next product begins with; NULL: none */
    size_t next_columns;         /* of all that product's weights */
} column_job;

static lp_matmul matmul_of(lp_engine *e, const lp_weight *w, size_t n_rows, float *out) {
    lp_act_kind kind = lp_act_kind_for(w->type, e->act);
    return (lp_matmul){.type = w->type,
                       .weights = w->data,
                       .row_bytes = w->row_bytes,
                       .n_in = w->n_in,
                       .n_out = w->n_out,
                       .kind = kind,
                       .acts = e->acts[kind],
                       .n_rows = n_rows,
                       .out = out,
                       .out_stride = w->n_out};
}

static void add_product(column_job *j, const lp_weight *w, size_t n_rows, float *out) {
    j->product[j->n_products++] = matmul_of(j->e, w, n_rows, out);
}

/* What chunks of columns begin at multiples of. */
static size_t column_unit(const lp_engine *e) {
    size_t group = e->kernels->weight_row_group, unit = group;
    while (unit < LEAST_COLUMNS || unit % 16) unit += group;
    return unit;
}

/* With few rows a chunk takes as long as reading its weights, and its first lines are waited for.
 */
static lp_shares shares_of(const lp_engine *e, size_t row_bytes, size_t n_rows, size_t total) {
    size_t least = LEAST_BYTES / (row_bytes * n_rows);
    return lp_shares_of(total, column_unit(e), least, (size_t)lp_pool_threads(e->pool));
}

/* Threads that wait for the others, or for a row's norms, have the next weights come nearer: what
 * each will read first if it takes the chunk of its number, and that chunk is of the first weight.
 */
static void look_ahead(const column_job *j) {
    lp_ahead ahead = {0};
    const lp_weight *w = j->next;
    size_t n_rows = j->product[0].n_rows;
    if (w && n_rows == 1) {
        lp_shares shares = shares_of(j->e, w->row_bytes, n_rows, j->next_columns);
        size_t begin, end, second, unused, rows_apart;
        lp_shares_get(&shares, 0, &begin, &end);
        lp_shares_get(&shares, 1, &second, &unused);
        lp_matmul product = matmul_of(j->e, w, n_rows, NULL);
        end = lp_smaller_of(end, w->n_out);
        ahead.streams = j->e->kernels->streams(&product, begin, end, &rows_apart);
        ahead.begin = w->data;
        ahead.per_thread = second * w->row_bytes;
        ahead.per_stream = rows_apart * w->row_bytes;
        ahead.bytes = lp_smaller_of(AHEAD_BYTES / ahead.streams, ahead.per_stream);
    }
    lp_pool_ahead(j->e->pool, &ahead);
}

static void run_columns(column_job *j, lp_pool_body body, size_t total) {
    const lp_matmul *first = &j->product[0];
    j->shares = shares_of(j->e, first->row_bytes, first->n_rows, total);
    look_ahead(j);
    lp_pool_run(j->e->pool, body, j, lp_shares_count(&j->shares));
}

static void run_product_chunk(void *job, size_t chunk, int thread) {
    const column_job *j = job;
    size_t begin, end;
    lp_shares_get(&j->shares, chunk, &begin, &end);
    for (size_t i = 0; i < j->n_products; i++) {
        const lp_matmul *product = &j->product[i];
        size_t first = j->first[i], last = first + product->n_out;
        size_t from = lp_larger_of(begin, first), to = lp_smaller_of(end, last);
        if (from < to)
            j->e->kernels->matmul(product, from - first, to - first,
                                  lp_engine_scratch(j->e, thread));
    }
}

/* Columns of a product among those of several, which begin at whole units. */
static size_t span_of(const lp_engine *e, size_t n_out) {
    size_t unit = column_unit(e);
    return lp_divide_up(n_out, unit) * unit;
}

static void run_products(column_job *j) {
    size_t total = 0;
    for (size_t i = 0; i < j->n_products; i++) {
        j->first[i] = total;
        total += span_of(j->e, j->product[i].n_out);
    }
    run_columns(j, run_product_chunk, total);
}

static void project(lp_engine *e, const lp_weight *w, size_t n_rows, float *out,
                    const lp_weight *next, size_t next_columns) {
    column_job j = {.e = e, .next = next, .next_columns = next_columns};
    add_product(&j, w, n_rows, out);
    run_products(&j);
}

/* Columns begin..end-1 of a row become act(gate) * up. */
static void activate(lp_engine *e, const lp_layer *layer, size_t row, size_t begin, size_t end) {
    const float *gate_bias = layer->w[LP_ROLE_GATE_BIAS].data,
                *up_bias = layer->w[LP_ROLE_UP_BIAS].data;
    float *gate = e->gate + row * layer->n_ff + begin, *up = e->up + row * layer->n_ff + begin;
    if (gate_bias) e->kernels->add(gate, gate_bias + begin, end - begin);
    if (up_bias) e->kernels->add(up, up_bias + begin, end - begin);
    bool gelu = e->model->arch->gate == LP_GATE_GELU_TANH;
    (gelu ? e->kernels->gelu_mul : e->kernels->silu_mul)(gate, up, end - begin);
}

static void activate_row(lp_engine *e, const lp_layer *layer, size_t row) {
    activate(e, layer, row, 0, layer->n_ff);
}

/* With few rows the activation belongs to the columns' chunks, so that all threads take part; with
 * many to the rows, just before they are converted: they are read from far once, not twice. */
static bool activates_rows(size_t n_rows) {
    return n_rows >= 64;
}

/* Gate and up of the same columns. */
static void run_gate_chunk(void *job, size_t chunk, int thread) {
    const column_job *j = job;
    lp_engine *e = j->e;
    size_t begin, end, n_rows = j->product[0].n_rows;
    lp_shares_get(&j->shares, chunk, &begin, &end);
    for (size_t i = 0; i < 2 && begin < end; i++)
        e->kernels->matmul(&j->product[i], begin, end, lp_engine_scratch(e, thread));
    for (size_t row = 0; !activates_rows(n_rows) && row < n_rows && begin < end; row++)
        activate(e, j->layer, row, begin, end);
}

static void run_gate(lp_engine *e, const lp_layer *layer, size_t n_rows) {
    const lp_weight *down = &layer->w[LP_ROLE_DOWN];
    column_job j = {.e = e, .layer = layer, .next = down, .next_columns = down->n_out};
    add_product(&j, &layer->w[LP_ROLE_GATE], n_rows, e->gate);
    add_product(&j, &layer->w[LP_ROLE_UP], n_rows, e->up);
    run_columns(&j, run_gate_chunk, layer->n_ff);
}

/* ---- the block ---------------------------------------------------------------------------- */

static bool is_last(const lp_engine *e, const lp_layer *layer) {
    return layer == &e->model->layers[e->model->n_layer - 1];
}

static void run_qkv(lp_engine *e, const lp_layer *layer) {
    const lp_weight *w = layer->w;
    run_rows((row_job){.e = e,
                       .layer = layer,
                       .work = layer == e->model->layers ? begin_first_layer : begin_layer,
                       .kinds = kind_bit(e, &w[LP_ROLE_Q]) | kind_bit(e, &w[LP_ROLE_K]) |
                                kind_bit(e, &w[LP_ROLE_V]),
                       .source = e->tmp,
                       .n_in = e->model->n_embd,
                       .n_rows = e->n_rows});
    const lp_weight *o = &w[LP_ROLE_O];
    column_job j = {.e = e, .next = o, .next_columns = o->n_out};
    bool some = is_last(e, layer) && e->n_selected < e->n_rows; /* give queries */
    if (!some) add_product(&j, &w[LP_ROLE_Q], e->n_rows, e->q);
    add_product(&j, &w[LP_ROLE_K], e->n_rows, e->k);
    add_product(&j, &w[LP_ROLE_V], e->n_rows, e->v);
    if (some && e->n_selected > 0) {
        add_product(&j, &w[LP_ROLE_Q], e->n_rows, e->q);
        j.product[j.n_products - 1].row_list = e->selected;
        j.product[j.n_products - 1].n_list = e->n_selected;
    }
    run_products(&j);
    row_job finish = {.e = e, .layer = layer, .work = finish_row, .n_rows = e->n_rows};
    if (some) finish.work = store_row;
    run_rows(finish);
    if (!some) return;
    finish.work = finish_selected, finish.n_rows = e->n_selected;
    if (finish.n_rows > 0) run_rows(finish);
}

static void run_attention_output(lp_engine *e, const lp_layer *layer, size_t n_rows) {
    const lp_weight *o = &layer->w[LP_ROLE_O];
    run_rows((row_job){.e = e,
                       .layer = layer,
                       .kinds = kind_bit(e, o),
                       .source = e->attn,
                       .n_in = o->n_in,
                       .n_rows = n_rows});
    project(e, o, n_rows, e->tmp, &layer->w[LP_ROLE_GATE], layer->n_ff);
}

static void run_ffn(lp_engine *e, const lp_layer *layer, size_t n_rows) {
    const lp_weight *w = layer->w, *down = &w[LP_ROLE_DOWN];
    run_rows((row_job){.e = e,
                       .layer = layer,
                       .work = begin_ffn,
                       .kinds = kind_bit(e, &w[LP_ROLE_GATE]) | kind_bit(e, &w[LP_ROLE_UP]),
                       .source = e->tmp,
                       .n_in = e->model->n_embd,
                       .n_rows = n_rows});
    run_gate(e, layer, n_rows);
    run_rows((row_job){.e = e,
                       .layer = layer,
                       .work = activates_rows(n_rows) ? activate_row : NULL,
                       .kinds = kind_bit(e, down),
                       .source = e->gate,
                       .n_in = layer->n_ff,
                       .n_rows = n_rows});
    const lp_layer *after = layer + 1;
    if (!is_last(e, layer)) {
        const lp_weight *q = &after->w[LP_ROLE_Q];
        size_t columns = span_of(e, q->n_out) + span_of(e, after->w[LP_ROLE_K].n_out) +
                         span_of(e, after->w[LP_ROLE_V].n_out);
        project(e, down, n_rows, e->tmp, q, columns);
    } else {
        project(e, down, n_rows, e->tmp, &e->model->output, e->model->n_vocab);
    }
}

/* Moves the selected rows of the stream to the front; they ascend, so none is overwritten early. */
static void gather(lp_engine *e) {
    size_t n = e->model->n_embd;
    for (size_t i = 0; i < e->n_selected; i++) {
        size_t from = (size_t)e->selected[i];
        if (from != i) memcpy(e->x + i * n, e->x + from * n, n * sizeof *e->x);
    }
}

static void run_output(lp_engine *e, const lp_layer *last) {
    const lp_model *m = e->model;
    run_rows((row_job){.e = e,
                       .layer = last,
                       .work = begin_output,
                       .kinds = kind_bit(e, &m->output),
                       .source = e->tmp,
                       .n_in = m->n_embd,
                       .n_rows = e->n_selected});
    project(e, &m->output, e->n_selected, e->logits, NULL, 0);
    if (m->final_softcap <= 0) return;
    for (size_t i = 0; i < e->n_selected * m->n_vocab; i++)
        e->logits[i] = m->final_softcap * tanhf(e->logits[i] / m->final_softcap);
}

lp_code lp_forward(lp_engine *e, lp_error *err) {
    const lp_layer *layer = e->model->layers;
    for (;; layer++) {
        if (atomic_load_explicit(&e->stop, memory_order_relaxed))
            return lp_fail(err, LP_ERR_STOPPED, "stopped");
        run_qkv(e, layer);
        bool last = is_last(e, layer);
        size_t n_rows = last ? e->n_selected : e->n_rows;
        if (n_rows == 0) return LP_OK;
        lp_attend(e, layer, last ? e->selected : NULL, n_rows);
        if (last) gather(e);
        run_attention_output(e, layer, n_rows);
        run_ffn(e, layer, n_rows);
        if (last) break;
    }
    run_output(e, layer);
    return LP_OK;
}
