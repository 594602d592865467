/* k_avx.c - the bodies with AVX's encodings of SSE4.1, for processors without AVX2.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_sse2.h"

#define LEVEL        avx
#define LEVEL_FLOATS sse2 /* vectors of four floats in both */
#define LEVEL_TEXT   "AVX, 128-bit integers: Intel Sandy Bridge (2011), AMD Bulldozer (2011)"
#include "level.inc"
