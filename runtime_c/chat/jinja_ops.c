/* jinja_ops.c - attributes, items, slices, arithmetic and comparisons of one or two values.
 *
 * x.name asks for a method first, then for an item; x['name'] the other way round. Names that
 * begin with two underscores and methods that change a list or mapping do not exist.
 * Integers are 64 bits wide: where Python's would grow beyond, the template fails.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "chat/jinja_core.h"

/* --- attributes and items ----------------------------------------------------------------- */

static lp_jv undefined_named(lp_jx *x, lp_str name) {
    lp_jv s = lp_jstr_new(x, name, true);
    return lp_jv_undefined(s.type == LP_J_STR ? s.u.s : NULL);
}

static lp_jv bind(lp_jx *x, lp_jv self, const lp_jbuiltin *function) {
    lp_jbound *bound = lp_jx_alloc(x, 1, sizeof *bound);
    if (bound == NULL) return lp_jv_undefined(NULL);
    *bound = (lp_jbound){self, function};
    return (lp_jv){.type = LP_J_METHOD, .u.method = bound};
}

static lp_jv loop_attr(lp_jx *x, lp_jv v, lp_str name, bool *found) {
    const lp_jloop *l = v.u.loop;
    int64_t at = (int64_t)l->at, len = (int64_t)l->items->len;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"index", at + 1},
                   {"index0", at},
                   {"revindex", len - at},
                   {"revindex0", len - at - 1},
                   {"length", len},
                   {"depth", (int64_t)l->depth + 1},
                   {"depth0", (int64_t)l->depth}};
    *found = true;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (lp_str_is(name, numbers[i].name)) return lp_jv_int(numbers[i].value);
    }
    if (lp_str_is(name, "first")) return lp_jv_bool(at == 0);
    if (lp_str_is(name, "last")) return lp_jv_bool(at + 1 == len);
    if (lp_str_is(name, "previtem")) {
        return at == 0 ? undefined_named(x, name) : l->items->items[at - 1];
    }
    if (lp_str_is(name, "nextitem")) {
        return at + 1 == len ? undefined_named(x, name) : l->items->items[at + 1];
    }
    *found = false;
    return lp_jv_undefined(NULL);
}

/* getattr(v, name): methods, and the fields of namespaces and loops. */
static lp_jv own_attr(lp_jx *x, lp_jv v, lp_str name, bool *found) {
    const lp_jbuiltin *row = NULL;
    *found = true;
    switch (v.type) {
    case LP_J_STR:
        row = lp_jbuiltin_find(lp_jmethods_str, name);
        if (row == NULL) row = lp_jbuiltin_find(lp_jmethods_str_more, name);
        break;
    case LP_J_DICT:
        row = lp_jbuiltin_find(lp_jmethods_dict, name);
        break;
    case LP_J_LIST:
    case LP_J_TUPLE:
    case LP_J_RANGE:
        row = lp_jbuiltin_find(lp_jmethods_list, name);
        break;
    case LP_J_CYCLER:
        if (lp_str_is(name, "current") && !v.u.cycler->joiner) {
            return v.u.cycler->items->items[v.u.cycler->at];
        }
        row = lp_jbuiltin_find(lp_jmethods_cycler, name);
        break;
    case LP_J_NAMESPACE: {
        const lp_jv *field = lp_jdict_find(x, v.u.d, name);
        if (field != NULL) return *field;
        break;
    }
    case LP_J_LOOP: {
        lp_jv value = loop_attr(x, v, name, found);
        if (*found) return value;
        row = lp_jbuiltin_find(lp_jmethods_loop, name);
        break;
    }
    case LP_J_MACRO:
        if (lp_str_is(name, "name")) return lp_jstr_new(x, v.u.macro->node->name, true);
        break;
    default:
        break;
    }
    *found = row != NULL;
    return row == NULL ? lp_jv_undefined(NULL) : bind(x, v, row);
}

/* Names that Python has but the sandbox hides. A mapping's key of that name is hidden too. */
static bool hidden(lp_jv v, lp_str name) {
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const list[] = {"append", "clear",  "pop",    "reverse", "insert",
                                       "sort",   "extend", "remove", NULL};
    if (name.len > 4 && memcmp(name.data, "__", 2) == 0 &&
        memcmp(name.data + name.len - 2, "__", 2) == 0) {
        return true;
    }
    const char *const *names = v.type == LP_J_DICT ? dict : v.type == LP_J_LIST ? list : NULL;
    for (; names != NULL && *names != NULL; names++) {
        if (lp_str_is(name, *names)) return true;
    }
    return false;
}

/* v[key] of Python; found = false where that raises. */
static lp_jv own_item(lp_jx *x, lp_jv v, lp_jv key, bool *found) {
    int64_t i = 0;
    size_t len = 0;
    *found = true;
    if (v.type == LP_J_DICT) {
        const lp_jv *value = lp_jdict_get(x, v.u.d, key);
        if (value != NULL) return *value;
    } else if ((v.type == LP_J_LIST || v.type == LP_J_TUPLE || v.type == LP_J_STR ||
                v.type == LP_J_RANGE) &&
               lp_jv_integer(key, &i) && lp_jv_length(v, &len)) {
        if (i < 0) i += (int64_t)len;
        if (i >= 0 && i < (int64_t)len) {
            if (v.type == LP_J_RANGE) return lp_jv_int(v.u.r->start + i * v.u.r->step);
            if (v.type != LP_J_STR) return v.u.l->items[i];
            if (v.u.s->chars != v.u.s->len && !lp_jx_read(x, v.u.s)) return lp_jv_undefined(NULL);
            size_t begin = lp_jstr_offset(v.u.s, (size_t)i), n = 0;
            lp_jstr_char(v.u.s, begin, &n);
            return lp_jstr_part(x, v.u.s, begin, begin + n);
        }
    }
    *found = false;
    return lp_jv_undefined(NULL);
}

lp_jv lp_jx_attr(lp_jx *x, lp_jv v, lp_str name) {
    bool found = false;
    if (v.type == LP_J_UNDEFINED) return lp_jv_bad(x, v, "reading an attribute");
    lp_jv value = own_attr(x, v, name, &found);
    if (found) return value;
    if (!hidden(v, name) && v.type == LP_J_DICT) {
        const lp_jv *item = lp_jdict_find(x, v.u.d, name);
        if (item != NULL) return *item;
    }
    return undefined_named(x, name);
}

lp_jv lp_jx_item(lp_jx *x, lp_jv v, lp_jv key) {
    bool found = false;
    if (v.type == LP_J_UNDEFINED) return lp_jv_bad(x, v, "reading an item");
    lp_jv value = own_item(x, v, key, &found);
    if (found || key.type != LP_J_STR) return found ? value : lp_jv_undefined(NULL);
    value = own_attr(x, v, lp_jstr_bytes(key.u.s), &found);
    return found ? value : lp_jv_undefined(key.u.s);
}

/* Python's slice.indices: start and step of the items to take, and how many. */
static bool slice_bounds(lp_jx *x, lp_jv part[3], size_t len, int64_t out[2], size_t *count) {
    int64_t v[3] = {0, 0, 1}, n = (int64_t)len;
    for (int i = 0; i < 3; i++) {
        if (part[i].type == LP_J_NONE) continue;
        if (!lp_jv_integer(part[i], &v[i])) {
            lp_jv_bad(x, part[i], "slicing");
            return false;
        }
    }
    if (v[2] == 0) {
        lp_jx_fail(x, LP_ERR_FORMAT, "a slice's step is zero");
        return false;
    }
    /* Steps beyond the length behave alike; this keeps the sums below in range. */
    int64_t step = v[2] > n + 1 ? n + 1 : v[2] < -n - 1 ? -n - 1 : v[2];
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    for (int i = 0; i < 2; i++) {
        if (part[i].type == LP_J_NONE) {
            v[i] = (i == 0) == (step > 0) ? low : high;
        } else {
            if (v[i] < 0) v[i] = v[i] < -n ? low : v[i] + n;
            if (v[i] < low) v[i] = low;
            if (v[i] > high) v[i] = high;
        }
    }
    int64_t span = step > 0 ? v[1] - v[0] : v[0] - v[1], stride = step > 0 ? step : -step;
    *count = span <= 0 ? 0 : (size_t)((span - 1) / stride + 1);
    out[0] = v[0];
    out[1] = step;
    return true;
}

static lp_jv slice_string(lp_jx *x, const lp_jstr *s, const int64_t at[2], size_t count) {
    if (count == 0) return lp_jstr_part(x, s, 0, 0);
    if (at[1] == 1) {
        if (s->chars != s->len && !lp_jx_read(x, s)) return lp_jv_undefined(NULL);
        size_t begin = lp_jstr_offset(s, (size_t)at[0]);
        lp_jstr rest = {
            .data = s->data + begin, .len = s->len - begin, .chars = s->chars - (size_t)at[0]};
        return lp_jstr_part(x, s, begin, begin + lp_jstr_offset(&rest, count));
    }
    lp_jlist *chars = lp_jv_items(x, (lp_jv){.type = LP_J_STR, .u.s = s});
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    b.markup = s->markup;
    for (size_t i = 0; chars != NULL && i < count && x->code == LP_OK; i++) {
        lp_jbuf_add_str(&b, chars->items[at[0] + (int64_t)i * at[1]].u.s);
    }
    return lp_jbuf_value(&b);
}

lp_jv lp_jx_slice(lp_jx *x, lp_jv v, lp_jv start, lp_jv stop, lp_jv step) {
    lp_jv part[3] = {start, stop, step};
    int64_t at[2] = {0, 1};
    size_t len = 0, count = 0;
    if (v.type != LP_J_STR && v.type != LP_J_LIST && v.type != LP_J_TUPLE && v.type != LP_J_RANGE) {
        return lp_jv_bad(x, v, "slicing");
    }
    if (!lp_jv_length(v, &len) || !slice_bounds(x, part, len, at, &count))
        return lp_jv_undefined(NULL);
    if (v.type == LP_J_STR) return slice_string(x, v.u.s, at, count);
    if (v.type == LP_J_RANGE) {
        lp_jrange *r = lp_jx_alloc(x, 1, sizeof *r);
        if (r == NULL) return lp_jv_undefined(NULL);
        /* Unsigned: a bound just behind the last item may lie beyond 64 bits. */
        uint64_t first = (uint64_t)v.u.r->start + (uint64_t)at[0] * (uint64_t)v.u.r->step;
        uint64_t stride = (uint64_t)v.u.r->step * (uint64_t)at[1];
        *r = (lp_jrange){(int64_t)first, (int64_t)(first + count * stride), (int64_t)stride, count};
        return (lp_jv){.type = LP_J_RANGE, .u.r = r};
    }
    lp_jlist *out = lp_jlist_new(x);
    for (size_t i = 0; i < count && x->code == LP_OK; i++) {
        lp_jlist_add(x, out, v.u.l->items[at[0] + (int64_t)i * at[1]]);
    }
    return lp_jv_list(out, (lp_jtype)v.type);
}

/* --- arithmetic --------------------------------------------------------------------------- */

static lp_jv too_large(lp_jx *x) {
    return lp_jx_fail(x, LP_ERR_LIMIT, "an integer grows beyond 64 bits");
}

static lp_jv int_power(lp_jx *x, int64_t base, int64_t exponent) {
    if (exponent < 0) {
        if (base == 0) return lp_jx_fail(x, LP_ERR_FORMAT, "division by zero");
        return lp_jv_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) return too_large(x);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return too_large(x);
    }
    return lp_jv_int(result);
}

static lp_jv int_math(lp_jx *x, lp_jtok op, int64_t a, int64_t b) {
    int64_t r = 0;
    switch (op) {
    case LP_JT_ADD:
        return __builtin_add_overflow(a, b, &r) ? too_large(x) : lp_jv_int(r);
    case LP_JT_SUB:
        return __builtin_sub_overflow(a, b, &r) ? too_large(x) : lp_jv_int(r);
    case LP_JT_MUL:
        return __builtin_mul_overflow(a, b, &r) ? too_large(x) : lp_jv_int(r);
    case LP_JT_POW:
        return int_power(x, a, b);
    default:
        break;
    }
    if (b == 0) return lp_jx_fail(x, LP_ERR_FORMAT, "division by zero");
    if (op == LP_JT_DIV) return lp_jv_float((double)a / (double)b);
    if (b == -1) { /* INT64_MIN / -1 does not fit */
        if (op == LP_JT_MOD) return lp_jv_int(0);
        return a == INT64_MIN ? too_large(x) : lp_jv_int(-a);
    }
    int64_t q = a / b, rest = a % b; /* Python rounds down, C towards zero */
    if (rest != 0 && (rest < 0) != (b < 0)) {
        q--;
        rest += b;
    }
    return lp_jv_int(op == LP_JT_FLOORDIV ? q : rest);
}

static lp_jv float_math(lp_jx *x, lp_jtok op, double a, double b) {
    switch (op) {
    case LP_JT_ADD:
        return lp_jv_float(a + b);
    case LP_JT_SUB:
        return lp_jv_float(a - b);
    case LP_JT_MUL:
        return lp_jv_float(a * b);
    case LP_JT_POW: {
        double r = pow(a, b);
        if (isnan(r) && !isnan(a) && !isnan(b)) {
            return lp_jx_fail(x, LP_ERR_UNSUPPORTED, "this power is not a real number");
        }
        if (isinf(r) && isfinite(a) && isfinite(b)) {
            return lp_jx_fail(x, LP_ERR_FORMAT, "this power is out of range");
        }
        return lp_jv_float(r);
    }
    default:
        break;
    }
    if (b == 0) return lp_jx_fail(x, LP_ERR_FORMAT, "division by zero");
    if (op == LP_JT_DIV) return lp_jv_float(a / b);
    double rest = fmod(a, b), q = 0;
    /* As CPython: the quotient is that of the exact division below the rest. */
    q = (a - rest) / b;
    if (rest != 0) {
        if ((b < 0) != (rest < 0)) {
            rest += b;
            q -= 1;
        }
    } else {
        rest = copysign(0.0, b);
    }
    if (op == LP_JT_MOD) return lp_jv_float(rest);
    double floor_q = q == 0 ? copysign(0.0, a / b) : floor(q);
    if (q != 0 && q - floor_q > 0.5) floor_q += 1;
    return lp_jv_float(floor_q);
}

static lp_jv concat(lp_jx *x, const lp_jstr *a, const lp_jstr *b) {
    lp_jbuf buf;
    lp_jbuf_init(&buf, x);
    buf.markup = a->markup || b->markup;
    if (buf.markup && !a->markup) {
        lp_jbuf_escape(&buf, a);
    } else {
        lp_jbuf_add_str(&buf, a);
    }
    if (buf.markup && !b->markup) {
        lp_jbuf_escape(&buf, b);
    } else {
        lp_jbuf_add_str(&buf, b);
    }
    return lp_jbuf_value(&buf);
}

static lp_jv join_lists(lp_jx *x, lp_jv a, lp_jv b) {
    lp_jlist *out = lp_jlist_new(x);
    for (size_t i = 0; i < a.u.l->len && x->code == LP_OK; i++)
        lp_jlist_add(x, out, a.u.l->items[i]);
    for (size_t i = 0; i < b.u.l->len && x->code == LP_OK; i++)
        lp_jlist_add(x, out, b.u.l->items[i]);
    return lp_jv_list(out, (lp_jtype)a.type);
}

static lp_jv repeat(lp_jx *x, lp_jv v, int64_t times) {
    if (times < 0) times = 0;
    if (v.type == LP_J_STR) {
        lp_jbuf b;
        lp_jbuf_init(&b, x);
        b.markup = v.u.s->markup;
        for (int64_t i = 0; v.u.s->len > 0 && i < times && x->code == LP_OK; i++) {
            if (i % 64 == 0 && !lp_jx_pay(x, 1)) break;
            lp_jbuf_add_str(&b, v.u.s);
        }
        return lp_jbuf_value(&b);
    }
    lp_jlist *out = lp_jlist_new(x);
    for (int64_t i = 0; v.u.l->len > 0 && i < times && x->code == LP_OK; i++) {
        for (size_t k = 0; k < v.u.l->len && x->code == LP_OK; k++) {
            lp_jlist_add(x, out, v.u.l->items[k]);
        }
    }
    return lp_jv_list(out, (lp_jtype)v.type);
}

static bool sequence(lp_jv v) {
    return v.type == LP_J_STR || v.type == LP_J_LIST || v.type == LP_J_TUPLE;
}

lp_jv lp_jx_math(lp_jx *x, lp_jtok op, lp_jv a, lp_jv b) {
    static const char *const names[] = {"adding",   "subtracting", "multiplying",
                                        "dividing", "dividing",    "the rest of a division",
                                        "a power"};
    int64_t i = 0, j = 0;
    double f = 0, g = 0;
    lp_jv r;
    if (x->code != LP_OK) return lp_jv_undefined(NULL);
    if (lp_jv_integer(a, &i) && lp_jv_integer(b, &j)) {
        r = int_math(x, op, i, j);
    } else if (lp_jv_number(a, &f) && lp_jv_number(b, &g)) {
        r = float_math(x, op, f, g);
    } else if (op == LP_JT_MOD && a.type == LP_J_STR) {
        return lp_jx_percent(x, a.u.s, b);
    } else if (op == LP_JT_ADD && a.type == LP_J_STR && b.type == LP_J_STR) {
        return concat(x, a.u.s, b.u.s);
    } else if (op == LP_JT_ADD && a.type == b.type && sequence(a)) {
        return join_lists(x, a, b);
    } else if (op == LP_JT_MUL && sequence(a) && lp_jv_integer(b, &j)) {
        return repeat(x, a, j);
    } else if (op == LP_JT_MUL && sequence(b) && lp_jv_integer(a, &i)) {
        return repeat(x, b, i);
    } else {
        const char *what = names[op - LP_JT_ADD];
        if (a.type == LP_J_UNDEFINED || b.type == LP_J_UNDEFINED) {
            return lp_jv_bad(x, a.type == LP_J_UNDEFINED ? a : b, what);
        }
        return lp_jx_fail(x, LP_ERR_FORMAT, "%s is not possible with a %s and a %s", what,
                          lp_jv_type_name(a), lp_jv_type_name(b));
    }
    r.trusted = a.trusted && b.trusted;
    return r;
}

lp_jv lp_jx_negate(lp_jx *x, lp_jv v, bool negative) {
    int64_t i = 0;
    lp_jv r;
    if (lp_jv_integer(v, &i)) {
        if (negative && i == INT64_MIN) return too_large(x);
        r = lp_jv_int(negative ? -i : i);
    } else if (v.type == LP_J_FLOAT) {
        r = lp_jv_float(negative ? -v.u.f : v.u.f);
    } else {
        return lp_jv_bad(x, v, "a sign");
    }
    r.trusted = v.trusted;
    return r;
}

bool lp_jx_compare(lp_jx *x, lp_jtok op, lp_jv a, lp_jv b) {
    int order = 0;
    switch (op) {
    case LP_JT_EQ:
        return lp_jv_equal(x, a, b);
    case LP_JT_NE:
        return !lp_jv_equal(x, a, b);
    case LP_JT_IN:
        return lp_jv_contains(x, b, a);
    case LP_JT_NOT_IN:
        return !lp_jv_contains(x, b, a);
    default:
        break;
    }
    order = lp_jv_compare(x, a, b, "comparing");
    if (order == 2) return false;
    return op == LP_JT_LT   ? order < 0
           : op == LP_JT_LE ? order <= 0
           : op == LP_JT_GT ? order > 0
                            : order >= 0;
}
