/* answer.c - submits a job, steps the engine until it is done, sorts thinking from answer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/answer.h"

#include <stdatomic.h>

#include "chat/reasoning.h"
#include "platform/thread.h"

enum { TAIL_IDS = 16, MAX_ANSWER = 64 * 1024 * 1024 };

/* What the signal handler may touch: the job of the running answer. */
static _Atomic(lp_job *) running;

typedef struct stream {
    const lp_answer_params *params;
    lp_answer *answer;
    lp_reasoning reasoning;
    lp_buf new_thinking, new_text; /* what the last piece added */
    lp_error error;
    bool refused; /* nobody reads any more, or no memory */
} stream;

/* Hands on what became known and keeps it. */
static bool deliver(stream *s) {
    lp_str thinking = lp_buf_str(&s->new_thinking);
    lp_str text = lp_buf_str(&s->new_text);
    lp_buf_add_str(&s->answer->thinking, thinking);
    lp_buf_add_str(&s->answer->text, text);
    bool ok = !s->answer->thinking.failed && !s->answer->text.failed;
    if (ok && thinking.len > 0) ok = s->params->on_text(s->params->user, true, thinking);
    if (ok && text.len > 0) ok = s->params->on_text(s->params->user, false, text);
    lp_buf_clear(&s->new_thinking);
    lp_buf_clear(&s->new_text);
    if (!ok) s->refused = true;
    return ok;
}

static bool on_piece(void *user, lp_job *job, lp_str piece) {
    stream *s = user;
    (void)job;
    if (s->params->split_thinking) {
        lp_reasoning_feed(&s->reasoning, piece, &s->new_thinking, &s->new_text);
    } else {
        lp_buf_add_str(&s->new_text, piece);
    }
    return deliver(s);
}

static void on_finish(void *user, lp_job *job, lp_finish finish, const lp_error *error) {
    stream *s = user;
    (void)job;
    s->answer->finish = finish;
    if (error != NULL) s->error = *error;
    if (s->params->split_thinking) {
        lp_reasoning_finish(&s->reasoning, &s->new_thinking, &s->new_text);
        (void)deliver(s);
    }
}

static lp_code drive(lp_app *app, stream *s, lp_error *err) {
    const lp_options *o = &app->options;
    lp_str stops[LP_MAX_STOPS];
    for (size_t i = 0; i < o->n_stops; i++) stops[i] = lp_str_from(o->stops[i]);
    lp_job_params params = {.prompt = s->params->ids,
                            .n_prompt = s->params->n_ids,
                            .max_tokens = (size_t)o->n_predict,
                            .sampling = lp_app_sampling(app),
                            .stops = stops,
                            .n_stops = o->n_stops,
                            .on_text = on_piece,
                            .on_finish = on_finish,
                            .user = s};
    lp_job *job = NULL;
    LP_TRY(lp_scheduler_submit(app->scheduler, &params, &job, err));
    atomic_store(&running, job);
    lp_code code = LP_OK;
    bool busy = true;
    while (busy && code == LP_OK) code = lp_scheduler_step(app->scheduler, &busy, err);
    atomic_store(&running, NULL);
    s->answer->stats = lp_job_stats_of(job);
    lp_job_release(job);
    LP_TRY(code);
    if (s->answer->finish == LP_FINISH_ERROR) {
        return lp_fail(err, s->error.code == LP_OK ? LP_ERR_IO : s->error.code, "%s",
                       s->error.text);
    }
    LP_TRY(lp_buf_check(&s->answer->text, err));
    return lp_buf_check(&s->answer->thinking, err);
}

lp_code lp_answer_run(lp_app *app, const lp_answer_params *params, lp_answer *answer,
                      lp_error *err) {
    *answer = (lp_answer){0};
    lp_buf_init(&answer->text, MAX_ANSWER);
    lp_buf_init(&answer->thinking, MAX_ANSWER);
    stream s = {.params = params, .answer = answer};
    lp_reasoning_init(&s.reasoning, params->thinking_open);
    lp_code code = drive(app, &s, err);
    lp_buf_free(&s.new_thinking);
    lp_buf_free(&s.new_text);
    return code;
}

void lp_answer_free(lp_answer *answer) {
    lp_buf_free(&answer->text);
    lp_buf_free(&answer->thinking);
}

void lp_answer_interrupt(void) {
    lp_job *job = atomic_load(&running);
    if (job != NULL) lp_job_cancel(job);
}

bool lp_answer_running(void) {
    return atomic_load(&running) != NULL;
}

static lp_str token_text(const lp_app *app, int32_t id) {
    return id < 0 ? lp_str_from("") : lp_vocab_text(app->vocab, id);
}

lp_code lp_answer_prompt(const lp_app *app, const lp_message *messages, size_t n_messages,
                         lp_ids *ids, bool *thinking_open, lp_error *err) {
    const int64_t *date = lp_app_date(app);
    lp_render_params params = {.messages = messages,
                               .n_messages = n_messages,
                               .add_generation_prompt = true,
                               .bos_token = token_text(app, lp_vocab_bos(app->vocab)),
                               .eos_token = token_text(app, lp_vocab_eos(app->vocab)),
                               .enable_thinking = app->options.no_thinking ? 0 : -1,
                               .now = date != NULL ? *date : lp_clock_local()};
    LP_TRY(lp_chat_prompt_ids(app->tmpl, app->vocab, &params, ids, err));
    /* The last few tokens tell whether the template itself opened a thinking block. */
    size_t n = ids->len < TAIL_IDS ? ids->len : TAIL_IDS;
    lp_buf tail;
    lp_buf_init(&tail, 0);
    lp_detokenize(app->vocab, ids->data + ids->len - n, n, true, &tail);
    *thinking_open = lp_reasoning_opened(lp_buf_str(&tail));
    lp_buf_free(&tail);
    return LP_OK;
}

const char *lp_answer_remark(const lp_app *app, const lp_answer *answer) {
    (void)app;
    switch (answer->finish) {
    case LP_FINISH_CONTEXT:
        return "the context window is full, so the answer was cut here; a larger -c, or a new "
               "chat, "
               "makes room";
    case LP_FINISH_LENGTH:
        return "the answer reached the limit set with -n";
    case LP_FINISH_CANCELLED:
        return "stopped";
    default:
        return NULL;
    }
}
