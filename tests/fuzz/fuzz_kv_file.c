/* fuzz_kv_file.c - a hostile prepared system prompt: open it, and use it as the scheduler would.
 *
 * The bytes are given a right checksum first (who made them made that, too), so that every other
 * check has its turn; every second input goes without. Seed: see tests/test_fuzz.py.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/kv_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads all that a header lets a reader reach; an id outside the vocabulary would be a bug. */
static void use(lp_kv_file *file) {
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8};
    if (lp_kv_file_common(file, ids, sizeof ids / sizeof ids[0]) > file->n_tokens) abort();
    for (size_t i = 0; i < file->n_tokens; i++) {
        uint32_t id = (uint32_t)file->tokens[4 * i] | (uint32_t)file->tokens[4 * i + 1] << 8 |
                      (uint32_t)file->tokens[4 * i + 2] << 16 |
                      (uint32_t)file->tokens[4 * i + 3] << 24;
        if (id >= file->n_vocab || id > INT32_MAX) abort();
    }
    size_t total = 0;
    for (uint32_t i = 0; i < file->n_layer; i++) {
        size_t numbers[3];
        for (size_t j = 0; j < 3; j++) {
            const uint8_t *at = file->slots + 12 * (size_t)i + 4 * j;
            numbers[j] =
                (size_t)at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
        }
        if (numbers[2] >= file->n_tokens) abort();
        total += (numbers[0] + numbers[1]) * (file->n_tokens - numbers[2]);
    }
    /* The last byte that loading would read is the file's last. */
    if (file->layers + total != file->data + file->size) abort();
    if (strlen(file->level) > LP_KV_LEVEL_BYTES) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t sha256[32] = {1};
    uint8_t *copy = lp_alloc(size, 1);
    lp_kv_file file;
    if (copy == NULL) return 0;
    if (size > 0) memcpy(copy, data, size);
    if (size > 0 && data[size - 1] % 2 == 0) lp_kv_file_seal(copy, size, sha256, size);
    if (lp_kv_file_open(&file, copy, size, NULL) == LP_OK) {
        (void)!lp_kv_file_check(&file, NULL);
        use(&file);
    }
    lp_free(copy);
    return 0;
}
