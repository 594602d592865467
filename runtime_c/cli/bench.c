/* bench.c - `bench`: prefill and decode speed on fixed pseudo-random tokens, nothing else running.
 *
 * Each repetition evaluates -p tokens in batches behind the same -d tokens of context, then -n
 * single tokens behind them, as llama-bench does, so that the figures can stand beside each other.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "cli/commands.h"
#include "cli/print.h"
#include "platform/thread.h"

/* Numerical Recipes' linear congruential generator: the same tokens on every machine. */
static int32_t random_token(uint32_t *state, size_t n_vocab) {
    *state = *state * 1664525u + 1013904223u;
    return (int32_t)((*state >> 8) % n_vocab);
}

/* Evaluates n random tokens behind the first `depth` ones of the cache. Those are evaluated again,
 * before the clock runs, where layers with a window could not keep them. */
static lp_code evaluate(lp_app *app, size_t depth, size_t n, size_t per_step, lp_batch_row *rows,
                        uint32_t *state, double *seconds, lp_error *err) {
    size_t n_vocab = lp_model_describe(app->model).n_vocab;
    size_t kept = lp_engine_truncate(app->engine, 0, depth);
    if (kept < depth)
        LP_TRY(evaluate(app, kept, depth - kept, lp_engine_n_batch(app->engine), rows, state,
                        seconds, err));
    lp_engine_mark(app->engine, 0);
    double begin = lp_clock_seconds();
    for (size_t done = 0; done < n;) {
        size_t now = n - done < per_step ? n - done : per_step;
        for (size_t i = 0; i < now; i++) {
            rows[i] = (lp_batch_row){.token = random_token(state, n_vocab),
                                     .position = (int32_t)(depth + done + i),
                                     .wants_logits = i + 1 == now};
        }
        LP_TRY(lp_engine_step(app->engine, rows, now, err));
        done += now;
    }
    *seconds = lp_clock_seconds() - begin;
    return LP_OK;
}

static int by_size(const void *a, const void *b) {
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, by_size);
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

typedef struct result {
    double *prefill, *decode; /* (repeat), tokens per second */
} result;

static lp_code measure(lp_app *app, lp_batch_row *rows, result *r, lp_error *err) {
    const lp_options *o = &app->options;
    size_t batch = lp_engine_n_batch(app->engine);
    size_t n_prompt = (size_t)o->bench_prompt;
    size_t n_predict = (size_t)o->bench_predict;
    size_t depth = (size_t)o->bench_depth;
    uint32_t state = 1;
    double seconds = 0;
    /* Once unmeasured: pages and buffers come in, the clock speed settles. */
    LP_TRY(
        evaluate(app, 0, n_prompt < batch ? n_prompt : batch, batch, rows, &state, &seconds, err));
    LP_TRY(evaluate(app, 0, n_predict < 4 ? n_predict : 4, 1, rows, &state, &seconds, err));
    LP_TRY(evaluate(app, 0, depth, batch, rows, &state, &seconds, err));
    for (int64_t i = 0; i < o->bench_repeat; i++) {
        LP_TRY(evaluate(app, depth, n_prompt, batch, rows, &state, &seconds, err));
        r->prefill[i] = n_prompt == 0 ? 0 : (double)n_prompt / seconds;
        LP_TRY(evaluate(app, depth, n_predict, 1, rows, &state, &seconds, err));
        r->decode[i] = n_predict == 0 ? 0 : (double)n_predict / seconds;
    }
    return LP_OK;
}

static void report(const lp_app *app, const result *r) {
    const lp_options *o = &app->options;
    size_t n = (size_t)o->bench_repeat;
    double prefill = median(r->prefill, n);
    double decode = median(r->decode, n);
    const char *level = lp_engine_kernels(app->engine)->name;
    int threads = lp_engine_n_threads(app->engine);
    const char *act = lp_act_name(lp_engine_act(app->engine));
    if (o->json) {
        (void)lp_print_format(
            "{\"prefill_tps\": %.3f, \"decode_tps\": %.3f, \"n_prompt\": %lld, "
            "\"n_predict\": %lld, \"depth\": %lld, \"repeat\": %zu, \"threads\": %d, "
            "\"cpu\": \"%s\", \"act\": \"%s\", \"prefill_min\": %.3f, \"prefill_max\": %.3f, "
            "\"decode_min\": %.3f, \"decode_max\": %.3f}\n",
            prefill, decode, (long long)o->bench_prompt, (long long)o->bench_predict,
            (long long)o->bench_depth, n, threads, level, act, r->prefill[0], r->prefill[n - 1],
            r->decode[0], r->decode[n - 1]);
        return;
    }
    (void)lp_print_format("%s, %d threads, %s, %s activations, depth %lld\n", lp_app_name(app),
                          threads, level, act, (long long)o->bench_depth);
    (void)lp_print_format("prefill %6lld tokens  %9.2f tokens/s  (%.2f to %.2f)\n",
                          (long long)o->bench_prompt, prefill, r->prefill[0], r->prefill[n - 1]);
    (void)lp_print_format("decode  %6lld tokens  %9.2f tokens/s  (%.2f to %.2f)\n",
                          (long long)o->bench_predict, decode, r->decode[0], r->decode[n - 1]);
}

lp_code lp_command_bench(lp_app *app, lp_error *err) {
    const lp_options *o = &app->options;
    int64_t longest = o->bench_prompt > o->bench_predict ? o->bench_prompt : o->bench_predict;
    longest += o->bench_depth;
    size_t n_ctx = o->n_ctx > longest ? (size_t)o->n_ctx : (size_t)longest;
    LP_TRY(lp_app_open_engine(app, 1, 1, n_ctx < 64 ? 64 : n_ctx, err));
    size_t n = (size_t)o->bench_repeat;
    result r = {lp_alloc(n, sizeof(double)), lp_alloc(n, sizeof(double))};
    lp_batch_row *rows = lp_alloc(lp_engine_n_batch(app->engine), sizeof *rows);
    lp_code code = r.prefill == NULL || r.decode == NULL || rows == NULL
                       ? lp_fail(err, LP_ERR_MEMORY, "out of memory")
                       : measure(app, rows, &r, err);
    if (code == LP_OK) report(app, &r);
    lp_free(rows);
    lp_free(r.prefill);
    lp_free(r.decode);
    return code;
}
