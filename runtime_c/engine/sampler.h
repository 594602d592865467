/* sampler.h - from logits to the next token.
 *
 * Order: penalties, top-k, top-p, min-p, temperature, draw (the field's usual chain and defaults).
 * temp <= 0 is greedy: the largest logit after penalties, ties to the lowest id. The generator is
 * our own (seeded), so a seed gives the same text on every platform for the same logits.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_SAMPLER_H
#define LP_ENGINE_SAMPLER_H

#include "base/status.h"

typedef struct lp_sampling {
    float temp;              /* 0.8 */
    int32_t top_k;           /* 40; <= 0 = all */
    float top_p;             /* 0.95; 1 = off */
    float min_p;             /* 0.05; 0 = off */
    float repeat_penalty;    /* 1.0 = off */
    float presence_penalty;  /* 0 */
    float frequency_penalty; /* 0 */
    int32_t repeat_last_n;   /* 64; 0 = off, -1 = the whole context */
    uint64_t seed;
} lp_sampling;

void lp_sampling_default(lp_sampling *s); /* seed 0; callers that want randomness set it */
lp_code lp_sampling_check(const lp_sampling *s, lp_error *err) LP_MUST_USE; /* ranges, NaN */

typedef struct lp_sampler lp_sampler;
lp_code lp_sampler_open(lp_sampler **out, const lp_sampling *params, size_t n_vocab,
                        lp_error *err) LP_MUST_USE;
void lp_sampler_close(lp_sampler *sampler);
/* The next id. logits (n_vocab) may be changed. Allocates nothing. A table of only NaN or -inf
 * gives id 0. */
int32_t lp_sampler_next(lp_sampler *sampler, float *logits);
/* Tells the sampler a token that is part of the text (prompt and answer), for the penalties. */
void lp_sampler_accept(lp_sampler *sampler, int32_t id);

#endif
