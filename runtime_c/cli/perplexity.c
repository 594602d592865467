/* perplexity.c - `perplexity FILE`: how well the model predicts a text.
 *
 * llama.cpp's definition, so that the figures compare: the text's tokens (with the begin token, if
 * the model wants one) are cut into windows of -c tokens; each begins with the begin token in place
 * of its first; in each, the tokens of the second half are scored given all before them in the
 * window: exp(mean of -ln p).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "cli/commands.h"
#include "cli/print.h"
#include "platform/terminal.h"

enum { WINDOW = 512, SCORED_PER_STEP = 32 };

typedef struct score {
    double sum, sum_squares; /* of -ln p */
    size_t n;
} score;

static double surprise(const lp_kernels *k, const float *logits, size_t n_vocab, int32_t next) {
    float max = 0;
    double sum = 0;
    k->max_sum_exp(logits, n_vocab, &max, &sum);
    return (double)max + log(sum) - (double)logits[next];
}

/* Rows begin..end of a window; scores each row's next token when `scored`. */
static lp_code step(lp_app *app, const int32_t *window, size_t begin, size_t end, bool scored,
                    lp_batch_row *rows, score *s, lp_error *err) {
    size_t n_vocab = lp_model_describe(app->model).n_vocab;
    for (size_t i = begin; i < end; i++) {
        rows[i - begin] =
            (lp_batch_row){.token = window[i], .position = (int32_t)i, .wants_logits = scored};
    }
    LP_TRY(lp_engine_step(app->engine, rows, end - begin, err));
    for (size_t i = begin; scored && i < end; i++) {
        double value = surprise(lp_engine_kernels(app->engine),
                                lp_engine_logits(app->engine, i - begin), n_vocab, window[i + 1]);
        s->sum += value;
        s->sum_squares += value * value;
        s->n++;
    }
    return LP_OK;
}

static lp_code score_window(lp_app *app, int32_t *window, size_t n_ctx, lp_batch_row *rows,
                            score *s, lp_error *err) {
    size_t batch = lp_engine_n_batch(app->engine);
    int32_t first = window[0];
    if (lp_vocab_adds_bos(app->vocab)) window[0] = lp_vocab_bos(app->vocab);
    (void)lp_engine_truncate(app->engine, 0, 0);
    size_t half = n_ctx / 2;
    lp_code code = LP_OK;
    for (size_t at = 0; at + 1 < n_ctx && code == LP_OK;) {
        size_t border = at < half ? half : n_ctx - 1;
        size_t most = at < half ? batch : SCORED_PER_STEP;
        size_t end = border - at < most ? border : at + most;
        code = step(app, window, at, end, at >= half, rows, s, err);
        at = end;
    }
    window[0] = first;
    return code;
}

static void report(const lp_app *app, const score *s, size_t n_windows, size_t n_ctx) {
    double mean = s->sum / (double)s->n;
    double variance = s->sum_squares / (double)s->n - mean * mean;
    double error = s->n > 1 ? exp(mean) * sqrt(variance / (double)(s->n - 1)) : 0;
    if (app->options.json) {
        (void)lp_print_format(
            "{\"perplexity\": %.6f, \"error\": %.6f, \"windows\": %zu, \"scored\": "
            "%zu, \"ctx\": %zu}\n",
            exp(mean), error, n_windows, s->n, n_ctx);
    } else {
        (void)lp_print_format("perplexity %.4f +- %.4f over %zu tokens (%zu windows of %zu)\n",
                              exp(mean), error, s->n, n_windows, n_ctx);
    }
}

static lp_code run(lp_app *app, lp_ids *ids, size_t n_ctx, lp_error *err) {
    size_t n_windows = ids->len / n_ctx;
    if (app->options.chunks > 0 && (size_t)app->options.chunks < n_windows) {
        n_windows = (size_t)app->options.chunks;
    }
    if (ids->len < 2 * n_ctx) {
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "the text has %zu tokens, at least %zu are needed at -c %zu", ids->len,
                       2 * n_ctx, n_ctx);
    }
    lp_batch_row *rows = lp_alloc(lp_engine_n_batch(app->engine), sizeof *rows);
    if (rows == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory");
    score s = {0};
    lp_code code = LP_OK;
    for (size_t w = 0; w < n_windows && code == LP_OK; w++) {
        code = score_window(app, ids->data + w * n_ctx, n_ctx, rows, &s, err);
        if (code == LP_OK && lp_terminal_is(2)) {
            lp_print_status("window %zu of %zu: perplexity so far %.4f", w + 1, n_windows,
                            exp(s.sum / (double)s.n));
        }
    }
    lp_free(rows);
    if (code == LP_OK) report(app, &s, n_windows, n_ctx);
    return code;
}

lp_code lp_command_perplexity(lp_app *app, lp_error *err) {
    size_t n_ctx = app->options.n_ctx > 0 ? (size_t)app->options.n_ctx : WINDOW;
    if (n_ctx < 4) return lp_fail(err, LP_ERR_ARGUMENT, "windows need at least 4 tokens (-c)");
    LP_TRY(lp_app_open_engine(app, 1, SCORED_PER_STEP, n_ctx, err));
    lp_ids ids = {0};
    lp_code code = lp_tokenize(app->vocab, lp_buf_str(&app->prompt), NULL, 0, true, &ids, err);
    if (code == LP_OK) code = run(app, &ids, n_ctx, err);
    lp_ids_free(&ids);
    return code;
}
