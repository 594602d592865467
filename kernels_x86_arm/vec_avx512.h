/* vec_avx512.h - the vector vocabulary in terms of AVX-512 F, BW, DQ, VL and VNNI.
 *
 * Unpacking and decode use 256-bit registers (vec_avx2.h): three vector ports instead of two on
 * Intel cores, and a 32-block is 256 bits. The prefill tile and the float dots use 512 bits.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_VEC_AVX512_H
#define LP_VEC_AVX512_H

#define VEC_AVX512
#define VEC_VNNI
#define VEC_DPBUSD      _mm256_dpbusd_epi32
#define VEC_DPWSSD      _mm256_dpwssd_epi32
#define VEC_DPWSSD_TEXT "vpdpwssd %2, %1, %0"
#define VEC_SCALED_AT   "vpdpwssd %2%{1to8%}, %1, %0"
#include "vec_avx2.h"

/* ---- decode, with twice as many registers --------------------------------------------------- */

#define DECODE_GROUP 4
#define DECODE_HELD  1
INLINE b32 b32_hold(b32 x) { /* in a register, and not from memory again */
    __asm__("" : "+v"(x));
    return x;
}

/* ---- vi, vf: the prefill tile --------------------------------------------------------------- */

#define NL          16
#define NR          2
#define PANEL_BYTES 98304 /* the L2 cache is fast enough, and sums are carried less often */
#define MR 6 /* 6 x 2 partial and 6 x 2 whole sums, 2 weights, 1 activation: 27 of 32 registers */

typedef __m512i vi;
typedef __m512 vf;

INLINE vi vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}
INLINE vi vi_zero(void) {
    return _mm512_setzero_si512();
}
INLINE vi vi_dup4(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
}
INLINE vi vi_sar(vi a, int n) {
    return _mm512_srai_epi32(a, (unsigned)n);
}
INLINE vi vi_dot16(vi acc, vi a, vi b) {
    return _mm512_dpwssd_epi32(acc, a, b);
}
INLINE vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}
INLINE vf vf_set1(float x) {
    return _mm512_set1_ps(x);
}
INLINE vf vf_zero(void) {
    return _mm512_setzero_ps();
}
INLINE vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_madd(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_from_vi(vi a) {
    return _mm512_cvtepi32_ps(a);
}

#define PART_DIRECT        1 /* a partial sum is a plain int32 sum */
#define PART_DOTS(largest) 8
/* Of weights up to 3 or 7 four dots fit in 16 bits and VPDPWSSD scales them; larger ones take
 * VPMULLD and an addition, for as many dots as a scale is good for. */
#define PART_DOTS_SCALED(largest) ((largest) == 15 || (largest) == 31 ? 8 : 4)
typedef vi vp;
INLINE vp vp_zero(void) {
    return vi_zero();
}
INLINE vi vi_dot(vi p, vi w, vi a, int signed_bytes) {
    (void)signed_bytes;
    return _mm512_dpbusd_epi32(p, w, a);
}
INLINE vp vp_dot(vp p, vi w, vi a, int signed_bytes) {
    return vi_dot(p, w, a, signed_bytes);
}
INLINE vi vi_add_part(vi acc, vp p) {
    return _mm512_add_epi32(acc, p);
}
INLINE vi vi_add_scaled(vi acc, vp p, vi scale, int largest) {
    if (largest < 15) { /* p's high half is its sign, so the scale's must be zero */
        return _mm512_dpwssd_epi32(acc, p, _mm512_and_si512(scale, _mm512_set1_epi32(0xffff)));
    }
    return _mm512_add_epi32(acc, _mm512_mullo_epi32(p, scale));
}

/* ---- w16 ------------------------------------------------------------------------------------ */

#define BS               8
#define BA               4
#define BR               4
#define FM               6
#define BM               6
#define PANEL_ROWS       64 /* an L2 cache of 1 MB or more */
#define AQ               4
#define AP               4
#define AV               4
#define AF               8
#define VECTORS_TOGETHER 4

typedef __m512 w16;

INLINE w16 w16_zero(void) {
    return _mm512_setzero_ps();
}
INLINE w16 w16_set1(float x) {
    return _mm512_set1_ps(x);
}
INLINE w16 w16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
INLINE void w16_store(float *p, w16 x) {
    _mm512_storeu_ps(p, x);
}
INLINE w16 w16_add(w16 x, w16 y) {
    return _mm512_add_ps(x, y);
}
INLINE w16 w16_sub(w16 x, w16 y) {
    return _mm512_sub_ps(x, y);
}
INLINE w16 w16_mul(w16 x, w16 y) {
    return _mm512_mul_ps(x, y);
}
INLINE w16 w16_div(w16 x, w16 y) {
    return _mm512_div_ps(x, y);
}
INLINE w16 w16_max(w16 x, w16 y) {
    return _mm512_max_ps(x, y);
}
INLINE w16 w16_min(w16 x, w16 y) {
    return _mm512_min_ps(x, y);
}
INLINE w16 w16_madd(w16 x, w16 y, w16 z) {
    return _mm512_fmadd_ps(x, y, z);
}
/* Lane i: acc + w * x of the bfloats 2i + 1, then of 2i. VDPBF16PS does just that, but takes
 * denormals for zeros; as text, so that the rest of the file needs no AVX512_BF16. */
#define VEC_NATIVE_BDOT
INLINE w16 w16_bdot(int native, w16 acc, w16 w, w16 x) {
    if (native) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
        return acc;
    }
    __m512i a = _mm512_castps_si512(w), b = _mm512_castps_si512(x), odd = _mm512_set1_epi32(-65536);
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, odd)),
                          _mm512_castsi512_ps(_mm512_and_si512(b, odd)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                           _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), acc);
}
INLINE w16 w16_repeat(const uint8_t *p) {
    return _mm512_broadcast_f32x8(_mm256_loadu_ps((const float *)(const void *)p));
}
INLINE w16 w16_abs(w16 x) {
    return _mm512_abs_ps(x);
}
INLINE w16 w16_zero_below(w16 x, w16 limit, w16 value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
}
INLINE w16 w16_power(w16 x) {
    __m512i biased = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
INLINE w16 w16_halves(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
INLINE void w16_store_halves(void *p, w16 x) {
    _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
INLINE w16 w16_bfloats(const void *p) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
INLINE w16 w16_quants(b32 q, int half) {
    __m128i x = half == 0 ? _mm256_castsi256_si128(q) : _mm256_extracti128_si256(q, 1);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
}
INLINE w16 w16_bytes(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
INLINE w16 w16_half1(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_set1_epi16(half_bits(p)));
}
INLINE b32 b32_round(w16 x, w16 y) {
    return _mm256_set_m128i(_mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(y)),
                            _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}
INLINE __m128 w16_fold_to4(w16 x) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
INLINE float w16_fold_max(w16 x) {
    return _mm512_reduce_max_ps(x);
}
LP_FOLD_FROM4

/* ---- folds of several vectors ---------------------------------------------------------------- */

/* Each of these adds both vectors' partial sums in pairs and has half as many of each in the
 * result. */
INLINE w16 w16_fold_halves(w16 x, w16 y) { /* 8 of x, then 8 of y */
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
}
INLINE w16 w16_fold_quarters(w16 x, w16 y) { /* 128-bit lanes: both of x, then both of y */
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}
INLINE w16 w16_fold_eighths(w16 x, w16 y) { /* in each lane 2 of x, then 2 of y */
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x44), _mm512_shuffle_ps(x, y, 0xee));
}
INLINE w16 w16_fold_last(w16 x, w16 y) { /* in each lane x's two sums, then y's */
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xdd));
}
/* Eight partial sums in each half: see s16_fold_pairs. */
INLINE void w16_fold_pairs4(float out[8], w16 a, w16 b, w16 c, w16 d) {
    w16 two = w16_fold_eighths(w16_fold_quarters(a, b), w16_fold_quarters(c, d));
    w16 sums = _mm512_add_ps(two, _mm512_shuffle_ps(two, two, 0xb1));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)));
}
/* Four partial sums of each: a vector's lane. */
INLINE w16 w16_fold_four(w16 a, w16 b, w16 c, w16 d) {
    return w16_fold_quarters(w16_fold_halves(a, b), w16_fold_halves(c, d));
}
/* Lane i to out[i]. */
INLINE void w16_store_lanes(float *const out[4], w16 x) {
    _mm_storeu_ps(out[0], _mm512_castps512_ps128(x));
    _mm_storeu_ps(out[1], _mm512_extractf32x4_ps(x, 1));
    _mm_storeu_ps(out[2], _mm512_extractf32x4_ps(x, 2));
    _mm_storeu_ps(out[3], _mm512_extractf32x4_ps(x, 3));
}

/* Instructions before and after this stay there, if they have to do with these vectors. */
#define VEC_PINNED
INLINE void vec_pin(w16 *x) {
    __asm__ volatile("" : "+v"(*x));
}
INLINE void vec_pin2(w16 x[2]) {
    __asm__ volatile("" : "+v"(x[0]), "+v"(x[1]));
}
INLINE void vec_pin8(w16 x[4][2]) {
    __asm__ volatile(""
                     : "+v"(x[0][0]), "+v"(x[0][1]), "+v"(x[1][0]), "+v"(x[1][1]), "+v"(x[2][0]),
                       "+v"(x[2][1]), "+v"(x[3][0]), "+v"(x[3][1]));
}

#endif
