/* qtype.c - the table of weight types and their values as float32.
 *
 * lp_dequantize is the specification that every kernel is held to; layouts are in blocks.h. All
 * products of a half, an integer scale of up to 8 bits and a quant are exact in float32 or are
 * rounded once, so any order of the multiplications gives the same bits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "qtype.h"

#include <assert.h>
#include <string.h>

#include "blocks.h"

static_assert(sizeof(lp_q4_0) == 18, "q4_0");
static_assert(sizeof(lp_q4_1) == 20, "q4_1");
static_assert(sizeof(lp_q5_0) == 22, "q5_0");
static_assert(sizeof(lp_q5_1) == 24, "q5_1");
static_assert(sizeof(lp_q8_0) == 34, "q8_0");
static_assert(sizeof(lp_q2_k) == 84, "q2_k");
static_assert(sizeof(lp_q3_k) == 110, "q3_k");
static_assert(sizeof(lp_q4_k) == 144, "q4_k");
static_assert(sizeof(lp_q5_k) == 176, "q5_k");
static_assert(sizeof(lp_q6_k) == 210, "q6_k");
static_assert(sizeof(lp_act32) == 44, "act32");
static_assert(sizeof(lp_act256) == 372, "act256");

/* In order of id; ids the format never had or has removed are absent. */
static const lp_type_info types[] = {
    {0, "F32", 1, 4, true},          {1, "F16", 1, 2, true},
    {2, "Q4_0", 32, 18, true},       {3, "Q4_1", 32, 20, true},
    {6, "Q5_0", 32, 22, true},       {7, "Q5_1", 32, 24, true},
    {8, "Q8_0", 32, 34, true},       {9, "Q8_1", 32, 36, false},
    {10, "Q2_K", 256, 84, true},     {11, "Q3_K", 256, 110, true},
    {12, "Q4_K", 256, 144, true},    {13, "Q5_K", 256, 176, true},
    {14, "Q6_K", 256, 210, true},    {15, "Q8_K", 256, 292, false},
    {16, "IQ2_XXS", 256, 66, false}, {17, "IQ2_XS", 256, 74, false},
    {18, "IQ3_XXS", 256, 98, false}, {19, "IQ1_S", 256, 50, false},
    {20, "IQ4_NL", 32, 18, false},   {21, "IQ3_S", 256, 110, false},
    {22, "IQ2_S", 256, 82, false},   {23, "IQ4_XS", 256, 136, false},
    {24, "I8", 1, 1, false},         {25, "I16", 1, 2, false},
    {26, "I32", 1, 4, false},        {27, "I64", 1, 8, false},
    {28, "F64", 1, 8, false},        {29, "IQ1_M", 256, 56, false},
    {30, "BF16", 1, 2, true},        {34, "TQ1_0", 256, 54, false},
    {35, "TQ2_0", 256, 66, false},   {39, "MXFP4", 32, 17, false},
    {40, "NVFP4", 64, 36, false},    {41, "Q1_0", 128, 18, false},
    {42, "Q2_0", 64, 18, false},
};

const lp_type_info *lp_type_get(uint32_t id) {
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (types[i].id == id) return &types[i];
    }
    return NULL;
}

bool lp_type_row_bytes(const lp_type_info *type, size_t n, size_t *bytes) {
    if (n % type->block_len != 0) return false;
    size_t blocks = n / type->block_len;
    if (blocks > SIZE_MAX / type->block_bytes) return false;
    *bytes = blocks * type->block_bytes;
    return true;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float lp_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(half & 0x7fffu) << 13; /* exponent and mantissa in place */
    if (rest >= 0x0f800000u) return float_of(sign | 0x7f800000u | rest); /* infinity, NaN */
    /* The exponent's bias differs by 112; the multiplication also normalizes subnormals. */
    return float_of(bits_of(float_of(rest) * 0x1p112f) | sign);
}

uint16_t lp_f32_to_f16(float value) {
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((rest >> 13) & 0x3ffu)); /* NaN */
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more: infinity */
    if (rest < 0x38800000u) {
        /* Below 2^-14: adding 0.5 makes the unit of the sum's last place 2^-24, that of a
         * subnormal half, and lets the FPU do the rounding. */
        uint32_t sum = bits_of(float_of(rest) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3f000000u));
    }
    uint32_t odd = (rest >> 13) & 1u;
    return (uint16_t)(sign | ((rest - 0x38000000u + 0xfffu + odd) >> 13));
}

float lp_bf16_to_f32(uint16_t value) {
    return float_of((uint32_t)value << 16);
}

uint16_t lp_f32_to_bf16(float value) {
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static float half_value(lp_half half) {
    return lp_f16_to_f32((uint16_t)(half.bytes[0] | (half.bytes[1] << 8)));
}

static unsigned nibble(const uint8_t *qs, unsigned i) {
    return i < 16 ? qs[i] & 15u : (unsigned)(qs[i - 16] >> 4);
}

static unsigned fifth_bit(const uint8_t *qh, unsigned i) {
    return ((unsigned)(qh[i / 8] >> (i % 8)) & 1u) << 4;
}

static void q4_0_block(const lp_q4_0 *b, float *out) {
    float d = half_value(b->d);
    for (unsigned i = 0; i < 32; i++) out[i] = d * (float)((int)nibble(b->qs, i) - 8);
}

static void q4_1_block(const lp_q4_1 *b, float *out) {
    float d = half_value(b->d), m = half_value(b->m);
    for (unsigned i = 0; i < 32; i++) out[i] = d * (float)nibble(b->qs, i) + m;
}

static void q5_0_block(const lp_q5_0 *b, float *out) {
    float d = half_value(b->d);
    for (unsigned i = 0; i < 32; i++) {
        out[i] = d * (float)((int)(nibble(b->qs, i) + fifth_bit(b->qh, i)) - 16);
    }
}

static void q5_1_block(const lp_q5_1 *b, float *out) {
    float d = half_value(b->d), m = half_value(b->m);
    for (unsigned i = 0; i < 32; i++) {
        out[i] = d * (float)(nibble(b->qs, i) + fifth_bit(b->qh, i)) + m;
    }
}

static void q8_0_block(const lp_q8_0 *b, float *out) {
    float d = half_value(b->d);
    for (unsigned i = 0; i < 32; i++) out[i] = d * (float)b->qs[i];
}

static unsigned two_bits(const uint8_t *bytes, unsigned i) {
    unsigned half = i / 128, group = (i % 128) / 32;
    return ((unsigned)bytes[32 * half + i % 32] >> (2 * group)) & 3u;
}

static void q2_k_block(const lp_q2_k *b, float *out) {
    float d = half_value(b->d), dmin = half_value(b->dmin);
    for (unsigned i = 0; i < 256; i++) {
        unsigned sc = b->scales[i / 16];
        out[i] = d * (float)(sc & 15u) * (float)two_bits(b->qs, i) - dmin * (float)(sc >> 4);
    }
}

static void q3_k_block(const lp_q3_k *b, float *out) {
    float d = half_value(b->d);
    for (unsigned i = 0; i < 256; i++) {
        unsigned j = i / 16;
        unsigned low = j < 8 ? b->scales[j] & 15u : (unsigned)(b->scales[j - 8] >> 4);
        unsigned high = ((unsigned)b->scales[8 + j % 4] >> (2 * (j / 4))) & 3u;
        unsigned bit = ((unsigned)b->hmask[i % 32] >> (i / 32)) & 1u;
        int q = (int)two_bits(b->qs, i) - (bit != 0 ? 0 : 4);
        out[i] = d * (float)((int)(low | (high << 4)) - 32) * (float)q;
    }
}

/* The b-th scale and minimum of Q4_K and Q5_K. */
static void scale_min(const uint8_t *s, unsigned b, float *scale, float *min) {
    if (b < 4) {
        *scale = (float)(s[b] & 63u);
        *min = (float)(s[b + 4] & 63u);
    } else {
        *scale = (float)((s[b + 4] & 15u) | ((unsigned)(s[b - 4] >> 6) << 4));
        *min = (float)((unsigned)(s[b + 4] >> 4) | ((unsigned)(s[b] >> 6) << 4));
    }
}

static void q4_k_block(const lp_q4_k *b, float *out) {
    float d = half_value(b->d), dmin = half_value(b->dmin);
    for (unsigned i = 0; i < 256; i++) {
        float scale, min;
        scale_min(b->scales, i / 32, &scale, &min);
        unsigned byte = b->qs[32 * (i / 64) + i % 32];
        unsigned q = (i / 32) % 2 == 0 ? byte & 15u : byte >> 4;
        out[i] = d * scale * (float)q - dmin * min;
    }
}

static void q5_k_block(const lp_q5_k *b, float *out) {
    float d = half_value(b->d), dmin = half_value(b->dmin);
    for (unsigned i = 0; i < 256; i++) {
        float scale, min;
        scale_min(b->scales, i / 32, &scale, &min);
        unsigned byte = b->qs[32 * (i / 64) + i % 32];
        unsigned q = (i / 32) % 2 == 0 ? byte & 15u : byte >> 4;
        q |= (((unsigned)b->qh[i % 32] >> (i / 32)) & 1u) << 4;
        out[i] = d * scale * (float)q - dmin * min;
    }
}

static void q6_k_block(const lp_q6_k *b, float *out) {
    float d = half_value(b->d);
    for (unsigned i = 0; i < 256; i++) {
        unsigned half = i / 128, group = (i % 128) / 32;
        unsigned byte = b->ql[64 * half + 32 * (group & 1u) + i % 32];
        unsigned q = group < 2 ? byte & 15u : byte >> 4;
        q |= two_bits(b->qh, i) << 4;
        out[i] = d * (float)b->scales[i / 16] * (float)((int)q - 32);
    }
}

static uint16_t u16_at(const uint8_t *bytes) {
    return (uint16_t)(bytes[0] | (bytes[1] << 8));
}

#define BLOCKS(type, function, length)                                                             \
    for (size_t b = 0; b < n / (length); b++) {                                                    \
        function((const type *)blocks + b, out + b * (length));                                    \
    }                                                                                              \
    break

void lp_dequantize(uint32_t type, const void *blocks, float *out, size_t n) {
    const uint8_t *bytes = blocks;
    switch (type) {
    case LP_TYPE_F32:
        memcpy(out, blocks, n * sizeof(float));
        break;
    case LP_TYPE_F16:
        for (size_t i = 0; i < n; i++) out[i] = lp_f16_to_f32(u16_at(bytes + 2 * i));
        break;
    case LP_TYPE_BF16:
        for (size_t i = 0; i < n; i++) out[i] = lp_bf16_to_f32(u16_at(bytes + 2 * i));
        break;
    case LP_TYPE_Q4_0:
        BLOCKS(lp_q4_0, q4_0_block, 32);
    case LP_TYPE_Q4_1:
        BLOCKS(lp_q4_1, q4_1_block, 32);
    case LP_TYPE_Q5_0:
        BLOCKS(lp_q5_0, q5_0_block, 32);
    case LP_TYPE_Q5_1:
        BLOCKS(lp_q5_1, q5_1_block, 32);
    case LP_TYPE_Q8_0:
        BLOCKS(lp_q8_0, q8_0_block, 32);
    case LP_TYPE_Q2_K:
        BLOCKS(lp_q2_k, q2_k_block, 256);
    case LP_TYPE_Q3_K:
        BLOCKS(lp_q3_k, q3_k_block, 256);
    case LP_TYPE_Q4_K:
        BLOCKS(lp_q4_k, q4_k_block, 256);
    case LP_TYPE_Q5_K:
        BLOCKS(lp_q5_k, q5_k_block, 256);
    case LP_TYPE_Q6_K:
        BLOCKS(lp_q6_k, q6_k_block, 256);
    default:
        memset(out, 0, n * sizeof(float));
        break; /* callers check can_compute first */
    }
}
