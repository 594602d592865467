/* own_path_posix.c - where the running program lies: lp_own_path of file.h.
 *
 *   Linux     /proc/self/exe, which names the file even when it was started through a link; without
 *             /proc (a bare chroot) the name that the kernel was asked to execute, AT_EXECFN.
 *   macOS     _NSGetExecutablePath.
 *   FreeBSD   sysctl kern.proc.pathname; NetBSD: kern.proc_args.-1.pathname.
 *   OpenBSD   keeps no record: argv[0], a path if it has a slash, else the name of a program in
 *             PATH. The other systems fall back to it when they give no answer.
 *
 * argv[0] is remembered, and made absolute, when the program begins: later the working directory
 * may be another.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <mach-o/dyld.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#elif defined(__FreeBSD__) || defined(__NetBSD__)
#include <sys/sysctl.h>
#endif

#include "base/memory.h"
#include "platform/shared_posix.h"

/* ---- by argv[0] ---------------------------------------------------------------------------- */

static char *first_argument; /* resolved, realpath's own memory; NULL when it names no program */

static bool is_program(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

/* DIRECTORY/name, resolved, if that is a program; an empty directory in PATH is the working one. */
static char *program_in(const char *directory, size_t len, const char *name) {
    lp_buf path;
    lp_buf_init(&path, 0);
    if (len == 0)
        lp_buf_add_text(&path, ".");
    else
        lp_buf_add(&path, directory, len);
    lp_buf_add_text(&path, "/");
    lp_buf_add_text(&path, name);
    char *found = NULL;
    if (lp_buf_check(&path, NULL) == LP_OK && is_program(path.data)) {
        found = realpath(path.data, NULL);
    }
    lp_buf_free(&path);
    return found;
}

char *lp_find_program(const char *argv0, const char *path) {
    if (!argv0 || !*argv0) return NULL;
    if (strchr(argv0, '/')) return is_program(argv0) ? realpath(argv0, NULL) : NULL;
    char *found = NULL;
    for (const char *at = path; at && !found;) {
        const char *end = strchr(at, ':');
        found = program_in(at, end ? (size_t)(end - at) : strlen(at), argv0);
        at = end ? end + 1 : NULL;
    }
    return found;
}

void lp_remember_program(const char *argv0) {
    free(first_argument);
    first_argument = lp_find_program(argv0, getenv("PATH"));
}

static lp_code add_first_argument(lp_buf *out, lp_error *err) {
    if (!first_argument) {
        return lp_fail(err, LP_ERR_IO, "cannot find out where this program lies");
    }
    lp_buf_add_text(out, first_argument);
    return lp_buf_check(out, err);
}

/* ---- by asking the system ------------------------------------------------------------------ */

#if !defined(__OpenBSD__)

/* Appends the path without links, or as it is when it cannot be resolved. */
static lp_code add_resolved(lp_buf *out, const char *path, lp_error *err) {
    char *resolved = realpath(path, NULL);
    lp_buf_add_text(out, resolved ? resolved : path);
    free(resolved); /* realpath's own memory, not lp_alloc's */
    return lp_buf_check(out, err);
}

#endif

#if defined(__linux__)

lp_code lp_own_path(lp_buf *out, lp_error *err) {
    static const char link[] = "/proc/self/exe";
    char target[PATH_MAX + 1];
    ssize_t len = readlink(link, target, sizeof target - 1);
    if (len > 0 && (size_t)len < sizeof target - 1) {
        target[len] = '\0';
        /* A deleted or replaced file reads as "NAME (deleted)"; the link itself still opens it. */
        struct stat info;
        lp_buf_add_text(out, stat(target, &info) == 0 ? target : link);
        return lp_buf_check(out, err);
    }
    /* No /proc (a bare chroot): the kernel also leaves the name it was asked to execute. */
    const char *name = (const char *)getauxval(AT_EXECFN);
    if (!name) return add_first_argument(out, err);
    return add_resolved(out, name, err);
}

#elif defined(__APPLE__)

lp_code lp_own_path(lp_buf *out, lp_error *err) {
    char small[1024];
    uint32_t size = sizeof small;
    if (_NSGetExecutablePath(small, &size) == 0) return add_resolved(out, small, err);
    char *large = lp_alloc(1, (size_t)size + 1);
    if (!large) return lp_fail(err, LP_ERR_MEMORY, "no memory for this program's path");
    lp_code code = _NSGetExecutablePath(large, &size) == 0 ? add_resolved(out, large, err)
                                                           : add_first_argument(out, err);
    lp_free(large);
    return code;
}

#elif defined(__FreeBSD__) || defined(__NetBSD__)

lp_code lp_own_path(lp_buf *out, lp_error *err) {
#if defined(__FreeBSD__)
    int query[4] = {CTL_KERN, KERN_PROC, KERN_PROC_PATHNAME, -1};
#else
    int query[4] = {CTL_KERN, KERN_PROC_ARGS, -1, KERN_PROC_PATHNAME};
#endif
    char path[PATH_MAX + 1];
    size_t size = sizeof path - 1;
    if (sysctl(query, 4, path, &size, NULL, 0) != 0) return add_first_argument(out, err);
    path[size] = '\0';
    return add_resolved(out, path, err);
}

#else

lp_code lp_own_path(lp_buf *out, lp_error *err) {
    return add_first_argument(out, err);
}

#endif
