/* qtype.h - the weight types of a GGUF file: names, block sizes, layouts.
 *
 * Ids are those of the file format. A type that this build knows by name but cannot compute
 * with has can_compute == false, so that an error can name it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_QTYPE_H
#define LP_QTYPE_H

#include "base/common.h"

typedef enum lp_type {
    LP_TYPE_F32 = 0,
    LP_TYPE_F16 = 1,
    LP_TYPE_Q4_0 = 2,
    LP_TYPE_Q4_1 = 3,
    LP_TYPE_Q5_0 = 6,
    LP_TYPE_Q5_1 = 7,
    LP_TYPE_Q8_0 = 8,
    LP_TYPE_Q2_K = 10,
    LP_TYPE_Q3_K = 11,
    LP_TYPE_Q4_K = 12,
    LP_TYPE_Q5_K = 13,
    LP_TYPE_Q6_K = 14,
    LP_TYPE_BF16 = 30
} lp_type;

typedef struct lp_type_info {
    uint32_t id;
    const char *name;     /* "Q4_K"; NULL where the format has no such id */
    uint32_t block_len;   /* elements per block */
    uint32_t block_bytes; /* bytes per block */
    bool can_compute;     /* dequantization and kernels exist in this build */
} lp_type_info;

/* NULL for an id the format does not have (or has removed). */
const lp_type_info *lp_type_get(uint32_t id);

/* Bytes of a row of n elements; false if n is no multiple of the block or on overflow. */
bool lp_type_row_bytes(const lp_type_info *type, size_t n, size_t *bytes) LP_MUST_USE;

/* n elements (a whole number of blocks) to float32. The specification of every type, plain C. */
void lp_dequantize(uint32_t type, const void *blocks, float *out, size_t n);

float lp_f16_to_f32(uint16_t half);
uint16_t lp_f32_to_f16(float value); /* round to nearest even */
float lp_bf16_to_f32(uint16_t value);
uint16_t lp_f32_to_bf16(float value); /* round to nearest even, NaN stays NaN */

#endif
