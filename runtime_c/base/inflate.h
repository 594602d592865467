/* inflate.h - unpacks DEFLATE data (RFC 1951) whose plain size is known beforehand.
 *
 * Safe with any input: it writes at most out_size bytes, reads at most size bytes and takes time
 * proportional to the two.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_INFLATE_H
#define LP_BASE_INFLATE_H

#include "base/status.h"
#include "base/text.h"

/* Fills out with exactly out_size bytes from the whole of data. LP_ERR_FORMAT when the stream is
 * damaged, gives fewer or more bytes, or ends before the data does. */
lp_code lp_inflate(void *out, size_t out_size, const void *data, size_t size,
                   lp_error *err) LP_MUST_USE;

/* The same, appended to a buffer (whose limit counts). */
lp_code lp_inflate_add(lp_buf *out, const void *data, size_t size, size_t out_size,
                       lp_error *err) LP_MUST_USE;

#endif
