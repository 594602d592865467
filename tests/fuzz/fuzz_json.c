/* fuzz_json.c - any bytes as JSON: parse, walk, write, parse again.
 *
 * What was parsed and written once must be written the same way ever after.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_node(lp_buf *out, const lp_json_node *node) {
    switch (lp_json_type_of(node)) {
    case LP_JSON_NULL:
        lp_buf_add_text(out, "null");
        return;
    case LP_JSON_BOOL:
        lp_buf_add_text(out, lp_json_bool(node) ? "true" : "false");
        return;
    case LP_JSON_NUMBER:
        lp_json_add_number(out, lp_json_number(node));
        return;
    case LP_JSON_STRING:
        lp_json_add_string(out, lp_json_string(node));
        return;
    case LP_JSON_ARRAY:
    case LP_JSON_OBJECT:
        break;
    }
    bool object = lp_json_type_of(node) == LP_JSON_OBJECT;
    size_t n = 0;
    lp_buf_add_char(out, object ? '{' : '[');
    for (const lp_json_node *child = lp_json_first(node); child; child = lp_json_next(child)) {
        if (n++ > 0) lp_buf_add_char(out, ',');
        if (object) {
            lp_json_add_string(out, lp_json_key(child));
            lp_buf_add_char(out, ':');
        }
        write_node(out, child); /* at most 64 deep, as the parser promises */
    }
    if (n != lp_json_count(node)) abort();
    lp_buf_add_char(out, object ? '}' : ']');
}

static bool rewrite(lp_buf *out, lp_str text) {
    lp_json *json = NULL;
    lp_error err;
    if (lp_json_parse(&json, text, &err) != LP_OK) return false;
    write_node(out, lp_json_root(json));
    lp_json_free(json);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_buf once, twice;
    lp_buf_init(&once, 0);
    lp_buf_init(&twice, 0);
    if (rewrite(&once, (lp_str){(const char *)data, size})) {
        if (!rewrite(&twice, lp_buf_str(&once))) abort();
        if (!lp_str_equal(lp_buf_str(&once), lp_buf_str(&twice))) abort();
    }
    lp_buf_free(&once);
    lp_buf_free(&twice);
    return 0;
}
