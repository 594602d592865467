/* jinja_case.h - the tables behind lower() and upper(); see jinja_case_table.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CHAT_JINJA_CASE_H
#define LP_CHAT_JINJA_CASE_H

#include "base/common.h"

typedef struct lp_jcase_run {
    uint32_t first, last;
    int32_t step, delta;
} lp_jcase_run;

extern const lp_jcase_run lp_jcase_lower[], lp_jcase_upper[];
extern const size_t lp_jcase_lower_rows, lp_jcase_upper_rows;
extern const uint32_t lp_jcase_upper_long[][4]; /* character, its upper case (0 = no more) */
extern const size_t lp_jcase_upper_long_rows;

#endif
