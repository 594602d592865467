/* vec_sse2.h - the vector vocabulary in terms of SSE2, which every x86-64 processor has; compiled
 * with AVX it also uses SSSE3. The families are described in vec_avx2.h.
 *
 * Weights are signed. SSE2 has no product of bytes: both sides are widened to 16 bits for PMADDWD.
 * SSSE3 has PMADDUBSW, unsigned by signed: the weight's sign moves to the activation (a pair is at
 * most 2 * 128 * 127 = 32512). No fma: madd is a product, rounded, and a sum.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_VEC_SSE2_H
#define LP_VEC_SSE2_H

#include <immintrin.h>
#include <string.h>

#include "blocks.h"

#define VEC_SIGNED    1
#define VEC_SIGNED_Q8 1
#define DL            4
#define INLINE        static inline __attribute__((always_inline, unused))
#define SCALE_CODE(s) ((int32_t)((uint32_t)(s) & 0xffffu)) /* for PMADDWD: high half zero */

/* ---- b32 ------------------------------------------------------------------------------------ */

typedef struct b32 {
    __m128i a, b; /* bytes 0..15, 16..31 */
} b32;

INLINE b32 b32_load(const void *p) {
    const uint8_t *bytes = p;
    return (b32){_mm_loadu_si128((const void *)bytes), _mm_loadu_si128((const void *)(bytes + 16))};
}
INLINE void b32_store(void *p, b32 x) {
    uint8_t *bytes = p;
    _mm_storeu_si128((void *)bytes, x.a);
    _mm_storeu_si128((void *)(bytes + 16), x.b);
}
INLINE b32 b32_set1(int byte) {
    __m128i x = _mm_set1_epi8((char)byte);
    return (b32){x, x};
}
#define B32_OP(name, op)                                                                           \
    INLINE b32 name(b32 x, b32 y) {                                                                \
        return (b32){op(x.a, y.a), op(x.b, y.b)};                                                  \
    }
B32_OP(b32_and, _mm_and_si128)
B32_OP(b32_or, _mm_or_si128)
B32_OP(b32_xor, _mm_xor_si128)
B32_OP(b32_sub, _mm_sub_epi8)
#undef B32_OP
INLINE b32 b32_shl(b32 x, int n) {
    return (b32){_mm_slli_epi16(x.a, n), _mm_slli_epi16(x.b, n)};
}
INLINE b32 b32_shr(b32 x, int n) {
    return (b32){_mm_srli_epi16(x.a, n), _mm_srli_epi16(x.b, n)};
}
INLINE b32 b32_nibbles(const void *p) {
    __m128i x = _mm_loadu_si128(p), mask = _mm_set1_epi8(15);
    return (b32){_mm_and_si128(x, mask), _mm_and_si128(_mm_srli_epi16(x, 4), mask)};
}
INLINE b32 b32_bits(const uint8_t *p, int value) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    __m128i x = _mm_cvtsi32_si128(word);
    x = _mm_unpacklo_epi8(x, x);  /* each byte twice */
    x = _mm_unpacklo_epi16(x, x); /* four times, then eight */
    const __m128i bit = _mm_set1_epi64x((int64_t)0x8040201008040201u);
    __m128i a = _mm_and_si128(_mm_unpacklo_epi32(x, x), bit);
    __m128i b = _mm_and_si128(_mm_unpackhi_epi32(x, x), bit);
    const __m128i set = _mm_set1_epi8((char)value);
    return (b32){_mm_and_si128(_mm_cmpeq_epi8(a, bit), set),
                 _mm_and_si128(_mm_cmpeq_epi8(b, bit), set)};
}

/* ---- di, df: decode ------------------------------------------------------------------------- */

typedef __m128i di;
typedef __m128 df;

/* Four partial sums of 16 products. */
INLINE di dot_bytes(__m128i w, __m128i a) {
#ifdef __SSSE3__
    __m128i pairs = _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(a, w));
    return _mm_madd_epi16(pairs, _mm_set1_epi16(1));
#else
    __m128i low = _mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(w, w), 8),
                                 _mm_srai_epi16(_mm_unpacklo_epi8(a, a), 8));
    __m128i high = _mm_madd_epi16(_mm_srai_epi16(_mm_unpackhi_epi8(w, w), 8),
                                  _mm_srai_epi16(_mm_unpackhi_epi8(a, a), 8));
    return _mm_add_epi32(low, high);
#endif
}

INLINE di di_zero(void) {
    return _mm_setzero_si128();
}
INLINE di di_set1(int32_t x) {
    return _mm_set1_epi32(x);
}
INLINE di di_add(di a, di b) {
    return _mm_add_epi32(a, b);
}
INLINE di di_dot(b32 w, b32 a, int signed_bytes) {
    (void)signed_bytes;
    return _mm_add_epi32(dot_bytes(w.a, a.a), dot_bytes(w.b, a.b));
}
/* Scales of a row's block, a byte each. */
typedef const int8_t *kr;
INLINE kr kr_load16(const void *p) {
    return p;
}
INLINE kr kr_load8(const void *p) {
    return p;
}
/* A lane's four products fit in 16 bits: 4 * 32 * 127 = 16256. */
INLINE di di_dot_scaled(di acc, b32 w, b32 a, kr scales, int i0, int i1) {
    __m128i s0 = _mm_set1_epi32(SCALE_CODE(scales[i0])),
            s1 = _mm_set1_epi32(SCALE_CODE(scales[i1]));
    acc = _mm_add_epi32(acc, _mm_madd_epi16(dot_bytes(w.a, a.a), s0));
    return _mm_add_epi32(acc, _mm_madd_epi16(dot_bytes(w.b, a.b), s1));
}
INLINE di di_owed(di acc, const int8_t *scales, const int16_t *sums, int shift) {
    (void)scales, (void)sums, (void)shift; /* signed weights owe nothing */
    return acc;
}
/* The following: see vec_avx2.h. */
INLINE void di_rows16(const uint8_t *const row[DL], size_t at, di out[4]) {
    __m128i r[4];
    for (int i = 0; i < 4; i++) r[i] = _mm_loadu_si128((const void *)(row[i] + at));
    __m128i a = _mm_unpacklo_epi32(r[0], r[1]), b = _mm_unpacklo_epi32(r[2], r[3]);
    __m128i c = _mm_unpackhi_epi32(r[0], r[1]), d = _mm_unpackhi_epi32(r[2], r[3]);
    out[0] = _mm_unpacklo_epi64(a, b);
    out[1] = _mm_unpackhi_epi64(a, b);
    out[2] = _mm_unpacklo_epi64(c, d);
    out[3] = _mm_unpackhi_epi64(c, d);
}
INLINE void di_store_pairs(uint8_t out[DL][8], di a, di b) {
    _mm_storeu_si128((void *)out[0], _mm_unpacklo_epi32(a, b));
    _mm_storeu_si128((void *)out[2], _mm_unpackhi_epi32(a, b));
}
INLINE di di_and(di a, di b) {
    return _mm_and_si128(a, b);
}
INLINE di di_or(di a, di b) {
    return _mm_or_si128(a, b);
}
INLINE di di_shr(di a, int n) {
    return _mm_srli_epi32(a, n);
}
INLINE di di_pick(di x, int i0, int i1) {
    __m128i low = _mm_and_si128(_mm_srli_epi32(x, 8 * i0), _mm_set1_epi32(255));
    __m128i high = _mm_and_si128(_mm_srli_epi32(x, 8 * i1), _mm_set1_epi32(255));
    return _mm_or_si128(low, _mm_slli_epi32(high, 16));
}
INLINE di di_scale_code(di x, int i, int is_signed) {
    if (is_signed) {
        x = _mm_srai_epi32(_mm_slli_epi32(x, 24 - 8 * i), 24);
        return _mm_and_si128(x, _mm_set1_epi32(0xffff));
    }
    return di_and(di_shr(x, 8 * i), di_set1(255));
}
INLINE di di_owed_pair(di x, int i, int shift) {
    (void)i, (void)shift; /* signed weights owe nothing */
    return x;
}
INLINE void di_store(void *p, di x) {
    _mm_storeu_si128(p, x);
}
INLINE di di_madd16(di acc, di words, const int16_t *p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
    return _mm_add_epi32(acc, _mm_madd_epi16(words, _mm_set1_epi32(both)));
}
INLINE di di_fold(const di p[DL]) {
    __m128i q = _mm_add_epi32(_mm_unpacklo_epi32(p[0], p[1]), _mm_unpackhi_epi32(p[0], p[1]));
    __m128i r = _mm_add_epi32(_mm_unpacklo_epi32(p[2], p[3]), _mm_unpackhi_epi32(p[2], p[3]));
    return _mm_add_epi32(_mm_unpacklo_epi64(q, r), _mm_unpackhi_epi64(q, r));
}

INLINE df df_zero(void) {
    return _mm_setzero_ps();
}
INLINE df df_set1(float x) {
    return _mm_set1_ps(x);
}
INLINE df df_mul(df a, df b) {
    return _mm_mul_ps(a, b);
}
INLINE df df_madd(df a, df b, df c) {
    return _mm_add_ps(_mm_mul_ps(a, b), c);
}
INLINE df df_neg(df a) {
    return _mm_xor_ps(a, _mm_set1_ps(-0.0f));
}
INLINE df df_from_di(di a) {
    return _mm_cvtepi32_ps(a);
}
INLINE void df_store(float *p, df a) {
    _mm_storeu_ps(p, a);
}

/* Halves in the low 16 bits of the lanes; see lp_f16_to_f32. */
INLINE __m128 widen_halves(__m128i x) {
    __m128i sign = _mm_slli_epi32(_mm_and_si128(x, _mm_set1_epi32(0x8000)), 16);
    __m128i rest = _mm_slli_epi32(_mm_and_si128(x, _mm_set1_epi32(0x7fff)), 13);
    __m128i special = _mm_cmpgt_epi32(rest, _mm_set1_epi32(0x0f7fffff));
    special = _mm_and_si128(special, _mm_set1_epi32(0x7f800000));
    __m128 value = _mm_mul_ps(_mm_castsi128_ps(rest), _mm_set1_ps(0x1p112f));
    return _mm_or_ps(value, _mm_castsi128_ps(_mm_or_si128(sign, special)));
}
INLINE int half_bits(const uint8_t *p) {
    return p[0] | (p[1] << 8);
}
INLINE df df_halves(const uint8_t *const row[DL], size_t at) {
    return widen_halves(_mm_setr_epi32(half_bits(row[0] + at), half_bits(row[1] + at),
                                       half_bits(row[2] + at), half_bits(row[3] + at)));
}

INLINE df df_word_half(di x, int half) {
    return widen_halves(half == 0 ? _mm_and_si128(x, _mm_set1_epi32(0xffff))
                                  : _mm_srli_epi32(x, 16));
}

INLINE void transpose_store(__m128i a, __m128i b, __m128i c, __m128i d, uint8_t *out,
                            size_t stride) {
    __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
    __m128i cd_low = _mm_unpacklo_epi32(c, d), cd_high = _mm_unpackhi_epi32(c, d);
    _mm_storeu_si128((void *)out, _mm_unpacklo_epi64(ab_low, cd_low));
    _mm_storeu_si128((void *)(out + stride), _mm_unpackhi_epi64(ab_low, cd_low));
    _mm_storeu_si128((void *)(out + 2 * stride), _mm_unpacklo_epi64(ab_high, cd_high));
    _mm_storeu_si128((void *)(out + 3 * stride), _mm_unpackhi_epi64(ab_high, cd_high));
}
INLINE void b32_transpose_store(const b32 r[DL], uint8_t *out, size_t stride) {
    transpose_store(r[0].a, r[1].a, r[2].a, r[3].a, out, stride);
    transpose_store(r[0].b, r[1].b, r[2].b, r[3].b, out + 4 * stride, stride);
}

INLINE void vec_prefetch(const void *p) {
    _mm_prefetch(p, _MM_HINT_T0);
}
INLINE void vec_prefetch_far(const void *p) {
    _mm_prefetch(p, _MM_HINT_T1);
}

/* ---- vi, vf: the prefill tile --------------------------------------------------------------- */

#define NL          4
#define NR          2
#define DECODE_MOST 1 /* with sixteen registers sharing gains little */
#define MR 2 /* sixteen registers: 2 x 2 x 2 partial sums, weights, activations, temporaries */

typedef __m128i vi;
typedef __m128 vf;

INLINE vi vi_load(const void *p) {
    return _mm_loadu_si128(p);
}
INLINE vi vi_zero(void) {
    return _mm_setzero_si128();
}
INLINE vi vi_dup4(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm_set1_epi32(word);
}
INLINE vi vi_sar(vi a, int n) {
    return _mm_srai_epi32(a, n);
}
INLINE vi vi_dot16(vi acc, vi a, vi b) {
    return _mm_add_epi32(acc, _mm_madd_epi16(a, b));
}
INLINE vf vf_load(const float *p) {
    return _mm_loadu_ps(p);
}
INLINE void vf_store(float *p, vf a) {
    _mm_storeu_ps(p, a);
}
INLINE vf vf_set1(float x) {
    return _mm_set1_ps(x);
}
INLINE vf vf_zero(void) {
    return _mm_setzero_ps();
}
INLINE vf vf_mul(vf a, vf b) {
    return _mm_mul_ps(a, b);
}
INLINE vf vf_madd(vf a, vf b, vf c) {
    return _mm_add_ps(_mm_mul_ps(a, b), c);
}
INLINE vf vf_from_vi(vi a) {
    return _mm_cvtepi32_ps(a);
}

/* A partial sum keeps each row's two halves apart: rows 0, 1 and rows 2, 3. Two dots are 8
 * products, at most 8 * 32 * 127 = 32512 for a K type, so PMADDWD can scale them. */
#define PART_DIRECT               0
#define PART_DOTS(largest)        8
#define PART_DOTS_SCALED(largest) 2
typedef struct vp {
    __m128i a, b;
} vp;
INLINE vp vp_zero(void) {
    return (vp){_mm_setzero_si128(), _mm_setzero_si128()};
}
INLINE vp vp_dot(vp p, vi w, vi a, int signed_bytes) {
    (void)signed_bytes;
    __m128i wide = _mm_srai_epi16(_mm_unpacklo_epi8(a, a), 8);
    __m128i low = _mm_srai_epi16(_mm_unpacklo_epi8(w, w), 8);
    __m128i high = _mm_srai_epi16(_mm_unpackhi_epi8(w, w), 8);
    return (vp){_mm_add_epi32(p.a, _mm_madd_epi16(low, wide)),
                _mm_add_epi32(p.b, _mm_madd_epi16(high, wide))};
}
INLINE vi vp_whole(vp p) {
    __m128 a = _mm_castsi128_ps(p.a), b = _mm_castsi128_ps(p.b);
    return _mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(a, b, 0x88)),
                         _mm_castps_si128(_mm_shuffle_ps(a, b, 0xdd)));
}
INLINE vi vi_add_part(vi acc, vp p) {
    return _mm_add_epi32(acc, vp_whole(p));
}
INLINE vi vi_add_scaled(vi acc, vp p, vi scale, int largest) {
    (void)largest;
    return _mm_add_epi32(acc, _mm_madd_epi16(vp_whole(p), scale));
}
INLINE vi vi_dot(vi acc, vi w, vi a, int signed_bytes) {
    return vi_add_part(acc, vp_dot(vp_zero(), w, a, signed_bytes));
}

/* ---- w16 ------------------------------------------------------------------------------------ */

#define BS 1
#define BA 1
#define BR 1
#define FM 2
#define BM 2
#define AQ 1
#define AP 2
#define AV 1
#define AF 0 /* conversion is a dozen operations here: once, for all */

typedef struct w16 {
    __m128 v[4];
} w16;
typedef w16 s16;

#define W16_EACH _Pragma("clang loop unroll(full)") for (int i = 0; i < 4; i++)

INLINE w16 w16_set1(float x) {
    __m128 v = _mm_set1_ps(x);
    return (w16){{v, v, v, v}};
}
INLINE w16 w16_zero(void) {
    return w16_set1(0.0f);
}
INLINE w16 w16_load(const float *p) {
    w16 out;
    W16_EACH out.v[i] = _mm_loadu_ps(p + 4 * i);
    return out;
}
INLINE void w16_store(float *p, w16 x) {
    W16_EACH _mm_storeu_ps(p + 4 * i, x.v[i]);
}
#define W16_OP(name, op)                                                                           \
    INLINE w16 name(w16 x, w16 y) {                                                                \
        W16_EACH x.v[i] = op(x.v[i], y.v[i]);                                                      \
        return x;                                                                                  \
    }
W16_OP(w16_add, _mm_add_ps)
W16_OP(w16_sub, _mm_sub_ps)
W16_OP(w16_mul, _mm_mul_ps)
W16_OP(w16_div, _mm_div_ps)
W16_OP(w16_max, _mm_max_ps)
W16_OP(w16_min, _mm_min_ps)
#undef W16_OP
INLINE w16 w16_madd(w16 x, w16 y, w16 z) {
    return w16_add(w16_mul(x, y), z);
}
INLINE w16 w16_abs(w16 x) {
    W16_EACH x.v[i] = _mm_andnot_ps(_mm_set1_ps(-0.0f), x.v[i]);
    return x;
}
INLINE w16 w16_zero_below(w16 x, w16 limit, w16 value) {
    W16_EACH value.v[i] = _mm_andnot_ps(_mm_cmplt_ps(x.v[i], limit.v[i]), value.v[i]);
    return value;
}
INLINE w16 w16_power(w16 x) {
    W16_EACH {
        __m128i biased = _mm_add_epi32(_mm_castps_si128(x.v[i]), _mm_set1_epi32(127));
        x.v[i] = _mm_castsi128_ps(_mm_slli_epi32(biased, 23));
    }
    return x;
}
INLINE s16 s16_pair_halves(const uint8_t *a, const uint8_t *b) {
    const __m128i x = _mm_loadu_si128((const void *)a), y = _mm_loadu_si128((const void *)b);
    const __m128i zero = _mm_setzero_si128();
    return (w16){
        {widen_halves(_mm_unpacklo_epi16(x, zero)), widen_halves(_mm_unpackhi_epi16(x, zero)),
         widen_halves(_mm_unpacklo_epi16(y, zero)), widen_halves(_mm_unpackhi_epi16(y, zero))}};
}
INLINE w16 w16_halves(const void *p) {
    return s16_pair_halves(p, (const uint8_t *)p + 16);
}
INLINE void w16_store_halves(void *p, w16 x) {
    float values[16];
    uint16_t halves[16];
    w16_store(values, x);
    for (int i = 0; i < 16; i++) halves[i] = lp_f32_to_f16(values[i]);
    memcpy(p, halves, sizeof halves);
}
/* Lane i: acc + w * x of the bfloats 2i + 1, then of 2i (such a product is exact). */
INLINE w16 w16_bdot(int native, w16 acc, w16 w, w16 x) {
    (void)native;
    W16_EACH {
        __m128i a = _mm_castps_si128(w.v[i]), b = _mm_castps_si128(x.v[i]);
        __m128i odd = _mm_set1_epi32(-65536);
        __m128 first = _mm_mul_ps(_mm_castsi128_ps(_mm_and_si128(a, odd)),
                                  _mm_castsi128_ps(_mm_and_si128(b, odd)));
        __m128 second = _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(a, 16)),
                                   _mm_castsi128_ps(_mm_slli_epi32(b, 16)));
        acc.v[i] = _mm_add_ps(_mm_add_ps(acc.v[i], first), second);
    }
    return acc;
}
INLINE w16 w16_repeat(const uint8_t *p) {
    __m128 x = _mm_loadu_ps((const float *)(const void *)p);
    __m128 y = _mm_loadu_ps((const float *)(const void *)(p + 16));
    return (w16){{x, y, x, y}};
}
INLINE s16 s16_pair(const uint8_t *a, const uint8_t *b) {
    const float *p = (const void *)a, *q = (const void *)b;
    return (w16){{_mm_loadu_ps(p), _mm_loadu_ps(p + 4), _mm_loadu_ps(q), _mm_loadu_ps(q + 4)}};
}
INLINE __m128 fold_pairs(__m128 x, __m128 y) {
    return _mm_add_ps(_mm_shuffle_ps(x, y, 0x88), _mm_shuffle_ps(x, y, 0xdd));
}
/* Two partial sums of each half. */
INLINE __m128 fold_halves(w16 x) {
    __m128 p = _mm_add_ps(x.v[0], x.v[1]), q = _mm_add_ps(x.v[2], x.v[3]);
    return _mm_add_ps(_mm_movelh_ps(p, q), _mm_movehl_ps(q, p));
}
INLINE void w16_fold_pairs(float out[4], w16 x, w16 y) {
    _mm_storeu_ps(out, fold_pairs(fold_halves(x), fold_halves(y)));
}
INLINE s16 s16_pair_bfloats(const uint8_t *a, const uint8_t *b) {
    const __m128i x = _mm_loadu_si128((const void *)a), y = _mm_loadu_si128((const void *)b);
    const __m128i zero = _mm_setzero_si128();
    return (w16){{_mm_castsi128_ps(_mm_unpacklo_epi16(zero, x)),
                  _mm_castsi128_ps(_mm_unpackhi_epi16(zero, x)),
                  _mm_castsi128_ps(_mm_unpacklo_epi16(zero, y)),
                  _mm_castsi128_ps(_mm_unpackhi_epi16(zero, y))}};
}
INLINE w16 w16_bfloats(const void *p) {
    return s16_pair_bfloats(p, (const uint8_t *)p + 16);
}
INLINE w16 w16_quants(b32 q, int half) {
    __m128i x = half == 0 ? q.a : q.b;
    __m128i low = _mm_unpacklo_epi8(x, x), high = _mm_unpackhi_epi8(x, x);
    const __m128i words[4] = {_mm_unpacklo_epi16(low, low), _mm_unpackhi_epi16(low, low),
                              _mm_unpacklo_epi16(high, high), _mm_unpackhi_epi16(high, high)};
    w16 out;
    W16_EACH out.v[i] = _mm_cvtepi32_ps(_mm_srai_epi32(words[i], 24));
    return out;
}
INLINE w16 w16_bytes(const int8_t *p) {
    __m128i x = _mm_loadu_si128((const void *)p);
    return w16_quants((b32){x, x}, 0);
}
INLINE w16 w16_half1(const uint8_t *p) {
    __m128 x = widen_halves(_mm_set1_epi32(half_bits(p)));
    return (w16){{x, x, x, x}};
}
INLINE __m128i rounded16(w16 x) {
    __m128i low = _mm_packs_epi32(_mm_cvtps_epi32(x.v[0]), _mm_cvtps_epi32(x.v[1]));
    __m128i high = _mm_packs_epi32(_mm_cvtps_epi32(x.v[2]), _mm_cvtps_epi32(x.v[3]));
    return _mm_packs_epi16(low, high);
}
INLINE b32 b32_round(w16 x, w16 y) {
    return (b32){rounded16(x), rounded16(y)};
}
INLINE float w16_fold(w16 x) {
    __m128 four = _mm_add_ps(_mm_add_ps(x.v[0], x.v[2]), _mm_add_ps(x.v[1], x.v[3]));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
INLINE void w16_fold4(float out[4], w16 a, w16 b, w16 c, w16 d) {
    out[0] = w16_fold(a), out[1] = w16_fold(b), out[2] = w16_fold(c), out[3] = w16_fold(d);
}
INLINE float w16_fold_max(w16 x) {
    __m128 m = _mm_max_ps(_mm_max_ps(x.v[0], x.v[2]), _mm_max_ps(x.v[1], x.v[3]));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

#endif
