/* worker.c - the preparing thread, the model thread, and the lists between them and the poll loop.
 *
 * One lock and one condition guard the two queues and every item's `out` and `done`. A thread that
 * has pushed an item's last bytes must not touch it again: it may be freed by then.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "platform/thread.h"
#include "serve/work.h"

typedef struct queue {
    lp_work *first, *last;
} queue;

struct lp_workers {
    const lp_api *api;
    lp_waker *waker;         /* the poll loop's, borrowed */
    lp_scheduler *scheduler; /* the model thread's once it runs */
    lp_mutex *lock;
    lp_condition *news; /* something came into a queue, or stopping */
    queue to_prepare, to_run;
    size_t alive; /* items submitted and not yet given back or freed */
    atomic_bool stopping;
    lp_thread *prepare_thread, *model_thread;
};

static const char stopping_text[] = "the server is stopping";

/* ---- items ---------------------------------------------------------------------------------- */

lp_work *lp_work_new(const lp_api *api, lp_prepare prepare, lp_framing framing, lp_buf *body) {
    lp_work *work = lp_alloc(1, sizeof *work);
    if (work == NULL) return NULL;
    work->api = api;
    work->prepare = prepare;
    work->framing = framing;
    work->body = *body;
    lp_buf_init(body, body->limit);
    lp_buf_init(&work->scratch, LP_OUT_MAX);
    lp_buf_init(&work->out, LP_OUT_MAX);
    lp_buf_init(&work->gen.stop_text, LP_STOPS_MAX * LP_STOP_BYTES_MAX);
    lp_buf_init(&work->gen.thinking, LP_OUT_MAX / 8);
    lp_buf_init(&work->gen.answer, LP_OUT_MAX / 8);
    atomic_init(&work->abandoned, false);
    return work;
}

void lp_work_free(lp_work *work) {
    if (work == NULL) return;
    lp_buf_free(&work->body);
    lp_buf_free(&work->scratch);
    lp_buf_free(&work->out);
    lp_buf_free(&work->gen.stop_text);
    lp_buf_free(&work->gen.thinking);
    lp_buf_free(&work->gen.answer);
    lp_ids_free(&work->gen.prompt);
    lp_free(work);
}

static void put(queue *q, lp_work *work) {
    work->next = NULL;
    if (q->last != NULL)
        q->last->next = work;
    else
        q->first = work;
    q->last = work;
}

static lp_work *take(queue *q) {
    lp_work *work = q->first;
    if (work == NULL) return NULL;
    q->first = work->next;
    if (q->first == NULL) q->last = NULL;
    work->next = NULL;
    return work;
}

/* ---- for the poll loop ---------------------------------------------------------------------- */

bool lp_workers_submit(lp_workers *w, lp_work *work) {
    lp_mutex_lock(w->lock);
    bool room = w->alive < LP_WORK_MAX && !atomic_load(&w->stopping);
    if (room) {
        w->alive++;
        work->workers = w;
        put(&w->to_prepare, work);
        lp_condition_wake_all(w->news);
    }
    lp_mutex_unlock(w->lock);
    return room;
}

bool lp_workers_collect(lp_work *work, lp_buf *into) {
    lp_workers *w = work->workers;
    lp_mutex_lock(w->lock);
    lp_buf_add_str(into, lp_buf_str(&work->out));
    if (work->out.failed) into->failed = true;
    lp_buf_free(&work->out);
    lp_buf_init(&work->out, LP_OUT_MAX);
    bool done = work->done;
    if (done) w->alive--;
    lp_mutex_unlock(w->lock);
    return done;
}

void lp_workers_abandon(lp_work *work) {
    lp_workers *w = work->workers;
    lp_mutex_lock(w->lock);
    bool done = work->done;
    if (done)
        w->alive--;
    else
        atomic_store(&work->abandoned, true);
    if (!done && work->gen.job != NULL) lp_job_cancel(work->gen.job);
    lp_mutex_unlock(w->lock);
    if (done) lp_work_free(work);
}

void lp_workers_stop(lp_workers *w) {
    lp_mutex_lock(w->lock);
    atomic_store(&w->stopping, true);
    lp_condition_wake_all(w->news);
    lp_mutex_unlock(w->lock);
    lp_engine_stop(w->api->params->engine);
}

bool lp_workers_busy(lp_workers *w) {
    lp_mutex_lock(w->lock);
    bool busy = w->alive > 0;
    lp_mutex_unlock(w->lock);
    return busy;
}

/* ---- inside the threads --------------------------------------------------------------------- */

bool lp_work_stopping(const lp_work *work) {
    return atomic_load(&work->workers->stopping);
}

void lp_work_push(lp_work *work, bool done) {
    lp_workers *w = work->workers;
    lp_mutex_lock(w->lock);
    bool abandoned = atomic_load(&work->abandoned);
    if (!abandoned) {
        lp_buf_add_str(&work->out, lp_buf_str(&work->scratch));
        if (work->scratch.failed) work->out.failed = true;
        work->done = done;
    } else if (done) {
        w->alive--;
    }
    lp_buf_clear(&work->scratch);
    lp_mutex_unlock(w->lock);
    if (abandoned && done) lp_work_free(work);
    lp_waker_ring(w->waker);
}

void lp_work_fail(lp_work *work, int status, const char *type, const char *message) {
    lp_buf_clear(&work->scratch);
    if (work->gen.begun) {
        lp_buf object;
        lp_buf_init(&object, 0);
        lp_reply_add_error_object(&object, status, type, message);
        lp_sse_event(&work->scratch, work->framing, lp_buf_str(&object));
        lp_buf_free(&object);
        lp_sse_end(&work->scratch, work->framing);
    } else {
        lp_reply_error(&work->scratch, work->framing, status, type, message);
    }
    lp_work_push(work, true);
}

void lp_work_fail_context(lp_work *work) {
    lp_buf body;
    lp_buf_init(&body, 0);
    size_t n_prompt = work->gen.prompt.len, n_ctx = lp_engine_n_ctx(work->api->params->engine);
    lp_buf_add_format(
        &body,
        "{\"error\":{\"message\":\"the prompt has %zu tokens, the context window %zu\","
        "\"type\":\"exceed_context_size_error\",\"code\":400,\"n_prompt_tokens\":%zu,\"n_ctx\":%zu}"
        "}",
        n_prompt, n_ctx, n_prompt, n_ctx);
    lp_buf_clear(&work->scratch);
    lp_reply_json(&work->scratch, work->framing, 400, NULL, lp_buf_str(&body));
    lp_buf_free(&body);
    lp_work_push(work, true);
}

void lp_work_set_job(lp_work *work, lp_job *job) {
    lp_mutex_lock(work->workers->lock);
    work->gen.job = job;
    if (job != NULL && atomic_load(&work->abandoned)) lp_job_cancel(job);
    lp_mutex_unlock(work->workers->lock);
}

static void prepare(lp_workers *w, lp_work *work) {
    if (atomic_load(&w->stopping)) {
        lp_work_fail(work, 503, NULL, stopping_text);
        return;
    }
    if (atomic_load(&work->abandoned)) {
        lp_work_push(work, true);
        return;
    }
    lp_error err = {0};
    lp_code code = work->prepare(work, &err);
    lp_buf_free(&work->body);
    if (code != LP_OK) {
        lp_work_fail(work, lp_reply_status_for(code), NULL, err.text);
    } else if (work->gen.wanted) {
        lp_mutex_lock(w->lock);
        put(&w->to_run, work);
        lp_condition_wake_all(w->news);
        lp_mutex_unlock(w->lock);
    } else if (work->scratch.failed) {
        lp_work_fail(work, 503, NULL, "the answer does not fit into memory");
    } else {
        lp_work_push(work, true);
    }
}

static void prepare_main(void *argument) {
    lp_workers *w = argument;
    for (;;) {
        lp_mutex_lock(w->lock);
        while (w->to_prepare.first == NULL && !atomic_load(&w->stopping))
            lp_condition_wait(w->news, w->lock, -1);
        lp_work *work = take(&w->to_prepare);
        lp_mutex_unlock(w->lock);
        if (work == NULL) return;
        prepare(w, work);
    }
}

/* Starts what is waiting; false when the workers are stopping. Sleeps while there is nothing to do.
 */
static bool start_waiting(lp_workers *w, bool busy) {
    lp_mutex_lock(w->lock);
    while (w->to_run.first == NULL && !busy && !atomic_load(&w->stopping))
        lp_condition_wait(w->news, w->lock, -1);
    bool go_on = !atomic_load(&w->stopping);
    queue waiting = w->to_run;
    w->to_run = (queue){NULL, NULL};
    lp_mutex_unlock(w->lock);
    for (lp_work *work = take(&waiting); work != NULL; work = take(&waiting)) {
        if (!go_on)
            lp_work_fail(work, 503, NULL, stopping_text);
        else if (atomic_load(&work->abandoned))
            lp_work_push(work, true);
        else
            lp_generation_start(work, w->scheduler);
    }
    return go_on;
}

static void model_main(void *argument) {
    lp_workers *w = argument;
    bool busy = false;
    while (start_waiting(w, busy)) {
        lp_error err = {0};
        /* A step that fails finishes the jobs it concerns with that error: nothing to add here. A
         * stop is seen at the top of the loop. */
        if (lp_scheduler_step(w->scheduler, &busy, &err) != LP_OK) lp_thread_yield();
    }
    lp_scheduler_close(w->scheduler); /* what still runs finishes as cancelled: streams are told */
    w->scheduler = NULL;
}

/* Items that were on their way between the threads when both ended. */
static void fail_leftovers(lp_workers *w) {
    for (lp_work *work = take(&w->to_prepare); work != NULL; work = take(&w->to_prepare))
        lp_work_fail(work, 503, NULL, stopping_text);
    for (lp_work *work = take(&w->to_run); work != NULL; work = take(&w->to_run))
        lp_work_fail(work, 503, NULL, stopping_text);
}

/* ---- life ----------------------------------------------------------------------------------- */

lp_code lp_workers_open(lp_workers **out, const lp_api *api, lp_waker *waker, lp_error *err) {
    lp_workers *w = lp_alloc(1, sizeof *w);
    if (w == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the server's threads");
    w->api = api;
    w->waker = waker;
    atomic_init(&w->stopping, false);
    w->lock = lp_mutex_new();
    w->news = lp_condition_new();
    lp_code code = LP_OK;
    if (w->lock == NULL || w->news == NULL)
        code = lp_fail(err, LP_ERR_MEMORY, "out of memory for the server's threads");
    if (code == LP_OK)
        code = lp_scheduler_open(&w->scheduler, api->params->engine, api->params->vocab,
                                 &api->params->draft, err);
    if (code == LP_OK) lp_scheduler_prepare(w->scheduler, api->params->ready);
    /* The template engine may nest 64 deep: a megabyte is ample. */
    if (code == LP_OK)
        code = lp_thread_start(&w->prepare_thread, prepare_main, w, (size_t)1 << 20, err);
    if (code == LP_OK)
        code = lp_thread_start(&w->model_thread, model_main, w, (size_t)1 << 20, err);
    if (code != LP_OK) {
        lp_workers_close(w);
        return code;
    }
    *out = w;
    return LP_OK;
}

void lp_workers_close(lp_workers *w) {
    if (w == NULL) return;
    if (w->lock != NULL && w->news != NULL) {
        lp_mutex_lock(w->lock);
        atomic_store(&w->stopping, true);
        lp_condition_wake_all(w->news);
        lp_mutex_unlock(w->lock);
    }
    if (w->prepare_thread != NULL) lp_thread_join(w->prepare_thread);
    if (w->model_thread != NULL) lp_thread_join(w->model_thread);
    fail_leftovers(w);
    if (w->scheduler != NULL) lp_scheduler_close(w->scheduler);
    if (w->news != NULL) lp_condition_free(w->news);
    if (w->lock != NULL) lp_mutex_free(w->lock);
    lp_free(w);
}
