/* print.c - standard output and standard error, cleaned.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/print.h"

#include <stdio.h>

#include "base/utf8.h"
#include "platform/terminal.h"

enum { LINE = 2048 };

static bool write_clean(int fd, lp_str text) {
    lp_buf clean;
    lp_buf_init(&clean, 0);
    lp_utf8_add_printable(&clean, text);
    bool ok = !clean.failed && lp_terminal_write(fd, lp_buf_str(&clean));
    lp_buf_free(&clean);
    return ok;
}

/* Without allocating, so that "out of memory" can be said, too: an error's text is clean already.
 */
void lp_print_error(const lp_error *err) {
    char line[sizeof err->text + 16];
    int len = snprintf(line, sizeof line, "error: %s\n", err->text);
    if (len > 0) (void)lp_terminal_write(2, (lp_str){line, (size_t)len});
}

static void print_line(const char *prefix, const char *format, va_list args) {
    char line[LINE];
    int len = vsnprintf(line, sizeof line, format, args);
    if (len < 0) return;
    if (len >= (int)sizeof line) len = (int)sizeof line - 1;
    (void)lp_terminal_write(2, lp_str_from(prefix));
    (void)write_clean(2, (lp_str){line, (size_t)len});
    (void)lp_terminal_write(2, lp_str_from("\n"));
}

void lp_print_note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line("note: ", format, args);
    va_end(args);
}

void lp_print_status(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line("", format, args);
    va_end(args);
}

bool lp_print_text(lp_str text) {
    return write_clean(1, text);
}

bool lp_print_format(const char *format, ...) {
    char line[LINE];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (len < 0) return false;
    if (len >= (int)sizeof line) len = (int)sizeof line - 1;
    return write_clean(1, (lp_str){line, (size_t)len});
}

bool lp_print_raw(const char *c_string) {
    return lp_terminal_write(1, lp_str_from(c_string));
}

const char *lp_style_code(lp_style style) {
    static const char *const codes[] = {"\x1b[0m", "\x1b[2m", "\x1b[1m", "\x1b[36m"};
    return lp_terminal_colors(1) ? codes[style] : "";
}
