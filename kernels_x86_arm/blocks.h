/* blocks.h - the block layouts of a GGUF file's weight types, and of quantized activations.
 *
 * Weight blocks are little-endian byte structures without alignment: a file may place them
 * anywhere. Halves are kept as two bytes, so that every struct has alignment 1 and a block can
 * be read straight from a mapped file. static_asserts in qtype.c pin the sizes.
 *
 * In the drawings, e0..e31 are the elements of one block (or group of 32) in order.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BLOCKS_H
#define LP_BLOCKS_H

#include "qtype.h"

typedef struct lp_half {
    uint8_t bytes[2]; /* binary16, little-endian */
} lp_half;

/* Blocks of 32. qs[j] holds e_j in its low nibble and e_{j+16} in its high one. qh: bit i is the
 * fifth bit of e_i. */
typedef struct lp_q4_0 { /* d * (nibble - 8) */
    lp_half d;
    uint8_t qs[16];
} lp_q4_0;

typedef struct lp_q4_1 { /* d * nibble + m */
    lp_half d, m;
    uint8_t qs[16];
} lp_q4_1;

typedef struct lp_q5_0 { /* d * (q - 16), q = nibble + 16 * bit */
    lp_half d;
    uint8_t qh[4];
    uint8_t qs[16];
} lp_q5_0;

typedef struct lp_q5_1 { /* d * q + m */
    lp_half d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} lp_q5_1;

typedef struct lp_q8_0 { /* d * q */
    lp_half d;
    int8_t qs[32];
} lp_q8_0;

/* Blocks of 256 = two halves of 128; a half is four groups of 32 (g = 0..3), and l is the place in
 * the group. Two-bit fields: bits 2g, 2g+1 of byte 32 * half + l. */
typedef struct lp_q2_k { /* d * (sc & 15) * q - dmin * (sc >> 4), one sc per 16 elements */
    uint8_t scales[16];
    uint8_t qs[64];
    lp_half d, dmin;
} lp_q2_k;

typedef struct lp_q3_k { /* d * (sc - 32) * (q - (bit ? 0 : 4)), one sc per 16 elements */
    uint8_t hmask[32];   /* bit 4 * half + g of byte l */
    uint8_t qs[64];
    uint8_t scales[12]; /* sc_j (6 bits, j = 0..15): low nibble: j < 8 ? s[j] & 15 : s[j-8] >> 4;
                           bits 4, 5: bits 2*(j/4), 2*(j/4)+1 of s[8 + j%4] */
    lp_half d;
} lp_q3_k;

/* Scales of Q4_K and Q5_K, b = 0..7, 6 bits each, in 12 bytes:
 *   s[0..3]   | sc4..7 bits 4,5 (top) | sc0..3 |
 *   s[4..7]   | m4..7 bits 4,5 (top)  | m0..3  |
 *   s[8..11]  | m4..7 low nibbles     | sc4..7 low nibbles |  */
typedef struct lp_q4_k { /* d * sc_b * q - dmin * m_b, b = i / 32; groups 2p, 2p+1 are the low and
                            the high nibbles of qs[32p..32p+31] */
    lp_half d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
} lp_q4_k;

typedef struct lp_q5_k { /* as Q4_K with a fifth bit: bit b of qh[l] */
    lp_half d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} lp_q5_k;

typedef struct lp_q6_k { /* d * sc[i / 16] * (q - 32), q = low four bits from ql, high two from qh
                          */
    uint8_t ql[128]; /* half h: group g in the nibble (low: g < 2) of byte 64h + 32(g & 1) + l */
    uint8_t qh[64];
    int8_t scales[16];
    lp_half d;
} lp_q6_k;

/* Activations. x is close to d * q, q = round_half_even(x * (127 / amax)), d = amax / 127, amax the
 * largest magnitude of the block (below 1e-30: all zero). Rows are arrays of these. */
typedef struct lp_act32 {
    float d;
    float s;            /* d * sum of q: what a weight block's minimum multiplies */
    int32_t correction; /* -128 * sum of q: what unsigned weight bytes (value + offset, offset = 8,
                           16 or 128) owe; exact after a right shift */
    int8_t q[32];
} lp_act32;

typedef struct lp_act256 {
    float d;
    int32_t owed[16];  /* -32 * sums: as `correction`, for each 16 elements */
    int16_t sums[16];  /* of q over each 16 elements */
    int16_t sums32[8]; /* and over each 32 */
    int8_t q[256];
} lp_act256;

#endif
