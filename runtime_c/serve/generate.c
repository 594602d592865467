/* generate.c - a prepared item as a job of the scheduler, its text as JSON or server-sent events.
 *
 * Runs in the model thread only: the callbacks come from inside lp_scheduler_step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "platform/thread.h"
#include "serve/work.h"

/* ---- JSON pieces ---------------------------------------------------------------------------- */

static void add_name(lp_buf *out, const char *name) {
    lp_buf_add_format(out, ",\"%s\":", name);
}

static void add_count(lp_buf *out, const char *name, size_t value) {
    add_name(out, name);
    lp_buf_add_format(out, "%zu", value);
}

/* Rounded to a thousandth: more digits of a time mean nothing. */
static void add_time(lp_buf *out, const char *name, double value) {
    add_name(out, name);
    if (value < 0 || !(value < 1e15)) value = 0;
    lp_buf_add_format(out, "%.3f", value);
}

static void add_timings(lp_buf *out, const lp_job_stats *s) {
    size_t read = s->prompt_tokens - s->cached_tokens;
    double n_read = (double)read, n_answer = (double)s->answer_tokens;
    lp_buf_add_format(out, ",\"timings\":{\"cache_n\":%zu", s->cached_tokens);
    add_count(out, "prompt_n", read);
    add_time(out, "prompt_ms", s->prompt_seconds * 1e3);
    add_time(out, "prompt_per_token_ms", read > 0 ? s->prompt_seconds * 1e3 / n_read : 0);
    add_time(out, "prompt_per_second", s->prompt_seconds > 0 ? n_read / s->prompt_seconds : 0);
    add_count(out, "predicted_n", s->answer_tokens);
    add_time(out, "predicted_ms", s->answer_seconds * 1e3);
    add_time(out, "predicted_per_token_ms", n_answer > 0 ? s->answer_seconds * 1e3 / n_answer : 0);
    add_time(out, "predicted_per_second", s->answer_seconds > 0 ? n_answer / s->answer_seconds : 0);
    add_count(out, "draft_n", s->drafted_tokens);
    add_count(out, "draft_n_accepted", s->accepted_tokens);
    lp_buf_add_char(out, '}');
}

static void add_usage(lp_buf *out, const lp_job_stats *s) {
    lp_buf_add_format(
        out,
        ",\"usage\":{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%zu},"
        "\"completion_tokens_details\":{\"accepted_prediction_tokens\":%zu,"
        "\"rejected_prediction_tokens\":%zu}}",
        s->prompt_tokens, s->answer_tokens, s->prompt_tokens + s->answer_tokens, s->cached_tokens,
        s->accepted_tokens, s->drafted_tokens - s->accepted_tokens);
}

/* {"id":..,"object":..,"created":..,"model":.. : without the closing brace. */
static void add_envelope(const lp_work *work, lp_buf *out, const char *object) {
    lp_buf_add_format(out,
                      "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", work->gen.id,
                      object, (long long)work->gen.created);
    lp_json_add_string(out, lp_str_from(work->api->params->name));
}

static const char *chunk_object(const lp_work *work) {
    return work->gen.chat ? "chat.completion.chunk" : "text_completion";
}

static const char *reason_for(lp_finish finish) {
    return finish == LP_FINISH_LENGTH || finish == LP_FINISH_CONTEXT ? "length" : "stop";
}

static void add_finish(lp_buf *out, lp_finish finish) {
    lp_buf_add_format(out, ",\"finish_reason\":\"%s\"", reason_for(finish));
    if (finish == LP_FINISH_CONTEXT) lp_buf_add_text(out, ",\"finish_detail\":\"context\"");
}

/* ---- streams -------------------------------------------------------------------------------- */

static void send_event(lp_work *work, lp_buf *json) {
    lp_buf_add_char(json, '}');
    if (json->failed)
        work->scratch.failed = true;
    else
        lp_sse_event(&work->scratch, work->framing, lp_buf_str(json));
    lp_buf_free(json);
}

/* One delta. key NULL: none; finish LP_FINISH_NONE: the stream goes on. */
static void send_delta(lp_work *work, const char *key, lp_str text, lp_finish finish,
                       const lp_job_stats *stats) {
    lp_buf json;
    lp_buf_init(&json, 0);
    add_envelope(work, &json, chunk_object(work));
    lp_buf_add_text(&json, ",\"choices\":[{\"index\":0");
    if (work->gen.chat) {
        lp_buf_add_text(&json, ",\"delta\":{");
        if (key != NULL && lp_str_is(lp_str_from(key), "role")) {
            lp_buf_add_text(&json, "\"role\":\"assistant\",\"content\":\"\"");
        } else if (key != NULL) {
            lp_buf_add_format(&json, "\"%s\":", key);
            lp_json_add_string(&json, text);
        }
        lp_buf_add_char(&json, '}');
    } else {
        lp_buf_add_text(&json, ",\"text\":");
        lp_json_add_string(&json, text);
        lp_buf_add_text(&json, ",\"logprobs\":null");
    }
    if (finish == LP_FINISH_NONE)
        lp_buf_add_text(&json, ",\"finish_reason\":null");
    else
        add_finish(&json, finish);
    lp_buf_add_text(&json, "}]");
    if (stats != NULL) add_timings(&json, stats);
    send_event(work, &json);
}

static void send_usage(lp_work *work, const lp_job_stats *stats) {
    lp_buf json;
    lp_buf_init(&json, 0);
    add_envelope(work, &json, chunk_object(work));
    lp_buf_add_text(&json, ",\"choices\":[]");
    add_usage(&json, stats);
    add_timings(&json, stats);
    send_event(work, &json);
}

/* Sends what the splitter has given out; empty pieces are not sent. */
static void send_pieces(lp_work *work) {
    lp_generation *g = &work->gen;
    if (g->thinking.len > 0)
        send_delta(work, "reasoning_content", lp_buf_str(&g->thinking), LP_FINISH_NONE, NULL);
    if (g->answer.len > 0)
        send_delta(work, "content", lp_buf_str(&g->answer), LP_FINISH_NONE, NULL);
    if (g->thinking.failed || g->answer.failed) work->scratch.failed = true;
    lp_buf_clear(&g->thinking);
    lp_buf_clear(&g->answer);
}

static void begin_stream(lp_work *work) {
    lp_sse_begin(&work->scratch, work->framing);
    work->gen.begun = true;
    if (work->gen.chat) send_delta(work, "role", lp_str_from(""), LP_FINISH_NONE, NULL);
    lp_work_push(work, false);
}

static void end_stream(lp_work *work, lp_finish finish, const lp_job_stats *stats) {
    send_pieces(work);
    send_delta(work, NULL, lp_str_from(""), finish, stats);
    if (work->gen.include_usage) send_usage(work, stats);
    lp_sse_event(&work->scratch, work->framing, lp_str_from("[DONE]"));
    lp_sse_end(&work->scratch, work->framing);
}

/* ---- whole answers -------------------------------------------------------------------------- */

static void whole_reply(lp_work *work, lp_finish finish, const lp_job_stats *stats) {
    lp_generation *g = &work->gen;
    lp_buf json;
    lp_buf_init(&json, LP_OUT_MAX);
    add_envelope(work, &json, g->chat ? "chat.completion" : "text_completion");
    lp_buf_add_text(&json, ",\"choices\":[{\"index\":0");
    if (g->chat) {
        lp_buf_add_text(&json, ",\"message\":{\"role\":\"assistant\",\"content\":");
        lp_json_add_string(&json, lp_buf_str(&g->answer));
        if (g->thinking.len > 0) {
            lp_buf_add_text(&json, ",\"reasoning_content\":");
            lp_json_add_string(&json, lp_buf_str(&g->thinking));
        }
        lp_buf_add_char(&json, '}');
    } else {
        lp_buf_add_text(&json, ",\"text\":");
        lp_json_add_string(&json, lp_buf_str(&g->answer));
    }
    lp_buf_add_text(&json, ",\"logprobs\":null");
    add_finish(&json, finish);
    lp_buf_add_text(&json, "}]");
    add_usage(&json, stats);
    add_timings(&json, stats);
    lp_buf_add_char(&json, '}');
    lp_reply_json(&work->scratch, work->framing, 200, NULL, lp_buf_str(&json));
    if (json.failed || g->answer.failed || g->thinking.failed) work->scratch.failed = true;
    lp_buf_free(&json);
}

/* ---- the job -------------------------------------------------------------------------------- */

static bool on_text(void *user, lp_job *job, lp_str text) {
    (void)job;
    lp_work *work = user;
    lp_generation *g = &work->gen;
    if (atomic_load(&work->abandoned) || lp_work_stopping(work)) return false;
    if (g->split)
        lp_reasoning_feed(&g->reasoning, text, &g->thinking, &g->answer);
    else
        lp_buf_add_str(&g->answer, text);
    if (!g->stream) return !g->answer.failed && !g->thinking.failed;
    send_pieces(work);
    bool fine = !work->scratch.failed;
    if (work->scratch.len > 0 || !fine) lp_work_push(work, false);
    return fine;
}

static void on_progress(void *user, lp_job *job, size_t done, size_t total) {
    lp_work *work = user;
    lp_buf json;
    lp_buf_init(&json, 0);
    add_envelope(work, &json, chunk_object(work));
    lp_buf_add_format(&json,
                      ",\"choices\":[],\"prompt_progress\":{\"total\":%zu,\"cache\":%zu,"
                      "\"processed\":%zu,\"time_ms\":%.0f}",
                      total, lp_job_stats_of(job).cached_tokens, done,
                      (lp_clock_seconds() - work->gen.submitted) * 1e3);
    send_event(work, &json);
    lp_work_push(work, false);
}

static void finish_reply(lp_work *work, lp_finish finish, const lp_error *error,
                         const lp_job_stats *stats) {
    bool cut = finish == LP_FINISH_ERROR || finish == LP_FINISH_CANCELLED;
    if (cut && lp_work_stopping(work)) {
        lp_work_fail(work, 503, NULL, "the server is stopping");
        return;
    }
    if (cut) {
        lp_work_fail(work, 500, NULL, error != NULL ? error->text : "the answer was cut off");
        return;
    }
    if (work->gen.split)
        lp_reasoning_finish(&work->gen.reasoning, &work->gen.thinking, &work->gen.answer);
    if (work->gen.stream)
        end_stream(work, finish, stats);
    else
        whole_reply(work, finish, stats);
    if (work->scratch.failed && !work->gen.begun)
        lp_work_fail(work, 503, NULL, "the answer does not fit into memory");
    else
        lp_work_push(work, true);
}

static void on_finish(void *user, lp_job *job, lp_finish finish, const lp_error *error) {
    lp_work *work = user;
    lp_job_stats stats = lp_job_stats_of(job);
    lp_work_set_job(work, NULL);
    lp_job_release(job);
    finish_reply(work, finish, error, &stats);
}

void lp_generation_start(lp_work *work, lp_scheduler *scheduler) {
    lp_generation *g = &work->gen;
    lp_str stops[LP_STOPS_MAX];
    for (size_t i = 0; i < g->n_stops; i++)
        stops[i] =
            lp_str_slice(lp_buf_str(&g->stop_text), i > 0 ? g->stop_end[i - 1] : 0, g->stop_end[i]);
    lp_job_params params = {.prompt = g->prompt.data,
                            .n_prompt = g->prompt.len,
                            .max_tokens = g->max_tokens,
                            .sampling = g->sampling,
                            .stops = stops,
                            .n_stops = g->n_stops,
                            .ignore_end = g->ignore_end,
                            .on_text = on_text,
                            .on_progress = g->stream && g->progress ? on_progress : NULL,
                            .on_finish = on_finish,
                            .user = work};
    g->submitted = lp_clock_seconds();
    lp_error err = {0};
    lp_job *job = NULL;
    lp_code code = lp_scheduler_submit(scheduler, &params, &job, &err);
    if (code == LP_ERR_FULL) {
        lp_work_fail_context(work);
        return;
    }
    if (code != LP_OK) {
        lp_work_fail(work, lp_reply_status_for(code), NULL, err.text);
        return;
    }
    lp_ids_free(&g->prompt);
    lp_work_set_job(work, job);
    if (g->stream) begin_stream(work);
}
