/* arch.h - the table of model families: what the one decoder block of forward.c does for each.
 *
 * A row per `general.architecture`. Nothing else in the runtime knows a family by name. A new
 * family of the same build (norms, attention, gated feed-forward) is a new row; a new ability is
 * a new field that forward.c honours for every row.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_ARCH_H
#define LP_MODEL_ARCH_H

#include "base/text.h"

/* The tensors a layer may have, by what they do. */
typedef enum lp_role {
    LP_ROLE_ATTN_NORM = 0,
    LP_ROLE_Q,
    LP_ROLE_K,
    LP_ROLE_V,
    LP_ROLE_O,
    LP_ROLE_FFN_NORM,
    LP_ROLE_GATE,
    LP_ROLE_UP,
    LP_ROLE_DOWN,
    LP_ROLE_Q_NORM, /* RMS norm of each query head before the rotation */
    LP_ROLE_K_NORM,
    LP_ROLE_POST_ATTN_NORM, /* on the attention's output, before it is added to the stream */
    LP_ROLE_POST_FFN_NORM,
    LP_ROLE_Q_BIAS,
    LP_ROLE_K_BIAS,
    LP_ROLE_V_BIAS,
    LP_ROLE_O_BIAS,
    LP_ROLE_GATE_BIAS,
    LP_ROLE_UP_BIAS,
    LP_ROLE_DOWN_BIAS,
    LP_ROLE_COUNT
} lp_role;

/* What a tensor's dimension must equal, in terms of the layer's hyperparameters. */
typedef enum lp_extent {
    LP_EXTENT_NONE = 0, /* no second dimension: a vector, kept in F32 */
    LP_EXTENT_EMBD,
    LP_EXTENT_Q, /* heads * key length */
    LP_EXTENT_K, /* kv heads * key length */
    LP_EXTENT_V, /* kv heads * value length */
    LP_EXTENT_O, /* heads * value length */
    LP_EXTENT_FF,
    LP_EXTENT_HEAD /* key length */
} lp_extent;

typedef struct lp_role_info {
    const char *suffix; /* "attn_q.weight", after "blk.N." */
    lp_extent in, out;  /* dims[0], dims[1] */
} lp_role_info;

typedef enum lp_gate_kind { LP_GATE_SILU = 0, LP_GATE_GELU_TANH } lp_gate_kind;

typedef struct lp_arch {
    const char *name;     /* general.architecture, and the prefix of its keys */
    const char *models;   /* for people */
    uint32_t required;    /* bit per lp_role that every layer must have */
    uint32_t optional;    /* bit per lp_role that is used when present */
    lp_gate_kind gate;    /* activation of the feed-forward's gate */
    bool rope_neox;       /* element i turns with i + n_rot/2; else 2i with 2i + 1 */
    bool scale_embedding; /* token rows are multiplied by sqrt(embd) */
    bool softcaps;        /* reads attn_ and final_logit_softcapping */
    float attn_softcap;   /* their defaults; 0 = none */
    float final_softcap;
    uint32_t window_period;  /* with a sliding window: the last layer of each group of this many
                                sees everything; 0 = the family has no windows */
    uint32_t window;         /* default of attention.sliding_window */
    float rope_base_local;   /* rope base of window layers, unscaled; 0 = as the others */
    uint32_t scale_by_width; /* at this block count scores are scaled by 1/sqrt(embd/heads) and
                                not by the head size (the 27B of its family); 0 = never */
} lp_arch;

size_t lp_arch_count(void);
const lp_arch *lp_arch_at(size_t index);
const lp_arch *lp_arch_find(lp_str name); /* NULL if this build has no such row */
const lp_role_info *lp_arch_role(lp_role role);

#endif
