/* slice_windows.c - nothing: Windows starts a universal file itself and unpacks no runtime.
 * SPDX-License-Identifier: Apache-2.0 */
#include "platform/slice.h"

lp_code lp_slice_resolve(lp_buf *out, const char *path, lp_error *err) {
    lp_buf_add_text(out, path);
    return lp_buf_check(out, err);
}

void lp_slice_remove(const char *path) {
    (void)path;
}

void lp_slice_rename(const char *name) {
    (void)name;
}
