/* slice_posix.c - an unpacked runtime among the files and processes of a POSIX system.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/slice.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include "platform/file.h"

lp_code lp_slice_resolve(lp_buf *out, const char *path, lp_error *err) {
    char *resolved = realpath(path, NULL);
    if (!resolved) return lp_fail(err, LP_ERR_IO, "%s: %s", path, strerror(errno));
    lp_buf_add_text(out, resolved);
    free(resolved); /* realpath's own memory, not lp_alloc's */
    return lp_buf_check(out, err);
}

/* Is this name ours, and its directory a private one of the script? */
static bool is_private_copy(const char *path) {
    static const char prefix[] = "/llamapack.";
    struct stat named, own;
    lp_buf running;
    lp_buf_init(&running, 0);
    bool same = lp_own_path(&running, NULL) == LP_OK && lstat(path, &named) == 0 &&
                stat(running.data, &own) == 0 && S_ISREG(named.st_mode) &&
                named.st_dev == own.st_dev && named.st_ino == own.st_ino;
    lp_buf_free(&running);
    const char *name = strrchr(path, '/');
    if (!same || path[0] != '/' || name == path) return false;
    const char *folder = name - 1;
    while (folder > path && *folder != '/') folder--;
    return strncmp(folder, prefix, sizeof prefix - 1) == 0;
}

void lp_slice_remove(const char *path) {
    if (!is_private_copy(path) || unlink(path) != 0) return;
    lp_buf folder;
    lp_buf_init(&folder, 0);
    lp_buf_add(&folder, path, (size_t)(strrchr(path, '/') - path));
    if (lp_buf_check(&folder, NULL) == LP_OK) (void)rmdir(folder.data);
    lp_buf_free(&folder);
}

void lp_slice_rename(const char *name) {
#if defined(__linux__)
    (void)prctl(PR_SET_NAME, name, 0, 0, 0);
#else
    (void)name;
#endif
}
