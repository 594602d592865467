/* unicode.h - the class of a code point: general category and white space, for pre-tokenizers.
 *
 * A class is a set of bits: exactly one category bit and, for the 25 code points of the property
 * White_Space, LP_UC_SPACE. Code points beyond U+10FFFF count as unassigned.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_UNICODE_H
#define LP_BASE_UNICODE_H

#include "base/common.h"

#ifndef LP_CDEF
/* In the order of CATEGORIES in builder/generate/unicode_tables.py. */
#define LP_UC_LU    (1u << 0)
#define LP_UC_LL    (1u << 1)
#define LP_UC_LT    (1u << 2)
#define LP_UC_LM    (1u << 3)
#define LP_UC_LO    (1u << 4)
#define LP_UC_L     (0x1Fu)
#define LP_UC_M     (0x7u << 5)   /* Mn Mc Me */
#define LP_UC_N     (0x7u << 8)   /* Nd Nl No */
#define LP_UC_P     (0x7Fu << 11) /* Pc Pd Ps Pe Pi Pf Po */
#define LP_UC_S     (0xFu << 18)  /* Sm Sc Sk So */
#define LP_UC_ANY   (0x3FFFFFFFu)
#define LP_UC_SPACE (1u << 30)

/* Generated. Stage 1: block number of 256 code points; stage 2: category | 0x20 if white space. */
extern const uint8_t lp_unicode_stage1[4352];
extern const uint8_t lp_unicode_stage2[];
#endif

uint32_t lp_unicode_class(uint32_t code_point);

#endif
