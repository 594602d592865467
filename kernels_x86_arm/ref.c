/* ref.c - the "ref" level: every slot of lp_kernels in plain C. It is the specification.
 *
 * Written to be read, not to be fast; other levels give the same integer sums and the same order of
 * float operations (see kernels.h), with fma where the processor has it. Block layouts: blocks.h.
 *
 * Activations: see lp_act32 and lp_act256 in blocks.h. exp is our own polynomial (lp_ref_exp), so
 * that levels and C libraries agree.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ref.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "blocks.h"

/* The 16 or 8 partial sums of a dot product, folded by halves: (j, j+8), (j, j+4), (j, j+2), (0,
 * 1). */
static float fold(float *s, unsigned count) {
    for (unsigned width = count / 2; width > 0; width /= 2) {
        for (unsigned j = 0; j < width; j++) s[j] = s[j] + s[j + width];
    }
    return s[0];
}

static void dot16(float sums[16], const float *a, const float *b, size_t n) {
    for (size_t k = 0; k < n; k++) sums[k % 16] = a[k] * b[k] + sums[k % 16];
}

/* ---- activations ---------------------------------------------------------------------------- */

lp_act_kind lp_act_kind_for(uint32_t type, lp_act_mode mode) {
    if (mode == LP_ACT_F32) return LP_ACT_KIND_F32;
    bool wide = mode == LP_ACT_INT16;
    switch (type) {
    case LP_TYPE_Q4_0:
    case LP_TYPE_Q4_1:
    case LP_TYPE_Q5_0:
    case LP_TYPE_Q5_1:
    case LP_TYPE_Q8_0:
        return wide ? LP_ACT_KIND_I16_32 : LP_ACT_KIND_I8_32;
    case LP_TYPE_Q2_K:
    case LP_TYPE_Q3_K:
    case LP_TYPE_Q4_K:
    case LP_TYPE_Q5_K:
    case LP_TYPE_Q6_K:
        return wide ? LP_ACT_KIND_I16_256 : LP_ACT_KIND_I8_256;
    case LP_TYPE_BF16:
        return wide ? LP_ACT_KIND_F32 : LP_ACT_KIND_BF16;
    default:
        return LP_ACT_KIND_F32;
    }
}

size_t lp_attention_part_floats(size_t value_dim) {
    return (value_dim + 15) / 16 * 16 + 16;
}

size_t lp_kv_bytes(lp_kv_type type, size_t n) {
    switch (type) {
    case LP_KV_F16:
        return n * sizeof(uint16_t);
    case LP_KV_Q8_0:
        return n / 32 * sizeof(lp_q8_0);
    default:
        return n * sizeof(float);
    }
}

/* Whole lines of 64 bytes, an odd number of them. */
static size_t padded_row(size_t bytes) {
    return ((bytes + 63) / 64 | 1) * 64;
}

static size_t act_row_bytes(lp_act_kind kind, size_t n_in) {
    switch (kind) {
    case LP_ACT_KIND_I8_32:
        return n_in / 32 * sizeof(lp_act32);
    case LP_ACT_KIND_I8_256:
        return n_in / 256 * sizeof(lp_act256);
    case LP_ACT_KIND_I16_32:
        return 2 * act_row_bytes(LP_ACT_KIND_I8_32, n_in);
    case LP_ACT_KIND_I16_256:
        return 2 * act_row_bytes(LP_ACT_KIND_I8_256, n_in);
    case LP_ACT_KIND_BF16:
        return padded_row(n_in * sizeof(uint16_t));
    default:
        return padded_row(n_in * sizeof(float));
    }
}

size_t lp_ref_act_bytes(lp_act_kind kind, size_t n_rows, size_t n_in) {
    return n_rows * act_row_bytes(kind, n_in);
}

/* Quantizes n values and returns the scale. A block without a usable magnitude becomes zeros; NaN
 * and infinity give some int8, and a scale that carries the infinity on. */
static float quantize(const float *x, int8_t *q, size_t n) {
    float amax = 0.0f;
    for (size_t i = 0; i < n; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    float inverse = amax < 1e-30f ? 0.0f : 127.0f / amax;
    for (size_t i = 0; i < n; i++) {
        /* Adding 1.5 * 2^23 leaves the integer, rounded half to even, in the low mantissa bits. */
        float shifted = x[i] * inverse + 12582912.0f;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        q[i] = (int8_t)(uint8_t)bits;
    }
    return amax < 1e-30f ? 0.0f : amax / 127.0f;
}

static void quantize_block32(const float *x, lp_act32 *block) {
    block->d = quantize(x, block->q, 32);
    int32_t sum = 0;
    for (unsigned i = 0; i < 32; i++) sum += block->q[i];
    block->s = block->d * (float)sum;
    block->correction = -128 * sum;
}

static void quantize_block256(const float *x, lp_act256 *block) {
    block->d = quantize(x, block->q, 256);
    for (unsigned j = 0; j < 16; j++) {
        int32_t sum = 0;
        for (unsigned i = 0; i < 16; i++) sum += block->q[16 * j + i];
        block->sums[j] = (int16_t)sum;
        block->owed[j] = -32 * sum;
    }
    for (unsigned j = 0; j < 8; j++)
        block->sums32[j] = (int16_t)(block->sums[2 * j] + block->sums[2 * j + 1]);
}

/* What a block's quants lack of x: both operations rounded. */
static void rest_of(const float *x, float d, const int8_t *q, float *rest, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float product = d * (float)q[i];
        rest[i] = x[i] - product;
    }
}

static void quantize_acts(lp_act_kind kind, const float *x, size_t stride, size_t n_rows,
                          size_t row_begin, size_t row_end, size_t n_in, void *acts) {
    (void)n_rows;
    float rest[256];
    for (size_t r = row_begin; r < row_end; r++) {
        const float *row = x + r * stride;
        uint8_t *out = (uint8_t *)acts + r * act_row_bytes(kind, n_in);
        if (kind == LP_ACT_KIND_F32 || kind == LP_ACT_KIND_BF16)
            memset(out, 0, act_row_bytes(kind, n_in));
        if (kind == LP_ACT_KIND_F32) memcpy(out, row, n_in * sizeof(float));
        for (size_t i = 0; kind == LP_ACT_KIND_BF16 && i < n_in; i++) {
            uint16_t bits = fabsf(row[i]) < FLT_MIN ? 0 : lp_f32_to_bf16(row[i]);
            memcpy(out + 2 * i, &bits, sizeof bits);
        }
        bool by32 = kind == LP_ACT_KIND_I8_32 || kind == LP_ACT_KIND_I16_32;
        bool by256 = kind == LP_ACT_KIND_I8_256 || kind == LP_ACT_KIND_I16_256;
        for (size_t b = 0; by32 && b < n_in / 32; b++) {
            lp_act32 *block = (lp_act32 *)(void *)out + b;
            quantize_block32(row + 32 * b, block);
            if (kind == LP_ACT_KIND_I8_32) continue;
            rest_of(row + 32 * b, block->d, block->q, rest, 32);
            quantize_block32(rest, block + n_in / 32);
        }
        for (size_t b = 0; by256 && b < n_in / 256; b++) {
            lp_act256 *block = (lp_act256 *)(void *)out + b;
            quantize_block256(row + 256 * b, block);
            if (kind == LP_ACT_KIND_I8_256) continue;
            rest_of(row + 256 * b, block->d, block->q, rest, 256);
            quantize_block256(rest, block + n_in / 256);
        }
    }
}

/* ---- matrix product ------------------------------------------------------------------------- */

/* A weight block as integers: value = d * scales[i / 16] * q[i] + m (32-blocks: scales 1), or
 * value = d * scales[i / 16] * q[i] - dmin * mins[i / 16] (K types). */
typedef struct int_block {
    float d, m, dmin;
    int32_t q[256], scales[16], mins[16];
} int_block;

static float half_value(lp_half half) {
    return lp_f16_to_f32((uint16_t)(half.bytes[0] | (half.bytes[1] << 8)));
}

static void unpack32(uint32_t type, const void *weights, size_t b, int_block *out) {
    const uint8_t *qs = NULL, *qh = NULL;
    lp_half d = {{0, 0}}, m = {{0, 0}};
    int32_t offset = 0;
    if (type == LP_TYPE_Q4_0) {
        const lp_q4_0 *block = (const lp_q4_0 *)weights + b;
        d = block->d, qs = block->qs, offset = 8;
    } else if (type == LP_TYPE_Q4_1) {
        const lp_q4_1 *block = (const lp_q4_1 *)weights + b;
        d = block->d, m = block->m, qs = block->qs;
    } else if (type == LP_TYPE_Q5_0) {
        const lp_q5_0 *block = (const lp_q5_0 *)weights + b;
        d = block->d, qs = block->qs, qh = block->qh, offset = 16;
    } else if (type == LP_TYPE_Q5_1) {
        const lp_q5_1 *block = (const lp_q5_1 *)weights + b;
        d = block->d, m = block->m, qs = block->qs, qh = block->qh;
    } else {
        const lp_q8_0 *block = (const lp_q8_0 *)weights + b;
        for (unsigned i = 0; i < 32; i++) out->q[i] = block->qs[i];
        d = block->d;
    }
    out->d = half_value(d);
    out->m = half_value(m);
    for (unsigned i = 0; qs != NULL && i < 32; i++) {
        int32_t q = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
        if (qh != NULL) q += 16 * ((qh[i / 8] >> (i % 8)) & 1);
        out->q[i] = q - offset;
    }
}

/* Q4_K, Q5_K: eight scales and minimums of 6 bits, each for two runs of 16 elements. */
static void scales_mins(const uint8_t *s, int_block *out) {
    for (unsigned j = 0; j < 16; j++) {
        unsigned b = j / 2;
        if (b < 4) {
            out->scales[j] = s[b] & 63;
            out->mins[j] = s[b + 4] & 63;
        } else {
            out->scales[j] = (s[b + 4] & 15) + 16 * (s[b - 4] >> 6);
            out->mins[j] = (s[b + 4] >> 4) + 16 * (s[b] >> 6);
        }
    }
}

static void unpack256(uint32_t type, const void *weights, size_t b, int_block *out) {
    lp_half d = {{0, 0}}, dmin = {{0, 0}};
    memset(out->mins, 0, sizeof out->mins);
    if (type == LP_TYPE_Q2_K) {
        const lp_q2_k *block = (const lp_q2_k *)weights + b;
        d = block->d, dmin = block->dmin;
        for (unsigned j = 0; j < 16; j++) {
            out->scales[j] = block->scales[j] & 15;
            out->mins[j] = block->scales[j] >> 4;
        }
        for (unsigned i = 0; i < 256; i++) {
            out->q[i] = (block->qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
        }
    } else if (type == LP_TYPE_Q3_K) {
        const lp_q3_k *block = (const lp_q3_k *)weights + b;
        d = block->d;
        for (unsigned j = 0; j < 16; j++) {
            int32_t low = j < 8 ? block->scales[j] & 15 : block->scales[j - 8] >> 4;
            int32_t high = (block->scales[8 + j % 4] >> (2 * (j / 4))) & 3;
            out->scales[j] = low + 16 * high - 32;
        }
        for (unsigned i = 0; i < 256; i++) {
            int32_t low = (block->qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
            out->q[i] = low + 4 * ((block->hmask[i % 32] >> (i / 32)) & 1) - 4;
        }
    } else if (type == LP_TYPE_Q6_K) {
        const lp_q6_k *block = (const lp_q6_k *)weights + b;
        d = block->d;
        for (unsigned j = 0; j < 16; j++) out->scales[j] = block->scales[j];
        for (unsigned i = 0; i < 256; i++) {
            unsigned half = i / 128, group = i % 128 / 32;
            int32_t byte = block->ql[64 * half + 32 * (group % 2) + i % 32];
            int32_t high = (block->qh[32 * half + i % 32] >> (2 * group)) & 3;
            out->q[i] = (group < 2 ? byte & 15 : byte >> 4) + 16 * high - 32;
        }
    } else {
        const lp_q4_k *block4 = (const lp_q4_k *)weights + b;
        const lp_q5_k *block5 = (const lp_q5_k *)weights + b;
        bool five = type == LP_TYPE_Q5_K;
        d = five ? block5->d : block4->d;
        dmin = five ? block5->dmin : block4->dmin;
        const uint8_t *qs = five ? block5->qs : block4->qs;
        scales_mins(five ? block5->scales : block4->scales, out);
        for (unsigned i = 0; i < 256; i++) {
            int32_t byte = qs[32 * (i / 64) + i % 32];
            out->q[i] = i / 32 % 2 == 0 ? byte & 15 : byte >> 4;
            if (five) out->q[i] += 16 * ((block5->qh[i % 32] >> (i / 32)) & 1);
        }
    }
    out->d = half_value(d);
    out->dmin = half_value(dmin);
}

static float dot_row32(uint32_t type, const void *weights, const lp_act32 *acts, size_t n_in) {
    float acc = 0.0f;
    int_block w;
    for (size_t b = 0; b < n_in / 32; b++) {
        unpack32(type, weights, b, &w);
        int32_t sum = 0;
        for (unsigned i = 0; i < 32; i++) sum += w.q[i] * acts[b].q[i];
        acc = w.d * acts[b].d * (float)sum + acc;
        if (type == LP_TYPE_Q4_1 || type == LP_TYPE_Q5_1) acc = w.m * acts[b].s + acc;
    }
    return acc;
}

static float dot_row256(uint32_t type, const void *weights, const lp_act256 *acts, size_t n_in) {
    bool has_min = type == LP_TYPE_Q2_K || type == LP_TYPE_Q4_K || type == LP_TYPE_Q5_K;
    float acc = 0.0f;
    int_block w;
    for (size_t b = 0; b < n_in / 256; b++) {
        unpack256(type, weights, b, &w);
        int32_t sum = 0, min_sum = 0;
        for (unsigned i = 0; i < 256; i++) sum += w.scales[i / 16] * w.q[i] * acts[b].q[i];
        for (unsigned j = 0; j < 16; j++) min_sum += w.mins[j] * acts[b].sums[j];
        acc = w.d * acts[b].d * (float)sum + acc;
        if (has_min) acc = -w.dmin * acts[b].d * (float)min_sum + acc;
    }
    return acc;
}

static float dot_row_f32(const lp_type_info *type, const uint8_t *weights, const float *acts,
                         size_t n_in) {
    const size_t stretch = LP_F32_STRETCH;
    float sum = 0.0f;
    for (size_t k = 0; k < n_in; k += stretch) {
        size_t n = n_in - k < stretch ? n_in - k : stretch;
        float sums[8] = {0}, values[LP_F32_STRETCH];
        lp_dequantize(type->id, weights + k / type->block_len * type->block_bytes, values, n);
        for (size_t i = 0; i < n; i++) sums[i % 8] = values[i] * acts[k + i] + sums[i % 8];
        float folded = fold(sums, 8);
        sum = k == 0 ? folded : sum + folded;
    }
    return sum;
}

static float dot_row_bf16(const uint8_t *weights, const uint8_t *acts, size_t n_in) {
    const size_t stretch = LP_BF16_STRETCH;
    float sum = 0.0f;
    for (size_t k = 0; k < n_in; k += stretch) {
        float sums[8] = {0};
        for (size_t i = k; i < n_in && i < k + stretch; i++) {
            size_t e = i ^ 1;     /* odd before even */
            if (e >= n_in) e = i; /* the last of an odd number */
            uint16_t w, x;
            memcpy(&w, weights + 2 * e, sizeof w);
            memcpy(&x, acts + 2 * e, sizeof x);
            sums[e % 16 / 2] = lp_bf16_to_f32(w) * lp_bf16_to_f32(x) + sums[e % 16 / 2];
        }
        float folded = fold(sums, 8);
        sum = k == 0 ? folded : sum + folded;
    }
    return sum;
}

static void matmul(const lp_matmul *t, size_t n_begin, size_t n_end, void *scratch) {
    (void)scratch;
    size_t rows = t->row_list != NULL ? t->n_list : t->n_rows;
    size_t act_bytes = act_row_bytes(t->kind, t->n_in);
    const lp_type_info *type = lp_type_get(t->type);
    for (size_t i = 0; i < rows; i++) {
        size_t row = t->row_list != NULL ? (size_t)t->row_list[i] : i;
        const void *acts = (const uint8_t *)t->acts + row * act_bytes;
        for (size_t n = n_begin; n < n_end; n++) {
            const uint8_t *weights = (const uint8_t *)t->weights + n * t->row_bytes;
            float *out = t->out + i * t->out_stride + n;
            if (t->kind == LP_ACT_KIND_I8_32) {
                *out = dot_row32(t->type, weights, acts, t->n_in);
            } else if (t->kind == LP_ACT_KIND_I8_256) {
                *out = dot_row256(t->type, weights, acts, t->n_in);
            } else if (t->kind == LP_ACT_KIND_I16_32) {
                const lp_act32 *high = acts, *low = high + t->n_in / 32;
                *out = dot_row32(t->type, weights, high, t->n_in) +
                       dot_row32(t->type, weights, low, t->n_in);
            } else if (t->kind == LP_ACT_KIND_I16_256) {
                const lp_act256 *high = acts, *low = high + t->n_in / 256;
                *out = dot_row256(t->type, weights, high, t->n_in) +
                       dot_row256(t->type, weights, low, t->n_in);
            } else if (t->kind == LP_ACT_KIND_BF16) {
                *out = dot_row_bf16(weights, acts, t->n_in);
            } else {
                *out = dot_row_f32(type, weights, acts, t->n_in);
            }
        }
    }
}

/* ---- exp and what is made of it ------------------------------------------------------------- */

/* e^x = 2^n * e^r, n = round(x / ln 2), |r| <= ln(2) / 2; e^r by its Taylor series to r^7 / 7!,
 * whose next term is below 6e-9 there. ln 2 is split in two so that n * high is exact. Below -87
 * the result is 0, above 88 it is e^88. */
static float exp_of(float x) {
    float clamped = x > 88.0f ? 88.0f : x;
    clamped = clamped > -87.0f ? clamped : -87.0f;       /* a NaN lands here */
    float shifted = clamped * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: n in the low bits */
    float n = shifted - 12582912.0f;
    float r = n * -0.693359375f + clamped;
    r = n * 2.12194440e-4f + r;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

/* silu(g) = g / (1 + e^-g) */
static void silu_mul(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exp_of(-gate[i])) * up[i];
}

/* gelu_tanh(g) = g/2 (1 + tanh u) = g / (1 + e^-2u), u = sqrt(2/pi) (g + 0.044715 g^3) */
static void gelu_mul(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float g = gate[i];
        float minus_2u = g * (g * g * -0.0713548162726f + -1.59576912161f);
        gate[i] = g / (1.0f + exp_of(minus_2u)) * up[i];
    }
}

static void max_sum_exp(const float *x, size_t n, float *max, double *sum) {
    float most = -INFINITY;
    for (size_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    double total = 0.0;
    for (size_t i = 0; i < n; i += 1024) {
        float sums[16] = {0};
        for (size_t k = i; k < n && k < i + 1024; k++) sums[k % 16] += exp_of(x[k] - most);
        total += (double)fold(sums, 16);
    }
    *max = most;
    *sum = total;
}

/* ---- attention ------------------------------------------------------------------------------ */

#define BLOCK 64 /* positions that share one maximum; begins at multiples of itself */

static float kv_value(lp_kv_type type, const uint8_t *vector, size_t i) {
    if (type == LP_KV_F16) {
        uint16_t half;
        memcpy(&half, vector + 2 * i, sizeof half);
        return lp_f16_to_f32(half);
    }
    if (type == LP_KV_Q8_0) {
        const lp_q8_0 *block = (const lp_q8_0 *)(const void *)vector + i / 32;
        return half_value(block->d) * (float)block->qs[i % 32];
    }
    float value;
    memcpy(&value, vector + 4 * i, sizeof value);
    return value;
}

static size_t slot_of(const lp_attention *a, size_t position) {
    size_t block = (size_t)a->table[position / a->block_len] * a->table_step;
    return block * a->block_len + position % a->block_len;
}

static float score_of(const lp_attention *a, const float *q, size_t position) {
    const uint8_t *key = a->keys + slot_of(a, position) * a->key_slot_bytes + a->key_head_offset;
    float sums[16] = {0};
    for (size_t i = 0; i < a->head_dim; i++) {
        sums[i % 16] = q[i] * kv_value(a->kv_type, key, i) + sums[i % 16];
    }
    float score = fold(sums, 16) * a->scale;
    /* c * tanh(s / c), tanh y = 1 - 2 / (e^2y + 1) */
    if (a->softcap > 0) {
        float e = exp_of(score * (2.0f / a->softcap));
        score = (1.0f - 2.0f / (e + 1.0f)) * a->softcap;
    }
    return score;
}

/* Of positions first..last, all of one stretch. Softmax on the run: when a block raises the
 * maximum, what was summed so far is scaled down. part: see lp_attention_part_floats. */
static void attend_stretch(const lp_attention *a, const float *q, float *part, size_t first,
                           size_t last) {
    float max = -INFINITY, total = 0.0f;
    for (size_t j = 0; j < a->value_dim; j++) part[j] = 0.0f;
    for (size_t block = first / BLOCK * BLOCK; block <= last; block += BLOCK) {
        size_t begin = block < first ? first : block;
        size_t end = last + 1 < block + BLOCK ? last + 1 : block + BLOCK;
        float scores[BLOCK], sums[16] = {0}, raised = max;
        for (size_t p = begin; p < end; p++) {
            scores[p - block] = score_of(a, q, p);
            raised = scores[p - block] > raised ? scores[p - block] : raised;
        }
        float shrink = exp_of(max - raised);
        max = raised;
        for (size_t p = begin; p < end; p++) {
            scores[p - block] = exp_of(scores[p - block] - max);
            sums[p % 16] += scores[p - block];
        }
        total = total * shrink + fold(sums, 16);
        for (size_t j = 0; j < a->value_dim; j++) part[j] *= shrink;
        for (size_t p = begin; p < end; p++) {
            const uint8_t *value =
                a->values + slot_of(a, p) * a->value_slot_bytes + a->value_head_offset;
            for (size_t j = 0; j < a->value_dim; j++) {
                part[j] = scores[p - block] * kv_value(a->kv_type, value, j) + part[j];
            }
        }
    }
    size_t width = lp_attention_part_floats(a->value_dim) - 16;
    part[width] = max;
    part[width + 1] = total;
}

/* sum becomes what all positions of both give; part's are those that follow. */
static void merge(float *sum, const float *part, size_t value_dim) {
    size_t width = lp_attention_part_floats(value_dim) - 16;
    float most = part[width] > sum[width] ? part[width] : sum[width];
    float keep = exp_of(sum[width] - most), take = exp_of(part[width] - most);
    for (size_t j = 0; j < value_dim; j++) sum[j] = part[j] * take + sum[j] * keep;
    sum[width] = most;
    sum[width + 1] = sum[width + 1] * keep + part[width + 1] * take;
}

static void average(const float *sum, size_t value_dim, float *out) {
    float inverse = 1.0f / sum[lp_attention_part_floats(value_dim) - 15];
    for (size_t j = 0; j < value_dim; j++) out[j] = sum[j] * inverse;
}

static void attend(const lp_attention *a, const float *q, float *out, size_t first, size_t last,
                   float *scratch) {
    float *sum = scratch, *part = sum + lp_attention_part_floats(a->value_dim);
    for (size_t at = first; at <= last;
         at = (at / LP_ATTENTION_STRETCH + 1) * LP_ATTENTION_STRETCH) {
        size_t end = (at / LP_ATTENTION_STRETCH + 1) * LP_ATTENTION_STRETCH - 1;
        attend_stretch(a, q, at == first ? sum : part, at, end < last ? end : last);
        if (at != first) merge(sum, part, a->value_dim);
    }
    average(sum, a->value_dim, out);
}

static void attention(const lp_attention *a, const float *q, float *out, void *scratch) {
    attend(a, q, out, a->first, a->last, scratch);
}

static void attention_many(const lp_attention *a, const lp_attention_query *queries, size_t n,
                           void *scratch) {
    for (size_t i = 0; i < n; i++) {
        attend(a, queries[i].q, queries[i].out, queries[i].first, queries[i].last, scratch);
    }
}

static void attention_parts(const lp_attention *a, const lp_attention_query *queries, size_t n,
                            void *scratch) {
    (void)scratch;
    for (size_t i = 0; i < n; i++) {
        attend_stretch(a, queries[i].q, queries[i].out, queries[i].first, queries[i].last);
    }
}

static void attention_merge(float *parts, size_t n, size_t value_dim, float *out) {
    size_t floats = lp_attention_part_floats(value_dim);
    for (size_t i = 1; i < n; i++) merge(parts, parts + i * floats, value_dim);
    average(parts, value_dim, out);
}

static size_t attention_scratch(size_t head_dim, size_t value_dim) {
    (void)head_dim;
    return 2 * lp_attention_part_floats(value_dim) * sizeof(float);
}

static void store_kv(lp_kv_type type, const float *x, void *out, size_t n) {
    if (type == LP_KV_F32) {
        memcpy(out, x, n * sizeof(float));
        return;
    }
    for (size_t b = 0; type == LP_KV_Q8_0 && b < n / 32; b++) {
        lp_q8_0 *block = (lp_q8_0 *)out + b;
        uint16_t half = lp_f32_to_f16(quantize(x + 32 * b, block->qs, 32));
        memcpy(&block->d, &half, sizeof half);
    }
    for (size_t i = 0; type == LP_KV_F16 && i < n; i++) {
        uint16_t half = lp_f32_to_f16(x[i]);
        memcpy((uint8_t *)out + 2 * i, &half, sizeof half);
    }
}

/* ---- element by element --------------------------------------------------------------------- */

static void rms_norm(const float *x, const float *weight, float eps, float *out, size_t n) {
    float sums[16] = {0};
    dot16(sums, x, x, n);
    float factor = 1.0f / sqrtf(fold(sums, 16) / (float)n + eps);
    for (size_t i = 0; i < n; i++) {
        float normed = x[i] * factor;
        out[i] = weight != NULL ? normed * weight[i] : normed;
    }
}

static void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

static void scale(float *x, float factor, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] *= factor;
}

/* Rounded products on every level: a rotation is too cheap to be worth a difference. */
static void rope(float *head, const float *cos_sin, size_t n_rot, bool neox) {
    size_t half = n_rot / 2;
    for (size_t i = 0; i < half; i++) {
        float *a = neox ? head + i : head + 2 * i;
        float *b = neox ? head + i + half : head + 2 * i + 1;
        float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x = *a, y = *b;
        *a = x * c - y * s;
        *b = x * s + y * c;
    }
}

static size_t streams(const lp_matmul *t, size_t n_begin, size_t n_end, size_t *rows_apart) {
    (void)t, (void)n_begin, (void)n_end;
    *rows_apart = 0;
    return 1;
}

const lp_kernels lp_kernels_ref = {
    .name = "ref",
    .description = "plain C, the specification: any processor",
    .act_bytes = lp_ref_act_bytes,
    .quantize_acts = quantize_acts,
    .act_row_group = 1,
    .matmul = matmul,
    .weight_row_group = 1,
    .streams = streams,
    .matmul_scratch = 64,
    .dequantize_row = lp_dequantize,
    .attention = attention,
    .attention_scratch = attention_scratch,
    .attention_many = attention_many,
    .attention_parts = attention_parts,
    .attention_merge = attention_merge,
    .store_kv = store_kv,
    .rms_norm = rms_norm,
    .add = add,
    .scale = scale,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .rope = rope,
    .max_sum_exp = max_sum_exp,
};
