/* jinja_sequence.c - the filters that look at many values: lists, mappings, generators.
 *
 * Where Python's filter gives a generator, so does this one: it can be iterated once and has no
 * length. Its items are computed at once, though.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "chat/jinja_core.h"

#define FILTER(name) static lp_jv name(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args)
#define UNUSED       (void)x, (void)self, (void)arg, (void)args

/* --- attribute="a.0.b" -------------------------------------------------------------------- */

static bool all_digits(lp_str s) {
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] < '0' || s.data[i] > '9') return false;
    }
    return s.len > 0;
}

/* One step of an attribute path; digits ask for an index. A default stands in for undefined. */
static lp_jv path_step(lp_jx *x, lp_jv v, lp_str part, lp_jv otherwise) {
    int64_t i = 0;
    lp_jv key = lp_jstr_new(x, part, true);
    if (all_digits(part) && lp_parse_i64(part, &i)) key = lp_jv_int(i);
    if (x->code != LP_OK) return v;
    v = lp_jx_item(x, v, key);
    bool stand_in = otherwise.type != LP_J_MISSING && otherwise.type != LP_J_NONE;
    return stand_in && v.type == LP_J_UNDEFINED ? otherwise : v;
}

static lp_jv get_path(lp_jx *x, lp_jv v, lp_jv path, lp_jv otherwise) {
    if (path.type == LP_J_MISSING || path.type == LP_J_NONE) return v;
    if (path.type != LP_J_STR) {
        v = lp_jx_item(x, v, path);
        bool stand_in = otherwise.type != LP_J_MISSING && otherwise.type != LP_J_NONE;
        return stand_in && v.type == LP_J_UNDEFINED ? otherwise : v;
    }
    lp_str s = lp_jstr_bytes(path.u.s);
    for (size_t at = 0; at <= s.len && x->code == LP_OK;) {
        size_t dot = lp_str_find(s, (lp_str){".", 1}, at), end = dot == SIZE_MAX ? s.len : dot;
        v = path_step(x, v, lp_str_slice(s, at, end), otherwise);
        at = end + 1;
    }
    return v;
}

static lp_jv fold_case(lp_jx *x, lp_jv v, bool sensitive) {
    return sensitive || v.type != LP_J_STR ? v : lp_jstr_case(x, v.u.s, 'l');
}

/* --- sorting ------------------------------------------------------------------------------ */

typedef struct lp_jrow {
    lp_jv key, value;
} lp_jrow;

/* Stable merge sort; descending keeps equal rows in order, as Python's reverse=True does. */
static void merge_sort(lp_jx *x, lp_jrow *rows, lp_jrow *spare, size_t n, bool descending) {
    for (size_t width = 1; width < n && x->code == LP_OK; width *= 2) {
        for (size_t low = 0; low < n && x->code == LP_OK; low += 2 * width) {
            size_t mid = low + width < n ? low + width : n;
            size_t high = low + 2 * width < n ? low + 2 * width : n;
            size_t i = low, j = mid;
            for (size_t k = low; k < high; k++) {
                bool right = i >= mid;
                if (i < mid && j < high) {
                    /* Only "less than" is asked, in the direction Python's sort asks it. */
                    int order = descending ? lp_jv_compare(x, rows[i].key, rows[j].key, "sorting")
                                           : lp_jv_compare(x, rows[j].key, rows[i].key, "sorting");
                    right = order == -1;
                }
                spare[k] = right ? rows[j++] : rows[i++];
            }
        }
        memcpy(rows, spare, n * sizeof *rows);
    }
}

static lp_jlist *sorted(lp_jx *x, lp_jrow *rows, size_t n, bool descending) {
    lp_jrow *spare = lp_jx_alloc(x, n + 1, sizeof *spare);
    lp_jlist *out = lp_jlist_new(x);
    if (rows == NULL || spare == NULL || out == NULL) return NULL;
    merge_sort(x, rows, spare, n, descending);
    for (size_t i = 0; i < n && x->code == LP_OK; i++) lp_jlist_add(x, out, rows[i].value);
    return out;
}

/* The key of sort(attribute="a,b"): a list of both. */
static lp_jv sort_key(lp_jx *x, lp_jv v, lp_jv attribute, bool sensitive) {
    if (attribute.type != LP_J_STR) {
        return fold_case(x, get_path(x, v, attribute, lp_jv_missing()), sensitive);
    }
    lp_jlist *keys = lp_jlist_new(x);
    const lp_jstr *s = attribute.u.s;
    for (size_t at = 0; at <= s->len && x->code == LP_OK;) {
        size_t comma = lp_str_find(lp_jstr_bytes(s), (lp_str){",", 1}, at);
        size_t end = comma == SIZE_MAX ? s->len : comma;
        lp_jv path = lp_jstr_part(x, s, at, end);
        if (x->code != LP_OK) break;
        lp_jlist_add(x, keys, fold_case(x, get_path(x, v, path, lp_jv_missing()), sensitive));
        at = end + 1;
    }
    return lp_jv_list(keys, LP_J_LIST);
}

FILTER(filter_sort) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self);
    if (items == NULL) return self;
    lp_jrow *rows = lp_jx_alloc(x, items->len + 1, sizeof *rows);
    for (size_t i = 0; rows != NULL && i < items->len && x->code == LP_OK; i++) {
        rows[i] = (lp_jrow){sort_key(x, items->items[i], arg[2], lp_jarg_bool(arg[1], false)),
                            items->items[i]};
    }
    if (x->code != LP_OK) return self;
    return lp_jv_list(sorted(x, rows, items->len, lp_jarg_bool(arg[0], false)), LP_J_LIST);
}

FILTER(filter_dictsort) {
    UNUSED;
    bool by_value = lp_jstr_is(arg[1], "value");
    if (self.type != LP_J_DICT) return lp_jv_bad(x, self, "dictsort");
    if (!by_value && arg[1].type != LP_J_MISSING && !lp_jstr_is(arg[1], "key")) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "dictsort sorts by \"key\" or \"value\"");
    }
    const lp_jdict *d = self.u.d;
    lp_jrow *rows = lp_jx_alloc(x, d->len + 1, sizeof *rows);
    for (size_t i = 0; rows != NULL && i < d->len && x->code == LP_OK; i++) {
        lp_jv key = by_value ? d->entries[i].value : d->entries[i].key;
        rows[i] = (lp_jrow){fold_case(x, key, lp_jarg_bool(arg[0], false)),
                            lp_jv_pair(x, d->entries[i].key, d->entries[i].value)};
    }
    if (x->code != LP_OK) return self;
    return lp_jv_list(sorted(x, rows, d->len, lp_jarg_bool(arg[2], false)), LP_J_LIST);
}

FILTER(filter_groupby) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self), *out = lp_jlist_new(x), *group = NULL;
    bool sensitive = lp_jarg_bool(arg[2], false);
    if (items == NULL) return self;
    lp_jrow *rows = lp_jx_alloc(x, items->len + 1, sizeof *rows);
    lp_jrow *spare = lp_jx_alloc(x, items->len + 1, sizeof *spare);
    for (size_t i = 0; rows != NULL && i < items->len && x->code == LP_OK; i++) {
        lp_jv key = get_path(x, items->items[i], arg[0], arg[1]);
        rows[i] = (lp_jrow){fold_case(x, key, sensitive), items->items[i]};
    }
    if (rows == NULL || spare == NULL || x->code != LP_OK) return self;
    merge_sort(x, rows, spare, items->len, false);
    for (size_t i = 0; i < items->len && x->code == LP_OK; i++) {
        if (i == 0 || !lp_jv_equal(x, rows[i].key, rows[i - 1].key)) {
            group = lp_jlist_new(x);
            lp_jv key = get_path(x, rows[i].value, arg[0], arg[1]);
            lp_jlist_add(x, out, lp_jv_pair(x, key, lp_jv_list(group, LP_J_LIST)));
        }
        lp_jlist_add(x, group, rows[i].value);
    }
    return lp_jv_list(out, LP_J_LIST);
}

static lp_jv extreme(lp_jx *x, lp_jv self, const lp_jv *arg, int want) {
    lp_jlist *items = lp_jv_items(x, self);
    if (items == NULL || items->len == 0) return lp_jv_undefined(NULL);
    bool sensitive = lp_jarg_bool(arg[0], false);
    lp_jv best = items->items[0];
    lp_jv key = fold_case(x, get_path(x, best, arg[1], lp_jv_missing()), sensitive);
    for (size_t i = 1; i < items->len && x->code == LP_OK; i++) {
        lp_jv other =
            fold_case(x, get_path(x, items->items[i], arg[1], lp_jv_missing()), sensitive);
        if (x->code == LP_OK && lp_jv_compare(x, other, key, "comparing") == want) {
            best = items->items[i];
            key = other;
        }
    }
    return best;
}

FILTER(filter_min) {
    UNUSED;
    return extreme(x, self, arg, -1);
}

FILTER(filter_max) {
    UNUSED;
    return extreme(x, self, arg, 1);
}

FILTER(filter_unique) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self), *out = lp_jlist_new(x);
    lp_jdict *seen = lp_jdict_new(x);
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        lp_jv key = get_path(x, items->items[i], arg[1], lp_jv_missing());
        key = fold_case(x, key, lp_jarg_bool(arg[0], false));
        size_t before = seen == NULL ? 0 : seen->len;
        lp_jdict_set(x, seen, key, lp_jv_none());
        if (x->code == LP_OK && seen->len > before) lp_jlist_add(x, out, items->items[i]);
    }
    return lp_jv_list(out, LP_J_ITER);
}

FILTER(filter_sum) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self);
    lp_jv sum = arg[1].type == LP_J_MISSING ? lp_jv_int(0) : arg[1];
    if (sum.type == LP_J_STR) return lp_jv_bad(x, sum, "sum");
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        sum = lp_jx_math(x, LP_JT_ADD, sum, get_path(x, items->items[i], arg[0], lp_jv_missing()));
    }
    return sum;
}

/* --- picking ------------------------------------------------------------------------------ */

FILTER(filter_list) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self), *out = lp_jlist_new(x);
    if (items == NULL || out == NULL) return self;
    *out = (lp_jlist){.items = items->items, .len = items->len}; /* size 0: an add copies */
    return lp_jv_list(out, LP_J_LIST);
}

FILTER(filter_first) {
    UNUSED;
    if (self.type == LP_J_ITER) {
        lp_jlist *iter = self.u.l;
        return iter->used < iter->len ? iter->items[iter->used++] : lp_jv_undefined(NULL);
    }
    lp_jlist *items = lp_jv_items(x, self);
    return items == NULL || items->len == 0 ? lp_jv_undefined(NULL) : items->items[0];
}

FILTER(filter_last) {
    UNUSED;
    if (self.type == LP_J_ITER) return lp_jv_bad(x, self, "last");
    lp_jlist *items = lp_jv_items(x, self);
    return items == NULL || items->len == 0 ? lp_jv_undefined(NULL) : items->items[items->len - 1];
}

FILTER(filter_reverse) {
    UNUSED;
    if (self.type == LP_J_STR) {
        return lp_jx_slice(x, self, lp_jv_none(), lp_jv_none(), lp_jv_int(-1));
    }
    lp_jlist *items = lp_jv_items(x, self), *out = lp_jlist_new(x);
    for (size_t i = items == NULL ? 0 : items->len; i > 0 && x->code == LP_OK; i--) {
        lp_jlist_add(x, out, items->items[i - 1]);
    }
    return lp_jv_list(out, self.type == LP_J_ITER ? LP_J_LIST : LP_J_ITER);
}

FILTER(filter_items) {
    UNUSED;
    if (self.type == LP_J_UNDEFINED) return lp_jv_list(lp_jlist_new(x), LP_J_ITER);
    if (self.type != LP_J_DICT) return lp_jv_bad(x, self, "items");
    lp_jv view = self;
    view.type = LP_J_VIEW;
    view.kind = 'i';
    return lp_jv_list(lp_jv_items(x, view), LP_J_ITER);
}

FILTER(filter_attr) {
    UNUSED;
    const lp_jstr *name = lp_jarg_str(x, arg[0], "attr");
    if (name == NULL) return self;
    if (self.type == LP_J_DICT) { /* a mapping's keys are not attributes */
        lp_jdict empty = {0};
        lp_jv v = lp_jx_attr(x, lp_jv_dict(&empty), lp_jstr_bytes(name));
        if (v.type != LP_J_METHOD) return v;
    }
    return lp_jx_attr(x, self, lp_jstr_bytes(name));
}

FILTER(filter_join) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self);
    const lp_jstr *glue = arg[0].type == LP_J_MISSING ? NULL : lp_jarg_text(x, arg[0]);
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        if (i > 0 && glue != NULL) lp_jbuf_add_str(&b, glue);
        lp_jbuf_print(&b, get_path(x, items->items[i], arg[1], lp_jv_missing()));
    }
    return lp_jbuf_value(&b);
}

FILTER(filter_batch) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self), *out = lp_jlist_new(x), *row = lp_jlist_new(x);
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        if (lp_jv_equal(x, lp_jv_int((int64_t)row->len),
                        arg[0])) { /* so a size of "a" is never met */
            lp_jlist_add(x, out, lp_jv_list(row, LP_J_LIST));
            row = lp_jlist_new(x);
        }
        lp_jlist_add(x, row, items->items[i]);
    }
    if (x->code != LP_OK || row->len == 0) return lp_jv_list(out, LP_J_ITER);
    bool fill = arg[1].type != LP_J_MISSING && arg[1].type != LP_J_NONE;
    int64_t n = fill ? lp_jarg_int(x, arg[0], 1, "batch") : 0;
    while ((int64_t)row->len < n && x->code == LP_OK) lp_jlist_add(x, row, arg[1]);
    lp_jlist_add(x, out, lp_jv_list(row, LP_J_LIST));
    return lp_jv_list(out, LP_J_ITER);
}

FILTER(filter_slice) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self), *out = lp_jlist_new(x);
    int64_t n = lp_jarg_int(x, arg[0], 1, "slice");
    if (items == NULL) return self;
    if (n == 0) return lp_jx_fail(x, LP_ERR_FORMAT, "division by zero");
    bool fill = arg[1].type != LP_J_MISSING && arg[1].type != LP_J_NONE;
    int64_t each = n > 0 ? (int64_t)items->len / n : 0, extra = n > 0 ? (int64_t)items->len % n : 0;
    size_t at = 0;
    for (int64_t i = 0; i < n && x->code == LP_OK; i++) {
        lp_jlist *column = lp_jlist_new(x);
        for (int64_t k = 0; k < each + (i < extra ? 1 : 0) && x->code == LP_OK; k++) {
            lp_jlist_add(x, column, items->items[at++]);
        }
        if (fill && i >= extra) lp_jlist_add(x, column, arg[1]);
        lp_jlist_add(x, out, lp_jv_list(column, LP_J_LIST));
    }
    return lp_jv_list(out, LP_J_ITER);
}

/* --- applying ----------------------------------------------------------------------------- */

static lp_jkeyword *take_keyword(lp_jargs *args, const char *name) {
    for (size_t i = 0; i < args->n_keywords; i++) {
        if (lp_str_is(args->keywords[i].name, name)) return &args->keywords[i];
    }
    return NULL;
}

/* The arguments behind the first `skip` ones, fresh for each use. */
static lp_jargs rest_of(lp_jargs *args, size_t skip) {
    lp_jargs rest = *args;
    rest.at = args->n > skip ? args->at + skip : NULL;
    rest.n = args->n > skip ? args->n - skip : 0;
    rest.size = rest.n;
    for (size_t i = 0; i < args->n_keywords; i++) args->keywords[i].used = false;
    return rest;
}

FILTER(filter_map) {
    UNUSED;
    lp_jlist *out = lp_jlist_new(x);
    if (!lp_jv_truth(self)) return lp_jv_list(out, LP_J_ITER);
    lp_jkeyword *attribute = args->n == 0 ? take_keyword(args, "attribute") : NULL;
    lp_jkeyword *otherwise = take_keyword(args, "default");
    size_t named = attribute == NULL ? 0 : 1 + (otherwise != NULL);
    if (attribute == NULL && (args->n == 0 || args->at[0].type != LP_J_STR)) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "map takes a filter's name or attribute=");
    }
    if (attribute != NULL && args->n_keywords > named) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "map(attribute=) takes only default= besides");
    }
    lp_jlist *items = lp_jv_items(x, self);
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        lp_jv v = items->items[i];
        if (attribute != NULL) {
            v = get_path(x, v, attribute->value,
                         otherwise == NULL ? lp_jv_missing() : otherwise->value);
        } else {
            lp_jargs rest = rest_of(args, 1);
            v = lp_jx_filter(x, lp_jstr_bytes(args->at[0].u.s), v, &rest);
        }
        lp_jlist_add(x, out, v);
    }
    return lp_jv_list(out, LP_J_ITER);
}

static lp_jv select_items(lp_jx *x, lp_jv self, lp_jargs *args, bool want, bool attribute) {
    lp_jlist *out = lp_jlist_new(x);
    size_t skip = attribute ? 1 : 0;
    if (!lp_jv_truth(self)) return lp_jv_list(out, LP_J_ITER);
    if (args->n < skip) return lp_jx_fail(x, LP_ERR_FORMAT, "the attribute's name is missing");
    bool test = args->n > skip;
    if (test && args->at[skip].type != LP_J_STR)
        return lp_jv_bad(x, args->at[skip], "a test's name");
    lp_jlist *items = lp_jv_items(x, self);
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        lp_jv v = items->items[i];
        if (attribute) v = get_path(x, v, args->at[0], lp_jv_missing());
        bool yes = lp_jv_truth(v);
        if (test) {
            lp_jargs rest = rest_of(args, skip + 1);
            yes = lp_jx_test(x, lp_jstr_bytes(args->at[skip].u.s), v, &rest);
        }
        if (yes == want) lp_jlist_add(x, out, items->items[i]);
    }
    return lp_jv_list(out, LP_J_ITER);
}

FILTER(filter_select) {
    UNUSED;
    return select_items(x, self, args, true, false);
}

FILTER(filter_reject) {
    UNUSED;
    return select_items(x, self, args, false, false);
}

FILTER(filter_selectattr) {
    UNUSED;
    return select_items(x, self, args, true, true);
}

FILTER(filter_rejectattr) {
    UNUSED;
    return select_items(x, self, args, false, true);
}

const lp_jbuiltin lp_jfilters_sequence[] = {
    {"list", filter_list, ""},
    {"join", filter_join, "d? attribute?"},
    {"items", filter_items, ""},
    {"selectattr", filter_selectattr, "*"},
    {"rejectattr", filter_rejectattr, "*"},
    {"select", filter_select, "*"},
    {"reject", filter_reject, "*"},
    {"map", filter_map, "*"},
    {"first", filter_first, ""},
    {"last", filter_last, ""},
    {"dictsort", filter_dictsort, "case_sensitive? by? reverse?"},
    {"sort", filter_sort, "reverse? case_sensitive? attribute?"},
    {"unique", filter_unique, "case_sensitive? attribute?"},
    {"min", filter_min, "case_sensitive? attribute?"},
    {"max", filter_max, "case_sensitive? attribute?"},
    {"sum", filter_sum, "attribute? start?"},
    {"reverse", filter_reverse, ""},
    {"attr", filter_attr, "name"},
    {"batch", filter_batch, "linecount fill_with?"},
    {"slice", filter_slice, "slices fill_with?"},
    {"groupby", filter_groupby, "attribute default? case_sensitive?"},
    {NULL, NULL, NULL},
};
