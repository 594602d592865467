/* draft.c - see draft.h. Costs are kept in units of a one-row step, and the unit apart from them:
 * when another program takes half of the processor all steps take twice as long, the unit follows
 * at once and the costs stay. A line is drawn through the measured row counts next to the one asked
 * for; beyond them a row is assumed to cost what rows cost so far, and at most ASSUMED.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/draft.h"

/* A cost measured n times is trusted for PATIENCE * n * n steps, at most LONGEST: a wrong first
 * impression (a first time includes touching new memory) does not last, and what proved dear again
 * and again is tried seldom: 8 times in the first 2300 steps, then once in 1024. */
enum { PATIENCE = 16, LONGEST = 1024, MOST_SEEN = 8, SETTLED = 4 };
static const double ASSUMED = 0.1;
/* Guesses must promise this much: estimates err, and those that look best err upwards. */
static const double MARGIN = 1.08;

static bool trusted(const lp_draft_costs *c, size_t rows) {
    if (rows == 1) return true;
    uint32_t patience = c->measured[rows] * c->measured[rows] * PATIENCE;
    if (patience > LONGEST) patience = LONGEST;
    return c->measured[rows] > 0 && c->steps - c->last[rows] <= patience;
}

static double limit(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

void lp_draft_measured(lp_draft_costs *costs, size_t rows, double seconds) {
    lp_draft_costs *c = costs;
    if (rows < 1 || rows > LP_DRAFT_ROWS || !(seconds > 0)) return;
    c->steps++;
    c->cost[1] = 1;
    if (c->unit <= 0) c->unit = seconds / (1 + ASSUMED * (double)(rows - 1));
    uint32_t seen = c->measured[rows];
    if (rows > 1) {
        double sample = seconds / c->unit, known = seen ? c->cost[rows] : sample;
        double close = limit(sample, known * 0.75, known * 1.25);
        /* Not what it was long ago: begin anew. */
        if (!trusted(c, rows) && (sample < close || sample > close)) seen = 0;
        if (seen == 0) known = sample;
        c->cost[rows] = seen < SETTLED ? known + (sample - known) / (1.0 + (double)seen)
                                       : known + (close - known) / 16;
    }
    if (rows == 1 || seen >= SETTLED) {
        double sample = limit(seconds / c->cost[rows], 0, c->unit * 2); /* an interruption */
        c->unit += (sample - c->unit) * 0.25;
    }
    c->measured[rows] = seen < MOST_SEEN ? seen + 1 : seen;
    c->last[rows] = c->steps;
}

double lp_draft_cost(const lp_draft_costs *costs, size_t rows) {
    const lp_draft_costs *c = costs;
    if (rows < 1 || rows > LP_DRAFT_ROWS || c->unit <= 0) return 0;
    size_t low = rows, high = rows;
    while (!trusted(c, low)) low--; /* ends at 1 */
    while (high <= LP_DRAFT_ROWS && !trusted(c, high)) high++;
    if (low == high) return c->cost[low];
    double beyond = (double)(rows - low);
    if (high > LP_DRAFT_ROWS) {
        double each = low > 1 ? (c->cost[low] - 1) / (double)(low - 1) : ASSUMED;
        return c->cost[low] + limit(each, 0, ASSUMED) * beyond;
    }
    return c->cost[low] + (c->cost[high] - c->cost[low]) * beyond / (double)(high - low);
}

/* The most rows to try: from what is known on it goes up by steps, so a dear try is a small one. */
static size_t most_rows(const lp_draft_costs *c, size_t rows) {
    size_t known = LP_DRAFT_ROWS;
    while (known > rows && !trusted(c, known)) known--;
    return known == rows ? rows + 1 : 2 * known;
}

size_t lp_draft_choose(const lp_draft_costs *costs, size_t rows, const double *chances, size_t n,
                       double slower) {
    double plain = lp_draft_cost(costs, rows), tokens = (double)rows;
    if (plain <= 0) return 0;
    double best = MARGIN * tokens / plain;
    size_t choice = 0, most = most_rows(costs, rows);
    for (size_t i = 0; i < n && rows + i + 1 <= most && rows + i + 1 <= LP_DRAFT_ROWS; i++) {
        double cost = lp_draft_cost(costs, rows + i + 1);
        tokens += chances[i];
        if (cost > slower * plain || tokens / cost <= best) continue;
        best = tokens / cost;
        choice = i + 1;
    }
    return choice;
}
