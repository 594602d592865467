/* blocks256.c - quantizers of the types with blocks of 256: Q4_K, Q5_K, Q6_K.
 *
 * Such a block has a binary16 scale (two with minimums) and a small integer scale (and minimum)
 * for each of its runs of 32 or 16 weights. The search goes from the parts to the whole and back:
 *   1. each run alone: the best real step (and offset), with the q of that;
 *   2. the block's scales: for a number of them, what rounding every run's step and offset to
 *      their multiples adds to the error while the q stay; the least of all is taken;
 *   3. each run: integers around its own, with new q, by the error of the stored block;
 *   4. the block's scales by least squares for all the integers, and their neighbours in
 *      binary16; again from 3 while the error falls.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "quantize/fit.h"

enum { BLOCK = 256, RUN = 32, RUNS = BLOCK / RUN, SHORT = 16, SHORTS = BLOCK / SHORT, ROUNDS = 2 };

static int within(int v, int low, int high) {
    return v < low ? low : v > high ? high : v;
}

/* A block's scale; the smallest there is rather than none where a run has a step. */
static uint16_t scale_bits(float value) {
    uint16_t bits = lp_half_bits(value);
    return bits == 0 && value > 0.0f ? 1 : bits;
}

/* Q4_K and Q5_K: d * sc * q - dmin * m. */
typedef struct affine_block {
    uint16_t d, dmin; /* binary16 */
    int sc[RUNS], m[RUNS];
    float error; /* squared, of the whole block */
} affine_block;

/* The runs fitted alone, an array each so that the loops over runs vectorize. Around a run's best
 * step and offset the error grows by qq * ds^2 + 2 * q * ds * dm + RUN * dm^2 while the q stay. */
typedef struct run_fits {
    float step[RUNS], offset[RUNS], q[RUNS], qq[RUNS];
} run_fits;

/* Step 2 for one pair of scales: the least growth of all runs' errors, and the integers for it. */
static float round_runs(const run_fits *fits, float d, float dmin, float sc[RUNS], float m[RUNS]) {
    float growth[RUNS], inverse = lp_inverse(d), inverse_min = lp_inverse(dmin);
    for (unsigned above = 0; above < 2; above++) { /* the multiples below and above the step */
        for (unsigned r = 0; r < RUNS; r++) {
            float place = fits->step[r] * inverse + (above != 0 ? 0.5f : -0.5f);
            float s = lp_nearest(place, 0.0f, 63.0f);
            float ds = d * s - fits->step[r];
            float wanted = fits->q[r] * ds * (1.0f / (float)RUN) - fits->offset[r];
            float min = lp_nearest(wanted * inverse_min, 0.0f, 63.0f);
            float dm = -dmin * min - fits->offset[r];
            float more = ds * (fits->qq[r] * ds + 2.0f * fits->q[r] * dm) + (float)RUN * dm * dm;
            bool better = above == 0 || more < growth[r];
            growth[r] = better ? more : growth[r];
            sc[r] = better ? s : sc[r];
            m[r] = better ? min : m[r];
        }
    }
    float sum = 0.0f;
    for (unsigned r = 0; r < RUNS; r++) sum += growth[r];
    return sum;
}

static void choose_scales(const run_fits *fits, affine_block *block) {
    enum { TRIALS = 4 };
    float steps = 0.0f, offsets = 0.0f, least = -1.0f;
    for (unsigned r = 0; r < RUNS; r++) {
        steps = fits->step[r] > steps ? fits->step[r] : steps;
        offsets = -fits->offset[r] > offsets ? -fits->offset[r] : offsets;
    }
    for (unsigned trial = 0; trial < TRIALS * TRIALS; trial++) {
        /* From a little too small for the largest run up. */
        float more = 1.0f + 0.03f * ((float)(trial % TRIALS) - 1.0f);
        float more_min = 1.0f + 0.03f * ((float)(trial / TRIALS) - 1.0f);
        uint16_t d = scale_bits(steps / 63.0f * more);
        uint16_t dmin = scale_bits(offsets / 63.0f * more_min);
        float sc[RUNS], m[RUNS];
        float growth = round_runs(fits, lp_f16_to_f32(d), lp_f16_to_f32(dmin), sc, m);
        if (least >= 0.0f && growth >= least) continue;
        least = growth;
        block->d = d;
        block->dmin = dmin;
        for (unsigned r = 0; r < RUNS; r++) {
            block->sc[r] = (int)sc[r];
            block->m[r] = (int)m[r];
        }
    }
}

/* Step 3. Updates the block's integers and its error. */
static void improve_runs(const float *x, float high, affine_block *block) {
    float d = lp_f16_to_f32(block->d), dmin = lp_f16_to_f32(block->dmin);
    lp_grids grids = {.low = 0.0f, .high = high};
    block->error = 0.0f;
    for (unsigned r = 0; r < RUNS; r++) {
        int sc[LP_TRIES], m[LP_TRIES];
        float error[LP_TRIES] = {0};
        for (int l = 0; l < LP_TRIES; l++) {
            /* Lane 0 is what is there already. A larger step goes with a lower offset. */
            int more = l == 0 ? 0 : (l - 1) / 5 - 1;
            int lower = l == 0 ? 0 : (l - 1) % 5 - 2;
            sc[l] = within(block->sc[r] + more, 0, 63);
            m[l] = within(block->m[r] + more + lower, 0, 63);
            grids.step[l] = d * (float)sc[l];
            grids.offset[l] = -(dmin * (float)m[l]);
        }
        lp_add_errors(x + RUN * r, RUN, &grids, error);
        unsigned best = lp_least(error);
        block->sc[r] = sc[best];
        block->m[r] = m[best];
        block->error += error[best];
    }
}

/* Step 4: minimizes over d and dmin the sum of (x - d * sc * q + dmin * m)^2, q given. Returns
 * whether the error fell. */
static bool improve_scales(const float *x, float high, affine_block *block) {
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    float d = lp_f16_to_f32(block->d), dmin = lp_f16_to_f32(block->dmin);
    for (unsigned r = 0; r < RUNS; r++) {
        int8_t q[RUN];
        const float *run = x + RUN * r;
        double sc = block->sc[r], m = block->m[r], sum = 0;
        lp_sums sums = lp_assign(run, RUN, d * (float)block->sc[r], -(dmin * (float)block->m[r]),
                                 0.0f, high, q);
        for (unsigned i = 0; i < RUN; i++) sum += (double)run[i];
        aa += sc * sc * (double)sums.qq;
        ab += sc * m * (double)sums.q;
        bb += m * m * (double)RUN;
        xa += sc * (double)sums.xq;
        xb += m * sum;
    }
    double det = aa * bb - ab * ab;
    uint16_t base = block->d, base_min = block->dmin;
    if (det > 1e-9 * aa * bb) {
        base = lp_half_bits((float)((bb * xa - ab * xb) / det));
        base_min = lp_half_bits((float)((ab * xa - aa * xb) / det));
    } else if (aa > 0) {
        base = lp_half_bits((float)((xa + (double)dmin * ab) / aa));
    }
    if ((base | base_min) & 0x8000u) return false; /* negative: no better than what is there */
    lp_grids grids = {.low = 0.0f, .high = high};
    float error[LP_TRIES] = {0};
    for (unsigned r = 0; r < RUNS; r++) {
        for (int l = 0; l < LP_TRIES; l++) {
            float step = lp_f16_to_f32(lp_half_near(base, l % 4 - 1));
            float min = lp_f16_to_f32(lp_half_near(base_min, l / 4 - 1));
            grids.step[l] = step * (float)block->sc[r];
            grids.offset[l] = -(min * (float)block->m[r]);
        }
        lp_add_errors(x + RUN * r, RUN, &grids, error);
    }
    unsigned best = lp_least(error);
    if (error[best] >= block->error) return false;
    block->d = lp_half_near(base, (int)best % 4 - 1);
    block->dmin = lp_half_near(base_min, (int)best / 4 - 1);
    block->error = error[best];
    return true;
}

static void fit_affine_block(const float *x, float high, affine_block *block) {
    run_fits fits;
    for (unsigned r = 0; r < RUNS; r++) {
        int8_t q[RUN];
        const float *run = x + RUN * r;
        lp_fit_affine(run, RUN, high, true, &fits.step[r], &fits.offset[r]);
        lp_sums sums = lp_assign(run, RUN, fits.step[r], fits.offset[r], 0.0f, high, q);
        fits.q[r] = sums.q;
        fits.qq[r] = sums.qq;
    }
    choose_scales(&fits, block);
    for (unsigned round = 0; round < ROUNDS; round++) {
        improve_runs(x, high, block);
        if (!improve_scales(x, high, block)) break;
    }
}

/* The eight scales and minimums of 6 bits in 12 bytes; drawn in blocks.h. */
static void pack_scales(const affine_block *block, uint8_t out[12]) {
    for (unsigned r = 0; r < 4; r++) {
        unsigned sc = (unsigned)block->sc[r + 4], m = (unsigned)block->m[r + 4];
        out[r] = (uint8_t)((unsigned)block->sc[r] | (sc >> 4 << 6));
        out[r + 4] = (uint8_t)((unsigned)block->m[r] | (m >> 4 << 6));
        out[r + 8] = (uint8_t)((sc & 15u) | (m & 15u) << 4);
    }
}

/* qs[128]; and qh[32] with the fifth bits, if not NULL. */
static void pack_affine(const float *x, float high, const affine_block *block, uint8_t *qs,
                        uint8_t *qh) {
    float d = lp_f16_to_f32(block->d), dmin = lp_f16_to_f32(block->dmin);
    memset(qs, 0, BLOCK / 2);
    if (qh != NULL) memset(qh, 0, RUN);
    for (unsigned r = 0; r < RUNS; r++) {
        int8_t q[RUN];
        lp_assign(x + RUN * r, RUN, d * (float)block->sc[r], -(dmin * (float)block->m[r]), 0.0f,
                  high, q);
        for (unsigned i = 0; i < RUN; i++) {
            unsigned value = (unsigned)q[i];
            qs[RUN * (r / 2) + i] |= (uint8_t)((value & 15u) << (4 * (r % 2)));
            if (qh != NULL) qh[i] |= (uint8_t)((value >> 4) << r);
        }
    }
}

void lp_quantize_q4_k(const float *x, lp_q4_k *out) {
    affine_block block;
    fit_affine_block(x, 15.0f, &block);
    out->d = lp_half_of(block.d);
    out->dmin = lp_half_of(block.dmin);
    pack_scales(&block, out->scales);
    pack_affine(x, 15.0f, &block, out->qs, NULL);
}

void lp_quantize_q5_k(const float *x, lp_q5_k *out) {
    affine_block block;
    fit_affine_block(x, 31.0f, &block);
    out->d = lp_half_of(block.d);
    out->dmin = lp_half_of(block.dmin);
    pack_scales(&block, out->scales);
    pack_affine(x, 31.0f, &block, out->qs, out->qh);
}

/* Q6_K: d * sc * q with q from -32 to 31, sc from -128 to 127. */
static const float low6 = -32.0f, high6 = 31.0f;

typedef struct scaled_block {
    uint16_t d;
    int sc[SHORTS];
    float error;
} scaled_block;

/* Step 2. */
static void choose_scale(const float steps[SHORTS], const float qq[SHORTS], scaled_block *block) {
    float most = lp_max_magnitude(steps, SHORTS), least = -1.0f;
    for (unsigned trial = 0; trial < 32; trial++) {
        uint16_t bits = scale_bits(most / 127.0f * (1.0f + 0.004f * (float)trial));
        float d = lp_f16_to_f32(bits), inverse = lp_inverse(d), growth = 0.0f;
        float sc[SHORTS], more[SHORTS];
        for (unsigned r = 0; r < SHORTS; r++) {
            sc[r] = lp_nearest(steps[r] * inverse, -128.0f, 127.0f);
            float ds = steps[r] - d * sc[r];
            more[r] = qq[r] * ds * ds;
        }
        for (unsigned r = 0; r < SHORTS; r++) growth += more[r];
        if (least >= 0.0f && growth >= least) continue;
        least = growth;
        block->d = bits;
        for (unsigned r = 0; r < SHORTS; r++) block->sc[r] = (int)sc[r];
    }
}

/* Step 3. */
static void improve_shorts(const float *x, scaled_block *block) {
    float d = lp_f16_to_f32(block->d);
    lp_grids grids = {.offset = {0}, .low = low6, .high = high6};
    block->error = 0.0f;
    for (unsigned r = 0; r < SHORTS; r++) {
        int sc[LP_TRIES];
        float error[LP_TRIES] = {0};
        for (int l = 0; l < LP_TRIES; l++) {
            sc[l] = within(block->sc[r] + (l == 0 ? 0 : l - 8), -128, 127);
            grids.step[l] = d * (float)sc[l];
        }
        lp_add_errors(x + SHORT * r, SHORT, &grids, error);
        unsigned best = lp_least(error);
        block->sc[r] = sc[best];
        block->error += error[best];
    }
}

/* Step 4. */
static bool improve_scale(const float *x, scaled_block *block) {
    double aa = 0, xa = 0;
    float d = lp_f16_to_f32(block->d);
    for (unsigned r = 0; r < SHORTS; r++) {
        int8_t q[SHORT];
        double sc = block->sc[r];
        lp_sums sums =
            lp_assign(x + SHORT * r, SHORT, d * (float)block->sc[r], 0.0f, low6, high6, q);
        aa += sc * sc * (double)sums.qq;
        xa += sc * (double)sums.xq;
    }
    if (aa <= 0 || xa <= 0) return false;
    uint16_t base = lp_half_bits((float)(xa / aa));
    lp_grids grids = {.offset = {0}, .low = low6, .high = high6};
    float error[LP_TRIES] = {0};
    for (unsigned r = 0; r < SHORTS; r++) {
        for (int l = 0; l < LP_TRIES; l++) {
            grids.step[l] = lp_f16_to_f32(lp_half_near(base, l - 8)) * (float)block->sc[r];
        }
        lp_add_errors(x + SHORT * r, SHORT, &grids, error);
    }
    unsigned best = lp_least(error);
    if (error[best] >= block->error) return false;
    block->d = lp_half_near(base, (int)best - 8);
    block->error = error[best];
    return true;
}

void lp_quantize_q6_k(const float *x, lp_q6_k *out) {
    static const lp_levels levels = {-32.0f, 31.0f, 27.0f, 0.5f, 1, false};
    scaled_block block;
    float steps[SHORTS], qq[SHORTS];
    int8_t q[BLOCK];
    for (unsigned r = 0; r < SHORTS; r++) {
        steps[r] = lp_fit_step(x + SHORT * r, SHORT, &levels);
        qq[r] = lp_assign(x + SHORT * r, SHORT, steps[r], 0.0f, low6, high6, q).qq;
    }
    choose_scale(steps, qq, &block);
    for (unsigned round = 0; round < ROUNDS; round++) {
        improve_shorts(x, &block);
        if (!improve_scale(x, &block)) break;
    }
    memset(out, 0, sizeof *out);
    out->d = lp_half_of(block.d);
    for (unsigned r = 0; r < SHORTS; r++) {
        out->scales[r] = (int8_t)block.sc[r];
        lp_assign(x + SHORT * r, SHORT, lp_f16_to_f32(block.d) * (float)block.sc[r], 0.0f, low6,
                  high6, q + SHORT * r);
    }
    for (unsigned i = 0; i < BLOCK; i++) {
        unsigned value = (unsigned)(q[i] + 32), half = i / 128, group = (i % 128) / 32;
        unsigned low = 64 * half + 32 * (group & 1u) + i % 32;
        out->ql[low] |= (uint8_t)((value & 15u) << (group < 2 ? 0 : 4));
        out->qh[32 * half + i % 32] |= (uint8_t)((value >> 4) << (2 * group));
    }
}
