/* file_posix.c - files on POSIX systems: mapped, read whole, written atomically.
 *
 * The guard: a page of a mapping whose file was truncated or whose medium is gone raises SIGBUS.
 * Every open mapping stands in a small table, so that the handler can tell such a fault (one line,
 * exit 70, EX_SOFTWARE of sysexits.h) from a bug of ours (the default action, a core dump).
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/memory.h"
#include "platform/terminal.h"

/* ---- mappings ------------------------------------------------------------------------------ */

/* Read by a signal handler, hence atomics; a slot is free while begin is 0. */
typedef struct guarded {
    atomic_uintptr_t begin;
    atomic_uintptr_t end;
    _Atomic(const char *) path; /* owned by the lp_map's handle */
} guarded;

enum { MOST_GUARDED = 32 };
static guarded guards[MOST_GUARDED];

static void guard_add(const void *data, size_t size, const char *path) {
    for (size_t i = 0; i < MOST_GUARDED; i++) {
        uintptr_t free_slot = 0;
        uintptr_t begin = (uintptr_t)data;
        if (atomic_compare_exchange_strong(&guards[i].begin, &free_slot, begin)) {
            atomic_store(&guards[i].path, path);
            atomic_store(&guards[i].end, begin + size);
            return;
        }
    }
}

static void guard_remove(const void *data) {
    for (size_t i = 0; i < MOST_GUARDED; i++) {
        if (atomic_load(&guards[i].begin) == (uintptr_t)data) {
            atomic_store(&guards[i].end, 0);
            atomic_store(&guards[i].path, NULL);
            atomic_store(&guards[i].begin, 0);
            return;
        }
    }
}

static void say(const char *text) {
    ssize_t done = write(STDERR_FILENO, text, strlen(text));
    (void)done;
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (size_t i = 0; i < MOST_GUARDED; i++) {
        if (at >= atomic_load(&guards[i].begin) && at < atomic_load(&guards[i].end)) {
            const char *path = atomic_load(&guards[i].path);
            lp_terminal_restore();
            say("error: ");
            say(path ? path : "a mapped file");
            say(" can no longer be read: it was changed or removed while in use\n");
            _exit(70);
        }
    }
    /* Not one of our files: the default action, once this handler has returned. */
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void lp_map_guard_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

static lp_code open_regular(int *file, uint64_t *size, const char *path, lp_error *err) {
    do {
        *file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    } while (*file < 0 && errno == EINTR);
    if (*file < 0) return lp_fail(err, LP_ERR_IO, "%s: %s", path, strerror(errno));
    struct stat info;
    const char *reason = NULL;
    if (fstat(*file, &info) != 0)
        reason = strerror(errno);
    else if (S_ISDIR(info.st_mode))
        reason = "is a directory";
    else if (!S_ISREG(info.st_mode))
        reason = "is not a regular file";
    else if (info.st_size <= 0)
        reason = "is empty";
    if (reason) {
        lp_code code = lp_fail(err, LP_ERR_IO, "%s: %s", path, reason);
        close(*file);
        return code;
    }
    *size = (uint64_t)info.st_size;
    return LP_OK;
}

lp_code lp_map_open(lp_map *map, const char *path, lp_error *err) {
    memset(map, 0, sizeof *map);
    int file;
    uint64_t size;
    LP_TRY(open_regular(&file, &size, path, err));
    size_t name = strlen(path) + 1;
    char *copy = lp_alloc(1, name);
    if (!copy) {
        close(file);
        return lp_fail(err, LP_ERR_MEMORY, "%s: no memory", path);
    }
    memcpy(copy, path, name);
    void *data = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, file, 0);
    int reason = errno;
    close(file);
    if (data == MAP_FAILED) {
        lp_free(copy);
#if defined(RLIMIT_AS) /* OpenBSD has none */
        struct rlimit limit;
        if (reason == ENOMEM && getrlimit(RLIMIT_AS, &limit) == 0 &&
            (uint64_t)limit.rlim_cur < size) {
            return lp_fail(err, LP_ERR_MEMORY,
                           "%s: needs %llu MiB of address space, and the limit is %llu MiB "
                           "(ulimit -v)",
                           path, (unsigned long long)(size >> 20),
                           (unsigned long long)(limit.rlim_cur >> 20));
        }
#endif
        return lp_fail(err, LP_ERR_IO, "%s: cannot map %llu bytes: %s", path,
                       (unsigned long long)size, strerror(reason));
    }
    map->data = data;
    map->size = (size_t)size;
    map->handle = copy;
    guard_add(data, map->size, copy);
    return LP_OK;
}

void lp_map_close(lp_map *map) {
    if (map->data) {
        guard_remove(map->data);
        munmap((void *)(uintptr_t)map->data, map->size);
    }
    lp_free(map->handle);
    memset(map, 0, sizeof *map);
}

/* The start of the page that a part begins in, and `size` from there on. */
static void *whole_pages(const uint8_t *part, size_t *size) {
    long page = sysconf(_SC_PAGESIZE);
    size_t skew = page > 0 ? (uintptr_t)part % (size_t)page : 0;
    *size += skew;
    return (void *)((uintptr_t)part - skew);
}

void lp_map_will_need(const lp_map *map, size_t offset, size_t size) {
    if (!map->data || offset >= map->size) return;
    if (size > map->size - offset) size = map->size - offset;
    void *begin = whole_pages(map->data + offset, &size);
    posix_madvise(begin, size, POSIX_MADV_WILLNEED);
}

void lp_map_large_pages(const uint8_t *part, size_t size) {
#if defined(__linux__)
    void *begin = whole_pages(part, &size);
    (void)madvise(begin, size, MADV_HUGEPAGE);
#else
    (void)part, (void)size;
#endif
}

/* ---- whole files --------------------------------------------------------------------------- */

/* Reads to the end of the file or one byte beyond the limit, whichever comes first. */
static lp_code read_all(lp_buf *out, int file, const char *path, size_t limit, lp_error *err) {
    char part[16384];
    size_t total = 0;
    for (;;) {
        ssize_t got = read(file, part, sizeof part);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return lp_fail(err, LP_ERR_IO, "%s: %s", path, strerror(errno));
        if (got == 0) return lp_buf_check(out, err);
        total += (size_t)got;
        if (total > limit) {
            return lp_fail(err, LP_ERR_LIMIT, "%s: longer than the limit of %llu bytes", path,
                           (unsigned long long)limit);
        }
        lp_buf_add(out, part, (size_t)got);
        LP_TRY(lp_buf_check(out, err));
    }
}

lp_code lp_file_read(lp_buf *out, const char *path, size_t limit, lp_error *err) {
    if (strcmp(path, "-") == 0) return read_all(out, STDIN_FILENO, "standard input", limit, err);
    int file;
    do {
        file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    } while (file < 0 && errno == EINTR);
    if (file < 0) return lp_fail(err, LP_ERR_IO, "%s: %s", path, strerror(errno));
    lp_code code = read_all(out, file, path, limit, err);
    close(file);
    return code;
}

static bool write_all(int file, lp_str data) {
    while (data.len > 0) {
        ssize_t done = write(file, data.data, data.len);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        data.data += done;
        data.len -= (size_t)done;
    }
    return true;
}

lp_code lp_file_write_private(const char *path, lp_str data, lp_error *err) {
    lp_buf temporary;
    lp_buf_init(&temporary, 0);
    lp_buf_add_format(&temporary, "%s.lp-tmp-%ld", path, (long)getpid());
    lp_code code = lp_buf_check(&temporary, err);
    if (code == LP_OK) {
        /* A leftover of a killed process with our number: O_EXCL then never succeeds. */
        unlink(temporary.data);
        int file = open(temporary.data, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        bool done = false;
        int reason = errno;
        if (file >= 0) {
            done = write_all(file, data) && fsync(file) == 0;
            reason = errno;
            if (close(file) != 0 && done) {
                done = false;
                reason = errno;
            }
            if (done && rename(temporary.data, path) != 0) {
                done = false;
                reason = errno;
            }
            if (!done) unlink(temporary.data);
        }
        if (!done) code = lp_fail(err, LP_ERR_IO, "%s: %s", path, strerror(reason));
    }
    lp_buf_free(&temporary);
    return code;
}

/* ---- paths --------------------------------------------------------------------------------- */

const char *lp_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

lp_code lp_path_beside(lp_buf *out, const char *path, lp_str name, bool real, lp_error *err) {
    char *resolved = real ? realpath(path, NULL) : NULL;
    if (real && !resolved) return lp_fail(err, LP_ERR_IO, "%s: %s", path, strerror(errno));
    const char *whole = real ? resolved : path;
    lp_buf_add(out, whole, (size_t)(lp_path_name(whole) - whole));
    free(resolved); /* realpath's own memory, not lp_alloc's */
    lp_buf_add_str(out, name);
    return lp_buf_check(out, err);
}

bool lp_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}
