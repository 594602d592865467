/* terminal.h - a terminal in raw mode, its size, its bytes. Bodies: terminal_posix.c,
 * terminal_windows.c. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_TERMINAL_H
#define LP_PLATFORM_TERMINAL_H

#include "base/status.h"
#include "base/text.h"

bool lp_terminal_is(int fd);     /* 0, 1, 2 */
bool lp_stdin_is_piped(void);    /* a pipe or a file: something to read up to its end */
bool lp_terminal_colors(int fd); /* a terminal, not TERM=dumb, no NO_COLOR */
void lp_terminal_prepare(void);  /* UTF-8 output and escape sequences on Windows; once */
/* Names the console's window if it is ours alone (lp_process_owns_console); else nothing. */
void lp_terminal_title(const char *title);
int lp_terminal_columns(void); /* 80 when unknown */
int lp_terminal_rows(void);    /* 24 when unknown */
/* Raw mode: no echo, bytes as typed, Ctrl-C and Ctrl-Z are the bytes 3 and 26. False: not possible.
 * Left again at exit; a handler that ends the process calls lp_terminal_restore, which may be
 * called from signal handlers. */
bool lp_terminal_raw(bool on);
void lp_terminal_restore(void);
/* Next input bytes in raw mode (UTF-8). Waits up to `seconds` (< 0: no limit). Returns bytes read,
 * 0 on time-out or interrupted by a signal, -1 at the end of input. */
int lp_terminal_read(void *data, size_t size, double seconds);
/* Writes all of it; false when that is not possible. Never stops in the middle of EINTR. */
bool lp_terminal_write(int fd, lp_str text);
/* Why writing to standard output failed, in words; NULL: it did not, or its reader went away. */
const char *lp_terminal_output_problem(void);

#endif
