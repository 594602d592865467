/* work.h - requests that take time: one work item each, two threads, one way back.
 *
 * The poll loop submits an item; the preparing thread parses and checks it and either finishes it
 * (tokenize, every error) or hands it to the model thread, which runs the scheduler. Bytes of the
 * answer gather in item->out under the workers' lock, and the waker rings; the poll loop collects
 * them. An item belongs to the workers from submit until collect has told that it is done, or
 * until the poll loop abandons it (the client has gone): then the workers free it themselves.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_WORK_H
#define LP_SERVE_WORK_H

#include "chat/reasoning.h"
#include "engine/scheduler.h"
#include "platform/net.h"
#include "serve/api.h"
#include "serve/reply.h"

#include <stdatomic.h>

#define LP_STOPS_MAX      16u
#define LP_STOP_BYTES_MAX 256u        /* of one stop text */
#define LP_TEXT_MAX       4194304u    /* bytes of a text to tokenize */
#define LP_OUT_MAX        (64u << 20) /* bytes of an answer waiting to be sent */
#define LP_WORK_MAX       64u         /* items at a time; more get 503 */

/* What a generation needs and keeps. */
typedef struct lp_generation {
    bool wanted; /* set by the preparation: hand the item to the model */
    bool chat;   /* the shape of the answer: chat.completion or text_completion */
    bool stream, include_usage, progress;
    bool split;    /* part thinking from answer */
    lp_ids prompt; /* owned */
    lp_sampling sampling;
    size_t max_tokens; /* 0 = until the end */
    bool ignore_end;
    lp_buf stop_text;              /* owned: the stops, one after the other */
    size_t stop_end[LP_STOPS_MAX]; /* where each ends in stop_text */
    size_t n_stops;
    char id[40];
    int64_t created;
    lp_reasoning reasoning;
    lp_buf thinking, answer; /* owned; whole answers gather here, streams use them per piece */
    lp_job *job;             /* the scheduler's, released at the finish */
    bool begun;              /* the stream's header is out */
    double submitted;        /* lp_clock_seconds */
} lp_generation;

typedef struct lp_workers lp_workers;

struct lp_work {
    lp_work *next; /* in one of the workers' lists */
    lp_workers *workers;
    const lp_api *api;
    lp_prepare prepare;
    lp_framing framing;
    lp_buf body; /* owned, the request's */
    lp_generation gen;
    lp_buf scratch; /* owned, of the thread at work */
    atomic_bool abandoned;
    /* Under the workers' lock. */
    lp_buf out;
    bool done;
};

/* body is taken over (emptied) when this succeeds. */
lp_work *lp_work_new(const lp_api *api, lp_prepare prepare, lp_framing framing, lp_buf *body);
void lp_work_free(lp_work *work); /* before submit, or when collected */

lp_code lp_workers_open(lp_workers **out, const lp_api *api, lp_waker *waker,
                        lp_error *err) LP_MUST_USE;
bool lp_workers_submit(lp_workers *workers,
                       lp_work *work); /* false: too many; the caller keeps it */
/* Appends what is ready to `into`; true when the item is done (it is then the caller's again). */
bool lp_workers_collect(lp_work *work, lp_buf *into);
void lp_workers_abandon(lp_work *work);
/* Cancels everything; streams get an error event, waiting requests a 503. */
void lp_workers_stop(lp_workers *workers);
bool lp_workers_busy(lp_workers *workers);
void lp_workers_close(
    lp_workers *workers); /* joins the threads; items collected or abandoned before */

/* For the code that runs inside the threads. */
bool lp_work_stopping(const lp_work *work);
/* Sends work->scratch on its way and empties it; `done`: it was the last. */
void lp_work_push(lp_work *work, bool done);
void lp_work_fail(lp_work *work, int status, const char *type, const char *message);
/* The prompt does not fit: 400 with both counts. */
void lp_work_fail_context(lp_work *work);
void lp_work_set_job(lp_work *work, lp_job *job); /* under the lock, for lp_workers_abandon */
/* generate.c: gives the item to the scheduler. Errors are answered. */
void lp_generation_start(lp_work *work, lp_scheduler *scheduler);

#endif
