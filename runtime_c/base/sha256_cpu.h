/* sha256_cpu.h - SHA-256's block step by the processor's own instructions. Private to sha256.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_SHA256_CPU_H
#define LP_BASE_SHA256_CPU_H

#include "base/common.h"

/* Whether this processor has them: SHA-NI (Intel Goldmont 2016 and Ice Lake 2019, AMD Zen 2017) or
 * Armv8's SHA2 (nearly all since 2013). */
bool lp_sha256_cpu_has(void);
/* Takes n blocks of 64 bytes into the chaining value; only where lp_sha256_cpu_has(). k: the 64
 * round constants. */
void lp_sha256_cpu_blocks(uint32_t h[8], const uint8_t *data, size_t n, const uint32_t k[64]);

#endif
