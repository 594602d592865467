/* jinja_string.c - strings that know where each byte came from.
 *
 * A string is UTF-8 with one trust bit per byte, kept as one flag for the whole string while all
 * bytes agree and as a byte mask once they differ. Parts share their source's bytes and mask.
 * A buffer builds strings piece by piece; every piece carries its trust along.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_core.h"

/* --- buffers ------------------------------------------------------------------------------ */

void lp_jbuf_init(lp_jbuf *buf, lp_jx *x) {
    *buf = (lp_jbuf){.x = x};
}

static bool grow(lp_jbuf *b, size_t more, bool mask) {
    lp_jx *x = b->x;
    if (more > LP_J_TEXT || b->len + more > LP_J_TEXT) {
        lp_jx_fail(x, LP_ERR_LIMIT, "a text grows beyond %d bytes", LP_J_TEXT);
        return false;
    }
    size_t need = b->len + more, size = b->size;
    if (need > size) {
        size = size < 32 ? 64 : size * 2;
        if (size < need) size = need;
        char *data = lp_jx_alloc(x, size, 1);
        if (data == NULL) return false;
        if (b->len > 0) memcpy(data, b->data, b->len);
        b->data = data;
        if (b->mask != NULL) {
            uint8_t *fresh = lp_jx_alloc(x, size, 1);
            if (fresh == NULL) return false;
            memcpy(fresh, b->mask, b->len);
            b->mask = fresh;
        }
        b->size = size;
    }
    if (mask && b->mask == NULL) {
        b->mask = lp_jx_alloc(x, b->size, 1);
        if (b->mask == NULL) return false;
        memset(b->mask, b->trusted, b->len);
    }
    return true;
}

void lp_jbuf_add(lp_jbuf *b, const char *data, const uint8_t *mask, bool trusted, size_t len) {
    lp_jx *x = b->x;
    if (len == 0 || x->code != LP_OK) return;
    /* A small piece costs more than its bytes; without this, padding would be free. */
    x->fraction += len + 16;
    if (!lp_jx_pay(x, x->fraction / 256)) return;
    x->fraction %= 256;
    bool differs = mask != NULL || (b->len > 0 && trusted != b->trusted);
    if (!grow(b, len, differs)) return;
    if (b->mask != NULL) {
        if (mask != NULL) {
            memcpy(b->mask + b->len, mask, len);
        } else {
            memset(b->mask + b->len, trusted, len);
        }
    } else {
        b->trusted = trusted;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void lp_jbuf_add_part(lp_jbuf *b, const lp_jstr *s, size_t begin, size_t end) {
    if (begin >= end) return;
    lp_jbuf_add(b, s->data + begin, s->mask == NULL ? NULL : s->mask + begin, s->trusted,
                end - begin);
}

void lp_jbuf_add_str(lp_jbuf *b, const lp_jstr *s) {
    lp_jbuf_add_part(b, s, 0, s->len);
}

void lp_jbuf_add_text(lp_jbuf *b, const char *text, bool trusted) {
    lp_jbuf_add(b, text, NULL, trusted, strlen(text));
}

static lp_jv make(lp_jx *x, lp_jstr s) {
    lp_jstr *copy = lp_jx_alloc(x, 1, sizeof s);
    if (copy == NULL) return lp_jv_undefined(NULL);
    *copy = s;
    return (lp_jv){.type = LP_J_STR, .trusted = true, .u.s = copy};
}

/* Code points; most texts are ASCII, which is seen eight bytes at a time. */
static size_t count_chars(lp_jx *x, lp_str text) {
    size_t i = 0;
    for (; i + 8 <= text.len; i += 8) {
        uint64_t word = 0;
        memcpy(&word, text.data + i, 8);
        if ((word & 0x8080808080808080u) != 0) break;
    }
    while (i < text.len && (text.data[i] & 0x80) == 0) i++;
    if (i == text.len || !lp_jx_pay(x, text.len / 32)) return text.len;
    return i + lp_utf8_count(lp_str_slice(text, i, text.len));
}

lp_jv lp_jbuf_value(lp_jbuf *b) {
    lp_str text = {b->len == 0 ? "" : b->data, b->len};
    if (!lp_jx_pay(b->x, b->len / 256)) return lp_jv_undefined(NULL);
    /* An empty text is trusted: it holds nothing of a user's. */
    return make(b->x, (lp_jstr){.data = text.data,
                                .mask = b->mask,
                                .len = text.len,
                                .chars = count_chars(b->x, text),
                                .trusted = b->len == 0 || b->trusted,
                                .markup = b->markup});
}

/* --- making and reading ------------------------------------------------------------------- */

lp_jv lp_jstr_new(lp_jx *x, lp_str text, bool trusted) {
    if (text.len > LP_J_TEXT) {
        return lp_jx_fail(x, LP_ERR_LIMIT, "a text is longer than %d bytes", LP_J_TEXT);
    }
    if (!lp_jx_pay(x, text.len / 256)) return lp_jv_undefined(NULL);
    return make(x, (lp_jstr){.data = text.len == 0 ? "" : text.data,
                             .len = text.len,
                             .chars = count_chars(x, text),
                             .trusted = trusted});
}

lp_jv lp_jstr_text(lp_jx *x, const char *text, bool trusted) {
    return lp_jstr_new(x, lp_str_from(text), trusted);
}

lp_jv lp_jstr_part(lp_jx *x, const lp_jstr *s, size_t begin, size_t end) {
    if (begin > end) begin = end;
    lp_jstr part = *s;
    part.data += begin;
    part.len = end - begin;
    if (part.mask != NULL) part.mask += begin;
    if (s->chars == s->len) {
        part.chars = part.len;
    } else {
        part.chars = count_chars(x, (lp_str){part.data, part.len});
        if (x->code != LP_OK) return lp_jv_undefined(NULL);
    }
    return make(x, part);
}

uint32_t lp_jstr_char(const lp_jstr *s, size_t at, size_t *len) {
    uint32_t c = 0;
    bool ok = false;
    *len = lp_utf8_decode(s->data + at, s->len - at, &c, &ok);
    return c;
}

size_t lp_jstr_offset(const lp_jstr *s, size_t index) {
    if (index >= s->chars) return s->len;
    if (s->chars == s->len) return index;
    size_t at = 0, n = 0;
    for (; index > 0 && at < s->len; index--) {
        lp_jstr_char(s, at, &n);
        at += n;
    }
    return at;
}

lp_str lp_jstr_bytes(const lp_jstr *s) {
    return (lp_str){s->data, s->len};
}

static char at_end(lp_str s, size_t i, bool back) {
    return s.data[back ? s.len - 1 - i : i];
}

/* Knuth, Morris, Pratt: next[i] is the length of the longest proper prefix of needle that also
 * ends at i. Read backwards it finds the last occurrence. */
static size_t search(lp_jx *x, lp_str hay, lp_str needle, bool back) {
    uint32_t *next = lp_jx_alloc(x, needle.len, sizeof *next);
    if (next == NULL || !lp_jx_pay(x, (hay.len + needle.len) / 64)) return SIZE_MAX;
    for (size_t i = 1, k = 0; i < needle.len; i++) {
        while (k > 0 && at_end(needle, i, back) != at_end(needle, k, back)) k = next[k - 1];
        if (at_end(needle, i, back) == at_end(needle, k, back)) k++;
        next[i] = (uint32_t)k;
    }
    for (size_t i = 0, k = 0; i < hay.len; i++) {
        while (k > 0 && at_end(hay, i, back) != at_end(needle, k, back)) k = next[k - 1];
        if (at_end(hay, i, back) == at_end(needle, k, back)) k++;
        if (k == needle.len) return back ? hay.len - 1 - i : i + 1 - needle.len;
    }
    return SIZE_MAX;
}

size_t lp_jstr_find(lp_jx *x, lp_str hay, lp_str needle, size_t from) {
    if (from > hay.len || needle.len > hay.len - from) return SIZE_MAX;
    if (needle.len > 16) { /* short ones cannot make a plain search slow */
        size_t hit = search(x, lp_str_slice(hay, from, hay.len), needle, false);
        return hit == SIZE_MAX ? hit : from + hit;
    }
    size_t hit = lp_str_find(hay, needle, from);
    return lp_jx_pay(x, ((hit == SIZE_MAX ? hay.len : hit) - from) / 128) ? hit : SIZE_MAX;
}

size_t lp_jstr_find_last(lp_jx *x, lp_str hay, lp_str needle) {
    if (needle.len > hay.len) return SIZE_MAX;
    return needle.len == 0 ? hay.len : search(x, hay, needle, true);
}

bool lp_jstr_is(lp_jv v, const char *text) {
    return v.type == LP_J_STR && lp_str_is(lp_jstr_bytes(v.u.s), text);
}

bool lp_jstr_trusted(const lp_jstr *s) {
    return s->mask == NULL ? s->trusted : s->len == 0 || memchr(s->mask, 0, s->len) == NULL;
}

/* --- characters --------------------------------------------------------------------------- */

bool lp_jchar_space(uint32_t c) { /* str.isspace() */
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

size_t lp_jchar_line_end(const lp_jstr *s, size_t at) { /* as str.splitlines() */
    size_t n = 0;
    uint32_t c = lp_jstr_char(s, at, &n);
    if (c == '\r') return at + 1 < s->len && s->data[at + 1] == '\n' ? 2 : 1;
    bool end =
        (c >= 10 && c <= 12) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
    return end ? n : 0;
}

/* --- str methods that filters share --------------------------------------------------------- */

static bool strips(const lp_jstr *chars, uint32_t c) {
    if (chars == NULL) return lp_jchar_space(c);
    size_t n = 0;
    for (size_t at = 0; at < chars->len; at += n) {
        if (lp_jstr_char(chars, at, &n) == c) return true;
    }
    return false;
}

lp_jv lp_jstr_strip(lp_jx *x, const lp_jstr *s, const lp_jstr *chars, bool left, bool right) {
    size_t begin = 0, end = s->len, n = 0;
    if (!lp_jx_read(x, s)) return lp_jv_undefined(NULL);
    size_t cost = 1 + (chars == NULL ? 0 : chars->len / 16);
    while (left && begin < end && strips(chars, lp_jstr_char(s, begin, &n))) {
        begin += n;
        if (chars != NULL && !lp_jx_pay(x, cost)) return lp_jv_undefined(NULL);
    }
    while (right && end > begin) {
        size_t at = end - 1; /* back to the first byte of the last character */
        while (at > begin && end - at < 4 && (s->data[at] & 0xC0) == (char)0x80) at--;
        while (at + 1 < end) { /* ill-formed: several parts may lie between */
            lp_jstr_char(s, at, &n);
            if (at + n >= end) break;
            at += n;
        }
        if (!strips(chars, lp_jstr_char(s, at, &n))) break;
        end = at;
        if (chars != NULL && !lp_jx_pay(x, cost)) return lp_jv_undefined(NULL);
    }
    return lp_jstr_part(x, s, begin, end);
}

lp_jv lp_jstr_replace(lp_jx *x, const lp_jstr *s, const lp_jstr *old, const lp_jstr *by,
                      int64_t max) {
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    lp_str hay = lp_jstr_bytes(s), needle = lp_jstr_bytes(old);
    size_t at = 0;
    while (max != 0 && x->code == LP_OK) {
        size_t hit = lp_jstr_find(x, hay, needle, at);
        if (hit == SIZE_MAX) break;
        size_t next = hit + needle.len, n = 0;
        lp_jbuf_add_part(&b, s, at, hit);
        lp_jbuf_add_str(&b, by);
        if (!lp_jx_pay(x, 1)) break;
        if (max > 0) max--;
        if (needle.len == 0) { /* before every character, and at the end */
            if (hit >= hay.len) {
                at = hay.len;
                break;
            }
            lp_jstr_char(s, hit, &n);
            lp_jbuf_add_part(&b, s, hit, hit + n);
            next = hit + n;
        }
        at = next;
    }
    lp_jbuf_add_part(&b, s, at, s->len);
    return lp_jbuf_value(&b);
}

lp_jv lp_jstr_mark(lp_jx *x, lp_jv v) {
    if (v.type != LP_J_STR || x->code != LP_OK) return v;
    lp_jstr s = *v.u.s;
    s.markup = true;
    return make(x, s);
}

void lp_jbuf_escape(lp_jbuf *b, const lp_jstr *s) {
    size_t from = 0;
    if (!lp_jx_read(b->x, s)) return;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->data[i];
        const char *text = c == '&'    ? "&amp;"
                           : c == '<'  ? "&lt;"
                           : c == '>'  ? "&gt;"
                           : c == '\'' ? "&#39;"
                           : c == '"'  ? "&#34;"
                                       : NULL;
        if (text == NULL) continue;
        lp_jbuf_add_part(b, s, from, i);
        lp_jbuf_add_text(b, text, s->mask == NULL ? s->trusted : s->mask[i] != 0);
        from = i + 1;
    }
    lp_jbuf_add_part(b, s, from, s->len);
}

lp_jv lp_jstr_escape(lp_jx *x, const lp_jstr *s) {
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    if (s->markup) {
        lp_jbuf_add_str(&b, s);
    } else {
        lp_jbuf_escape(&b, s);
    }
    b.markup = true;
    return lp_jbuf_value(&b);
}
