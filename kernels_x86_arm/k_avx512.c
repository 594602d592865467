/* k_avx512.c - the bodies with AVX-512 VNNI.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx512.h"

#define LEVEL      avx512
#define LEVEL_TEXT "AVX-512 VNNI: Intel Cascade Lake (2019), Ice Lake, AMD Zen 4 (2022)"
#include "level.inc"
