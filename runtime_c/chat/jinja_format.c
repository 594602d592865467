/* jinja_format.c - "%s" % value and "{}".format(value).
 *
 * Both are Python's, for the types a template knows. Literal parts and values keep their trust;
 * the digits of a number and padding count as the format's.
 *   %[(key)][-+ 0#][width][.precision] d i u s r a c x X o e E f F g G %
 *   {[name][.attr|[item]...][!s|!r][:[[fill]align][sign][#][0][width][,][.precision][type]]}
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_core.h"

typedef struct lp_jspec {
    const lp_jstr *fill; /* NULL = a blank */
    char align;          /* '<' '>' '^' '=' or 0 */
    char sign;           /* '+' ' ' or '-' */
    bool alternate, zero;
    char group;               /* ',' or '_' or 0 */
    int64_t width, precision; /* -1 = not given */
    char type;
} lp_jspec;

static lp_jv bad(lp_jx *x, const char *what) {
    return lp_jx_fail(x, LP_ERR_FORMAT, "the format string is not valid: %s", what);
}

/* Digits from s[*at]; false when the number is absurd. */
static bool number_at(lp_str s, size_t *at, int64_t *out) {
    int64_t v = 0;
    while (*at < s.len && s.data[*at] >= '0' && s.data[*at] <= '9') {
        v = v * 10 + (s.data[(*at)++] - '0');
        if (v > LP_J_TEXT) return false;
    }
    *out = v;
    return true;
}

/* Puts text of `chars` characters into its field. For numbers `lead` bytes (sign, 0x) stay in
 * front of zeros. */
static void add_field(lp_jbuf *b, const lp_jstr *text, const lp_jspec *spec, size_t lead,
                      char align) {
    int64_t missing = spec->width - (int64_t)text->chars;
    if (missing < 0) missing = 0;
    int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    size_t head = align == '=' ? lead : 0;
    lp_jbuf_add_part(b, text, 0, head);
    for (int64_t i = 0; i <= missing && b->x->code == LP_OK; i++) {
        if (i == left) lp_jbuf_add_part(b, text, head, text->len);
        if (i == missing) break;
        if (spec->fill != NULL) {
            lp_jbuf_add_str(b, spec->fill);
        } else {
            lp_jbuf_add_text(b, spec->zero && align == '=' ? "0" : " ", true);
        }
    }
}

/* --- numbers ------------------------------------------------------------------------------ */

static size_t int_digits(uint64_t v, unsigned base, bool capitals, char out[72]) {
    char back[72];
    size_t n = 0;
    do {
        back[n++] = (capitals ? "0123456789ABCDEF" : "0123456789abcdef")[v % base];
        v /= base;
    } while (v != 0);
    for (size_t i = 0; i < n; i++) out[i] = back[n - 1 - i];
    return n;
}

/* Thousands marks into the integer digits before `end`. */
static size_t group_digits(char *text, size_t n, size_t begin, size_t end, char mark,
                           size_t every) {
    char copy[400];
    if (n + n / every + 2 > sizeof copy) return n;
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > begin && i < end && (end - i) % every == 0) copy[w++] = mark;
        copy[w++] = text[i];
    }
    memcpy(text, copy, w);
    return w;
}

static size_t sign_of(bool negative, char sign, char *out) {
    if (negative) {
        out[0] = '-';
    } else if (sign == '+' || sign == ' ') {
        out[0] = sign;
    } else {
        return 0;
    }
    return 1;
}

static void add_integer(lp_jbuf *b, int64_t v, const lp_jspec *spec, bool trusted, char align) {
    char text[400];
    char t = spec->type;
    unsigned base = t == 'x' || t == 'X' ? 16 : t == 'o' ? 8 : t == 'b' ? 2 : 10;
    size_t n = sign_of(v < 0, spec->sign, text);
    if (spec->alternate && base != 10) {
        text[n++] = '0';
        text[n++] = t;
    }
    size_t lead = n;
    char digits[72];
    size_t count = int_digits(v < 0 ? 0 - (uint64_t)v : (uint64_t)v, base, t == 'X', digits);
    for (int64_t i = (int64_t)count; i < spec->precision && n < 300; i++) text[n++] = '0';
    memcpy(text + n, digits, count);
    n += count;
    if (spec->group != 0) n = group_digits(text, n, lead, n, spec->group, base == 10 ? 3 : 4);
    lp_jv s = lp_jstr_new(b->x, (lp_str){text, n}, trusted);
    if (s.type == LP_J_STR) add_field(b, s.u.s, spec, lead, align);
}

/* e, f, g as C's printf has them; exponents have at least two digits in both. */
static void add_double(lp_jbuf *b, double v, const lp_jspec *spec, bool trusted, char align) {
    char text[400], form[8] = "%.*f", t = spec->type;
    bool capitals = t >= 'A' && t <= 'Z';
    size_t n = sign_of(signbit(v) != 0 && !isnan(v), spec->sign, text), lead = n;
    double size = isnan(v) ? v : fabs(v);
    int64_t precision = spec->precision < 0 ? 6 : spec->precision > 80 ? 80 : spec->precision;
    if (!isfinite(size)) {
        memcpy(text + n, isnan(size) ? (capitals ? "NAN" : "nan") : capitals ? "INF" : "inf", 3);
        n += 3;
    } else if (t == 0 && spec->precision < 0) {
        char digits[40];
        size_t count = lp_jfloat_text(size, digits);
        memcpy(text + n, digits, count);
        n += count;
    } else {
        form[3] = t == 0 ? 'g' : t == '%' ? 'f' : t == 'F' ? 'f' : t;
        if (spec->alternate) memcpy(form, (char[]){'%', '#', '.', '*', form[3], 0}, 6);
        /* printf only with forms spelled here; -Wformat-nonliteral is not on. */
        n += (size_t)snprintf(text + n, sizeof text - n - 2, form, (int)precision,
                              t == '%' ? size * 100 : size);
        if (t == '%') text[n++] = '%';
    }
    if (spec->group != 0) {
        size_t end = lead;
        while (end < n && text[end] >= '0' && text[end] <= '9') end++;
        n = group_digits(text, n, lead, end, spec->group, 3);
    }
    lp_jv s = lp_jstr_new(b->x, (lp_str){text, n}, trusted);
    if (s.type == LP_J_STR) add_field(b, s.u.s, spec, lead, align);
}

static void add_text(lp_jbuf *b, const lp_jstr *s, const lp_jspec *spec, char align) {
    if (spec->precision >= 0 && (int64_t)s->chars > spec->precision) {
        lp_jv cut = lp_jstr_part(b->x, s, 0, lp_jstr_offset(s, (size_t)spec->precision));
        if (cut.type == LP_J_STR) s = cut.u.s;
    }
    add_field(b, s, spec, 0, align);
}

/* --- percent ------------------------------------------------------------------------------ */

typedef struct lp_jpercent {
    lp_jx *x;
    lp_jv values;
    size_t used; /* of a tuple; for one value 0 or 1 */
} lp_jpercent;

static lp_jv next_value(lp_jpercent *p) {
    if (p->values.type == LP_J_TUPLE) {
        if (p->used < p->values.u.l->len) return p->values.u.l->items[p->used++];
    } else if (p->used++ == 0) {
        return p->values;
    }
    return bad(p->x, "not enough values");
}

static void percent_number(lp_jbuf *b, lp_jv v, lp_jspec *spec, bool left) {
    double f = 0;
    int64_t i = 0;
    char t = spec->type;
    bool whole = strchr("diuxXo", t) != NULL;
    char align = left ? '<' : spec->zero ? '=' : '>';
    if (!lp_jv_number(v, &f)) {
        lp_jv_bad(b->x, v, "formatting as a number");
    } else if (!whole) {
        add_double(b, f, spec, v.trusted, align);
    } else if (lp_jv_integer(v, &i)) {
        add_integer(b, i, spec, v.trusted, align);
    } else if (t == 'x' || t == 'X' || t == 'o' || !isfinite(f) || fabs(f) >= 9.2e18) {
        lp_jv_bad(b->x, v, "formatting as an integer");
    } else {
        add_integer(b, (int64_t)f, spec, v.trusted, align);
    }
}

static void percent_value(lp_jbuf *b, lp_jv v, lp_jspec *spec, bool left) {
    lp_jx *x = b->x;
    char align = left ? '<' : '>', t = spec->type;
    int64_t i = 0;
    lp_jbuf text;
    lp_jbuf_init(&text, x);
    if (t == 's') {
        lp_jbuf_print(&text, v);
    } else if (t == 'r' || t == 'a') {
        lp_jbuf_repr(&text, v);
    } else if (t == 'c' && lp_jv_integer(v, &i)) {
        char bytes[4];
        if (i < 0 || i > 0x10FFFF) {
            bad(x, "%c is out of range");
            return;
        }
        lp_jbuf_add(&text, bytes, NULL, v.trusted, lp_utf8_encode((uint32_t)i, bytes));
    } else if (t == 'c' && v.type == LP_J_STR && v.u.s->chars == 1) {
        lp_jbuf_add_str(&text, v.u.s);
    } else if (t == 'c') {
        lp_jv_bad(x, v, "%c");
        return;
    } else {
        percent_number(b, v, spec, left);
        return;
    }
    text.markup = v.type == LP_J_STR && v.u.s->markup;
    lp_jv s = lp_jbuf_value(&text);
    if (s.type == LP_J_STR && b->markup) s = lp_jstr_escape(x, s.u.s);
    if (s.type == LP_J_STR && x->code == LP_OK) add_text(b, s.u.s, spec, align);
}

/* Width or precision: digits or * (the next value). */
static int64_t percent_size(lp_jpercent *p, lp_str f, size_t *at) {
    int64_t v = -1;
    if (*at < f.len && f.data[*at] == '*') {
        (*at)++;
        v = lp_jarg_int(p->x, next_value(p), 0, "a field's width");
        if (v > LP_J_TEXT || v < -LP_J_TEXT) bad(p->x, "a field is too wide");
    } else if (*at < f.len && f.data[*at] >= '0' && f.data[*at] <= '9' && !number_at(f, at, &v)) {
        bad(p->x, "a field is too wide");
    }
    return v;
}

static void percent_one(lp_jpercent *p, lp_jbuf *b, const lp_jstr *format, size_t *at) {
    lp_jx *x = p->x;
    lp_str f = lp_jstr_bytes(format);
    lp_jspec spec = {.precision = -1, .sign = '-'};
    lp_jv v = lp_jv_missing();
    bool left = false;
    if (*at < f.len && f.data[*at] == '(') {
        size_t begin = ++*at, depth = 1;
        while (*at < f.len && depth > 0) {
            char c = f.data[(*at)++];
            depth += c == '(';
            depth -= c == ')';
        }
        if (depth > 0 || p->values.type != LP_J_DICT) {
            bad(x, "%(name) needs a mapping");
            return;
        }
        const lp_jv *found = lp_jdict_find(x, p->values.u.d, lp_str_slice(f, begin, *at - 1));
        if (found == NULL) {
            bad(x, "a name is not in the mapping");
            return;
        }
        v = *found;
        p->used = 1;
    }
    for (; *at < f.len && f.data[*at] != 0 && strchr("-+ 0#", f.data[*at]) != NULL; (*at)++) {
        char c = f.data[*at];
        left = left || c == '-';
        spec.zero = spec.zero || c == '0';
        spec.alternate = spec.alternate || c == '#';
        if (c == '+' || (c == ' ' && spec.sign != '+')) spec.sign = c;
    }
    spec.width = percent_size(p, f, at);
    if (spec.width < -1) {
        left = true;
        spec.width = -spec.width;
    }
    if (*at < f.len && f.data[*at] == '.') {
        (*at)++;
        spec.precision = percent_size(p, f, at);
        if (spec.precision < 0) spec.precision = 0;
    }
    while (*at < f.len && (f.data[*at] == 'l' || f.data[*at] == 'h' || f.data[*at] == 'L')) (*at)++;
    if (*at >= f.len) {
        bad(x, "it ends inside a field");
        return;
    }
    spec.type = f.data[(*at)++];
    if (spec.type == '%') {
        lp_jbuf_add_part(b, format, *at - 1, *at);
        return;
    }
    if (spec.type == 0 || strchr("diuxXoeEfFgGcsra", spec.type) == NULL) {
        bad(x, "an unknown conversion");
        return;
    }
    if (v.type == LP_J_MISSING) v = next_value(p);
    if (x->code == LP_OK) percent_value(b, v, &spec, left);
}

lp_jv lp_jx_percent(lp_jx *x, const lp_jstr *format, lp_jv values) {
    lp_jpercent p = {x, values, 0};
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    b.markup = format->markup;
    if (!lp_jx_read(x, format)) return values;
    size_t from = 0;
    for (size_t at = 0; at < format->len && x->code == LP_OK;) {
        if (format->data[at] != '%') {
            at++;
            continue;
        }
        lp_jbuf_add_part(&b, format, from, at++);
        if (!lp_jx_pay(x, 1)) break;
        percent_one(&p, &b, format, &at);
        from = at;
    }
    lp_jbuf_add_part(&b, format, from, format->len);
    /* What can be indexed by a key counts as a mapping, of which not everything must be used. */
    bool single = values.type != LP_J_TUPLE && values.type != LP_J_DICT &&
                  values.type != LP_J_LIST && values.type != LP_J_RANGE &&
                  values.type != LP_J_UNDEFINED;
    if ((values.type == LP_J_TUPLE && p.used < values.u.l->len) || (single && p.used == 0)) {
        return bad(x, "not all values are used");
    }
    return lp_jbuf_value(&b);
}

/* --- str.format --------------------------------------------------------------------------- */

static bool parse_spec(lp_jx *x, const lp_jstr *s, size_t at, size_t end, lp_jspec *spec) {
    lp_str f = {s->data, end};
    size_t n = 0;
    if (at < end) {
        lp_jstr_char(s, at, &n);
        if (at + n < end && strchr("<>=^", f.data[at + n]) != NULL && f.data[at + n] != 0) {
            lp_jv fill = lp_jstr_part(x, s, at, at + n);
            if (fill.type == LP_J_STR) spec->fill = fill.u.s;
            spec->align = f.data[at + n];
            at += n + 1;
        } else if (strchr("<>=^", f.data[at]) != NULL && f.data[at] != 0) {
            spec->align = f.data[at++];
        }
    }
    if (at < end && (f.data[at] == '+' || f.data[at] == '-' || f.data[at] == ' '))
        spec->sign = f.data[at++];
    if (at < end && f.data[at] == '#') {
        spec->alternate = true;
        at++;
    }
    if (at < end && f.data[at] == '0') {
        spec->zero = true;
        at++;
    }
    bool ok = number_at(f, &at, &spec->width);
    if (at < end && (f.data[at] == ',' || f.data[at] == '_')) spec->group = f.data[at++];
    if (at < end && f.data[at] == '.') {
        at++;
        ok = ok && at < end && f.data[at] >= '0' && f.data[at] <= '9' &&
             number_at(f, &at, &spec->precision);
    }
    if (at < end) spec->type = f.data[at++];
    if (!ok || at != end) bad(x, "a field's specification");
    return x->code == LP_OK;
}

static void format_value(lp_jbuf *b, lp_jv v, lp_jspec *spec, bool plain) {
    lp_jx *x = b->x;
    int64_t i = 0;
    double f = 0;
    char t = spec->type, align = spec->align;
    bool text = v.type == LP_J_STR && (t == 0 || t == 's');
    if (text && b->markup) v = lp_jstr_escape(x, v.u.s);
    if (x->code != LP_OK) return;
    if (plain && !text) {
        lp_jv s = lp_jv_str(x, v);
        if (s.type == LP_J_STR && b->markup) s = lp_jstr_escape(x, s.u.s);
        lp_jbuf_print(b, s);
    } else if (text) {
        if (align == '=' || spec->sign != 0 || spec->group != 0 || spec->alternate) {
            bad(x, "a string has no sign or grouping");
            return;
        }
        /* Since Python 3.10 a zero before the width of a string only fills with zeros. */
        lp_jv zero = spec->zero && spec->fill == NULL ? lp_jstr_text(x, "0", true) : lp_jv_none();
        if (zero.type == LP_J_STR) spec->fill = zero.u.s;
        add_text(b, v.u.s, spec, align == 0 ? '<' : align);
    } else if (lp_jv_integer(v, &i) && (t == 0 || strchr("dxXob", t) != NULL)) {
        if (spec->precision >= 0) {
            bad(x, "an integer has no precision");
            return;
        }
        add_integer(b, i, spec, v.trusted, align != 0 ? align : spec->zero ? '=' : '>');
    } else if (lp_jv_number(v, &f) && (t == 0 || strchr("eEfFgG%", t) != NULL)) {
        add_double(b, f, spec, v.trusted, align != 0 ? align : spec->zero ? '=' : '>');
    } else {
        lp_jv_bad(x, v, "this format");
    }
}

typedef struct lp_jfields {
    lp_jargs *args;
    size_t next;   /* of automatic numbering */
    int numbering; /* 0 undecided, 1 automatic, 2 by number */
} lp_jfields;

static lp_jv first_field(lp_jx *x, lp_jfields *fields, lp_str name) {
    uint64_t n = 0;
    if (name.len == 0 || lp_parse_u64(name, &n)) {
        int kind = name.len == 0 ? 1 : 2;
        if (fields->numbering != 0 && fields->numbering != kind) return bad(x, "mixed numbering");
        fields->numbering = kind;
        if (name.len == 0) n = fields->next++;
        return n < fields->args->n ? fields->args->at[n] : bad(x, "not enough values");
    }
    for (size_t i = 0; i < fields->args->n_keywords; i++) {
        if (lp_str_equal(fields->args->keywords[i].name, name))
            return fields->args->keywords[i].value;
    }
    return bad(x, "an unknown name");
}

/* name(.attr | [item])* in s[begin..end) */
static lp_jv field_value(lp_jx *x, lp_jfields *fields, lp_str s) {
    size_t at = 0;
    while (at < s.len && s.data[at] != '.' && s.data[at] != '[') at++;
    lp_jv v = first_field(x, fields, lp_str_slice(s, 0, at));
    while (at < s.len && x->code == LP_OK) {
        bool item = s.data[at] == '[';
        size_t begin = ++at;
        while (at < s.len && (item ? s.data[at] != ']' : s.data[at] != '.' && s.data[at] != '['))
            at++;
        lp_str part = lp_str_slice(s, begin, at);
        int64_t n = 0;
        if (part.len == 0 || (item && at >= s.len)) return bad(x, "an empty attribute");
        lp_jv key = lp_jstr_new(x, part, true);
        if (item && part.data[0] != '-' && lp_parse_i64(part, &n)) key = lp_jv_int(n);
        if (x->code != LP_OK) break;
        v = item ? lp_jx_item(x, v, key) : lp_jx_attr(x, v, part);
        if (item) at++;
    }
    return v;
}

static void format_field(lp_jbuf *b, const lp_jstr *s, size_t begin, size_t end,
                         lp_jfields *fields) {
    lp_jx *x = b->x;
    lp_jspec spec = {.precision = -1};
    size_t name = begin, colon = begin, bracket = 0;
    while (colon < end && (bracket > 0 || (s->data[colon] != ':' && s->data[colon] != '!'))) {
        bracket += s->data[colon] == '[';
        if (s->data[colon] == ']' && bracket > 0) bracket--;
        colon++;
    }
    lp_jv v = field_value(x, fields, (lp_str){s->data + name, colon - name});
    if (colon < end && s->data[colon] == '!') {
        char how = colon + 1 < end ? s->data[colon + 1] : 0;
        if ((how != 's' && how != 'r' && how != 'a') ||
            (colon + 2 < end && s->data[colon + 2] != ':')) {
            bad(x, "a conversion is s or r");
            return;
        }
        lp_jbuf text;
        lp_jbuf_init(&text, x);
        if (how == 's') {
            lp_jbuf_print(&text, v);
        } else {
            lp_jbuf_repr(&text, v);
        }
        v = lp_jbuf_value(&text);
        colon += 2;
    }
    size_t at = colon < end ? colon + 1 : end;
    if (memchr(s->data + at, '{', end - at) != NULL) {
        lp_jx_fail(x, LP_ERR_UNSUPPORTED, "fields inside of a field's format are not supported");
    }
    if (x->code == LP_OK && parse_spec(x, s, at, end, &spec)) format_value(b, v, &spec, at == end);
}

lp_jv lp_jx_format(lp_jx *x, const lp_jstr *s, lp_jargs *args) {
    lp_jfields fields = {.args = args};
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    b.markup = s->markup;
    if (!lp_jx_read(x, s)) return lp_jv_undefined(NULL);
    for (size_t at = 0; at < s->len && x->code == LP_OK;) {
        size_t plain = at;
        while (plain < s->len && s->data[plain] != '{' && s->data[plain] != '}') plain++;
        lp_jbuf_add_part(&b, s, at, plain);
        if (plain >= s->len || !lp_jx_pay(x, 1)) break;
        if (plain + 1 < s->len && s->data[plain + 1] == s->data[plain]) {
            lp_jbuf_add_part(&b, s, plain, plain + 1);
            at = plain + 2;
            continue;
        }
        size_t end = plain + 1, depth = 1;
        while (end < s->len && s->data[plain] == '{' && depth > 0) {
            depth += s->data[end] == '{';
            depth -= s->data[end] == '}';
            end++;
        }
        if (s->data[plain] == '}' || depth > 0) return bad(x, "a single brace");
        format_field(&b, s, plain + 1, end - 1, &fields);
        at = end;
    }
    return lp_jbuf_value(&b);
}
