/* text.h - borrowed strings with a length, growing buffers with a limit, strict numbers.
 *
 * Bytes from outside are never C strings: they may hold NUL and need not be UTF-8.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_TEXT_H
#define LP_BASE_TEXT_H

#include "base/common.h"
#include "base/status.h"

typedef struct lp_str {
    const char *data; /* borrowed, not NUL-terminated */
    size_t len;       /* bytes */
} lp_str;

lp_str lp_str_from(const char *c_string); /* NULL gives the empty string */
bool lp_str_equal(lp_str a, lp_str b);
bool lp_str_is(lp_str a, const char *c_string);
bool lp_str_starts(lp_str a, lp_str prefix);
bool lp_str_ends(lp_str a, lp_str suffix);
/* Index of the first occurrence at or after `from`, or SIZE_MAX. */
size_t lp_str_find(lp_str hay, lp_str needle, size_t from);
/* Bytes begin..end, clamped to the string. */
lp_str lp_str_slice(lp_str a, size_t begin, size_t end);
int lp_str_compare(lp_str a, lp_str b); /* by bytes, as memcmp, shorter first */
uint64_t lp_str_hash(lp_str a);         /* not for hostile use without a seed: see lp_map users */

/* A growing byte buffer. After an append was refused (memory, limit) `failed` stays set and
 * later appends do nothing, so a writer may check once at the end. */
typedef struct lp_buf {
    char *data;   /* owned; always NUL-terminated when not NULL */
    size_t len;   /* bytes in use, without the NUL */
    size_t size;  /* bytes allocated */
    size_t limit; /* most bytes it may hold; 0 = no limit */
    bool failed;
    bool over_limit; /* failed, and the limit was the reason */
} lp_buf;

void lp_buf_init(lp_buf *buf, size_t limit);
void lp_buf_free(lp_buf *buf);
void lp_buf_clear(lp_buf *buf); /* empties, keeps the memory, resets failed */
void lp_buf_add(lp_buf *buf, const void *data, size_t len);
void lp_buf_add_str(lp_buf *buf, lp_str text);
void lp_buf_add_text(lp_buf *buf, const char *c_string);
void lp_buf_add_char(lp_buf *buf, char c);
void lp_buf_add_format(lp_buf *buf, const char *format, ...) LP_PRINTF(2, 3);
void lp_buf_remove_front(lp_buf *buf, size_t len);
lp_str lp_buf_str(const lp_buf *buf);
lp_code lp_buf_check(const lp_buf *buf, lp_error *err) LP_MUST_USE; /* LP_ERR_MEMORY / LIMIT */

/* Strict numbers: the whole string, digits only (no sign for u64, no blanks, no hex). */
bool lp_parse_u64(lp_str text, uint64_t *out) LP_MUST_USE;
bool lp_parse_i64(lp_str text, int64_t *out) LP_MUST_USE;
/* JSON's number grammar; correctly rounded; false on overflow to infinity. */
bool lp_parse_f64(lp_str text, double *out) LP_MUST_USE;

#endif
