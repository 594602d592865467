/* prompt.c - reads keys in raw mode and keeps the edited text on the screen.
 *
 * Painting: go up to the first row painted last time, write all rows over it with our own wrapping
 * one column before the terminal's (so it never wraps itself), clear what stood to the right and
 * below, go back to the cursor. Clearing first would flicker, and some terminals keep a screen that
 * is cleared from its top.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/prompt.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "cli/line.h"
#include "cli/print.h"
#include "platform/file.h"
#include "platform/process.h"
#include "platform/terminal.h"

enum { MAX_HISTORY_FILE = 4 * 1024 * 1024, INDENT = 2, TAB = 4 };

struct lp_asker {
    lp_line *line;
    bool terminal;
    lp_buf history_path; /* empty: no history is kept */
    lp_buf text;         /* the last answer of ask */
    size_t cursor_row;   /* of the last painting, from its first row */
    /* Read from the terminal; from `next` on not edited in yet: what was typed or pasted behind an
     * Enter belongs to the next text. */
    uint8_t bytes[512];
    size_t next, n_bytes;
};

static void find_history(lp_asker *a) {
    if (getenv("LLAMAPACK_NO_HISTORY") != NULL) return;
    if (lp_state_directory(&a->history_path, NULL) != LP_OK) {
        lp_buf_clear(&a->history_path);
        return;
    }
    lp_buf_add_text(&a->history_path, "/history");
    lp_buf file;
    lp_buf_init(&file, 0);
    if (!a->history_path.failed &&
        lp_file_read(&file, a->history_path.data, MAX_HISTORY_FILE, NULL) == LP_OK) {
        lp_line_history_load(a->line, lp_buf_str(&file));
    }
    lp_buf_free(&file);
}

lp_asker *lp_asker_new(void) {
    lp_asker *a = lp_alloc(1, sizeof *a);
    if (a == NULL) return NULL;
    a->line = lp_line_new();
    if (a->line == NULL) {
        lp_free(a);
        return NULL;
    }
    a->terminal = lp_terminal_is(0) && lp_terminal_is(1) && lp_terminal_raw(true);
    (void)lp_terminal_raw(false);
    if (a->terminal) find_history(a);
    return a;
}

bool lp_asker_reads_keys(const lp_asker *asker) {
    return asker->terminal;
}

void lp_asker_free(lp_asker *a) {
    if (a == NULL) return;
    if (a->history_path.len > 0 && !a->history_path.failed) {
        lp_buf file;
        lp_buf_init(&file, MAX_HISTORY_FILE);
        lp_line_history_save(a->line, &file);
        /* History is a comfort: a full disk or a read-only home is no reason to complain. */
        if (!file.failed && file.len > 0 &&
            lp_file_write_private(a->history_path.data, lp_buf_str(&file), NULL) != LP_OK) {
            lp_buf_clear(&file);
        }
        lp_buf_free(&file);
    }
    lp_line_free(a->line);
    lp_buf_free(&a->history_path);
    lp_buf_free(&a->text);
    lp_free(a);
}

typedef struct place {
    size_t row, column;
} place;

/* A painting under way: rows outside first..last are counted and not written. */
typedef struct canvas {
    lp_buf *out; /* NULL: only counts */
    place at;
    size_t width, first, last;
} canvas;

static void break_row(canvas *c, size_t indent) {
    c->at = (place){c->at.row + 1, indent};
    if (c->out == NULL || c->at.row < c->first || c->at.row > c->last) return;
    if (c->at.row > c->first) lp_buf_add_text(c->out, "\x1b[K\r\n");
    if (indent > 0) lp_buf_add_text(c->out, "  ");
}

/* Adds one character, wrapped. */
static void paint_character(canvas *c, lp_str character) {
    if (lp_str_is(character, "\n")) {
        break_row(c, INDENT);
        return;
    }
    bool tab = lp_str_is(character, "\t");
    size_t columns = tab ? TAB : lp_line_columns(character);
    if (c->at.column + columns > c->width) break_row(c, 0);
    c->at.column += columns;
    if (c->out == NULL || c->at.row < c->first || c->at.row > c->last) return;
    if (tab) {
        lp_buf_add_text(c->out, "    ");
    } else {
        lp_utf8_add_printable(c->out, character);
    }
}

/* Adds the text behind the sign of the prompt; returns where its byte `cursor` stands. */
static place paint_text(canvas *c, lp_str text, size_t cursor) {
    c->at = (place){0, INDENT};
    place found = c->at;
    for (size_t i = 0; i < text.len;) {
        if (i == cursor) found = c->at;
        uint32_t code_point = 0;
        bool ok = false;
        size_t used = lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
        paint_character(c, lp_str_slice(text, i, i + used));
        i += used;
    }
    return cursor >= text.len ? c->at : found;
}

/* A text taller than the terminal shows the rows around the cursor: what has scrolled away cannot
 * be painted over. When it is done, all of it is written, once. */
static void paint(lp_asker *a, bool done) {
    lp_buf out;
    lp_buf_init(&out, 0);
    size_t width = (size_t)lp_terminal_columns() - 1;
    size_t height = (size_t)lp_terminal_rows();
    if (width < 8) width = 8;
    lp_str text = lp_line_text(a->line);
    size_t cursor = done ? text.len : lp_line_cursor(a->line);
    canvas c = {.width = width};
    place at = paint_text(&c, text, cursor);
    c.first = !done && at.row >= height ? at.row - height + 1 : 0;
    c.last = done ? c.at.row : c.first + height - 1;
    if (a->cursor_row > 0) lp_buf_add_format(&out, "\x1b[%zuA", a->cursor_row);
    lp_buf_add_char(&out, '\r');
    if (c.first == 0) {
        lp_buf_add_format(&out, "%s%s>%s ", lp_style_code(LP_STYLE_BOLD),
                          lp_style_code(LP_STYLE_ACCENT), lp_style_code(LP_STYLE_NONE));
    }
    c.out = &out;
    (void)paint_text(&c, text, cursor);
    lp_buf_add_text(&out, "\x1b[J");
    size_t bottom = c.at.row < c.last ? c.at.row : c.last;
    if (bottom > at.row) lp_buf_add_format(&out, "\x1b[%zuA", bottom - at.row);
    lp_buf_add_format(&out, "\r\x1b[%zuC", at.column);
    a->cursor_row = at.row - c.first;
    (void)lp_print_raw(out.failed ? "" : out.data);
    lp_buf_free(&out);
}

/* Ends the painting below the text, in cooked mode. */
static void leave(lp_asker *a) {
    paint(a, true);
    (void)lp_print_raw("\x1b[?2004l\r\n");
    (void)lp_terminal_raw(false);
}

static bool ask_terminal(lp_asker *a, lp_str *text, bool *interrupted) {
    lp_line_clear(a->line);
    a->cursor_row = 0;
    if (!lp_terminal_raw(true)) {
        a->terminal = false;
        return lp_asker_ask(a, text, interrupted);
    }
    (void)lp_print_raw("\x1b[?2004h");
    paint(a, false);
    for (;;) {
        if (a->next == a->n_bytes) {
            int n = lp_terminal_read(a->bytes, sizeof a->bytes, -1);
            if (n < 0) {
                leave(a);
                return false;
            }
            a->next = 0;
            a->n_bytes = (size_t)n;
        }
        while (a->next < a->n_bytes) {
            switch (lp_line_feed(a->line, a->bytes[a->next++])) {
            case LP_LINE_EDITED:
                break;
            case LP_LINE_REDRAW:
                (void)lp_print_raw("\x1b[H\x1b[2J");
                a->cursor_row = 0;
                break;
            case LP_LINE_DONE:
                leave(a);
                lp_line_history_add(a->line, lp_line_text(a->line));
                lp_buf_clear(&a->text);
                lp_buf_add_str(&a->text, lp_line_text(a->line));
                *text = lp_buf_str(&a->text);
                return !a->text.failed;
            case LP_LINE_INTERRUPT:
                *interrupted = lp_line_text(a->line).len == 0;
                leave(a);
                *text = lp_str_from("");
                return true;
            case LP_LINE_END:
                leave(a);
                return false;
            }
        }
        paint(a, false);
    }
}

/* A line of a pipe or file, repaired where it is not UTF-8. */
static bool ask_pipe(lp_asker *a, lp_str *text) {
    lp_buf raw;
    lp_buf_init(&raw, 0);
    int c = getc(stdin);
    if (c == EOF) return false;
    for (; c != EOF && c != '\n'; c = getc(stdin)) {
        if (c != '\r') lp_buf_add_char(&raw, (char)c);
    }
    lp_buf_clear(&a->text);
    (void)lp_utf8_add_repaired(&a->text, lp_buf_str(&raw));
    bool ok = !raw.failed && !a->text.failed;
    lp_buf_free(&raw);
    *text = lp_buf_str(&a->text);
    return ok;
}

bool lp_asker_ask(lp_asker *a, lp_str *text, bool *interrupted) {
    *interrupted = false;
    return a->terminal ? ask_terminal(a, text, interrupted) : ask_pipe(a, text);
}
