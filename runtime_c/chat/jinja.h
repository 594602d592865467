/* jinja.h - runs a chat template: a Jinja subset with the semantics of Python's jinja2 as
 * transformers sets it up (trim_blocks, lstrip_blocks, loop controls, an immutable sandbox).
 *
 * A template is untrusted code: it sees only the values given here, there are no host objects,
 * and steps, bytes, depth and loop lengths are bounded. Every byte of every string knows whether
 * the template wrote it (trusted) or a message brought it, and the result says which parts are
 * trusted.
 *
 *   jinja_lex.c -> jinja_expr.c, jinja_parse.c -> jinja_eval.c, jinja_ops.c, jinja_call.c
 *   values: jinja_string.c, jinja_value.c, jinja_print.c; library: jinja_filters.c,
 *   jinja_sequence.c, jinja_tests.c, jinja_methods.c, jinja_format.c, jinja_time.c
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CHAT_JINJA_H
#define LP_CHAT_JINJA_H

#include "base/status.h"
#include "base/text.h"

typedef struct lp_jinja lp_jinja; /* a parsed template, immutable: threads may share it */

/* source need not outlive the call. Errors: LP_ERR_FORMAT "template line 3, column 7: ...",
 * LP_ERR_UNSUPPORTED (include, import, extends), LP_ERR_LIMIT (size, depth), LP_ERR_MEMORY. */
lp_code lp_jinja_open(lp_jinja **out, lp_str source, lp_error *err) LP_MUST_USE;
void lp_jinja_close(lp_jinja *jinja);

#endif
