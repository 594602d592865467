/* quantize.h - weights to the block types of a GGUF file. For the builder: not in the executables.
 *
 * The choice of every block minimizes the plain squared error against the source. It is made with
 * float operations in a fixed order and without libm, so the same weights give the same bytes on
 * every machine and however they are divided into calls.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_QUANTIZE_H
#define LP_QUANTIZE_H

#include "qtype.h"

typedef enum lp_quantize_result {
    LP_QUANTIZE_OK = 0,
    LP_QUANTIZE_NOT_FINITE, /* infinity or NaN */
    LP_QUANTIZE_TOO_LARGE   /* beyond what the type's binary16 scale reaches */
} lp_quantize_result;

/* Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K. */
bool lp_can_quantize(uint32_t target);

/* n elements of `source_type` (one that computes), a whole number of blocks of both types, to
 * blocks of `target`. Unless OK, *bad is the number of the first element that cannot be
 * represented, and what was written before it is of no use. Needs no memory of its own. */
lp_quantize_result lp_quantize(uint32_t target, uint32_t source_type, const void *source, void *out,
                               size_t n, size_t *bad) LP_MUST_USE;

#endif
