/* lookup.c - see lookup.h. Pairs of neighbouring tokens are hashed; a slot of the table holds the
 * latest place of its pairs and each place a link to the one before, as in LZ77 match finders.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/lookup.h"

#include <string.h>

#include "base/memory.h"

enum { LEVELS = 8, SHORTEST = 2, STEADY = 32 };

/* A level for matches of at least so many tokens, and the share of right guesses assumed at first.
 * The shares lie between what free text and quotations showed on SmolLM2 (tests/bench/lookup.py):
 * they decide the first few guesses only. */
static const struct {
    size_t least;
    double chance;
} levels[LEVELS] = {{2, 0.3},  {3, 0.45}, {4, 0.6},  {5, 0.7},
                    {6, 0.75}, {8, 0.8},  {12, 0.9}, {24, 0.95}};

struct lp_lookup {
    int32_t *tokens;  /* (n_max), owned */
    uint32_t *before; /* (n_max), owned: place + 1 of the pair before in the same slot; 0 = none */
    uint32_t *latest; /* (1 << bits), owned: place + 1 of the latest pair; 0 = none */
    unsigned bits;
    size_t n, n_max;
    size_t match, source; /* length of the match; place of the token that followed it */
    struct {
        double chance;
        unsigned seen;
    } learnt[LEVELS];
};

lp_code lp_lookup_open(lp_lookup **out, size_t n_max, lp_error *err) {
    *out = NULL;
    if (n_max < 1 || n_max > INT32_MAX)
        return lp_fail(err, LP_ERR_ARGUMENT, "a lookup in %zu tokens", n_max);
    lp_lookup *l = lp_alloc(1, sizeof *l);
    if (l) {
        l->n_max = n_max;
        l->bits = 8;
        while (l->bits < 30 && (size_t)1 << l->bits < n_max) l->bits++;
        l->tokens = lp_alloc(n_max, sizeof *l->tokens);
        l->before = lp_alloc(n_max, sizeof *l->before);
        l->latest = lp_alloc((size_t)1 << l->bits, sizeof *l->latest);
    }
    if (!l || !l->tokens || !l->before || !l->latest) {
        lp_lookup_close(l);
        return lp_fail(err, LP_ERR_MEMORY, "no memory for the lookup");
    }
    *out = l;
    return LP_OK;
}

void lp_lookup_close(lp_lookup *lookup) {
    if (!lookup) return;
    lp_free(lookup->tokens);
    lp_free(lookup->before);
    lp_free(lookup->latest);
    lp_free(lookup);
}

/* ---- how often guesses come true ---------------------------------------------------------- */

static size_t level_of(size_t match) {
    size_t i = LEVELS - 1;
    while (i > 0 && match < levels[i].least) i--;
    return i;
}

/* A running mean: of all so far (the assumed share counts as four), later of about the last
 * STEADY. */
static void learn(lp_lookup *l, bool right) {
    size_t i = level_of(l->match);
    if (l->learnt[i].seen < STEADY - 4) l->learnt[i].seen++;
    l->learnt[i].chance +=
        ((right ? 1.0 : 0.0) - l->learnt[i].chance) / (4.0 + (double)l->learnt[i].seen);
}

double lp_lookup_chance(const lp_lookup *lookup, size_t match) {
    return match < SHORTEST ? 0 : lookup->learnt[level_of(match)].chance;
}

/* ---- finding ------------------------------------------------------------------------------ */

/* The slot of the pair that ends at this place. Multiplicative hashing (Knuth 6.4) of both. */
static uint32_t *slot_of(const lp_lookup *l, size_t place) {
    uint64_t pair = (uint64_t)(uint32_t)l->tokens[place - 1] << 32 | (uint32_t)l->tokens[place];
    return &l->latest[(pair * 0x9E3779B97F4A7C15u) >> (64 - l->bits)];
}

static void remember_pair(lp_lookup *l, size_t place) {
    uint32_t *slot = slot_of(l, place);
    l->before[place] = *slot;
    *slot = (uint32_t)place + 1;
}

/* How many tokens before `source` are the last of the text, up to LP_LOOKUP_MATCH. */
static size_t match_before(const lp_lookup *l, size_t source) {
    size_t most = source < LP_LOOKUP_MATCH ? source : LP_LOOKUP_MATCH, i = 0;
    while (i < most && l->tokens[source - 1 - i] == l->tokens[l->n - 1 - i]) i++;
    return i;
}

static void consider(lp_lookup *l, size_t source) {
    size_t match = match_before(l, source);
    if (match < SHORTEST || match < l->match) return;
    if (match == l->match && source <= l->source) return;
    l->match = match;
    l->source = source;
}

static void find(lp_lookup *l, size_t follow) {
    l->match = l->source = 0;
    if (follow) consider(l, follow);
    if (l->n < SHORTEST) return;
    uint32_t next = *slot_of(l, l->n - 1);
    for (int i = 0; i < LP_LOOKUP_PLACES && next; i++) {
        consider(l, next); /* the place after the pair: next is one more than where it ends */
        if (l->match == LP_LOOKUP_MATCH && l->source >= next) return;
        next = l->before[next - 1];
    }
}

void lp_lookup_reset(lp_lookup *lookup, const int32_t *tokens, size_t n) {
    lp_lookup *l = lookup;
    if (n > l->n_max) n = l->n_max;
    memset(l->latest, 0, ((size_t)1 << l->bits) * sizeof *l->latest);
    if (n) memcpy(l->tokens, tokens, n * sizeof *tokens);
    for (size_t i = 0; i < LEVELS; i++) {
        l->learnt[i].chance = levels[i].chance;
        l->learnt[i].seen = 0;
    }
    for (size_t i = 1; i + 1 < n; i++) remember_pair(l, i);
    l->n = n;
    find(l, 0);
    if (n >= SHORTEST) remember_pair(l, n - 1);
}

void lp_lookup_add(lp_lookup *lookup, int32_t token) {
    lp_lookup *l = lookup;
    if (l->n == l->n_max) {
        l->match = 0;
        return;
    }
    bool right = l->match && l->tokens[l->source] == token;
    if (l->match) learn(l, right);
    l->tokens[l->n++] = token;
    find(l, right ? l->source + 1 : 0);
    if (l->n >= SHORTEST) remember_pair(l, l->n - 1);
}

size_t lp_lookup_match(const lp_lookup *lookup) {
    return lookup->match;
}

size_t lp_lookup_guess(const lp_lookup *lookup, int32_t *out, size_t n) {
    const lp_lookup *l = lookup;
    if (!l->match) return 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = l->source + i;
        out[i] = at < l->n ? l->tokens[at] : out[at - l->n];
    }
    return n;
}
