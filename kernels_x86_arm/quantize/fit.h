/* fit.h - what all quantizers share: grids of values, and how well they fit a run of weights.
 *
 * A block type represents a run of weights x by a grid: values offset + step * q with integers q
 * from low to high. Given step and offset the best q are the nearest ones; given the q, the best
 * step and offset are those of least squares. Neither alone finds the best grid, because the
 * error has many minima in step; so many grids are tried, sixteen at once, a grid per lane. That
 * is how the loops vectorize without reordering a sum.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_FIT_H
#define LP_FIT_H

#include "blocks.h"

enum { LP_TRIES = 16 };

typedef struct lp_grids {
    float step[LP_TRIES];
    float offset[LP_TRIES];
    float low, high; /* whole numbers, low <= 0 <= high */
} lp_grids;

/* Adds to error[l] the sum of (x - nearest value of grid l)^2 over n weights. A step of 0 means
 * that the offset is the only value. */
void lp_add_errors(const float *x, unsigned n, const lp_grids *grids, float error[LP_TRIES]);

/* The lane of the smallest error; of equal ones the first. */
unsigned lp_least(const float error[LP_TRIES]);

/* The nearest q of each weight, and the sums that least squares needs. */
typedef struct lp_sums {
    float q, qq, xq; /* of q, q * q and x * q */
} lp_sums;

lp_sums lp_assign(const float *x, unsigned n, float step, float offset, float low, float high,
                  int8_t *q);

/* The step's inverse as every search takes it: with 0, every q is 0. */
static inline float lp_inverse(float step) {
    return step != 0.0f ? 1.0f / step : 0.0f;
}

/* The nearest whole number, ties to even: adding 1.5 * 2^23 leaves no place for a fraction. Within
 * low..high first, so that it cannot be too large for that. */
static inline float lp_nearest(float v, float low, float high) {
    v = v < low ? low : v;
    v = v > high ? high : v;
    return (v + 12582912.0f) - 12582912.0f;
}

/* The step of either sign that fits best without an offset. The trials map the largest magnitude
 * to levels first, first + delta, ... (16 * batches of them, for each sign). */
typedef struct lp_levels {
    float low, high, first, delta;
    unsigned batches;
    bool positive; /* no negative steps */
} lp_levels;

float lp_fit_step(const float *x, unsigned n, const lp_levels *levels);

/* The step and offset that fit best with q from 0 to high; below_zero: among offsets <= 0. */
void lp_fit_affine(const float *x, unsigned n, float high, bool below_zero, float *step,
                   float *offset);

/* Weights up to this are 0 in every type: half of the smallest positive binary16, 2^-24. */
#define LP_TINY 0x1p-25f

float lp_max_magnitude(const float *x, unsigned n);

/* binary16 as a block stores it; finite: what is too large becomes the largest. */
uint16_t lp_half_bits(float value);
/* The half `places` representable values further from zero, within the finite ones. */
uint16_t lp_half_near(uint16_t bits, int places);
lp_half lp_half_of(uint16_t bits);

/* The quantizers, one block each. x: 32 or 256 finite weights. */
void lp_quantize_q4_0(const float *x, lp_q4_0 *out);
void lp_quantize_q5_0(const float *x, lp_q5_0 *out);
void lp_quantize_q5_1(const float *x, lp_q5_1 *out);
void lp_quantize_q8_0(const float *x, lp_q8_0 *out);
void lp_quantize_q4_k(const float *x, lp_q4_k *out);
void lp_quantize_q5_k(const float *x, lp_q5_k *out);
void lp_quantize_q6_k(const float *x, lp_q6_k *out);

#endif
