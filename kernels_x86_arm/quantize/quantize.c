/* quantize.c - from weights of any type to blocks of a type: checks, and a table of quantizers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "quantize/quantize.h"

#include "quantize/fit.h"

enum { STRIP = 256 }; /* elements at a time: a block of the longest types */

/* Beyond this a block's binary16 scale, at most 65504, cannot reach the weight. */
static float limit_of(uint32_t target) {
    switch (target) {
    case LP_TYPE_Q4_0:
        return 65504.0f * 7.0f;
    case LP_TYPE_Q5_0:
        return 65504.0f * 15.0f;
    case LP_TYPE_Q5_1:
        return 65504.0f;
    case LP_TYPE_Q8_0:
        return 65504.0f * 127.0f;
    case LP_TYPE_Q4_K:
    case LP_TYPE_Q5_K:
    case LP_TYPE_Q6_K:
        return 65504.0f * 15.0f;
    default:
        return 0.0f;
    }
}

bool lp_can_quantize(uint32_t target) {
    return limit_of(target) > 0.0f;
}

static void quantize_block(uint32_t target, const float *x, void *out) {
    switch (target) {
    case LP_TYPE_Q4_0:
        lp_quantize_q4_0(x, out);
        break;
    case LP_TYPE_Q5_0:
        lp_quantize_q5_0(x, out);
        break;
    case LP_TYPE_Q5_1:
        lp_quantize_q5_1(x, out);
        break;
    case LP_TYPE_Q8_0:
        lp_quantize_q8_0(x, out);
        break;
    case LP_TYPE_Q4_K:
        lp_quantize_q4_k(x, out);
        break;
    case LP_TYPE_Q5_K:
        lp_quantize_q5_k(x, out);
        break;
    case LP_TYPE_Q6_K:
        lp_quantize_q6_k(x, out);
        break;
    default:
        break; /* callers ask lp_can_quantize first */
    }
}

static lp_quantize_result check(const float *x, size_t n, float limit, size_t *bad) {
    for (size_t i = 0; i < n; i++) {
        if (x[i] >= -limit && x[i] <= limit) continue;
        *bad = i;
        return x[i] - x[i] == 0.0f ? LP_QUANTIZE_TOO_LARGE : LP_QUANTIZE_NOT_FINITE;
    }
    return LP_QUANTIZE_OK;
}

lp_quantize_result lp_quantize(uint32_t target, uint32_t source_type, const void *source, void *out,
                               size_t n, size_t *bad) {
    const lp_type_info *from = lp_type_get(source_type), *to = lp_type_get(target);
    const uint8_t *in = source;
    uint8_t *blocks = out;
    float limit = limit_of(target), x[STRIP];
    for (size_t at = 0; at < n; at += STRIP) {
        size_t count = n - at < STRIP ? n - at : STRIP;
        lp_dequantize(source_type, in, x, count);
        in += count / from->block_len * from->block_bytes;
        lp_quantize_result result = check(x, count, limit, bad);
        if (result != LP_QUANTIZE_OK) {
            *bad += at;
            return result;
        }
        for (size_t i = 0; i < count; i += to->block_len) {
            quantize_block(target, x + i, blocks);
            blocks += to->block_bytes;
        }
    }
    return LP_QUANTIZE_OK;
}
