/* jinja_expr.c - tokens to expression trees.
 *
 * Precedence, loosest first, as in jinja2: a if b else c | or | and | not | comparisons, in |
 * + - | ~ | * / // % | ** | unary + - | .name [item] (call) | filters and tests. A run of equal
 * operators becomes one node with a list, and so does a chain of .name|filter parts: the tree's
 * depth is bounded by brackets and unary signs, not by the length of an expression.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_core.h"

lp_code lp_jparse_error(lp_jparser *p, const char *message) {
    return lp_jfail_at(p->err, LP_ERR_FORMAT, p->lexer.source, p->now.pos, message);
}

lp_code lp_jparse_advance(lp_jparser *p) {
    if (p->has_ahead) {
        p->now = p->ahead;
        p->has_ahead = false;
        return LP_OK;
    }
    return lp_jlex_next(&p->lexer, &p->now);
}

lp_code lp_jparse_peek(lp_jparser *p, const lp_jtoken **token) {
    if (!p->has_ahead) {
        LP_TRY(lp_jlex_next(&p->lexer, &p->ahead));
        p->has_ahead = true;
    }
    *token = &p->ahead;
    return LP_OK;
}

lp_code lp_jparse_expect(lp_jparser *p, lp_jtok type, const char *what) {
    if (p->now.type != type) {
        char message[80] = "expected ";
        strncat(message, what, sizeof message - 16);
        return lp_jparse_error(p, message);
    }
    return lp_jparse_advance(p);
}

lp_code lp_jparse_node(lp_jparser *p, lp_jkind kind, lp_jnode **out) {
    lp_jnode *node = lp_arena_alloc(p->arena, 1, sizeof *node);
    if (node == NULL) return lp_fail(p->err, LP_ERR_MEMORY, "not enough memory for the template");
    node->kind = (uint8_t)kind;
    node->pos = p->now.pos;
    *out = node;
    return LP_OK;
}

lp_code lp_jparse_enter(lp_jparser *p) {
    if (p->depth >= LP_J_DEPTH) {
        return lp_jfail_at(p->err, LP_ERR_LIMIT, p->lexer.source, p->now.pos,
                           "the template is nested too deep");
    }
    p->depth++;
    return LP_OK;
}

bool lp_jparse_at_name(const lp_jparser *p, const char *name) {
    return p->now.type == LP_JT_NAME && lp_str_is(p->now.text, name);
}

static lp_code string_const(lp_jparser *p, lp_str text, lp_jnode *node) {
    lp_jstr *s = lp_arena_alloc(p->arena, 1, sizeof *s);
    if (s == NULL) return lp_fail(p->err, LP_ERR_MEMORY, "not enough memory for the template");
    *s = (lp_jstr){
        .data = text.data, .len = text.len, .chars = lp_utf8_count(text), .trusted = true};
    node->value = (lp_jv){.type = LP_J_STR, .trusted = true, .u.s = s};
    return LP_OK;
}

/* "a" "b" is one string. */
static lp_code parse_string(lp_jparser *p, lp_jnode *node) {
    lp_str text = p->now.text;
    LP_TRY(lp_jparse_advance(p));
    while (p->now.type == LP_JT_STRING) {
        char *both = lp_arena_alloc(p->arena, text.len + p->now.text.len + 1, 1);
        if (both == NULL) return lp_fail(p->err, LP_ERR_MEMORY, "not enough memory");
        if (text.len > 0) memcpy(both, text.data, text.len);
        if (p->now.text.len > 0) memcpy(both + text.len, p->now.text.data, p->now.text.len);
        text = (lp_str){both, text.len + p->now.text.len};
        LP_TRY(lp_jparse_advance(p));
    }
    return string_const(p, text, node);
}

static lp_code parse_name(lp_jparser *p, bool with_namespace, lp_jnode *node) {
    lp_str name = p->now.text;
    LP_TRY(lp_jparse_advance(p));
    bool yes = lp_str_is(name, "true") || lp_str_is(name, "True");
    if (yes || lp_str_is(name, "false") || lp_str_is(name, "False")) {
        node->value = lp_jv_bool(yes);
    } else if (lp_str_is(name, "none") || lp_str_is(name, "None")) {
        node->value = lp_jv_none();
    } else {
        node->kind = LP_JN_NAME;
        node->name = name;
        if (lp_str_is(name, "caller")) p->uses |= LP_JM_CALLER;
        if (lp_str_is(name, "kwargs")) p->uses |= LP_JM_KWARGS;
        if (lp_str_is(name, "varargs")) p->uses |= LP_JM_VARARGS;
        if (with_namespace && p->now.type == LP_JT_DOT) {
            LP_TRY(lp_jparse_advance(p));
            if (p->now.type != LP_JT_NAME) return lp_jparse_error(p, "expected a name");
            node->kind = LP_JN_NSREF;
            LP_TRY(lp_jparse_node(p, LP_JN_CONST, &node->a));
            node->a->name = p->now.text;
            return lp_jparse_advance(p);
        }
    }
    return LP_OK;
}

/* [a, b] or {a: b, c: d}; a trailing comma is allowed. */
static lp_code parse_display(lp_jparser *p, lp_jnode *node) {
    bool dict = p->now.type == LP_JT_LBRACE;
    lp_jtok end = dict ? LP_JT_RBRACE : LP_JT_RBRACKET;
    node->kind = dict ? LP_JN_DICT : LP_JN_LIST;
    lp_jnode **tail = &node->list;
    LP_TRY(lp_jparse_advance(p));
    while (p->now.type != end) {
        if (node->list != NULL) {
            LP_TRY(lp_jparse_expect(p, LP_JT_COMMA, "',' or the end of the list"));
            if (p->now.type == end) break;
        }
        LP_TRY(lp_jparse_expression(p, true, tail));
        tail = &(*tail)->next;
        if (dict) {
            LP_TRY(lp_jparse_expect(p, LP_JT_COLON, "':'"));
            LP_TRY(lp_jparse_expression(p, true, tail));
            tail = &(*tail)->next;
        }
    }
    return lp_jparse_advance(p);
}

static lp_code parse_primary(lp_jparser *p, bool with_namespace, lp_jnode **out) {
    lp_jnode *node = NULL;
    LP_TRY(lp_jparse_node(p, LP_JN_CONST, &node));
    *out = node;
    switch (p->now.type) {
    case LP_JT_NAME:
        return parse_name(p, with_namespace, node);
    case LP_JT_STRING:
        return parse_string(p, node);
    case LP_JT_INT:
        node->value = lp_jv_int(p->now.integer);
        return lp_jparse_advance(p);
    case LP_JT_FLOAT:
        node->value = lp_jv_float(p->now.number);
        return lp_jparse_advance(p);
    case LP_JT_LPAREN:
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(lp_jparse_tuple(p, LP_JP_COND | LP_JP_PARENS, NULL, out));
        return lp_jparse_expect(p, LP_JT_RPAREN, "')'");
    case LP_JT_LBRACKET:
    case LP_JT_LBRACE:
        return parse_display(p, node);
    default:
        return lp_jparse_error(p, "expected an expression");
    }
}

static lp_code parse_args(lp_jparser *p, lp_jnode **list) {
    lp_jnode **tail = list;
    int last = 0; /* the highest kind of argument so far: 0 plain, 1 named, 2 *, 3 ** */
    bool star = false;
    LP_TRY(lp_jparse_advance(p));
    while (p->now.type != LP_JT_RPAREN) {
        if (*list != NULL) {
            LP_TRY(lp_jparse_expect(p, LP_JT_COMMA, "',' or ')'"));
            if (p->now.type == LP_JT_RPAREN) break;
        }
        lp_jnode *arg = NULL;
        LP_TRY(lp_jparse_node(p, LP_JN_ARG, &arg));
        const lp_jtoken *ahead = NULL;
        if (p->now.type == LP_JT_NAME) LP_TRY(lp_jparse_peek(p, &ahead));
        if (p->now.type == LP_JT_MUL || p->now.type == LP_JT_POW) {
            arg->op = p->now.type == LP_JT_MUL ? 2 : 3;
            if (last == 3 || (arg->op == 2 && star))
                return lp_jparse_error(p, "misplaced argument");
            star = true;
            LP_TRY(lp_jparse_advance(p));
        } else if (ahead != NULL && ahead->type == LP_JT_ASSIGN) {
            if (last == 3) return lp_jparse_error(p, "misplaced argument");
            arg->op = 1;
            arg->name = p->now.text;
            LP_TRY(lp_jparse_advance(p));
            LP_TRY(lp_jparse_advance(p));
        } else if (last != 0) {
            return lp_jparse_error(p, "a plain argument after a named one");
        }
        if (arg->op > last) last = arg->op;
        LP_TRY(lp_jparse_expression(p, true, &arg->a));
        *tail = arg;
        tail = &arg->next;
    }
    return lp_jparse_advance(p);
}

/* One part of [ ... ]: an expression or start:stop:step. */
static lp_code parse_subscript(lp_jparser *p, lp_jnode **out) {
    lp_jnode *node = NULL;
    LP_TRY(lp_jparse_node(p, LP_JN_ITEM, &node));
    *out = node;
    if (p->now.type != LP_JT_COLON) LP_TRY(lp_jparse_expression(p, true, &node->a));
    if (p->now.type != LP_JT_COLON) return LP_OK;
    node->kind = LP_JN_SLICE;
    lp_jnode **slots[2] = {&node->b, &node->c};
    for (int i = 0; i < 2 && p->now.type == LP_JT_COLON; i++) {
        LP_TRY(lp_jparse_advance(p));
        if (p->now.type != LP_JT_COLON && p->now.type != LP_JT_RBRACKET &&
            p->now.type != LP_JT_COMMA) {
            LP_TRY(lp_jparse_expression(p, true, slots[i]));
        }
    }
    return LP_OK;
}

static lp_code parse_item(lp_jparser *p, lp_jnode **out) {
    LP_TRY(lp_jparse_advance(p));
    if (p->now.type == LP_JT_RBRACKET) return lp_jparse_error(p, "expected an index");
    LP_TRY(parse_subscript(p, out));
    if (p->now.type == LP_JT_COMMA) { /* x[a, b] asks for the key (a, b) */
        lp_jnode *item = *out, *tuple = NULL;
        LP_TRY(lp_jparse_node(p, LP_JN_TUPLE, &tuple));
        lp_jnode **tail = &tuple->list;
        while (true) {
            if (item->kind == LP_JN_SLICE) return lp_jparse_error(p, "a slice cannot be combined");
            *tail = item->a;
            tail = &item->a->next;
            if (p->now.type != LP_JT_COMMA) break;
            LP_TRY(lp_jparse_advance(p));
            LP_TRY(parse_subscript(p, &item));
        }
        (*out)->a = tuple;
    }
    return lp_jparse_expect(p, LP_JT_RBRACKET, "']'");
}

/* .name .0 [item] (call), as often as they follow. */
static lp_code parse_postfix(lp_jparser *p, lp_jnode ***tail) {
    while (true) {
        lp_jnode *node = NULL;
        if (p->now.type == LP_JT_DOT) {
            LP_TRY(lp_jparse_node(p, LP_JN_ATTR, &node));
            LP_TRY(lp_jparse_advance(p));
            if (p->now.type == LP_JT_INT) {
                node->kind = LP_JN_ITEM;
                LP_TRY(lp_jparse_node(p, LP_JN_CONST, &node->a));
                node->a->value = lp_jv_int(p->now.integer);
            } else if (p->now.type == LP_JT_NAME) {
                node->name = p->now.text;
            } else {
                return lp_jparse_error(p, "expected a name after '.'");
            }
            LP_TRY(lp_jparse_advance(p));
        } else if (p->now.type == LP_JT_LBRACKET) {
            LP_TRY(parse_item(p, &node));
        } else if (p->now.type == LP_JT_LPAREN) {
            LP_TRY(lp_jparse_node(p, LP_JN_CALL, &node));
            LP_TRY(parse_args(p, &node->list));
        } else {
            return LP_OK;
        }
        **tail = node;
        *tail = &node->next;
    }
}

static lp_code parse_dotted(lp_jparser *p, lp_str *name) {
    if (p->now.type != LP_JT_NAME) return lp_jparse_error(p, "expected a filter's or test's name");
    *name = p->now.text;
    LP_TRY(lp_jparse_advance(p));
    if (p->now.type == LP_JT_DOT)
        return lp_jparse_error(p, "no filter or test has a dot in its name");
    return LP_OK;
}

static lp_code parse_filter(lp_jparser *p, lp_jnode **out) {
    LP_TRY(lp_jparse_node(p, LP_JN_FILTER, out));
    LP_TRY(parse_dotted(p, &(*out)->name));
    if (p->now.type == LP_JT_LPAREN) return parse_args(p, &(*out)->list);
    return LP_OK;
}

lp_code lp_jparse_filters(lp_jparser *p, bool inline_first, lp_jnode **list) {
    while (inline_first || p->now.type == LP_JT_PIPE) {
        if (!inline_first) LP_TRY(lp_jparse_advance(p));
        inline_first = false;
        LP_TRY(parse_filter(p, list));
        list = &(*list)->next;
    }
    return LP_OK;
}

/* After "is": [not] name [(args) | one argument without brackets]. */
static lp_code parse_test(lp_jparser *p, lp_jnode **out) {
    LP_TRY(lp_jparse_node(p, LP_JN_TEST, out));
    lp_jnode *node = *out;
    LP_TRY(lp_jparse_advance(p));
    if (lp_jparse_at_name(p, "not")) {
        node->op = 1;
        LP_TRY(lp_jparse_advance(p));
    }
    LP_TRY(parse_dotted(p, &node->name));
    lp_jtok type = p->now.type;
    if (type == LP_JT_LPAREN) return parse_args(p, &node->list);
    bool argument = type == LP_JT_NAME || type == LP_JT_STRING || type == LP_JT_INT ||
                    type == LP_JT_FLOAT || type == LP_JT_LBRACKET || type == LP_JT_LBRACE;
    if (!argument || lp_jparse_at_name(p, "else") || lp_jparse_at_name(p, "or") ||
        lp_jparse_at_name(p, "and")) {
        return LP_OK;
    }
    if (lp_jparse_at_name(p, "is")) return lp_jparse_error(p, "tests cannot be chained with 'is'");
    lp_jnode *chain = NULL;
    LP_TRY(lp_jparse_node(p, LP_JN_ARG, &node->list));
    LP_TRY(lp_jparse_node(p, LP_JN_CHAIN, &chain));
    LP_TRY(lp_jparse_enter(p));
    LP_TRY(parse_primary(p, false, &chain->a));
    lp_jnode **tail = &chain->list;
    LP_TRY(parse_postfix(p, &tail));
    p->depth--;
    node->list->a = chain->list == NULL ? chain->a : chain;
    return LP_OK;
}

static lp_code parse_unary(lp_jparser *p, bool with_filter, lp_jnode **out) {
    LP_TRY(lp_jparse_enter(p));
    lp_jnode *base = NULL, *chain = NULL;
    if (p->now.type == LP_JT_SUB || p->now.type == LP_JT_ADD) {
        LP_TRY(lp_jparse_node(p, p->now.type == LP_JT_SUB ? LP_JN_NEG : LP_JN_POS, &base));
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(parse_unary(p, false, &base->a));
    } else {
        LP_TRY(parse_primary(p, false, &base));
    }
    LP_TRY(lp_jparse_node(p, LP_JN_CHAIN, &chain));
    lp_jnode **tail = &chain->list;
    LP_TRY(parse_postfix(p, &tail));
    while (with_filter) {
        lp_jnode *node = NULL;
        if (p->now.type == LP_JT_PIPE) {
            LP_TRY(lp_jparse_advance(p));
            LP_TRY(parse_filter(p, &node));
        } else if (lp_jparse_at_name(p, "is")) {
            LP_TRY(parse_test(p, &node));
        } else if (p->now.type == LP_JT_LPAREN) {
            LP_TRY(lp_jparse_node(p, LP_JN_CALL, &node));
            LP_TRY(parse_args(p, &node->list));
        } else {
            break;
        }
        *tail = node;
        tail = &node->next;
    }
    p->depth--;
    chain->a = base;
    chain->pos = base->pos;
    *out = chain->list == NULL ? base : chain;
    return LP_OK;
}

/* A left-to-right run of operators of one level: a node with a first operand and a list. */
static bool operator_of(const lp_jparser *p, int level) {
    lp_jtok t = p->now.type;
    if (level == 0) return t == LP_JT_ADD || t == LP_JT_SUB;
    if (level == 1) return t == LP_JT_TILDE;
    if (level == 2)
        return t == LP_JT_MUL || t == LP_JT_DIV || t == LP_JT_FLOORDIV || t == LP_JT_MOD;
    return t == LP_JT_POW;
}

static lp_code parse_math(lp_jparser *p, int level, lp_jnode **out) {
    if (level == 4) return parse_unary(p, true, out);
    LP_TRY(parse_math(p, level + 1, out));
    if (!operator_of(p, level)) return LP_OK;
    lp_jnode *node = NULL;
    LP_TRY(lp_jparse_node(p, level == 1 ? LP_JN_CONCAT : LP_JN_MATH, &node));
    lp_jnode **tail = &node->list;
    if (level == 1) {
        node->list = *out;
        tail = &(*out)->next;
    } else {
        node->a = *out;
    }
    while (operator_of(p, level)) {
        lp_jnode *operand = NULL;
        LP_TRY(lp_jparse_node(p, LP_JN_OPERAND, &operand));
        operand->op = (uint8_t)p->now.type;
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(parse_math(p, level + 1, level == 1 ? tail : &operand->a));
        if (level != 1) *tail = operand;
        tail = &(*tail)->next;
    }
    *out = node;
    return LP_OK;
}

static lp_code compare_operator(lp_jparser *p, lp_jtok *op) {
    lp_jtok t = p->now.type;
    *op = LP_JT_EOF;
    if (t >= LP_JT_EQ && t <= LP_JT_GE) {
        *op = t;
    } else if (lp_jparse_at_name(p, "in")) {
        *op = LP_JT_IN;
    } else if (lp_jparse_at_name(p, "not")) {
        const lp_jtoken *ahead = NULL;
        LP_TRY(lp_jparse_peek(p, &ahead));
        if (ahead->type != LP_JT_NAME || !lp_str_is(ahead->text, "in")) return LP_OK;
        *op = LP_JT_NOT_IN;
        LP_TRY(lp_jparse_advance(p));
    }
    return LP_OK;
}

static lp_code parse_compare(lp_jparser *p, lp_jnode **out) {
    LP_TRY(parse_math(p, 0, out));
    lp_jnode *node = NULL, **tail = NULL;
    while (true) {
        lp_jtok op = LP_JT_EOF;
        lp_jnode *operand = NULL;
        LP_TRY(compare_operator(p, &op));
        if (op == LP_JT_EOF) break;
        LP_TRY(lp_jparse_node(p, LP_JN_OPERAND, &operand));
        LP_TRY(lp_jparse_advance(p));
        operand->op = (uint8_t)op;
        LP_TRY(parse_math(p, 0, &operand->a));
        if (node == NULL) {
            LP_TRY(lp_jparse_node(p, LP_JN_COMPARE, &node));
            node->pos = operand->pos;
            node->a = *out;
            tail = &node->list;
            *out = node;
        }
        *tail = operand;
        tail = &operand->next;
    }
    return LP_OK;
}

static lp_code parse_not(lp_jparser *p, lp_jnode **out) {
    lp_jnode *node = NULL;
    while (lp_jparse_at_name(p, "not")) {
        if (node == NULL) LP_TRY(lp_jparse_node(p, LP_JN_NOT, &node));
        node->op ^= 1; /* not not x is bool(x): kept as a NOT node with op 0 */
        LP_TRY(lp_jparse_advance(p));
    }
    if (node == NULL) return parse_compare(p, out);
    *out = node;
    return parse_compare(p, &node->a);
}

/* a and b and c; an operand of `or` is such a run. */
static lp_code parse_logic(lp_jparser *p, bool any, lp_jnode **out) {
    const char *word = any ? "or" : "and";
    LP_TRY(any ? parse_logic(p, false, out) : parse_not(p, out));
    if (!lp_jparse_at_name(p, word)) return LP_OK;
    lp_jnode *node = NULL;
    LP_TRY(lp_jparse_node(p, any ? LP_JN_OR : LP_JN_AND, &node));
    node->list = *out;
    lp_jnode **tail = &(*out)->next;
    while (lp_jparse_at_name(p, word)) {
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(any ? parse_logic(p, false, tail) : parse_not(p, tail));
        tail = &(*tail)->next;
    }
    *out = node;
    return LP_OK;
}

lp_code lp_jparse_expression(lp_jparser *p, bool with_cond, lp_jnode **out) {
    LP_TRY(lp_jparse_enter(p));
    LP_TRY(parse_logic(p, true, out));
    while (with_cond && lp_jparse_at_name(p, "if")) {
        lp_jnode *node = NULL;
        LP_TRY(lp_jparse_node(p, LP_JN_COND, &node));
        node->a = *out;
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(parse_logic(p, true, &node->b));
        if (lp_jparse_at_name(p, "else")) {
            LP_TRY(lp_jparse_advance(p));
            LP_TRY(lp_jparse_expression(p, true, &node->c));
        }
        *out = node;
    }
    p->depth--;
    return LP_OK;
}

static bool tuple_ends(const lp_jparser *p, const char *end_name) {
    lp_jtok t = p->now.type;
    return t == LP_JT_VAR_END || t == LP_JT_BLOCK_END || t == LP_JT_RPAREN ||
           (end_name != NULL && lp_jparse_at_name(p, end_name));
}

lp_code lp_jparse_tuple(lp_jparser *p, int flags, const char *end_name, lp_jnode **out) {
    lp_jnode *tuple = NULL;
    LP_TRY(lp_jparse_enter(p));
    LP_TRY(lp_jparse_node(p, LP_JN_TUPLE, &tuple));
    lp_jnode **tail = &tuple->list;
    bool comma = false;
    while (!tuple_ends(p, end_name)) {
        if (flags & LP_JP_TARGET) {
            LP_TRY(parse_primary(p, (flags & LP_JP_NSREF) != 0, tail));
        } else {
            LP_TRY(lp_jparse_expression(p, (flags & LP_JP_COND) != 0, tail));
        }
        tail = &(*tail)->next;
        if (p->now.type != LP_JT_COMMA) break;
        comma = true;
        LP_TRY(lp_jparse_advance(p));
    }
    p->depth--;
    if (!comma && tuple->list == NULL && !(flags & LP_JP_PARENS)) {
        return lp_jparse_error(p, "expected an expression");
    }
    *out = comma || tuple->list == NULL ? tuple : tuple->list;
    return LP_OK;
}

/* Only names, namespace attributes and tuples of them can be assigned to. */
static lp_code check_target(lp_jparser *p, const lp_jnode *node) {
    if (node->kind == LP_JN_NAME || node->kind == LP_JN_NSREF) return LP_OK;
    if (node->kind != LP_JN_TUPLE) return lp_jparse_error(p, "this cannot be assigned to");
    LP_TRY(lp_jparse_enter(p));
    for (const lp_jnode *item = node->list; item != NULL; item = item->next) {
        LP_TRY(check_target(p, item));
    }
    p->depth--;
    return LP_OK;
}

lp_code lp_jparse_target(lp_jparser *p, int flags, const char *end_name, lp_jnode **out) {
    LP_TRY(lp_jparse_tuple(p, flags | LP_JP_TARGET, end_name, out));
    return check_target(p, *out);
}
