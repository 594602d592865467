/* jinja_case.c - upper and lower case, character classes and padding of strings.
 *
 * Python's str methods: full mappings upwards (one character may become three), one to one
 * downwards but for the final sigma.
 * SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_case.h"

#include "base/unicode.h"
#include "base/utf8.h"
#include "chat/jinja_core.h"

static uint32_t mapped(const lp_jcase_run *rows, size_t n, uint32_t c) {
    for (size_t i = 0; i < n && rows[i].first <= c; i++) {
        if (c <= rows[i].last && (c - rows[i].first) % (uint32_t)rows[i].step == 0) {
            return (uint32_t)((int32_t)c + rows[i].delta);
        }
    }
    return c;
}

static uint32_t lower(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    return mapped(lp_jcase_lower, lp_jcase_lower_rows, c);
}

/* Writes the upper case of c; returns how many characters (1 to 3). */
static size_t upper(uint32_t c, uint32_t out[3]) {
    out[0] = c;
    if (c < 0x80) {
        if (c >= 'a' && c <= 'z') out[0] = c - 32;
        return 1;
    }
    for (size_t i = 0; i < lp_jcase_upper_long_rows; i++) {
        const uint32_t *row = lp_jcase_upper_long[i];
        if (row[0] != c) continue;
        for (size_t k = 0; k < 3; k++) out[k] = row[k + 1];
        return out[2] == 0 ? 2 : 3;
    }
    out[0] = mapped(lp_jcase_upper, lp_jcase_upper_rows, c);
    return 1;
}

/* Title case: as upper case, with these exceptions. */
static size_t title(uint32_t c, uint32_t out[3]) {
    out[0] = c;
    if (c >= 0x1C4 && c <= 0x1CC) { /* the digraphs of three letters each */
        out[0] = c <= 0x1C6 ? 0x1C5 : c <= 0x1C9 ? 0x1C8 : 0x1CB;
        return 1;
    }
    if (c >= 0x1F1 && c <= 0x1F3) {
        out[0] = 0x1F2;
        return 1;
    }
    if (c >= 0x10D0 && c <= 0x10FF) return 1; /* Georgian has no title case */
    size_t n = upper(c, out);
    /* Greek letters with iota below keep one character: in Unicode 8 further on. */
    if (n == 2 && c >= 0x1F80 && c <= 0x1FAF) {
        out[0] = (c & 8) == 0 ? c + 8 : c;
        return 1;
    }
    for (size_t i = 1; i < n && c != 0x149; i++) out[i] = lower(out[i]); /* 0x149: 'N */
    return n;
}

bool lp_jchar_is(uint32_t c, char what) {
    bool letter_low = c >= 'a' && c <= 'z', letter_up = c >= 'A' && c <= 'Z';
    uint32_t class = c < 0x80 ? 0 : lp_unicode_class(c);
    switch (what) {
    case 'l':
        return letter_low || (class & LP_UC_LL) != 0 || c == 0xAA || c == 0xBA;
    case 'u':
        return letter_up || (class & LP_UC_LU) != 0;
    case 't':
        return (class & LP_UC_LT) != 0;
    case 'a':
        return letter_low || letter_up || (class & LP_UC_L) != 0;
    default:
        return letter_low || letter_up || (c >= '0' && c <= '9') || (what == 'w' && c == '_') ||
               (class & (LP_UC_L | LP_UC_N)) != 0;
    }
}

static bool cased(uint32_t c) {
    return lp_jchar_is(c, 'l') || lp_jchar_is(c, 'u') || lp_jchar_is(c, 't');
}

/* U+03A3 is a final sigma behind a letter and not before one. */
static uint32_t lower_sigma(const lp_jstr *s, size_t at, size_t n, bool letter_before) {
    size_t len = 0;
    if (!letter_before) return 0x3C3;
    if (at + n < s->len && cased(lp_jstr_char(s, at + n, &len))) return 0x3C3;
    return 0x3C2;
}

static bool begins_word(char how, uint32_t before) {
    if (how == 't') return !cased(before);
    return before == '-' || before == '(' || before == '{' || before == '[' || before == '<' ||
           lp_jchar_space(before);
}

lp_jv lp_jstr_case(lp_jx *x, const lp_jstr *s, char how) {
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    uint32_t before = ' ';
    size_t n = 0, from = 0;
    bool ascii = s->chars == s->len; /* else each character walks through the tables */
    if (!lp_jx_pay(x, s->len / (ascii ? 64 : 4))) return lp_jv_undefined(NULL);
    for (size_t at = 0; at < s->len && x->code == LP_OK; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n), out[3] = {c, 0, 0};
        size_t count = 1;
        bool start = how == 'c' ? at == 0 : (how == 't' || how == 'w') && begins_word(how, before);
        if (how == 'u' || (how == 's' && lp_jchar_is(c, 'l'))) {
            count = upper(c, out);
        } else if (start) {
            count = how == 'w' ? upper(c, out) : title(c, out);
        } else {
            out[0] = c == 0x3A3 ? lower_sigma(s, at, n, cased(before)) : lower(c);
            if (c == 0x130) { /* I with a dot: i and a combining dot */
                out[0] = 'i';
                out[1] = 0x307;
                count = 2;
            }
        }
        if (how == 's' && lp_jchar_is(c, 'l') == false && lp_jchar_is(c, 'u') == false) out[0] = c;
        before = c;
        if (count == 1 && out[0] == c) continue; /* runs of unchanged characters are copied once */
        lp_jbuf_add_part(&b, s, from, at);
        for (size_t i = 0; i < count; i++) {
            char text[4];
            size_t len = lp_utf8_encode(out[i], text);
            lp_jbuf_add(&b, text, NULL, s->mask == NULL ? s->trusted : s->mask[at] != 0, len);
        }
        from = at + n;
    }
    lp_jbuf_add_part(&b, s, from, s->len);
    b.markup = s->markup && how != 'w';
    return lp_jbuf_value(&b);
}

/* side: 'l' pads behind, 'r' before, 'm' and 'c' on both sides. */
lp_jv lp_jstr_pad(lp_jx *x, const lp_jstr *s, int64_t width, const lp_jstr *fill, char side) {
    int64_t missing = width - (int64_t)s->chars;
    if (missing <= 0) return lp_jstr_part(x, s, 0, s->len);
    /* str.center puts the odd blank on the left only when the width is odd too. */
    int64_t left = side == 'l' ? 0 : side == 'r' ? missing : missing / 2 + (missing & width & 1);
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    for (int64_t i = 0; i < missing && x->code == LP_OK; i++) {
        if (i == left) lp_jbuf_add_str(&b, s);
        if (fill == NULL) {
            lp_jbuf_add_text(&b, " ", true);
        } else {
            lp_jbuf_add_str(&b, fill);
        }
    }
    if (left == missing) lp_jbuf_add_str(&b, s);
    b.markup = s->markup;
    return lp_jbuf_value(&b);
}
