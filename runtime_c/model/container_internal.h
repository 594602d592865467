/* container_internal.h - what container.c (the ZIP) and container_manifest.c share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_CONTAINER_INTERNAL_H
#define LP_MODEL_CONTAINER_INTERNAL_H

#include "base/json.h"
#include "model/container.h"

struct lp_container {
    const uint8_t *data; /* the whole file, borrowed */
    size_t size;

    lp_entry *entries; /* owned, in the directory's order */
    size_t n;
    const lp_entry **sorted; /* owned; by name, for lp_container_find */
    const lp_entry **placed; /* owned; by offset in the file */

    size_t directory; /* offset of the central directory */
    size_t fixed_end; /* offset behind the 22 fixed bytes of the end record */
    lp_str comment;   /* the end record's, in the mapping */

    lp_json *json; /* owned; manifest.json, whose strings `manifest` borrows */
    lp_str *args;  /* owned */
    lp_manifest manifest;
};

/* Parses manifest.json when there is one, and checks what it says of the model entry. */
lp_code lp_manifest_read(lp_container *container, lp_error *err) LP_MUST_USE;

/* A relative path that is one on every system and leaves no folder. */
bool lp_container_plain_name(lp_str name);

#endif
