/* rope.h - the angles of rotary position embedding.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_ROPE_H
#define LP_ENGINE_ROPE_H

#include "model/model_internal.h"

/* Turn per position of each pair, n_rot/2 values. */
void lp_rope_frequencies(const lp_rope *rope, uint32_t n_rot, double *out);
/* n_rot/2 pairs (cos, sin) of one position, as lp_kernels.rope takes them. */
void lp_rope_turn(const double *frequencies, uint32_t n_rot, int32_t position, float magnitude,
                  float *out);

#endif
