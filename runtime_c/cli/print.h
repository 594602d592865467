/* print.h - what reaches the terminal: answers on standard output, everything else on standard
 * error.
 *
 * All text passes lp_utf8_add_printable, so that no control byte of a model, a file or a client
 * gets to a terminal. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_PRINT_H
#define LP_CLI_PRINT_H

#include "base/status.h"
#include "base/text.h"

/* One line on standard error. */
void lp_print_error(const lp_error *err);                      /* "error: ..." */
void lp_print_note(const char *format, ...) LP_PRINTF(1, 2);   /* "note: ..." */
void lp_print_status(const char *format, ...) LP_PRINTF(1, 2); /* as it is */

/* Text to standard output; false when nobody reads it any more. */
bool lp_print_text(lp_str text);
bool lp_print_format(const char *format, ...) LP_PRINTF(1, 2);
/* Text of our own that may hold escape sequences (styles), to standard output. */
bool lp_print_raw(const char *c_string);

/* Styles for our own words: the escape sequence, or "" where they are not wanted. */
typedef enum lp_style { LP_STYLE_NONE, LP_STYLE_DIM, LP_STYLE_BOLD, LP_STYLE_ACCENT } lp_style;
const char *lp_style_code(lp_style style);

#endif
