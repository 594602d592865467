/* shares.h - a range cut into chunks for a pool: large ones first, each a long run through memory,
 * and ever smaller ones, so that all threads end together whatever speed each of them has.
 *
 * Round after round the threads share half of what is left ("factoring": Hummel, Schonberg, Flynn,
 * CACM 35(8), 1992); when the chunks of another round would be too small, all of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_SHARES_H
#define LP_ENGINE_SHARES_H

#include "base/status.h"

typedef struct lp_shares {
    size_t total, unit; /* elements; chunks begin at multiples of unit */
    size_t units, threads, rounds;
} lp_shares;

/* least: elements that are worth a chunk of their own. */
lp_shares lp_shares_of(size_t total, size_t unit, size_t least, size_t threads);

size_t lp_shares_count(const lp_shares *s);

/* Elements begin .. end - 1 are chunk number `chunk`; there may be none. */
void lp_shares_get(const lp_shares *s, size_t chunk, size_t *begin, size_t *end);

#endif
