/* browser_posix.c - opens the system's browser, or shows an error, from a helper process:
 * lp_browser_* and lp_alert of process.h.
 *
 * The helper is forked early, before this process gives up its rights, and waits on a pipe. It
 * holds nothing else of ours: its own session (a Ctrl-C here does not end the browser), no
 * descriptors but the pipe (no socket stays bound, no output pipe stays open because of it). It is
 * forked twice, so that no zombie is left. When the pipe closes without a word, it ends; and it
 * does not wait for programs that stay, such as a browser started by us.
 *
 * What is run, the first that does not fail: the programs of $BROWSER (separated by ':', "%s" being
 * the URL), then `open` on macOS, xdg-open and its kind elsewhere; these only when a display is
 * there (DISPLAY, WAYLAND_DISPLAY) or Windows stands behind (WSL). Without one that works, and for
 * errors, the dialog programs of the desktops. No shell sees the URL or the text.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "platform/thread.h"

enum { MOST_URL = 2048, MOST_WORDS = 16, MOST_COMMANDS = 16, MOST_TEXT = 4096 };

/* A program that still runs after this has not failed. */
#define WAIT_SECONDS 10.0

/* Commands to try, as NUL-terminated vectors into `text`; "%s" stands for the URL. */
typedef struct commands {
    char text[MOST_TEXT]; /* a private copy of $BROWSER, cut into words */
    const char *words[MOST_COMMANDS][MOST_WORDS];
    size_t n;
} commands;

static commands list;
static int pipe_to_helper = -1;

static bool is_program(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

/* Is there such a program, by its path or in PATH? */
static bool can_find(const char *name) {
    if (strchr(name, '/')) return is_program(name);
    const char *path = getenv("PATH");
    char full[1024];
    while (path && *path) {
        const char *end = strchr(path, ':');
        size_t len = end ? (size_t)(end - path) : strlen(path);
        if (len > 0 && len + 1 + strlen(name) < sizeof full) {
            memcpy(full, path, len);
            full[len] = '/';
            memcpy(full + len + 1, name, strlen(name) + 1);
            if (is_program(full)) return true;
        }
        path = end ? end + 1 : NULL;
    }
    return false;
}

static void add_command(const char *name, const char *argument) {
    if (list.n == MOST_COMMANDS || !can_find(name)) return;
    const char **words = list.words[list.n];
    size_t n = 0;
    words[n++] = name;
    if (argument) words[n++] = argument;
    words[n++] = "%s";
    words[n] = NULL;
    list.n++;
}

static void add_from_environment(void) {
    const char *browser = getenv("BROWSER");
    if (!browser || strlen(browser) >= sizeof list.text) return;
    memcpy(list.text, browser, strlen(browser) + 1);
    char *entry_state = NULL;
    for (char *entry = strtok_r(list.text, ":", &entry_state); entry && list.n < MOST_COMMANDS;
         entry = strtok_r(NULL, ":", &entry_state)) {
        const char **words = list.words[list.n];
        size_t n = 0;
        bool has_url = false;
        char *word_state = NULL;
        for (char *word = strtok_r(entry, " ", &word_state); word && n + 2 < MOST_WORDS;
             word = strtok_r(NULL, " ", &word_state)) {
            has_url = has_url || strcmp(word, "%s") == 0;
            words[n++] = word;
        }
        if (n == 0 || !can_find(words[0])) continue;
        if (!has_url) words[n++] = "%s";
        words[n] = NULL;
        list.n++;
    }
}

static const char *const dialogs[][8] = {
#if defined(__APPLE__)
    {"/usr/bin/osascript", "-e", "on run words", "-e", "display alert (item 1 of words)", "-e",
     "end run", "%s"},
#else
    {"zenity", "--error", "--no-markup", "--no-wrap", "--text", "%s", NULL},
    {"kdialog", "--error", "%s", NULL},
    {"xmessage", "-center", "%s", NULL},
    {"notify-send", "%s", NULL},
#endif
};

#if !defined(__APPLE__)
static bool is_set(const char *name) {
    const char *value = getenv(name);
    return value && *value;
}

/* Is there someone who sees windows? */
static bool has_display(void) {
    return is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
}

static void collect(void) {
    list.n = 0;
    add_from_environment();
    if (is_set("WSL_DISTRO_NAME")) {
        add_command("wslview", NULL);
        add_command("explorer.exe", NULL);
    }
    if (!has_display()) return;
    add_command("xdg-open", NULL);
    add_command("gio", "open");
    add_command("sensible-browser", NULL);
    add_command("x-www-browser", NULL);
    add_command("firefox", NULL);
    add_command("chromium", NULL);
    add_command("google-chrome", NULL);
}
#else
static bool has_display(void) {
    return true;
}

static void collect(void) {
    list.n = 0;
    add_from_environment();
    add_command("/usr/bin/open", NULL);
}
#endif

/* ---- the helper ---------------------------------------------------------------------------- */

/* Runs one command; true when it started and did not report a failure. */
static bool run_command(const char *const *words, char *url) {
    char *arguments[MOST_WORDS + 1];
    size_t n = 0;
    for (; n < MOST_WORDS && words[n]; n++) {
        arguments[n] = strcmp(words[n], "%s") == 0 ? url : (char *)(uintptr_t)words[n];
    }
    arguments[n] = NULL;
    pid_t child = fork();
    if (child == 0) {
        execvp(arguments[0], arguments);
        _exit(127);
    }
    if (child < 0) return false;
    int status = 0;
    double end = lp_clock_seconds() + WAIT_SECONDS;
    for (;;) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        if (ended == child) break;
        if ((ended < 0 && errno != EINTR) || lp_clock_seconds() > end) return true;
        lp_sleep_seconds(0.05);
    }
    /* Windows' explorer answers 1 for success. */
    return WIFEXITED(status) &&
           (WEXITSTATUS(status) == 0 ||
            (WEXITSTATUS(status) == 1 && strcmp(words[0], "explorer.exe") == 0));
}

static void leave_parent(int input) {
    setsid();
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2 && null >= 0; fd++) dup2(null, fd);
    long most = sysconf(_SC_OPEN_MAX);
    if (most < 0 || most > 4096) most = 4096;
    for (int fd = 3; fd < (int)most; fd++) {
        if (fd != input) close(fd);
    }
    for (int number = 1; number < NSIG; number++) {
        if (number != SIGKILL && number != SIGSTOP) signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void show(char *text) {
    if (!has_display()) return;
    for (size_t i = 0; i < sizeof dialogs / sizeof *dialogs; i++) {
        const char *words[MOST_WORDS] = {NULL};
        for (size_t k = 0; k < sizeof dialogs[i] / sizeof *dialogs[i]; k++)
            words[k] = dialogs[i][k];
        if (can_find(words[0]) && run_command(words, text)) return;
    }
}

static void open_url(char *url) {
    for (size_t i = 0; i < list.n; i++) {
        if (run_command(list.words[i], url)) return;
    }
    char text[MOST_URL + 100];
    (void)snprintf(text, sizeof text, "The chat is ready at %s - open that address in a browser.",
                   url);
    show(text);
}

/* What comes through the pipe up to its end is an address, or a text for people. */
static _Noreturn void help(int input) {
    leave_parent(input);
    char text[MOST_URL + 1];
    size_t len = 0;
    while (len < MOST_URL) {
        ssize_t got = read(input, text + len, MOST_URL - len);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        len += (size_t)got;
    }
    close(input);
    text[len] = '\0';
    if (strncmp(text, "http://", 7) == 0)
        open_url(text);
    else if (len > 0)
        show(text);
    _exit(0);
}

void lp_browser_prepare(void) {
    if (pipe_to_helper >= 0) return;
    collect();
    int ends[2];
    if ((list.n == 0 && !has_display()) || pipe(ends) != 0) return;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    pid_t child = fork();
    if (child == 0) {
        pid_t helper = fork();
        if (helper == 0) help(ends[0]);
        _exit(helper < 0 ? 1 : 0);
    }
    close(ends[0]);
    int status = 1;
    if (child > 0) {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
    }
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        pipe_to_helper = ends[1];
    else
        close(ends[1]);
}

/* Gives the helper its text, which ends its wait. */
static bool tell(const char *text, size_t len) {
    size_t at = 0;
    while (at < len) {
        ssize_t done = write(pipe_to_helper, text + at, len - at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) break;
        at += (size_t)done;
    }
    close(pipe_to_helper);
    pipe_to_helper = -1;
    return at == len;
}

/* Only an address of our own making: http, printable ASCII, no blanks. */
static bool is_plain(const char *url, size_t len) {
    if (len == 0 || len >= MOST_URL || strncmp(url, "http://", 7) != 0) return false;
    for (size_t i = 0; i < len; i++) {
        if (url[i] <= ' ' || url[i] > '~') return false;
    }
    return true;
}

bool lp_browser_open(const char *url) {
    size_t len = strlen(url);
    if (pipe_to_helper < 0 || list.n == 0 || !is_plain(url, len)) return false;
    return tell(url, len);
}

void lp_alert(const char *text) {
    if (!has_display()) return;
    lp_browser_prepare();
    size_t len = strlen(text);
    if (pipe_to_helper >= 0 && strncmp(text, "http://", 7) != 0)
        (void)tell(text, len < MOST_URL ? len : MOST_URL);
}
