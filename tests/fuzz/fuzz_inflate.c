/* fuzz_inflate.c - any bytes as DEFLATE data. The first two give the promised size.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/inflate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t promised = (size_t)data[0] | (size_t)data[1] << 8;
    uint8_t *out = malloc(promised + 1); /* malloc, so that AddressSanitizer guards its end */
    lp_error err;
    if (out && lp_inflate(out, promised, data + 2, size - 2, &err) == LP_OK) out[promised] = 0;
    free(out);
    return 0;
}
