/* jinja_value.c - lists, dictionaries, truth, equality, order, and values out of JSON.
 *
 * The rules are Python's: 1 == 1.0 == true, a list never equals a tuple, dictionaries keep the
 * order of insertion, an undefined value is false, empty and equal only to another one.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "chat/jinja_core.h"

lp_jv lp_jv_none(void) {
    return (lp_jv){.type = LP_J_NONE, .trusted = true};
}
lp_jv lp_jv_missing(void) {
    return (lp_jv){.type = LP_J_MISSING};
}
lp_jv lp_jv_bool(bool b) {
    return (lp_jv){.type = LP_J_BOOL, .trusted = true, .u.b = b};
}
lp_jv lp_jv_int(int64_t i) {
    return (lp_jv){.type = LP_J_INT, .trusted = true, .u.i = i};
}
lp_jv lp_jv_float(double f) {
    return (lp_jv){.type = LP_J_FLOAT, .trusted = true, .u.f = f};
}
lp_jv lp_jv_dict(lp_jdict *d) {
    return (lp_jv){.type = LP_J_DICT, .u.d = d};
}

lp_jv lp_jv_undefined(const lp_jstr *name) {
    return (lp_jv){.type = LP_J_UNDEFINED, .trusted = true, .u.name = name};
}

lp_jv lp_jv_list(lp_jlist *list, lp_jtype type) {
    if (list == NULL) return lp_jv_undefined(NULL);
    return (lp_jv){.type = (uint8_t)type, .u.l = list};
}

const char *lp_jv_type_name(lp_jv v) {
    static const char *const names[] = {"undefined", "none",      "boolean",   "integer", "float",
                                        "string",    "list",      "tuple",     "mapping", "view",
                                        "range",     "generator", "namespace", "loop",    "macro",
                                        "function",  "method",    "cycler",    "nothing"};
    return v.type <= LP_J_MISSING ? names[v.type] : "value";
}

lp_jv lp_jv_bad(lp_jx *x, lp_jv v, const char *what) {
    if (v.type != LP_J_UNDEFINED) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "%s is not possible with a %s", what,
                          lp_jv_type_name(v));
    }
    if (v.u.name == NULL) return lp_jx_fail(x, LP_ERR_FORMAT, "%s: the value is undefined", what);
    int len = v.u.name->len > 60 ? 60 : (int)v.u.name->len;
    return lp_jx_fail(x, LP_ERR_FORMAT, "%s: '%.*s' is undefined", what, len, v.u.name->data);
}

/* --- lists -------------------------------------------------------------------------------- */

lp_jlist *lp_jlist_new(lp_jx *x) {
    return lp_jx_alloc(x, 1, sizeof(lp_jlist));
}

void lp_jlist_add(lp_jx *x, lp_jlist *list, lp_jv v) {
    if (list == NULL || x->code != LP_OK || !lp_jx_pay(x, 1)) return;
    if (list->len >= list->size) { /* a size of 0 with items: they are shared, copy them */
        if (list->len >= LP_J_ITEMS) {
            lp_jx_fail(x, LP_ERR_LIMIT, "a list grows beyond %d items", LP_J_ITEMS);
            return;
        }
        size_t size = list->len < 4 ? 4 : list->len * 2;
        lp_jv *items = lp_jx_alloc(x, size, sizeof *items);
        if (items == NULL) return;
        if (list->len > 0) memcpy(items, list->items, list->len * sizeof *items);
        list->items = items;
        list->size = size;
    }
    list->items[list->len++] = v;
}

lp_jv lp_jv_pair(lp_jx *x, lp_jv a, lp_jv b) {
    lp_jlist *list = lp_jlist_new(x);
    lp_jlist_add(x, list, a);
    lp_jlist_add(x, list, b);
    return lp_jv_list(list, LP_J_TUPLE);
}

/* --- dictionaries ------------------------------------------------------------------------- */

lp_jdict *lp_jdict_new(lp_jx *x) {
    return lp_jx_alloc(x, 1, sizeof(lp_jdict));
}

/* Equal keys hash alike: numbers by their value as a double. False: not hashable. */
static bool hash_of(lp_jx *x, lp_jv v, uint64_t *out, int depth) {
    double number = 0;
    if (depth > LP_J_DATA_DEPTH) {
        lp_jx_fail(x, LP_ERR_LIMIT, "a value is nested too deep");
        return false;
    }
    if (!lp_jx_pay(x, depth == 0 ? 0 : 1)) return false;
    if (v.type == LP_J_STR) {
        if (!lp_jx_pay(x, v.u.s->len / 256)) return false;
        *out = lp_str_hash(lp_jstr_bytes(v.u.s));
    } else if (lp_jv_number(v, &number)) {
        if (number == 0) number = 0; /* -0.0 equals 0 */
        uint64_t bits = 0;
        memcpy(&bits, &number, sizeof bits);
        *out = (bits ^ (bits >> 29)) * 0x9E3779B97F4A7C15u;
    } else if (v.type == LP_J_TUPLE) {
        uint64_t h = 17;
        for (size_t i = 0; i < v.u.l->len; i++) {
            uint64_t item = 0;
            if (!hash_of(x, v.u.l->items[i], &item, depth + 1)) return false;
            h = (h ^ item) * 0x100000001B3u;
        }
        *out = h;
    } else if (v.type == LP_J_LIST || v.type == LP_J_DICT) {
        return false;
    } else {
        *out = v.type;
    }
    return true;
}

static size_t slot_of(lp_jx *x, const lp_jdict *d, lp_jv key, uint64_t hash, size_t *found) {
    *found = SIZE_MAX;
    if (d->index == NULL) {
        for (size_t i = 0; i < d->len; i++) {
            if (d->entries[i].hash == hash && lp_jv_equal(x, d->entries[i].key, key)) *found = i;
        }
        return 0;
    }
    size_t mask = d->index_size - 1, slot = (size_t)(hash ^ (hash >> 32)) & mask;
    for (size_t tries = 1; d->index[slot] != 0; tries++) {
        size_t i = d->index[slot] - 1;
        if (d->entries[i].hash == hash && lp_jv_equal(x, d->entries[i].key, key)) {
            *found = i;
            break;
        }
        /* Keys made to collide cost budget, not time. */
        if (tries % 8 == 0 && !lp_jx_pay(x, 1)) break;
        slot = (slot + 1) & mask;
    }
    return slot;
}

static bool reindex(lp_jx *x, lp_jdict *d) {
    size_t size = d->index_size == 0 ? 32 : d->index_size * 2;
    uint32_t *index = lp_jx_alloc(x, size, sizeof *index);
    if (index == NULL || !lp_jx_pay(x, d->len / 8)) return false;
    for (size_t i = 0; i < d->len; i++) {
        uint64_t hash = d->entries[i].hash;
        size_t slot = (size_t)(hash ^ (hash >> 32)) & (size - 1);
        for (size_t tries = 1; index[slot] != 0; tries++) {
            if (tries % 8 == 0 && !lp_jx_pay(x, 1)) return false;
            slot = (slot + 1) & (size - 1);
        }
        index[slot] = (uint32_t)(i + 1);
    }
    d->index = index;
    d->index_size = size;
    return true;
}

void lp_jdict_set(lp_jx *x, lp_jdict *d, lp_jv key, lp_jv value) {
    uint64_t hash = 0;
    if (d == NULL || x->code != LP_OK || !lp_jx_pay(x, 1)) return;
    if (!hash_of(x, key, &hash, 0)) {
        lp_jv_bad(x, key, "using as a key");
        return;
    }
    size_t found = SIZE_MAX;
    slot_of(x, d, key, hash, &found);
    if (x->code != LP_OK) return;
    if (found != SIZE_MAX) {
        d->entries[found].value = value;
        return;
    }
    if (d->len >= LP_J_ITEMS) {
        lp_jx_fail(x, LP_ERR_LIMIT, "a mapping grows beyond %d entries", LP_J_ITEMS);
        return;
    }
    if (d->len == d->size) {
        size_t size = d->size == 0 ? 4 : d->size * 2;
        lp_jentry *entries = lp_jx_alloc(x, size, sizeof *entries);
        if (entries == NULL) return;
        if (d->len > 0) memcpy(entries, d->entries, d->len * sizeof *entries);
        d->entries = entries;
        d->size = size;
    }
    d->entries[d->len++] = (lp_jentry){key, value, hash};
    if (d->index != NULL && d->len * 2 <= d->index_size) {
        size_t slot = slot_of(x, d, key, hash, &found);
        d->index[slot] = (uint32_t)d->len;
    } else if (d->len > 8) {
        if (!reindex(x, d)) d->len--;
    }
}

void lp_jdict_put(lp_jx *x, lp_jdict *d, const char *key, lp_jv value) {
    lp_jdict_set(x, d, lp_jstr_text(x, key, true), value);
}

const lp_jv *lp_jdict_get(lp_jx *x, const lp_jdict *d, lp_jv key) {
    uint64_t hash = 0;
    size_t found = SIZE_MAX;
    if (!hash_of(x, key, &hash, 0)) return NULL;
    slot_of(x, d, key, hash, &found);
    return found == SIZE_MAX ? NULL : &d->entries[found].value;
}

const lp_jv *lp_jdict_find(lp_jx *x, const lp_jdict *d, lp_str key) {
    lp_jstr s = {.data = key.data, .len = key.len};
    return lp_jdict_get(x, d, (lp_jv){.type = LP_J_STR, .u.s = &s});
}

/* --- truth, numbers, equality, order ------------------------------------------------------ */

bool lp_jv_truth(lp_jv v) {
    switch (v.type) {
    case LP_J_UNDEFINED:
    case LP_J_NONE:
    case LP_J_MISSING:
        return false;
    case LP_J_BOOL:
        return v.u.b;
    case LP_J_INT:
        return v.u.i != 0;
    case LP_J_FLOAT:
        return v.u.f != 0;
    case LP_J_STR:
        return v.u.s->len != 0;
    case LP_J_LIST:
    case LP_J_TUPLE:
        return v.u.l->len != 0;
    case LP_J_DICT:
    case LP_J_VIEW:
        return v.u.d->len != 0;
    case LP_J_RANGE:
        return v.u.r->len != 0;
    default:
        return true;
    }
}

bool lp_jv_integer(lp_jv v, int64_t *out) {
    if (v.type == LP_J_BOOL) {
        *out = v.u.b;
    } else if (v.type == LP_J_INT) {
        *out = v.u.i;
    } else {
        return false;
    }
    return true;
}

bool lp_jv_number(lp_jv v, double *out) {
    int64_t i = 0;
    if (v.type == LP_J_FLOAT) {
        *out = v.u.f;
    } else if (lp_jv_integer(v, &i)) {
        *out = (double)i;
    } else {
        return false;
    }
    return true;
}

static bool equal(lp_jx *x, lp_jv a, lp_jv b, int depth);

static bool lists_equal(lp_jx *x, const lp_jlist *a, const lp_jlist *b, int depth) {
    if (a == b) return true;
    if (a->len != b->len) return false;
    for (size_t i = 0; i < a->len; i++) {
        if (!equal(x, a->items[i], b->items[i], depth)) return false;
    }
    return true;
}

static bool dicts_equal(lp_jx *x, const lp_jdict *a, const lp_jdict *b, int depth) {
    if (a == b) return true;
    if (a->len != b->len) return false;
    for (size_t i = 0; i < a->len; i++) {
        const lp_jv *other = lp_jdict_get(x, b, a->entries[i].key);
        if (other == NULL || !equal(x, a->entries[i].value, *other, depth)) return false;
    }
    return true;
}

static bool equal(lp_jx *x, lp_jv a, lp_jv b, int depth) {
    if (depth > LP_J_DATA_DEPTH) {
        lp_jx_fail(x, LP_ERR_LIMIT, "a value is nested too deep");
        return false;
    }
    if (!lp_jx_pay(x, depth == 0 ? 0 : 1)) return false;
    int64_t i = 0, j = 0;
    double f = 0, g = 0;
    if (lp_jv_integer(a, &i) && lp_jv_integer(b, &j)) return i == j;
    if (lp_jv_number(a, &f)) {
        /* 2**53 and beyond: compare exactly, as Python does. */
        if (!lp_jv_number(b, &g) || f != g) return false;
        if (a.type == LP_J_FLOAT && b.type == LP_J_FLOAT) return true;
        if (fabs(f) >= 9.2e18) return false;
        return (a.type == LP_J_FLOAT ? (int64_t)f : i) == (b.type == LP_J_FLOAT ? (int64_t)g : j) ||
               (lp_jv_integer(b, &j) && (int64_t)f == j);
    }
    if (a.type != b.type) return false;
    switch (a.type) {
    case LP_J_UNDEFINED:
    case LP_J_NONE:
        return true;
    case LP_J_STR:
        return lp_jx_pay(x, a.u.s->len / 256) &&
               lp_str_equal(lp_jstr_bytes(a.u.s), lp_jstr_bytes(b.u.s));
    case LP_J_LIST:
    case LP_J_TUPLE:
        return lists_equal(x, a.u.l, b.u.l, depth + 1);
    case LP_J_DICT:
        return dicts_equal(x, a.u.d, b.u.d, depth + 1);
    case LP_J_VIEW:
        return a.kind == b.kind && a.kind != 'v' && dicts_equal(x, a.u.d, b.u.d, depth + 1);
    case LP_J_RANGE:
        return a.u.r->len == b.u.r->len &&
               (a.u.r->len == 0 ||
                (a.u.r->start == b.u.r->start && (a.u.r->len == 1 || a.u.r->step == b.u.r->step)));
    case LP_J_METHOD:
        return a.u.method->function == b.u.method->function &&
               equal(x, a.u.method->self, b.u.method->self, depth + 1);
    case LP_J_ITER:
        return a.u.l == b.u.l;
    case LP_J_NAMESPACE:
        return a.u.d == b.u.d;
    case LP_J_LOOP:
        return a.u.loop == b.u.loop;
    case LP_J_MACRO:
        return a.u.macro == b.u.macro;
    case LP_J_FUNCTION:
        return a.u.function == b.u.function;
    default:
        return a.u.cycler == b.u.cycler;
    }
}

bool lp_jv_equal(lp_jx *x, lp_jv a, lp_jv b) {
    return equal(x, a, b, 0);
}

static int compare(lp_jx *x, lp_jv a, lp_jv b, const char *op, int depth) {
    double f = 0, g = 0;
    int64_t i = 0, j = 0;
    if (depth > LP_J_DATA_DEPTH) lp_jx_fail(x, LP_ERR_LIMIT, "a value is nested too deep");
    if (x->code != LP_OK || !lp_jx_pay(x, 1)) return 2;
    if (lp_jv_integer(a, &i) && lp_jv_integer(b, &j)) return i < j ? -1 : i > j;
    if (lp_jv_number(a, &f) && lp_jv_number(b, &g)) {
        return f < g ? -1 : f > g ? 1 : f == g ? 0 : 2;
    }
    if (a.type == LP_J_STR && b.type == LP_J_STR) {
        /* UTF-8 sorts by bytes as by code points. */
        if (!lp_jx_pay(x, a.u.s->len / 256)) return 2;
        int order = lp_str_compare(lp_jstr_bytes(a.u.s), lp_jstr_bytes(b.u.s));
        return order < 0 ? -1 : order > 0;
    }
    if (a.type == b.type && (a.type == LP_J_LIST || a.type == LP_J_TUPLE)) {
        const lp_jlist *l = a.u.l, *r = b.u.l;
        for (size_t n = 0; n < l->len && n < r->len; n++) {
            if (equal(x, l->items[n], r->items[n], depth + 1)) continue;
            return compare(x, l->items[n], r->items[n], op, depth + 1);
        }
        return l->len < r->len ? -1 : l->len > r->len;
    }
    if (a.type == LP_J_UNDEFINED || b.type == LP_J_UNDEFINED) {
        lp_jv_bad(x, a.type == LP_J_UNDEFINED ? a : b, op);
    } else {
        lp_jx_fail(x, LP_ERR_FORMAT, "%s is not possible between a %s and a %s", op,
                   lp_jv_type_name(a), lp_jv_type_name(b));
    }
    return 2;
}

int lp_jv_compare(lp_jx *x, lp_jv a, lp_jv b, const char *op) {
    return compare(x, a, b, op, 0);
}

bool lp_jv_contains(lp_jx *x, lp_jv container, lp_jv item) {
    if (container.type == LP_J_STR) {
        if (item.type != LP_J_STR) {
            lp_jv_bad(x, item, "searching in a string");
            return false;
        }
        const lp_jstr *hay = container.u.s;
        return lp_jstr_find(x, lp_jstr_bytes(hay), lp_jstr_bytes(item.u.s), 0) != SIZE_MAX;
    }
    if (container.type == LP_J_DICT || (container.type == LP_J_VIEW && container.kind == 'k')) {
        uint64_t hash = 0;
        if (!hash_of(x, item, &hash, 0)) {
            lp_jv_bad(x, item, "using as a key");
            return false;
        }
        return lp_jdict_get(x, container.u.d, item) != NULL;
    }
    lp_jlist *items = lp_jv_items(x, container);
    if (items == NULL) return false;
    for (size_t i = 0; i < items->len && lp_jx_pay(x, 1); i++) {
        if (lp_jv_equal(x, items->items[i], item)) return true;
    }
    return false;
}

bool lp_jv_length(lp_jv v, size_t *out) {
    switch (v.type) {
    case LP_J_UNDEFINED:
        *out = 0;
        return true;
    case LP_J_STR:
        *out = v.u.s->chars;
        return true;
    case LP_J_LIST:
    case LP_J_TUPLE:
        *out = v.u.l->len;
        return true;
    case LP_J_DICT:
    case LP_J_VIEW:
        *out = v.u.d->len;
        return true;
    case LP_J_RANGE:
        *out = v.u.r->len;
        return true;
    case LP_J_LOOP:
        *out = v.u.loop->items->len;
        return true;
    default:
        return false;
    }
}

/* The rest of a generator; it is used up afterwards. */
static lp_jlist *drain(lp_jx *x, lp_jlist *iter) {
    lp_jlist *out = lp_jlist_new(x);
    if (out == NULL || iter->used == iter->len) return out;
    *out = (lp_jlist){.items = iter->items + iter->used, .len = iter->len - iter->used};
    iter->used = iter->len;
    return out;
}

lp_jlist *lp_jv_items(lp_jx *x, lp_jv v) {
    if (x->code != LP_OK) return NULL;
    if (v.type == LP_J_LIST || v.type == LP_J_TUPLE) return v.u.l;
    if (v.type == LP_J_ITER) return drain(x, v.u.l);
    lp_jlist *out = lp_jlist_new(x);
    switch (v.type) {
    case LP_J_UNDEFINED:
        break;
    case LP_J_STR:
        for (size_t at = 0, n = 0; at < v.u.s->len && x->code == LP_OK; at += n) {
            lp_jstr_char(v.u.s, at, &n);
            lp_jlist_add(x, out, lp_jstr_part(x, v.u.s, at, at + n));
        }
        break;
    case LP_J_DICT:
    case LP_J_VIEW:
        for (size_t i = 0; i < v.u.d->len && x->code == LP_OK; i++) {
            const lp_jentry *e = &v.u.d->entries[i];
            bool both = v.type == LP_J_VIEW && v.kind == 'i';
            bool values = v.type == LP_J_VIEW && v.kind == 'v';
            lp_jlist_add(x, out,
                         both     ? lp_jv_pair(x, e->key, e->value)
                         : values ? e->value
                                  : e->key);
        }
        break;
    case LP_J_RANGE:
        for (size_t i = 0; i < v.u.r->len && x->code == LP_OK; i++) {
            lp_jlist_add(x, out, lp_jv_int(v.u.r->start + (int64_t)i * v.u.r->step));
        }
        break;
    default:
        lp_jv_bad(x, v, "iterating");
        break;
    }
    return x->code == LP_OK ? out : NULL;
}

/* --- JSON --------------------------------------------------------------------------------- */

static lp_jv from_node(lp_jx *x, const lp_json_node *node, bool trusted, int depth);

static lp_jv copy_string(lp_jx *x, lp_str text, bool trusted) {
    /* The document is freed before the run ends, so its strings move to the arena. */
    char *copy = lp_jx_alloc(x, text.len + 1, 1);
    if (copy == NULL) return lp_jv_undefined(NULL);
    if (text.len > 0) memcpy(copy, text.data, text.len);
    return lp_jstr_new(x, (lp_str){copy, text.len}, trusted);
}

static lp_jv from_object(lp_jx *x, const lp_json_node *node, bool trusted, int depth) {
    lp_jdict *dict = lp_jdict_new(x);
    const lp_json_node *child = lp_json_first(node);
    for (; child != NULL && x->code == LP_OK; child = lp_json_next(child)) {
        lp_jv key = copy_string(x, lp_json_key(child), trusted);
        lp_jdict_set(x, dict, key, from_node(x, child, trusted, depth));
    }
    return dict == NULL ? lp_jv_undefined(NULL) : lp_jv_dict(dict);
}

static lp_jv from_array(lp_jx *x, const lp_json_node *node, bool trusted, int depth) {
    lp_jlist *list = lp_jlist_new(x);
    const lp_json_node *child = lp_json_first(node);
    for (; child != NULL && x->code == LP_OK; child = lp_json_next(child)) {
        lp_jlist_add(x, list, from_node(x, child, trusted, depth));
    }
    return lp_jv_list(list, LP_J_LIST);
}

static lp_jv from_node(lp_jx *x, const lp_json_node *node, bool trusted, int depth) {
    if (depth > LP_J_DATA_DEPTH) return lp_jx_fail(x, LP_ERR_LIMIT, "JSON is nested too deep");
    lp_jv v = lp_jv_none();
    int64_t i = 0;
    switch (lp_json_type_of(node)) {
    case LP_JSON_NULL:
        break;
    case LP_JSON_BOOL:
        v = lp_jv_bool(lp_json_bool(node));
        break;
    case LP_JSON_NUMBER:
        v = lp_json_integer(node, &i) ? lp_jv_int(i) : lp_jv_float(lp_json_number(node));
        v.trusted = trusted;
        break;
    case LP_JSON_STRING:
        return copy_string(x, lp_json_string(node), trusted);
    case LP_JSON_ARRAY:
        return from_array(x, node, trusted, depth + 1);
    case LP_JSON_OBJECT:
        return from_object(x, node, trusted, depth + 1);
    }
    return v;
}

lp_jv lp_jv_from_json(lp_jx *x, lp_str text, bool trusted) {
    lp_json *json = NULL;
    lp_error err = {0};
    lp_code code = lp_json_parse(&json, text, &err);
    if (code != LP_OK) return lp_jx_fail(x, code, "%s", err.text);
    lp_jv v = from_node(x, lp_json_root(json), trusted, 0);
    lp_json_free(json);
    return v;
}
