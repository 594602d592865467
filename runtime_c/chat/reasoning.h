/* reasoning.h - a streamed answer parted into thinking and answer.
 *
 * Models that think write <think> ... </think> first, then the answer; some templates open the
 * block themselves in the generation prompt. Only such a block at the very start counts: the same
 * words later are text like any other. Pieces come in as sampled and may cut a tag anywhere.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CHAT_REASONING_H
#define LP_CHAT_REASONING_H

#include "base/text.h"

typedef enum lp_reasoning_state {
    LP_REASONING_START,  /* nothing but white space and perhaps a part of <think> so far */
    LP_REASONING_INSIDE, /* in the block */
    LP_REASONING_GAP,    /* after </think>, white space before the answer is dropped */
    LP_REASONING_ANSWER  /* everything is answer */
} lp_reasoning_state;

typedef struct lp_reasoning {
    lp_reasoning_state state;
    bool first;    /* no text of the block given out yet: leading line breaks are dropped */
    char held[64]; /* what could still become a tag, or white space before one */
    size_t n_held;
} lp_reasoning;

void lp_reasoning_init(lp_reasoning *r, bool inside);
/* Appends what is known of the piece to the one or the other; the rest is held back. */
void lp_reasoning_feed(lp_reasoning *r, lp_str piece, lp_buf *thinking, lp_buf *answer);
/* The answer is over: what was held back comes out as what it is. */
void lp_reasoning_finish(lp_reasoning *r, lp_buf *thinking, lp_buf *answer);

/* True if a prompt's text ends in an opened block (white space after it does not count). */
bool lp_reasoning_opened(lp_str prompt);

#endif
