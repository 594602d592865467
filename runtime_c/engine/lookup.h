/* lookup.h - guesses the next tokens of a text from the text itself: what followed, last time, the
 * words it ends with now.
 *
 * The guess: among all earlier places where the text has the same last tokens, the one with the
 * longest match, at least 2 tokens and counted up to LP_LOOKUP_MATCH; among equals the latest.
 * Of the places that share the last two tokens the latest LP_LOOKUP_PLACES are looked at, and the
 * place where the guess before came from if it was right, so a run once found is not lost.
 * (Prompt lookup: Saxena 2023; the longest match instead of a fixed n.)
 *
 * Each token added tells whether the guess before it was right, so how often guesses come true, by
 * length of the match, is known without trying any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_LOOKUP_H
#define LP_ENGINE_LOOKUP_H

#include "base/status.h"

#define LP_LOOKUP_MATCH  32
#define LP_LOOKUP_PLACES 64

typedef struct lp_lookup lp_lookup;

/* For texts of up to n_max tokens (>= 1), all memory at once: 8 bytes per token and 4 to 8 bytes
 * per token for the table of pairs. */
lp_code lp_lookup_open(lp_lookup **out, size_t n_max, lp_error *err) LP_MUST_USE;
void lp_lookup_close(lp_lookup *lookup);

/* Begins anew with this text; forgets what was learnt. What is beyond n_max is left out. */
void lp_lookup_reset(lp_lookup *lookup, const int32_t *tokens, size_t n);
/* The text goes on with this token. */
void lp_lookup_add(lp_lookup *lookup, int32_t token);

/* Tokens of the match at hand; 0 = there is none and no guess. */
size_t lp_lookup_match(const lp_lookup *lookup);
/* Writes up to n guessed tokens (a text that goes round in circles does so in the guess, too);
 * returns how many. */
size_t lp_lookup_guess(const lp_lookup *lookup, int32_t *out, size_t n);
/* How likely the guess after a match of this many tokens is right, 0 to 1. */
double lp_lookup_chance(const lp_lookup *lookup, size_t match);

#endif
