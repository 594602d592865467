/* thread.h - threads, locks, sleeping and waking, time. Bodies: thread_posix.c, thread_windows.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_THREAD_H
#define LP_PLATFORM_THREAD_H

#include "base/status.h"

typedef struct lp_thread lp_thread;
lp_code lp_thread_start(lp_thread **out, void (*body)(void *), void *argument, size_t stack_bytes,
                        lp_error *err) LP_MUST_USE;
void lp_thread_join(lp_thread *thread); /* and frees it */

typedef struct lp_mutex lp_mutex;
lp_mutex *lp_mutex_new(void); /* NULL = no memory */
void lp_mutex_free(lp_mutex *mutex);
void lp_mutex_lock(lp_mutex *mutex);
void lp_mutex_unlock(lp_mutex *mutex);

typedef struct lp_condition lp_condition;
lp_condition *lp_condition_new(void);
void lp_condition_free(lp_condition *condition);
/* False when the time ran out first. seconds < 0: no limit. */
bool lp_condition_wait(lp_condition *condition, lp_mutex *mutex, double seconds);
void lp_condition_wake_all(lp_condition *condition);

double lp_clock_seconds(void); /* monotonic */
int64_t lp_clock_unix(void);   /* seconds since 1970, UTC */
int64_t lp_clock_local(void);  /* the same plus the local offset */
void lp_sleep_seconds(double seconds);
uint64_t lp_random_seed(void); /* from the system's generator */
bool lp_random_bytes(void *out, size_t n) LP_MUST_USE;

/* Cores this process may use: affinity and cgroup quota, physical and performance cores only. */
int lp_cpu_count(void);
/* Threads that can run at the same moment: processors of the affinity mask, hardware threads and
 * slow cores included, as far as the cgroup quota goes. At least 1. */
int lp_cpu_limit(void);
void lp_cpu_relax(void); /* pause in a spin loop */
void lp_thread_yield(void);

#endif
