/* jinja_tests.c - what may stand behind "is": value is name or value is name(argument).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "chat/jinja_core.h"

#define TEST(name) static lp_jv name(lp_jx *x, lp_jv self, lp_jv *arg, lp_jargs *args)
#define UNUSED     (void)x, (void)self, (void)arg, (void)args
#define TYPE_TEST(name, condition)                                                                 \
    TEST(name) {                                                                                   \
        UNUSED;                                                                                    \
        return lp_jv_bool(condition);                                                              \
    }

TYPE_TEST(is_defined, self.type != LP_J_UNDEFINED)
TYPE_TEST(is_undefined, self.type == LP_J_UNDEFINED)
TYPE_TEST(is_none, self.type == LP_J_NONE)
TYPE_TEST(is_string, self.type == LP_J_STR)
TYPE_TEST(is_mapping, self.type == LP_J_DICT)
TYPE_TEST(is_boolean, self.type == LP_J_BOOL)
TYPE_TEST(is_true, self.type == LP_J_BOOL && self.u.b)
TYPE_TEST(is_false, self.type == LP_J_BOOL && !self.u.b)
TYPE_TEST(is_integer, self.type == LP_J_INT)
TYPE_TEST(is_float, self.type == LP_J_FLOAT)
TYPE_TEST(is_number, self.type == LP_J_INT || self.type == LP_J_FLOAT || self.type == LP_J_BOOL)
TYPE_TEST(is_escaped, self.type == LP_J_STR && self.u.s->markup)
TYPE_TEST(is_sequence, self.type == LP_J_STR || self.type == LP_J_LIST || self.type == LP_J_TUPLE ||
                           self.type == LP_J_DICT || self.type == LP_J_RANGE ||
                           self.type == LP_J_UNDEFINED)
TYPE_TEST(is_iterable, (self.type >= LP_J_STR && self.type <= LP_J_ITER) ||
                           self.type == LP_J_UNDEFINED || self.type == LP_J_LOOP)
TYPE_TEST(is_callable, self.type == LP_J_MACRO || self.type == LP_J_FUNCTION ||
                           self.type == LP_J_METHOD || self.type == LP_J_LOOP ||
                           self.type == LP_J_UNDEFINED ||
                           (self.type == LP_J_CYCLER && self.u.cycler->joiner))
TYPE_TEST(is_equal, lp_jx_compare(x, LP_JT_EQ, self, arg[0]))
TYPE_TEST(is_unequal, lp_jx_compare(x, LP_JT_NE, self, arg[0]))
TYPE_TEST(is_less, lp_jx_compare(x, LP_JT_LT, self, arg[0]))
TYPE_TEST(is_less_equal, lp_jx_compare(x, LP_JT_LE, self, arg[0]))
TYPE_TEST(is_greater, lp_jx_compare(x, LP_JT_GT, self, arg[0]))
TYPE_TEST(is_greater_equal, lp_jx_compare(x, LP_JT_GE, self, arg[0]))
TYPE_TEST(is_in, lp_jv_contains(x, arg[0], self))

/* Small integers, true, false and none are one object each in Python. */
TYPE_TEST(is_same,
          self.type == arg[0].type &&
              (self.type == LP_J_UNDEFINED ? false
               : self.type == LP_J_STR
                   ? self.u.s->data == arg[0].u.s->data && self.u.s->len == arg[0].u.s->len
               : self.type >= LP_J_LIST && self.type != LP_J_VIEW ? self.u.l == arg[0].u.l
                                                                  : lp_jv_equal(x, self, arg[0])))

/* str(value).islower(): cased characters exist and all are lower case. */
static lp_jv one_case(lp_jx *x, lp_jv self, char want, char other) {
    const lp_jstr *s = lp_jarg_text(x, self);
    bool any = false;
    size_t n = 0;
    if (s == NULL || !lp_jx_read(x, s)) return self;
    for (size_t at = 0; at < s->len; at += n) {
        uint32_t c = lp_jstr_char(s, at, &n);
        if (lp_jchar_is(c, other) || lp_jchar_is(c, 't')) return lp_jv_bool(false);
        any = any || lp_jchar_is(c, want);
    }
    return lp_jv_bool(any);
}

TEST(is_lower) {
    UNUSED;
    return one_case(x, self, 'l', 'u');
}

TEST(is_upper) {
    UNUSED;
    return one_case(x, self, 'u', 'l');
}

static lp_jv divides(lp_jx *x, lp_jv v, lp_jv by, int64_t want) {
    if (v.type == LP_J_STR) return lp_jv_bad(x, v, "dividing");
    lp_jv rest = lp_jx_math(x, LP_JT_MOD, v, by);
    return lp_jv_bool(lp_jv_equal(x, rest, lp_jv_int(want)));
}

TEST(is_odd) {
    UNUSED;
    return divides(x, self, lp_jv_int(2), 1);
}

TEST(is_even) {
    UNUSED;
    return divides(x, self, lp_jv_int(2), 0);
}

TEST(is_divisible) {
    UNUSED;
    return divides(x, self, arg[0], 0);
}

TEST(is_filter) {
    UNUSED;
    if (self.type != LP_J_STR) return lp_jv_bool(false);
    lp_str name = lp_jstr_bytes(self.u.s);
    return lp_jv_bool(lp_jbuiltin_find(lp_jfilters_text, name) != NULL ||
                      lp_jbuiltin_find(lp_jfilters_sequence, name) != NULL);
}

TEST(is_test) {
    UNUSED;
    return lp_jv_bool(self.type == LP_J_STR &&
                      lp_jbuiltin_find(lp_jtests, lp_jstr_bytes(self.u.s)) != NULL);
}

const lp_jbuiltin lp_jtests[] = {
    {"defined", is_defined, ""},
    {"undefined", is_undefined, ""},
    {"none", is_none, ""},
    {"string", is_string, ""},
    {"mapping", is_mapping, ""},
    {"iterable", is_iterable, ""},
    {"sequence", is_sequence, ""},
    {"boolean", is_boolean, ""},
    {"true", is_true, ""},
    {"false", is_false, ""},
    {"integer", is_integer, ""},
    {"float", is_float, ""},
    {"number", is_number, ""},
    {"callable", is_callable, ""},
    {"escaped", is_escaped, ""},
    {"lower", is_lower, ""},
    {"upper", is_upper, ""},
    {"odd", is_odd, ""},
    {"even", is_even, ""},
    {"divisibleby", is_divisible, "num"},
    {"filter", is_filter, ""},
    {"test", is_test, ""},
    {"sameas", is_same, "other"},
    {"in", is_in, "seq"},
    {"equalto", is_equal, "/other"},
    {"eq", is_equal, "/other"},
    {"==", is_equal, "/other"},
    {"ne", is_unequal, "/other"},
    {"!=", is_unequal, "/other"},
    {"lt", is_less, "/other"},
    {"<", is_less, "/other"},
    {"lessthan", is_less, "/other"},
    {"le", is_less_equal, "/other"},
    {"<=", is_less_equal, "/other"},
    {"gt", is_greater, "/other"},
    {">", is_greater, "/other"},
    {"greaterthan", is_greater, "/other"},
    {"ge", is_greater_equal, "/other"},
    {">=", is_greater_equal, "/other"},
    {NULL, NULL, NULL},
};
