/* bundle.c - the path from the program of a macOS application to its archive.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/bundle.h"

#include <string.h>

lp_code lp_bundle_payload(lp_buf *out, lp_str program, lp_error *err) {
    static const char folder[] = "/Contents/MacOS/", payload[] = "/Contents/Resources/model";
    size_t name = program.len, len = sizeof folder - 1;
    while (name > 0 && program.data[name - 1] != '/') name--;
    if (name < len || memcmp(program.data + name - len, folder, len) != 0) {
        return lp_fail(err, LP_ERR_IO, "this program is not part of an application");
    }
    lp_buf_add(out, program.data, name - len);
    lp_buf_add_text(out, payload);
    return lp_buf_check(out, err);
}
