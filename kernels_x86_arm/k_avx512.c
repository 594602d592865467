/* k_avx512.c - the bodies with AVX-512 VNNI, with and without BF16.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx512.h"

#define LEVEL      avx512
#define LEVEL_TEXT "AVX-512 VNNI: Intel Cascade Lake (2019), Ice Lake, Tiger Lake"
#include "level.inc"

/* The same code but for one instruction, so that it is in the file once. */
static void matmul_with_bf16(const lp_matmul *t, size_t n_begin, size_t n_end, void *scratch) {
    if (t->kind == LP_ACT_KIND_BF16) {
        matmul_bf16_native(t, n_begin, n_end, scratch);
    } else {
        matmul(t, n_begin, n_end, scratch);
    }
}
LEVEL_ROW(avx512bf16, "AVX-512 VNNI + BF16: AMD Zen 4 (2022), Intel Sapphire Rapids (2023)",
          act_bytes, quantize_acts, matmul_with_bf16, MATMUL_SCRATCH, streams);

#include "amx.inc"
LEVEL_ROW(amx, "AVX-512 + AMX: Intel Sapphire Rapids (2023), Emerald, Granite Rapids",
          amx_act_bytes, amx_quantize_acts, matmul_amx, LARGER(MATMUL_SCRATCH, AMX_SCRATCH),
          amx_streams);
