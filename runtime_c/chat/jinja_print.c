/* jinja_print.c - values as text: Python's str and repr, and JSON as Python's json.dumps writes it.
 *
 * Punctuation and digits that appear here count as the template's; the bytes of a string keep
 * their own trust, also when they are written as escapes.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/unicode.h"
#include "base/utf8.h"
#include "chat/jinja_core.h"

/* --- numbers ------------------------------------------------------------------------------ */

/* The shortest digits that read back as f, as "d.ddde+xx". */
static void shortest(double f, char out[40]) {
    for (int digits = 0; digits < 17; digits++) {
        double back = 0;
        snprintf(out, 40, "%.*e", digits, f);
        if (lp_parse_f64(lp_str_from(out), &back) && back == f) return;
    }
}

size_t lp_jfloat_text(double f, char out[40]) {
    if (isnan(f)) return (size_t)snprintf(out, 40, "nan");
    if (isinf(f)) return (size_t)snprintf(out, 40, f < 0 ? "-inf" : "inf");
    char s[40], digits[24];
    shortest(f, s);
    const char *p = s;
    size_t n = 0, len = 0;
    int exponent = 0;
    bool down = false;
    if (*p == '-') out[len++] = *p++;
    for (; *p != 0 && *p != 'e'; p++) {
        if (*p != '.') digits[n++] = *p;
    }
    for (p++; *p != 0; p++) {
        if (*p == '-') down = true;
        if (*p >= '0' && *p <= '9') exponent = exponent * 10 + (*p - '0');
    }
    if (down) exponent = -exponent;
    if (exponent >= 16 || exponent < -4) { /* 1e+16, 1.5e-07 */
        out[len++] = digits[0];
        if (n > 1) out[len++] = '.';
        for (size_t i = 1; i < n; i++) out[len++] = digits[i];
        return len + (size_t)snprintf(out + len, 40 - len, "e%c%02d", exponent < 0 ? '-' : '+',
                                      exponent < 0 ? -exponent : exponent);
    }
    int point = exponent + 1; /* digits before the point */
    if (point <= 0) {
        out[len++] = '0';
        out[len++] = '.';
        for (int i = point; i < 0; i++) out[len++] = '0';
        point = -1;
    }
    for (int i = 0; i < (int)n || i < point; i++) {
        if (i == point) out[len++] = '.';
        out[len++] = i < (int)n ? digits[i] : '0';
    }
    if (point >= (int)n) {
        out[len++] = '.';
        out[len++] = '0';
    }
    out[len] = 0;
    return len;
}

static void add_int(lp_jbuf *b, int64_t i, bool trusted) {
    char text[32];
    int n = snprintf(text, sizeof text, "%lld", (long long)i);
    lp_jbuf_add(b, text, NULL, trusted, (size_t)n);
}

static void add_float(lp_jbuf *b, double f, bool trusted) {
    char text[40];
    size_t n = lp_jfloat_text(f, text);
    lp_jbuf_add(b, text, NULL, trusted, n);
}

/* --- str and repr ------------------------------------------------------------------------- */

bool lp_jchar_printable(
    uint32_t c) { /* str.isprintable(): nothing of Z but the blank, nothing of C */
    if (c < 0x7F) return c >= 32;
    return (lp_unicode_class(c) & (LP_UC_L | LP_UC_M | LP_UC_N | LP_UC_P | LP_UC_S)) != 0;
}

static bool byte_trusted(const lp_jstr *s, size_t at) {
    return s->mask == NULL ? s->trusted : s->mask[at] != 0;
}

static void repr_string(lp_jbuf *b, const lp_jstr *s) {
    bool single = memchr(s->data, '\'', s->len) != NULL,
         twice = memchr(s->data, '"', s->len) != NULL;
    char quote = single && !twice ? '"' : '\'';
    size_t from = 0, n = 0;
    if (!lp_jx_read(b->x, s)) return;
    lp_jbuf_add(b, &quote, NULL, true, 1);
    for (size_t at = 0; at < s->len && b->x->code == LP_OK; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n);
        char text[16] = {0};
        if (c == (uint32_t)quote || c == '\\') {
            snprintf(text, sizeof text, "\\%c", (char)c);
        } else if (c == '\n' || c == '\r' || c == '\t') {
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        } else if (!lp_jchar_printable(c)) {
            snprintf(text, sizeof text,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     c);
        }
        if (text[0] == 0) continue;
        lp_jbuf_add_part(b, s, from, at);
        lp_jbuf_add_text(b, text, byte_trusted(s, at));
        from = at + n;
    }
    lp_jbuf_add_part(b, s, from, s->len);
    lp_jbuf_add(b, &quote, NULL, true, 1);
}

static void repr(lp_jbuf *b, lp_jv v, int depth);

static void repr_list(lp_jbuf *b, const lp_jlist *list, const char *brackets, bool tuple,
                      int depth) {
    lp_jbuf_add(b, brackets, NULL, true, 1);
    for (size_t i = 0; i < list->len && b->x->code == LP_OK; i++) {
        if (i > 0) lp_jbuf_add_text(b, ", ", true);
        repr(b, list->items[i], depth + 1);
    }
    if (tuple && list->len == 1) lp_jbuf_add_text(b, ",", true);
    lp_jbuf_add(b, brackets + 1, NULL, true, 1);
}

static void repr_dict(lp_jbuf *b, const lp_jdict *d, int depth) {
    lp_jbuf_add_text(b, "{", true);
    for (size_t i = 0; i < d->len && b->x->code == LP_OK; i++) {
        if (i > 0) lp_jbuf_add_text(b, ", ", true);
        repr(b, d->entries[i].key, depth + 1);
        lp_jbuf_add_text(b, ": ", true);
        repr(b, d->entries[i].value, depth + 1);
    }
    lp_jbuf_add_text(b, "}", true);
}

static void repr_view(lp_jbuf *b, lp_jv v, int depth) {
    lp_jbuf_add_text(b,
                     v.kind == 'k'   ? "dict_keys("
                     : v.kind == 'v' ? "dict_values("
                                     : "dict_items(",
                     true);
    lp_jlist *items = lp_jv_items(b->x, v);
    if (items != NULL) repr_list(b, items, "[]", false, depth);
    lp_jbuf_add_text(b, ")", true);
}

static void repr_other(lp_jbuf *b, lp_jv v) {
    char text[120];
    if (v.type == LP_J_RANGE) {
        const lp_jrange *r = v.u.r;
        int n = snprintf(text, sizeof text, "range(%lld, %lld", (long long)r->start,
                         (long long)r->stop);
        if (r->step != 1) {
            n += snprintf(text + n, sizeof text - (size_t)n, ", %lld", (long long)r->step);
        }
        snprintf(text + n, sizeof text - (size_t)n, ")");
    } else if (v.type == LP_J_LOOP) {
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", v.u.loop->at + 1,
                 v.u.loop->items->len);
    } else if (v.type == LP_J_MACRO) {
        lp_str name = v.u.macro->node->name;
        int len = name.len > 80 ? 80 : (int)name.len;
        snprintf(text, sizeof text, name.len > 0 ? "<Macro '%.*s'>" : "<Macro None>", len,
                 name.data);
    } else {
        snprintf(text, sizeof text, "<%s object>", lp_jv_type_name(v));
    }
    lp_jbuf_add_text(b, text, true);
}

static void repr(lp_jbuf *b, lp_jv v, int depth) {
    if (depth > LP_J_DATA_DEPTH) lp_jx_fail(b->x, LP_ERR_LIMIT, "a value is nested too deep");
    if (b->x->code != LP_OK || !lp_jx_pay(b->x, 1)) return;
    switch (v.type) {
    case LP_J_UNDEFINED:
        lp_jbuf_add_text(b, "Undefined", true);
        break;
    case LP_J_NONE:
        lp_jbuf_add_text(b, "None", true);
        break;
    case LP_J_BOOL:
        lp_jbuf_add_text(b, v.u.b ? "True" : "False", v.trusted);
        break;
    case LP_J_INT:
        add_int(b, v.u.i, v.trusted);
        break;
    case LP_J_FLOAT:
        add_float(b, v.u.f, v.trusted);
        break;
    case LP_J_STR:
        if (v.u.s->markup) lp_jbuf_add_text(b, "Markup(", true);
        repr_string(b, v.u.s);
        if (v.u.s->markup) lp_jbuf_add_text(b, ")", true);
        break;
    case LP_J_LIST:
        repr_list(b, v.u.l, "[]", false, depth);
        break;
    case LP_J_TUPLE:
        repr_list(b, v.u.l, "()", true, depth);
        break;
    case LP_J_DICT:
        repr_dict(b, v.u.d, depth);
        break;
    case LP_J_VIEW:
        repr_view(b, v, depth);
        break;
    case LP_J_NAMESPACE:
        lp_jbuf_add_text(b, "<Namespace ", true);
        repr_dict(b, v.u.d, depth);
        lp_jbuf_add_text(b, ">", true);
        break;
    default:
        repr_other(b, v);
        break;
    }
}

void lp_jbuf_repr(lp_jbuf *b, lp_jv v) {
    repr(b, v, 0);
}

void lp_jbuf_print(lp_jbuf *b, lp_jv v) {
    if (v.type == LP_J_STR) {
        lp_jbuf_add_str(b, v.u.s);
    } else if (v.type != LP_J_UNDEFINED) {
        repr(b, v, 0);
    }
}

lp_jv lp_jv_str(lp_jx *x, lp_jv v) {
    if (v.type == LP_J_STR) return v;
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    lp_jbuf_print(&b, v);
    return lp_jbuf_value(&b);
}

/* --- JSON --------------------------------------------------------------------------------- */

static void json_string(lp_jbuf *b, const lp_jstr *s, bool ascii) {
    size_t from = 0, n = 0;
    if (!lp_jx_read(b->x, s)) return;
    lp_jbuf_add_text(b, "\"", true);
    for (size_t at = 0; at < s->len && b->x->code == LP_OK; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n);
        char text[16] = {0};
        const char *names = "\"\"\\\\\nn\rr\tt\ff\bb", *name = c < 0x80 && c != 0 ? names : "";
        while (*name != 0 && (uint32_t)*name != c) name += 2;
        if (*name != 0) {
            snprintf(text, sizeof text, "\\%c", name[1]);
        } else if (c >= 0x10000 && ascii) {
            uint32_t high = 0xD800 + ((c - 0x10000) >> 10), low = 0xDC00 + ((c - 0x10000) & 0x3FF);
            snprintf(text, sizeof text, "\\u%04x\\u%04x", high, low);
        } else if (c < 32 || (ascii && c > 126)) {
            snprintf(text, sizeof text, "\\u%04x", c);
        }
        if (text[0] == 0) continue;
        lp_jbuf_add_part(b, s, from, at);
        lp_jbuf_add_text(b, text, byte_trusted(s, at));
        from = at + n;
    }
    lp_jbuf_add_part(b, s, from, s->len);
    lp_jbuf_add_text(b, "\"", true);
}

static void json_line(lp_jbuf *b, const lp_jjson *how, int depth) {
    if (how->indent == NULL) return;
    lp_jbuf_add_text(b, "\n", true);
    for (int i = 0; i < depth && b->x->code == LP_OK; i++) lp_jbuf_add_str(b, how->indent);
}

static void json(lp_jbuf *b, lp_jv v, const lp_jjson *how, int depth);

static void json_scalar(lp_jbuf *b, lp_jv v) {
    if (v.type == LP_J_NONE) {
        lp_jbuf_add_text(b, "null", true);
    } else if (v.type == LP_J_BOOL) {
        lp_jbuf_add_text(b, v.u.b ? "true" : "false", v.trusted);
    } else if (v.type == LP_J_INT) {
        add_int(b, v.u.i, v.trusted);
    } else if (isfinite(v.u.f)) {
        add_float(b, v.u.f, v.trusted);
    } else {
        lp_jbuf_add_text(b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity", v.trusted);
    }
}

static void json_key(lp_jbuf *b, lp_jv key, const lp_jjson *how) {
    if (key.type == LP_J_STR) {
        json_string(b, key.u.s, how->ascii);
    } else if (key.type == LP_J_NONE || key.type == LP_J_BOOL || key.type == LP_J_INT ||
               key.type == LP_J_FLOAT) {
        lp_jbuf_add_text(b, "\"", true);
        json_scalar(b, key);
        lp_jbuf_add_text(b, "\"", true);
    } else {
        lp_jv_bad(b->x, key, "a JSON key");
    }
}

/* The entries' order: as inserted, or sorted by key (stable insertion sort, paid by comparison). */
static const lp_jentry **json_order(lp_jx *x, const lp_jdict *d, bool sort) {
    const lp_jentry **order = lp_jx_alloc(x, d->len + 1, sizeof(lp_jentry *));
    for (size_t i = 0; order != NULL && i < d->len && x->code == LP_OK; i++) {
        size_t at = i;
        while (sort && at > 0 && x->code == LP_OK &&
               lp_jv_compare(x, d->entries[i].key, order[at - 1]->key, "sorting") == -1) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = &d->entries[i];
    }
    return x->code == LP_OK ? order : NULL;
}

static void json_dict(lp_jbuf *b, const lp_jdict *d, const lp_jjson *how, int depth) {
    if (d->len == 0) {
        lp_jbuf_add_text(b, "{}", true);
        return;
    }
    const lp_jentry **order = json_order(b->x, d, how->sort);
    lp_jbuf_add_text(b, "{", true);
    for (size_t i = 0; order != NULL && i < d->len && b->x->code == LP_OK; i++) {
        if (i > 0) lp_jbuf_add_str(b, how->item);
        json_line(b, how, depth + 1);
        json_key(b, order[i]->key, how);
        lp_jbuf_add_str(b, how->key);
        json(b, order[i]->value, how, depth + 1);
    }
    json_line(b, how, depth);
    lp_jbuf_add_text(b, "}", true);
}

static void json_list(lp_jbuf *b, const lp_jlist *list, const lp_jjson *how, int depth) {
    if (list->len == 0) {
        lp_jbuf_add_text(b, "[]", true);
        return;
    }
    lp_jbuf_add_text(b, "[", true);
    for (size_t i = 0; i < list->len && b->x->code == LP_OK; i++) {
        if (i > 0) lp_jbuf_add_str(b, how->item);
        json_line(b, how, depth + 1);
        json(b, list->items[i], how, depth + 1);
    }
    json_line(b, how, depth);
    lp_jbuf_add_text(b, "]", true);
}

static void json(lp_jbuf *b, lp_jv v, const lp_jjson *how, int depth) {
    if (depth > LP_J_DATA_DEPTH) lp_jx_fail(b->x, LP_ERR_LIMIT, "a value is nested too deep");
    if (b->x->code != LP_OK || !lp_jx_pay(b->x, 1)) return;
    switch (v.type) {
    case LP_J_STR:
        json_string(b, v.u.s, how->ascii);
        break;
    case LP_J_NONE:
    case LP_J_BOOL:
    case LP_J_INT:
    case LP_J_FLOAT:
        json_scalar(b, v);
        break;
    case LP_J_LIST:
    case LP_J_TUPLE:
        json_list(b, v.u.l, how, depth);
        break;
    case LP_J_DICT:
        json_dict(b, v.u.d, how, depth);
        break;
    default:
        lp_jv_bad(b->x, v, "writing as JSON");
        break;
    }
}

void lp_jbuf_json(lp_jbuf *b, lp_jv v, const lp_jjson *how) {
    json(b, v, how, 0);
}
