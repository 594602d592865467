/* vec_neon.h - the vector vocabulary in terms of AArch64 Advanced SIMD, with SDOT where the level
 * has it (dotprod, i8mm), SMMLA and BFMLAL (i8mm). The families are described in vec_avx2.h.
 *
 * Weights are signed. Without SDOT, SMULL and SMLAL give 16-bit products; of weights of at most
 * five bits, eight fit in a lane (8 * 31 * 127 = 31496), of Q8_0 two (2 * 128 * 127 = 32512),
 * before they are added in pairs to 32 bits. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_VEC_NEON_H
#define LP_VEC_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "blocks.h"

#ifdef __ARM_FEATURE_MATMUL_INT8
#define VEC_PAIRS
#endif

#define VEC_WORD_LANES /* see coefficients.inc */
#define VEC_RAW_DECODE /* decode takes nibbles as stored; what they owe is added to the sum */
#define VEC_SIGNED     1
#define VEC_SIGNED_Q8  1
#define DL             4
#define INLINE         static inline __attribute__((always_inline, unused))
#define SCALE_CODE(s)  ((int32_t)(s))

/* ---- b32 ------------------------------------------------------------------------------------ */

typedef struct b32 {
    uint8x16_t a, b; /* bytes 0..15, 16..31 */
} b32;

INLINE b32 b32_load(const void *p) {
    const uint8_t *bytes = p;
    return (b32){vld1q_u8(bytes), vld1q_u8(bytes + 16)};
}
INLINE void b32_store(void *p, b32 x) {
    uint8_t *bytes = p;
    vst1q_u8(bytes, x.a);
    vst1q_u8(bytes + 16, x.b);
}
INLINE b32 b32_set1(int byte) {
    uint8x16_t x = vdupq_n_u8((uint8_t)byte);
    return (b32){x, x};
}
#define B32_OP(name, op)                                                                           \
    INLINE b32 name(b32 x, b32 y) {                                                                \
        return (b32){op(x.a, y.a), op(x.b, y.b)};                                                  \
    }
B32_OP(b32_and, vandq_u8)
B32_OP(b32_or, vorrq_u8)
B32_OP(b32_xor, veorq_u8)
B32_OP(b32_sub, vsubq_u8)
#undef B32_OP
/* Shifts of bytes here; the caller masks what 16-bit shifts would bring in. */
INLINE b32 b32_shl(b32 x, int n) {
    return (b32){x.a << (uint8_t)n, x.b << (uint8_t)n};
}
INLINE b32 b32_shr(b32 x, int n) {
    return (b32){x.a >> (uint8_t)n, x.b >> (uint8_t)n};
}
INLINE b32 b32_nibbles(const void *p) {
    uint8x16_t x = vld1q_u8(p);
    return (b32){vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4)};
}
INLINE b32 b32_bits(const uint8_t *p, int value) {
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    static const uint8_t places[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    uint32_t word;
    memcpy(&word, p, sizeof word);
    uint8x16_t bit = vld1q_u8(bits), set = vdupq_n_u8((uint8_t)value), place = vld1q_u8(places);
    uint8x16_t bytes = vreinterpretq_u8_u32(vdupq_n_u32(word));
    uint8x16_t a = vqtbl1q_u8(bytes, place), b = vqtbl1q_u8(bytes, vaddq_u8(place, vdupq_n_u8(2)));
    return (b32){vandq_u8(vtstq_u8(a, bit), set), vandq_u8(vtstq_u8(b, bit), set)};
}

/* ---- di, df: decode ------------------------------------------------------------------------- */

typedef int32x4_t di;
typedef float32x4_t df;

/* acc + four partial sums of 16 products. */
INLINE di add_dot(di acc, uint8x16_t w, uint8x16_t a) {
    int8x16_t ws = vreinterpretq_s8_u8(w), as = vreinterpretq_s8_u8(a);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(acc, ws, as);
#else
    int16x8_t products = vmull_s8(vget_low_s8(ws), vget_low_s8(as));
    return vpadalq_s16(acc, vmlal_high_s8(products, ws, as));
#endif
}

INLINE di di_zero(void) {
    return vdupq_n_s32(0);
}
INLINE di di_set1(int32_t x) {
    return vdupq_n_s32(x);
}
INLINE di di_add(di a, di b) {
    return vaddq_s32(a, b);
}
INLINE di di_dot(b32 w, b32 a, int signed_bytes) {
    (void)signed_bytes;
    return add_dot(add_dot(vdupq_n_s32(0), w.a, a.a), w.b, a.b);
}
/* The same and *owed >> shift. */
INLINE di di_dot_from(const int32_t *owed, int shift, b32 w, b32 a) {
    di start = vsetq_lane_s32(*owed, vdupq_n_s32(0), 0) >> shift;
    return add_dot(add_dot(start, w.a, a.a), w.b, a.b);
}
/* Scales of a row's block, four to a vector. */
typedef struct kr {
    int32x4_t s[4];
} kr;
/* The barrier: else the compiler sees through the widening, and widens once for every use. */
INLINE int32x4_t widened(int32x4_t x) {
    __asm__("" : "+w"(x));
    return x;
}
INLINE kr kr_widen(int16x8_t low, int16x8_t high) {
    return (kr){{widened(vmovl_s16(vget_low_s16(low))), widened(vmovl_high_s16(low)),
                 widened(vmovl_s16(vget_low_s16(high))), widened(vmovl_high_s16(high))}};
}
INLINE kr kr_load16(const void *p) {
    int8x16_t bytes = vld1q_s8(p);
    return kr_widen(vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
}
INLINE kr kr_load8(const void *p) {
    int16x8_t words = vmovl_s8(vld1_s8(p));
    int32x4_t low = widened(vmovl_s16(vget_low_s16(words))), high = widened(vmovl_high_s16(words));
    return (kr){{low, high, low, high}};
}
/* Four partial sums of eight minimums times sums of 32 activations. */
INLINE di di_mins8(const uint8_t *mins, const int16_t *sums) {
    int16x8_t m = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(mins)));
    int16x8_t s = vld1q_s16(sums);
    return vmlal_high_s16(vmull_s16(vget_low_s16(m), vget_low_s16(s)), m, s);
}
INLINE di mla_lane(di acc, di x, int32x4_t scales, int i) {
    switch (i) {
    case 0:
        return vmlaq_laneq_s32(acc, x, scales, 0);
    case 1:
        return vmlaq_laneq_s32(acc, x, scales, 1);
    case 2:
        return vmlaq_laneq_s32(acc, x, scales, 2);
    default:
        return vmlaq_laneq_s32(acc, x, scales, 3);
    }
}
INLINE di di_dot_scaled(di acc, b32 w, b32 a, kr scales, int i0, int i1) {
    di first = add_dot(vdupq_n_s32(0), w.a, a.a);
    if (i0 == i1) return mla_lane(acc, add_dot(first, w.b, a.b), scales.s[i0 / 4], i0 % 4);
    acc = mla_lane(acc, first, scales.s[i0 / 4], i0 % 4);
    return mla_lane(acc, add_dot(vdupq_n_s32(0), w.b, a.b), scales.s[i1 / 4], i1 % 4);
}
INLINE di di_owed(di acc, const int8_t *scales, const int16_t *sums, int shift) {
    (void)scales, (void)sums, (void)shift; /* signed weights owe nothing */
    return acc;
}
/* The following: see vec_avx2.h. */
INLINE void di_rows16(const uint8_t *const row[DL], size_t at, di out[4]) {
    uint32x4_t r[4];
    for (int i = 0; i < 4; i++) r[i] = vreinterpretq_u32_u8(vld1q_u8(row[i] + at));
    uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1]));
    uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3]));
    uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    out[0] = vreinterpretq_s32_u64(vtrn1q_u64(a, c));
    out[1] = vreinterpretq_s32_u64(vtrn1q_u64(b, d));
    out[2] = vreinterpretq_s32_u64(vtrn2q_u64(a, c));
    out[3] = vreinterpretq_s32_u64(vtrn2q_u64(b, d));
}
INLINE void di_store_pairs(uint8_t out[DL][8], di a, di b) {
    vst1q_u8(out[0], vreinterpretq_u8_s32(vzip1q_s32(a, b)));
    vst1q_u8(out[2], vreinterpretq_u8_s32(vzip2q_s32(a, b)));
}
INLINE di di_and(di a, di b) {
    return vandq_s32(a, b);
}
INLINE di di_or(di a, di b) {
    return vorrq_s32(a, b);
}
INLINE di di_shr(di a, int n) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
}
INLINE di di_pick(di x, int i0, int i1) {
    di byte = vdupq_n_s32(255);
    di low = vandq_s32(di_shr(x, 8 * i0), byte), high = vandq_s32(di_shr(x, 8 * i1), byte);
    return vorrq_s32(low, vshlq_n_s32(high, 16));
}
INLINE di di_scale_code(di x, int i, int is_signed) {
    if (is_signed) return vshrq_n_s32(vshlq_s32(x, vdupq_n_s32(24 - 8 * i)), 24);
    return di_and(di_shr(x, 8 * i), di_set1(255));
}
INLINE di di_owed_pair(di x, int i, int shift) {
    (void)i, (void)shift; /* signed weights owe nothing */
    return x;
}
INLINE void di_store(void *p, di x) {
    vst1q_s32(p, x);
}
INLINE di di_madd16(di acc, di words, const int16_t *p) {
    int16x8_t x = vreinterpretq_s16_s32(words);
    int32_t both;
    memcpy(&both, p, sizeof both);
    int16x8_t y = vreinterpretq_s16_s32(vdupq_n_s32(both));
    int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    return vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(x, y)));
}
INLINE di di_fold(const di p[DL]) {
    return vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]));
}

INLINE df df_zero(void) {
    return vdupq_n_f32(0.0f);
}
INLINE df df_set1(float x) {
    return vdupq_n_f32(x);
}
INLINE df df_mul(df a, df b) {
    return vmulq_f32(a, b);
}
INLINE df df_madd(df a, df b, df c) {
    return vfmaq_f32(c, a, b);
}
INLINE df df_neg(df a) {
    return vnegq_f32(a);
}
INLINE df df_from_di(di a) {
    return vcvtq_f32_s32(a);
}
INLINE void df_store(float *p, df a) {
    vst1q_f32(p, a);
}
INLINE uint64_t half_bits(const uint8_t *p) {
    return p[0] | ((uint64_t)p[1] << 8);
}
INLINE df df_halves(const uint8_t *const row[DL], size_t at) {
    uint16x4_t bits = vdup_n_u16(0); /* at any address, hence not as uint16_t */
#pragma clang loop unroll(full)
    for (int i = 0; i < DL; i++) __builtin_memcpy((uint8_t *)&bits + 2 * i, row[i] + at, 2);
    return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}

INLINE df df_word_half(di x, int half) {
    uint32x4_t bits = vreinterpretq_u32_s32(di_shr(x, 16 * half));
    return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(bits)));
}

INLINE void transpose_store(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d, uint8_t *out,
                            size_t stride) {
    uint32x4_t w[4] = {vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b), vreinterpretq_u32_u8(c),
                       vreinterpretq_u32_u8(d)};
    uint64x2_t ab_even = vreinterpretq_u64_u32(vtrn1q_u32(w[0], w[1]));
    uint64x2_t ab_odd = vreinterpretq_u64_u32(vtrn2q_u32(w[0], w[1]));
    uint64x2_t cd_even = vreinterpretq_u64_u32(vtrn1q_u32(w[2], w[3]));
    uint64x2_t cd_odd = vreinterpretq_u64_u32(vtrn2q_u32(w[2], w[3]));
    vst1q_u8(out, vreinterpretq_u8_u64(vtrn1q_u64(ab_even, cd_even)));
    vst1q_u8(out + stride, vreinterpretq_u8_u64(vtrn1q_u64(ab_odd, cd_odd)));
    vst1q_u8(out + 2 * stride, vreinterpretq_u8_u64(vtrn2q_u64(ab_even, cd_even)));
    vst1q_u8(out + 3 * stride, vreinterpretq_u8_u64(vtrn2q_u64(ab_odd, cd_odd)));
}
#ifdef VEC_PAIRS
/* DL rows of four 8-byte groups -> four columns of DL groups. */
INLINE void b32_transpose_store(const b32 r[DL], uint8_t *out, size_t stride) {
#pragma clang loop unroll(full)
    for (int i = 0; i < DL; i += 2, out += 16) {
        uint64x2_t a = vreinterpretq_u64_u8(r[i].a), b = vreinterpretq_u64_u8(r[i + 1].a);
        uint64x2_t c = vreinterpretq_u64_u8(r[i].b), d = vreinterpretq_u64_u8(r[i + 1].b);
        vst1q_u8(out, vreinterpretq_u8_u64(vzip1q_u64(a, b)));
        vst1q_u8(out + stride, vreinterpretq_u8_u64(vzip2q_u64(a, b)));
        vst1q_u8(out + 2 * stride, vreinterpretq_u8_u64(vzip1q_u64(c, d)));
        vst1q_u8(out + 3 * stride, vreinterpretq_u8_u64(vzip2q_u64(c, d)));
    }
}
#else
INLINE void b32_transpose_store(const b32 r[DL], uint8_t *out, size_t stride) {
    transpose_store(r[0].a, r[1].a, r[2].a, r[3].a, out, stride);
    transpose_store(r[0].b, r[1].b, r[2].b, r[3].b, out + 4 * stride, stride);
}
#endif

INLINE void vec_prefetch(const void *p) {
    __builtin_prefetch(p);
}
INLINE void vec_prefetch_far(const void *p) {
    __builtin_prefetch(p, 0, 2);
}

/* ---- vi, vf: the prefill tile --------------------------------------------------------------- */

/* Of 32 registers: */
#ifdef VEC_PAIRS
/* SMMLA: a vector is two weight rows by two activation rows (units.inc). 3 x 4 sums as integers
 * and as floats, 4 weights, 1 activation: 29. */
#define NL 2
#define NR 4
#define MR 3 /* pairs */
#define KG 8
#elif defined(__ARM_FEATURE_DOTPROD)
/* 4 x 2 sums of both kinds, 4 activations, 4 x 2 weights: 28. */
#define NL 4
#define NR 2
#define MR 4
#define KG 4
#else
/* 4 x 2 partial sums of two registers each, 4 x 2 sums, 2 weights, 4 activations, 1 lane: 31. */
#define NL 4
#define NR 2
#define MR 4
#define KG 4
#endif

typedef int32x4_t vi;
typedef float32x4_t vf;

INLINE vi vi_load(const void *p) {
    return vreinterpretq_s32_u8(vld1q_u8(p));
}
INLINE vi vi_zero(void) {
    return vdupq_n_s32(0);
}
INLINE vi vi_dup4(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return vdupq_n_s32(word);
}
INLINE vi vi_sar(vi a, int n) {
    return vshlq_s32(a, vdupq_n_s32(-n));
}
/* Pairs of 16-bit products, added. */
INLINE vi vi_dot16(vi acc, vi a, vi b) {
    int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    return vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(x, y)));
}
INLINE vf vf_load(const float *p) {
    return vld1q_f32(p);
}
INLINE void vf_store(float *p, vf a) {
    vst1q_f32(p, a);
}
INLINE vf vf_set1(float x) {
    return vdupq_n_f32(x);
}
INLINE vf vf_zero(void) {
    return vdupq_n_f32(0.0f);
}
INLINE vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
INLINE vf vf_madd(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
INLINE vf vf_from_vi(vi a) {
    return vcvtq_f32_s32(a);
}

INLINE vi vi_shl7(vi a) {
    return vshlq_n_s32(a, 7);
}

/* Four words, and their products with one of the activation sums. */
typedef int16x4_t vw;
INLINE vw vw_load(const uint8_t *p) {
    return vreinterpret_s16_u8(vld1_u8(p));
}
INLINE vi vw_lane(vi acc, vw c, int16x8_t sums, int j) {
    switch (j) {
    case 0:
        return vmlal_laneq_s16(acc, c, sums, 0);
    case 1:
        return vmlal_laneq_s16(acc, c, sums, 1);
    case 2:
        return vmlal_laneq_s16(acc, c, sums, 2);
    case 3:
        return vmlal_laneq_s16(acc, c, sums, 3);
    case 4:
        return vmlal_laneq_s16(acc, c, sums, 4);
    case 5:
        return vmlal_laneq_s16(acc, c, sums, 5);
    case 6:
        return vmlal_laneq_s16(acc, c, sums, 6);
    default:
        return vmlal_laneq_s16(acc, c, sums, 7);
    }
}
INLINE vi vw_dot(vi acc, vw c, const int16_t *sums, int j) {
    return vw_lane(acc, c, vld1q_s16(sums + j / 8 * 8), j % 8);
}
INLINE void di_store_words(uint8_t *p, di x, int byte) { /* byte of each lane, as words */
    vst1_u8(p, vreinterpret_u8_u16(vmovn_u32(vreinterpretq_u32_s32(vandq_s32(
                   vreinterpretq_s32_u32(vreinterpretq_u32_s32(x) >> (uint32_t)(8 * byte)),
                   vdupq_n_s32(255))))));
}

/* Dots of a run of quants with one scale: 16 quants, or 32 (Q4_K and Q5_K). */
#define PART_DOTS_SCALED(limit) ((limit) == 15 || (limit) == 31 ? 8 : 4)

#ifdef VEC_PAIRS
INLINE void df_spread(float *p, df x) {
    float64x2_t pairs = vreinterpretq_f64_f32(x);
    vst1q_f32(p, vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 0)));
    vst1q_f32(p + 4, vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 1)));
}
INLINE void di_spread(void *p, di x) {
    df_spread(p, vreinterpretq_f32_s32(x));
}
#else
INLINE void df_spread(float *p, df x) {
    df_store(p, x);
}
INLINE void di_spread(void *p, di x) {
    di_store(p, x);
}
#endif

#ifdef __ARM_FEATURE_DOTPROD
#define PART_DOTS(limit) 8
typedef vi vp;
INLINE vp vp_zero(void) {
    return vdupq_n_s32(0);
}
INLINE int is_direct(int limit) {
    (void)limit;
    return 1;
}
INLINE vi vi_join_part(vi acc, vp p, int limit) {
    (void)limit;
    return vaddq_s32(acc, p);
}
INLINE vi vi_add_scaled(vi acc, vp p, vi scale, int limit) {
    (void)limit;
    return vmlaq_s32(acc, p, scale);
}
#ifdef VEC_PAIRS
#define VA_GROUPS 1
typedef vi va;
INLINE va va_load(const uint8_t *p) {
    return vi_load(p);
}
INLINE vi vi_dot(vi acc, vi w, vi a, int signed_bytes) {
    (void)signed_bytes;
    return vmmlaq_s32(acc, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(w));
}
INLINE vi va_dot(vi acc, vi w, va a, int i, int signed_bytes) {
    (void)i;
    return vi_dot(acc, w, a, signed_bytes);
}
#else
#define VA_GROUPS 4
typedef int8x16_t va;
INLINE va va_load(const uint8_t *p) {
    return vreinterpretq_s8_u8(vld1q_u8(p));
}
INLINE vi va_dot(vi acc, vi w, va a, int i, int signed_bytes) {
    (void)signed_bytes;
    int8x16_t bytes = vreinterpretq_s8_s32(w);
    switch (i) {
    case 0:
        return vdotq_laneq_s32(acc, bytes, a, 0);
    case 1:
        return vdotq_laneq_s32(acc, bytes, a, 1);
    case 2:
        return vdotq_laneq_s32(acc, bytes, a, 2);
    default:
        return vdotq_laneq_s32(acc, bytes, a, 3);
    }
}
#endif
INLINE vp va_dot_part(vp p, vi w, va a, int i, int signed_bytes) {
    return va_dot(p, w, a, i, signed_bytes);
}

#else
#define VA_GROUPS        4
#define PART_DOTS(limit) 8
typedef int8x16_t va;
typedef struct vp { /* words: products of rows 0 and 1, and of rows 2 and 3 */
    int16x8_t low, high;
} vp;
INLINE va va_load(const uint8_t *p) {
    return vreinterpretq_s8_u8(vld1q_u8(p));
}
INLINE int8x16_t va_group(va a, int i) {
    int32x4_t x = vreinterpretq_s32_s8(a);
    switch (i) {
    case 0:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(x, 0));
    case 1:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(x, 1));
    case 2:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(x, 2));
    default:
        return vreinterpretq_s8_s32(vdupq_laneq_s32(x, 3));
    }
}
INLINE vp vp_zero(void) {
    return (vp){vdupq_n_s16(0), vdupq_n_s16(0)};
}
INLINE vp va_dot_part(vp p, vi w, va a, int i, int signed_bytes) {
    (void)signed_bytes;
    int8x16_t ws = vreinterpretq_s8_s32(w), as = va_group(a, i);
    return (vp){vmlal_s8(p.low, vget_low_s8(ws), vget_low_s8(as)), vmlal_high_s8(p.high, ws, as)};
}
INLINE int is_direct(int limit) {
    return limit == 128;
}
INLINE vi va_dot(vi acc, vi w, va a, int i, int signed_bytes) {
    (void)signed_bytes;
    int8x16_t ws = vreinterpretq_s8_s32(w), as = va_group(a, i);
    int16x8_t low = vmull_s8(vget_low_s8(ws), vget_low_s8(as));
    return vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(ws, as)));
}
/* Two lanes fit in one but where eight products of 31 are in each. */
INLINE vi vi_join_part(vi acc, vp p, int limit) {
    if (limit != 31) return vpadalq_s16(acc, vpaddq_s16(p.low, p.high));
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(p.low), vpaddlq_s16(p.high)));
}
INLINE vi vi_add_scaled(vi acc, vp p, vi scale, int limit) {
    vi sum = limit != 31 ? vpaddlq_s16(vpaddq_s16(p.low, p.high))
                         : vpaddq_s32(vpaddlq_s16(p.low), vpaddlq_s16(p.high));
    return vmlaq_s32(acc, sum, scale);
}
#endif

/* ---- w16 ------------------------------------------------------------------------------------ */

#define VEC_UNROLL_TILE
#define BS 4
#define BA 2
#define BR 1
#define FM 6
#define BM 4
#define AQ 2
#define AP 2
#define AV 2
#define AF 4 /* five instructions for 16 halves and each tile of AQ, or seven once and two each */

typedef struct w16 {
    float32x4_t v[4];
} w16;
typedef w16 s16;

#define W16_EACH _Pragma("clang loop unroll(full)") for (int i = 0; i < 4; i++)

INLINE w16 w16_set1(float x) {
    float32x4_t v = vdupq_n_f32(x);
    return (w16){{v, v, v, v}};
}
INLINE w16 w16_zero(void) {
    return w16_set1(0.0f);
}
INLINE w16 w16_load(const float *p) {
    w16 out;
    W16_EACH out.v[i] = vld1q_f32(p + 4 * i);
    return out;
}
INLINE void w16_store(float *p, w16 x) {
    W16_EACH vst1q_f32(p + 4 * i, x.v[i]);
}
#define W16_OP(name, op)                                                                           \
    INLINE w16 name(w16 x, w16 y) {                                                                \
        W16_EACH x.v[i] = op(x.v[i], y.v[i]);                                                      \
        return x;                                                                                  \
    }
W16_OP(w16_add, vaddq_f32)
W16_OP(w16_sub, vsubq_f32)
W16_OP(w16_mul, vmulq_f32)
W16_OP(w16_div, vdivq_f32)
W16_OP(w16_max, vmaxq_f32)
W16_OP(w16_min, vminq_f32)
#undef W16_OP
INLINE w16 w16_madd(w16 x, w16 y, w16 z) {
    W16_EACH z.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]);
    return z;
}
INLINE w16 w16_abs(w16 x) {
    W16_EACH x.v[i] = vabsq_f32(x.v[i]);
    return x;
}
INLINE w16 w16_zero_below(w16 x, w16 limit, w16 value) {
    W16_EACH {
        uint32x4_t below = vcltq_f32(x.v[i], limit.v[i]);
        value.v[i] = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value.v[i]), below));
    }
    return value;
}
INLINE w16 w16_power(w16 x) {
    W16_EACH {
        int32x4_t biased = vaddq_s32(vreinterpretq_s32_f32(x.v[i]), vdupq_n_s32(127));
        x.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
    }
    return x;
}
INLINE float32x4_t widen_halves(const uint8_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
INLINE s16 s16_pair_halves(const uint8_t *a, const uint8_t *b) {
    return (w16){{widen_halves(a), widen_halves(a + 8), widen_halves(b), widen_halves(b + 8)}};
}
INLINE w16 w16_halves(const void *p) {
    return s16_pair_halves(p, (const uint8_t *)p + 16);
}
INLINE void w16_store_halves(void *p, w16 x) {
    W16_EACH vst1_u8((uint8_t *)p + 8 * i, vreinterpret_u8_f16(vcvt_f16_f32(x.v[i])));
}
/* Lane i: acc + w * x of the bfloats 2i + 1, then of 2i. */
INLINE float32x4_t bdot4(float32x4_t acc, float32x4_t w, float32x4_t x) {
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    /* BFMLALT and BFMLALB widen the odd or the even bfloats and add with one rounding, as fma does
     * (Arm ARM, C7.2); BFDOT and BFMMLA round otherwise. */
    bfloat16x8_t a = vreinterpretq_bf16_f32(w), b = vreinterpretq_bf16_f32(x);
    return vbfmlalbq_f32(vbfmlaltq_f32(acc, a, b), a, b);
#else
    uint32x4_t a = vreinterpretq_u32_f32(w), b = vreinterpretq_u32_f32(x);
    uint32x4_t odd = vdupq_n_u32(0xffff0000u);
    acc = vfmaq_f32(acc, vreinterpretq_f32_u32(vandq_u32(a, odd)),
                    vreinterpretq_f32_u32(vandq_u32(b, odd)));
    return vfmaq_f32(acc, vreinterpretq_f32_u32(vshlq_n_u32(a, 16)),
                     vreinterpretq_f32_u32(vshlq_n_u32(b, 16)));
#endif
}
INLINE w16 w16_bdot(int native, w16 acc, w16 w, w16 x) {
    (void)native;
    W16_EACH acc.v[i] = bdot4(acc.v[i], w.v[i], x.v[i]);
    return acc;
}
INLINE float32x4_t four_floats(const uint8_t *p) {
    return vreinterpretq_f32_u8(vld1q_u8(p));
}
INLINE w16 w16_repeat(const uint8_t *p) {
    float32x4_t x = four_floats(p), y = four_floats(p + 16);
    return (w16){{x, y, x, y}};
}
INLINE s16 s16_pair(const uint8_t *a, const uint8_t *b) {
    return (w16){{four_floats(a), four_floats(a + 16), four_floats(b), four_floats(b + 16)}};
}
INLINE float32x4_t widen_bfloats(const uint8_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
INLINE s16 s16_pair_bfloats(const uint8_t *a, const uint8_t *b) {
    return (w16){{widen_bfloats(a), widen_bfloats(a + 8), widen_bfloats(b), widen_bfloats(b + 8)}};
}
INLINE w16 w16_bfloats(const void *p) {
    return s16_pair_bfloats(p, (const uint8_t *)p + 16);
}
/* Two partial sums of each half. */
INLINE float32x4_t fold_halves(w16 x) {
    float32x4_t p = vaddq_f32(x.v[0], x.v[1]), q = vaddq_f32(x.v[2], x.v[3]);
    return vaddq_f32(vcombine_f32(vget_low_f32(p), vget_low_f32(q)),
                     vcombine_f32(vget_high_f32(p), vget_high_f32(q)));
}
INLINE void w16_fold_pairs(float out[4], w16 x, w16 y) {
    vst1q_f32(out, vpaddq_f32(fold_halves(x), fold_halves(y)));
}
INLINE w16 w16_quants(b32 q, int half) {
    int8x16_t x = vreinterpretq_s8_u8(half == 0 ? q.a : q.b);
    int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
    return (w16){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                  vcvtq_f32_s32(vmovl_high_s16(high))}};
}
INLINE w16 w16_bytes(const int8_t *p) {
    uint8x16_t x = vreinterpretq_u8_s8(vld1q_s8(p));
    return w16_quants((b32){x, x}, 0);
}
INLINE w16 w16_half1(const uint8_t *p) {
    float32x4_t x = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16((uint16_t)half_bits(p))));
    return (w16){{x, x, x, x}};
}
INLINE uint8x16_t rounded16(w16 x) {
    int16x4_t words[4];
    W16_EACH words[i] = vqmovn_s32(vcvtnq_s32_f32(x.v[i]));
    int8x8_t low = vqmovn_s16(vcombine_s16(words[0], words[1]));
    int8x8_t high = vqmovn_s16(vcombine_s16(words[2], words[3]));
    return vreinterpretq_u8_s8(vcombine_s8(low, high));
}
INLINE b32 b32_round(w16 x, w16 y) {
    return (b32){rounded16(x), rounded16(y)};
}
INLINE float w16_fold(w16 x) {
    float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
INLINE void w16_fold4(float out[4], w16 a, w16 b, w16 c, w16 d) {
    out[0] = w16_fold(a), out[1] = w16_fold(b), out[2] = w16_fold(c), out[3] = w16_fold(d);
}
INLINE float w16_fold_max(w16 x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[2]), vmaxq_f32(x.v[1], x.v[3])));
}

#endif
