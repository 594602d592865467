/* quantize_driver.c - float32 weights from standard input to blocks on standard output.
 * usage: quantize_driver TYPE < weights > blocks     TYPE: a number of qtype.h
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "quantize/quantize.h"

int main(int argc, char **argv) {
    uint32_t type = 0;
    for (const char *c = argc > 1 ? argv[1] : ""; *c != '\0'; c++) {
        type = 10 * type + (uint32_t)(*c - '0');
    }
    float x[256];
    uint8_t out[1024];
    while (fread(x, sizeof x, 1, stdin) == 1) {
        size_t bad, bytes;
        if (!lp_type_row_bytes(lp_type_get(type), 256, &bytes)) return 1;
        if (lp_quantize(type, LP_TYPE_F32, x, out, 256, &bad) != LP_QUANTIZE_OK) return 1;
        if (fwrite(out, bytes, 1, stdout) != 1) return 1;
    }
    return 0;
}
