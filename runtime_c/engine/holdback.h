/* holdback.h - text on its way out: whole characters, and nothing that may become a stop text.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_HOLDBACK_H
#define LP_ENGINE_HOLDBACK_H

#include "base/text.h"

typedef struct lp_holdback {
    lp_buf pending; /* bytes that have come and not yet gone out */
    lp_buf out;     /* what the last call let go: whole characters */
    lp_str *stops;  /* owned, as are their bytes */
    size_t n_stops;
} lp_holdback;

/* Copies the stop texts (at most 1024 bytes each); empty ones are left out. */
lp_code lp_holdback_open(lp_holdback *hold, const lp_str *stops, size_t n_stops,
                         lp_error *err) LP_MUST_USE;
void lp_holdback_close(lp_holdback *hold);

/* Call after bytes were added to `pending`. Moves what may go out into `out` (which is emptied
 * first). True: a stop text is complete; `out` ends where it begins, the rest is dropped. */
bool lp_holdback_advance(lp_holdback *hold);
/* The text has ended: everything goes out. */
void lp_holdback_flush(lp_holdback *hold);

#endif
