/* fuzz_container.c - a hostile executable's archive: open it, read every entry, verify it.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "model/container.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_container *container = NULL;
    lp_error err;
    if (lp_container_open(&container, data, size, &err) != LP_OK) return 0;
    for (size_t i = 0; i < lp_container_count(container); i++) {
        const lp_entry *entry = lp_container_at(container, i);
        /* Memory follows what is stored, at most 1032 to 1; more than this is not worth the time.
         */
        if (entry->bytes > (size_t)16 << 20) continue;
        (void)!lp_container_check(entry, &err);
        if (lp_container_find(container, entry->name) != entry) abort();
    }
    (void)!lp_container_verify(container, NULL, NULL, &err);
    lp_container_close(container);
    return 0;
}
