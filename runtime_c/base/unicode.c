/* unicode.c - two loads from the generated two-stage table (about 47 KB of constants).
 *
 *     byte = stage2[stage1[cp / 256] * 256 + cp % 256]
 *     bits 0..4: index of the general category, bit 5: white space
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/unicode.h"

enum { UNASSIGNED = 29, CATEGORY_BITS = 0x1F, SPACE_BIT = 0x20 };

uint32_t lp_unicode_class(uint32_t code_point) {
    if (code_point > 0x10FFFF) return 1u << UNASSIGNED;
    uint32_t block = lp_unicode_stage1[code_point >> 8];
    uint32_t byte = lp_unicode_stage2[block << 8 | (code_point & 0xFF)];
    return 1u << (byte & CATEGORY_BITS) | ((byte & SPACE_BIT) != 0 ? LP_UC_SPACE : 0u);
}
