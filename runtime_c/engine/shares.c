/* shares.c - chunks of halving rounds.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/shares.h"

lp_shares lp_shares_of(size_t total, size_t unit, size_t least, size_t threads) {
    lp_shares s = {.total = total,
                   .unit = unit,
                   .units = total / unit + (total % unit != 0),
                   .threads = threads,
                   .rounds = 1};
    size_t least_units = least > unit ? least / unit : 1;
    while (threads > 1 && (s.units >> s.rounds) / threads >= least_units) s.rounds++;
    return s;
}

size_t lp_shares_count(const lp_shares *s) {
    return s->rounds * s->threads;
}

void lp_shares_get(const lp_shares *s, size_t chunk, size_t *begin, size_t *end) {
    size_t round = chunk / s->threads, place = chunk % s->threads;
    size_t first = s->units - (s->units >> round), left = s->units - first;
    size_t length = round + 1 < s->rounds ? left - left / 2 : left;
    *begin = (first + length * place / s->threads) * s->unit;
    *end = (first + length * (place + 1) / s->threads) * s->unit;
    if (*begin > s->total) *begin = s->total;
    if (*end > s->total) *end = s->total;
}
