/* crc32.c - the CRC of ZIP and gzip (ITU-T V.42, ISO 3309), four bits at a time.
 *
 * The reflected polynomial 0xEDB88320, register and result inverted. Only small entries are checked
 * with it (the weights have SHA-256), so a table of 16 words is fast enough: entry i is what the
 * four bits i become after four steps of the register.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/crc32.h"

uint32_t lp_crc32(uint32_t crc, const void *data, size_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *at = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
