/* draft.h - how many guessed tokens a step should try: what steps of so many rows cost here, as
 * measured, against how many tokens they bring.
 *
 * A step of one row is bound by reading the weights, so some more rows may cost little; how little
 * depends on the model, the types and the machine, so it is measured while answering. What was not
 * measured lately is assumed cheap, so it is tried again now and then.
 * Times decide how fast a text comes, never which text: every guess is checked exactly.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_DRAFT_H
#define LP_ENGINE_DRAFT_H

#include "base/status.h"

#define LP_DRAFT_MOST    64 /* guessed tokens per step */
#define LP_DRAFT_DEFAULT 16

typedef struct lp_draft_params {
    size_t most; /* guessed tokens per step; 0 = never guess */
    bool always; /* try every guess, whatever it costs (tests) */
} lp_draft_params;

#define LP_DRAFT_ROWS 128 /* steps of more rows are not measured */

typedef struct lp_draft_costs {
    double unit;                    /* seconds of a step of one row, as of late; 0 = unknown */
    double cost[LP_DRAFT_ROWS + 1]; /* of a step of so many rows, in units */
    uint32_t measured[LP_DRAFT_ROWS + 1], last[LP_DRAFT_ROWS + 1]; /* how often; at which step */
    uint32_t steps;
} lp_draft_costs; /* begins as zeros */

void lp_draft_measured(lp_draft_costs *costs, size_t rows, double seconds);
/* What a step of so many rows costs, in steps of one row; 0 = nothing is known yet. */
double lp_draft_cost(const lp_draft_costs *costs, size_t rows);

/* How many of n guessed rows to add to a step of `rows` rows that brings a token each.
 * chances: of each guess to become a token, largest first. slower: the step may take at most so
 * many times as long as without. */
size_t lp_draft_choose(const lp_draft_costs *costs, size_t rows, const double *chances, size_t n,
                       double slower);

#endif
