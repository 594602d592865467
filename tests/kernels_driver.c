/* kernels_driver.c - every level of this processor against ref, without Python: for emulated CPUs.
 *
 * test_kernels_emulated.py compiles it with the kernels for another processor and runs it under
 * qemu. It prints a line per level with the number of comparisons, or the first difference; exit
 * status 1 then. A level is given as argument if it must be present.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static uint32_t state = 12345;

static uint32_t random_bits(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static float random_float(void) {
    return (float)(random_bits() & 0xffff) / 32768.0f - 1.0f;
}

/* Where a block's halves stand; -1 ends. */
static const int halves[15][2] = {[2] = {0, -1}, [3] = {0, 2},    [6] = {0, -1},    [7] = {0, 2},
                                  [8] = {0, -1}, [10] = {80, 82}, [11] = {108, -1}, [12] = {0, 2},
                                  [13] = {0, 2}, [14] = {208, -1}};
static const uint32_t types[] = {0, 1, 30, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14};

static void fill_weights(const lp_type_info *type, uint8_t *out, size_t blocks) {
    for (size_t b = 0; b < blocks; b++, out += type->block_bytes) {
        if (type->block_len == 1) {
            float value = random_float();
            uint16_t half = type->id == 1 ? lp_f32_to_f16(value) : lp_f32_to_bf16(value);
            memcpy(out, type->id == 0 ? (void *)&value : (void *)&half, type->block_bytes);
            continue;
        }
        for (size_t i = 0; i < type->block_bytes; i++) out[i] = (uint8_t)random_bits();
        for (int i = 0; i < 2 && (i == 0 || halves[type->id][1] > 0); i++) {
            uint16_t half = lp_f32_to_f16(random_float() * 0.01f);
            memcpy(out + halves[type->id][i], &half, 2);
        }
    }
}

#define N        21 /* weight rows; MOST_N where a panel of bfloats must be followed by another */
#define MOST_N   37
#define MAX_ROWS 9 /* activation rows; as many more */
#define MOST     14

static void *need(size_t bytes) {
    void *block = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (block == NULL) exit(2);
    return block;
}

static void multiply(const lp_kernels *level, lp_matmul *task, const float *x, float *out) {
    void *acts = need(level->act_bytes(task->kind, task->n_rows, task->n_in));
    void *scratch = need(level->matmul_scratch);
    level->quantize_acts(task->kind, x, task->n_in, task->n_rows, 0, task->n_rows, task->n_in,
                         acts);
    task->acts = acts;
    task->out = out;
    level->matmul(task, 0, task->n_out, scratch);
    free(acts);
    free(scratch);
}

/* Rows of an odd number, in another order and one twice: bit for bit what they were among all. */
static int compare_list(const lp_kernels *level, lp_matmul task, const float *x, const float *all) {
    static const int32_t picked[] = {2, 0, 0, 4, 1, 3, 5, 8, 7, 6, 10};
    enum { PICKED = sizeof picked / sizeof picked[0] };
    static float got[PICKED * MOST_N];
    size_t used = 0, n = task.n_out;
    int32_t list[PICKED];
    for (size_t i = 0; i < PICKED; i++) {
        if ((size_t)picked[i] < task.n_rows) list[used++] = picked[i];
    }
    task.row_list = list;
    int bad = 0;
    for (task.n_list = 1; task.n_list <= used && !bad;
         task.n_list += task.n_rows == 1 ? 1 : 2) { /* one row: the same one again */
        multiply(level, &task, x, got);
        for (size_t i = 0; i < task.n_list; i++)
            bad |= memcmp(got + i * n, all + (size_t)list[i] * n, n * sizeof(float)) != 0;
    }
    return bad;
}

/* Sum of |w * x|, what rounding errors are measured by. */
static double magnitude(const float *w, const float *x, size_t n) {
    double sum = 1e-30;
    for (size_t i = 0; i < n; i++) sum += fabs((double)w[i] * (double)x[i]);
    return sum;
}

static int compare_matmul(const lp_kernels *level, const lp_type_info *type, lp_act_mode mode,
                          size_t n_in, size_t rows, size_t n_out) {
    const lp_kernels *ref = lp_kernels_select("ref", NULL);
    size_t row_bytes = 0;
    if (!lp_type_row_bytes(type, n_in, &row_bytes)) return 2;
    uint8_t *weights = need(row_bytes * n_out);
    float *x = need(rows * n_in * sizeof(float)), *w = need(n_in * sizeof(float));
    float *w_level = need(n_in * sizeof(float));
    static float expected[MOST * MOST_N], got[MOST * MOST_N], alone[MOST_N];
    fill_weights(type, weights, n_out * n_in / type->block_len);
    for (size_t i = 0; i < rows * n_in; i++) x[i] = random_float();
    lp_matmul task = {.type = type->id,
                      .weights = weights,
                      .row_bytes = row_bytes,
                      .n_in = n_in,
                      .n_out = n_out,
                      .kind = lp_act_kind_for(type->id, mode),
                      .n_rows = rows,
                      .out_stride = n_out};
    multiply(ref, &task, x, expected);
    multiply(level, &task, x, got);
    int bad = compare_list(level, task, x, got);
    const lp_kernels *neon = lp_kernels_select("neon", NULL);
    if (neon != NULL && level != ref) { /* the levels of Arm agree bit for bit */
        multiply(neon, &task, x, expected);
        bad |= memcmp(expected, got, rows * n_out * sizeof(float)) != 0;
        multiply(ref, &task, x, expected);
    }
    task.n_rows = 1;
    multiply(level, &task, x + (rows - 1) * n_in, alone);
    for (size_t n = 0; n < n_out && !bad; n++) {
        lp_dequantize(type->id, weights + n * row_bytes, w, n_in);
        level->dequantize_row(type->id, weights + n * row_bytes, w_level, n_in);
        bad = memcmp(w, w_level, n_in * sizeof(float)) != 0;
        for (size_t r = 0; r < rows && !bad; r++) {
            double limit = 1e-5 * magnitude(w, x + r * n_in, n_in);
            double difference = fabs((double)got[r * n_out + n] - (double)expected[r * n_out + n]);
            bad = !(difference <= limit);
        }
        if (memcmp(&alone[n], &got[(rows - 1) * n_out + n], sizeof(float)) != 0) bad = 1;
    }
    if (bad)
        printf("%s: %s mode %d K %zu rows %zu differs\n", level->name, type->name, (int)mode, n_in,
               rows);
    free(weights);
    free(x);
    free(w);
    free(w_level);
    return bad;
}

static int close_to(const char *what, const lp_kernels *level, const float *a, const float *b,
                    size_t n, float limit) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(a[i] - b[i]) <= limit * (1.0f + fabsf(b[i])))) {
            printf("%s: %s[%zu] of %zu is %g, expected %g\n", level->name, what, i, n, (double)a[i],
                   (double)b[i]);
            return 1;
        }
    }
    return 0;
}

static int compare_rest(const lp_kernels *level, size_t n) {
    const lp_kernels *ref = lp_kernels_select("ref", NULL);
    static float x[512], y[512], a[512], b[512];
    static uint16_t ha[512], hb[512];
    for (size_t i = 0; i < n; i++) x[i] = random_float() * 8, y[i] = random_float();
    int bad = 0;
    level->rms_norm(x, y, 1e-5f, a, n), ref->rms_norm(x, y, 1e-5f, b, n);
    bad |= close_to("rms_norm", level, a, b, n, 2e-6f);
#define GATE(name)                                                                                 \
    memcpy(a, x, sizeof a), memcpy(b, x, sizeof b);                                                \
    level->name(a, y, n), ref->name(b, y, n);                                                      \
    bad |= close_to(#name, level, a, b, n, 2e-6f)
    GATE(silu_mul);
    GATE(gelu_mul);
    GATE(add);
    memcpy(a, x, sizeof a), memcpy(b, x, sizeof b);
    level->rope(a, y, n / 4 * 2, true), ref->rope(b, y, n / 4 * 2, true);
    level->rope(a, y, n / 4 * 2, false), ref->rope(b, y, n / 4 * 2, false);
    bad |= close_to("rope", level, a, b, n, 0.0f);
    level->store_kv(LP_KV_F16, x, ha, n), ref->store_kv(LP_KV_F16, x, hb, n);
    if (memcmp(ha, hb, n * 2) != 0) bad = 1, printf("%s: store_kv differs\n", level->name);
    double sum_a, sum_b;
    float max_a, max_b;
    level->max_sum_exp(x, n, &max_a, &sum_a), ref->max_sum_exp(x, n, &max_b, &sum_b);
    if (max_a != max_b || !(fabs(sum_a / sum_b - 1) < 1e-6))
        bad = 1, printf("%s: max_sum_exp\n", level->name);
    return bad;
}

#define POSITIONS 1100 /* three stretches */
#define BLOCKS    69   /* of 16 slots */

/* Stretch by stretch and merged, as several threads do it: the bits of attention alone. */
static int compare_parts(const lp_kernels *level, const lp_attention *task, const float *q,
                         const float *expected, void *scratch) {
    static float parts[3 * 144], out[128];
    size_t n = 0, floats = lp_attention_part_floats(task->value_dim);
    for (size_t at = task->first; at <= task->last; n++) {
        size_t end = (at / LP_ATTENTION_STRETCH + 1) * LP_ATTENTION_STRETCH - 1;
        lp_attention_query query = {q, parts + n * floats, at, end < task->last ? end : task->last};
        level->attention_parts(task, &query, 1, scratch);
        at = end + 1;
    }
    level->attention_merge(parts, n, task->value_dim, out);
    return memcmp(out, expected, task->value_dim * sizeof(float)) != 0;
}

static int compare_attention(const lp_kernels *level, lp_kv_type type, size_t dim, float softcap) {
    const lp_kernels *ref = lp_kernels_select("ref", NULL);
    static float keys[BLOCKS * 16 * 128], q[7 * 128], a[7 * 128], b[7 * 128], alone[128];
    static uint8_t cache[BLOCKS * 16 * 128 * 4];
    size_t slot = dim * (type == LP_KV_F16 ? 2 : 4);
    int32_t table[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) table[i] = (i * 7) % BLOCKS;
    for (size_t i = 0; i < BLOCKS * 16 * dim; i++) keys[i] = random_float() * 2;
    for (size_t i = 0; i < 7 * dim; i++) q[i] = random_float() * 2;
    for (size_t p = 0; p < BLOCKS * 16; p++)
        ref->store_kv(type, keys + p * dim, cache + p * slot, dim);
    lp_attention task = {.kv_type = type,
                         .keys = cache,
                         .values = cache,
                         .table_step = 1,
                         .key_slot_bytes = slot,
                         .value_slot_bytes = slot,
                         .table = table,
                         .block_len = 16,
                         .head_dim = dim,
                         .value_dim = dim,
                         .scale = 0.2f,
                         .softcap = softcap};
    lp_attention_query queries[7];
    for (size_t i = 0; i < 7; i++) {
        queries[i] = (lp_attention_query){q + i * dim, a + i * dim, i * 90, POSITIONS - 7 * i - 1};
    }
    void *scratch = need(level->attention_scratch(dim, dim));
    level->attention_many(&task, queries, 7, scratch);
    int bad = 0;
    for (size_t i = 0; i < 7; i++) {
        queries[i].out = b + i * dim;
        task.first = queries[i].first, task.last = queries[i].last;
        level->attention(&task, q + i * dim, alone, scratch);
        if (memcmp(alone, a + i * dim, dim * sizeof(float)) != 0) bad = 1;
        bad |= compare_parts(level, &task, q + i * dim, alone, scratch);
    }
    if (bad) printf("%s: attention alone or in parts differs from attention_many\n", level->name);
    void *ref_scratch = need(ref->attention_scratch(dim, dim));
    ref->attention_many(&task, queries, 7, ref_scratch);
    free(ref_scratch);
    bad |= close_to("attention", level, a, b, 7 * dim, 5e-6f);
    free(scratch);
    return bad;
}

/* Whether no mode before this one makes the same of the activations. */
static int is_new(uint32_t type, lp_act_mode mode) {
    for (int before = 0; before < (int)mode; before++)
        if (lp_act_kind_for(type, (lp_act_mode)before) == lp_act_kind_for(type, mode)) return 0;
    return 1;
}

static int check(const lp_kernels *level) {
    int count = 0, bad = 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const lp_type_info *type = lp_type_get(types[i]);
        /* Longer than a panel of any level. */
        if (type->block_len > 1) {
            size_t n_in = type->block_len == 32 ? 80 * 32 : 9 * 256;
            bad |= compare_matmul(level, type, LP_ACT_INT8, n_in, 8, N), count++;
            bad |= compare_matmul(level, type, LP_ACT_INT16, n_in, 4, N), count++;
        } else { /* whole vectors, more than a stretch of them */
            bad |= compare_matmul(level, type, LP_ACT_INT8, 2112, 2, N), count++;
            bad |= compare_matmul(level, type, LP_ACT_F32, 2112, 2, N), count++;
        }
        if (type->block_len == 1) { /* every tile, behind a stretch and a panel */
            for (size_t rows = MAX_ROWS; rows <= MOST; rows++)
                bad |= compare_matmul(level, type, LP_ACT_INT8, 2083, rows, MOST_N), count++;
        }
        if (type->id == LP_TYPE_Q5_0 || type->id == LP_TYPE_Q6_K || type->id == LP_TYPE_BF16) {
            for (size_t rows = 2; rows <= 9; rows += 7)
                bad |= compare_matmul(level, type, LP_ACT_F32, 1792, rows, MOST_N), count++;
        }
        for (size_t k = 1; k <= 3; k++) {
            size_t n_in = type->block_len == 1 ? k * 37 : k * type->block_len;
            for (size_t rows = 1; rows <= MAX_ROWS; rows += k) {
                for (int mode = LP_ACT_INT8; mode <= LP_ACT_INT16; mode++) {
                    if (!is_new(type->id, (lp_act_mode)mode)) continue;
                    bad |= compare_matmul(level, type, (lp_act_mode)mode, n_in, rows, N), count++;
                }
            }
        }
    }
    for (size_t n = 1; n < 140; n += 1 + n / 8) bad |= compare_rest(level, n), count++;
    for (size_t dim = 8; dim <= 128; dim += 40) {
        bad |= compare_attention(level, LP_KV_F16, dim, 0.0f);
        bad |= compare_attention(level, LP_KV_F32, dim, 5.0f);
        count += 2;
    }
    printf("%s: %d comparisons, %s\n", level->name, count, bad ? "FAILED" : "ok");
    return bad;
}

int main(int argc, char **argv) {
    int bad = 0;
    for (int i = 1; i < argc; i++) {
        const char *why = NULL;
        if (lp_kernels_select(argv[i], &why) != NULL) continue;
        printf("%s: %s\n", argv[i], why);
        bad = 1;
    }
    for (size_t i = 0; i < lp_kernels_count(); i++) {
        if (lp_kernels_runs_here(lp_kernels_at(i))) bad |= check(lp_kernels_at(i));
    }
    return bad;
}
