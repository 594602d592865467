/* jinja_call.c - arguments, calls of macros and library functions, global functions.
 *
 * A library row names its parameters as Python's def does; lp_jx_builtin matches positional and
 * named arguments to them and leaves MISSING where an optional one was not given.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "chat/jinja_core.h"

/* --- arguments ---------------------------------------------------------------------------- */

void lp_jargs_add(lp_jx *x, lp_jargs *args, lp_jv v) {
    if (x->code != LP_OK || !lp_jx_pay(x, 1)) return;
    if (args->n == args->size) {
        size_t size = args->size == 0 ? 4 : args->size * 2;
        lp_jv *at = lp_jx_alloc(x, size, sizeof *at);
        if (at == NULL) return;
        if (args->n > 0) memcpy(at, args->at, args->n * sizeof *at);
        args->at = at;
        args->size = size;
    }
    args->at[args->n++] = v;
}

void lp_jargs_keyword(lp_jx *x, lp_jargs *args, lp_str name, lp_jv v) {
    if (x->code != LP_OK || !lp_jx_pay(x, 1 + args->n_keywords / 16)) return;
    for (size_t i = 0; i < args->n_keywords; i++) {
        if (lp_str_equal(args->keywords[i].name, name)) {
            lp_jx_fail(x, LP_ERR_FORMAT, "a named argument is given twice");
            return;
        }
    }
    if (args->n_keywords == args->keywords_size) {
        size_t size = args->keywords_size == 0 ? 4 : args->keywords_size * 2;
        lp_jkeyword *at = lp_jx_alloc(x, size, sizeof *at);
        if (at == NULL) return;
        if (args->n_keywords > 0) memcpy(at, args->keywords, args->n_keywords * sizeof *at);
        args->keywords = at;
        args->keywords_size = size;
    }
    args->keywords[args->n_keywords++] = (lp_jkeyword){.name = name, .value = v};
}

static void spread(lp_jx *x, lp_jargs *args, const lp_jnode *node, lp_jv v) {
    if (node->op == 2) {
        lp_jlist *items = lp_jv_items(x, v);
        for (size_t i = 0; items != NULL && i < items->len && x->code == LP_OK; i++) {
            lp_jargs_add(x, args, items->items[i]);
        }
        return;
    }
    if (v.type != LP_J_DICT) {
        lp_jv_bad(x, v, "spreading named arguments");
        return;
    }
    for (size_t i = 0; i < v.u.d->len && x->code == LP_OK; i++) {
        const lp_jentry *e = &v.u.d->entries[i];
        if (e->key.type != LP_J_STR) {
            lp_jv_bad(x, e->key, "an argument's name");
        } else {
            lp_jargs_keyword(x, args, lp_jstr_bytes(e->key.u.s), e->value);
        }
    }
}

bool lp_jx_args(lp_jx *x, lp_jscope *scope, const lp_jnode *list, lp_jargs *args) {
    for (; list != NULL && x->code == LP_OK; list = list->next) {
        lp_jv v = lp_jx_eval(x, scope, list->a);
        if (list->op == 0) {
            lp_jargs_add(x, args, v);
        } else if (list->op == 1) {
            lp_jargs_keyword(x, args, list->name, v);
        } else {
            spread(x, args, list, v);
        }
    }
    return x->code == LP_OK;
}

static lp_jkeyword *keyword(lp_jargs *args, lp_str name) {
    for (size_t i = 0; i < args->n_keywords; i++) {
        lp_jkeyword *k = &args->keywords[i];
        if (!k->used && lp_str_equal(k->name, name)) return k;
    }
    return NULL;
}

/* --- macros ------------------------------------------------------------------------------- */

static void bind_extra(lp_jx *x, lp_jscope *inner, const lp_jnode *node, lp_jargs *args,
                       size_t taken) {
    if (node->op & LP_JM_CALLER) {
        lp_jkeyword *k = keyword(args, lp_str_from("caller"));
        if (k != NULL) k->used = true;
        lp_jscope_set(x, inner, lp_str_from("caller"),
                      k == NULL ? lp_jv_undefined(NULL) : k->value);
    }
    lp_jdict *rest = node->op & LP_JM_KWARGS ? lp_jdict_new(x) : NULL;
    for (size_t i = 0; i < args->n_keywords && x->code == LP_OK; i++) {
        const lp_jkeyword *k = &args->keywords[i];
        if (k->used) continue;
        if (rest == NULL) {
            int len = k->name.len > 60 ? 60 : (int)k->name.len;
            lp_jx_fail(x, LP_ERR_FORMAT, "this macro has no parameter '%.*s'", len, k->name.data);
            return;
        }
        lp_jdict_set(x, rest, lp_jstr_new(x, k->name, true), k->value);
    }
    if (rest != NULL) lp_jscope_set(x, inner, lp_str_from("kwargs"), lp_jv_dict(rest));
    if (node->op & LP_JM_VARARGS) {
        lp_jlist *more = lp_jlist_new(x);
        for (size_t i = taken; i < args->n && x->code == LP_OK; i++)
            lp_jlist_add(x, more, args->at[i]);
        lp_jscope_set(x, inner, lp_str_from("varargs"), lp_jv_list(more, LP_J_TUPLE));
    } else if (taken < args->n) {
        lp_jx_fail(x, LP_ERR_FORMAT, "this macro takes at most %zu arguments", taken);
    }
}

/* Parameters are filled first, defaults computed after: one may use those to its left. */
static bool bind_macro(lp_jx *x, lp_jscope *inner, const lp_jnode *node, lp_jargs *args) {
    size_t taken = 0;
    for (const lp_jnode *p = node->list; p != NULL && x->code == LP_OK; p = p->next) {
        lp_jv v = lp_jv_missing();
        if (taken < args->n) {
            v = args->at[taken++];
        } else {
            lp_jkeyword *k = keyword(args, p->name);
            if (k != NULL) {
                k->used = true;
                v = k->value;
            }
        }
        lp_jscope_set(x, inner, p->name, v);
    }
    bind_extra(x, inner, node, args, taken);
    size_t i = 0;
    for (const lp_jnode *p = node->list; p != NULL && x->code == LP_OK; p = p->next, i++) {
        if (inner->vars[i].value.type != LP_J_MISSING) continue;
        lp_jv name = lp_jstr_new(x, p->name, true);
        lp_jscope_set(x, inner, p->name, lp_jv_undefined(name.type == LP_J_STR ? name.u.s : NULL));
        if (p->a != NULL) lp_jscope_set(x, inner, p->name, lp_jx_eval(x, inner, p->a));
    }
    return x->code == LP_OK;
}

static lp_jv call_macro(lp_jx *x, const lp_jmacro *macro, lp_jargs *args) {
    lp_jscope *inner = lp_jscope_new(x, macro->scope);
    if (inner == NULL || !bind_macro(x, inner, macro->node, args)) return lp_jv_undefined(NULL);
    return lp_jx_capture(x, inner, macro->node->body);
}

/* --- calls -------------------------------------------------------------------------------- */

const lp_jbuiltin *lp_jbuiltin_find(const lp_jbuiltin *table, lp_str name) {
    for (; table->name != NULL; table++) {
        if (lp_str_is(name, table->name)) return table;
    }
    return NULL;
}

lp_jv lp_jx_builtin(lp_jx *x, const lp_jbuiltin *row, lp_jv self, lp_jargs *args) {
    lp_jv arg[LP_J_ARGS];
    for (size_t i = 0; i < LP_J_ARGS; i++) arg[i] = lp_jv_missing();
    const char *p = row->names;
    if (*p == '*') return row->call(x, self, arg, args);
    bool only_positional = *p == '/';
    if (only_positional) p++;
    size_t n = 0;
    for (; *p != 0; n++) {
        size_t len = strcspn(p, " ");
        bool optional = p[len - 1] == '?';
        lp_str name = {p, optional ? len - 1 : len};
        lp_jkeyword *k = only_positional ? NULL : keyword(args, name);
        if (n < args->n) {
            arg[n] = args->at[n];
        } else if (k != NULL) {
            arg[n] = k->value;
            k->used = true;
        } else if (!optional) {
            return lp_jx_fail(x, LP_ERR_FORMAT, "%s misses its argument %.*s", row->name,
                              (int)name.len, name.data);
        }
        p += len;
        while (*p == ' ') p++;
    }
    if (args->n > n) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "%s takes at most %zu arguments", row->name, n);
    }
    for (size_t i = 0; i < args->n_keywords; i++) {
        if (args->keywords[i].used) continue;
        int len = args->keywords[i].name.len > 60 ? 60 : (int)args->keywords[i].name.len;
        return lp_jx_fail(x, LP_ERR_FORMAT, "%s has no free argument '%.*s'", row->name, len,
                          args->keywords[i].name.data);
    }
    return row->call(x, self, arg, args);
}

/* {{ loop(children) }} of a recursive loop. */
static lp_jv call_loop(lp_jx *x, const lp_jloop *loop, lp_jargs *args) {
    if (loop->node->op != 1 || args->n != 1 || args->n_keywords != 0) {
        return lp_jx_fail(x, LP_ERR_FORMAT,
                          "only a recursive loop can be called, with one argument");
    }
    lp_jbuf b, *outer = x->out;
    if (!lp_jx_enter(x)) return lp_jv_undefined(NULL);
    lp_jbuf_init(&b, x);
    x->out = &b;
    lp_jx_for(x, loop->scope, loop->node, args->at[0], loop->depth + 1);
    x->out = outer;
    x->depth--;
    return lp_jbuf_value(&b);
}

static lp_jv call_joiner(lp_jx *x, lp_jcycler *c, lp_jargs *args) {
    if (!c->joiner || args->n + args->n_keywords > 0) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "this cannot be called");
    }
    return c->at++ == 0 ? lp_jstr_text(x, "", true) : c->items->items[0];
}

lp_jv lp_jx_call(lp_jx *x, lp_jv callee, lp_jargs *args) {
    if (x->code != LP_OK || !lp_jx_pay(x, 1)) return lp_jv_undefined(NULL);
    switch (callee.type) {
    case LP_J_MACRO:
        return call_macro(x, callee.u.macro, args);
    case LP_J_METHOD:
        return lp_jx_builtin(x, callee.u.method->function, callee.u.method->self, args);
    case LP_J_FUNCTION:
        return lp_jx_builtin(x, callee.u.function, lp_jv_none(), args);
    case LP_J_LOOP:
        return call_loop(x, callee.u.loop, args);
    case LP_J_CYCLER:
        return call_joiner(x, callee.u.cycler, args);
    default:
        return lp_jv_bad(x, callee, "a call");
    }
}

lp_jv lp_jx_filter(lp_jx *x, lp_str name, lp_jv self, lp_jargs *args) {
    if (x->code != LP_OK || !lp_jx_pay(x, 1)) return lp_jv_undefined(NULL);
    const lp_jbuiltin *row = lp_jbuiltin_find(lp_jfilters_text, name);
    if (row == NULL) row = lp_jbuiltin_find(lp_jfilters_sequence, name);
    if (row != NULL) {
        if (!lp_jx_enter(x)) return self; /* map('map', 'map', ...) calls itself */
        lp_jv v = lp_jx_builtin(x, row, self, args);
        x->depth--;
        return v;
    }
    int len = name.len > 60 ? 60 : (int)name.len;
    return lp_jx_fail(x, LP_ERR_UNSUPPORTED, "there is no filter '%.*s'", len, name.data);
}

bool lp_jx_test(lp_jx *x, lp_str name, lp_jv self, lp_jargs *args) {
    if (x->code != LP_OK || !lp_jx_pay(x, 1)) return false;
    const lp_jbuiltin *row = lp_jbuiltin_find(lp_jtests, name);
    if (row != NULL) return lp_jv_truth(lp_jx_builtin(x, row, self, args)) && x->code == LP_OK;
    int len = name.len > 60 ? 60 : (int)name.len;
    lp_jx_fail(x, LP_ERR_UNSUPPORTED, "there is no test '%.*s'", len, name.data);
    return false;
}

/* --- typed arguments ---------------------------------------------------------------------- */

const lp_jstr *lp_jarg_str(lp_jx *x, lp_jv v, const char *what) {
    if (v.type == LP_J_STR) return v.u.s;
    lp_jv_bad(x, v, what);
    return NULL;
}

const lp_jstr *lp_jarg_text(lp_jx *x, lp_jv v) {
    lp_jv s = lp_jv_str(x, v);
    return s.type == LP_J_STR && x->code == LP_OK ? s.u.s : NULL;
}

int64_t lp_jarg_int(lp_jx *x, lp_jv v, int64_t otherwise, const char *what) {
    int64_t i = otherwise;
    if (v.type != LP_J_MISSING && !lp_jv_integer(v, &i)) lp_jv_bad(x, v, what);
    return i;
}

bool lp_jarg_bool(lp_jv v, bool otherwise) {
    return v.type == LP_J_MISSING ? otherwise : lp_jv_truth(v);
}

/* --- global functions --------------------------------------------------------------------- */

static lp_jv make_range(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    int64_t start = 0, step = lp_jarg_int(x, arg[2], 1, "a range's step");
    int64_t stop = lp_jarg_int(x, arg[0], 0, "a range's end");
    if (args->n > 1) {
        start = stop;
        stop = lp_jarg_int(x, arg[1], 0, "a range's end");
    }
    if (x->code != LP_OK) return lp_jv_undefined(NULL);
    if (step == 0) return lp_jx_fail(x, LP_ERR_FORMAT, "a range's step is zero");
    /* The distance fits unsigned 64 bits whatever the ends are. */
    uint64_t span = 0, stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    if (step > 0 && stop > start) span = (uint64_t)stop - (uint64_t)start;
    if (step < 0 && stop < start) span = (uint64_t)start - (uint64_t)stop;
    uint64_t len = span == 0 ? 0 : (span - 1) / stride + 1;
    if (len > LP_J_ITEMS) {
        return lp_jx_fail(x, LP_ERR_LIMIT, "a range has more than %d items", LP_J_ITEMS);
    }
    lp_jrange *r = lp_jx_alloc(x, 1, sizeof *r);
    if (r == NULL) return lp_jv_undefined(NULL);
    *r = (lp_jrange){start, stop, step, (size_t)len};
    return (lp_jv){.type = LP_J_RANGE, .u.r = r};
}

/* dict(mapping or pairs, a=1, ...) */
static lp_jdict *build_dict(lp_jx *x, lp_jargs *args) {
    lp_jdict *dict = lp_jdict_new(x);
    if (args->n > 1) lp_jx_fail(x, LP_ERR_FORMAT, "at most one plain argument is possible here");
    if (args->n == 1 && args->at[0].type == LP_J_UNDEFINED) lp_jv_bad(x, args->at[0], "a mapping");
    if (args->n == 1 && args->at[0].type == LP_J_DICT) {
        const lp_jdict *from = args->at[0].u.d;
        for (size_t i = 0; i < from->len && x->code == LP_OK; i++) {
            lp_jdict_set(x, dict, from->entries[i].key, from->entries[i].value);
        }
    } else if (args->n == 1) {
        lp_jlist *pairs = lp_jv_items(x, args->at[0]);
        for (size_t i = 0; pairs != NULL && i < pairs->len && x->code == LP_OK; i++) {
            lp_jlist *pair = lp_jv_items(x, pairs->items[i]);
            if (pair == NULL || pair->len != 2) {
                lp_jx_fail(x, LP_ERR_FORMAT, "a mapping is built from pairs");
                break;
            }
            lp_jdict_set(x, dict, pair->items[0], pair->items[1]);
        }
    }
    for (size_t i = 0; i < args->n_keywords && x->code == LP_OK; i++) {
        lp_jdict_set(x, dict, lp_jstr_new(x, args->keywords[i].name, true),
                     args->keywords[i].value);
    }
    return x->code == LP_OK ? dict : NULL;
}

static lp_jv make_dict(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    (void)arg;
    lp_jdict *dict = build_dict(x, args);
    return dict == NULL ? lp_jv_undefined(NULL) : lp_jv_dict(dict);
}

static lp_jv make_namespace(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    (void)arg;
    lp_jdict *dict = build_dict(x, args);
    for (size_t i = 0; dict != NULL && i < dict->len; i++) {
        lp_jv key = dict->entries[i].key;
        if (key.type == LP_J_STR && key.u.s->len > 0 && key.u.s->data[0] == '_') {
            return lp_jx_fail(x, LP_ERR_FORMAT, "a namespace takes no names that begin with '_'");
        }
    }
    if (dict == NULL) return lp_jv_undefined(NULL);
    return (lp_jv){.type = LP_J_NAMESPACE, .u.d = dict};
}

static lp_jv raise_exception(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    (void)args;
    const lp_jstr *s = lp_jarg_text(x, arg[0]);
    if (s == NULL) return lp_jv_undefined(NULL);
    int len = s->len > 350 ? 350 : (int)s->len;
    return lp_jx_fail(x, LP_ERR_ARGUMENT, "%.*s", len, s->data);
}

static lp_jv strftime_now(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    (void)args;
    const lp_jstr *format = lp_jarg_str(x, arg[0], "strftime_now");
    return format == NULL ? lp_jv_undefined(NULL) : lp_jx_strftime(x, format);
}

static lp_jv new_cycler(lp_jx *x, lp_jlist *items, bool joiner) {
    lp_jcycler *c = lp_jx_alloc(x, 1, sizeof *c);
    if (c == NULL) return lp_jv_undefined(NULL);
    *c = (lp_jcycler){.items = items, .joiner = joiner};
    return (lp_jv){.type = LP_J_CYCLER, .u.cycler = c};
}

static lp_jv make_cycler(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    (void)arg;
    if (args->n == 0 || args->n_keywords > 0) {
        return lp_jx_fail(x, LP_ERR_FORMAT, "cycler takes one or more plain arguments");
    }
    lp_jlist *items = lp_jlist_new(x);
    for (size_t i = 0; i < args->n; i++) lp_jlist_add(x, items, args->at[i]);
    return new_cycler(x, items, false);
}

static lp_jv make_joiner(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args) {
    (void)self;
    (void)args;
    lp_jlist *items = lp_jlist_new(x);
    lp_jlist_add(x, items, arg[0].type == LP_J_MISSING ? lp_jstr_text(x, ", ", true) : arg[0]);
    return x->code == LP_OK ? new_cycler(x, items, true) : lp_jv_undefined(NULL);
}

const lp_jbuiltin lp_jglobals[] = {
    {"range", make_range, "/start stop? step?"},
    {"dict", make_dict, "*"},
    {"namespace", make_namespace, "*"},
    {"raise_exception", raise_exception, "message"},
    {"strftime_now", strftime_now, "format"},
    {"cycler", make_cycler, "*"},
    {"joiner", make_joiner, "sep?"},
    {NULL, NULL, NULL},
};
