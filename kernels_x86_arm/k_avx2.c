/* k_avx2.c - the bodies with AVX2, FMA and F16C.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx2.h"

#define LEVEL      avx2
#define LEVEL_TEXT "AVX2 + FMA: Intel Haswell (2013), AMD Zen (2017)"
#include "level.inc"
