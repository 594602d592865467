/* fit.c - tries grids on runs of weights; see fit.h.
 *
 * With q fixed, the squared error that the best step leaves is
 *     sum x^2 - (sum x q)^2 / sum q^2
 * and with an offset too, for weights less their mean,
 *     sum x^2 - (sum x q)^2 / (sum q^2 - (sum q)^2 / n)
 * so a trial is scored by the fraction alone and the best step is the fraction without the square.
 * SPDX-License-Identifier: Apache-2.0 */
#include "quantize/fit.h"

typedef struct trial {
    float inverse[LP_TRIES], shift[LP_TRIES]; /* q is the nearest to x * inverse + shift */
    float q[LP_TRIES], qq[LP_TRIES], xq[LP_TRIES];
} trial;

static void try_sums(const float *x, unsigned n, float low, float high, trial *t) {
    float sq[LP_TRIES] = {0}, sqq[LP_TRIES] = {0}, sxq[LP_TRIES] = {0};
    for (unsigned i = 0; i < n; i++) {
        for (unsigned l = 0; l < LP_TRIES; l++) {
            float q = lp_nearest(x[i] * t->inverse[l] + t->shift[l], low, high);
            sq[l] += q;
            sqq[l] += q * q;
            sxq[l] += x[i] * q;
        }
    }
    for (unsigned l = 0; l < LP_TRIES; l++) {
        t->q[l] = sq[l];
        t->qq[l] = sqq[l];
        t->xq[l] = sxq[l];
    }
}

void lp_add_errors(const float *x, unsigned n, const lp_grids *grids, float error[LP_TRIES]) {
    float inverse[LP_TRIES], step[LP_TRIES], offset[LP_TRIES], sum[LP_TRIES];
    float low = grids->low, high = grids->high;
    for (unsigned l = 0; l < LP_TRIES; l++) {
        step[l] = grids->step[l];
        offset[l] = grids->offset[l];
        inverse[l] = lp_inverse(step[l]);
        sum[l] = error[l];
    }
    for (unsigned i = 0; i < n; i++) {
        for (unsigned l = 0; l < LP_TRIES; l++) {
            float q = lp_nearest((x[i] - offset[l]) * inverse[l], low, high);
            float difference = x[i] - (step[l] * q + offset[l]);
            sum[l] += difference * difference;
        }
    }
    for (unsigned l = 0; l < LP_TRIES; l++) error[l] = sum[l];
}

unsigned lp_least(const float error[LP_TRIES]) {
    unsigned best = 0;
    for (unsigned l = 1; l < LP_TRIES; l++) {
        if (error[l] < error[best]) best = l;
    }
    return best;
}

lp_sums lp_assign(const float *x, unsigned n, float step, float offset, float low, float high,
                  int8_t *q) {
    lp_sums sums = {0, 0, 0};
    float inverse = lp_inverse(step);
    for (unsigned i = 0; i < n; i++) {
        float value = lp_nearest((x[i] - offset) * inverse, low, high);
        q[i] = (int8_t)value;
        sums.q += value;
        sums.qq += value * value;
        sums.xq += x[i] * value;
    }
    return sums;
}

float lp_max_magnitude(const float *x, unsigned n) {
    float most = 0.0f;
    for (unsigned i = 0; i < n; i++) {
        float magnitude = x[i] < 0.0f ? -x[i] : x[i];
        if (magnitude > most) most = magnitude;
    }
    return most;
}

/* Keeps the best of a trial's lanes: *score is what it explains of sum x^2. */
static void keep_best_step(const trial *t, float *score, float *step) {
    for (unsigned l = 0; l < LP_TRIES; l++) {
        if (t->qq[l] <= 0.0f) continue;
        float explained = t->xq[l] * t->xq[l] / t->qq[l];
        if (explained > *score) {
            *score = explained;
            *step = t->xq[l] / t->qq[l];
        }
    }
}

float lp_fit_step(const float *x, unsigned n, const lp_levels *levels) {
    float most = lp_max_magnitude(x, n);
    if (most <= LP_TINY) return 0.0f;
    float score = 0.0f, step = 0.0f;
    trial t = {.shift = {0}};
    for (unsigned sign = 0; sign < (levels->positive ? 1u : 2u); sign++) {
        for (unsigned b = 0; b < levels->batches; b++) {
            for (unsigned l = 0; l < LP_TRIES; l++) {
                float level = levels->first + levels->delta * (float)(LP_TRIES * b + l);
                t.inverse[l] = (sign == 0 ? level : -level) / most;
            }
            try_sums(x, n, levels->low, levels->high, &t);
            keep_best_step(&t, &score, &step);
        }
    }
    if (step == 0.0f) return 0.0f;
    /* Around the best, closer together than the first trials were. */
    float width = levels->delta / levels->high;
    for (unsigned l = 0; l < LP_TRIES; l++) {
        t.inverse[l] = (1.0f + width * ((float)l - 7.5f) / 8.0f) / step;
    }
    try_sums(x, n, levels->low, levels->high, &t);
    keep_best_step(&t, &score, &step);
    return step;
}

typedef struct affine {
    float score, step, offset;
} affine;

/* Tries grids from bottom[l] to top[l] on n weights y less their mean. */
static void try_ends(const float *y, unsigned n, float mean, float high,
                     const float bottom[LP_TRIES], const float top[LP_TRIES], affine *best) {
    trial t;
    for (unsigned l = 0; l < LP_TRIES; l++) {
        t.inverse[l] = high / (top[l] - bottom[l]);
        t.shift[l] = (mean - bottom[l]) * t.inverse[l];
    }
    try_sums(y, n, 0.0f, high, &t);
    for (unsigned l = 0; l < LP_TRIES; l++) {
        float spread = t.qq[l] - t.q[l] * t.q[l] / (float)n;
        if (spread <= 0.0f) continue;
        float explained = t.xq[l] * t.xq[l] / spread;
        if (explained > best->score) {
            best->score = explained;
            best->step = t.xq[l] / spread;
            best->offset = mean - best->step * t.q[l] / (float)n;
        }
    }
}

void lp_fit_affine(const float *x, unsigned n, float high, bool below_zero, float *step,
                   float *offset) {
    /* Where the grid's ends lie, in steps inwards of the smallest and the largest weight. */
    static const float ends[8] = {-0.5f, -0.25f, 0.0f, 0.25f, 0.5f, 0.75f, 1.0f, 1.5f};
    float least = x[0], most = x[0], sum = 0.0f;
    for (unsigned i = 0; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
        sum += x[i];
    }
    if (below_zero && least > 0.0f) least = 0.0f;
    float mean = sum / (float)n, unit = (most - least) / high;
    *step = 0.0f;
    *offset = least;
    if (unit * high <= LP_TINY) return;
    float y[32];
    for (unsigned i = 0; i < n; i++) y[i] = x[i] - mean;
    affine best = {0.0f, 0.0f, 0.0f};
    float bottom[LP_TRIES], top[LP_TRIES];
    for (unsigned b = 0; b < 4; b++) {
        for (unsigned l = 0; l < LP_TRIES; l++) {
            bottom[l] = least + unit * ends[l % 8];
            top[l] = most - unit * ends[2 * b + l / 8];
        }
        try_ends(y, n, mean, high, bottom, top, &best);
    }
    if (best.step > 0.0f) {
        float from = best.offset, to = best.offset + high * best.step, near = best.step * 0.1f;
        for (unsigned l = 0; l < LP_TRIES; l++) {
            bottom[l] = from + near * ((float)(l % 4) - 1.5f);
            top[l] = to + near * ((float)(l / 4) - 1.5f);
        }
        try_ends(y, n, mean, high, bottom, top, &best);
    }
    if (below_zero && (best.offset > 0.0f || best.step <= 0.0f)) {
        const lp_levels levels = {0.0f, high, high - 3.0f, 0.25f, 1, true};
        best.offset = 0.0f;
        best.step = lp_fit_step(x, n, &levels);
    }
    *step = best.step;
    *offset = best.offset;
}

uint16_t lp_half_bits(float value) {
    uint16_t bits = lp_f32_to_f16(value);
    return (bits & 0x7fffu) > 0x7bffu ? (uint16_t)((bits & 0x8000u) | 0x7bffu) : bits;
}

uint16_t lp_half_near(uint16_t bits, int places) {
    int magnitude = (bits & 0x7fff) + places;
    magnitude = magnitude < 0 ? 0 : magnitude;
    magnitude = magnitude > 0x7bff ? 0x7bff : magnitude;
    return (uint16_t)((bits & 0x8000) | magnitude);
}

lp_half lp_half_of(uint16_t bits) {
    return (lp_half){{(uint8_t)(bits & 0xffu), (uint8_t)(bits >> 8)}};
}
