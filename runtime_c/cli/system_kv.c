/* system_kv.c - see system_kv.h. SPDX-License-Identifier: Apache-2.0 */
#include "cli/system_kv.h"

#include <string.h>

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The hash and size of an archive's weights, as its manifest has them; `verify` compares them with
 * the bytes. */
static bool weights_of(const lp_container *container, uint8_t sha256[32], uint64_t *bytes) {
    const lp_manifest *manifest = container == NULL ? NULL : lp_container_manifest(container);
    if (manifest == NULL || manifest->model_sha256.len != 64) return false;
    const lp_entry *entry = lp_container_find(container, manifest->model_entry);
    if (entry == NULL) return false;
    for (size_t i = 0; i < 32; i++) {
        int high = digit(manifest->model_sha256.data[2 * i]);
        int low = digit(manifest->model_sha256.data[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        sha256[i] = (uint8_t)(high << 4 | low);
    }
    *bytes = entry->bytes;
    return true;
}

lp_code lp_system_kv_open(lp_kv_file *file, const lp_container *container,
                          const lp_container *weights, bool *found, lp_error *err) {
    const lp_manifest *manifest = container == NULL ? NULL : lp_container_manifest(container);
    *found = manifest != NULL && manifest->system_kv_entry.len > 0;
    if (!*found) return LP_OK;
    uint8_t sha256[32];
    uint64_t bytes = 0;
    const lp_entry *entry = lp_container_find(container, manifest->system_kv_entry);
    if (entry == NULL || entry->deflated)
        return lp_fail(err, LP_ERR_FORMAT, "the prepared system prompt is missing or compressed");
    LP_TRY(lp_kv_file_open(file, entry->data, entry->bytes, err));
    if (!weights_of(weights, sha256, &bytes) || file->model_bytes != bytes ||
        memcmp(file->model_sha256, sha256, sizeof sha256) != 0)
        return lp_fail(err, LP_ERR_FORMAT, "the prepared system prompt is of other weights");
    return LP_OK;
}

lp_kv_file *lp_app_system_kv(lp_app *app) {
    bool found = false;
    uint8_t sha256[32];
    uint64_t bytes = 0;
    /* Weights given with -m have a known hash only when they come in a packed file. */
    const lp_container *weights = lp_app_weights(app);
    if (app->options.no_embedded_kv || !weights_of(weights, sha256, &bytes)) return NULL;
    if (lp_system_kv_open(&app->system_kv, app->container, weights, &found, NULL) != LP_OK ||
        !found)
        return NULL;
    if (lp_kv_file_fits(&app->system_kv, app->engine, sha256, bytes, NULL) != LP_OK) return NULL;
    lp_map_will_need(&app->own_map, (size_t)(app->system_kv.data - app->own_map.data),
                     app->system_kv.size);
    return &app->system_kv;
}
