/* k_neon.c - the bodies with Advanced SIMD as every AArch64 processor has it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_neon.h"

#define LEVEL      neon
#define LEVEL_TEXT "Advanced SIMD: any AArch64 processor"
#include "level.inc"
