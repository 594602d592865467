/* model.h - a model's hyperparameters and weights by role, checked against its architecture row.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_MODEL_H
#define LP_MODEL_MODEL_H

#include "model/gguf.h"

typedef struct lp_model lp_model;

/* Reads and checks everything a forward pass needs: the architecture (by name, else
 * LP_ERR_UNSUPPORTED that names it), every hyperparameter against its bounds, every tensor's
 * shape against the one the architecture implies, every weight type (can_compute). The GGUF and
 * its mapping must outlive the model. Does not touch tensor data. */
lp_code lp_model_open(lp_model **out, const lp_gguf *gguf, lp_error *err) LP_MUST_USE;
void lp_model_close(lp_model *model);

/* What a caller outside the engine may want to know. */
typedef struct lp_model_info {
    const char *arch; /* static */
    uint32_t n_layer, n_embd, n_head, n_vocab, n_ctx_train;
    uint64_t n_params;         /* elements of all tensors */
    uint64_t weight_bytes;     /* of all tensors */
    size_t kv_bytes_per_token; /* F16, all layers */
} lp_model_info;
lp_model_info lp_model_describe(const lp_model *model);

#endif
