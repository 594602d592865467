/* fields.c - one function per kind of field.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/fields.h"

#include <string.h>

static lp_code wrong(const lp_field *field, const char *what, lp_error *err) {
    return lp_fail(err, LP_ERR_FORMAT, "\"%s\" must be %s", field->name, what);
}

static lp_code read_int(const lp_field *field, const lp_json_node *value, int64_t *out,
                        lp_error *err) {
    int64_t number = 0;
    bool whole = lp_json_type_of(value) == LP_JSON_NUMBER && lp_json_integer(value, &number);
    if (!whole || (double)number < field->min || (double)number > field->max)
        return lp_fail(err, LP_ERR_FORMAT, "\"%s\" must be a whole number from %.0f to %.0f",
                       field->name, field->min, field->max);
    *out = number;
    return LP_OK;
}

static lp_code read_number(const lp_field *field, const lp_json_node *value, double *out,
                           lp_error *err) {
    double number =
        lp_json_type_of(value) == LP_JSON_NUMBER ? lp_json_number(value) : field->max + 1;
    if (!(number >= field->min && number <= field->max))
        return lp_fail(err, LP_ERR_FORMAT, "\"%s\" must be a number from %g to %g", field->name,
                       field->min, field->max);
    *out = number;
    return LP_OK;
}

static lp_code read_text(const lp_field *field, const lp_json_node *value, lp_str *out,
                         lp_error *err) {
    if (lp_json_type_of(value) != LP_JSON_STRING) return wrong(field, "a string", err);
    lp_str text = lp_json_string(value);
    if ((double)text.len < field->min || (double)text.len > field->max)
        return lp_fail(err, LP_ERR_FORMAT, "\"%s\" must have %.0f to %.0f bytes", field->name,
                       field->min, field->max);
    *out = text;
    return LP_OK;
}

static lp_code read_list(const lp_field *field, const lp_json_node *value, const lp_json_node **out,
                         lp_error *err) {
    if (lp_json_type_of(value) != LP_JSON_ARRAY) return wrong(field, "an array", err);
    size_t count = lp_json_count(value);
    if ((double)count < field->min || (double)count > field->max)
        return lp_fail(err, LP_ERR_FORMAT, "\"%s\" must have %.0f to %.0f elements", field->name,
                       field->min, field->max);
    *out = value;
    return LP_OK;
}

static bool asks_for_nothing(const lp_field *field, const lp_json_node *value) {
    switch (lp_json_type_of(value)) {
    case LP_JSON_BOOL:
        return !lp_json_bool(value);
    case LP_JSON_STRING:
        return lp_json_string(value).len == 0;
    case LP_JSON_NUMBER:
        return lp_json_number(value) >= field->min && lp_json_number(value) <= field->max;
    case LP_JSON_ARRAY:
    case LP_JSON_OBJECT:
        return lp_json_count(value) == 0;
    default:
        return true;
    }
}

static lp_code read_field(const lp_field *field, const lp_json_node *value, char *target,
                          lp_error *err) {
    void *place = target + field->offset;
    switch (field->kind) {
    case LP_FIELD_BOOL:
        if (lp_json_type_of(value) != LP_JSON_BOOL) return wrong(field, "true or false", err);
        *(bool *)place = lp_json_bool(value);
        return LP_OK;
    case LP_FIELD_INT:
        return read_int(field, value, place, err);
    case LP_FIELD_NUMBER:
        return read_number(field, value, place, err);
    case LP_FIELD_TEXT:
        return read_text(field, value, place, err);
    case LP_FIELD_LIST:
        return read_list(field, value, place, err);
    case LP_FIELD_OBJECT:
        if (lp_json_type_of(value) != LP_JSON_OBJECT) return wrong(field, "an object", err);
        *(const lp_json_node **)place = value;
        return LP_OK;
    case LP_FIELD_ANY:
        *(const lp_json_node **)place = value;
        return LP_OK;
    default:
        if (asks_for_nothing(field, value)) return LP_OK;
        return lp_fail(err, LP_ERR_UNSUPPORTED, "\"%s\" is not supported here", field->name);
    }
}

lp_code lp_fields_read(const lp_field *table, size_t n, const lp_json_node *object, void *target,
                       lp_error *err) {
    if (object == NULL || lp_json_type_of(object) != LP_JSON_OBJECT)
        return lp_fail(err, LP_ERR_FORMAT, "the body must be a JSON object");
    if (lp_json_count(object) > LP_FIELDS_MAX)
        return lp_fail(err, LP_ERR_LIMIT, "a request may have %u fields at most", LP_FIELDS_MAX);
    for (const lp_json_node *member = lp_json_first(object); member != NULL;
         member = lp_json_next(member)) {
        if (lp_json_type_of(member) == LP_JSON_NULL) continue;
        lp_str key = lp_json_key(member);
        for (size_t i = 0; i < n; i++) {
            if (!lp_str_is(key, table[i].name)) continue;
            LP_TRY(read_field(&table[i], member, target, err));
            break;
        }
    }
    return LP_OK;
}
