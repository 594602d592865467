/* ref.h - functions of the reference level that other levels take over unchanged.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_REF_H
#define LP_REF_H

#include "kernels.h"

size_t lp_ref_act_bytes(lp_act_kind kind, size_t n_rows, size_t n_in);
extern const lp_kernels lp_kernels_ref;

#endif
