/* k_i8mm.c - the bodies with Advanced SIMD, SDOT, SMMLA and BFMLAL.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_neon.h"

#define LEVEL        i8mm
#define LEVEL_FLOATS neon
#define VEC_OWN_BDOT /* by BFMLAL */
#define LEVEL_TEXT   "Advanced SIMD + SMMLA + BFMLAL: Neoverse V1, N2 (2021), Cortex-X2, Apple M2"
#include "level.inc"
