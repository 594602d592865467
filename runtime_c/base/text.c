/* text.c - strings with a length, growing buffers, strict numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

lp_str lp_str_from(const char *c_string) {
    if (c_string == NULL) return (lp_str){"", 0};
    return (lp_str){c_string, strlen(c_string)};
}

bool lp_str_equal(lp_str a, lp_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

bool lp_str_is(lp_str a, const char *c_string) {
    return lp_str_equal(a, lp_str_from(c_string));
}

bool lp_str_starts(lp_str a, lp_str prefix) {
    return a.len >= prefix.len && lp_str_equal((lp_str){a.data, prefix.len}, prefix);
}

bool lp_str_ends(lp_str a, lp_str suffix) {
    return a.len >= suffix.len && lp_str_equal(lp_str_slice(a, a.len - suffix.len, a.len), suffix);
}

size_t lp_str_find(lp_str hay, lp_str needle, size_t from) {
    if (needle.len == 0) return from <= hay.len ? from : SIZE_MAX;
    while (from <= hay.len && hay.len - from >= needle.len) {
        const char *hit = memchr(hay.data + from, needle.data[0], hay.len - from - needle.len + 1);
        if (hit == NULL) return SIZE_MAX;
        if (memcmp(hit, needle.data, needle.len) == 0) return (size_t)(hit - hay.data);
        from = (size_t)(hit - hay.data) + 1;
    }
    return SIZE_MAX;
}

lp_str lp_str_slice(lp_str a, size_t begin, size_t end) {
    if (end > a.len) end = a.len;
    if (begin > end) begin = end;
    return (lp_str){a.data == NULL ? "" : a.data + begin, end - begin};
}

int lp_str_compare(lp_str a, lp_str b) {
    size_t shared = a.len < b.len ? a.len : b.len;
    int order = shared == 0 ? 0 : memcmp(a.data, b.data, shared);
    if (order != 0) return order;
    return (a.len > b.len) - (a.len < b.len);
}

uint64_t lp_str_hash(lp_str a) {
    /* FNV-1a, 64 bit, with a final mix so that the low bits are usable for a table. */
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < a.len; i++) {
        hash ^= (uint8_t)a.data[i];
        hash *= 0x100000001B3u;
    }
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93u;
    return hash ^ (hash >> 32);
}

void lp_buf_init(lp_buf *buf, size_t limit) {
    *buf = (lp_buf){.limit = limit};
}

void lp_buf_free(lp_buf *buf) {
    lp_free(buf->data);
    lp_buf_init(buf, buf->limit);
}

void lp_buf_clear(lp_buf *buf) {
    buf->len = 0;
    buf->failed = false;
    buf->over_limit = false;
    if (buf->data != NULL) buf->data[0] = '\0';
}

/* Makes room for `more` bytes and the NUL. */
static bool reserve(lp_buf *buf, size_t more) {
    if (buf->failed) return false;
    size_t need = 0;
    bool fits = lp_size_add(buf->len, more, &need);
    if (!fits || (buf->limit != 0 && need > buf->limit) || !lp_size_add(need, 1, &need)) {
        buf->failed = true;
        buf->over_limit = fits;
        return false;
    }
    if (need <= buf->size) return true;
    size_t size = buf->size < 64 ? 64 : buf->size;
    while (size < need) {
        if (!lp_size_mul(size, 2, &size)) size = need;
    }
    char *grown = lp_realloc(buf->data, size, 1);
    if (grown == NULL) {
        buf->failed = true;
        return false;
    }
    buf->data = grown;
    buf->size = size;
    return true;
}

void lp_buf_add(lp_buf *buf, const void *data, size_t len) {
    if (!reserve(buf, len)) return;
    if (len > 0) memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

void lp_buf_add_str(lp_buf *buf, lp_str text) {
    lp_buf_add(buf, text.data, text.len);
}

void lp_buf_add_text(lp_buf *buf, const char *c_string) {
    lp_buf_add_str(buf, lp_str_from(c_string));
}

void lp_buf_add_char(lp_buf *buf, char c) {
    lp_buf_add(buf, &c, 1);
}

void lp_buf_add_format(lp_buf *buf, const char *format, ...) {
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (len < 0) {
        buf->failed = true;
    } else if (reserve(buf, (size_t)len)) {
        (void)vsnprintf(buf->data + buf->len, (size_t)len + 1, format, again);
        buf->len += (size_t)len;
    }
    va_end(again);
}

void lp_buf_remove_front(lp_buf *buf, size_t len) {
    if (len > buf->len) len = buf->len;
    if (len == 0) return;
    memmove(buf->data, buf->data + len, buf->len - len + 1);
    buf->len -= len;
}

lp_str lp_buf_str(const lp_buf *buf) {
    return (lp_str){buf->data == NULL ? "" : buf->data, buf->len};
}

lp_code lp_buf_check(const lp_buf *buf, lp_error *err) {
    if (!buf->failed) return LP_OK;
    if (buf->over_limit) {
        return lp_fail(err, LP_ERR_LIMIT, "more than %zu bytes of text", buf->limit);
    }
    return lp_fail(err, LP_ERR_MEMORY, "out of memory");
}

bool lp_parse_u64(lp_str text, uint64_t *out) {
    if (text.len == 0 || text.len > 20) return false;
    uint64_t value = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        if (c < '0' || c > '9') return false;
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(c - '0'), &value)) {
            return false;
        }
    }
    *out = value;
    return true;
}

bool lp_parse_i64(lp_str text, int64_t *out) {
    bool negative = text.len > 0 && text.data[0] == '-';
    uint64_t magnitude = 0;
    if (!lp_parse_u64(lp_str_slice(text, negative ? 1 : 0, text.len), &magnitude)) return false;
    if (magnitude > (uint64_t)INT64_MAX + (negative ? 1u : 0u)) return false;
    *out = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return true;
}

static size_t skip_digits(lp_str text, size_t at) {
    while (at < text.len && text.data[at] >= '0' && text.data[at] <= '9') at++;
    return at;
}

/* JSON: -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)? */
static bool is_json_number(lp_str text) {
    size_t at = text.len > 0 && text.data[0] == '-' ? 1 : 0;
    size_t end = skip_digits(text, at);
    if (end == at || (text.data[at] == '0' && end > at + 1)) return false;
    at = end;
    if (at < text.len && text.data[at] == '.') {
        end = skip_digits(text, at + 1);
        if (end == at + 1) return false;
        at = end;
    }
    if (at < text.len && (text.data[at] == 'e' || text.data[at] == 'E')) {
        at++;
        if (at < text.len && (text.data[at] == '+' || text.data[at] == '-')) at++;
        end = skip_digits(text, at);
        if (end == at) return false;
        at = end;
    }
    return at == text.len;
}

bool lp_parse_f64(lp_str text, double *out) {
    /* strtod is correctly rounded but lenient and wants a NUL: so the grammar is checked first and
     * the digits copied. It follows the C locale, because nothing here ever calls setlocale. */
    char digits[1024];
    if (text.len >= sizeof digits || !is_json_number(text)) return false;
    memcpy(digits, text.data, text.len);
    digits[text.len] = '\0';
    double value = strtod(digits, NULL);
    if (!isfinite(value)) return false;
    *out = value;
    return true;
}
