/* vec_avx2.h - the vector vocabulary of the bodies in terms of AVX2, FMA and F16C.
 *
 * Four families, the same in every vec_*.h but for what a macro announces (VEC_..., DECODE_...):
 *   b32   32 bytes: one 32-block of quants (here one register), for unpacking and decode.
 *   di/df DL int32 / float lanes, one weight row each: the decode body's results. kr, kr8, ks:
 *         scales of K types, as its products take them.
 *   vi/vf NL int32 / float lanes, one weight row each: the prefill tile. Here vi = di, vf = df.
 *   w16   16 floats: products of floats in eight partial sums for each of two weight rows, those of
 *         attention in 16, elementwise functions. s16: the same for rows that are streamed.
 *
 * Integer products: VPMADDUBSW multiplies unsigned by signed bytes and adds pairs with saturation
 * at 16 bits. Weights go on the unsigned side, value + offset. Sums stay below 2^15 for quants up
 * to 31 in runs of PART_DOTS instructions; Q8_0 stays signed and moves its sign to the activation
 * (|w| <= 128, |a| <= 127: a pair is at most 32512).
 * VEC_VNNI: VPDPBUSD instead, which has no 16-bit stage (AVX-VNNI and AVX-512 VNNI).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_VEC_AVX2_H
#define LP_VEC_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "blocks.h"

#define VEC_SIGNED 0 /* weight bytes are value + offset (see unpack.inc) */
#define DL         8 /* weight rows of the decode body */
#define INLINE     static inline __attribute__((always_inline, unused))

#ifdef VEC_VNNI
#define VEC_SIGNED_Q8 0
#define SCALE_CODE(s) ((int32_t)(s)) /* for VPMULLD; masked where VPDPWSSD takes it */
#else
#define VEC_SIGNED_Q8 1 /* Q8_0 bytes are the signed values */
#define SCALE_CODE(s) ((int32_t)(((uint32_t)(s) & 0xffffu) * 0x10001u)) /* for VPMADDWD */
#endif

/* ---- b32 ------------------------------------------------------------------------------------ */

typedef __m256i b32;

INLINE b32 b32_load(const void *p) {
    return _mm256_loadu_si256(p);
}
INLINE void b32_store(void *p, b32 a) {
    _mm256_storeu_si256(p, a);
}
INLINE b32 b32_set1(int byte) {
    return _mm256_set1_epi8((char)byte);
}
INLINE b32 b32_and(b32 a, b32 b) {
    return _mm256_and_si256(a, b);
}
INLINE b32 b32_or(b32 a, b32 b) {
    return _mm256_or_si256(a, b);
}
INLINE b32 b32_xor(b32 a, b32 b) {
    return _mm256_xor_si256(a, b);
}
INLINE b32 b32_sub(b32 a, b32 b) {
    return _mm256_sub_epi8(a, b);
}
/* Shifts of 16-bit lanes; bits that cross a byte are for the caller to mask. */
#define b32_shl(a, n) _mm256_slli_epi16(a, n)
#define b32_shr(a, n) _mm256_srli_epi16(a, n)

/* 16 bytes: low nibbles, then high nibbles. */
INLINE b32 b32_nibbles(const void *p) {
    __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
    __m256i moved = _mm256_srlv_epi64(both, _mm256_set_epi64x(4, 4, 0, 0));
    return _mm256_and_si256(moved, _mm256_set1_epi8(15));
}

/* Bit i of a little-endian 32-bit word as `value` or 0 in byte i. */
INLINE b32 b32_bits(const uint8_t *p, int value) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    const __m256i pick =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    __m256i bytes = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), pick), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(bytes, bit), _mm256_set1_epi8((char)value));
}

/* ---- di, df: decode ------------------------------------------------------------------------- */

typedef __m256i di;
typedef __m256 df;

INLINE di di_zero(void) {
    return _mm256_setzero_si256();
}
INLINE di di_set1(int32_t x) {
    return _mm256_set1_epi32(x);
}
INLINE di di_add(di a, di b) {
    return _mm256_add_epi32(a, b);
}

/* Partial sums (any lanes) of w * a over 32 bytes; signed_bytes: see VEC_SIGNED_Q8. */
INLINE di di_dot(b32 w, b32 a, int signed_bytes) {
#ifdef VEC_VNNI
    (void)signed_bytes;
    return VEC_DPBUSD(_mm256_setzero_si256(), w, a);
#else
    __m256i pairs = signed_bytes ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
                                 : _mm256_maddubs_epi16(w, a);
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

/* Nibbles of 16 bytes of two rows, a row in each half of a register: low ones, then high ones. */
#define VEC_NIBBLE_PAIRS
INLINE void b32_nibble_pair(const uint8_t *p, const uint8_t *q, b32 out[2]) {
    __m128i low = _mm_loadu_si128((const void *)p), high = _mm_loadu_si128((const void *)q);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    out[0] = b32_and(both, b32_set1(15));
    out[1] = b32_and(b32_shr(both, 4), b32_set1(15));
}
INLINE b32 b32_load_twice(const void *p) { /* 16 bytes */
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}
/* Four partial sums per row. Without VNNI four products fit in 16 bits: 4 * 15 * 127 = 7620. */
INLINE di di_dot_pair(const b32 nibbles[2], b32 a_low, b32 a_high) {
#ifdef VEC_VNNI
    return VEC_DPBUSD(VEC_DPBUSD(_mm256_setzero_si256(), nibbles[0], a_low), nibbles[1], a_high);
#else
    __m256i low = _mm256_maddubs_epi16(nibbles[0], a_low);
    __m256i high = _mm256_maddubs_epi16(nibbles[1], a_high);
    return _mm256_madd_epi16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1));
#endif
}
/* Lanes i and i + 4 of the result: the sums of the halves of p[i]. */
INLINE di di_fold_pairs(const di p[4]) {
    __m256i a =
        _mm256_add_epi32(_mm256_unpacklo_epi32(p[0], p[1]), _mm256_unpackhi_epi32(p[0], p[1]));
    __m256i b =
        _mm256_add_epi32(_mm256_unpacklo_epi32(p[2], p[3]), _mm256_unpackhi_epi32(p[2], p[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

#define DECODE_UNROLLED 1 /* see decode256 */

/* acc + the products of the words of x and y, two to a lane. As text: the compiler takes VPDPWSSD
 * apart to shorten chains, of which there are enough here. */
INLINE di di_dot_words(di acc, __m256i x, __m256i y) {
#ifdef VEC_DPWSSD_TEXT
    __asm__(VEC_DPWSSD_TEXT : "+v"(acc) : "v"(x), "v"(y));
    return acc;
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x, y));
#endif
}
/* Eight scales each of DL rows, twice as words, to be spread over a register by its load. */
#define VEC_SPREAD_SCALES
typedef struct kr8 {
    int32_t words[8 * DL]; /* scale j of row i at j * DL + i */
} kr8;
typedef const int32_t *kr8_row;
INLINE kr8_row kr8_of(const kr8 *scales, int row) {
    return scales->words + row;
}

/* A row's sixteen scales as words: the even ones in the low half, the odd ones in the high half. */
typedef __m256i kr;
INLINE kr kr_load16(const void *p) {
    const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128(p), apart));
}
/* What 32 products are scaled by: number j of eight; 2j (the first 16) and 2j + 1 of sixteen. The
 * latter as text, since the compiler makes two shuffles of VPSHUFB, which pay only where a scale is
 * used more than once and registers are short. */
typedef __m256i ks;
INLINE ks ks_of8(kr8_row scales, int j) {
    return _mm256_set1_epi32(scales[j * DL]);
}
INLINE ks ks_of16(kr scales, int j, int once) {
    __m256i scale, pick = _mm256_set1_epi16((int16_t)(((2 * j + 1) << 8) | (2 * j)));
    if (!once) return _mm256_shuffle_epi8(scales, pick);
    __asm__("vpshufb %2, %1, %0" : "=v"(scale) : "v"(scales), "v"(pick));
    return scale;
}
/* acc + scaled products. A sum of two fits in 16 bits: 2 * 63 * 127 = 16002. */
INLINE di di_dot_scaled(di acc, b32 w, b32 a, ks scale, int i0, int i1) {
    (void)i0, (void)i1;
    return di_dot_words(acc, _mm256_maddubs_epi16(w, a), scale);
}
#ifdef VEC_SCALED_AT
/* The same with ks_of8(scales, j), which the instruction itself spreads. */
INLINE di di_dot_scaled_at(di acc, b32 w, b32 a, kr8_row scales, int j) {
    __asm__(VEC_SCALED_AT : "+v"(acc) : "v"(_mm256_maddubs_epi16(w, a)), "m"(scales[j * DL]));
    return acc;
}
#endif

/* acc - 2^shift * scales * sums, 16 of each. */
INLINE di di_owed(di acc, const int8_t *scales, const int16_t *sums, int shift) {
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)scales));
    __m256i products = _mm256_madd_epi16(wide, _mm256_loadu_si256((const void *)sums));
    return _mm256_sub_epi32(acc, _mm256_slli_epi32(products, shift));
}

/* Lane i of out[j]: dword j of the 16 bytes at row[i] + at. */
INLINE void di_rows16(const uint8_t *const row[DL], size_t at, di out[4]) {
    __m256i r[4];
    for (int i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const void *)(row[i] + at));
        __m128i high = _mm_loadu_si128((const void *)(row[i + 4] + at));
        r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpacklo_epi32(r[2], r[3]);
    __m256i c = _mm256_unpackhi_epi32(r[0], r[1]), d = _mm256_unpackhi_epi32(r[2], r[3]);
    out[0] = _mm256_unpacklo_epi64(a, b);
    out[1] = _mm256_unpackhi_epi64(a, b);
    out[2] = _mm256_unpacklo_epi64(c, d);
    out[3] = _mm256_unpackhi_epi64(c, d);
}
INLINE di di_and(di a, di b) {
    return _mm256_and_si256(a, b);
}
INLINE di di_or(di a, di b) {
    return _mm256_or_si256(a, b);
}
INLINE di di_shr(di a, int n) {
    return _mm256_srli_epi32(a, n);
}
/* Each lane's bytes i0 and i1 as the low and the high word. */
INLINE di di_pick(di x, int i0, int i1) {
    int low = (int)0x80008000 | (i1 << 16) | i0, step = 0x00040004;
    return _mm256_shuffle_epi8(x,
                               _mm256_setr_epi32(low, low + step, low + 2 * step, low + 3 * step,
                                                 low, low + step, low + 2 * step, low + 3 * step));
}
/* Eight scales of each row: the bytes of a lane of a, then of b. */
INLINE void kr8_store(kr8 *out, di a, di b) {
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_si256((void *)(out->words + j * DL), di_pick(a, j, j));
        _mm256_storeu_si256((void *)(out->words + (4 + j) * DL), di_pick(b, j, j));
    }
}
/* SCALE_CODE of each lane's byte i. */
INLINE di di_scale_code(di x, int i, int is_signed) {
    if (is_signed) x = _mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * i), 24);
#ifdef VEC_VNNI
    if (is_signed) return x;
    return _mm256_and_si256(_mm256_srli_epi32(x, 8 * i), _mm256_set1_epi32(255));
#else
    if (is_signed) return _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xa0), 0xa0);
    return di_pick(x, i, i);
#endif
}
/* -2^shift * each lane's signed bytes i and i + 1 as words. */
INLINE di di_owed_pair(di x, int i, int shift) {
    __m256i words = di_pick(x, i, i + 1);
    return _mm256_sub_epi16(_mm256_setzero_si256(),
                            _mm256_srai_epi16(_mm256_slli_epi16(words, 8), 8 - shift));
}
INLINE void di_store(void *p, di x) {
    _mm256_storeu_si256(p, x);
}
/* Adds the two products of a lane's words with the words at p. */
INLINE di di_madd16(di acc, di words, const int16_t *p) {
    int32_t both;
    memcpy(&both, p, sizeof both);
#ifdef VEC_VNNI
    return VEC_DPWSSD(acc, words, _mm256_set1_epi32(both));
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi32(both)));
#endif
}

/* Lane i of the result: the sum of p[i]'s lanes. */
INLINE di di_fold(const di p[DL]) {
    __m256i q[4], r[2];
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(p[2 * i], p[2 * i + 1]),
                                _mm256_unpackhi_epi32(p[2 * i], p[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        r[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(q[2 * i], q[2 * i + 1]),
                                _mm256_unpackhi_epi64(q[2 * i], q[2 * i + 1]));
    }
    return _mm256_add_epi32(_mm256_permute2x128_si256(r[0], r[1], 0x20),
                            _mm256_permute2x128_si256(r[0], r[1], 0x31));
}

INLINE df df_zero(void) {
    return _mm256_setzero_ps();
}
INLINE df df_set1(float x) {
    return _mm256_set1_ps(x);
}
INLINE df df_mul(df a, df b) {
    return _mm256_mul_ps(a, b);
}
INLINE df df_madd(df a, df b, df c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE df df_neg(df a) {
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
INLINE df df_from_di(di a) {
    return _mm256_cvtepi32_ps(a);
}
INLINE void df_store(float *p, df a) {
    _mm256_storeu_ps(p, a);
}

INLINE short half_bits(const uint8_t *p) {
    short bits;
    memcpy(&bits, p, sizeof bits);
    return bits;
}

/* The halves at offset `at` of DL rows. */
INLINE df df_halves(const uint8_t *const row[DL], size_t at) {
    return _mm256_cvtph_ps(_mm_setr_epi16(half_bits(row[0] + at), half_bits(row[1] + at),
                                          half_bits(row[2] + at), half_bits(row[3] + at),
                                          half_bits(row[4] + at), half_bits(row[5] + at),
                                          half_bits(row[6] + at), half_bits(row[7] + at)));
}

/* The low (half 0) or high word of each lane, a half. */
INLINE df df_word_half(di x, int half) {
    const __m256i pick = half == 0
                             ? _mm256_setr_epi64x(0x0d0c090805040100, 0, 0, 0x0d0c090805040100)
                             : _mm256_setr_epi64x(0x0f0e0b0a07060302, 0, 0, 0x0f0e0b0a07060302);
    __m256i words = _mm256_shuffle_epi8(x, pick);
    return _mm256_cvtph_ps(
        _mm_blend_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1), 12));
}

/* DL rows of eight 4-byte groups -> eight columns of DL dwords, each at out + column * stride. */
INLINE void b32_transpose_store(const b32 r[DL], uint8_t *out, size_t stride) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            b[4 * i + 2 * j] = _mm256_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        __m256i low = _mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
        __m256i high = _mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
        _mm256_storeu_si256((void *)(out + i * stride), low);
        _mm256_storeu_si256((void *)(out + (i + 4) * stride), high);
    }
}

INLINE void vec_prefetch(const void *p) {
    _mm_prefetch(p, _MM_HINT_T0);
}
/* Into the L2 cache only. */
INLINE void vec_prefetch_far(const void *p) {
    _mm_prefetch(p, _MM_HINT_T1);
}

INLINE __m128 fold_pairs(__m128 x, __m128 y) { /* 0 + 1 and 2 + 3 of x, then of y */
    return _mm_add_ps(_mm_shuffle_ps(x, y, 0x88), _mm_shuffle_ps(x, y, 0xdd));
}

/* ---- s16: streamed floats, a register for each of two weight rows ------------------------------
 */

#define VEC_STREAMED
typedef struct s16 {
    __m256 a, b;
} s16;

INLINE s16 s16_zero(void) {
    return (s16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE void s16_store(float *p, s16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE s16 s16_madd(s16 x, s16 y, s16 z) {
    return (s16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE __m256 bdot8(__m256 acc, __m256i w, __m256i x) {
    __m256i odd = _mm256_set1_epi32(-65536);
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(w, odd)),
                          _mm256_castsi256_ps(_mm256_and_si256(x, odd)), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                           _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), acc);
}
/* Lane i: acc + w * x of the bfloats 2i + 1, then of 2i. */
INLINE s16 s16_bdot(int native, s16 acc, s16 w, s16 x) {
#ifdef VEC_AVX512
    if (native) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc.a) : "v"(w.a), "v"(x.a));
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc.b) : "v"(w.b), "v"(x.b));
        return acc;
    }
#endif
    (void)native;
    return (s16){bdot8(acc.a, _mm256_castps_si256(w.a), _mm256_castps_si256(x.a)),
                 bdot8(acc.b, _mm256_castps_si256(w.b), _mm256_castps_si256(x.b))};
}
/* 32 bytes, in each half. */
INLINE s16 s16_repeat(const uint8_t *p) {
    __m256 x = _mm256_loadu_ps((const float *)(const void *)p);
    return (s16){x, x};
}
/* 32 bytes of each: the first half and the second. */
INLINE s16 s16_pair(const uint8_t *a, const uint8_t *b) {
    return (s16){_mm256_loadu_ps((const float *)(const void *)a),
                 _mm256_loadu_ps((const float *)(const void *)b)};
}
/* Eight halves of each, or eight bfloats. */
INLINE s16 s16_pair_halves(const uint8_t *a, const uint8_t *b) {
    return (s16){_mm256_cvtph_ps(_mm_loadu_si128((const void *)a)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)b))};
}
INLINE __m256 widen_bfloats(const uint8_t *p) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
INLINE s16 s16_pair_bfloats(const uint8_t *a, const uint8_t *b) {
    return (s16){widen_bfloats(a), widen_bfloats(b)};
}
/* The sums of eight, each as ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)): of x's halves, of y's. */
INLINE __m256 fold_two(s16 x) { /* four partial sums of each half */
    return _mm256_add_ps(_mm256_permute2f128_ps(x.a, x.b, 0x20),
                         _mm256_permute2f128_ps(x.a, x.b, 0x31));
}
INLINE void s16_fold_pairs(float out[4], s16 x, s16 y) {
    __m256 p = fold_two(x), q = fold_two(y);
    __m256 two = _mm256_add_ps(_mm256_shuffle_ps(p, q, 0x44), _mm256_shuffle_ps(p, q, 0xee));
    __m128 sums = fold_pairs(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1));
    _mm_storeu_ps(out, _mm_shuffle_ps(sums, sums, 0xd8)); /* were of x, y, x, y */
}

#ifndef VEC_AVX512
/* ---- vi, vf: the prefill tile --------------------------------------------------------------- */

#define NL 8 /* weight rows in a vector */
#define NR 1 /* vectors in a tile */
#define MR 4 /* activation rows in a tile: 4 partial and 4 whole sums leave 8 registers */

typedef __m256i vi;
typedef __m256 vf;

INLINE vi vi_load(const void *p) {
    return _mm256_loadu_si256(p);
}
INLINE vi vi_zero(void) {
    return _mm256_setzero_si256();
}
INLINE vi vi_dup4(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm256_set1_epi32(word);
}
INLINE vi vi_sar(vi a, int n) {
    return _mm256_srai_epi32(a, n);
}
INLINE vi vi_dot16(vi acc, vi a, vi b) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}
INLINE vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}
INLINE vf vf_set1(float x) {
    return _mm256_set1_ps(x);
}
INLINE vf vf_zero(void) {
    return _mm256_setzero_ps();
}
INLINE vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_madd(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_from_vi(vi a) {
    return _mm256_cvtepi32_ps(a);
}

/* vp: a partial sum of at most PART_DOTS(largest weight) dots (0: signed bytes). */
#ifdef VEC_VNNI
#define PART_DIRECT        1 /* a partial sum is a plain int32 sum */
#define PART_DOTS(largest) 8
/* As in vec_avx512.h. */
#define PART_DOTS_SCALED(largest) ((largest) == 15 || (largest) == 31 ? 8 : 4)
typedef vi vp;
INLINE vp vp_zero(void) {
    return vi_zero();
}
INLINE vi vi_dot(vi p, vi w, vi a, int signed_bytes) {
    (void)signed_bytes;
    return VEC_DPBUSD(p, w, a);
}
INLINE vp vp_dot(vp p, vi w, vi a, int signed_bytes) {
    return vi_dot(p, w, a, signed_bytes);
}
INLINE vi vi_add_part(vi acc, vp p) {
    return _mm256_add_epi32(acc, p);
}
INLINE vi vi_add_scaled(vi acc, vp p, vi scale, int largest) {
    if (largest < 15) { /* p's high half is its sign, so the scale's must be zero */
        return VEC_DPWSSD(acc, p, _mm256_and_si256(scale, _mm256_set1_epi32(0xffff)));
    }
    return _mm256_add_epi32(acc, _mm256_mullo_epi32(p, scale));
}
#else
#define PART_DIRECT        0 /* a partial sum is 16-bit pairs */
#define PART_DOTS(largest) ((largest) == 0 ? 1 : (largest) <= 15 ? 8 : (largest) <= 31 ? 4 : 2)
#define PART_DOTS_SCALED(largest) ((largest) <= 7 ? 4 : PART_DOTS(largest))
typedef __m256i vp;
INLINE vp vp_zero(void) {
    return _mm256_setzero_si256();
}
INLINE vp vp_dot(vp p, vi w, vi a, int signed_bytes) {
    __m256i pairs = signed_bytes ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
                                 : _mm256_maddubs_epi16(w, a);
    return _mm256_add_epi16(p, pairs);
}
INLINE vi vi_add_part(vi acc, vp p) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
INLINE vi vi_add_scaled(vi acc, vp p, vi scale, int largest) {
    (void)largest;
    return _mm256_add_epi32(acc, _mm256_madd_epi16(p, scale));
}
INLINE vi vi_dot(vi acc, vi w, vi a, int signed_bytes) {
    return vi_add_part(acc, vp_dot(vp_zero(), w, a, signed_bytes));
}
#endif

/* ---- w16 ------------------------------------------------------------------------------------ */

#define BS 2 /* up to so many activation rows read float weights where they lie, */
#define BA 2 /* so many at a time */
#define BR 1 /* w16s of weights, two rows each, and */
#define FM 6 /* activation rows of the tile of floats */
#define BM 4 /* and of bfloats */
#define AQ 2 /* queries and */
#define AP 2 /* positions of the score tile; AQ queries and AV vectors of the value tile */
#define AV 2
#define AF 8 /* up to so many queries convert an F16 cache as they read it */

typedef s16 w16;

INLINE w16 w16_zero(void) {
    return (w16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE w16 w16_set1(float x) {
    return (w16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
INLINE w16 w16_load(const float *p) {
    return (w16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void w16_store(float *p, w16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
#define W16_OP(name, op)                                                                           \
    INLINE w16 name(w16 x, w16 y) {                                                                \
        return (w16){op(x.a, y.a), op(x.b, y.b)};                                                  \
    }
W16_OP(w16_add, _mm256_add_ps)
W16_OP(w16_sub, _mm256_sub_ps)
W16_OP(w16_mul, _mm256_mul_ps)
W16_OP(w16_div, _mm256_div_ps)
W16_OP(w16_max, _mm256_max_ps) /* the second operand where either is NaN */
W16_OP(w16_min, _mm256_min_ps)
#undef W16_OP
INLINE w16 w16_madd(w16 x, w16 y, w16 z) {
    return s16_madd(x, y, z);
}
INLINE w16 w16_abs(w16 x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (w16){_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
INLINE w16 w16_repeat(const uint8_t *p) {
    return s16_repeat(p);
}
INLINE w16 w16_bdot(int native, w16 acc, w16 w, w16 x) {
    return s16_bdot(native, acc, w, x);
}
INLINE void w16_fold_pairs(float out[4], w16 x, w16 y) {
    s16_fold_pairs(out, x, y);
}
/* value where x >= limit (or NaN), else 0 */
INLINE w16 w16_zero_below(w16 x, w16 limit, w16 value) {
    return (w16){_mm256_andnot_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ), value.a),
                 _mm256_andnot_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ), value.b)};
}
/* 2^n for n in the low mantissa bits of x = n + 1.5 * 2^23 */
INLINE w16 w16_power(w16 x) {
    __m256i bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_add_epi32(_mm256_castps_si256(x.a), bias);
    __m256i b = _mm256_add_epi32(_mm256_castps_si256(x.b), bias);
    return (w16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 23)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(b, 23))};
}
INLINE w16 w16_halves(const void *p) {
    return s16_pair_halves(p, (const uint8_t *)p + 16);
}
INLINE void w16_store_halves(void *p, w16 x) {
    uint8_t *bytes = p;
    _mm_storeu_si128((void *)bytes, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(bytes + 16), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
INLINE w16 w16_bfloats(const void *p) {
    return s16_pair_bfloats(p, (const uint8_t *)p + 16);
}
/* 16 signed bytes, first or second half of a b32. */
INLINE w16 w16_quants(b32 q, int half) {
    __m128i x = half == 0 ? _mm256_castsi256_si128(q) : _mm256_extracti128_si256(q, 1);
    return (w16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
INLINE w16 w16_bytes(const int8_t *p) { /* signed */
    return w16_quants(_mm256_castsi128_si256(_mm_loadu_si128((const void *)p)), 0);
}
INLINE w16 w16_half1(const uint8_t *p) { /* one half, 16 times */
    __m256 x = _mm256_cvtph_ps(_mm_set1_epi16(half_bits(p)));
    return (w16){x, x};
}
/* Rounded half to even, saturated to int8. */
INLINE b32 b32_round(w16 x, w16 y) {
    __m256i first = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    __m256i second = _mm256_packs_epi32(_mm256_cvtps_epi32(y.a), _mm256_cvtps_epi32(y.b));
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
/* Folds by halves, as ref.c's fold. */
INLINE __m128 w16_fold_to4(w16 x) {
    __m256 eight = _mm256_add_ps(x.a, x.b);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
INLINE float w16_fold_max(w16 x) {
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
#endif

#define LP_FOLD_FROM4                                                                              \
    INLINE float w16_fold(w16 x) {                                                                 \
        __m128 four = w16_fold_to4(x);                                                             \
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));                                  \
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));                        \
    }                                                                                              \
    /* Four folds at once. */                                                                      \
    INLINE void w16_fold4(float out[4], w16 a, w16 b, w16 c, w16 d) {                              \
        __m128 p = w16_fold_to4(a), q = w16_fold_to4(b), r = w16_fold_to4(c), s = w16_fold_to4(d); \
        __m128 pq = _mm_add_ps(_mm_movelh_ps(p, q), _mm_movehl_ps(q, p));                          \
        __m128 rs = _mm_add_ps(_mm_movelh_ps(r, s), _mm_movehl_ps(s, r));                          \
        _mm_storeu_ps(out, fold_pairs(pq, rs));                                                    \
    }

#ifndef VEC_AVX512
LP_FOLD_FROM4
#endif

#endif
