/* jinja_eval.c - walks the tree: scopes, statements, expressions, budgets.
 *
 * A scope holds the variables of a template, a loop's turn, a macro's call or a block that
 * captures its output; `if` has none. Reading goes outwards, `set` writes to the innermost one,
 * so that a loop cannot change what is around it - except through a namespace.
 * break and continue set x->jump; bodies stop on it and the loop takes it away.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "chat/jinja_core.h"

/* --- failing and paying ------------------------------------------------------------------- */

lp_jv lp_jx_fail(lp_jx *x, lp_code code, const char *format, ...) {
    if (x->code == LP_OK) {
        char message[400];
        va_list args;
        va_start(args, format);
        vsnprintf(message, sizeof message, format, args);
        va_end(args);
        x->code = lp_jfail_at(x->err, code, x->source, x->pos, message);
    }
    return lp_jv_undefined(NULL);
}

bool lp_jx_pay(lp_jx *x, size_t steps) {
    if (x->code != LP_OK) return false;
    if (steps > x->max_steps - x->steps) {
        lp_jx_fail(x, LP_ERR_LIMIT, "the template takes more than %u steps",
                   (unsigned)x->max_steps);
        return false;
    }
    x->steps += steps;
    return true;
}

bool lp_jx_read(lp_jx *x, const lp_jstr *s) {
    /* Characters beyond ASCII take decoding and tables. */
    return lp_jx_pay(x, s->len / (s->chars == s->len ? 64 : 16));
}

bool lp_jx_enter(lp_jx *x) {
    if (x->depth >= LP_J_EVAL_DEPTH) {
        lp_jx_fail(x, LP_ERR_LIMIT, "the template calls itself too deep");
        return false;
    }
    x->depth++;
    return true;
}

void *lp_jx_alloc(lp_jx *x, size_t count, size_t size) {
    if (x->code != LP_OK) return NULL;
    void *block = lp_arena_alloc(&x->arena, count, size);
    if (block != NULL) return block;
    size_t bytes = 0;
    if (!lp_size_mul(count, size, &bytes) || bytes > x->arena.limit - x->arena.used) {
        lp_jx_fail(x, LP_ERR_LIMIT, "the template uses more than %d bytes", LP_J_ARENA);
    } else {
        lp_jx_fail(x, LP_ERR_MEMORY, "not enough memory to run the template");
    }
    return NULL;
}

/* --- scopes ------------------------------------------------------------------------------- */

lp_jscope *lp_jscope_new(lp_jx *x, lp_jscope *parent) {
    lp_jscope *scope = lp_jx_alloc(x, 1, sizeof *scope);
    if (scope != NULL) scope->parent = parent;
    return scope;
}

void lp_jscope_set(lp_jx *x, lp_jscope *scope, lp_str name, lp_jv value) {
    if (x->code != LP_OK || !lp_jx_pay(x, scope->len / 16)) return;
    for (size_t i = 0; i < scope->len; i++) {
        if (lp_str_equal(scope->vars[i].name, name)) {
            scope->vars[i].value = value;
            return;
        }
    }
    if (scope->len == scope->size) {
        size_t size = scope->size == 0 ? 4 : scope->size * 2;
        struct lp_jvar *vars = lp_jx_alloc(x, size, sizeof *vars);
        if (vars == NULL) return;
        if (scope->len > 0) memcpy(vars, scope->vars, scope->len * sizeof *vars);
        scope->vars = vars;
        scope->size = size;
    }
    scope->vars[scope->len++] = (struct lp_jvar){name, value};
}

static lp_jv lookup(lp_jx *x, const lp_jscope *scope, lp_str name) {
    for (; scope != NULL; scope = scope->parent) {
        if (!lp_jx_pay(x, scope->len / 16)) return lp_jv_undefined(NULL);
        for (size_t i = 0; i < scope->len; i++) {
            if (lp_str_equal(scope->vars[i].name, name)) return scope->vars[i].value;
        }
    }
    const lp_jv *given = lp_jdict_find(x, x->globals, name);
    if (given != NULL) return *given;
    const lp_jbuiltin *row = lp_jbuiltin_find(lp_jglobals, name);
    if (row != NULL) return (lp_jv){.type = LP_J_FUNCTION, .u.function = row};
    lp_jv s = lp_jstr_new(x, name, true);
    return lp_jv_undefined(s.type == LP_J_STR ? s.u.s : NULL);
}

/* A macro keeps its scope alive: from now on its loops must not recycle it. */
static void capture(lp_jscope *scope) {
    for (; scope != NULL && !scope->captured; scope = scope->parent) scope->captured = true;
}

static void assign_attr(lp_jx *x, lp_jscope *scope, const lp_jnode *target, lp_jv value) {
    lp_jv ns = lookup(x, scope, target->name);
    if (ns.type != LP_J_NAMESPACE) {
        lp_jx_fail(x, LP_ERR_FORMAT, "an attribute can only be set on a namespace");
    } else if (target->a->name.data[0] == '_') {
        lp_jx_fail(x, LP_ERR_FORMAT, "a namespace takes no names that begin with '_'");
    } else {
        lp_jdict_set(x, ns.u.d, lp_jstr_new(x, target->a->name, true), value);
    }
}

void lp_jx_assign(lp_jx *x, lp_jscope *scope, const lp_jnode *target, lp_jv value) {
    if (x->code != LP_OK) return;
    x->pos = target->pos;
    if (target->kind == LP_JN_NAME) {
        lp_jscope_set(x, scope, target->name, value);
    } else if (target->kind == LP_JN_NSREF) {
        assign_attr(x, scope, target, value);
    } else {
        lp_jlist *items = lp_jv_items(x, value);
        size_t i = 0;
        const lp_jnode *part = target->list;
        for (; items != NULL && part != NULL && i < items->len; part = part->next) {
            lp_jx_assign(x, scope, part, items->items[i++]);
        }
        if (items != NULL && (part != NULL || i < items->len)) {
            lp_jx_fail(x, LP_ERR_FORMAT, "the number of names and values to unpack differs");
        }
    }
}

/* --- expressions -------------------------------------------------------------------------- */

static lp_jv eval_list(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jlist *list = lp_jlist_new(x);
    for (const lp_jnode *item = node->list; item != NULL && x->code == LP_OK; item = item->next) {
        lp_jlist_add(x, list, lp_jx_eval(x, scope, item));
    }
    return lp_jv_list(list, node->kind == LP_JN_LIST ? LP_J_LIST : LP_J_TUPLE);
}

static lp_jv eval_dict(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jdict *dict = lp_jdict_new(x);
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next->next) {
        lp_jv key = lp_jx_eval(x, scope, n);
        lp_jdict_set(x, dict, key, lp_jx_eval(x, scope, n->next));
    }
    return dict == NULL ? lp_jv_undefined(NULL) : lp_jv_dict(dict);
}

static lp_jv eval_logic(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jv v = lp_jv_undefined(NULL);
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next) {
        v = lp_jx_eval(x, scope, n);
        if (lp_jv_truth(v) == (node->kind == LP_JN_OR)) break;
    }
    return v;
}

static lp_jv eval_math(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jv v = lp_jx_eval(x, scope, node->a);
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next) {
        lp_jv other = lp_jx_eval(x, scope, n->a);
        x->pos = n->pos;
        v = lp_jx_math(x, (lp_jtok)n->op, v, other);
    }
    return v;
}

/* a < b < c is a < b and b < c. */
static lp_jv eval_compare(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jv left = lp_jx_eval(x, scope, node->a);
    bool yes = true;
    for (const lp_jnode *n = node->list; n != NULL && yes && x->code == LP_OK; n = n->next) {
        lp_jv right = lp_jx_eval(x, scope, n->a);
        x->pos = n->pos;
        yes = x->code == LP_OK && lp_jx_compare(x, (lp_jtok)n->op, left, right);
        left = right;
    }
    return lp_jv_bool(yes);
}

static lp_jv eval_concat(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next) {
        lp_jbuf_print(&b, lp_jx_eval(x, scope, n));
    }
    return lp_jbuf_value(&b);
}

static lp_jv eval_slice(lp_jx *x, lp_jscope *scope, const lp_jnode *node, lp_jv v) {
    const lp_jnode *parts[3] = {node->a, node->b, node->c};
    lp_jv at[3];
    for (int i = 0; i < 3; i++) {
        at[i] = parts[i] == NULL ? lp_jv_none() : lp_jx_eval(x, scope, parts[i]);
    }
    x->pos = node->pos;
    return x->code == LP_OK ? lp_jx_slice(x, v, at[0], at[1], at[2]) : v;
}

static lp_jv eval_with_args(lp_jx *x, lp_jscope *scope, const lp_jnode *node, lp_jv v) {
    lp_jargs args = {0};
    if (!lp_jx_args(x, scope, node->list, &args)) return lp_jv_undefined(NULL);
    x->pos = node->pos;
    if (node->kind == LP_JN_CALL) return lp_jx_call(x, v, &args);
    if (node->kind == LP_JN_FILTER) return lp_jx_filter(x, node->name, v, &args);
    bool yes = lp_jx_test(x, node->name, v, &args);
    return lp_jv_bool(yes != (node->op == 1));
}

/* One part of a chain applied to what stands before it. */
static lp_jv apply(lp_jx *x, lp_jscope *scope, const lp_jnode *node, lp_jv v) {
    x->pos = node->pos;
    if (!lp_jx_pay(x, 1)) return lp_jv_undefined(NULL);
    if (node->kind == LP_JN_ATTR) return lp_jx_attr(x, v, node->name);
    if (node->kind == LP_JN_SLICE) return eval_slice(x, scope, node, v);
    if (node->kind != LP_JN_ITEM) return eval_with_args(x, scope, node, v);
    lp_jv key = lp_jx_eval(x, scope, node->a);
    x->pos = node->pos;
    return x->code == LP_OK ? lp_jx_item(x, v, key) : v;
}

static lp_jv eval_chain(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jv v = lp_jx_eval(x, scope, node->a);
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next) {
        v = apply(x, scope, n, v);
    }
    return v;
}

static lp_jv eval_cond(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    bool yes = lp_jv_truth(lp_jx_eval(x, scope, node->b));
    const lp_jnode *chosen = yes ? node->a : node->c;
    return chosen == NULL ? lp_jv_undefined(NULL) : lp_jx_eval(x, scope, chosen);
}

static lp_jv eval_node(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    switch (node->kind) {
    case LP_JN_CONST:
        return node->value;
    case LP_JN_NAME:
        return lookup(x, scope, node->name);
    case LP_JN_TUPLE:
    case LP_JN_LIST:
        return eval_list(x, scope, node);
    case LP_JN_DICT:
        return eval_dict(x, scope, node);
    case LP_JN_AND:
    case LP_JN_OR:
        return eval_logic(x, scope, node);
    case LP_JN_NOT:
        return lp_jv_bool(lp_jv_truth(lp_jx_eval(x, scope, node->a)) == (node->op == 0));
    case LP_JN_NEG:
    case LP_JN_POS:
        return lp_jx_negate(x, lp_jx_eval(x, scope, node->a), node->kind == LP_JN_NEG);
    case LP_JN_COND:
        return eval_cond(x, scope, node);
    case LP_JN_MATH:
        return eval_math(x, scope, node);
    case LP_JN_COMPARE:
        return eval_compare(x, scope, node);
    case LP_JN_CONCAT:
        return eval_concat(x, scope, node);
    case LP_JN_CHAIN:
        return eval_chain(x, scope, node);
    default:
        return lp_jx_fail(x, LP_ERR_FORMAT, "this cannot be evaluated");
    }
}

lp_jv lp_jx_eval(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    x->pos = node->pos;
    if (!lp_jx_pay(x, 1) || !lp_jx_enter(x)) return lp_jv_undefined(NULL);
    lp_jv v = eval_node(x, scope, node);
    x->depth--;
    return v;
}

/* --- statements --------------------------------------------------------------------------- */

/* Runs a body into a string instead of the output. */
lp_jv lp_jx_capture(lp_jx *x, lp_jscope *scope, const lp_jnode *body) {
    lp_jbuf b, *outer = x->out;
    lp_jbuf_init(&b, x);
    x->out = &b;
    lp_jx_body(x, scope, body);
    x->out = outer;
    return lp_jbuf_value(&b);
}

static lp_jv apply_filters(lp_jx *x, lp_jscope *scope, const lp_jnode *list, lp_jv v) {
    for (; list != NULL && x->code == LP_OK; list = list->next) v = apply(x, scope, list, v);
    return v;
}

static void exec_if(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next) {
        if (n->a != NULL && !lp_jv_truth(lp_jx_eval(x, scope, n->a))) continue;
        lp_jx_body(x, scope, n->body);
        return;
    }
}

/* The items that pass {% for ... if test %}. */
static lp_jlist *select_items(lp_jx *x, lp_jscope *scope, const lp_jnode *node, lp_jlist *items) {
    lp_jlist *out = lp_jlist_new(x);
    lp_jscope *inner = lp_jscope_new(x, scope);
    for (size_t i = 0; i < items->len && x->code == LP_OK; i++) {
        lp_jx_assign(x, inner, node->a, items->items[i]);
        if (x->code != LP_OK) break;
        if (lp_jv_truth(lp_jx_eval(x, inner, node->c))) lp_jlist_add(x, out, items->items[i]);
    }
    return x->code == LP_OK ? out : NULL;
}

void lp_jx_for(lp_jx *x, lp_jscope *scope, const lp_jnode *node, lp_jv iterable, size_t depth) {
    x->pos = node->pos;
    lp_jlist *items = lp_jv_items(x, iterable);
    if (items != NULL && node->c != NULL) items = select_items(x, scope, node, items);
    lp_jscope *inner = lp_jscope_new(x, scope);
    lp_jloop *loop = lp_jx_alloc(x, 1, sizeof *loop);
    if (items == NULL || inner == NULL || loop == NULL) return;
    *loop = (lp_jloop){
        .items = items, .depth = depth, .node = node, .scope = scope, .changed = lp_jv_missing()};
    for (size_t i = 0; i < items->len && lp_jx_pay(x, 1); i++) {
        if (inner->captured) inner = lp_jscope_new(x, scope);
        if (inner == NULL) return;
        inner->len = 0;
        loop->at = i;
        lp_jscope_set(x, inner, lp_str_from("loop"), (lp_jv){.type = LP_J_LOOP, .u.loop = loop});
        lp_jx_assign(x, inner, node->a, items->items[i]);
        lp_jx_body(x, inner, node->body);
        uint8_t jump = x->jump;
        x->jump = 0;
        if (jump == LP_JN_BREAK) break;
    }
    if (items->len == 0 && node->other != NULL) lp_jx_body(x, inner, node->other);
}

static void exec_with(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jscope *inner = lp_jscope_new(x, scope);
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next->next) {
        lp_jx_assign(x, inner, n, lp_jx_eval(x, scope, n->next));
    }
    if (x->code == LP_OK) lp_jx_body(x, inner, node->body);
}

static lp_jv new_macro(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jmacro *macro = lp_jx_alloc(x, 1, sizeof *macro);
    if (macro == NULL) return lp_jv_undefined(NULL);
    *macro = (lp_jmacro){.node = node, .scope = scope};
    capture(scope);
    return (lp_jv){.type = LP_J_MACRO, .u.macro = macro};
}

/* {% call f(x) %}body{% endcall %}: f(x, caller=body). The last part of the chain is the call. */
static void exec_call(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jv caller = new_macro(x, scope, node), v = lp_jx_eval(x, scope, node->a->a);
    const lp_jnode *n = node->a->list;
    for (; n->next != NULL && x->code == LP_OK; n = n->next) v = apply(x, scope, n, v);
    lp_jargs args = {0};
    if (x->code != LP_OK || !lp_jx_args(x, scope, n->list, &args)) return;
    lp_jargs_keyword(x, &args, lp_str_from("caller"), caller);
    x->pos = node->pos;
    v = lp_jx_call(x, v, &args);
    if (x->code == LP_OK) lp_jbuf_print(x->out, v);
}

static void exec_capturing(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    lp_jscope *inner = lp_jscope_new(x, scope);
    if (inner == NULL) return;
    lp_jv v = lp_jx_capture(x, inner, node->body);
    bool set = node->kind == LP_JN_SET_BLOCK;
    v = apply_filters(x, set ? scope : inner, node->list, v);
    if (x->code != LP_OK || x->jump != 0) return;
    if (set) {
        lp_jx_assign(x, scope, node->a, v);
    } else {
        lp_jbuf_print(x->out, v);
    }
}

static void exec_output(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    for (const lp_jnode *n = node->list; n != NULL && x->code == LP_OK; n = n->next) {
        lp_jv v = lp_jx_eval(x, scope, n);
        if (x->code == LP_OK) lp_jbuf_print(x->out, v);
    }
}

static void exec(lp_jx *x, lp_jscope *scope, const lp_jnode *node) {
    switch (node->kind) {
    case LP_JN_OUTPUT:
        exec_output(x, scope, node);
        break;
    case LP_JN_IF:
        exec_if(x, scope, node);
        break;
    case LP_JN_FOR:
        lp_jx_for(x, scope, node, lp_jx_eval(x, scope, node->b), 0);
        break;
    case LP_JN_SET:
        lp_jx_assign(x, scope, node->a, lp_jx_eval(x, scope, node->b));
        break;
    case LP_JN_SET_BLOCK:
    case LP_JN_FILTER_BLOCK:
        exec_capturing(x, scope, node);
        break;
    case LP_JN_MACRO:
        lp_jscope_set(x, scope, node->name, new_macro(x, scope, node));
        break;
    case LP_JN_CALL_BLOCK:
        exec_call(x, scope, node);
        break;
    case LP_JN_WITH:
        exec_with(x, scope, node);
        break;
    case LP_JN_SCOPE: {
        lp_jscope *inner = lp_jscope_new(x, scope);
        if (inner != NULL) lp_jx_body(x, inner, node->body);
        break;
    }
    case LP_JN_BREAK:
    case LP_JN_CONTINUE:
        x->jump = node->kind;
        break;
    default:
        lp_jx_fail(x, LP_ERR_FORMAT, "this is not a statement");
        break;
    }
}

void lp_jx_body(lp_jx *x, lp_jscope *scope, const lp_jnode *first) {
    if (x->code != LP_OK || !lp_jx_enter(x)) return;
    for (const lp_jnode *n = first; n != NULL && x->jump == 0; n = n->next) {
        x->pos = n->pos;
        if (!lp_jx_pay(x, 1)) break;
        exec(x, scope, n);
    }
    x->depth--;
}

lp_code lp_jx_run(lp_jx *x, const lp_jinja *jinja, lp_jdict *globals, lp_jbuf *out, lp_error *err) {
    x->err = err;
    x->source = jinja->source;
    x->globals = globals;
    x->out = out;
    lp_jbuf_init(out, x);
    x->root = lp_jscope_new(x, NULL);
    if (x->root != NULL) lp_jx_body(x, x->root, jinja->body);
    return x->code;
}
