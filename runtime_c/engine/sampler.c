/* sampler.c - penalties, top-k, top-p, min-p, temperature, draw.
 *
 * Rules, as the field knows them:
 *   penalties   per distinct recent token: logit <= 0 ? logit * repeat : logit / repeat, then
 *               - count * frequency - presence
 *   top-k       the k largest logits
 *   top-p       of those, largest first, until their share of the probability reaches p
 *   min-p       of those, the ones with logit >= largest + ln(p)
 *   temperature logits / temp, then one draw from the softmax
 *
 * The vocabulary may have 262,144 entries and is never sorted: a heap of k candidates keeps the
 * best in one pass (with k off, all are made a heap at once and top-p takes from it only what it
 * needs). Ties go to the lower id, so that the order is the same everywhere.
 *
 * The generator is xoshiro256++ (Blackman and Vigna, 2018, public domain), seeded by splitmix64.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/sampler.h"

#include <math.h>

#include "base/memory.h"

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct lp_sampler {
    lp_sampling params;
    size_t n_vocab;
    uint64_t state[4];     /* of the generator */
    candidate *candidates; /* capacity; owned, NULL when greedy */
    double *weights;       /* capacity: probabilities before scaling to 1; owned */
    size_t capacity;
    /* The last repeat_last_n accepted ids in a ring, and how often each id is in it. With the whole
     * context counted there is no ring. */
    int32_t *ring; /* owned */
    size_t ring_size, ring_used, ring_next;
    int32_t *counts; /* per id; owned, NULL without penalties */
};

void lp_sampling_default(lp_sampling *s) {
    *s = (lp_sampling){.temp = 0.8f,
                       .top_k = 40,
                       .top_p = 0.95f,
                       .min_p = 0.05f,
                       .repeat_penalty = 1.0f,
                       .repeat_last_n = 64};
}

static lp_code check_range(const char *name, float value, float min, float max, lp_error *err) {
    if (value >= min && value <= max) return LP_OK;
    return lp_fail(err, LP_ERR_ARGUMENT, "%s is %g, expected %g to %g", name, (double)value,
                   (double)min, (double)max);
}

lp_code lp_sampling_check(const lp_sampling *s, lp_error *err) {
    LP_TRY(check_range("temperature", s->temp, -1.0f, 1000.0f, err));
    LP_TRY(check_range("top-p", s->top_p, 0.0f, 1.0f, err));
    LP_TRY(check_range("min-p", s->min_p, 0.0f, 1.0f, err));
    LP_TRY(check_range("repeat penalty", s->repeat_penalty, 1e-3f, 1000.0f, err));
    LP_TRY(check_range("presence penalty", s->presence_penalty, -1000.0f, 1000.0f, err));
    LP_TRY(check_range("frequency penalty", s->frequency_penalty, -1000.0f, 1000.0f, err));
    if (s->repeat_last_n < -1 || s->repeat_last_n > 1 << 24)
        return lp_fail(err, LP_ERR_ARGUMENT, "repeat-last-n is %ld, expected -1 to %d",
                       (long)s->repeat_last_n, 1 << 24);
    return LP_OK;
}

/* ---- generator ---------------------------------------------------------------------------- */

static uint64_t rotate_left(uint64_t x, int k) {
    return x << k | x >> (64 - k);
}

static void seed_generator(lp_sampler *s, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        seed += 0x9E3779B97F4A7C15u;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        s->state[i] = z ^ z >> 31;
    }
}

/* Uniform in [0, 1), 53 bits. */
static double draw(lp_sampler *s) {
    uint64_t *x = s->state;
    uint64_t result = rotate_left(x[0] + x[3], 23) + x[0];
    uint64_t t = x[1] << 17;
    x[2] ^= x[0];
    x[3] ^= x[1];
    x[1] ^= x[2];
    x[0] ^= x[3];
    x[2] ^= t;
    x[3] = rotate_left(x[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* ---- open, accept ------------------------------------------------------------------------- */

static bool has_penalties(const lp_sampling *p) {
    return p->repeat_last_n != 0 && (p->repeat_penalty < 1.0f || p->repeat_penalty > 1.0f ||
                                     p->presence_penalty < 0.0f || p->presence_penalty > 0.0f ||
                                     p->frequency_penalty < 0.0f || p->frequency_penalty > 0.0f);
}

static bool allocate(lp_sampler *s) {
    const lp_sampling *p = &s->params;
    if (p->temp > 0) {
        s->capacity = p->top_k > 0 && (size_t)p->top_k < s->n_vocab ? (size_t)p->top_k : s->n_vocab;
        s->candidates = lp_alloc(s->capacity, sizeof *s->candidates);
        s->weights = lp_alloc(s->capacity, sizeof *s->weights);
        if (!s->candidates || !s->weights) return false;
    }
    if (!has_penalties(p)) return true;
    s->counts = lp_alloc(s->n_vocab, sizeof *s->counts);
    if (!s->counts) return false;
    if (p->repeat_last_n < 0) return true;
    s->ring_size = (size_t)p->repeat_last_n;
    s->ring = lp_alloc(s->ring_size, sizeof *s->ring);
    return s->ring != NULL;
}

lp_code lp_sampler_open(lp_sampler **out, const lp_sampling *params, size_t n_vocab,
                        lp_error *err) {
    *out = NULL;
    LP_TRY(lp_sampling_check(params, err));
    if (n_vocab < 1 || n_vocab > INT32_MAX)
        return lp_fail(err, LP_ERR_ARGUMENT, "a vocabulary of %zu tokens", n_vocab);
    lp_sampler *s = lp_alloc(1, sizeof *s);
    if (s) {
        s->params = *params;
        s->n_vocab = n_vocab;
        seed_generator(s, params->seed);
    }
    if (!s || !allocate(s)) {
        lp_sampler_close(s);
        return lp_fail(err, LP_ERR_MEMORY, "no memory for the sampler");
    }
    *out = s;
    return LP_OK;
}

void lp_sampler_close(lp_sampler *sampler) {
    if (!sampler) return;
    lp_free(sampler->candidates);
    lp_free(sampler->weights);
    lp_free(sampler->ring);
    lp_free(sampler->counts);
    lp_free(sampler);
}

void lp_sampler_accept(lp_sampler *s, int32_t id) {
    if (!s->counts || id < 0 || (size_t)id >= s->n_vocab) return;
    if (s->ring) {
        if (s->ring_used == s->ring_size) {
            s->counts[s->ring[s->ring_next]]--;
        } else {
            s->ring_used++;
        }
        s->ring[s->ring_next] = id;
        s->ring_next = (s->ring_next + 1) % s->ring_size;
    }
    if (s->counts[id] < INT32_MAX) s->counts[id]++;
}

/* ---- the chain ---------------------------------------------------------------------------- */

static void penalise(const lp_sampler *s, float *logits) {
    const lp_sampling *p = &s->params;
    for (size_t i = 0; i < s->n_vocab; i++) {
        if (s->counts[i] == 0) continue;
        logits[i] = logits[i] <= 0 ? logits[i] * p->repeat_penalty : logits[i] / p->repeat_penalty;
        logits[i] -= (float)s->counts[i] * p->frequency_penalty + p->presence_penalty;
    }
}

/* Greedy. NaN is never larger than anything, so it loses to every number. */
static int32_t largest(const lp_sampler *s, const float *logits) {
    float best = -INFINITY;
    size_t at = 0;
    for (size_t i = 0; i < s->n_vocab; i++) {
        if (logits[i] > best) {
            best = logits[i];
            at = i;
        }
    }
    return (int32_t)at;
}

static bool better(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit >= b.logit && a.id < b.id);
}

/* Restores the heap below `i`. worst_first: the top is the worst candidate, else the best. */
static void sift(candidate *heap, size_t n, size_t i, bool worst_first) {
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && better(heap[child + 1], heap[child]) != worst_first) child++;
        if (better(heap[child], heap[i]) == worst_first) return;
        candidate swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
        i = child;
    }
}

/* Puts the best of a best-first heap of n at its end and shrinks the heap; returns the new n. */
static size_t pop(candidate *heap, size_t n, bool worst_first) {
    candidate top = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = top;
    sift(heap, n - 1, 0, worst_first);
    return n - 1;
}

/* The `capacity` best numbers of the table, as a heap with the worst on top; returns how many. */
static size_t gather(lp_sampler *s, const float *logits) {
    candidate *heap = s->candidates;
    size_t n = 0, k = s->capacity;
    for (size_t i = 0; i < s->n_vocab; i++) {
        if (!(logits[i] > -INFINITY)) continue; /* NaN too */
        candidate c = {logits[i], (int32_t)i};
        if (n < k) {
            heap[n++] = c;
            if (n == k && k < s->n_vocab) {
                for (size_t j = k / 2; j-- > 0;) sift(heap, k, j, true);
            }
        } else if (c.logit > heap[0].logit) { /* a later id loses a tie */
            heap[0] = c;
            sift(heap, k, 0, true);
        }
    }
    return n;
}

/* Orders all n best first: enough for what top-k leaves. */
static void sort(candidate *c, size_t n) {
    for (size_t j = n / 2; j-- > 0;) sift(c, n, j, true);
    for (size_t left = n; left > 1;) left = pop(c, left, true);
}

/* Top-p over n unsorted candidates; the kept ones come to the front, best first. */
static size_t keep_top_p(lp_sampler *s, size_t n) {
    candidate *c = s->candidates;
    float best = c[0].logit;
    for (size_t i = 1; i < n; i++) best = c[i].logit > best ? c[i].logit : best;
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++) total += exp((double)c[i].logit - (double)best);
    for (size_t j = n / 2; j-- > 0;) sift(c, n, j, false);
    size_t left = n;
    while (left > 0) {
        left = pop(c, left, false);
        sum += exp((double)c[left].logit - (double)best);
        if (sum >= total * (double)s->params.top_p) break;
    }
    /* The kept ones stand at the end, worst of them first: turn the whole list round. */
    for (size_t i = 0, j = n - 1; i < j; i++, j--) {
        candidate swap = c[i];
        c[i] = c[j];
        c[j] = swap;
    }
    return n - left;
}

static size_t keep_min_p(lp_sampler *s, size_t n) {
    candidate *c = s->candidates;
    float best = c[0].logit;
    for (size_t i = 1; i < n; i++) best = c[i].logit > best ? c[i].logit : best;
    float least = best + logf(s->params.min_p);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (c[i].logit >= least) c[kept++] = c[i];
    }
    return kept;
}

static int32_t choose(lp_sampler *s, size_t n) {
    const candidate *c = s->candidates;
    double best = (double)c[0].logit, total = 0;
    for (size_t i = 1; i < n; i++) best = (double)c[i].logit > best ? (double)c[i].logit : best;
    for (size_t i = 0; i < n; i++) {
        /* Two infinities differ by NaN; both are then as likely as can be. */
        double below =
            (double)c[i].logit >= best ? 0 : ((double)c[i].logit - best) / (double)s->params.temp;
        s->weights[i] = exp(below);
        total += s->weights[i];
    }
    double aim = draw(s) * total, sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += s->weights[i];
        if (aim < sum) return c[i].id;
    }
    return c[n - 1].id; /* only by rounding */
}

int32_t lp_sampler_next(lp_sampler *sampler, float *logits) {
    lp_sampler *s = sampler;
    if (s->counts) penalise(s, logits);
    if (s->params.temp <= 0) return largest(s, logits);
    size_t n = gather(s, logits);
    if (n == 0) return 0;
    if (s->params.top_p < 1.0f) {
        n = keep_top_p(s, n);
    } else if (s->capacity < s->n_vocab) {
        sort(s->candidates, n);
    }
    if (s->params.min_p > 0.0f) n = keep_min_p(s, n);
    return choose(s, n);
}
