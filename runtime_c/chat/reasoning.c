/* reasoning.c - one character at a time through four states; at most 63 bytes are held.
 *
 * START holds white space and a prefix of <think>; anything else makes all of it answer. INSIDE
 * holds white space (dropped if the end tag follows, as templates add their own line breaks) and a
 * prefix of </think>.
 * SPDX-License-Identifier: Apache-2.0 */
#include "chat/reasoning.h"

#include <string.h>

static const char open_tag[] = "<think>";
static const char close_tag[] = "</think>";

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

void lp_reasoning_init(lp_reasoning *r, bool inside) {
    memset(r, 0, sizeof *r);
    r->state = inside ? LP_REASONING_INSIDE : LP_REASONING_START;
    r->first = true;
}

static void release(lp_reasoning *r, lp_buf *out) {
    lp_buf_add(out, r->held, r->n_held);
    r->n_held = 0;
}

/* Bytes at the end of held that begin `tag`; held is blanks and then those. */
static size_t tag_part(const lp_reasoning *r) {
    size_t blanks = 0;
    while (blanks < r->n_held && is_blank(r->held[blanks])) blanks++;
    return r->n_held - blanks;
}

/* Tries to lengthen the held text by c: blanks, then a prefix of the tag. */
static bool hold(lp_reasoning *r, char c, const char *tag, bool *whole) {
    size_t part = tag_part(r);
    *whole = false;
    if (r->n_held == sizeof r->held) return false;
    if (is_blank(c) ? part > 0 : tag[part] != c) return false;
    r->held[r->n_held++] = c;
    *whole = !is_blank(c) && tag[part + 1] == '\0';
    return true;
}

static void feed_start(lp_reasoning *r, char c, lp_buf *answer) {
    bool whole;
    if (hold(r, c, open_tag, &whole)) {
        if (!whole) return;
        r->n_held = 0;
        r->state = LP_REASONING_INSIDE;
        return;
    }
    release(r, answer);
    lp_buf_add_char(answer, c);
    r->state = LP_REASONING_ANSWER;
}

static void feed_inside(lp_reasoning *r, char c, lp_buf *thinking) {
    bool whole;
    if (r->first && r->n_held == 0 && is_blank(c)) return;
    if (hold(r, c, close_tag, &whole)) {
        if (!whole) return;
        r->n_held = 0;
        r->state = LP_REASONING_GAP;
        return;
    }
    release(r, thinking);
    r->first = false;
    if (hold(r, c, close_tag, &whole)) return; /* c itself may begin the tag */
    lp_buf_add_char(thinking, c);
}

void lp_reasoning_feed(lp_reasoning *r, lp_str piece, lp_buf *thinking, lp_buf *answer) {
    for (size_t i = 0; i < piece.len; i++) {
        char c = piece.data[i];
        switch (r->state) {
        case LP_REASONING_START:
            feed_start(r, c, answer);
            break;
        case LP_REASONING_INSIDE:
            feed_inside(r, c, thinking);
            break;
        case LP_REASONING_GAP:
            if (is_blank(c)) break;
            r->state = LP_REASONING_ANSWER;
            lp_buf_add_char(answer, c);
            break;
        default:
            lp_buf_add(answer, piece.data + i, piece.len - i);
            return;
        }
    }
}

void lp_reasoning_finish(lp_reasoning *r, lp_buf *thinking, lp_buf *answer) {
    if (r->state == LP_REASONING_START) release(r, answer);
    if (r->state == LP_REASONING_INSIDE) release(r, thinking);
    r->n_held = 0;
}

bool lp_reasoning_opened(lp_str prompt) {
    while (prompt.len > 0 && is_blank(prompt.data[prompt.len - 1])) prompt.len--;
    return lp_str_ends(prompt, lp_str_from(open_tag));
}
