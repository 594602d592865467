/* fields.h - the fields of a JSON request, read by a table: a row per field, with its type, range
 * and meaning. A new field cannot skip its checks, because only rows are read.
 *
 * null is the same as absent. Names without a row are ignored; names whose loss would mislead the
 * client have a LP_FIELD_REFUSED row. Errors are one line that names the field.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_FIELDS_H
#define LP_SERVE_FIELDS_H

#include "base/json.h"

typedef enum lp_field_kind {
    LP_FIELD_BOOL,   /* bool */
    LP_FIELD_INT,    /* int64_t: a whole number, min .. max */
    LP_FIELD_NUMBER, /* double, min .. max */
    LP_FIELD_TEXT,   /* lp_str of min .. max bytes */
    LP_FIELD_LIST,   /* const lp_json_node *: an array of min .. max elements */
    LP_FIELD_OBJECT, /* const lp_json_node * */
    LP_FIELD_ANY,    /* const lp_json_node *: its reader checks the type */
    LP_FIELD_REFUSED /* stored nowhere: only a value that asks for nothing passes: false, "", [], {}
                      * or a number from min to max */
} lp_field_kind;

typedef struct lp_field {
    const char *name;
    lp_field_kind kind;
    size_t offset; /* of the value in the target */
    double min, max;
} lp_field;

#define LP_FIELDS_MAX 256u /* members of a request */

/* Reads object's members into target, which holds the defaults. LP_ERR_FORMAT for a wrong type or
 * range, LP_ERR_UNSUPPORTED for a refused field. */
lp_code lp_fields_read(const lp_field *table, size_t n, const lp_json_node *object, void *target,
                       lp_error *err) LP_MUST_USE;

#endif
