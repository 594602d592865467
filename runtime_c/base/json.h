/* json.h - JSON (RFC 8259) in and out: iterative, bounded in depth and size, strict UTF-8.
 *
 * A parsed document is an array of nodes in document order, owned by the lp_json. Strings are
 * unescaped into the document's own memory; lone surrogates become U+FFFD. Duplicate keys: the
 * last one counts. Depth at most 64.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_BASE_JSON_H
#define LP_BASE_JSON_H

#include "base/status.h"
#include "base/text.h"

typedef enum lp_json_type {
    LP_JSON_NULL,
    LP_JSON_BOOL,
    LP_JSON_NUMBER,
    LP_JSON_STRING,
    LP_JSON_ARRAY,
    LP_JSON_OBJECT
} lp_json_type;

typedef struct lp_json lp_json;
typedef struct lp_json_node lp_json_node; /* borrowed from its document */

/* Parses the whole text (nothing but white space may follow). Errors give the byte offset. */
lp_code lp_json_parse(lp_json **out, lp_str text, lp_error *err) LP_MUST_USE;
void lp_json_free(lp_json *json);
const lp_json_node *lp_json_root(const lp_json *json);

lp_json_type lp_json_type_of(const lp_json_node *node);
bool lp_json_bool(const lp_json_node *node);
double lp_json_number(const lp_json_node *node);
bool lp_json_integer(const lp_json_node *node,
                     int64_t *out) LP_MUST_USE; /* false: not a whole number in +-2^53 */
lp_str lp_json_string(const lp_json_node *node);
size_t lp_json_count(const lp_json_node *node); /* of an array or object */
/* Iteration, in order: first child or NULL, next sibling or NULL. Key of an object's member. */
const lp_json_node *lp_json_first(const lp_json_node *node);
const lp_json_node *lp_json_next(const lp_json_node *node);
lp_str lp_json_key(const lp_json_node *member);
const lp_json_node *lp_json_get(const lp_json_node *object, const char *key); /* NULL if absent */

/* Writers. String bytes that are not UTF-8 become U+FFFD; output is pure UTF-8 with \u escapes for
 * control characters only. */
void lp_json_add_string(lp_buf *out, lp_str text);
void lp_json_add_number(lp_buf *out, double value); /* NaN and infinity become null */

#endif
