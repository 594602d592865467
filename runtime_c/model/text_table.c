/* text_table.c - open addressing with linear probing, at most half full.
 *
 * A slot packs the index and as many hash bits as fit above it, so nearly every probe of a wrong
 * string ends without a look at the file. The hash is SipHash-1-3 (Aumasson and Bernstein, 2012)
 * under a random key: strings come from a file that nobody vouches for, and a weaker hash would let
 * it choose colliding ones and make opening quadratic.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/text_table.h"

#include <string.h>

#include "base/memory.h"
#include "platform/thread.h"

enum { LENGTH_BYTES = 8, MAX_COUNT = 1 << 28 };

static uint64_t rotate(uint64_t x, unsigned bits) {
    return x << bits | x >> (64 - bits);
}

typedef struct sip {
    uint64_t a, b, c, d;
} sip;

static void sip_round(sip *s) {
    s->a += s->b;
    s->b = rotate(s->b, 13) ^ s->a;
    s->a = rotate(s->a, 32);
    s->c += s->d;
    s->d = rotate(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = rotate(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = rotate(s->b, 17) ^ s->c;
    s->c = rotate(s->c, 32);
}

static uint64_t hash_of(const uint64_t seed[2], lp_str text) {
    sip s = {seed[0] ^ 0x736F6D6570736575u, seed[1] ^ 0x646F72616E646F6Du,
             seed[0] ^ 0x6C7967656E657261u, seed[1] ^ 0x7465646279746573u};
    const char *data = text.data;
    size_t left = text.len;
    for (; left >= 8; left -= 8, data += 8) {
        uint64_t word = 0;
        memcpy(&word, data, 8);
        s.d ^= word;
        sip_round(&s);
        s.a ^= word;
    }
    uint64_t last = (uint64_t)text.len << 56;
    for (size_t i = 0; i < left; i++) last |= (uint64_t)(uint8_t)data[i] << (8 * i);
    s.d ^= last;
    sip_round(&s);
    s.a ^= last;
    s.c ^= 0xFF;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.a ^ s.b ^ s.c ^ s.d;
}

static lp_code read_offsets(lp_text_table *table, const lp_gguf_kv *strings, size_t longest,
                            const char *what, lp_error *err) {
    size_t cursor = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        table->offsets[i] = (uint32_t)cursor + LENGTH_BYTES;
        lp_str text = lp_gguf_array_next_str(strings, &cursor);
        if (text.len > longest) {
            return lp_fail(err, LP_ERR_FORMAT, "%s[%u] is %zu bytes long, more than %zu", what, i,
                           text.len, longest);
        }
    }
    table->offsets[table->count] = (uint32_t)cursor + LENGTH_BYTES;
    return LP_OK;
}

static lp_code make(lp_text_table *table, const lp_gguf_kv *strings, size_t longest,
                    const char *what, lp_error *err) {
    if (strings->count > MAX_COUNT || strings->value_bytes > UINT32_MAX - LENGTH_BYTES) {
        return lp_fail(err, LP_ERR_LIMIT, "%s is too large (%llu strings, %zu bytes)", what,
                       (unsigned long long)strings->count, strings->value_bytes);
    }
    table->base = strings->value;
    table->count = (uint32_t)strings->count;
    while (table->count >> table->index_bits != 0) table->index_bits++;
    table->mask = 1;
    while (table->mask < 2 * table->count) table->mask = 2 * table->mask + 1;
    table->seed[0] = lp_random_seed();
    table->seed[1] = lp_random_seed();
    table->offsets = lp_alloc((size_t)table->count + 1, sizeof *table->offsets);
    table->slots = lp_alloc((size_t)table->mask + 1, sizeof *table->slots);
    if (table->offsets == NULL || table->slots == NULL) {
        return lp_fail(err, LP_ERR_MEMORY, "no memory for %s (%u strings)", what, table->count);
    }
    return read_offsets(table, strings, longest, what, err);
}

lp_code lp_text_table_open(lp_text_table *table, const lp_gguf_kv *strings, size_t longest,
                           const char *what, lp_error *err) {
    *table = (lp_text_table){0};
    lp_code code = make(table, strings, longest, what, err);
    if (code != LP_OK) lp_text_table_close(table);
    return code;
}

void lp_text_table_close(lp_text_table *table) {
    lp_free(table->offsets);
    lp_free(table->slots);
    *table = (lp_text_table){0};
}

lp_str lp_text_table_text(const lp_text_table *table, uint32_t index) {
    uint32_t begin = table->offsets[index];
    return (lp_str){(const char *)table->base + begin,
                    table->offsets[index + 1] - LENGTH_BYTES - begin};
}

/* The slot that holds `text`, or the empty one where it belongs. The table is never full. */
static uint32_t *slot_of(const lp_text_table *table, lp_str text, uint64_t hash, uint32_t *tag) {
    uint32_t index_mask = (1u << table->index_bits) - 1;
    *tag = (uint32_t)(hash >> 32) & ~index_mask;
    uint32_t at = (uint32_t)hash & table->mask;
    for (;; at = (at + 1) & table->mask) {
        uint32_t slot = table->slots[at];
        if (slot == 0) break;
        if ((slot & ~index_mask) != *tag) continue;
        if (lp_str_equal(lp_text_table_text(table, (slot & index_mask) - 1), text)) break;
    }
    return &table->slots[at];
}

static void add(lp_text_table *table, uint32_t index, uint64_t hash) {
    lp_str text = lp_text_table_text(table, index);
    if (text.len == 0) return;
    uint32_t tag = 0;
    uint32_t *slot = slot_of(table, text, hash, &tag);
    if (*slot != 0) return;
    *slot = tag | (index + 1);
    if (text.len > table->longest) table->longest = text.len;
}

void lp_text_table_add(lp_text_table *table, const uint32_t *indices, size_t n) {
    uint64_t hashes[LP_TEXT_TABLE_BATCH];
    for (size_t done = 0; done < n; done += LP_TEXT_TABLE_BATCH) {
        size_t batch = n - done < LP_TEXT_TABLE_BATCH ? n - done : LP_TEXT_TABLE_BATCH;
        for (size_t i = 0; i < batch; i++) {
            hashes[i] = hash_of(table->seed, lp_text_table_text(table, indices[done + i]));
            __builtin_prefetch(&table->slots[(uint32_t)hashes[i] & table->mask], 1);
        }
        for (size_t i = 0; i < batch; i++) add(table, indices[done + i], hashes[i]);
    }
}

int64_t lp_text_table_find(const lp_text_table *table, lp_str text) {
    if (text.len == 0 || text.len > table->longest) return -1;
    uint32_t tag = 0;
    uint32_t slot = *slot_of(table, text, hash_of(table->seed, text), &tag);
    if (slot == 0) return -1;
    return (int64_t)(slot & ((1u << table->index_bits) - 1)) - 1;
}
