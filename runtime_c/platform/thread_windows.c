/* thread_windows.c - threads, locks, clocks and random bytes on Windows.
 *
 * Slim reader/writer locks and condition variables (Windows Vista and later), the performance
 * counter as monotonic clock, RtlGenRandom for random bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/thread.h"

#include <process.h>

#include "base/memory.h"

struct lp_thread {
    HANDLE handle;
    void (*body)(void *);
    void *argument; /* the caller's */
};

static unsigned __stdcall run(void *argument) {
    lp_thread *thread = argument;
    thread->body(thread->argument);
    return 0;
}

lp_code lp_thread_start(lp_thread **out, void (*body)(void *), void *argument, size_t stack_bytes,
                        lp_error *err) {
    *out = NULL;
    if (stack_bytes > UINT32_MAX) return lp_fail(err, LP_ERR_ARGUMENT, "thread stack too large");
    lp_thread *thread = lp_alloc(1, sizeof *thread);
    if (!thread) return lp_fail(err, LP_ERR_MEMORY, "no memory for a thread");
    thread->body = body;
    thread->argument = argument;
    uintptr_t handle = _beginthreadex(NULL, (unsigned)stack_bytes, run, thread,
                                      STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (handle == 0) {
        lp_free(thread);
        return lp_fail(err, LP_ERR_IO, "cannot start a thread: system error %lu", GetLastError());
    }
    thread->handle = (HANDLE)handle;
    *out = thread;
    return LP_OK;
}

void lp_thread_join(lp_thread *thread) {
    if (!thread) return;
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
    lp_free(thread);
}

struct lp_mutex {
    SRWLOCK lock;
};

lp_mutex *lp_mutex_new(void) {
    lp_mutex *mutex = lp_alloc(1, sizeof *mutex);
    if (mutex) InitializeSRWLock(&mutex->lock);
    return mutex;
}

void lp_mutex_free(lp_mutex *mutex) {
    lp_free(mutex);
}

void lp_mutex_lock(lp_mutex *mutex) {
    AcquireSRWLockExclusive(&mutex->lock);
}

void lp_mutex_unlock(lp_mutex *mutex) {
    ReleaseSRWLockExclusive(&mutex->lock);
}

struct lp_condition {
    CONDITION_VARIABLE variable;
};

lp_condition *lp_condition_new(void) {
    lp_condition *condition = lp_alloc(1, sizeof *condition);
    if (condition) InitializeConditionVariable(&condition->variable);
    return condition;
}

void lp_condition_free(lp_condition *condition) {
    lp_free(condition);
}

/* Rounded up, so that a short wait is never a busy one. */
static DWORD to_milliseconds(double seconds) {
    if (seconds < 0) return INFINITE;
    double ms = seconds * 1000.0 + 0.999;
    return ms > 3.0e9 ? (DWORD)3000000000u : (DWORD)ms;
}

bool lp_condition_wait(lp_condition *condition, lp_mutex *mutex, double seconds) {
    return SleepConditionVariableSRW(&condition->variable, &mutex->lock, to_milliseconds(seconds),
                                     0) != 0;
}

void lp_condition_wake_all(lp_condition *condition) {
    WakeAllConditionVariable(&condition->variable);
}

double lp_clock_seconds(void) {
    LARGE_INTEGER frequency, now;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&now);
    return (double)now.QuadPart / (double)frequency.QuadPart;
}

/* FILETIME counts 100 ns since 1601; 11644473600 s lie between that and 1970. */
static int64_t to_unix(FILETIME t) {
    uint64_t ticks = (uint64_t)t.dwHighDateTime << 32 | t.dwLowDateTime;
    return (int64_t)(ticks / 10000000u) - 11644473600;
}

int64_t lp_clock_unix(void) {
    FILETIME now;
    GetSystemTimeAsFileTime(&now);
    return to_unix(now);
}

int64_t lp_clock_local(void) {
    SYSTEMTIME utc, local;
    FILETIME file_time;
    GetSystemTime(&utc);
    if (!SystemTimeToTzSpecificLocalTime(NULL, &utc, &local) ||
        !SystemTimeToFileTime(&local, &file_time)) {
        return lp_clock_unix();
    }
    return to_unix(file_time);
}

void lp_sleep_seconds(double seconds) {
    if (seconds > 0) Sleep(to_milliseconds(seconds));
}

/* RtlGenRandom under its exported name: advapi32 is always linked, bcrypt is not. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

bool lp_random_bytes(void *out, size_t n) {
    char *at = out;
    while (n > 0) {
        ULONG part = n > 0x10000000u ? 0x10000000u : (ULONG)n;
        if (!SystemFunction036(at, part)) return false;
        at += part;
        n -= part;
    }
    return true;
}

uint64_t lp_random_seed(void) {
    uint64_t seed = 0;
    if (lp_random_bytes(&seed, sizeof seed)) return seed;
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return (uint64_t)now.QuadPart * 0x9E3779B97F4A7C15u ^ (uint64_t)GetCurrentProcessId() << 32;
}

void lp_cpu_relax(void) {
    YieldProcessor();
}

void lp_thread_yield(void) {
    SwitchToThread();
}
