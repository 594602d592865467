/* partner.c - see partner.h. SPDX-License-Identifier: Apache-2.0 */
#include "cli/partner.h"

#include <inttypes.h>
#include <string.h>

static const char suffix[] = ".weights";

/* "chat.weights" for chat and chat.exe. */
static void add_own_name(lp_buf *out, const char *program) {
    lp_str name = lp_str_from(lp_path_name(program));
    static const char exe[] = ".exe";
    bool is_exe = name.len > 4;
    for (size_t i = 0; is_exe && i < 4; i++) {
        char c = name.data[name.len - 4 + i];
        is_exe = (c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c) == exe[i];
    }
    lp_buf_add_str(out, lp_str_slice(name, 0, name.len - (is_exe ? 4 : 0)));
    lp_buf_add_text(out, suffix);
}

static void drop(lp_partner *partner) {
    lp_container_close(partner->container);
    if (partner->map.data != NULL) lp_map_close(&partner->map);
    partner->container = NULL;
    memset(&partner->map, 0, sizeof partner->map);
}

/* Whether the file at partner->path, which exists, is the one. */
static lp_code open_there(lp_partner *partner, const char *program, const lp_manifest *manifest,
                          lp_error *err) {
    const char *path = partner->path.data;
    LP_TRY(lp_map_open(&partner->map, path, err));
    if (partner->map.size < manifest->weights_size) {
        return lp_fail(err, LP_ERR_FORMAT,
                       "%s was cut off: it has %zu of %" PRIu64 " bytes%s; copy it again", path,
                       partner->map.size, manifest->weights_size,
                       lp_cut_by_fat32(partner->map.size)
                           ? ", which is all that a FAT32 file system holds (exFAT and NTFS hold "
                             "more, and building with --max-size makes it smaller)"
                           : "");
    }
    lp_error archive = {0};
    bool same = partner->map.size == manifest->weights_size;
    if (same && lp_container_open(&partner->container, partner->map.data, partner->map.size,
                                  &archive) != LP_OK) {
        return lp_fail(err, LP_ERR_FORMAT, "%s is damaged: %s", path, archive.text);
    }
    same = same && lp_str_equal(lp_container_seal(partner->container), manifest->weights_seal);
    const lp_manifest *its = same ? lp_container_manifest(partner->container) : NULL;
    if (its != NULL && its->model_entry.len > 0) return LP_OK;
    return lp_fail(err, LP_ERR_FORMAT, "%s does not belong to %s: it is the file of another build",
                   path, lp_path_name(program));
}

/* *found: there is a file of this name, whatever it is. */
static lp_code try_name(lp_partner *partner, const char *program, const lp_manifest *manifest,
                        lp_str name, bool real, bool *found, lp_error *err) {
    lp_buf_clear(&partner->path);
    LP_TRY(lp_path_beside(&partner->path, program, name, real, err));
    *found = lp_file_exists(partner->path.data);
    if (!*found) return LP_ERR_IO;
    lp_code code = open_there(partner, program, manifest, err);
    if (code != LP_OK) drop(partner);
    return code;
}

lp_code lp_partner_open(lp_partner *partner, const char *program, const lp_manifest *manifest,
                        lp_error *err) {
    lp_buf own;
    lp_buf_init(&own, 0);
    add_own_name(&own, program);
    lp_code code = lp_buf_check(&own, err), first = LP_OK;
    bool told = false;
    const lp_str names[] = {lp_buf_str(&own), manifest->weights_file};
    size_t n_names = lp_str_equal(names[0], names[1]) ? 1 : 2;
    bool open = false;
    for (size_t i = 0; code == LP_OK && !open && i < 2 * n_names; i++) {
        lp_error why = {0};
        bool found = false;
        lp_code tried =
            try_name(partner, program, manifest, names[i % n_names], i < n_names, &found, &why);
        open = tried == LP_OK;
        if (open || !found || told) continue;
        told = true;
        first = lp_fail(err, tried, "%s", why.text);
    }
    lp_buf_free(&own);
    if (open || code != LP_OK) return code;
    if (told) return first;
    const char *name = lp_path_name(program);
    int len = manifest->weights_file.len > 200 ? 200 : (int)manifest->weights_file.len;
    return lp_fail(err, LP_ERR_IO,
                   "%s needs %.*s beside it, which is missing: the two belong together, copy both "
                   "into one folder",
                   name, len, manifest->weights_file.data);
}

void lp_partner_close(lp_partner *partner) {
    drop(partner);
    lp_buf_free(&partner->path);
}
