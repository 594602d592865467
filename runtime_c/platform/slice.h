/* slice.h - what only a runtime that a universal file unpacked needs of the system.
 *
 * Bodies: slice_posix.c, slice_windows.c (Windows starts the universal file itself, so nothing of
 * this happens there). SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_SLICE_H
#define LP_PLATFORM_SLICE_H

#include "base/status.h"
#include "base/text.h"

/* Absolute and without links, as lp_own_path is; LP_ERR_IO when there is no such file. */
lp_code lp_slice_resolve(lp_buf *out, const char *path, lp_error *err) LP_MUST_USE;

/* Removes the running executable and its directory, if path is that executable and the directory
 * is named as the script names private ones, "llamapack.X"; else does nothing. */
void lp_slice_remove(const char *path);

/* Shows the process under this name where the system can (Linux: 15 bytes), not under the one of
 * the unpacked file. */
void lp_slice_rename(const char *name);

#endif
