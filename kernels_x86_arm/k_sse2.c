/* k_sse2.c - the bodies with SSE2.
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec_sse2.h"

#define LEVEL      sse2
#define LEVEL_TEXT "SSE2: any x86-64 processor"
#include "level.inc"
