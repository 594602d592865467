/* shared_posix.h - what the POSIX bodies share: limits of Linux control groups, small files.
 *
 * Both hierarchies are read: v2 (one tree, "0::/path") and v1 (a tree per controller). A limit set
 * on any ancestor counts, so every directory from the process's own group up to the mount is
 * visited. Elsewhere than on Linux nothing is limited. Private to platform/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_SHARED_POSIX_H
#define LP_PLATFORM_SHARED_POSIX_H

#include "base/text.h"

/* Processors' worth of time the quota allows; 0 = no quota. */
double lp_cgroup_cpus(void);
/* Bytes of memory left below the tightest limit (UINT64_MAX = none), and that limit. */
uint64_t lp_cgroup_memory_left(void);
uint64_t lp_cgroup_memory_limit(void);

/* From now on lp_memory_available and lp_memory_total give what they give now: the files they read
 * are about to get out of reach. */
void lp_memory_remember(void);

/* Ends a wait for input, the running or the next one. For signal handlers. */
void lp_terminal_wake(void);

/* The path of the program that a shell starts as argv0 with this PATH, resolved, to be given to
 * free; NULL when there is none. */
char *lp_find_program(const char *argv0, const char *path);
/* Keeps what argv[0] and $PATH name now, for lp_own_path. */
void lp_remember_program(const char *argv0);

/* Where lp_state_directory would be, made or not. */
lp_code lp_state_path(lp_buf *out, lp_error *err) LP_MUST_USE;

/* Reads a small text file such as those in /proc and /sys; false when it cannot be read. */
bool lp_read_small(const char *path, char *out, size_t size);
/* Decimal digits at *at (blanks before them skipped), moving *at behind them; false if none. */
bool lp_read_number(const char **at, uint64_t *out);

#endif
