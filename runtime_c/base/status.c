/* status.c - formats the one line of an error and makes it safe to show.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Control bytes and ill-formed UTF-8 become '?'; a character cut by the buffer's end is dropped. */
static void make_showable(char *text) {
    size_t len = strlen(text);
    size_t in = 0;
    size_t out = 0;
    while (in < len) {
        uint32_t code_point = 0;
        bool ok = false;
        size_t used = lp_utf8_decode(text + in, len - in, &code_point, &ok);
        if (!ok && in + used == len && lp_utf8_incomplete_tail((lp_str){text, len}) > 0) break;
        bool control = code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0) ||
                       (code_point >= 0x202A && code_point <= 0x202E) ||
                       (code_point >= 0x2066 && code_point <= 0x2069);
        if (!ok || control) {
            text[out++] = '?';
        } else {
            memmove(text + out, text + in, used);
            out += used;
        }
        in += used;
    }
    text[out] = '\0';
}

lp_code lp_fail(lp_error *err, lp_code code, const char *format, ...) {
    if (err == NULL) return code;
    va_list args;
    va_start(args, format);
    int written = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (written < 0) err->text[0] = '\0';
    err->code = code;
    make_showable(err->text);
    return code;
}

lp_code lp_error_prefix(lp_error *err, const char *prefix) {
    if (err == NULL) return LP_OK;
    char joined[sizeof err->text];
    int written = snprintf(joined, sizeof joined, "%s: %s", prefix, err->text);
    if (written >= 0) memcpy(err->text, joined, sizeof joined);
    make_showable(err->text);
    return err->code;
}
