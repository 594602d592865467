/* sha256.h - SHA-256 (FIPS 180-4), whole or piece by piece.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_SHA256_H
#define LP_BASE_SHA256_H

#include "base/common.h"

typedef struct lp_sha256_state {
    uint32_t h[8];     /* chaining value */
    uint64_t bytes;    /* fed so far */
    uint8_t block[64]; /* the first bytes % 64 of it are waiting */
} lp_sha256_state;

void lp_sha256_start(lp_sha256_state *state);
void lp_sha256_add(lp_sha256_state *state, const void *data, size_t size);
void lp_sha256_finish(lp_sha256_state *state, uint8_t digest[32]);

/* The processor's instructions, which are the default where there are any, or plain C (for tests).
 * Whether the former are used from now on. */
bool lp_sha256_select(bool fast);

void lp_sha256(const void *data, size_t size, uint8_t digest[32]);

#endif
