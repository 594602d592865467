/* k_avxvnni.c - the bodies with AVX2 and AVX-VNNI: 256-bit VPDPBUSD without AVX-512.
 * SPDX-License-Identifier: Apache-2.0 */
#include <immintrin.h>

#define VEC_VNNI
#define VEC_DPBUSD _mm256_dpbusd_avx_epi32
#define VEC_DPWSSD _mm256_dpwssd_avx_epi32
#include "vec_avx2.h"

#define LEVEL        avxvnni
#define LEVEL_FLOATS avx2
#define LEVEL_TEXT   "AVX2 + AVX-VNNI: Intel Alder Lake (2021), AMD Zen 5 (2024)"
#include "level.inc"
