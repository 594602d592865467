/* rope.c - the angles of rotary position embedding, in double so that position 100,000 is as exact
 * as position 1.
 *
 * Pair i turns by  position * base^(-2i / n_rot) * freq_scale / divisor_i.
 * YaRN (Peng et al. 2023, arXiv 2309.00071): slow pairs (fewer than beta_slow turns within the
 * original context) take the scaled angle, fast ones (more than beta_fast turns) the unscaled one,
 * with a ramp between:
 *     pair(n) = n_rot * ln(original / (2 pi n)) / (2 ln base)        (the pair that makes n turns)
 *     low = floor(pair(beta_fast)), high = ceil(pair(beta_slow)), both within 0 .. n_rot - 1
 *     r_i = clamp((i - low) / max(0.001, high - low), 0, 1)
 *     angle = unscaled * (1 - r_i) * ext + scaled * (1 - (1 - r_i) * ext)
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/rope.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925

static double clamp(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static double pair_of(const lp_rope *rope, uint32_t n_rot, double turns) {
    return n_rot * log(rope->original_context / (TWO_PI * turns)) / (2 * log((double)rope->base));
}

void lp_rope_frequencies(const lp_rope *rope, uint32_t n_rot, double *out) {
    double low = 0, high = 0;
    if (rope->yarn) {
        /* A base of 1 makes the logarithm 0; the clamp takes the infinity that follows. */
        low = clamp(floor(pair_of(rope, n_rot, rope->beta_fast)), 0, n_rot - 1);
        high = clamp(ceil(pair_of(rope, n_rot, rope->beta_slow)), 0, n_rot - 1);
    }
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        double unscaled = pow(rope->base, -2.0 * i / n_rot);
        if (rope->divisors) unscaled /= rope->divisors[i];
        double share = rope->freq_scale; /* of the unscaled angle */
        if (rope->yarn) {
            double ramp = clamp((i - low) / fmax(0.001, high - low), 0, 1);
            double fast = (1 - ramp) * rope->ext_factor;
            share = fast + rope->freq_scale * (1 - fast);
        }
        out[i] = unscaled * share;
    }
}

void lp_rope_turn(const double *frequencies, uint32_t n_rot, int32_t position, float magnitude,
                  float *out) {
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        double angle = position * frequencies[i];
        out[2 * i] = (float)(cos(angle) * magnitude);
        out[2 * i + 1] = (float)(sin(angle) * magnitude);
    }
}
