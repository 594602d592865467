/* jinja_core.h - what the parts of the template engine share: values, the tree, one run's state.
 *
 * Errors are sticky: the first failure is stored in the run (lp_jx.code) and everything after it
 * gives `undefined`, so a function checks once where it would loop or read further. All memory of
 * a run comes from one arena that is freed at its end; there are no destructors to recurse.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CHAT_JINJA_CORE_H
#define LP_CHAT_JINJA_CORE_H

#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "chat/jinja.h"

enum {
    LP_J_DEPTH = 64,             /* nesting of the source: blocks, brackets, not/unary chains */
    LP_J_EVAL_DEPTH = 256,       /* nesting while running: a macro's body counts on top */
    LP_J_DATA_DEPTH = 64,        /* nesting of values when printed, compared or copied */
    LP_J_STEPS = 1000000,        /* one per node, item, 256 bytes copied, 32 looked at */
    LP_J_TEXT = 4 * 1024 * 1024, /* bytes of the output and of any one string */
    LP_J_ITEMS = 100000,         /* items of any one list, range or loop */
    LP_J_SOURCE = 1024 * 1024,   /* bytes of a template */
    LP_J_ARENA = 192 * 1024 * 1024
};

/* --- values ------------------------------------------------------------------------------- */

typedef enum lp_jtype {
    LP_J_UNDEFINED,
    LP_J_NONE,
    LP_J_BOOL,
    LP_J_INT,
    LP_J_FLOAT,
    LP_J_STR,
    LP_J_LIST,
    LP_J_TUPLE,
    LP_J_DICT,
    LP_J_VIEW,      /* dict.keys(), .values(), .items() */
    LP_J_RANGE,     /* lazy: start, stop, step */
    LP_J_ITER,      /* a generator: iterable once, no length */
    LP_J_NAMESPACE, /* the one mutable value: {% set ns.x = ... %} */
    LP_J_LOOP,
    LP_J_MACRO,
    LP_J_FUNCTION, /* a global: range, namespace, raise_exception ... */
    LP_J_METHOD,   /* "text".strip, not yet called */
    LP_J_CYCLER,   /* cycler(...) and joiner(...) */
    LP_J_MISSING   /* an argument that was not given; never seen by a template */
} lp_jtype;

/* UTF-8 (ill-formed parts count one character each, as base/utf8.h cuts them). */
typedef struct lp_jstr {
    const char *data;    /* in the arena, the template's source or a message: outlives the run */
    const uint8_t *mask; /* (len), 1 = trusted; NULL = every byte is as `trusted` says */
    size_t len;          /* bytes */
    size_t chars;        /* code points; == len for ASCII, where index and offset agree */
    bool trusted;
    bool markup; /* came from the safe or escape filter: `+` escapes its other operand */
} lp_jstr;

typedef struct lp_jlist lp_jlist;
typedef struct lp_jdict lp_jdict;
typedef struct lp_jrange {
    int64_t start, stop, step;
    size_t len;
} lp_jrange;
typedef struct lp_jloop lp_jloop;
typedef struct lp_jmacro lp_jmacro;
typedef struct lp_jbound lp_jbound;
typedef struct lp_jbuiltin lp_jbuiltin;
typedef struct lp_jcycler lp_jcycler;

typedef struct lp_jv {
    uint8_t type; /* lp_jtype */
    uint8_t kind; /* LP_J_VIEW: 'k', 'v' or 'i' */
    bool trusted; /* BOOL, INT, FLOAT: the digits printed for it count as the template's */
    union {
        bool b;
        int64_t i;
        double f;
        const lp_jstr *s;
        lp_jlist *l; /* LIST, TUPLE, ITER (used = items already taken) */
        lp_jdict *d; /* DICT, VIEW, NAMESPACE */
        const lp_jrange *r;
        lp_jloop *loop;
        lp_jmacro *macro;
        const lp_jbound *method;
        const lp_jbuiltin *function;
        lp_jcycler *cycler;
        const lp_jstr *name; /* UNDEFINED: what was looked up, for the message; may be NULL */
    } u;
} lp_jv;

struct lp_jlist {
    lp_jv *items;
    size_t len, size;
    size_t used; /* ITER only */
};

typedef struct lp_jentry {
    lp_jv key, value;
    uint64_t hash;
} lp_jentry;

/* Insertion order, unique keys. From 9 entries on `index` is an open-addressing table. */
struct lp_jdict {
    lp_jentry *entries;
    size_t len, size;
    uint32_t *index; /* (index_size) entry + 1, 0 = empty; NULL while small */
    size_t index_size;
};

/* --- the tree ----------------------------------------------------------------------------- */

typedef enum lp_jkind {
    /* expressions */
    LP_JN_CONST,
    LP_JN_NAME,
    LP_JN_TUPLE, /* list: items */
    LP_JN_LIST,
    LP_JN_DICT, /* list: key, value, key, value ... */
    LP_JN_AND,  /* list: operands */
    LP_JN_OR,
    LP_JN_NOT,     /* a; op = how many times */
    LP_JN_NEG,     /* a */
    LP_JN_POS,     /* a */
    LP_JN_COND,    /* a if b else c */
    LP_JN_MATH,    /* a, list: OPERAND */
    LP_JN_COMPARE, /* a, list: OPERAND */
    LP_JN_CONCAT,  /* list */
    LP_JN_OPERAND, /* op, a */
    LP_JN_CHAIN,   /* a, list: ATTR ITEM SLICE CALL FILTER TEST applied in order */
    LP_JN_ATTR,    /* name */
    LP_JN_ITEM,    /* a */
    LP_JN_SLICE,   /* a, b, c */
    LP_JN_CALL,    /* list: ARG */
    LP_JN_FILTER,  /* name, list: ARG */
    LP_JN_TEST,    /* name, list: ARG; op = 1: negated */
    LP_JN_ARG,     /* a; op: 0 positional, 1 name=, 2 *a, 3 **a */
    LP_JN_NSREF,   /* name.attr as a target: name, a = CONST attr */
    /* statements */
    LP_JN_OUTPUT,       /* list */
    LP_JN_IF,           /* list: BRANCH */
    LP_JN_BRANCH,       /* a = test (NULL: else), body */
    LP_JN_FOR,          /* a target, b iterable, c test, body, other; op = 1: recursive */
    LP_JN_SET,          /* a target, b value */
    LP_JN_SET_BLOCK,    /* a target, list: FILTER, body */
    LP_JN_MACRO,        /* name, list: PARAM, body */
    LP_JN_PARAM,        /* name, a = default or NULL */
    LP_JN_CALL_BLOCK,   /* a = call, list: PARAM, body */
    LP_JN_FILTER_BLOCK, /* list: FILTER, body */
    LP_JN_WITH,         /* list: target, value, target, value ..., body */
    LP_JN_SCOPE,        /* body */
    LP_JN_BREAK,
    LP_JN_CONTINUE
} lp_jkind;

typedef struct lp_jnode lp_jnode;
struct lp_jnode {
    uint8_t kind, op;
    uint32_t pos; /* byte offset in the normalised source */
    lp_str name;
    lp_jv value; /* CONST */
    lp_jnode *a, *b, *c;
    lp_jnode *list; /* first of a chain through next */
    lp_jnode *body, *other;
    lp_jnode *next;
};

struct lp_jinja {
    lp_arena arena; /* source and tree */
    lp_str source;  /* line ends are \n, one trailing newline dropped */
    lp_jnode *body;
};

/* Operators of OPERAND nodes and tokens. */
typedef enum lp_jtok {
    LP_JT_EOF,
    LP_JT_DATA,
    LP_JT_VAR_BEGIN,
    LP_JT_VAR_END,
    LP_JT_BLOCK_BEGIN,
    LP_JT_BLOCK_END,
    LP_JT_NAME,
    LP_JT_STRING,
    LP_JT_INT,
    LP_JT_FLOAT,
    LP_JT_ADD,
    LP_JT_SUB,
    LP_JT_MUL,
    LP_JT_DIV,
    LP_JT_FLOORDIV,
    LP_JT_MOD,
    LP_JT_POW,
    LP_JT_TILDE,
    LP_JT_EQ,
    LP_JT_NE,
    LP_JT_LT,
    LP_JT_LE,
    LP_JT_GT,
    LP_JT_GE,
    LP_JT_IN,
    LP_JT_NOT_IN,
    LP_JT_ASSIGN,
    LP_JT_DOT,
    LP_JT_COMMA,
    LP_JT_COLON,
    LP_JT_PIPE,
    LP_JT_SEMICOLON,
    LP_JT_LPAREN,
    LP_JT_RPAREN,
    LP_JT_LBRACKET,
    LP_JT_RBRACKET,
    LP_JT_LBRACE,
    LP_JT_RBRACE
} lp_jtok;

typedef struct lp_jtoken {
    lp_jtok type;
    uint32_t pos;
    lp_str text; /* NAME, DATA, STRING (unescaped) */
    int64_t integer;
    double number;
} lp_jtoken;

/* Reads tokens one by one; the state machine of {% %}, {{ }} and the text between. */
typedef struct lp_jlexer {
    lp_arena *arena; /* for unescaped strings; borrowed */
    lp_error *err;
    lp_str source;
    size_t at;
    int mode;           /* 0 text, 1 block, 2 variable */
    bool line_starting; /* the last match ended with a newline */
    char brackets[LP_J_DEPTH];
    size_t n_brackets;
    lp_jtoken pending; /* the tag that ended a piece of text */
    bool has_pending;
} lp_jlexer;

lp_code lp_jlex_normalize(lp_arena *arena, lp_str source, lp_str *out, lp_error *err) LP_MUST_USE;
void lp_jlex_init(lp_jlexer *lexer, lp_arena *arena, lp_str source, lp_error *err);
lp_code lp_jlex_next(lp_jlexer *lexer, lp_jtoken *token) LP_MUST_USE;
/* "template line L, column C: message" for a byte offset of the normalised source. */
lp_code lp_jfail_at(lp_error *err, lp_code code, lp_str source, size_t pos, const char *message);

typedef struct lp_jparser {
    lp_jlexer lexer;
    lp_arena *arena;
    lp_error *err;
    lp_jtoken now, ahead;
    bool has_ahead;
    unsigned depth, loops; /* loops: enclosing for bodies, for break and continue */
    uint8_t uses;          /* LP_JM_*: special names read since the macro began */
} lp_jparser;

lp_code lp_jparse_advance(lp_jparser *parser) LP_MUST_USE;
lp_code lp_jparse_peek(lp_jparser *parser, const lp_jtoken **token) LP_MUST_USE;
lp_code lp_jparse_expect(lp_jparser *parser, lp_jtok type, const char *what) LP_MUST_USE;
lp_code lp_jparse_node(lp_jparser *parser, lp_jkind kind, lp_jnode **out) LP_MUST_USE;
lp_code lp_jparse_error(lp_jparser *parser, const char *message);
lp_code lp_jparse_enter(lp_jparser *parser) LP_MUST_USE; /* pair with --parser->depth */
bool lp_jparse_at_name(const lp_jparser *parser, const char *name);
/* jinja_expr.c. ends: further names that may end a tuple, or NULL. */
enum { LP_JP_COND = 1, LP_JP_PARENS = 2, LP_JP_TARGET = 4, LP_JP_NSREF = 8 };
lp_code lp_jparse_tuple(lp_jparser *parser, int flags, const char *end_name,
                        lp_jnode **out) LP_MUST_USE;
lp_code lp_jparse_expression(lp_jparser *parser, bool with_cond, lp_jnode **out) LP_MUST_USE;
lp_code lp_jparse_target(lp_jparser *parser, int flags, const char *end_name,
                         lp_jnode **out) LP_MUST_USE;
lp_code lp_jparse_filters(lp_jparser *parser, bool inline_first, lp_jnode **list) LP_MUST_USE;

/* MACRO.op: which of its special variables the body reads. */
enum { LP_JM_CALLER = 1, LP_JM_KWARGS = 2, LP_JM_VARARGS = 4 };

/* --- one run ------------------------------------------------------------------------------ */

typedef struct lp_jx lp_jx;

/* A string under construction; output is one too. */
typedef struct lp_jbuf {
    lp_jx *x;
    char *data;
    uint8_t *mask; /* NULL while every byte so far has the same trust */
    size_t len, size;
    bool trusted; /* of the bytes so far, while mask is NULL */
    bool markup;  /* what comes of it is markup: set by the function that fills it */
} lp_jbuf;

typedef struct lp_jscope lp_jscope;
struct lp_jscope {
    lp_jscope *parent;
    struct lp_jvar {
        lp_str name;
        lp_jv value;
    } *vars;
    size_t len, size;
    bool captured; /* a macro was defined in or below it */
};

struct lp_jx {
    lp_arena arena; /* everything of this run */
    lp_error *err;
    lp_code code; /* sticky */
    lp_str source;
    uint32_t pos; /* of the node being evaluated */
    uint64_t steps, max_steps;
    size_t fraction; /* bytes of small pieces that have not become a step yet */
    unsigned depth;
    lp_jbuf *out;
    lp_jdict *globals; /* what the caller gave */
    lp_jscope *root;
    int64_t now;  /* local seconds since 1970 */
    uint8_t jump; /* 0, LP_JN_BREAK or LP_JN_CONTINUE on its way to the loop */
};

typedef struct lp_jkeyword {
    lp_str name;
    lp_jv value;
    bool used;
} lp_jkeyword;

typedef struct lp_jargs {
    lp_jv *at;
    size_t n, size;
    lp_jkeyword *keywords;
    size_t n_keywords, keywords_size;
} lp_jargs;

/* One row of a library table. names: the parameters as in Python's def, blank-separated; "?" ends
 * an optional one; a leading "/" makes all positional-only; "*" takes anything (args as given). */
typedef lp_jv (*lp_jfunction)(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args);
struct lp_jbuiltin {
    const char *name;
    lp_jfunction call;
    const char *names;
};
enum { LP_J_ARGS = 8 }; /* most named parameters of a row */

struct lp_jbound {
    lp_jv self;
    const lp_jbuiltin *function;
};

struct lp_jmacro {
    const lp_jnode *node; /* MACRO or CALL_BLOCK */
    lp_jscope *scope;     /* where it was defined */
};

struct lp_jloop {
    const lp_jlist *items;
    size_t at;
    size_t depth;
    const lp_jnode *node; /* FOR */
    lp_jscope *scope;     /* around the loop */
    lp_jv changed;        /* last arguments of loop.changed(), MISSING at first */
};

struct lp_jcycler {
    lp_jlist *items;
    size_t at;
    bool joiner;
};

/* Failing and paying. Both leave x->code set when they refuse. */
lp_jv lp_jx_fail(lp_jx *x, lp_code code, const char *format, ...) LP_PRINTF(3, 4);
bool lp_jx_pay(lp_jx *x, size_t steps);
bool lp_jx_read(lp_jx *x, const lp_jstr *s); /* pays for looking at each character of s */
bool lp_jx_enter(lp_jx *x);                  /* one level deeper; pair with --x->depth */
void *lp_jx_alloc(lp_jx *x, size_t count, size_t size);

/* Runs a template. globals: a DICT. The text and its mask lie in the run's arena. */
lp_code lp_jx_run(lp_jx *x, const lp_jinja *jinja, lp_jdict *globals, lp_jbuf *out,
                  lp_error *err) LP_MUST_USE;

/* jinja_string.c */
void lp_jbuf_init(lp_jbuf *buf, lp_jx *x);
void lp_jbuf_add(lp_jbuf *buf, const char *data, const uint8_t *mask, bool trusted, size_t len);
void lp_jbuf_add_str(lp_jbuf *buf, const lp_jstr *s);
void lp_jbuf_add_part(lp_jbuf *buf, const lp_jstr *s, size_t begin, size_t end); /* bytes */
void lp_jbuf_add_text(lp_jbuf *buf, const char *text, bool trusted);
lp_jv lp_jbuf_value(lp_jbuf *buf);
lp_jv lp_jstr_new(lp_jx *x, lp_str text, bool trusted); /* borrows text */
lp_jv lp_jstr_text(lp_jx *x, const char *text, bool trusted);
lp_jv lp_jstr_part(lp_jx *x, const lp_jstr *s, size_t begin, size_t end); /* bytes; shares */
size_t lp_jstr_offset(const lp_jstr *s, size_t index); /* byte offset of a code point */
lp_str lp_jstr_bytes(const lp_jstr *s);
/* Offset of the first (last) occurrence at or after `from`, or SIZE_MAX. Linear in both. */
size_t lp_jstr_find(lp_jx *x, lp_str hay, lp_str needle, size_t from);
size_t lp_jstr_find_last(lp_jx *x, lp_str hay, lp_str needle);
bool lp_jstr_is(lp_jv v, const char *text);
bool lp_jstr_trusted(const lp_jstr *s); /* wholly */
uint32_t lp_jstr_char(const lp_jstr *s, size_t at, size_t *len);
bool lp_jchar_space(uint32_t c);
bool lp_jchar_printable(uint32_t c);
bool lp_jchar_is(uint32_t c, char what); /* 'a'lpha 'd'igit 'n' alnum 'l'ower 'u'pper 'w'ord */
size_t lp_jchar_line_end(const lp_jstr *s, size_t at); /* bytes of a line end here, or 0 */
lp_jv lp_jstr_strip(lp_jx *x, const lp_jstr *s, const lp_jstr *chars, bool left, bool right);
/* jinja_case.c. how: 'l'ower, 'u'pper, 'c'apitalize, 's'wapcase, 't'itle (the method), 'w' (the
 * filter title: words begin after blanks and - ( { [ <). */
lp_jv lp_jstr_case(lp_jx *x, const lp_jstr *s, char how);
lp_jv lp_jstr_pad(lp_jx *x, const lp_jstr *s, int64_t width, const lp_jstr *fill, char side);
lp_jv lp_jstr_replace(lp_jx *x, const lp_jstr *s, const lp_jstr *old, const lp_jstr *by,
                      int64_t max);
lp_jv lp_jstr_mark(lp_jx *x, lp_jv v); /* the same text as markup */
lp_jv lp_jstr_escape(lp_jx *x, const lp_jstr *s);
void lp_jbuf_escape(lp_jbuf *buf, const lp_jstr *s);

/* jinja_value.c */
lp_jv lp_jv_none(void);
lp_jv lp_jv_undefined(const lp_jstr *name);
lp_jv lp_jv_missing(void);
lp_jv lp_jv_bool(bool b);
lp_jv lp_jv_int(int64_t i);
lp_jv lp_jv_float(double f);
lp_jlist *lp_jlist_new(lp_jx *x);
void lp_jlist_add(lp_jx *x, lp_jlist *list, lp_jv v);
lp_jv lp_jv_list(lp_jlist *list, lp_jtype type);
lp_jv lp_jv_pair(lp_jx *x, lp_jv a, lp_jv b); /* a TUPLE */
lp_jdict *lp_jdict_new(lp_jx *x);
void lp_jdict_set(lp_jx *x, lp_jdict *dict, lp_jv key, lp_jv value);
void lp_jdict_put(lp_jx *x, lp_jdict *dict, const char *key, lp_jv value);
const lp_jv *lp_jdict_get(lp_jx *x, const lp_jdict *dict, lp_jv key); /* NULL: absent or error */
const lp_jv *lp_jdict_find(lp_jx *x, const lp_jdict *dict, lp_str key);
lp_jv lp_jv_dict(lp_jdict *dict);
bool lp_jv_truth(lp_jv v);
bool lp_jv_number(lp_jv v, double *out);
bool lp_jv_integer(lp_jv v, int64_t *out); /* INT or BOOL */
bool lp_jv_equal(lp_jx *x, lp_jv a, lp_jv b);
int lp_jv_compare(lp_jx *x, lp_jv a, lp_jv b, const char *op); /* -1 0 1, 2 = unordered (NaN) */
bool lp_jv_contains(lp_jx *x, lp_jv container, lp_jv item);
bool lp_jv_length(lp_jv v, size_t *out);
/* The items as a list that must not be changed: list(v) without the copy where there is one. */
lp_jlist *lp_jv_items(lp_jx *x, lp_jv v);
const char *lp_jv_type_name(lp_jv v);
lp_jv lp_jv_bad(lp_jx *x, lp_jv v, const char *what); /* fails: "undefined ..." or a type error */
lp_jv lp_jv_from_json(lp_jx *x, lp_str text, bool trusted);

/* jinja_print.c */
void lp_jbuf_print(lp_jbuf *buf, lp_jv v); /* str(v) */
void lp_jbuf_repr(lp_jbuf *buf, lp_jv v);
lp_jv lp_jv_str(lp_jx *x, lp_jv v); /* STR */
typedef struct lp_jjson {
    bool ascii, sort;
    const lp_jstr *indent; /* NULL = one line */
    const lp_jstr *item, *key;
} lp_jjson;
void lp_jbuf_json(lp_jbuf *buf, lp_jv v, const lp_jjson *how);
size_t lp_jfloat_text(double f, char out[40]); /* Python's repr */

/* jinja_ops.c */
lp_jv lp_jx_attr(lp_jx *x, lp_jv v, lp_str name);
lp_jv lp_jx_item(lp_jx *x, lp_jv v, lp_jv key);
lp_jv lp_jx_slice(lp_jx *x, lp_jv v, lp_jv start, lp_jv stop, lp_jv step);
lp_jv lp_jx_math(lp_jx *x, lp_jtok op, lp_jv a, lp_jv b);
lp_jv lp_jx_negate(lp_jx *x, lp_jv v, bool negative);
bool lp_jx_compare(lp_jx *x, lp_jtok op, lp_jv a, lp_jv b);

/* jinja_eval.c, jinja_call.c */
lp_jv lp_jx_eval(lp_jx *x, lp_jscope *scope, const lp_jnode *node);
lp_jv lp_jx_capture(lp_jx *x, lp_jscope *scope, const lp_jnode *body);
void lp_jx_body(lp_jx *x, lp_jscope *scope, const lp_jnode *first);
lp_jscope *lp_jscope_new(lp_jx *x, lp_jscope *parent);
void lp_jscope_set(lp_jx *x, lp_jscope *scope, lp_str name, lp_jv value);
void lp_jx_assign(lp_jx *x, lp_jscope *scope, const lp_jnode *target, lp_jv value);
void lp_jx_for(lp_jx *x, lp_jscope *scope, const lp_jnode *node, lp_jv iterable, size_t depth);
bool lp_jx_args(lp_jx *x, lp_jscope *scope, const lp_jnode *list, lp_jargs *args);
void lp_jargs_add(lp_jx *x, lp_jargs *args, lp_jv v);
void lp_jargs_keyword(lp_jx *x, lp_jargs *args, lp_str name, lp_jv v);
lp_jv lp_jx_call(lp_jx *x, lp_jv callee, lp_jargs *args);
lp_jv lp_jx_builtin(lp_jx *x, const lp_jbuiltin *row, lp_jv self, lp_jargs *args);
lp_jv lp_jx_filter(lp_jx *x, lp_str name, lp_jv self, lp_jargs *args);
bool lp_jx_test(lp_jx *x, lp_str name, lp_jv self, lp_jargs *args);

/* The library. A table ends with a row without name. */
extern const lp_jbuiltin lp_jfilters_text[], lp_jfilters_sequence[], lp_jtests[], lp_jglobals[];
extern const lp_jbuiltin lp_jmethods_str[], lp_jmethods_str_more[], lp_jmethods_dict[],
    lp_jmethods_list[];
extern const lp_jbuiltin lp_jmethods_loop[], lp_jmethods_cycler[];
const lp_jbuiltin *lp_jbuiltin_find(const lp_jbuiltin *table, lp_str name);
/* Typed arguments: fail with the function's wish when the type is wrong. */
const lp_jstr *lp_jarg_str(lp_jx *x, lp_jv v, const char *what);
int64_t lp_jarg_int(lp_jx *x, lp_jv v, int64_t otherwise, const char *what);
bool lp_jarg_bool(lp_jv v, bool otherwise);
const lp_jstr *lp_jarg_text(lp_jx *x, lp_jv v); /* str(v) of any value */

lp_jv lp_jx_percent(lp_jx *x, const lp_jstr *format, lp_jv values); /* jinja_format.c */
lp_jv lp_jx_format(lp_jx *x, const lp_jstr *format, lp_jargs *args);
lp_jv lp_jx_strftime(lp_jx *x, const lp_jstr *format); /* jinja_time.c */

#endif
