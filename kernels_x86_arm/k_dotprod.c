/* k_dotprod.c - the bodies with Advanced SIMD and SDOT.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_neon.h"

#define LEVEL        dotprod
#define LEVEL_FLOATS neon
#define LEVEL_TEXT   "Advanced SIMD + SDOT: Cortex-A76 (2018), Neoverse N1, Apple M1"
#include "level.inc"
