/* threads.c - one persistent pool; chunks come from an atomic counter.
 *
 * A job is published as one 64-bit word, `ticket` = job number << 32 | next chunk. A thread takes a
 * chunk by compare-and-swap of the whole word, so it can never take one of a job other than the one
 * whose fields it has read. A late or sleeping worker therefore needs no waiting for: the caller
 * only waits until every chunk has been counted as done. That keeps the pool right, and not much
 * slower, when there are more threads than free cores.
 *
 * Order of publication: the word of the next job with its counter closed, then the job's fields,
 * then the word with the counter at 0. A worker that reads a new field has thereby seen the closed
 * word at least, and its exchange on an older word fails.
 *
 * A worker without work spins for about SPIN_SECONDS (a decode step has a gap of a few
 * microseconds between jobs, and waking a thread costs tens) and then sleeps on a condition. With
 * more threads than can run at the same moment nobody spins: it would take the time from a thread
 * that has work.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/threads.h"

#include <stdatomic.h>

#include "base/memory.h"
#include "platform/thread.h"

#define SPIN_SECONDS 80e-6
#define CLOSED       UINT32_MAX
#define STACK_BYTES  ((size_t)1 << 20)
#define LINE         64

typedef struct worker {
    lp_pool *pool;
    lp_thread *thread;
    int index;
} worker;

struct lp_pool {
    _Alignas(64) atomic_uint_fast64_t ticket;
    _Alignas(64) atomic_size_t done; /* chunks of this job that are finished */
    _Alignas(64) _Atomic(lp_pool_body) body;
    _Atomic(void *) job;
    atomic_size_t n_chunks;
    _Alignas(64) atomic_int sleepers;
    atomic_bool closing;
    /* lp_ahead; read piece by piece, since a mixture of two does no harm */
    _Alignas(64) atomic_uint ahead_number;
    atomic_uintptr_t begin;
    atomic_size_t per_thread, per_stream, streams, bytes;
    lp_mutex *mutex; /* guards the sleep */
    lp_condition *wake;
    worker *workers; /* n_threads - 1, owned */
    int n_threads, n_started;
    bool crowded; /* more threads than can run at the same moment */
};

/* Takes chunks of the job numbered `number` until none is left. */
static void work(lp_pool *pool, uint32_t number, int thread) {
    for (;;) {
        uint_fast64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
        uint32_t chunk = (uint32_t)ticket;
        if ((uint32_t)(ticket >> 32) != number || chunk == CLOSED) return;
        lp_pool_body body = atomic_load_explicit(&pool->body, memory_order_acquire);
        void *job = atomic_load_explicit(&pool->job, memory_order_acquire);
        if (chunk >= atomic_load_explicit(&pool->n_chunks, memory_order_acquire)) return;
        if (!atomic_compare_exchange_strong_explicit(&pool->ticket, &ticket, ticket + 1,
                                                     memory_order_acq_rel, memory_order_relaxed)) {
            lp_cpu_relax();
            continue;
        }
        body(job, chunk, thread);
        atomic_fetch_add_explicit(&pool->done, 1, memory_order_acq_rel);
    }
}

/* What a thread has asked for of the memory ahead. */
typedef struct ahead_place {
    unsigned number;
    size_t bytes; /* of each stream */
} ahead_place;

/* Something to do while waiting: the next line of each stream, or rest. */
static void ask_ahead(lp_pool *pool, int thread, ahead_place *asked) {
    unsigned number = atomic_load_explicit(&pool->ahead_number, memory_order_relaxed);
    if (asked->number != number) asked->number = number, asked->bytes = 0;
    if (asked->bytes >= atomic_load_explicit(&pool->bytes, memory_order_relaxed)) {
        lp_cpu_relax();
        return;
    }
    uintptr_t at = atomic_load_explicit(&pool->begin, memory_order_relaxed) + asked->bytes;
    at += (uintptr_t)thread * atomic_load_explicit(&pool->per_thread, memory_order_relaxed);
    size_t streams = atomic_load_explicit(&pool->streams, memory_order_relaxed);
    size_t apart = atomic_load_explicit(&pool->per_stream, memory_order_relaxed);
    for (size_t s = 0; s < streams; s++, at += apart) __builtin_prefetch((const void *)at, 0, 2);
    asked->bytes += LINE;
}

void lp_pool_ahead(lp_pool *pool, const lp_ahead *ahead) {
    atomic_store_explicit(&pool->begin, (uintptr_t)ahead->begin, memory_order_relaxed);
    atomic_store_explicit(&pool->per_thread, ahead->per_thread, memory_order_relaxed);
    atomic_store_explicit(&pool->per_stream, ahead->per_stream, memory_order_relaxed);
    atomic_store_explicit(&pool->streams, ahead->streams, memory_order_relaxed);
    atomic_store_explicit(&pool->bytes, ahead->bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->ahead_number, 1, memory_order_relaxed);
}

static uint32_t number_now(lp_pool *pool) {
    return (uint32_t)(atomic_load(&pool->ticket) >> 32);
}

/* True when a job other than `seen` is open, or the pool closes. A job that is still being written
 * does not count: a worker that came so early would find it closed and miss it. */
static bool has_news(lp_pool *pool, uint32_t seen) {
    uint_fast64_t ticket = atomic_load(&pool->ticket);
    bool open = (uint32_t)(ticket >> 32) != seen && (uint32_t)ticket != CLOSED;
    return open || atomic_load(&pool->closing);
}

/* Returns when has_news. */
static void await(lp_pool *pool, int thread, uint32_t seen) {
    double start = lp_clock_seconds();
    ahead_place asked = {0};
    while (!pool->crowded) {
        for (int i = 0; i < 32; i++) {
            if (has_news(pool, seen)) return;
            ask_ahead(pool, thread, &asked);
        }
        if (lp_clock_seconds() - start > SPIN_SECONDS) break;
    }
    /* Pairs with publish(): either it sees the sleeper, or the sleeper sees its job. */
    lp_mutex_lock(pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool, seen)) (void)lp_condition_wait(pool->wake, pool->mutex, -1);
    atomic_fetch_sub(&pool->sleepers, 1);
    lp_mutex_unlock(pool->mutex);
}

static void worker_main(void *argument) {
    worker *self = argument;
    uint32_t seen = 0;
    for (;;) {
        await(self->pool, self->index, seen);
        if (atomic_load(&self->pool->closing)) return;
        seen = number_now(self->pool);
        work(self->pool, seen, self->index);
    }
}

static void wake(lp_pool *pool) {
    if (atomic_load(&pool->sleepers) == 0) return;
    lp_mutex_lock(pool->mutex);
    lp_condition_wake_all(pool->wake);
    lp_mutex_unlock(pool->mutex);
}

lp_code lp_pool_open(lp_pool **out, int n_threads, lp_error *err) {
    *out = NULL;
    if (n_threads < 1 || n_threads > 4096)
        return lp_fail(err, LP_ERR_ARGUMENT, "%d threads: expected 1 to 4096", n_threads);
    lp_pool *pool = lp_alloc(1, sizeof *pool);
    if (!pool) return lp_fail(err, LP_ERR_MEMORY, "no memory for the threads");
    pool->n_threads = n_threads;
    pool->crowded = n_threads > lp_cpu_limit();
    atomic_init(&pool->ticket, CLOSED);
    pool->mutex = lp_mutex_new();
    pool->wake = lp_condition_new();
    pool->workers = lp_alloc((size_t)n_threads, sizeof *pool->workers);
    lp_code code = LP_OK;
    if (!pool->mutex || !pool->wake || !pool->workers)
        code = lp_fail(err, LP_ERR_MEMORY, "no memory for the threads");
    for (int i = 0; code == LP_OK && i < n_threads - 1; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .index = i + 1};
        if (lp_thread_start(&w->thread, worker_main, w, STACK_BYTES, NULL) != LP_OK) break;
        pool->n_started++;
    }
    /* Where a limit allows no more threads (ulimit -u, a container's), fewer do the same work. */
    if (code == LP_OK) pool->n_threads = pool->n_started + 1;
    if (code != LP_OK) {
        lp_pool_close(pool);
        return code;
    }
    *out = pool;
    return LP_OK;
}

void lp_pool_close(lp_pool *pool) {
    if (!pool) return;
    atomic_store(&pool->closing, true);
    if (pool->n_started) {
        lp_mutex_lock(pool->mutex);
        lp_condition_wake_all(pool->wake);
        lp_mutex_unlock(pool->mutex);
    }
    for (int i = 0; i < pool->n_started; i++) lp_thread_join(pool->workers[i].thread);
    lp_free(pool->workers);
    if (pool->wake) lp_condition_free(pool->wake);
    if (pool->mutex) lp_mutex_free(pool->mutex);
    lp_free(pool);
}

int lp_pool_threads(const lp_pool *pool) {
    return pool->n_threads;
}

/* Waits for chunks that other threads still hold: briefly, then leaving them the core. */
static void finish(lp_pool *pool, size_t n_chunks) {
    ahead_place asked = {0};
    for (int round = pool->crowded ? 4096 : 0;
         atomic_load_explicit(&pool->done, memory_order_acquire) != n_chunks; round++) {
        if (round < 4096) {
            ask_ahead(pool, 0, &asked);
        } else if (round < 8192) {
            lp_thread_yield();
        } else {
            lp_sleep_seconds(50e-6);
        }
    }
}

void lp_pool_run(lp_pool *pool, lp_pool_body body, void *job, size_t n_chunks) {
    if (pool->n_threads == 1 || n_chunks <= 1) {
        for (size_t c = 0; c < n_chunks; c++) body(job, c, 0);
        return;
    }
    uint32_t number = number_now(pool) + 1;
    atomic_store(&pool->ticket, (uint_fast64_t)number << 32 | CLOSED);
    atomic_store_explicit(&pool->body, body, memory_order_release);
    atomic_store_explicit(&pool->job, job, memory_order_release);
    atomic_store_explicit(&pool->n_chunks, n_chunks, memory_order_release);
    atomic_store_explicit(&pool->done, 0, memory_order_release);
    atomic_store(&pool->ticket, (uint_fast64_t)number << 32);
    wake(pool);
    work(pool, number, 0);
    finish(pool, n_chunks);
}
