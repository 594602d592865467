/* jinja_ismethods.c - the methods of strings that ask what characters they are made of.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/unicode.h"
#include "chat/jinja_core.h"

#define METHOD(name) static lp_jv name(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args)
#define UNUSED       (void)x, (void)self, (void)arg, (void)args

static bool number(uint32_t c) {
    return (c >= '0' && c <= '9') || (c >= 0x80 && (lp_unicode_class(c) & LP_UC_N) != 0);
}

static bool fits(uint32_t c, char what) {
    switch (what) {
    case 'a':
        return lp_jchar_is(c, 'a');
    case 'n':
        return lp_jchar_is(c, 'n');
    case '0':
        return number(c);
    case ' ':
        return lp_jchar_space(c);
    default:
        return c < 0x80;
    }
}

/* Every character fits, and there is one (an empty string is ASCII, though). */
static lp_jv all(lp_jx *x, lp_jv self, char what) {
    const lp_jstr *s = self.u.s;
    if (!lp_jx_read(x, s)) return self;
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        if (!fits(lp_jstr_char(s, at, &n), what)) return lp_jv_bool(false);
    }
    return lp_jv_bool(s->len > 0 || what == '7');
}

METHOD(str_isalpha) {
    UNUSED;
    return all(x, self, 'a');
}

METHOD(str_isalnum) {
    UNUSED;
    return all(x, self, 'n');
}

METHOD(str_isdigit) {
    UNUSED;
    return all(x, self, '0');
}

METHOD(str_isspace) {
    UNUSED;
    return all(x, self, ' ');
}

METHOD(str_isascii) {
    UNUSED;
    return all(x, self, '7');
}

METHOD(str_isprintable) {
    UNUSED;
    const lp_jstr *s = self.u.s;
    if (!lp_jx_read(x, s)) return self;
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        if (!lp_jchar_printable(lp_jstr_char(s, at, &n))) return lp_jv_bool(false);
    }
    return lp_jv_bool(true);
}

METHOD(str_isidentifier) {
    UNUSED;
    const lp_jstr *s = self.u.s;
    if (!lp_jx_read(x, s)) return self;
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n);
        if (at == 0 ? c != '_' && !lp_jchar_is(c, 'a') : !lp_jchar_is(c, 'w'))
            return lp_jv_bool(false);
    }
    return lp_jv_bool(s->len > 0);
}

/* There are cased characters and all have this case. */
static lp_jv one_case(lp_jx *x, lp_jv self, char want, char other) {
    const lp_jstr *s = self.u.s;
    if (!lp_jx_read(x, s)) return self;
    bool any = false;
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n);
        if (lp_jchar_is(c, other) || lp_jchar_is(c, 't')) return lp_jv_bool(false);
        any = any || lp_jchar_is(c, want);
    }
    return lp_jv_bool(any);
}

METHOD(str_islower) {
    UNUSED;
    return one_case(x, self, 'l', 'u');
}

METHOD(str_isupper) {
    UNUSED;
    return one_case(x, self, 'u', 'l');
}

/* Upper case only at the beginning of words, lower case only behind another letter. */
METHOD(str_istitle) {
    UNUSED;
    const lp_jstr *s = self.u.s;
    if (!lp_jx_read(x, s)) return self;
    bool any = false, inside = false;
    size_t n = 0;
    for (size_t at = 0; at < s->len; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n);
        bool up = lp_jchar_is(c, 'u') || lp_jchar_is(c, 't'), low = lp_jchar_is(c, 'l');
        if ((up && inside) || (low && !inside)) return lp_jv_bool(false);
        inside = up || low;
        any = any || inside;
    }
    return lp_jv_bool(any);
}

const lp_jbuiltin lp_jmethods_str_more[] = {
    {"isalpha", str_isalpha, ""},
    {"isalnum", str_isalnum, ""},
    {"isdigit", str_isdigit, ""},
    {"isdecimal", str_isdigit, ""},
    {"isnumeric", str_isdigit, ""},
    {"isspace", str_isspace, ""},
    {"isascii", str_isascii, ""},
    {"isprintable", str_isprintable, ""},
    {"isidentifier", str_isidentifier, ""},
    {"islower", str_islower, ""},
    {"isupper", str_isupper, ""},
    {"istitle", str_istitle, ""},
    {NULL, NULL, NULL},
};
