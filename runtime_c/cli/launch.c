/* launch.c - what the script of a universal file tells the runtime that it unpacked and starts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/launch.h"

#include <string.h>

#include "model/container.h"
#include "platform/file.h"
#include "platform/slice.h"

bool lp_launch_is_probe(int argc, char *const *argv) {
    return argc == 2 && strcmp(argv[1], "--lp-probe") == 0;
}

/* A file that cannot be found is as one without. */
static bool has_payload(void) {
    lp_buf path;
    lp_buf_init(&path, 0);
    lp_map map = {0};
    lp_container *container = NULL;
    bool found = lp_own_path(&path, NULL) == LP_OK && lp_map_open(&map, path.data, NULL) == LP_OK &&
                 lp_container_open(&container, map.data, map.size, NULL) == LP_OK;
    lp_container_close(container);
    if (map.data) lp_map_close(&map);
    lp_buf_free(&path);
    return found;
}

lp_code lp_launch_take(lp_buf *archive, int *argc, char ***argv, lp_error *err) {
    char **words = *argv;
    int left = *argc, at = 1;
    const char *remove = NULL;
    if (left - at >= 2 && strcmp(words[at], "--lp-unlink") == 0) {
        remove = words[at + 1];
        at += 2;
    }
    if (left - at < 2 || strcmp(words[at], "--lp-archive") != 0 || has_payload()) return LP_OK;
    if (remove != NULL) lp_slice_remove(remove);
    LP_TRY(lp_slice_resolve(archive, words[at + 1], err));
    at += 2;
    words[at - 1] = words[0];
    *argv = words + at - 1;
    *argc = left - at + 1;
    return LP_OK;
}
