/* engine_internal.h - the inside of the engine: buffers of a step, planned once.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_INTERNAL_H
#define LP_ENGINE_INTERNAL_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/kvcache.h"
#include "engine/threads.h"

/* Chunks of a job, so that threads of unequal speed end together. */
enum { LP_CHUNKS_PER_THREAD = 8 };
enum { LP_ROW_BUFFERS = 11 + LP_ROPE_KINDS + LP_ACT_KIND_COUNT };

/* A buffer of the step, for lp_pages_commit. */
typedef struct lp_row_buffer {
    size_t at, row_bytes; /* offset in pages */
    bool of_logits;       /* a row per selected row, not per row */
} lp_row_buffer;

struct lp_engine {
    const lp_model *model;
    const lp_kernels *kernels;
    lp_act_mode act;
    size_t n_batch, n_logit_rows;
    lp_pool *pool;
    lp_kvcache kv;
    double *frequencies[LP_ROPE_KINDS]; /* n_rot/2 each, owned */
    atomic_bool stop;

    uint8_t *pages; /* one reservation that holds every buffer below; owned */
    size_t pages_bytes;
    lp_row_buffer buffers[LP_ROW_BUFFERS];
    size_t n_buffers, n_rows_ready, n_logits_ready; /* rows whose pages were asked for */
    /* Row r of a buffer begins at r * its width; widths of q, k, v, gate are those of the layer. */
    float *x;                    /* (n_batch, n_embd): the residual stream */
    float *tmp;                  /* (n_batch, n_embd): a sub-block's output, then its normed sum */
    float *q, *k, *v, *attn;     /* (n_batch, heads * head length) each */
    float *gate, *up;            /* (n_batch, n_ff); share their memory with q, k, v, attn */
    float *turns[LP_ROPE_KINDS]; /* (n_batch, n_rot): cos, sin pairs */
    float *logits;               /* (n_logit_rows, n_vocab) */
    void
        *acts[LP_ACT_KIND_COUNT]; /* activations as matmul takes them; NULL if no weight wants it */
    uint8_t *scratch;             /* scratch_bytes per thread */
    size_t scratch_bytes;
    float *parts; /* of stretches, see attention.c; parts_bytes, of which parts_ready asked for */
    size_t parts_bytes, parts_ready;
    atomic_uint *tasks_done; /* of each chunk of units */
    lp_kv_slots *slots;      /* (n_batch): where each row's keys and values go */
    int32_t *selected;       /* (n_logit_rows): rows that want logits, ascending */

    /* The step under way. */
    const lp_batch_row *rows;
    size_t n_rows, n_selected;
};

static inline size_t lp_divide_up(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

static inline size_t lp_smaller_of(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t lp_larger_of(size_t a, size_t b) {
    return a > b ? a : b;
}

static inline void *lp_engine_scratch(const lp_engine *engine, int thread) {
    return engine->scratch + (size_t)thread * engine->scratch_bytes;
}

/* The whole decoder over engine->rows; logits of the selected rows. LP_ERR_STOPPED. */
lp_code lp_forward(lp_engine *engine, lp_error *err) LP_MUST_USE;

#endif
