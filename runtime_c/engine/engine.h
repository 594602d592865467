/* engine.h - the only driver of a model: a step takes rows {token, position, sequence} and leaves
 * logits.
 *
 * Owns the thread pool, the run buffers and the KV cache; everything is allocated in lp_engine_open
 * and nothing per token. Sequences are numbered 0 .. n_seq - 1; each sees the cache through its own
 * block table. A row's result depends on its own sequence's tokens only (see kernels.h).
 * Not thread-safe: one caller at a time, except lp_engine_stop.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_ENGINE_H
#define LP_ENGINE_ENGINE_H

#include "kernels.h"
#include "model/model.h"

typedef struct lp_engine lp_engine;

typedef struct lp_engine_params {
    size_t n_ctx;        /* positions per sequence */
    size_t n_seq;        /* sequences, >= 1 */
    size_t n_batch;      /* most rows per step; 0 = 512 */
    size_t n_logit_rows; /* most rows with wants_logits per step; 0 = n_seq */
    int n_threads;       /* >= 1 */
    lp_act_mode act;
    lp_kv_type kv_type;
    const char *cpu; /* ISA level; NULL = best */
} lp_engine_params;

typedef struct lp_batch_row {
    int32_t token;
    int32_t position; /* must be the sequence's length so far (rows of one sequence in order) */
    int32_t sequence;
    bool wants_logits;
} lp_batch_row;

/* The cache type that keeps a mode's promise: F32 for LP_ACT_F32 (F16 keys and values alone cost a
 * KL of 5e-7 on average and up to 6e-6, measured on SmolLM2), else F16. */
lp_kv_type lp_engine_kv_type_for(lp_act_mode act);

/* The modes to run a model in: those that were asked for by name (as --act and --kv-type take them;
 * NULL = not asked for), else what suits it. LP_ERR_ARGUMENT lists the names. */
lp_code lp_engine_choose_modes(const lp_model *model, const char *act_name,
                               const char *kv_type_name, lp_act_mode *act, lp_kv_type *kv_type,
                               lp_error *err) LP_MUST_USE;
const char *lp_act_name(lp_act_mode act); /* "?" for what this build does not know */
const char *lp_kv_type_name(lp_kv_type type);

/* Errors: LP_ERR_ARGUMENT (level, sizes), LP_ERR_MEMORY (says how much was needed). */
lp_code lp_engine_open(lp_engine **out, const lp_model *model, const lp_engine_params *params,
                       lp_error *err) LP_MUST_USE;
void lp_engine_close(lp_engine *engine);

/* Runs n rows (1 .. n_batch). LP_ERR_FULL when a position is outside n_ctx; LP_ERR_ARGUMENT for a
 * token, position or sequence that cannot be; LP_ERR_STOPPED after lp_engine_stop (the step's
 * tokens are then not part of the sequences). */
lp_code lp_engine_step(lp_engine *engine, const lp_batch_row *rows, size_t n,
                       lp_error *err) LP_MUST_USE;

/* Logits of the i-th row that wanted them in the last step: n_vocab floats, valid until the next
 * step. The caller may change them (samplers do). */
float *lp_engine_logits(lp_engine *engine, size_t i);

/* Layers with a sliding window keep its keys and values, not everything: a sequence can be cut by
 * up to 64 positions after any step, by all, and in between where what its next token sees of the
 * window is still there. lp_engine_keepable: how many of the first n positions can stay; n itself
 * where no layer has a window. */
size_t lp_engine_keepable(const lp_engine *engine, int32_t sequence, size_t n);
/* Forgets the positions from lp_engine_keepable(n_keep) on; returns how many are left. */
size_t lp_engine_truncate(lp_engine *engine, int32_t sequence, size_t n_keep);
/* The sequence is likely to be cut to its present length later: its window there is kept as long as
 * there is room (the last two such places; nothing for windows above 1024). */
void lp_engine_mark(lp_engine *engine, int32_t sequence);
size_t lp_engine_length(const lp_engine *engine, int32_t sequence); /* positions held */

/* May be called from another thread or a signal handler: the running step ends early. Cleared by
 * the next lp_engine_step call's end. */
void lp_engine_stop(lp_engine *engine);

const lp_kernels *lp_engine_kernels(const lp_engine *engine);
const lp_model *lp_engine_model(const lp_engine *engine);
size_t lp_engine_n_ctx(const lp_engine *engine);
size_t lp_engine_n_batch(const lp_engine *engine);
size_t lp_engine_n_seq(const lp_engine *engine);
size_t lp_engine_n_logit_rows(const lp_engine *engine);
int lp_engine_n_threads(const lp_engine *engine);
lp_act_mode lp_engine_act(const lp_engine *engine);
size_t lp_engine_kv_bytes(const lp_engine *engine); /* reserved for the cache */

/* What a cache takes of memory once it is full; bytes and window_bytes are of all sequences. */
typedef struct lp_kv_need {
    size_t bytes;        /* SIZE_MAX: more than an address can hold */
    size_t per_token;    /* of one sequence, in layers that keep everything */
    size_t window_bytes; /* of bytes, those of layers with a window */
    size_t window;       /* its positions; 0 = no layer has one */
} lp_kv_need;

/* For an engine with the default n_batch. */
lp_kv_need lp_engine_kv_need(const lp_model *model, lp_kv_type type, size_t n_ctx, size_t n_seq);

#endif
