/* process_posix.c - this process among others on POSIX systems: signals, browser, directories.
 * The browser's helper process stands in browser_posix.c.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "platform/shared_posix.h"

#if defined(__linux__)
enum { LEAST_STACK = 96 << 10, WANTED_STACK = 8 << 20 };

/* Linux compares with the soft limit whenever the stack grows, so raising it now is enough. */
bool lp_process_ensure_stack(void) {
    static const char too_small[] =
        "error: the limit on the stack is under 96 KiB (ulimit -s); raise it to 8192 KiB\n";
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= WANTED_STACK) return true;
    limit.rlim_cur = limit.rlim_max < WANTED_STACK ? limit.rlim_max : WANTED_STACK;
    (void)!setrlimit(RLIMIT_STACK, &limit);
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= LEAST_STACK) return true;
    (void)!write(STDERR_FILENO, too_small, sizeof too_small - 1);
    return false;
}
#else
bool lp_process_ensure_stack(void) {
    return true;
}
#endif

lp_code lp_process_arguments(int *argc, char ***argv, lp_error *err) {
    (void)err;
    lp_remember_program(*argc > 0 ? (*argv)[0] : NULL);
    return LP_OK;
}

static void (*volatile stop_function)(void *user, bool terminate);
static void *volatile stop_user;

static void on_signal(int number) {
    int saved = errno;
    if (stop_function) stop_function(stop_user, number != SIGINT);
    lp_terminal_wake();
    errno = saved;
}

void lp_signal_install(void (*stop)(void *user, bool terminate), void *user) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    stop_user = user;
    stop_function = stop;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        /* Without SA_RESTART: a wait for input must end, so that the caller can look. */
        struct sigaction action, old;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_signal;
        sigemptyset(&action.sa_mask);
        /* What our starter chose to ignore (nohup, a background job) stays ignored. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;
        sigaction(numbers[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

bool lp_process_owns_console(void) {
    return false;
}

/* Makes every missing directory of path (which starts with '/'). */
static bool make_all(char *path) {
    for (char *at = path + 1;; at++) {
        if (*at != '/' && *at != '\0') continue;
        char end = *at;
        *at = '\0';
        bool made = mkdir(path, 0700) == 0 || errno == EEXIST || errno == EISDIR;
        struct stat info;
        /* Read-only file systems answer EROFS for directories that exist. */
        if (!made) made = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
        *at = end;
        if (!made) return false;
        if (end == '\0') return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    }
}

lp_code lp_state_path(lp_buf *out, lp_error *err) {
    const char *home = getenv("HOME");
#if defined(__APPLE__)
    static const char below_home[] = "/Library/Application Support/llamapack";
#else
    static const char below_home[] = "/.local/state/llamapack";
    /* The XDG base directory specification: relative paths are to be ignored. */
    const char *state = getenv("XDG_STATE_HOME");
    if (state && *state == '/') {
        lp_buf_add_text(out, state);
        lp_buf_add_text(out, "/llamapack");
    } else
#endif
    if (home && *home == '/') {
        lp_buf_add_text(out, home);
        lp_buf_add_text(out, below_home);
    } else {
        return lp_fail(err, LP_ERR_IO, "no home directory: HOME is not set");
    }
    return lp_buf_check(out, err);
}

lp_code lp_state_directory(lp_buf *out, lp_error *err) {
    lp_buf path;
    lp_buf_init(&path, 0);
    lp_code code = lp_state_path(&path, err);
    if (code == LP_OK && !make_all(path.data)) {
        code = lp_fail(err, LP_ERR_IO, "%s: %s", path.data, strerror(errno));
    }
    if (code == LP_OK) {
        lp_buf_add_str(out, lp_buf_str(&path));
        code = lp_buf_check(out, err);
    }
    lp_buf_free(&path);
    return code;
}
