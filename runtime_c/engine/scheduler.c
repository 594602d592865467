/* scheduler.c - see scheduler.h. Jobs wait in the order they came; one with a sequence is running.
 *
 * The scheduler remembers which tokens each sequence of the engine holds. Because a row's result
 * depends on its own sequence only, a prefix that is kept gives exactly the answer that evaluating
 * it again would. At least the last token of a prompt is always evaluated: its logits are needed.
 *
 * Where layers have a sliding window, a sequence cannot be cut just anywhere (see engine.h): of a
 * shared prefix only what the engine says can stay counts. Marks are set where next prompts mostly
 * part from what is held: at the end of a prompt (the answer is made anew, or its thinking left
 * out) and where it parted from the one before (the question is taken back). A prompt that parts
 * elsewhere, far behind the end, is evaluated from an earlier place or from its beginning.
 *
 * A step: one row for each answering job, then prompt rows in the order of submission. While
 * somebody is being answered, prompts go in smaller pieces, so that the answer does not stand
 * still.
 *
 * When no prompt waits, guessed tokens (lookup.h) follow an answering job's row, as many as pay
 * (draft.h). Each row's logits are what they would be one by one, so the sampler goes through them
 * in order as long as it draws what was guessed; the rows behind are forgotten. Tokens, generator
 * and cache are then as if nothing had been guessed.
 *
 * Callbacks may submit, cancel and release; jobs are therefore unlinked only at the end of a step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/scheduler.h"

#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "engine/holdback.h"
#include "engine/lookup.h"
#include "platform/thread.h"

enum { PROMPT_PIECE = 128, NO_SEQUENCE = -1 };

/* With several jobs at once, guesses for one may make a step this much longer for the others. */
static const double PATIENCE_OF_OTHERS = 1.25;

struct lp_job {
    lp_scheduler *scheduler;
    lp_job *next;
    lp_job_params params; /* prompt and stops point to NULL: the copies are below */
    int32_t *prompt;      /* owned */
    size_t n_fed;         /* prompt tokens that the sequence holds */
    lp_sampler *sampler;
    lp_ids answer;
    int32_t token; /* sampled last; the next row of an answering job */
    bool answering;
    lp_holdback text;
    int32_t sequence;
    size_t n_rows; /* in the step under way */
    int32_t guess[LP_DRAFT_MOST];
    double chance[LP_DRAFT_MOST]; /* that the text goes as guessed up to this token */
    size_t n_guess, n_draft;      /* guessed; of those, rows of the step */
    atomic_bool cancel;
    bool released;
    lp_finish finish;
    lp_job_stats stats;
    double submitted, started, first_token;
};

typedef struct holder {
    int32_t *tokens; /* what the sequence holds; n_ctx, owned by the scheduler */
    size_t n_tokens;
    lp_job *job;       /* NULL = free */
    uint64_t last_use; /* larger = later */
    lp_lookup *lookup; /* over the job's text once it is answering; owned, NULL without guessing */
} holder;

struct lp_scheduler {
    lp_engine *engine;
    const lp_vocab *vocab;
    size_t n_vocab;     /* ids that may be sampled: rows of the output that are tokens */
    lp_kv_file *ready;  /* prepared keys and values, borrowed; NULL = none */
    lp_job *jobs;       /* all that are not freed, in order of submission */
    holder *holders;    /* one per sequence, owned */
    int32_t *tokens;    /* owned */
    lp_batch_row *rows; /* n_batch, owned */
    uint64_t uses;
    bool stepping;
    lp_draft_params draft;
    lp_draft_costs costs;
};

/* ---- opening and closing ------------------------------------------------------------------ */

static void free_job(lp_job *job) {
    lp_free(job->prompt);
    lp_sampler_close(job->sampler);
    lp_ids_free(&job->answer);
    lp_holdback_close(&job->text);
    lp_free(job);
}

static lp_code open_lookups(lp_scheduler *s, lp_error *err) {
    if (s->draft.most == 0) return LP_OK;
    for (size_t i = 0; i < lp_engine_n_seq(s->engine); i++) {
        /* One more than the context: the last token is said and not evaluated. */
        LP_TRY(lp_lookup_open(&s->holders[i].lookup, lp_engine_n_ctx(s->engine) + 1, err));
    }
    return LP_OK;
}

lp_code lp_scheduler_open(lp_scheduler **out, lp_engine *engine, const lp_vocab *vocab,
                          const lp_draft_params *draft, lp_error *err) {
    *out = NULL;
    if (draft && draft->most > LP_DRAFT_MOST)
        return lp_fail(err, LP_ERR_ARGUMENT, "%zu guessed tokens per step: expected at most %d",
                       draft->most, LP_DRAFT_MOST);
    size_t n_rows = lp_model_describe(lp_engine_model(engine)).n_vocab,
           n_tokens = lp_vocab_size(vocab);
    if (n_tokens > n_rows)
        return lp_fail(err, LP_ERR_FORMAT, "the vocabulary has %zu tokens but the model only %zu",
                       n_tokens, n_rows);
    size_t n_seq = lp_engine_n_seq(engine), n_ctx = lp_engine_n_ctx(engine), total = 0;
    lp_scheduler *s = lp_alloc(1, sizeof *s);
    if (s && lp_size_mul(n_seq, n_ctx, &total)) {
        s->engine = engine;
        s->vocab = vocab;
        s->n_vocab = n_tokens;
        s->holders = lp_alloc(n_seq, sizeof *s->holders);
        s->tokens = lp_alloc(total, sizeof *s->tokens);
        s->rows = lp_alloc(lp_engine_n_batch(engine), sizeof *s->rows);
    }
    if (!s || !s->holders || !s->tokens || !s->rows) {
        lp_scheduler_close(s);
        return lp_fail(err, LP_ERR_MEMORY, "no memory for the scheduler");
    }
    for (size_t i = 0; i < n_seq; i++) s->holders[i].tokens = s->tokens + i * n_ctx;
    if (draft) s->draft = *draft;
    lp_code code = open_lookups(s, err);
    if (code != LP_OK) {
        lp_scheduler_close(s);
        return code;
    }
    *out = s;
    return LP_OK;
}

void lp_scheduler_prepare(lp_scheduler *scheduler, lp_kv_file *prefix) {
    scheduler->ready = prefix;
}

/* Ends a job: the last callback, and its sequence becomes free with all it holds. */
static void end_job(lp_job *job, lp_finish finish, const lp_error *error) {
    if (job->finish != LP_FINISH_NONE) return;
    job->finish = finish;
    if (job->sequence != NO_SEQUENCE) {
        holder *h = &job->scheduler->holders[job->sequence];
        h->job = NULL;
        h->last_use = ++job->scheduler->uses;
    }
    if (!job->released && job->params.on_finish)
        job->params.on_finish(job->params.user, job, finish, error);
}

void lp_scheduler_close(lp_scheduler *scheduler) {
    if (!scheduler) return;
    scheduler->stepping = true; /* so that a release inside on_finish only marks */
    for (lp_job *job = scheduler->jobs; job; job = job->next)
        end_job(job, LP_FINISH_CANCELLED, NULL);
    while (scheduler->jobs) {
        lp_job *job = scheduler->jobs;
        scheduler->jobs = job->next;
        free_job(job);
    }
    for (size_t i = 0; scheduler->holders && i < lp_engine_n_seq(scheduler->engine); i++)
        lp_lookup_close(scheduler->holders[i].lookup);
    lp_free(scheduler->holders);
    lp_free(scheduler->tokens);
    lp_free(scheduler->rows);
    lp_free(scheduler);
}

/* ---- jobs --------------------------------------------------------------------------------- */

static lp_code check_prompt(const lp_scheduler *s, const lp_job_params *params, lp_error *err) {
    if (params->n_prompt < 1) return lp_fail(err, LP_ERR_ARGUMENT, "the prompt is empty");
    size_t n_ctx = lp_engine_n_ctx(s->engine);
    if (params->n_prompt > n_ctx)
        return lp_fail(err, LP_ERR_FULL, "the prompt has %zu tokens but the context holds %zu",
                       params->n_prompt, n_ctx);
    for (size_t i = 0; i < params->n_prompt; i++) {
        if (params->prompt[i] < 0 || (size_t)params->prompt[i] >= s->n_vocab)
            return lp_fail(err, LP_ERR_ARGUMENT, "token %ld of a vocabulary of %zu",
                           (long)params->prompt[i], s->n_vocab);
    }
    return LP_OK;
}

static lp_code fill_job(lp_job *job, const lp_job_params *params, lp_error *err) {
    job->prompt = lp_alloc(params->n_prompt, sizeof *job->prompt);
    if (!job->prompt) return lp_fail(err, LP_ERR_MEMORY, "no memory for the prompt");
    memcpy(job->prompt, params->prompt, params->n_prompt * sizeof *job->prompt);
    LP_TRY(lp_sampler_open(&job->sampler, &params->sampling, job->scheduler->n_vocab, err));
    LP_TRY(lp_holdback_open(&job->text, params->stops, params->n_stops, err));
    for (size_t i = 0; i < params->n_prompt; i++) lp_sampler_accept(job->sampler, job->prompt[i]);
    return LP_OK;
}

lp_code lp_scheduler_submit(lp_scheduler *scheduler, const lp_job_params *params, lp_job **out,
                            lp_error *err) {
    *out = NULL;
    LP_TRY(check_prompt(scheduler, params, err));
    lp_job *job = lp_alloc(1, sizeof *job);
    if (!job) return lp_fail(err, LP_ERR_MEMORY, "no memory for a job");
    job->scheduler = scheduler;
    job->params = *params;
    job->params.prompt = NULL;
    job->params.stops = NULL;
    job->sequence = NO_SEQUENCE;
    job->stats.prompt_tokens = params->n_prompt;
    job->submitted = lp_clock_seconds();
    lp_code code = fill_job(job, params, err);
    if (code != LP_OK) {
        free_job(job);
        return code;
    }
    lp_job **end = &scheduler->jobs;
    while (*end) end = &(*end)->next;
    *end = job;
    *out = job;
    return LP_OK;
}

void lp_job_cancel(lp_job *job) {
    atomic_store(&job->cancel, true);
    lp_engine_stop(job->scheduler->engine);
}

/* Frees the released jobs that have ended. */
static void sweep(lp_scheduler *s) {
    for (lp_job **link = &s->jobs; *link;) {
        lp_job *job = *link;
        if (job->released && job->finish != LP_FINISH_NONE) {
            *link = job->next;
            free_job(job);
        } else {
            link = &job->next;
        }
    }
}

void lp_job_release(lp_job *job) {
    if (!job) return;
    job->released = true;
    end_job(job, LP_FINISH_CANCELLED, NULL);
    if (!job->scheduler->stepping) sweep(job->scheduler);
}

lp_finish lp_job_finish(const lp_job *job) {
    return job->finish;
}
lp_job_stats lp_job_stats_of(const lp_job *job) {
    return job->stats;
}

const int32_t *lp_job_answer(const lp_job *job, size_t *n) {
    *n = job->answer.len;
    return job->answer.data;
}

/* ---- a step: who takes part --------------------------------------------------------------- */

/* Of what a sequence holds, how much a job could go on from. */
static size_t usable_prefix(const lp_scheduler *s, const holder *h, const lp_job *job) {
    size_t most = job->stats.prompt_tokens - 1, n = h->n_tokens < most ? h->n_tokens : most, i = 0;
    while (i < n && h->tokens[i] == job->prompt[i]) i++;
    return lp_engine_keepable(s->engine, (int32_t)(h - s->holders), i);
}

/* The free sequence with most to go on from; among equals the one longest unused. What is
 * ready can be copied into any: less than that is worth nothing, and nobody's longer conversation
 * is given up for it. */
static holder *best_free(lp_scheduler *s, const lp_job *job, size_t *prefix) {
    size_t ready =
        s->ready ? lp_kv_file_common(s->ready, job->prompt, job->stats.prompt_tokens - 1) : 0;
    holder *best = NULL;
    for (size_t i = 0; i < lp_engine_n_seq(s->engine); i++) {
        holder *h = &s->holders[i];
        if (h->job) continue;
        size_t usable = usable_prefix(s, h, job);
        if (usable < ready) usable = ready;
        if (best && (usable < *prefix || (usable == *prefix && h->last_use >= best->last_use)))
            continue;
        best = h;
        *prefix = usable;
    }
    return best;
}

/* Makes a sequence hold the first n tokens of the prompt by a copy; returns how many there are to
 * go on from. */
static size_t copy_ready(lp_scheduler *s, holder *h, const lp_job *job, size_t n) {
    if (lp_kv_file_load(s->ready, s->engine, (int32_t)(h - s->holders), n, NULL) != LP_OK) {
        s->ready = NULL; /* damaged: evaluated as if there were none */
        return usable_prefix(s, h, job);
    }
    memcpy(h->tokens, job->prompt, n * sizeof *h->tokens);
    return n;
}

static void start_waiting(lp_scheduler *s) {
    for (lp_job *job = s->jobs; job; job = job->next) {
        if (job->finish != LP_FINISH_NONE || job->sequence != NO_SEQUENCE) continue;
        size_t keep = 0;
        holder *h = best_free(s, job, &keep);
        if (!h) return;
        if (keep > usable_prefix(s, h, job)) keep = copy_ready(s, h, job, keep);
        job->sequence = (int32_t)(h - s->holders);
        job->n_fed = job->stats.cached_tokens = keep;
        job->started = lp_clock_seconds();
        h->job = job;
        h->n_tokens = keep;
        (void)lp_engine_truncate(s->engine, job->sequence, keep);
        lp_engine_mark(s->engine, job->sequence);
    }
}

static void end_cancelled(lp_scheduler *s) {
    for (lp_job *job = s->jobs; job; job = job->next) {
        if (job->finish == LP_FINISH_NONE && atomic_load(&job->cancel))
            end_job(job, LP_FINISH_CANCELLED, NULL);
    }
}

static void add_row(lp_scheduler *s, size_t *n, lp_job *job, int32_t token, bool wants_logits) {
    s->rows[(*n)++] =
        (lp_batch_row){.token = token,
                       .position = (int32_t)(s->holders[job->sequence].n_tokens + job->n_rows),
                       .sequence = job->sequence,
                       .wants_logits = wants_logits};
    job->n_rows++;
}

static bool is_running(const lp_job *job) {
    return job->finish == LP_FINISH_NONE && job->sequence != NO_SEQUENCE;
}

/* How the text of an answering job may go on: up to `most` tokens, none behind which the answer
 * would be over. */
static void guess(lp_job *job, size_t most) {
    const lp_scheduler *s = job->scheduler;
    const holder *h = &s->holders[job->sequence];
    size_t room = lp_engine_n_ctx(s->engine) - h->n_tokens - 1;
    if (job->params.max_tokens) {
        size_t left = job->params.max_tokens - job->stats.answer_tokens - 1;
        if (room > left) room = left;
    }
    if (most > room) most = room;
    size_t n = lp_lookup_guess(h->lookup, job->guess, most), match = lp_lookup_match(h->lookup);
    double chance = 1;
    for (job->n_guess = 0; job->n_guess < n; job->n_guess++) {
        size_t i = job->n_guess;
        if (!job->params.ignore_end && lp_vocab_is_end(s->vocab, job->guess[i])) return;
        chance *= lp_lookup_chance(h->lookup, match + i);
        job->chance[i] = chance;
    }
}

/* The job whose next guess is the likeliest; NULL when none has any left. */
static lp_job *likeliest(lp_scheduler *s) {
    lp_job *best = NULL;
    for (lp_job *job = s->jobs; job; job = job->next) {
        if (job->n_draft < job->n_guess &&
            (!best || job->chance[job->n_draft] > best->chance[best->n_draft]))
            best = job;
    }
    return best;
}

/* Decides which guesses of the answering jobs take part. */
static void plan_drafts(lp_scheduler *s) {
    size_t n = 0, limit = lp_engine_n_batch(s->engine), logits = lp_engine_n_logit_rows(s->engine);
    bool reading = false;
    for (lp_job *job = s->jobs; job; job = job->next) {
        job->n_guess = job->n_draft = 0;
        if (!is_running(job)) continue;
        n += job->answering;
        reading = reading || !job->answering;
    }
    if (limit > logits) limit = logits;
    if (s->draft.most == 0 || n == 0 || n >= limit || reading) return;
    size_t most = limit - n < s->draft.most ? limit - n : s->draft.most, picked = 0;
    for (lp_job *job = s->jobs; job; job = job->next) {
        if (is_running(job)) guess(job, most);
    }
    lp_job *order[LP_DRAFT_MOST];
    double chances[LP_DRAFT_MOST];
    for (lp_job *job; picked < most && (job = likeliest(s)) != NULL; picked++) {
        order[picked] = job;
        chances[picked] = job->chance[job->n_draft++];
    }
    size_t keep = picked;
    if (!s->draft.always)
        keep = lp_draft_choose(&s->costs, n, chances, picked,
                               n > 1 ? PATIENCE_OF_OTHERS : (double)LP_DRAFT_ROWS);
    while (picked > keep) order[--picked]->n_draft--;
}

/* Fills s->rows; returns how many. *answers: how many of them belong to answers. */
static size_t gather_rows(lp_scheduler *s, size_t *answers) {
    size_t n = 0, limit = lp_engine_n_batch(s->engine), logits = lp_engine_n_logit_rows(s->engine);
    plan_drafts(s);
    for (lp_job *job = s->jobs; job; job = job->next) {
        job->n_rows = 0;
        if (!is_running(job) || !job->answering || n == limit || logits == 0) continue;
        add_row(s, &n, job, job->token, true);
        for (size_t i = 0; i < job->n_draft; i++) add_row(s, &n, job, job->guess[i], true);
        logits -= 1 + job->n_draft;
    }
    *answers = n;
    if (n > 0 && limit > n + PROMPT_PIECE) limit = n + PROMPT_PIECE;
    for (lp_job *job = s->jobs; job; job = job->next) {
        if (!is_running(job) || job->answering) continue;
        while (n < limit && job->n_fed + job->n_rows < job->stats.prompt_tokens) {
            bool last = job->n_fed + job->n_rows + 1 == job->stats.prompt_tokens;
            if (last && logits == 0) break;
            add_row(s, &n, job, job->prompt[job->n_fed + job->n_rows], last);
            if (last) logits--;
        }
    }
    return n;
}

/* ---- a step: what came of it -------------------------------------------------------------- */

/* Hands out the text that may go; false when the receiver wants no more. */
static bool emit(lp_job *job) {
    lp_str text = lp_buf_str(&job->text.out);
    if (text.len == 0 || job->released || !job->params.on_text) return true;
    return job->params.on_text(job->params.user, job, text);
}

static void flush_and_end(lp_job *job, lp_finish finish) {
    lp_holdback_flush(&job->text);
    if (!emit(job)) finish = LP_FINISH_CANCELLED;
    end_job(job, finish, NULL);
}

static void fail_job(lp_job *job, lp_code code, const char *what) {
    lp_error error;
    lp_fail(&error, code, "%s", what);
    end_job(job, LP_FINISH_ERROR, &error);
}

/* The text that guesses are made from: the prompt when the answer begins, then each token. */
static void look_up(lp_job *job, int32_t id) {
    lp_lookup *lookup = job->scheduler->holders[job->sequence].lookup;
    if (!lookup) return;
    if (job->stats.answer_tokens == 1)
        lp_lookup_reset(lookup, job->prompt, job->stats.prompt_tokens);
    lp_lookup_add(lookup, id);
}

static void take_token(lp_job *job, int32_t id) {
    const lp_scheduler *s = job->scheduler;
    double now = lp_clock_seconds();
    if (!job->answering) {
        job->answering = true;
        lp_engine_mark(s->engine, job->sequence);
        job->first_token = now;
        job->stats.prompt_seconds = now - job->started;
        job->stats.first_token_seconds = now - job->submitted;
    }
    job->stats.answer_seconds = now - job->first_token;
    if (!job->params.ignore_end && lp_vocab_is_end(s->vocab, id)) {
        flush_and_end(job, LP_FINISH_END);
        return;
    }
    job->token = id;
    job->stats.answer_tokens++;
    lp_sampler_accept(job->sampler, id);
    lp_ids_add(&job->answer, id);
    look_up(job, id);
    lp_vocab_add_piece(s->vocab, id, job->params.print_special, &job->text.pending);
    bool stopped = lp_holdback_advance(&job->text);
    if (job->answer.failed || job->text.pending.failed || job->text.out.failed) {
        fail_job(job, LP_ERR_MEMORY, "no memory for the answer");
    } else if (!emit(job)) {
        end_job(job, LP_FINISH_CANCELLED, NULL);
    } else if (stopped) {
        end_job(job, LP_FINISH_STOP_TEXT, NULL);
    } else if (job->params.max_tokens && job->stats.answer_tokens >= job->params.max_tokens) {
        flush_and_end(job, LP_FINISH_LENGTH);
    } else if (job->finish == LP_FINISH_NONE &&
               s->holders[job->sequence].n_tokens >= lp_engine_n_ctx(s->engine)) {
        flush_and_end(job, LP_FINISH_CONTEXT);
    }
}

/* The rows of the step are now part of their sequences, but for guesses. */
static void record_rows(lp_scheduler *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        holder *h = &s->holders[s->rows[i].sequence];
        lp_job *job = h->job;
        h->tokens[h->n_tokens++] = s->rows[i].token;
        if (job->answering) {
            job->stats.drafted_tokens += job->n_draft;
            i += job->n_draft;
        } else {
            job->n_fed++;
        }
    }
}

/* The rows of an answering job, n of them: its last token, then guesses. Ends at the first guess
 * that is not what came. */
static void follow(lp_job *job, const lp_batch_row *rows, size_t n, size_t at) {
    lp_engine *engine = job->scheduler->engine;
    holder *h = &job->scheduler->holders[job->sequence];
    for (size_t i = 0;; i++) {
        take_token(job, lp_sampler_next(job->sampler, lp_engine_logits(engine, at + i)));
        if (i + 1 == n || job->finish != LP_FINISH_NONE || atomic_load(&job->cancel)) return;
        if (rows[i + 1].token != job->token) return;
        h->tokens[h->n_tokens++] = job->token;
        job->stats.accepted_tokens++;
    }
}

/* Rows of a prompt; the last one of all brings the first token. */
static void read_on(lp_job *job, bool whole, size_t at) {
    lp_engine *engine = job->scheduler->engine;
    if (!job->released && job->params.on_progress)
        job->params.on_progress(job->params.user, job, job->n_fed, job->stats.prompt_tokens);
    if (whole && job->finish == LP_FINISH_NONE)
        take_token(job, lp_sampler_next(job->sampler, lp_engine_logits(engine, at)));
}

static void take_results(lp_scheduler *s, size_t n) {
    size_t at = 0; /* logits come in the order of the rows */
    for (size_t i = 0, end; i < n; i = end) {
        int32_t sequence = s->rows[i].sequence;
        size_t wanted = 0;
        for (end = i; end < n && s->rows[end].sequence == sequence; end++)
            wanted += s->rows[end].wants_logits;
        lp_job *job = s->holders[sequence].job;
        if (job && job->finish == LP_FINISH_NONE) { /* not ended by a callback of another */
            if (job->answering) {
                follow(job, s->rows + i, end - i, at);
            } else {
                read_on(job, wanted > 0, at);
            }
        }
        at += wanted;
        (void)lp_engine_truncate(s->engine, sequence, s->holders[sequence].n_tokens);
    }
}

/* The engine refused the step: everyone in it hears why. Its sequences are as before. */
static void fail_all(lp_scheduler *s, const lp_error *error) {
    for (lp_job *job = s->jobs; job; job = job->next) {
        if (is_running(job) && job->n_rows > 0) end_job(job, LP_FINISH_ERROR, error);
    }
}

lp_code lp_scheduler_step(lp_scheduler *scheduler, bool *busy, lp_error *err) {
    lp_scheduler *s = scheduler;
    lp_error own;
    if (!err) err = &own;
    s->stepping = true;
    end_cancelled(s);
    start_waiting(s);
    size_t answers = 0, n = gather_rows(s, &answers);
    double begin = lp_clock_seconds();
    lp_code code = n ? lp_engine_step(s->engine, s->rows, n, err) : LP_OK;
    if (code == LP_OK) {
        if (n == answers) lp_draft_measured(&s->costs, n, lp_clock_seconds() - begin);
        record_rows(s, n);
        take_results(s, n);
    } else if (code != LP_ERR_STOPPED) {
        fail_all(s, err);
    }
    end_cancelled(s);
    s->stepping = false;
    sweep(s);
    *busy = false;
    for (lp_job *job = s->jobs; job; job = job->next)
        *busy = *busy || job->finish == LP_FINISH_NONE;
    return LP_OK;
}
