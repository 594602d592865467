/* terminal_posix.c - a terminal in raw mode on POSIX systems.
 *
 * Raw mode takes bytes as they are typed: no echo, no line buffer, Ctrl-C is the byte 3. Output
 * processing stays on, so that "\n" still starts a new line. The mode is left by
 * lp_terminal_raw(false), at exit, and by handlers through lp_terminal_restore; after a stop
 * (SIGSTOP, fg) SIGCONT enters it again. Input is awaited with select, since poll on terminals is
 * broken on macOS. A signal that arrives just before the wait would not interrupt it; handlers
 * therefore write to a pipe that is waited for, too.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

static struct termios before, raw;
static volatile sig_atomic_t raw_now;

bool lp_terminal_is(int fd) {
    return isatty(fd) == 1;
}

bool lp_stdin_is_piped(void) {
    struct stat info;
    return fstat(STDIN_FILENO, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISREG(info.st_mode));
}

bool lp_terminal_colors(int fd) {
    const char *off = getenv("NO_COLOR"); /* no-color.org: set and not empty */
    const char *term = getenv("TERM");
    if (off && *off) return false;
    return term && *term && strcmp(term, "dumb") != 0 && lp_terminal_is(fd);
}

/* A closed standard stream would become the number of the next file or socket that is opened, and
 * what is printed would go there. Its place is taken by something that can be neither read nor
 * written, as if it were still closed: a directory. */
static void plug_closed_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        int plug = open("/", O_RDONLY | O_DIRECTORY); /* the lowest free number, which is fd */
        if (plug > 2) close(plug);
    }
}

void lp_terminal_prepare(void) {
    plug_closed_streams();
    signal(SIGPIPE, SIG_IGN);
}

static struct winsize window(void) {
    static const int files[] = {STDOUT_FILENO, STDERR_FILENO, STDIN_FILENO};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct winsize size;
        if (ioctl(files[i], TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size;
    }
    return (struct winsize){.ws_row = 24, .ws_col = 80};
}

void lp_terminal_title(const char *title) {
    (void)title; /* the terminal is somebody else's */
}

int lp_terminal_columns(void) {
    return window().ws_col;
}

int lp_terminal_rows(void) {
    int rows = window().ws_row;
    return rows > 0 ? rows : 24;
}

void lp_terminal_restore(void) {
    if (!raw_now) return;
    raw_now = 0;
    int saved = errno;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    errno = saved;
}

static int wake_pipe[2] = {-1, -1};

static void open_wake_pipe(void) {
    int ends[2];
    if (wake_pipe[0] >= 0 || pipe(ends) != 0) return;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    }
    wake_pipe[1] = ends[1];
    wake_pipe[0] = ends[0];
}

void lp_terminal_wake(void) {
    int saved = errno;
    ssize_t done = wake_pipe[1] >= 0 ? write(wake_pipe[1], "", 1) : 0;
    (void)done;
    errno = saved;
}

/* SIGWINCH only has to end the wait for input. */
static void on_signal(int number) {
    int saved = errno;
    if (number == SIGCONT && raw_now) tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    errno = saved;
    lp_terminal_wake();
}

static void watch(int number) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

bool lp_terminal_raw(bool on) {
    static bool watched;
    if (!on) {
        lp_terminal_restore();
        return true;
    }
    if (raw_now) return true;
    const char *term = getenv("TERM");
    if (!lp_terminal_is(STDIN_FILENO) || (term && strcmp(term, "dumb") == 0)) return false;
    if (tcgetattr(STDIN_FILENO, &before) != 0) return false;
    raw = before;
    raw.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    raw.c_cflag |= CS8;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (!watched) {
        watched = true;
        atexit(lp_terminal_restore);
        open_wake_pipe();
        watch(SIGWINCH);
        watch(SIGCONT);
    }
    raw_now = 1;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) != 0) {
        raw_now = 0;
        return false;
    }
    return true;
}

int lp_terminal_read(void *data, size_t size, double seconds) {
    if (size == 0) return 0;
    if (size > 1 << 20) size = 1 << 20;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(STDIN_FILENO, &set);
    open_wake_pipe();
    int wake = wake_pipe[0] < FD_SETSIZE ? wake_pipe[0] : -1;
    if (wake >= 0) FD_SET(wake, &set);
    struct timeval limit, *wait = NULL;
    if (seconds >= 0) {
        if (seconds > 1e6) seconds = 1e6;
        limit.tv_sec = (time_t)seconds;
        limit.tv_usec = (suseconds_t)((seconds - (double)limit.tv_sec) * 1e6);
        wait = &limit;
    }
    int ready = select((wake > STDIN_FILENO ? wake : STDIN_FILENO) + 1, &set, NULL, NULL, wait);
    if (ready < 0) return errno == EINTR ? 0 : -1;
    if (ready == 0) return 0;
    if (wake >= 0 && FD_ISSET(wake, &set)) {
        char part[64];
        while (read(wake, part, sizeof part) > 0) {
        }
        if (!FD_ISSET(STDIN_FILENO, &set)) return 0;
    }
    ssize_t got = read(STDIN_FILENO, data, size);
    if (got < 0) return errno == EINTR || errno == EAGAIN ? 0 : -1;
    return got == 0 ? -1 : (int)got;
}

static const char *output_problem;

const char *lp_terminal_output_problem(void) {
    return output_problem;
}

bool lp_terminal_write(int fd, lp_str text) {
    while (text.len > 0) {
        ssize_t done = write(fd, text.data, text.len);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0 && errno == EAGAIN) {
            /* The other end made the shared description non-blocking: wait, do not drop. */
            struct pollfd item = {fd, POLLOUT, 0};
            if (poll(&item, 1, -1) < 0 && errno != EINTR) return false;
            continue;
        }
        if (done <= 0) {
            bool lost = done < 0 && errno != EPIPE;
            if (fd == STDOUT_FILENO && lost) output_problem = strerror(errno);
            return false;
        }
        text.data += done;
        text.len -= (size_t)done;
    }
    return true;
}
