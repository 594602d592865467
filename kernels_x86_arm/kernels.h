/* kernels.h - the numeric work that fills the time, behind one table per ISA level.
 *
 * The rule that holds the product together: an output element depends only on its weight row,
 * its activation row, the ISA level and the activation mode. Never on the number of rows in the
 * batch, the tile it fell into, the chunk a thread took, or a neighbour. So every body adds in
 * the same order; which order, ref.c says.
 *
 * Canonical order of a matrix product, one output element (acc = 0; madd(a, b, c) = fma(a, b, c),
 * but on ref, sse2 and avx, which have no fma: a * b rounded, then + c):
 *   32-blocks (Q4_0 .. Q8_0), for each block along K:
 *       i   = sum of weight_int * activation_int over the block
 *       acc = madd(d_weight * d_act, i, acc)
 *       acc = madd(m_weight, s_act, acc)                       (Q4_1, Q5_1)
 *   K types, for each block of 256 along K:
 *       i   = sum over sub-blocks of scale_int * sum of weight_int * activation_int
 *       acc = madd(d_weight * d_act, i, acc)
 *       acc = madd(-dmin_weight * d_act, sum of min_int * activation sums, acc)
 *                                                            (Q2_K, Q4_K, Q5_K)
 *   The integer sums are exact in int32, so their order is free; they are then rounded to float.
 *   int16 activations are two such rows, and their products are added: high + low.
 *   f32 activations (F32 and F16 weights, BF16 in the int16 mode, all in the f32 mode):
 *       for each stretch of LP_F32_STRETCH elements along K 8 partial sums, element k into
 *       sum k % 8, by madd in order of k; folded by halves, ((0 + 4) + (2 + 6)) + ((1 + 5) +
 *       (3 + 7)); the stretches' sums are added in order
 *   bf16 activations (BF16 weights):
 *       for each stretch of LP_BF16_STRETCH elements 8 partial sums s, of each 16 elements the odd
 *       one 2i + 1 and then the even one 2i into s[i]; folded and added up in the same way
 *       level amx: for each 32 elements two partial sums from zero, of the even and of the odd
 *       ones, by fma in order of k; acc += even + odd. As TDPBF16PS does
 *       The products of bfloats are exact. Denormals may count as zeros.
 * Levels with fma agree with each other bit for bit (but for amx with bf16 activations), and so do
 * those without.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_KERNELS_H
#define LP_KERNELS_H

#include "qtype.h"

/* How activations travel to a matrix product. */
typedef enum lp_act_mode { LP_ACT_INT8 = 0, LP_ACT_F32 = 1, LP_ACT_INT16 = 2 } lp_act_mode;

/* Elements of K that share their partial sums: a few rows of them stay in an L1 cache beside others
 * that pass. Multiples of every block's length. */
enum { LP_F32_STRETCH = 768, LP_BF16_STRETCH = 2048 };

/* The activation format a weight type wants in a mode (LP_ACT_INT8: int8 blocks of 32 for
 * Q4_0 .. Q8_0, of 256 for the K types; bf16 for BF16; f32 for F32, F16. LP_ACT_INT16: int16 blocks
 * instead of int8, else f32. LP_ACT_F32: always f32).
 * A row of an int16 kind is two of the int8 kind, one after the other: its rounded values, called
 * the high one, and what these lack, rounded in the same way, the low one. Together they have an
 * error of at most 1.6e-5 of a block's largest magnitude, or of 1e-30.
 * Rows of the f32 and bf16 kinds are padded with zeros to an odd number of 64-byte lines, so that
 * a few of them side by side do not fight for the same cache sets. */
typedef enum lp_act_kind {
    LP_ACT_KIND_F32 = 0,
    LP_ACT_KIND_I8_32,
    LP_ACT_KIND_I8_256,
    LP_ACT_KIND_BF16,
    LP_ACT_KIND_I16_32,
    LP_ACT_KIND_I16_256,
    LP_ACT_KIND_COUNT
} lp_act_kind;

lp_act_kind lp_act_kind_for(uint32_t type, lp_act_mode mode);

/* One matrix times a batch of activation rows:  out[r][n] = sum_k w[n][k] * x[r][k]. */
typedef struct lp_matmul {
    uint32_t type;       /* of the weights */
    const void *weights; /* n_out rows of row_bytes bytes, borrowed (often the mapped file) */
    size_t row_bytes;
    size_t n_in;             /* K: a whole number of blocks */
    size_t n_out;            /* N */
    lp_act_kind kind;        /* of acts; lp_act_kind_for(type, mode) */
    const void *acts;        /* written by quantize_acts of the same level, for n_rows rows */
    size_t n_rows;           /* rows of acts */
    const int32_t *row_list; /* which rows take part, in order; NULL = all n_rows */
    size_t n_list;           /* length of row_list; ignored when NULL */
    float *out;        /* row i (of the list) at out + i * out_stride, its n_out values first */
    size_t out_stride; /* in floats */
} lp_matmul;

/* Attention of one query head against cached keys and values, through a block table.
 * Position p of the sequence lies in block table[p / block_len] as its place p % block_len. Its
 * vector for this kv head starts at
 *   base + (table[p / block_len] * table_step * block_len + p % block_len) * slot_bytes +
 * head_offset so that a head's vectors of a block can lie side by side (table_step = kv heads,
 * slot_bytes = one vector), or a position's vectors of all heads (table_step = 1, slot_bytes = all
 * of them).
 */
typedef enum lp_kv_type {
    LP_KV_F16 = 0,
    LP_KV_F32 = 1,
    LP_KV_Q8_0 = 2 /* blocks as the weight type's, of 32 values of one head */
} lp_kv_type;

/* Bytes of n values in the cache; LP_KV_Q8_0: n is a multiple of 32, as are head sizes then. */
size_t lp_kv_bytes(lp_kv_type type, size_t n);

typedef struct lp_attention {
    lp_kv_type kv_type;
    const uint8_t *keys;   /* of this layer */
    const uint8_t *values; /* of this layer */
    size_t key_slot_bytes, value_slot_bytes;
    size_t key_head_offset, value_head_offset; /* bytes, of the kv head in a slot */
    const int32_t *table;                      /* block numbers of the sequence */
    size_t table_step;  /* block b of the cache begins at slot b * table_step * block_len */
    size_t block_len;   /* slots per block: a multiple of 16 */
    size_t first, last; /* visible positions: first <= p <= last */
    size_t head_dim;    /* of queries and keys */
    size_t value_dim;
    float scale;   /* scores are scale * q.k, then softcap */
    float softcap; /* c * tanh(s / c) if > 0 */
} lp_attention;

/* Positions p with the same p / LP_ATTENTION_STRETCH are summed by themselves, and a query's
 * stretches merged in rising order, so that threads can share the stretches of one query and the
 * result does not depend on whether they do. 512: four threads or more have work behind 2048
 * tokens with one kv head, and merging costs under 1 % of the sums. */
enum { LP_ATTENTION_STRETCH = 512 };
/* Queries that attention_many and attention_parts take in one pass over the cache. */
enum { LP_ATTENTION_QUERIES = 128 };

/* Floats of what a stretch gives a query: value_dim sums of exp(score - largest) * value, padded to
 * a multiple of 16; the largest score; the sum of exp(score - largest); up to a multiple of 16. */
size_t lp_attention_part_floats(size_t value_dim);

/* One of several query heads (other tokens, other heads of the group) that share a kv head. */
typedef struct lp_attention_query {
    const float *q;     /* head_dim floats */
    float *out;         /* value_dim floats; not q */
    size_t first, last; /* its own visible positions; first <= last */
} lp_attention_query;

typedef struct lp_kernels {
    const char *name;        /* "avx2": what --cpu takes and prints */
    const char *description; /* "AVX2 + FMA: Intel Haswell (2013), AMD Zen (2017)" */

    /* Bytes that quantize_acts may write for n_rows rows of n_in floats: never less than for fewer
     * or shorter rows. */
    size_t (*act_bytes)(lp_act_kind kind, size_t n_rows, size_t n_in);
    /* Converts rows row_begin..row_end of x (row r at x + r * stride floats) into acts, which is
     * sized for all rows. Rows may be converted by different threads at once; ranges given to
     * threads begin at multiples of act_row_group. */
    void (*quantize_acts)(lp_act_kind kind, const float *x, size_t stride, size_t n_rows,
                          size_t row_begin, size_t row_end, size_t n_in, void *acts);
    size_t act_row_group;

    /* Computes output columns n_begin..n_end (weight rows) for every activation row. Ranges given
     * to threads begin at multiples of weight_row_group. scratch: private to the calling thread,
     * matmul_scratch bytes, 64-byte aligned. */
    void (*matmul)(const lp_matmul *task, size_t n_begin, size_t n_end, void *scratch);
    size_t weight_row_group;
    size_t matmul_scratch;
    /* Which memory a call with one activation row reads first: this many streams at once, the first
     * from weight row n_begin on, the others *rows_apart rows from each other. */
    size_t (*streams)(const lp_matmul *task, size_t n_begin, size_t n_end, size_t *rows_apart);

    /* One row of a weight matrix to float32 (embedding lookup). n: a whole number of blocks. */
    void (*dequantize_row)(uint32_t type, const void *row, float *out, size_t n);

    /* out = softmax(scale * q . K) V for one query head. scratch: attention_scratch(head_dim,
     * value_dim) bytes, 64-byte aligned. Works through positions in blocks that begin at multiples
     * of 64 whatever `first` is, so the result does not depend on how a prompt was cut; and in
     * stretches, as above. */
    void (*attention)(const lp_attention *a, const float *q, float *out, void *scratch);
    size_t (*attention_scratch)(size_t head_dim, size_t value_dim);
    /* The same for n queries of one kv head, bit for bit, but reading each key and value once for
     * many of them; a's own first and last are ignored. Best in order of rising `last`. */
    void (*attention_many)(const lp_attention *a, const lp_attention_query *queries, size_t n,
                           void *scratch);
    /* The same where each query's positions are of one stretch, and `out` gets its part:
     * lp_attention_part_floats(value_dim) floats. */
    void (*attention_parts)(const lp_attention *a, const lp_attention_query *queries, size_t n,
                            void *scratch);
    /* The parts of all n stretches that a query sees, one after another in rising order, become its
     * value_dim floats of attention_many. The parts are used up. */
    void (*attention_merge)(float *parts, size_t n, size_t value_dim, float *out);

    /* Keys or values of one token into cache slots (n values). */
    void (*store_kv)(lp_kv_type type, const float *x, void *out, size_t n);

    /* out = x / sqrt(mean(x^2) + eps) * weight; weight may be NULL (all ones); out may be x. */
    void (*rms_norm)(const float *x, const float *weight, float eps, float *out, size_t n);
    /* x += y */
    void (*add)(float *x, const float *y, size_t n);
    /* x *= factor */
    void (*scale)(float *x, float factor, size_t n);
    /* gate = silu(gate) * up;   gate = gelu_tanh(gate) * up */
    void (*silu_mul)(float *gate, const float *up, size_t n);
    void (*gelu_mul)(float *gate, const float *up, size_t n);
    /* Rotates one head in place. cos_sin: n_rot/2 pairs (cos, sin). neox: element i pairs with
     * i + n_rot/2; otherwise 2i pairs with 2i + 1. */
    void (*rope)(float *head, const float *cos_sin, size_t n_rot, bool neox);
    /* Largest value and the sum of exp(x - max), for log-probabilities. */
    void (*max_sum_exp)(const float *x, size_t n, float *max, double *sum);
} lp_kernels;

/* Every level compiled into this build, best first; the last is "ref". */
size_t lp_kernels_count(void);
const lp_kernels *lp_kernels_at(size_t index);
bool lp_kernels_runs_here(const lp_kernels *level); /* CPU and operating system both agree */

/* name NULL: the best level that runs here (or $LLAMAPACK_CPU). NULL with *why set (a static text)
 * when the name is unknown or this machine cannot run it. */
const lp_kernels *lp_kernels_select(const char *name, const char **why);

#endif
