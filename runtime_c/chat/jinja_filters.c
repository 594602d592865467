/* jinja_filters.c - the filters that look at one value: text, numbers, JSON.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_core.h"

#define FILTER(name) static lp_jv name(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args)
#define UNUSED       (void)x, (void)self, (void)arg, (void)args

FILTER(filter_string) {
    UNUSED;
    return lp_jv_str(x, self);
}

FILTER(filter_lower) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    return s == NULL ? self : lp_jstr_case(x, s, 'l');
}

FILTER(filter_upper) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    return s == NULL ? self : lp_jstr_case(x, s, 'u');
}

FILTER(filter_capitalize) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    return s == NULL ? self : lp_jstr_case(x, s, 'c');
}

FILTER(filter_title) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    return s == NULL ? self : lp_jstr_case(x, s, 'w');
}

FILTER(filter_trim) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self), *chars = NULL;
    if (arg[0].type != LP_J_MISSING && arg[0].type != LP_J_NONE) {
        chars = lp_jarg_str(x, arg[0], "trim");
    }
    return s == NULL || x->code != LP_OK ? self : lp_jstr_strip(x, s, chars, true, true);
}

FILTER(filter_replace) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self), *old = lp_jarg_text(x, arg[0]);
    const lp_jstr *by = lp_jarg_text(x, arg[1]);
    int64_t max = arg[2].type == LP_J_NONE ? -1 : lp_jarg_int(x, arg[2], -1, "replace");
    if (x->code != LP_OK) return self;
    return lp_jstr_replace(x, s, old, by, max);
}

FILTER(filter_default) {
    UNUSED;
    lp_jv other = arg[0].type == LP_J_MISSING ? lp_jstr_text(x, "", true) : arg[0];
    bool empty = lp_jarg_bool(arg[1], false) && !lp_jv_truth(self);
    return self.type == LP_J_UNDEFINED || empty ? other : self;
}

FILTER(filter_length) {
    UNUSED;
    size_t n = 0;
    if (!lp_jv_length(self, &n)) return lp_jv_bad(x, self, "length");
    return lp_jv_int((int64_t)n);
}

FILTER(filter_escape) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    return s == NULL ? self : lp_jstr_escape(x, s);
}

FILTER(filter_forceescape) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    if (s == NULL) return self;
    lp_jstr plain = *s;
    plain.markup = false;
    return lp_jstr_escape(x, &plain);
}

FILTER(filter_safe) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    return s == NULL ? self : lp_jstr_mark(x, (lp_jv){.type = LP_J_STR, .u.s = s});
}

FILTER(filter_center) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    int64_t width = lp_jarg_int(x, arg[0], 80, "center");
    return s == NULL || x->code != LP_OK ? self : lp_jstr_pad(x, s, width, NULL, 'c');
}

/* s.splitlines() of s + "\n", each line but the first (or also that) behind an indention. */
FILTER(filter_indent) {
    UNUSED;
    const lp_jstr *s = lp_jarg_str(x, self, "indent");
    lp_jv width = arg[0].type == LP_J_MISSING ? lp_jv_int(4) : arg[0];
    lp_jbuf b, blank;
    lp_jbuf_init(&blank, x);
    if (width.type == LP_J_STR) {
        lp_jbuf_add_str(&blank, width.u.s);
    } else {
        int64_t n = lp_jarg_int(x, width, 4, "indent");
        for (int64_t i = 0; i < n && x->code == LP_OK; i++) lp_jbuf_add_text(&blank, " ", true);
    }
    lp_jv indent = lp_jbuf_value(&blank);
    if (s == NULL || x->code != LP_OK || !lp_jx_read(x, s)) return self;
    bool first = lp_jarg_bool(arg[1], false), empty = lp_jarg_bool(arg[2], false);
    lp_jbuf_init(&b, x);
    b.markup = s->markup;
    if (first) lp_jbuf_add_str(&b, indent.u.s);
    size_t from = 0, n = 0, lines = 0;
    for (size_t at = 0; at <= s->len && x->code == LP_OK; at += n) {
        size_t end = at == s->len ? 1 : lp_jchar_line_end(s, at);
        if (end == 0) {
            lp_jstr_char(s, at, &n);
            continue;
        }
        /* A last line end in s gives no empty line of its own, but the added newline does. */
        if (lines > 0) lp_jbuf_add_text(&b, "\n", true);
        if (lines > 0 && (empty || at > from)) lp_jbuf_add_str(&b, indent.u.s);
        lp_jbuf_add_part(&b, s, from, at);
        lines++;
        from = at + end;
        n = end;
    }
    return lp_jbuf_value(&b);
}

FILTER(filter_truncate) {
    UNUSED;
    size_t len = 0;
    double limit = 255;
    if (lp_jv_number(arg[0], &limit) && lp_jv_length(self, &len) && (double)len <= limit) {
        return self; /* only a cut needs a whole number */
    }
    int64_t length = lp_jarg_int(x, arg[0], 255, "truncate");
    int64_t leeway = arg[3].type == LP_J_NONE ? 5 : lp_jarg_int(x, arg[3], 5, "truncate");
    lp_jv tail = arg[2].type == LP_J_MISSING ? lp_jstr_text(x, "...", true) : arg[2];
    const lp_jstr *end = lp_jarg_str(x, tail, "truncate");
    if (x->code != LP_OK) return self;
    if (length < (int64_t)end->chars || leeway < 0) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "truncate: the length is too small");
    }
    if (!lp_jv_length(self, &len)) return lp_jv_bad(x, self, "truncate");
    if ((int64_t)len <= length || (int64_t)len - length <= leeway) return self;
    const lp_jstr *s = lp_jarg_str(x, self, "truncate");
    if (s == NULL) return self;
    size_t cut = lp_jstr_offset(s, (size_t)length - end->chars);
    if (!lp_jarg_bool(arg[1], false)) {
        size_t space = cut;
        while (space > 0 && s->data[space - 1] != ' ') space--;
        if (space > 0) cut = space - 1;
    }
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    lp_jbuf_add_part(&b, s, 0, cut);
    lp_jbuf_add_str(&b, end);
    return lp_jbuf_value(&b);
}

FILTER(filter_wordcount) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    int64_t words = 0;
    bool inside = false;
    size_t n = 0;
    if (s == NULL || !lp_jx_read(x, s)) return self;
    for (size_t at = 0; at < s->len; at += n) {
        bool word = lp_jchar_is(lp_jstr_char(s, at, &n), 'w');
        if (word && !inside) words++;
        inside = word;
    }
    return lp_jv_int(words);
}

FILTER(filter_urlencode) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    if (self.type == LP_J_DICT || self.type == LP_J_LIST || self.type == LP_J_TUPLE) {
        return lp_jx_fail(x, LP_ERR_UNSUPPORTED, "urlencode takes a string here");
    }
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    for (size_t i = 0; s != NULL && i < s->len && x->code == LP_OK; i++) {
        char c = s->data[i], text[8] = {c, 0};
        bool plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                     (c != 0 && strchr("_.-~/", c) != NULL);
        if (!plain) snprintf(text, sizeof text, "%%%02X", (unsigned)(unsigned char)c);
        lp_jbuf_add_text(&b, text, s->mask == NULL ? s->trusted : s->mask[i] != 0);
    }
    return lp_jbuf_value(&b);
}

FILTER(filter_format) {
    UNUSED;
    const lp_jstr *s = lp_jarg_text(x, self);
    if (s == NULL) return self;
    if (args->n > 0 && args->n_keywords > 0) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "format takes plain or named arguments, not both");
    }
    if (args->n_keywords > 0) {
        lp_jdict *d = lp_jdict_new(x);
        for (size_t i = 0; i < args->n_keywords && x->code == LP_OK; i++) {
            lp_jdict_set(x, d, lp_jstr_new(x, args->keywords[i].name, true),
                         args->keywords[i].value);
        }
        return x->code == LP_OK ? lp_jx_percent(x, s, lp_jv_dict(d)) : self;
    }
    lp_jlist *list = lp_jlist_new(x);
    for (size_t i = 0; i < args->n && x->code == LP_OK; i++) lp_jlist_add(x, list, args->at[i]);
    return x->code == LP_OK ? lp_jx_percent(x, s, lp_jv_list(list, LP_J_TUPLE)) : self;
}

/* --- JSON --------------------------------------------------------------------------------- */

/* json.dumps(value, ensure_ascii, indent, separators, sort_keys), as transformers defines it. */
FILTER(filter_tojson) {
    UNUSED;
    lp_jbuf b, blank;
    lp_jbuf_init(&b, x);
    lp_jbuf_init(&blank, x);
    lp_jjson how = {.ascii = lp_jarg_bool(arg[0], false), .sort = lp_jarg_bool(arg[3], false)};
    int64_t n = 0;
    lp_jv indent = arg[1], item = lp_jstr_text(x, ", ", true), key = lp_jstr_text(x, ": ", true);
    if (lp_jv_integer(indent, &n)) {
        for (int64_t i = 0; i < n && x->code == LP_OK; i++) lp_jbuf_add_text(&blank, " ", true);
        indent = lp_jbuf_value(&blank);
    }
    if (indent.type == LP_J_STR) {
        how.indent = indent.u.s;
        item = lp_jstr_text(x, ",", true);
    } else if (indent.type != LP_J_MISSING && indent.type != LP_J_NONE && self.type != LP_J_STR) {
        return lp_jv_bad(x, indent, "tojson's indent");
    }
    if (arg[2].type != LP_J_MISSING && arg[2].type != LP_J_NONE) {
        lp_jlist *pair = lp_jv_items(x, arg[2]);
        if (pair == NULL || pair->len != 2) {
            return lp_jx_fail(x, LP_ERR_FORMAT, "tojson's separators are two strings");
        }
        item = pair->items[0];
        key = pair->items[1];
    }
    how.item = lp_jarg_str(x, item, "tojson's separators");
    how.key = lp_jarg_str(x, key, "tojson's separators");
    if (x->code == LP_OK) lp_jbuf_json(&b, self, &how);
    return lp_jbuf_value(&b);
}

FILTER(filter_from_json) {
    UNUSED;
    const lp_jstr *s = lp_jarg_str(x, self, "from_json");
    if (s == NULL || !lp_jx_read(x, s)) return self;
    return lp_jv_from_json(x, lp_jstr_bytes(s), lp_jstr_trusted(s));
}

/* --- numbers ------------------------------------------------------------------------------ */

static lp_str strip(lp_str s) {
    while (s.len > 0 && lp_jchar_space((unsigned char)s.data[0])) s = lp_str_slice(s, 1, s.len);
    while (s.len > 0 && lp_jchar_space((unsigned char)s.data[s.len - 1])) s.len--;
    return s;
}

/* Python's int(text, base); false: not such a number, or not in 64 bits (*wide). */
static bool parse_int(lp_str s, int64_t base, int64_t *out, bool *wide) {
    bool minus = false, digit = false;
    uint64_t value = 0;
    s = strip(s);
    size_t i = 0;
    if (s.len > 0 && (s.data[0] == '-' || s.data[0] == '+')) minus = s.data[i++] == '-';
    if (i + 1 < s.len && s.data[i] == '0') {
        char c = (char)(s.data[i + 1] | 0x20);
        int64_t named = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (named != 0 && (base == named || base == 0)) {
            i += 2;
            base = named;
            if (i < s.len && s.data[i] == '_') i++;
        }
    }
    if (base == 0) base = 10;
    for (; i < s.len; i++) {
        char c = s.data[i];
        if (c == '_' && digit && i + 1 < s.len && s.data[i + 1] != '_') continue;
        int d = c >= '0' && c <= '9'                     ? c - '0'
                : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                         : 99;
        if (d >= base) return false;
        digit = true;
        if (value > ((uint64_t)INT64_MAX - (uint64_t)d) / (uint64_t)base) *wide = true;
        value = *wide ? 0 : value * (uint64_t)base + (uint64_t)d;
    }
    *out = minus ? -(int64_t)value : (int64_t)value;
    return digit;
}

/* Python's float(text): also .5, 5., 1_000 and inf, which JSON's grammar does not know. */
static bool parse_float(lp_str s, double *out) {
    char text[512];
    size_t n = 0, i = 0;
    s = strip(s);
    bool minus = false;
    if (s.len > 0 && (s.data[0] == '-' || s.data[0] == '+')) minus = s.data[i++] == '-';
    lp_str rest = lp_str_slice(s, i, s.len);
    char word[10] = {0};
    for (size_t k = 0; k < rest.len && k < 9; k++) word[k] = (char)(rest.data[k] | 0x20);
    if (strcmp(word, "inf") == 0 || strcmp(word, "infinity") == 0 || strcmp(word, "nan") == 0) {
        *out = word[0] == 'n' ? (double)NAN : minus ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    while (i + 1 < s.len && s.data[i] == '0' && s.data[i + 1] >= '0' && s.data[i + 1] <= '9') i++;
    if (i < s.len && s.data[i] == '.') {
        if (i + 1 >= s.len || s.data[i + 1] < '0' || s.data[i + 1] > '9') return false;
        text[n++] = '0';
    }
    for (; i < s.len; i++) {
        char c = s.data[i];
        if (n + 2 >= sizeof text) return false;
        if (c == '_') {
            bool between = i > 0 && i + 1 < s.len && s.data[i - 1] >= '0' && s.data[i - 1] <= '9' &&
                           s.data[i + 1] >= '0' && s.data[i + 1] <= '9';
            if (!between) return false;
            continue;
        }
        text[n++] = c;
        bool digit_next = i + 1 < s.len && s.data[i + 1] >= '0' && s.data[i + 1] <= '9';
        if (c == '.' && !digit_next) text[n++] = '0';
    }
    if (!lp_parse_f64((lp_str){text, n}, out)) return false;
    if (minus) *out = -*out;
    return true;
}

static lp_jv int_of_float(lp_jx *x, double f, lp_jv otherwise) {
    if (!isfinite(f)) return otherwise;
    f = trunc(f);
    if (fabs(f) >= 9.2233720368547758e18) {
        return lp_jx_fail(x, LP_ERR_LIMIT, "an integer grows beyond 64 bits");
    }
    return lp_jv_int((int64_t)f);
}

FILTER(filter_int) {
    UNUSED;
    int64_t i = 0, base = lp_jarg_int(x, arg[1], 10, "int");
    double f = 0;
    bool wide = false;
    lp_jv otherwise = arg[0].type == LP_J_MISSING ? lp_jv_int(0) : arg[0], v = otherwise;
    if (self.type == LP_J_UNDEFINED) return lp_jv_bad(x, self, "int");
    if (x->code != LP_OK) return self;
    if (lp_jv_integer(self, &i)) {
        v = lp_jv_int(i);
    } else if (self.type == LP_J_FLOAT) {
        v = int_of_float(x, self.u.f, otherwise);
    } else if (self.type == LP_J_STR && base >= 0 && base <= 36 && base != 1 &&
               parse_int(lp_jstr_bytes(self.u.s), base, &i, &wide)) {
        if (wide) return lp_jx_fail(x, LP_ERR_LIMIT, "an integer grows beyond 64 bits");
        v = lp_jv_int(i);
    } else if (self.type == LP_J_STR && parse_float(lp_jstr_bytes(self.u.s), &f)) {
        v = int_of_float(x, f, otherwise);
    } else {
        return otherwise;
    }
    v.trusted = self.type == LP_J_STR ? lp_jstr_trusted(self.u.s) : self.trusted;
    return v;
}

FILTER(filter_float) {
    UNUSED;
    double f = 0;
    if (self.type == LP_J_UNDEFINED) return lp_jv_bad(x, self, "float");
    if (!lp_jv_number(self, &f) &&
        (self.type != LP_J_STR || !parse_float(lp_jstr_bytes(self.u.s), &f))) {
        return arg[0].type == LP_J_MISSING ? lp_jv_float(0) : arg[0];
    }
    lp_jv v = lp_jv_float(f);
    v.trusted = self.type == LP_J_STR ? lp_jstr_trusted(self.u.s) : self.trusted;
    return v;
}

FILTER(filter_abs) {
    UNUSED;
    double f = 0;
    if (!lp_jv_number(self, &f)) return lp_jv_bad(x, self, "abs");
    return lp_jx_negate(x, self, f < 0 || (self.type == LP_J_FLOAT && signbit(f)));
}

static lp_jv round_common(lp_jx *x, lp_jv v, int64_t precision) {
    int64_t i = 0;
    if (lp_jv_integer(v, &i)) {
        if (precision >= 0) return lp_jv_int(i);
        if (precision < -18) return lp_jv_int(0);
        int64_t unit = 1;
        while (precision++ < 0) unit *= 10;
        int64_t rest = i % unit, down = i - rest; /* half to even */
        if (rest < 0) {
            down -= unit;
            rest += unit;
        }
        bool up = rest > unit / 2 || (rest == unit / 2 && (down / unit) % 2 != 0);
        if (up && __builtin_add_overflow(down, unit, &down)) {
            return lp_jx_fail(x, LP_ERR_LIMIT, "an integer grows beyond 64 bits");
        }
        return lp_jv_int(down);
    }
    if (!isfinite(v.u.f) || precision > 300) return lp_jv_float(v.u.f);
    if (precision < 0) {
        double unit = pow(10, (double)(precision < -400 ? 400 : -precision));
        return lp_jv_float(nearbyint(v.u.f / unit) * unit);
    }
    char text[700]; /* 309 digits before the point, at most 300 behind; rounds half to even */
    snprintf(text, sizeof text, "%.*f", (int)precision, v.u.f);
    double f = 0;
    return lp_parse_f64(lp_str_from(text), &f) ? lp_jv_float(f) : v;
}

FILTER(filter_round) {
    UNUSED;
    double f = 0;
    int64_t precision = lp_jarg_int(x, arg[0], 0, "round");
    lp_jv method = arg[1].type == LP_J_MISSING ? lp_jstr_text(x, "common", true) : arg[1];
    bool up = lp_jstr_is(method, "ceil"), down = lp_jstr_is(method, "floor");
    if (!up && !down && !lp_jstr_is(method, "common")) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "round: the method is common, ceil or floor");
    }
    if (!lp_jv_number(self, &f)) return lp_jv_bad(x, self, "round");
    if (x->code != LP_OK) return self;
    lp_jv v = round_common(x, self, precision);
    if (up || down) {
        if (!isfinite(f)) return lp_jv_bad(x, self, "round");
        double unit = pow(10, (double)precision);
        v = lp_jv_float(((up ? ceil(f * unit) : floor(f * unit)) + 0.0) / unit); /* no -0.0 */
    }
    v.trusted = self.trusted;
    return v;
}

const lp_jbuiltin lp_jfilters_text[] = {
    {"trim", filter_trim, "chars?"},
    {"tojson", filter_tojson, "ensure_ascii? indent? separators? sort_keys?"},
    {"length", filter_length, ""},
    {"count", filter_length, ""},
    {"string", filter_string, ""},
    {"default", filter_default, "default_value? boolean?"},
    {"d", filter_default, "default_value? boolean?"},
    {"lower", filter_lower, ""},
    {"upper", filter_upper, ""},
    {"capitalize", filter_capitalize, ""},
    {"title", filter_title, ""},
    {"replace", filter_replace, "old new count?"},
    {"safe", filter_safe, ""},
    {"escape", filter_escape, ""},
    {"e", filter_escape, ""},
    {"forceescape", filter_forceescape, ""},
    {"indent", filter_indent, "width? first? blank?"},
    {"center", filter_center, "width?"},
    {"truncate", filter_truncate, "length? killwords? end? leeway?"},
    {"wordcount", filter_wordcount, ""},
    {"urlencode", filter_urlencode, ""},
    {"format", filter_format, "*"},
    {"from_json", filter_from_json, ""},
    {"int", filter_int, "default? base?"},
    {"float", filter_float, "default?"},
    {"abs", filter_abs, ""},
    {"round", filter_round, "precision? method?"},
    {NULL, NULL, NULL},
};
