/* model_internal.h - the inside of a model, for the engine: checked hyperparameters and views.
 *
 * Everything here was compared with its bounds once, in model.c; the engine relies on it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_INTERNAL_H
#define LP_MODEL_INTERNAL_H

#include "model/arch.h"
#include "model/model.h"

/* A tensor in its place. Matrices: n_out rows of n_in elements. Vectors: n_in F32 values, n_out 1.
 * data is NULL when the file does not have the tensor. */
typedef struct lp_weight {
    const void *data; /* borrowed from the mapping */
    uint32_t type;
    size_t row_bytes;
    size_t n_in, n_out;
} lp_weight;

/* One way of rotating. A model has one or, with local layers of their own base, two. */
typedef struct lp_rope {
    float base;
    float freq_scale; /* 1 / scaling factor */
    bool yarn;
    float ext_factor; /* yarn: share of the unscaled angle in the fast dimensions */
    float beta_fast, beta_slow;
    uint32_t original_context;
    float magnitude;       /* cos and sin are multiplied by this */
    const float *divisors; /* rope_freqs, n_rot/2 values, or NULL */
} lp_rope;

enum { LP_ROPE_GLOBAL = 0, LP_ROPE_LOCAL = 1, LP_ROPE_KINDS = 2 };

typedef struct lp_layer {
    uint32_t n_head, n_head_kv, n_ff;
    uint32_t window; /* keys visible to a query, itself included; 0 = all */
    uint32_t rope;   /* which of the model's lp_rope */
    lp_weight w[LP_ROLE_COUNT];
} lp_layer;

struct lp_model {
    const lp_arch *arch;
    uint32_t n_layer, n_embd, n_vocab, n_ctx_train;
    uint32_t key_len, value_len; /* size of a head */
    uint32_t n_rot;              /* elements of a head that turn; even */
    float norm_eps;
    float embedding_scale;
    float attn_scale;
    float attn_softcap, final_softcap; /* 0 = none */
    lp_rope rope[LP_ROPE_KINDS];
    uint32_t n_rope;                           /* 1 or 2 */
    lp_weight token_embd, output_norm, output; /* output may be token_embd again */
    lp_layer *layers;                          /* n_layer, owned */
    uint64_t n_params, weight_bytes;
};

#endif
