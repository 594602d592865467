/* jinja_methods.c - methods of strings, mappings, lists and loops, as Python has them.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "chat/jinja_core.h"

#define METHOD(name) static lp_jv name(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args)
#define UNUSED       (void)x, (void)self, (void)arg, (void)args

static bool given(lp_jv v) {
    return v.type != LP_J_MISSING && v.type != LP_J_NONE;
}

/* --- strings: cutting ----------------------------------------------------------------------- */

static lp_jv strip(lp_jx *x, lp_jv self, lp_jv chars, bool left, bool right) {
    const lp_jstr *set = given(chars) ? lp_jarg_str(x, chars, "strip") : NULL;
    return x->code != LP_OK ? self : lp_jstr_strip(x, self.u.s, set, left, right);
}

METHOD(str_strip) {
    UNUSED;
    return strip(x, self, arg[0], true, true);
}

METHOD(str_lstrip) {
    UNUSED;
    return strip(x, self, arg[0], true, false);
}

METHOD(str_rstrip) {
    UNUSED;
    return strip(x, self, arg[0], false, true);
}

/* Words between white space; at most `max` cuts (< 0: any), counted from the left or right. */
static void split_blank(lp_jx *x, const lp_jstr *s, int64_t max, lp_jlist *out) {
    size_t at = 0, n = 0;
    while (x->code == LP_OK) {
        while (at < s->len && lp_jchar_space(lp_jstr_char(s, at, &n))) at += n;
        if (at >= s->len) return;
        size_t begin = at;
        if (max == 0) {
            lp_jlist_add(x, out, lp_jstr_part(x, s, at, s->len));
            return;
        }
        while (at < s->len && !lp_jchar_space(lp_jstr_char(s, at, &n))) at += n;
        lp_jlist_add(x, out, lp_jstr_part(x, s, begin, at));
        if (max > 0) max--;
    }
}

static void split_at(lp_jx *x, const lp_jstr *s, const lp_jstr *sep, int64_t max, lp_jlist *out) {
    size_t at = 0;
    while (x->code == LP_OK && max != 0) {
        size_t hit = lp_jstr_find(x, lp_jstr_bytes(s), lp_jstr_bytes(sep), at);
        if (hit == SIZE_MAX) break;
        lp_jlist_add(x, out, lp_jstr_part(x, s, at, hit));
        at = hit + sep->len;
        if (max > 0) max--;
    }
    lp_jlist_add(x, out, lp_jstr_part(x, s, at, s->len));
}

static lp_jlist *split(lp_jx *x, lp_jv self, lp_jv sep, int64_t max) {
    const lp_jstr *s = self.u.s, *by = given(sep) ? lp_jarg_str(x, sep, "split") : NULL;
    lp_jlist *out = lp_jlist_new(x);
    if (x->code != LP_OK || !lp_jx_read(x, s)) return NULL;
    if (by != NULL && by->len == 0) {
        lp_jx_fail(x, LP_ERR_FORMAT, "split: the separator is empty");
        return NULL;
    }
    if (by == NULL) {
        split_blank(x, s, max, out);
    } else {
        split_at(x, s, by, max, out);
    }
    return x->code == LP_OK ? out : NULL;
}

METHOD(str_split) {
    UNUSED;
    return lp_jv_list(split(x, self, arg[0], lp_jarg_int(x, arg[1], -1, "split")), LP_J_LIST);
}

/* Cut from the right: all pieces, then the surplus ones on the left joined again. */
METHOD(str_rsplit) {
    UNUSED;
    int64_t max = lp_jarg_int(x, arg[1], -1, "rsplit");
    lp_jlist *all = split(x, self, arg[0], -1), *out = lp_jlist_new(x);
    if (all == NULL || max < 0 || (int64_t)all->len <= max + 1) return lp_jv_list(all, LP_J_LIST);
    size_t keep = (size_t)max, first = all->len - keep;
    const lp_jstr *s = self.u.s, *last = all->items[first - 1].u.s;
    lp_jv head = lp_jstr_part(x, s, 0, (size_t)(last->data - s->data) + last->len);
    lp_jlist_add(x, out, head);
    for (size_t i = first; i < all->len && x->code == LP_OK; i++)
        lp_jlist_add(x, out, all->items[i]);
    return lp_jv_list(out, LP_J_LIST);
}

METHOD(str_splitlines) {
    UNUSED;
    const lp_jstr *s = self.u.s;
    lp_jlist *out = lp_jlist_new(x);
    bool keep = lp_jarg_bool(arg[0], false);
    if (!lp_jx_read(x, s)) return self;
    size_t from = 0, n = 0;
    for (size_t at = 0; at < s->len && x->code == LP_OK; at += n) {
        size_t end = lp_jchar_line_end(s, at);
        lp_jstr_char(s, at, &n);
        if (end == 0) continue;
        lp_jlist_add(x, out, lp_jstr_part(x, s, from, keep ? at + end : at));
        from = at + end;
        n = end;
    }
    if (from < s->len) lp_jlist_add(x, out, lp_jstr_part(x, s, from, s->len));
    return lp_jv_list(out, LP_J_LIST);
}

static lp_jv partition(lp_jx *x, lp_jv self, lp_jv sep, bool last) {
    const lp_jstr *s = self.u.s, *by = lp_jarg_str(x, sep, "partition");
    if (by == NULL) return self;
    if (by->len == 0) return lp_jx_fail(x, LP_ERR_FORMAT, "partition: the separator is empty");
    size_t at = last ? lp_jstr_find_last(x, lp_jstr_bytes(s), lp_jstr_bytes(by))
                     : lp_jstr_find(x, lp_jstr_bytes(s), lp_jstr_bytes(by), 0);
    if (x->code != LP_OK) return self;
    size_t begin = at == SIZE_MAX ? (last ? 0 : s->len) : at;
    size_t end = at == SIZE_MAX ? begin : at + by->len;
    lp_jlist *out = lp_jlist_new(x);
    lp_jlist_add(x, out, lp_jstr_part(x, s, 0, begin));
    lp_jlist_add(x, out, lp_jstr_part(x, s, begin, end));
    lp_jlist_add(x, out, lp_jstr_part(x, s, end, s->len));
    return lp_jv_list(out, LP_J_TUPLE);
}

METHOD(str_partition) {
    UNUSED;
    return partition(x, self, arg[0], false);
}

METHOD(str_rpartition) {
    UNUSED;
    return partition(x, self, arg[0], true);
}

METHOD(str_removeprefix) {
    UNUSED;
    const lp_jstr *s = self.u.s, *p = lp_jarg_str(x, arg[0], "removeprefix");
    if (p == NULL || !lp_str_starts(lp_jstr_bytes(s), lp_jstr_bytes(p))) return self;
    return lp_jstr_part(x, s, p->len, s->len);
}

METHOD(str_removesuffix) {
    UNUSED;
    const lp_jstr *s = self.u.s, *p = lp_jarg_str(x, arg[0], "removesuffix");
    if (p == NULL || p->len == 0 || !lp_str_ends(lp_jstr_bytes(s), lp_jstr_bytes(p))) return self;
    return lp_jstr_part(x, s, 0, s->len - p->len);
}

/* --- strings: looking ----------------------------------------------------------------------- */

/* The part between the optional character positions start and end. False: start > length. */
static bool window(lp_jx *x, const lp_jstr *s, const lp_jv *bounds, size_t *begin, size_t *end) {
    int64_t at[2] = {0, (int64_t)s->chars}, n = (int64_t)s->chars;
    for (int i = 0; i < 2; i++) {
        if (given(bounds[i])) at[i] = lp_jarg_int(x, bounds[i], 0, "a position");
        if (at[i] < 0) at[i] = at[i] + n < 0 ? 0 : at[i] + n;
    }
    if (at[1] > n) at[1] = n;
    bool ascii = s->chars == s->len;
    if (x->code != LP_OK || (!ascii && !lp_jx_read(x, s)) || at[0] > at[1]) return false;
    *begin = lp_jstr_offset(s, (size_t)at[0]);
    *end = lp_jstr_offset(s, (size_t)at[1]);
    return true;
}

static lp_jv has_end(lp_jx *x, lp_jv self, const lp_jv *arg, bool front) {
    size_t begin = 0, end = 0;
    lp_jv one = arg[0], *options = &one;
    size_t n = 1;
    if (one.type == LP_J_TUPLE) {
        options = one.u.l->items;
        n = one.u.l->len;
    }
    bool inside = window(x, self.u.s, arg + 1, &begin, &end), yes = false;
    lp_str part = lp_str_slice(lp_jstr_bytes(self.u.s), begin, end);
    for (size_t i = 0; i < n && x->code == LP_OK; i++) {
        const lp_jstr *want = lp_jarg_str(x, options[i], front ? "startswith" : "endswith");
        if (want == NULL || !inside || yes) continue;
        yes = front ? lp_str_starts(part, lp_jstr_bytes(want))
                    : lp_str_ends(part, lp_jstr_bytes(want));
    }
    return lp_jv_bool(yes);
}

METHOD(str_startswith) {
    UNUSED;
    return has_end(x, self, arg, true);
}

METHOD(str_endswith) {
    UNUSED;
    return has_end(x, self, arg, false);
}

static lp_jv find(lp_jx *x, lp_jv self, const lp_jv *arg, bool last, bool must) {
    const lp_jstr *s = self.u.s, *want = lp_jarg_str(x, arg[0], "find");
    size_t begin = 0, end = 0, at = SIZE_MAX;
    if (want == NULL) return self;
    if (window(x, s, arg + 1, &begin, &end) && want->len <= end - begin) {
        lp_str part = lp_str_slice(lp_jstr_bytes(s), 0, end);
        at = last ? lp_jstr_find_last(x, part, lp_jstr_bytes(want))
                  : lp_jstr_find(x, part, lp_jstr_bytes(want), begin);
        if (at != SIZE_MAX && at < begin) at = SIZE_MAX;
    }
    if (x->code != LP_OK) return self;
    if (at == SIZE_MAX) {
        return must ? lp_jx_fail(x, LP_ERR_FORMAT, "the part is not in the string") : lp_jv_int(-1);
    }
    lp_jv head = lp_jstr_part(x, s, 0, at);
    return head.type == LP_J_STR ? lp_jv_int((int64_t)head.u.s->chars) : head;
}

METHOD(str_find) {
    UNUSED;
    return find(x, self, arg, false, false);
}

METHOD(str_rfind) {
    UNUSED;
    return find(x, self, arg, true, false);
}

METHOD(str_index) {
    UNUSED;
    return find(x, self, arg, false, true);
}

METHOD(str_rindex) {
    UNUSED;
    return find(x, self, arg, true, true);
}

METHOD(str_count) {
    UNUSED;
    const lp_jstr *want = lp_jarg_str(x, arg[0], "count");
    size_t begin = 0, end = 0;
    int64_t count = 0;
    if (want == NULL || !window(x, self.u.s, arg + 1, &begin, &end)) return lp_jv_int(0);
    lp_str part = lp_str_slice(lp_jstr_bytes(self.u.s), begin, end);
    if (want->len == 0) {
        lp_jv inside = lp_jstr_part(x, self.u.s, begin, end);
        return inside.type == LP_J_STR ? lp_jv_int((int64_t)inside.u.s->chars + 1) : inside;
    }
    for (size_t at = 0; (at = lp_jstr_find(x, part, lp_jstr_bytes(want), at)) != SIZE_MAX;
         at += want->len) {
        count++;
    }
    return lp_jv_int(count);
}

/* --- strings: building ---------------------------------------------------------------------- */

METHOD(str_replace) {
    UNUSED;
    const lp_jstr *old = lp_jarg_str(x, arg[0], "replace"), *by = lp_jarg_str(x, arg[1], "replace");
    int64_t max = lp_jarg_int(x, arg[2], -1, "replace");
    if (x->code != LP_OK || !self.u.s->markup) {
        return x->code != LP_OK ? self : lp_jstr_replace(x, self.u.s, old, by, max);
    }
    lp_jv escaped = lp_jstr_escape(x, by);
    if (x->code != LP_OK) return self;
    lp_jv v = lp_jstr_replace(x, self.u.s, old, escaped.u.s, max);
    return lp_jstr_mark(x, v);
}

METHOD(str_join) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, arg[0]);
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
        const lp_jstr *s = lp_jarg_str(x, items->items[i], "join");
        if (s == NULL) break;
        if (i > 0) lp_jbuf_add_str(&b, self.u.s);
        if (self.u.s->markup && !s->markup) {
            lp_jbuf_escape(&b, s);
        } else {
            lp_jbuf_add_str(&b, s);
        }
    }
    b.markup = self.u.s->markup;
    return lp_jbuf_value(&b);
}

METHOD(str_format) {
    UNUSED;
    return lp_jx_format(x, self.u.s, args);
}

METHOD(str_lower) {
    UNUSED;
    return lp_jstr_case(x, self.u.s, 'l');
}

METHOD(str_upper) {
    UNUSED;
    return lp_jstr_case(x, self.u.s, 'u');
}

METHOD(str_capitalize) {
    UNUSED;
    return lp_jstr_case(x, self.u.s, 'c');
}

METHOD(str_title) {
    UNUSED;
    return lp_jstr_case(x, self.u.s, 't');
}

METHOD(str_swapcase) {
    UNUSED;
    return lp_jstr_case(x, self.u.s, 's');
}

static lp_jv pad(lp_jx *x, lp_jv self, const lp_jv *arg, char side) {
    int64_t width = lp_jarg_int(x, arg[0], 0, "a width");
    const lp_jstr *fill = arg[1].type == LP_J_MISSING ? NULL : lp_jarg_str(x, arg[1], "a fill");
    if (fill != NULL && fill->chars != 1) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "the fill must be one character");
    }
    return x->code != LP_OK ? self : lp_jstr_pad(x, self.u.s, width, fill, side);
}

METHOD(str_center) {
    UNUSED;
    return pad(x, self, arg, 'm');
}

METHOD(str_ljust) {
    UNUSED;
    return pad(x, self, arg, 'l');
}

METHOD(str_rjust) {
    UNUSED;
    return pad(x, self, arg, 'r');
}

METHOD(str_zfill) {
    UNUSED;
    const lp_jstr *s = self.u.s;
    int64_t width = lp_jarg_int(x, arg[0], 0, "zfill");
    size_t sign = s->len > 0 && (s->data[0] == '-' || s->data[0] == '+') ? 1 : 0;
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    lp_jbuf_add_part(&b, s, 0, sign);
    for (int64_t i = (int64_t)s->chars; i < width && x->code == LP_OK; i++) {
        lp_jbuf_add_text(&b, "0", true);
    }
    lp_jbuf_add_part(&b, s, sign, s->len);
    return lp_jbuf_value(&b);
}

const lp_jbuiltin lp_jmethods_str[] = {
    {"strip", str_strip, "/chars?"},
    {"lstrip", str_lstrip, "/chars?"},
    {"rstrip", str_rstrip, "/chars?"},
    {"split", str_split, "sep? maxsplit?"},
    {"rsplit", str_rsplit, "sep? maxsplit?"},
    {"splitlines", str_splitlines, "keepends?"},
    {"partition", str_partition, "/sep"},
    {"rpartition", str_rpartition, "/sep"},
    {"removeprefix", str_removeprefix, "/prefix"},
    {"removesuffix", str_removesuffix, "/suffix"},
    {"startswith", str_startswith, "/prefix start? end?"},
    {"endswith", str_endswith, "/suffix start? end?"},
    {"find", str_find, "/sub start? end?"},
    {"rfind", str_rfind, "/sub start? end?"},
    {"index", str_index, "/sub start? end?"},
    {"rindex", str_rindex, "/sub start? end?"},
    {"count", str_count, "/sub start? end?"},
    {"replace", str_replace, "/old new count?"},
    {"join", str_join, "/iterable"},
    {"format", str_format, "*"},
    {"lower", str_lower, ""},
    {"casefold", str_lower, ""},
    {"upper", str_upper, ""},
    {"capitalize", str_capitalize, ""},
    {"title", str_title, ""},
    {"swapcase", str_swapcase, ""},
    {"center", str_center, "/width fill?"},
    {"ljust", str_ljust, "/width fill?"},
    {"rjust", str_rjust, "/width fill?"},
    {"zfill", str_zfill, "/width"},
    {NULL, NULL, NULL},
};

/* --- mappings, lists, loops ----------------------------------------------------------------- */

static lp_jv view(lp_jv self, uint8_t kind) {
    self.type = LP_J_VIEW;
    self.kind = kind;
    return self;
}

METHOD(dict_keys) {
    UNUSED;
    return view(self, 'k');
}

METHOD(dict_values) {
    UNUSED;
    return view(self, 'v');
}

METHOD(dict_items) {
    UNUSED;
    return view(self, 'i');
}

METHOD(dict_copy) {
    UNUSED;
    return self; /* nothing can change it */
}

METHOD(dict_get) {
    UNUSED;
    const lp_jv *v = lp_jdict_get(x, self.u.d, arg[0]);
    if (arg[0].type == LP_J_LIST || arg[0].type == LP_J_DICT) return lp_jv_bad(x, arg[0], "a key");
    return v != NULL ? *v : arg[1].type == LP_J_MISSING ? lp_jv_none() : arg[1];
}

const lp_jbuiltin lp_jmethods_dict[] = {
    {"get", dict_get, "/key default?"}, {"items", dict_items, ""}, {"keys", dict_keys, ""},
    {"values", dict_values, ""},        {"copy", dict_copy, ""},   {NULL, NULL, NULL},
};

METHOD(list_count) {
    UNUSED;
    int64_t count = 0;
    lp_jlist *items = lp_jv_items(x, self);
    for (size_t i = 0; items != NULL && i < items->len && lp_jx_pay(x, 1); i++) {
        if (lp_jv_equal(x, items->items[i], arg[0])) count++;
    }
    return lp_jv_int(count);
}

METHOD(list_index) {
    UNUSED;
    lp_jlist *items = lp_jv_items(x, self);
    for (size_t i = 0; items != NULL && i < items->len && lp_jx_pay(x, 1); i++) {
        if (lp_jv_equal(x, items->items[i], arg[0])) return lp_jv_int((int64_t)i);
    }
    return lp_jx_fail(x, LP_ERR_FORMAT, "the item is not in the list");
}

METHOD(list_copy) {
    UNUSED;
    if (self.type != LP_J_LIST) return lp_jv_bad(x, self, "copy()");
    return self;
}

const lp_jbuiltin lp_jmethods_list[] = {
    {"count", list_count, "/value"},
    {"index", list_index, "/value"},
    {"copy", list_copy, ""},
    {NULL, NULL, NULL},
};

METHOD(loop_cycle) {
    UNUSED;
    if (args->n == 0 || args->n_keywords > 0) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "loop.cycle takes one or more arguments");
    }
    return args->at[self.u.loop->at % args->n];
}

METHOD(loop_changed) {
    UNUSED;
    lp_jlist *now = lp_jlist_new(x);
    for (size_t i = 0; i < args->n && x->code == LP_OK; i++) lp_jlist_add(x, now, args->at[i]);
    lp_jv values = lp_jv_list(now, LP_J_TUPLE), before = self.u.loop->changed;
    bool same = before.type == LP_J_TUPLE && x->code == LP_OK && lp_jv_equal(x, before, values);
    if (!same) self.u.loop->changed = values;
    return lp_jv_bool(!same);
}

const lp_jbuiltin lp_jmethods_loop[] = {
    {"cycle", loop_cycle, "*"},
    {"changed", loop_changed, "*"},
    {NULL, NULL, NULL},
};

METHOD(cycler_next) {
    UNUSED;
    lp_jcycler *c = self.u.cycler;
    if (c->joiner) return lp_jx_fail(x, LP_ERR_FORMAT, "a joiner has no next()");
    lp_jv v = c->items->items[c->at];
    c->at = (c->at + 1) % c->items->len;
    return v;
}

METHOD(cycler_reset) {
    UNUSED;
    self.u.cycler->at = 0;
    return lp_jv_none();
}

const lp_jbuiltin lp_jmethods_cycler[] = {
    {"next", cycler_next, ""},
    {"reset", cycler_reset, ""},
    {NULL, NULL, NULL},
};
