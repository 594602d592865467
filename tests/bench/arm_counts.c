/* arm_counts.c - one matrix product of one kernel level, for arm_counts.py to count.
 *
 *   arm_counts LEVEL TYPE_ID ROWS N K
 *
 * Weights are zeros: no kernel's path depends on values.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"

static void *zeros(size_t bytes) {
    void *block = aligned_alloc(64, (bytes + 4096) / 64 * 64);
    if (block == NULL) exit(2);
    for (size_t i = 0; i < bytes; i++) ((volatile uint8_t *)block)[i] = 0;
    return block;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    const char *why = "";
    const lp_kernels *level = lp_kernels_select(argv[1], &why);
    const lp_type_info *type = lp_type_get((uint32_t)atoi(argv[2]));
    size_t rows = (size_t)atol(argv[3]), n = (size_t)atol(argv[4]), k = (size_t)atol(argv[5]);
    size_t row_bytes = 0;
    if (level == NULL || type == NULL || !lp_type_row_bytes(type, k, &row_bytes)) {
        fprintf(stderr, "error: %s: %s\n", argv[1], why);
        return 1;
    }
    lp_matmul task = {.type = type->id,
                      .weights = zeros(row_bytes * n),
                      .row_bytes = row_bytes,
                      .n_in = k,
                      .n_out = n,
                      .kind = lp_act_kind_for(type->id, LP_ACT_INT8),
                      .n_rows = rows,
                      .out = zeros(rows * n * sizeof(float)),
                      .out_stride = n};
    void *acts = zeros(level->act_bytes(task.kind, rows, k));
    level->quantize_acts(task.kind, zeros(rows * k * sizeof(float)), k, rows, 0, rows, k, acts);
    task.acts = acts;
    level->matmul(&task, 0, n, zeros(level->matmul_scratch));
    return 0;
}
