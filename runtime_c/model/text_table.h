/* text_table.h - finds a string of a GGUF string array by its bytes: token ids, merge ranks.
 *
 * The strings stay in the mapped file. In memory are one offset per string and the slots of an
 * open-addressing hash table, 4 bytes each: 262,144 tokens take 3 MB.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_TEXT_TABLE_H
#define LP_MODEL_TEXT_TABLE_H

#include "model/gguf.h"

typedef struct lp_text_table {
    const uint8_t *base; /* borrowed: first byte of the array's elements in the file */
    uint32_t *offsets;   /* (count + 1), owned; string i is offsets[i] .. offsets[i + 1] - 8, since
                            the 8 bytes of the next one's length stand between them */
    uint32_t count;
    uint32_t *slots; /* (mask + 1), owned: 0 = empty, else index + 1 and a tag above it */
    uint32_t mask;
    uint32_t index_bits; /* of a slot; the bits above are the tag: high bits of the hash */
    uint64_t seed[2];    /* a hostile file cannot choose strings that collide */
    size_t longest;      /* bytes of the longest string added */
} lp_text_table;

/* Reads the offsets. Errors: LP_ERR_FORMAT (a string over `longest` bytes; `what` names the array),
 * LP_ERR_LIMIT, LP_ERR_MEMORY. On failure nothing stays allocated. */
lp_code lp_text_table_open(lp_text_table *table, const lp_gguf_kv *strings, size_t longest,
                           const char *what, lp_error *err) LP_MUST_USE;
void lp_text_table_close(lp_text_table *table);

lp_str lp_text_table_text(const lp_text_table *table, uint32_t index);
/* Makes these strings findable, in this order: of equal ones the first is found; empty ones never
 * are. Quickest in batches, since a large table's slots are far from the processor. */
enum { LP_TEXT_TABLE_BATCH = 64 };
void lp_text_table_add(lp_text_table *table, const uint32_t *indices, size_t n);
/* Index of the string, or -1. */
int64_t lp_text_table_find(const lp_text_table *table, lp_str text);

#endif
