/* jinja_parse.c - tokens to a tree of statements; opens and closes a template.
 *
 * if for set macro call filter with block print autoescape, transformers' generation, break and
 * continue. include, import, from and extends need files that a chat template does not have.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_core.h"

static lp_code parse_statements(lp_jparser *p, const char *const *ends, lp_jnode **out);

static lp_code parse_block_body(lp_jparser *p, const char *const *ends, lp_jnode **out) {
    if (p->now.type == LP_JT_COLON) LP_TRY(lp_jparse_advance(p));
    LP_TRY(lp_jparse_expect(p, LP_JT_BLOCK_END, "the end of the block's tag"));
    return parse_statements(p, ends, out);
}

/* A body up to one end tag, whose name is consumed. */
static lp_code parse_to(lp_jparser *p, const char *end, lp_jnode **out) {
    const char *const ends[] = {end, NULL};
    LP_TRY(parse_block_body(p, ends, out));
    return lp_jparse_advance(p);
}

static lp_code parse_if(lp_jparser *p, lp_jnode *node) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    node->kind = LP_JN_IF;
    lp_jnode **tail = &node->list;
    while (true) {
        lp_jnode *branch = NULL;
        LP_TRY(lp_jparse_node(p, LP_JN_BRANCH, &branch));
        *tail = branch;
        tail = &branch->next;
        LP_TRY(lp_jparse_tuple(p, 0, NULL, &branch->a));
        LP_TRY(parse_block_body(p, ends, &branch->body));
        bool more = lp_jparse_at_name(p, "elif"), other = lp_jparse_at_name(p, "else");
        LP_TRY(lp_jparse_advance(p));
        if (more) continue;
        if (!other) return LP_OK;
        LP_TRY(lp_jparse_node(p, LP_JN_BRANCH, tail));
        return parse_to(p, "endif", &(*tail)->body);
    }
}

static lp_code parse_for(lp_jparser *p, lp_jnode *node) {
    static const char *const ends[] = {"endfor", "else", NULL};
    node->kind = LP_JN_FOR;
    LP_TRY(lp_jparse_target(p, 0, "in", &node->a));
    if (node->a->kind == LP_JN_NAME && lp_str_is(node->a->name, "loop")) {
        return lp_jparse_error(p, "a loop cannot assign to 'loop'");
    }
    if (!lp_jparse_at_name(p, "in")) return lp_jparse_error(p, "expected 'in'");
    LP_TRY(lp_jparse_advance(p));
    LP_TRY(lp_jparse_tuple(p, 0, "recursive", &node->b));
    if (lp_jparse_at_name(p, "if")) {
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(lp_jparse_expression(p, true, &node->c));
    }
    if (lp_jparse_at_name(p, "recursive")) {
        node->op = 1;
        LP_TRY(lp_jparse_advance(p));
    }
    p->loops++;
    LP_TRY(parse_block_body(p, ends, &node->body));
    p->loops--;
    bool other = lp_jparse_at_name(p, "else");
    LP_TRY(lp_jparse_advance(p));
    return other ? parse_to(p, "endfor", &node->other) : LP_OK;
}

static lp_code parse_set(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_SET;
    LP_TRY(lp_jparse_target(p, LP_JP_NSREF, NULL, &node->a));
    if (p->now.type == LP_JT_ASSIGN) {
        LP_TRY(lp_jparse_advance(p));
        return lp_jparse_tuple(p, LP_JP_COND, NULL, &node->b);
    }
    node->kind = LP_JN_SET_BLOCK;
    LP_TRY(lp_jparse_filters(p, false, &node->list));
    return parse_to(p, "endset", &node->body);
}

/* (a, b, c=1) */
static lp_code parse_parameters(lp_jparser *p, lp_jnode *node) {
    lp_jnode **tail = &node->list;
    bool defaults = false;
    LP_TRY(lp_jparse_expect(p, LP_JT_LPAREN, "'('"));
    while (p->now.type != LP_JT_RPAREN) {
        if (node->list != NULL) LP_TRY(lp_jparse_expect(p, LP_JT_COMMA, "',' or ')'"));
        lp_jnode *parameter = NULL;
        LP_TRY(lp_jparse_node(p, LP_JN_PARAM, &parameter));
        if (p->now.type != LP_JT_NAME) return lp_jparse_error(p, "expected a parameter's name");
        parameter->name = p->now.text;
        LP_TRY(lp_jparse_advance(p));
        if (p->now.type == LP_JT_ASSIGN) {
            LP_TRY(lp_jparse_advance(p));
            LP_TRY(lp_jparse_expression(p, true, &parameter->a));
            defaults = true;
        } else if (defaults) {
            return lp_jparse_error(p, "a parameter without default follows one with default");
        }
        *tail = parameter;
        tail = &parameter->next;
    }
    return lp_jparse_advance(p);
}

/* break and continue do not cross a macro's border. */
static lp_code parse_function_body(lp_jparser *p, const char *end, lp_jnode *node) {
    unsigned loops = p->loops;
    uint8_t uses = p->uses;
    p->loops = 0;
    p->uses = 0;
    LP_TRY(parse_to(p, end, &node->body));
    if (node->kind != LP_JN_SCOPE) node->op = p->uses;
    p->loops = loops;
    p->uses |= uses; /* a macro also passes on what its inner macros read */
    return LP_OK;
}

static lp_code parse_macro(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_MACRO;
    if (p->now.type != LP_JT_NAME) return lp_jparse_error(p, "expected the macro's name");
    node->name = p->now.text;
    LP_TRY(lp_jparse_advance(p));
    LP_TRY(parse_parameters(p, node));
    return parse_function_body(p, "endmacro", node);
}

static lp_code parse_call(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_CALL_BLOCK;
    if (p->now.type == LP_JT_LPAREN) LP_TRY(parse_parameters(p, node));
    LP_TRY(lp_jparse_expression(p, true, &node->a));
    const lp_jnode *last = node->a->kind == LP_JN_CHAIN ? node->a->list : NULL;
    while (last != NULL && last->next != NULL) last = last->next;
    if (last == NULL || last->kind != LP_JN_CALL) return lp_jparse_error(p, "expected a call");
    return parse_function_body(p, "endcall", node);
}

static lp_code parse_with(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_WITH;
    lp_jnode **tail = &node->list;
    while (p->now.type != LP_JT_BLOCK_END) {
        if (node->list != NULL) LP_TRY(lp_jparse_expect(p, LP_JT_COMMA, "','"));
        LP_TRY(lp_jparse_target(p, 0, NULL, tail));
        tail = &(*tail)->next;
        LP_TRY(lp_jparse_expect(p, LP_JT_ASSIGN, "'='"));
        LP_TRY(lp_jparse_expression(p, true, tail));
        tail = &(*tail)->next;
    }
    return parse_to(p, "endwith", &node->body);
}

static lp_code parse_filter_block(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_FILTER_BLOCK;
    LP_TRY(lp_jparse_filters(p, true, &node->list));
    return parse_to(p, "endfilter", &node->body);
}

static lp_code parse_print(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_OUTPUT;
    lp_jnode **tail = &node->list;
    while (p->now.type != LP_JT_BLOCK_END) {
        if (node->list != NULL) LP_TRY(lp_jparse_expect(p, LP_JT_COMMA, "','"));
        LP_TRY(lp_jparse_expression(p, true, tail));
        tail = &(*tail)->next;
    }
    return LP_OK;
}

static lp_code parse_block(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_SCOPE;
    if (p->now.type != LP_JT_NAME) return lp_jparse_error(p, "expected the block's name");
    lp_str name = p->now.text;
    LP_TRY(lp_jparse_advance(p));
    while (lp_jparse_at_name(p, "scoped") || lp_jparse_at_name(p, "required")) {
        LP_TRY(lp_jparse_advance(p));
    }
    LP_TRY(parse_to(p, "endblock", &node->body));
    if (p->now.type == LP_JT_NAME && lp_str_equal(p->now.text, name)) return lp_jparse_advance(p);
    return LP_OK;
}

static lp_code parse_generation(lp_jparser *p, lp_jnode *node) {
    node->kind = LP_JN_SCOPE;
    return parse_function_body(p, "endgeneration", node);
}

static lp_code parse_autoescape(lp_jparser *p, lp_jnode *node) {
    (void)node;
    return lp_jfail_at(p->err, LP_ERR_UNSUPPORTED, p->lexer.source, p->now.pos,
                       "autoescape blocks are not supported");
}

static lp_code parse_other_file(lp_jparser *p, lp_jnode *node) {
    (void)node;
    return lp_jfail_at(p->err, LP_ERR_UNSUPPORTED, p->lexer.source, p->now.pos,
                       "a chat template cannot use other templates");
}

static lp_code parse_jump(lp_jparser *p, lp_jnode *node) {
    if (p->loops == 0) return lp_jparse_error(p, "break and continue belong into a for loop");
    (void)node;
    return LP_OK;
}

static const struct {
    const char *name;
    lp_code (*parse)(lp_jparser *, lp_jnode *);
    uint8_t kind;
} statements[] = {
    {"if", parse_if, LP_JN_IF},
    {"for", parse_for, LP_JN_FOR},
    {"set", parse_set, LP_JN_SET},
    {"macro", parse_macro, LP_JN_MACRO},
    {"generation", parse_generation, LP_JN_SCOPE},
    {"break", parse_jump, LP_JN_BREAK},
    {"continue", parse_jump, LP_JN_CONTINUE},
    {"call", parse_call, LP_JN_CALL_BLOCK},
    {"filter", parse_filter_block, LP_JN_FILTER_BLOCK},
    {"with", parse_with, LP_JN_WITH},
    {"print", parse_print, LP_JN_OUTPUT},
    {"block", parse_block, LP_JN_SCOPE},
    {"autoescape", parse_autoescape, LP_JN_SCOPE},
    {"include", parse_other_file, LP_JN_SCOPE},
    {"import", parse_other_file, LP_JN_SCOPE},
    {"from", parse_other_file, LP_JN_SCOPE},
    {"extends", parse_other_file, LP_JN_SCOPE},
};

static lp_code parse_statement(lp_jparser *p, lp_jnode **out) {
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (!lp_jparse_at_name(p, statements[i].name)) continue;
        LP_TRY(lp_jparse_node(p, (lp_jkind)statements[i].kind, out));
        LP_TRY(lp_jparse_enter(p));
        LP_TRY(lp_jparse_advance(p));
        LP_TRY(statements[i].parse(p, *out));
        p->depth--;
        return lp_jparse_expect(p, LP_JT_BLOCK_END, "the end of the block's tag");
    }
    return lp_jparse_error(p, "unknown or misplaced tag");
}

static lp_code parse_output(lp_jparser *p, lp_jnode *node) {
    LP_TRY(lp_jparse_advance(p));
    LP_TRY(lp_jparse_tuple(p, LP_JP_COND, NULL, &node->list));
    return lp_jparse_expect(p, LP_JT_VAR_END, "the end of the expression");
}

static lp_code parse_data(lp_jparser *p, lp_jnode *node) {
    lp_jstr *s = lp_arena_alloc(p->arena, 1, sizeof *s);
    if (s == NULL) return lp_fail(p->err, LP_ERR_MEMORY, "not enough memory for the template");
    lp_str text = p->now.text;
    *s = (lp_jstr){
        .data = text.data, .len = text.len, .chars = lp_utf8_count(text), .trusted = true};
    LP_TRY(lp_jparse_node(p, LP_JN_CONST, &node->list));
    node->list->value = (lp_jv){.type = LP_J_STR, .trusted = true, .u.s = s};
    return lp_jparse_advance(p);
}

/* Up to a tag named in ends (left as the current token), or to the end of the template. */
static lp_code parse_statements(lp_jparser *p, const char *const *ends, lp_jnode **out) {
    while (p->now.type != LP_JT_EOF) {
        lp_jnode *node = NULL;
        if (p->now.type == LP_JT_DATA || p->now.type == LP_JT_VAR_BEGIN) {
            LP_TRY(lp_jparse_node(p, LP_JN_OUTPUT, &node));
            LP_TRY(p->now.type == LP_JT_DATA ? parse_data(p, node) : parse_output(p, node));
        } else {
            LP_TRY(lp_jparse_expect(p, LP_JT_BLOCK_BEGIN, "a tag"));
            for (size_t i = 0; ends != NULL && ends[i] != NULL; i++) {
                if (lp_jparse_at_name(p, ends[i])) return LP_OK;
            }
            if (p->now.type != LP_JT_NAME) return lp_jparse_error(p, "expected a tag's name");
            LP_TRY(parse_statement(p, &node));
        }
        *out = node;
        out = &node->next;
    }
    if (ends == NULL) return LP_OK;
    char message[80] = "the template ends before ";
    strncat(message, ends[0], 40);
    return lp_jparse_error(p, message);
}

lp_code lp_jinja_open(lp_jinja **out, lp_str source, lp_error *err) {
    *out = NULL;
    if (source.len > LP_J_SOURCE) {
        return lp_fail(err, LP_ERR_LIMIT, "the template is larger than %d bytes", LP_J_SOURCE);
    }
    lp_jinja *jinja = lp_alloc(1, sizeof *jinja);
    if (jinja == NULL) return lp_fail(err, LP_ERR_MEMORY, "not enough memory for the template");
    lp_arena_init(&jinja->arena, LP_J_ARENA);
    lp_code code = lp_jlex_normalize(&jinja->arena, source, &jinja->source, err);
    if (code == LP_OK) {
        lp_jparser parser = {.arena = &jinja->arena, .err = err};
        lp_jlex_init(&parser.lexer, &jinja->arena, jinja->source, err);
        code = lp_jparse_advance(&parser);
        if (code == LP_OK) code = parse_statements(&parser, NULL, &jinja->body);
    }
    if (code != LP_OK) {
        lp_jinja_close(jinja);
        return code;
    }
    *out = jinja;
    return LP_OK;
}

void lp_jinja_close(lp_jinja *jinja) {
    if (jinja == NULL) return;
    lp_arena_free(&jinja->arena);
    lp_free(jinja);
}
