/* status.h - how every fallible call reports: a code that must be used and one line of text.
 *
 * The caller owns the lp_error. Its text is one line, valid UTF-8, without control bytes
 * whatever bytes a file or a client put into the arguments (see lp_fail), so it can go to a
 * terminal, a log or a JSON string as it is.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_STATUS_H
#define LP_BASE_STATUS_H

#include "base/common.h"

typedef enum lp_code {
    LP_OK = 0,
    LP_ERR_ARGUMENT,    /* the caller or the user asked for something that cannot be */
    LP_ERR_FORMAT,      /* a file, template or request breaks the rules of its format */
    LP_ERR_UNSUPPORTED, /* well formed, but not something this build can do; names it */
    LP_ERR_LIMIT,       /* a budget or bound was reached (steps, bytes, depth) */
    LP_ERR_MEMORY,      /* allocation refused */
    LP_ERR_IO,          /* the system refused to read, write, map, bind ... */
    LP_ERR_FULL,        /* the context window is full */
    LP_ERR_STOPPED      /* the caller asked to stop */
} lp_code;

typedef struct lp_error {
    lp_code code;
    char text[508]; /* NUL-terminated */
} lp_error;

/* Fills *err (err may be NULL) and returns code. The formatted text is cut to the buffer at a
 * character border; control bytes and ill-formed UTF-8 in it become '?'. */
lp_code lp_fail(lp_error *err, lp_code code, const char *format, ...) LP_PRINTF(3, 4);

/* Puts "prefix: " before the text of an error that is already set. Returns err->code. */
lp_code lp_error_prefix(lp_error *err, const char *prefix);

#ifndef LP_CDEF
/* Leaves the calling function with the code of a call that failed. */
#define LP_TRY(call)                                                                               \
    do {                                                                                           \
        lp_code lp_try_code_ = (call);                                                             \
        if (lp_try_code_ != LP_OK) return lp_try_code_;                                            \
    } while (0)
#endif

#endif
