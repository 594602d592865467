/* line.h - a line editor: keys in, text out. Knows no terminal; repl.c feeds bytes and paints.
 *
 * Keys: left right home end (and Ctrl-B F A E), Alt-B Alt-F by word, backspace delete (Ctrl-D on an
 * empty line: end of input), Ctrl-K U W kill to end, to begin, word; up down (Ctrl-P N) history;
 * Enter sends; Alt-Enter, Ctrl-J or a trailing backslash begin a new line. A bracketed paste is
 * taken as it is, line breaks and all. The escape sequences are those of ECMA-48 and xterm.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_LINE_H
#define LP_CLI_LINE_H

#include "base/text.h"

typedef enum lp_line_event {
    LP_LINE_EDITED,    /* repaint */
    LP_LINE_DONE,      /* Enter: the text is ready */
    LP_LINE_END,       /* Ctrl-D on an empty line */
    LP_LINE_INTERRUPT, /* Ctrl-C */
    LP_LINE_REDRAW     /* Ctrl-L: clear the screen, then repaint */
} lp_line_event;

typedef struct lp_line lp_line;

lp_line *lp_line_new(void); /* NULL = no memory */
void lp_line_free(lp_line *line);
void lp_line_clear(lp_line *line);
/* Takes one byte of input. Whole keys and characters change the text. */
lp_line_event lp_line_feed(lp_line *line, uint8_t byte);
lp_str lp_line_text(const lp_line *line);   /* valid UTF-8 */
size_t lp_line_cursor(const lp_line *line); /* byte offset, at a character's border */

/* History: newest last; empty and repeated texts are not added. At most 500 are kept. */
void lp_line_history_add(lp_line *line, lp_str text);
/* One entry a line, with \n and \ escaped; damaged lines are skipped. */
void lp_line_history_load(lp_line *line, lp_str file);
void lp_line_history_save(const lp_line *line, lp_buf *file);

/* Columns a text takes on a terminal of Unicode's wide and combining characters. */
size_t lp_line_columns(lp_str text);

#endif
