/* utf8.h - whole, well-formed characters in and out.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_UTF8_H
#define LP_BASE_UTF8_H

#include "base/common.h"
#include "base/text.h"

#define LP_UTF8_REPLACEMENT 0xFFFDu

/* Decodes one code point at data[0..len), len >= 1. Returns the bytes used (1..4) and stores the
 * code point. For an ill-formed sequence stores U+FFFD and returns the length of the maximal
 * ill-formed part (Unicode 3.9, best practice), at least 1; *ok tells the two apart. */
size_t lp_utf8_decode(const char *data, size_t len, uint32_t *code_point, bool *ok);

/* Writes code_point (a Unicode scalar value, else U+FFFD) and returns 1..4. */
size_t lp_utf8_encode(uint32_t code_point, char out[4]);

bool lp_utf8_valid(lp_str text);
size_t lp_utf8_count(lp_str text); /* code points, ill-formed parts counting one each */

/* Bytes at the end of text (0..3) that begin a character but do not complete it. */
size_t lp_utf8_incomplete_tail(lp_str text);

/* Appends text with every ill-formed part as U+FFFD. Returns how many were replaced. */
size_t lp_utf8_add_repaired(lp_buf *out, lp_str text);

/* Appends text so that it is safe on a terminal: ill-formed parts become U+FFFD; C0 (but \n and
 * \t), DEL and C1 are dropped, as are the bidirectional controls that can reorder a line. */
void lp_utf8_add_printable(lp_buf *out, lp_str text);

#endif
