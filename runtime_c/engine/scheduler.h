/* scheduler.h - the only generation loop: jobs share the engine's steps, text comes out by
 * callback.
 *
 * A job is a prompt (ids) and what to do with it. The terminal submits one at a time; the server
 * many. Each step mixes one token of every answering job with a chunk of a waiting prompt. A job
 * takes the free sequence that holds the longest usable prefix of its prompt and keeps that; where
 * a prepared prefix (lp_scheduler_prepare) shares more, it starts from a copy of that. Text arrives
 * in whole UTF-8 characters; a suffix that could begin a stop text is held back until it is known
 * not to. Tokens guessed from the text so far are checked several per step where that is faster;
 * texts are the same with and without. One thread drives it (submit, step, cancel); lp_job_cancel
 * may come from another thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_SCHEDULER_H
#define LP_ENGINE_SCHEDULER_H

#include "engine/draft.h"
#include "engine/engine.h"
#include "engine/kv_file.h"
#include "engine/sampler.h"
#include "model/vocab.h"

typedef struct lp_scheduler lp_scheduler;
typedef struct lp_job lp_job;

typedef enum lp_finish {
    LP_FINISH_NONE = 0,  /* still running */
    LP_FINISH_END,       /* an end-of-generation token */
    LP_FINISH_STOP_TEXT, /* one of the stop texts */
    LP_FINISH_LENGTH,    /* max_tokens */
    LP_FINISH_CONTEXT,   /* the context window is full */
    LP_FINISH_CANCELLED,
    LP_FINISH_ERROR
} lp_finish;

typedef struct lp_job_stats {
    size_t prompt_tokens;       /* of the whole prompt */
    size_t cached_tokens;       /* of those, found in the cache */
    size_t answer_tokens;       /* sampled, the end token not counted */
    size_t drafted_tokens;      /* guessed tokens that were evaluated */
    size_t accepted_tokens;     /* of those, part of the answer: each spared a step */
    double prompt_seconds;      /* evaluating the rest of the prompt */
    double answer_seconds;      /* from the first sampled token to the last */
    double first_token_seconds; /* from submit to the first sampled token */
} lp_job_stats;

typedef struct lp_job_params {
    const int32_t *prompt; /* copied */
    size_t n_prompt;       /* >= 1 */
    size_t max_tokens;     /* 0 = until the end or the full context */
    lp_sampling sampling;
    const lp_str *stops; /* copied */
    size_t n_stops;
    bool ignore_end;    /* go on past end-of-generation tokens (bench) */
    bool print_special; /* print control tokens too */
    /* Called from lp_scheduler_step. text: whole characters, never empty. Return false to cancel.
     */
    bool (*on_text)(void *user, lp_job *job, lp_str text);
    /* Prompt progress, after each chunk; may be NULL. */
    void (*on_progress)(void *user, lp_job *job, size_t done, size_t total);
    /* Once, last. error is NULL unless finish is LP_FINISH_ERROR. */
    void (*on_finish)(void *user, lp_job *job, lp_finish finish, const lp_error *error);
    void *user;
} lp_job_params;

/* draft: NULL = no guessing. Guesses use the rows of logits that the engine has beyond one per
 * answering job: n_logit_rows = n_seq + draft->most lets all of them take part. */
lp_code lp_scheduler_open(lp_scheduler **out, lp_engine *engine, const lp_vocab *vocab,
                          const lp_draft_params *draft, lp_error *err) LP_MUST_USE;
void lp_scheduler_close(lp_scheduler *scheduler); /* running jobs finish as cancelled */

/* Keys and values at hand for the first tokens of prompts to come; one that fits the engine (see
 * lp_kv_file_fits), borrowed until the scheduler is closed. NULL = none. A damaged one is given up
 * at its first use. */
void lp_scheduler_prepare(lp_scheduler *scheduler, lp_kv_file *prefix);

/* LP_ERR_FULL when the prompt alone does not fit (the text says both counts). The job is owned by
 * the scheduler until lp_job_release, which may be called at any time after submit, also inside a
 * callback; an unfinished job is cancelled by it. No callback comes after it. */
lp_code lp_scheduler_submit(lp_scheduler *scheduler, const lp_job_params *params, lp_job **job,
                            lp_error *err) LP_MUST_USE;
/* Runs one engine step for the jobs at hand. *busy tells whether any job is unfinished. What goes
 * wrong with a job is told to its on_finish; the step itself then still is LP_OK. */
lp_code lp_scheduler_step(lp_scheduler *scheduler, bool *busy, lp_error *err) LP_MUST_USE;
void lp_job_cancel(lp_job *job); /* any thread, any signal handler; takes effect within a
                                  layer of the running step, which the other jobs then repeat */
void lp_job_release(lp_job *job);
lp_finish lp_job_finish(const lp_job *job);
lp_job_stats lp_job_stats_of(const lp_job *job);
/* The ids sampled so far (answer only; the end token not among them). Valid until the next step. */
const int32_t *lp_job_answer(const lp_job *job, size_t *n);

#endif
