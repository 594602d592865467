/* process.h - this process among others: arguments, signals, browser, directories, confinement.
 * Bodies: process_posix.c, process_windows.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_PROCESS_H
#define LP_PLATFORM_PROCESS_H

#include "base/status.h"
#include "base/text.h"

/* Sees to it that the main thread has the stack that it needs. False: it cannot; then standard
 * error says so in one line, which takes hardly any. Call first in main. */
bool lp_process_ensure_stack(void);

/* argv as UTF-8 (on Windows from the wide command line; elsewhere unchanged). Call early in
 * main. */
lp_code lp_process_arguments(int *argc, char ***argv, lp_error *err) LP_MUST_USE;

/* Ctrl-C and SIGTERM: the handler calls `stop`, which must be async-signal-safe. */
void lp_signal_install(void (*stop)(void *user, bool terminate), void *user);

/* Opens the system's browser. browser_prepare is called before lp_confine and forks a helper that
 * waits on a pipe (where the system needs one); browser_open sends it the URL. */
void lp_browser_prepare(void);
bool lp_browser_open(
    const char *url); /* false: no browser to be found; then the caller prints the URL */

/* Shows a text in a window, for someone who started the program without a terminal: on POSIX
 * desktops by their dialog programs, through the helper of lp_browser_prepare or one of its own.
 * Nothing where there is no display, and on Windows, where the console shows what was written. */
void lp_alert(const char *text);

/* Windows: the console's window was opened for this program alone (a double click) and closes when
 * it ends, and input and output are that window. Elsewhere false. Settled by the first call. */
bool lp_process_owns_console(void);

/* $XDG_STATE_HOME/llamapack or the like, created with mode 0700; LP_ERR_IO when there is none. */
lp_code lp_state_directory(lp_buf *out, lp_error *err) LP_MUST_USE;

/* Gives up every right that is no longer needed: on Linux with Landlock all files but the state
 * directory (if it exists by then), outgoing connections and new listeners. Call it before threads
 * are started. Says in a few words what holds now: "landlock (files, connections)" ... "none". */
const char *lp_confine(void);

#endif
