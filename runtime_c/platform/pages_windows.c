/* pages_windows.c - large anonymous memory, and how much of it there is, on Windows.
 *
 * Windows charges committed memory at once against the page file, touched or not, and reserved
 * memory cannot be touched. So a reservation is made first, and a vectored handler commits it in
 * steps of 1 MiB as faults arrive: the cache sized for the longest context then costs what is used.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/file.h"

#include <psapi.h>

enum { MOST_RESERVED = 64, STEP = 1 << 20 };

typedef struct reserved {
    char *begin; /* NULL = free slot */
    size_t bytes;
} reserved;

static reserved table[MOST_RESERVED];
static SRWLOCK lock = SRWLOCK_INIT;
static PVOID handler;

static void commit(char *at, size_t bytes) {
    if (VirtualAlloc(at, bytes, MEM_COMMIT, PAGE_READWRITE)) return;
    static const char text[] = "error: out of memory\r\n";
    DWORD written;
    WriteFile(GetStdHandle(STD_ERROR_HANDLE), text, sizeof text - 1, &written, NULL);
    TerminateProcess(GetCurrentProcess(), 70);
}

/* Commits the step around a touched address. Two threads may fault on one step: committing what is
 * committed already is allowed. */
static bool commit_at(const char *at) {
    bool done = false;
    AcquireSRWLockShared(&lock);
    for (size_t i = 0; i < MOST_RESERVED; i++) {
        const reserved *r = &table[i];
        if (!r->begin || at < r->begin || at >= r->begin + r->bytes) continue;
        size_t offset = (size_t)(at - r->begin) / STEP * STEP;
        size_t bytes = r->bytes - offset < STEP ? r->bytes - offset : STEP;
        commit(r->begin + offset, bytes);
        done = true;
        break;
    }
    ReleaseSRWLockShared(&lock);
    return done;
}

static LONG CALLBACK on_fault(EXCEPTION_POINTERS *info) {
    const EXCEPTION_RECORD *record = info->ExceptionRecord;
    if (record->ExceptionCode != (DWORD)EXCEPTION_ACCESS_VIOLATION ||
        record->NumberParameters < 2) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    const char *at = (const char *)record->ExceptionInformation[1];
    return commit_at(at) ? EXCEPTION_CONTINUE_EXECUTION : EXCEPTION_CONTINUE_SEARCH;
}

void *lp_pages_reserve(size_t bytes) {
    if (bytes == 0) return NULL;
    char *pages = VirtualAlloc(NULL, bytes, MEM_RESERVE, PAGE_READWRITE);
    if (!pages) return NULL;
    bool entered = false;
    AcquireSRWLockExclusive(&lock);
    if (!handler) handler = AddVectoredExceptionHandler(1, on_fault);
    for (size_t i = 0; handler && i < MOST_RESERVED && !entered; i++) {
        if (table[i].begin) continue;
        table[i].begin = pages;
        table[i].bytes = bytes;
        entered = true;
    }
    ReleaseSRWLockExclusive(&lock);
    /* No slot left: then the whole is committed now. */
    if (!entered && !VirtualAlloc(pages, bytes, MEM_COMMIT, PAGE_READWRITE)) {
        VirtualFree(pages, 0, MEM_RELEASE);
        return NULL;
    }
    return pages;
}

void lp_pages_commit(void *part, size_t bytes) {
    if (bytes) commit(part, bytes);
}

void lp_pages_release(void *pages, size_t bytes) {
    (void)bytes;
    if (!pages) return;
    AcquireSRWLockExclusive(&lock);
    for (size_t i = 0; i < MOST_RESERVED; i++) {
        if (table[i].begin == pages) table[i].begin = NULL;
    }
    ReleaseSRWLockExclusive(&lock);
    VirtualFree(pages, 0, MEM_RELEASE);
}

static bool machine(MEMORYSTATUSEX *info) {
    info->dwLength = sizeof *info;
    return GlobalMemoryStatusEx(info) != 0;
}

uint64_t lp_memory_available(void) {
    MEMORYSTATUSEX info;
    return machine(&info) ? info.ullAvailPhys : 0;
}

uint64_t lp_memory_total(void) {
    MEMORYSTATUSEX info;
    return machine(&info) ? info.ullTotalPhys : 0;
}

uint64_t lp_memory_peak(void) {
    /* K32GetProcessMemoryInfo lives in kernel32; the name without K32 would need psapi.dll. */
    PROCESS_MEMORY_COUNTERS info;
    if (!K32GetProcessMemoryInfo(GetCurrentProcess(), &info, sizeof info)) return 0;
    return info.PeakPagefileUsage; /* committed bytes: anonymous memory only */
}
