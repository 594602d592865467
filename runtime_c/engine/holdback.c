/* holdback.c - a token is bytes, not characters, and a stop text may begin in one and end in
 * another. So bytes wait in `pending` until they are whole characters and until no stop text can
 * begin with them any more.
 *
 * What was let go is never looked at again: a stop text could not have begun in it. Every call
 * looks at the pending bytes only, which are fewer than the longest stop text plus one token.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/holdback.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

/* Looking for the beginning of a stop text costs the square of its length. */
enum { MAX_STOP = 1024 };

lp_code lp_holdback_open(lp_holdback *hold, const lp_str *stops, size_t n_stops, lp_error *err) {
    *hold = (lp_holdback){0};
    lp_buf_init(&hold->pending, 0);
    lp_buf_init(&hold->out, 0);
    hold->stops = lp_alloc(n_stops, sizeof *hold->stops);
    if (!hold->stops) return lp_fail(err, LP_ERR_MEMORY, "no memory for the stop texts");
    for (size_t i = 0; i < n_stops; i++) {
        if (stops[i].len == 0) continue;
        bool fits = stops[i].len <= MAX_STOP;
        char *copy = fits ? lp_alloc(stops[i].len, 1) : NULL;
        if (!copy) {
            lp_holdback_close(hold);
            if (fits) return lp_fail(err, LP_ERR_MEMORY, "no memory for the stop texts");
            return lp_fail(err, LP_ERR_LIMIT, "a stop text of %zu bytes: at most %d", stops[i].len,
                           MAX_STOP);
        }
        memcpy(copy, stops[i].data, stops[i].len);
        hold->stops[hold->n_stops++] = (lp_str){copy, stops[i].len};
    }
    return LP_OK;
}

void lp_holdback_close(lp_holdback *hold) {
    for (size_t i = 0; i < hold->n_stops; i++) lp_free((void *)hold->stops[i].data);
    lp_free(hold->stops);
    lp_buf_free(&hold->pending);
    lp_buf_free(&hold->out);
    *hold = (lp_holdback){0};
}

static void let_go(lp_holdback *hold, size_t len) {
    lp_utf8_add_repaired(&hold->out, lp_str_slice(lp_buf_str(&hold->pending), 0, len));
    lp_buf_remove_front(&hold->pending, len);
}

/* Where the first stop text in `text` begins, or SIZE_MAX. */
static size_t find_stop(const lp_holdback *hold, lp_str text) {
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < hold->n_stops; i++) {
        size_t at = lp_str_find(text, hold->stops[i], 0);
        if (at < first) first = at;
    }
    return first;
}

/* Where the longest end of `text` that begins some stop text starts; text.len if none does. */
static size_t find_beginning(const lp_holdback *hold, lp_str text) {
    size_t longest = 0;
    for (size_t i = 0; i < hold->n_stops; i++) {
        size_t len = hold->stops[i].len - 1;
        for (len = len < text.len ? len : text.len; len > longest; len--) {
            if (lp_str_ends(text, lp_str_slice(hold->stops[i], 0, len))) longest = len;
        }
    }
    return text.len - longest;
}

bool lp_holdback_advance(lp_holdback *hold) {
    lp_buf_clear(&hold->out);
    lp_str text = lp_buf_str(&hold->pending);
    size_t stop = find_stop(hold, text);
    if (stop != SIZE_MAX) {
        let_go(hold, stop);
        lp_buf_clear(&hold->pending);
        return true;
    }
    size_t whole = text.len - lp_utf8_incomplete_tail(text),
           free_until = find_beginning(hold, text);
    let_go(hold, whole < free_until ? whole : free_until);
    return false;
}

void lp_holdback_flush(lp_holdback *hold) {
    lp_buf_clear(&hold->out);
    let_go(hold, hold->pending.len);
}
