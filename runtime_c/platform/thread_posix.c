/* thread_posix.c - threads, locks, clocks and random bytes on POSIX systems.
 *
 * A thin layer over pthreads. Two things differ between systems and are settled here: timed waits
 * run on the monotonic clock (macOS has no condition clock, but waits for a relative time), and
 * random bytes come from the kernel, by getentropy or, before Linux 3.17, /dev/urandom.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif
#include <time.h>
#include <unistd.h>

#include "base/memory.h"

struct lp_thread {
    pthread_t id;
    void (*body)(void *);
    void *argument; /* the caller's */
};

static void *run(void *argument) {
    lp_thread *thread = argument;
    thread->body(thread->argument);
    return NULL;
}

/* Signals belong to the main thread alone: its poll or read must be what a Ctrl-C interrupts.
 * SIGBUS and its kind stay open, they are delivered to the thread that caused them. */
static void block_signals(sigset_t *old) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGWINCH);
    sigaddset(&set, SIGCONT);
    pthread_sigmask(SIG_BLOCK, &set, old);
}

lp_code lp_thread_start(lp_thread **out, void (*body)(void *), void *argument, size_t stack_bytes,
                        lp_error *err) {
    *out = NULL;
    lp_thread *thread = lp_alloc(1, sizeof *thread);
    if (!thread) return lp_fail(err, LP_ERR_MEMORY, "no memory for a thread");
    thread->body = body;
    thread->argument = argument;

    pthread_attr_t attributes;
    int reason = pthread_attr_init(&attributes);
    if (reason == 0) {
        long page = sysconf(_SC_PAGESIZE);
        size_t step = page > 0 ? (size_t)page : 4096;
        long least = sysconf(_SC_THREAD_STACK_MIN);
        if (least > 0 && stack_bytes < (size_t)least) stack_bytes = (size_t)least;
        stack_bytes = (stack_bytes + step - 1) / step * step;
        reason = pthread_attr_setstacksize(&attributes, stack_bytes);
        if (reason == 0) {
            sigset_t old;
            block_signals(&old);
            reason = pthread_create(&thread->id, &attributes, run, thread);
            pthread_sigmask(SIG_SETMASK, &old, NULL);
        }
        pthread_attr_destroy(&attributes);
    }
    if (reason != 0) {
        lp_free(thread);
        return lp_fail(err, reason == ENOMEM ? LP_ERR_MEMORY : LP_ERR_IO,
                       "cannot start a thread: %s",
                       reason == EAGAIN ? "the limit on threads is reached (ulimit -u, or a "
                                          "container's)"
                                        : strerror(reason));
    }
    *out = thread;
    return LP_OK;
}

void lp_thread_join(lp_thread *thread) {
    if (!thread) return;
    pthread_join(thread->id, NULL);
    lp_free(thread);
}

struct lp_mutex {
    pthread_mutex_t mutex;
};

lp_mutex *lp_mutex_new(void) {
    lp_mutex *mutex = lp_alloc(1, sizeof *mutex);
    if (mutex && pthread_mutex_init(&mutex->mutex, NULL) != 0) {
        lp_free(mutex);
        return NULL;
    }
    return mutex;
}

void lp_mutex_free(lp_mutex *mutex) {
    if (!mutex) return;
    pthread_mutex_destroy(&mutex->mutex);
    lp_free(mutex);
}

void lp_mutex_lock(lp_mutex *mutex) {
    pthread_mutex_lock(&mutex->mutex);
}

void lp_mutex_unlock(lp_mutex *mutex) {
    pthread_mutex_unlock(&mutex->mutex);
}

struct lp_condition {
    pthread_cond_t condition;
};

lp_condition *lp_condition_new(void) {
    lp_condition *condition = lp_alloc(1, sizeof *condition);
    if (!condition) return NULL;
    pthread_condattr_t attributes;
    int reason = pthread_condattr_init(&attributes);
    if (reason == 0) {
#if !defined(__APPLE__)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
        reason = pthread_cond_init(&condition->condition, &attributes);
        pthread_condattr_destroy(&attributes);
    }
    if (reason != 0) {
        lp_free(condition);
        return NULL;
    }
    return condition;
}

void lp_condition_free(lp_condition *condition) {
    if (!condition) return;
    pthread_cond_destroy(&condition->condition);
    lp_free(condition);
}

/* Longest time any wait is given: a month and a bit; more would overflow some systems' structs. */
#define LONGEST_WAIT 3.0e6

static struct timespec to_timespec(double seconds) {
    if (!(seconds > 0)) seconds = 0;
    if (seconds > LONGEST_WAIT) seconds = LONGEST_WAIT;
    struct timespec t;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    if (t.tv_nsec > 999999999) t.tv_nsec = 999999999;
    return t;
}

bool lp_condition_wait(lp_condition *condition, lp_mutex *mutex, double seconds) {
    if (seconds < 0) return pthread_cond_wait(&condition->condition, &mutex->mutex) == 0;
    struct timespec t = to_timespec(seconds);
#if defined(__APPLE__)
    return pthread_cond_timedwait_relative_np(&condition->condition, &mutex->mutex, &t) == 0;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    t.tv_sec += now.tv_sec;
    t.tv_nsec += now.tv_nsec;
    if (t.tv_nsec > 999999999) {
        t.tv_nsec -= 1000000000;
        t.tv_sec += 1;
    }
    return pthread_cond_timedwait(&condition->condition, &mutex->mutex, &t) == 0;
#endif
}

void lp_condition_wake_all(lp_condition *condition) {
    pthread_cond_broadcast(&condition->condition);
}

double lp_clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int64_t lp_clock_unix(void) {
    return (int64_t)time(NULL);
}

int64_t lp_clock_local(void) {
    time_t now = time(NULL);
    struct tm local;
    if (!localtime_r(&now, &local)) return (int64_t)now;
    return (int64_t)now + (int64_t)local.tm_gmtoff;
}

void lp_sleep_seconds(double seconds) {
    struct timespec left = to_timespec(seconds);
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* getentropy gives at most 256 bytes at a time, and works where no file can be opened. */
static bool from_kernel(void *out, size_t n) {
    char *at = out;
    while (n > 0) {
        size_t part = n < 256 ? n : 256;
        if (getentropy(at, part) != 0) return false;
        at += part;
        n -= part;
    }
    return true;
}

bool lp_random_bytes(void *out, size_t n) {
    if (from_kernel(out, n)) return true;
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    char *at = out;
    while (n > 0) {
        ssize_t got = read(file, at, n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        at += got;
        n -= (size_t)got;
    }
    close(file);
    return n == 0;
}

uint64_t lp_random_seed(void) {
    uint64_t seed = 0;
    if (lp_random_bytes(&seed, sizeof seed)) return seed;
    /* Without a generator (an empty chroot) a seed for sampling may still be had from the clock;
     * whoever needs secrecy calls lp_random_bytes and must look at its answer. */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)t.tv_sec ^
           (uint64_t)getpid() << 32;
}

void lp_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    /* isb waits a few dozen cycles where `yield` is a no-op on most cores. */
    __asm__ volatile("isb");
#endif
}

void lp_thread_yield(void) {
    sched_yield();
}
