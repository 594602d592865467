/* common.h - the words every header of the runtime needs: fixed-size types and annotations.
 *
 * Every public header is read twice: by the C compiler, and by cffi after
 * `zig cc -E -P -DLP_CDEF`. Whatever cffi cannot read (system includes, attributes, inline
 * bodies) stands behind LP_CDEF.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_COMMON_H
#define LP_BASE_COMMON_H

#ifndef LP_CDEF
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif

#if defined(LP_CDEF)
#define LP_MUST_USE
#define LP_PRINTF(format_index, first_argument)
#else
#define LP_MUST_USE __attribute__((warn_unused_result))
/* gnu_printf, because Windows' own printf rules differ and lp_fail formats by C99's. */
#define LP_PRINTF(format_index, first_argument)                                                    \
    __attribute__((format(printf, format_index, first_argument)))
#endif

#endif
