/* threads.h - one pool of threads that share the chunks of a job.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_THREADS_H
#define LP_ENGINE_THREADS_H

#include "base/status.h"

typedef struct lp_pool lp_pool;

/* One chunk of a job. thread: 0 .. n_threads - 1, to find private scratch; the same thread works
 * on one chunk at a time. */
typedef void (*lp_pool_body)(void *job, size_t chunk, int thread);

/* Memory that the next job will read: thread t probably begins with `streams` pieces, number s at
 * begin + t * per_thread + s * per_stream, of which `bytes` of each are worth asking for. */
typedef struct lp_ahead {
    const uint8_t *begin;
    size_t per_thread, per_stream, streams, bytes;
} lp_ahead;

/* n_threads >= 1, the caller's own included: n_threads - 1 are started, or as many as the system
 * allows. */
lp_code lp_pool_open(lp_pool **out, int n_threads, lp_error *err) LP_MUST_USE;
void lp_pool_close(lp_pool *pool);
int lp_pool_threads(const lp_pool *pool);

/* Calls body(job, c, thread) for every c < n_chunks and returns when all are done. Chunks are
 * taken in order; the caller takes part. One caller at a time. n_chunks < 2^32 - 1. */
void lp_pool_run(lp_pool *pool, lp_pool_body body, void *job, size_t n_chunks);

/* From now on threads that wait ask the processor for this memory, so that it comes into their
 * caches while there is nothing else to do. A hint: the memory is not read, and may be anything. */
void lp_pool_ahead(lp_pool *pool, const lp_ahead *ahead);

#endif
