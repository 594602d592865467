/* crc32.h - the CRC of ZIP and gzip.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_CRC32_H
#define LP_BASE_CRC32_H

#include "base/common.h"

/* crc: 0 for the first piece, then the value of the pieces before. */
uint32_t lp_crc32(uint32_t crc, const void *data, size_t size);

#endif
