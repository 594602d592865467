/* container.c - finds and reads the ZIP at the end of an executable.
 *
 *   ... runtime ...
 *   local header "PK\3\4" 30 bytes, name, extra | data          one per entry
 *   central directory: "PK\1\2" 46 bytes, name, extra, comment  one per entry
 *   [ZIP64 end "PK\6\6" 56 bytes, locator "PK\6\7" 20 bytes]    only where a number needs it
 *   end record "PK\5\6" 22 bytes, comment                       offsets count from the file's start
 *   [certificate table of a signed Windows executable]
 *
 * Format: PKWARE APPNOTE 6.3.x. The signature "PK\5\6" alone proves nothing: this very file brings
 * it into every runtime's code. It counts when the directory it names ends where the record begins
 * and starts with a directory signature; else the search goes on towards the start of the file.
 *
 * Nothing here is trusted: every offset and length is compared with the bytes there are before it
 * is used, the directory and the local headers must agree, entries must not overlap, and names are
 * plain relative paths. Allocated are some 100 bytes per entry, after the directory's size has
 * shown that it can hold so many. SPDX-License-Identifier: Apache-2.0 */
#include "model/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32.h"
#include "base/inflate.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "model/container_internal.h"

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    STORED = 0,
    DEFLATED = 8,
    MOST_ENTRIES = 1 << 16,
    MOST_NAME = 1024
};

/* How far from the end the end record may begin: its comment, and a signature behind it. */
#define REACH ((size_t)END_BYTES + 65535 + ((size_t)1 << 20))

static uint32_t read16(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t read32(const uint8_t *p) {
    return read16(p) | read16(p + 2) << 16;
}

static uint64_t read64(const uint8_t *p) {
    return read32(p) | (uint64_t)read32(p + 4) << 32;
}

static bool signed_as(const uint8_t *p, char kind, char number) {
    return p[0] == 'P' && p[1] == 'K' && p[2] == (uint8_t)kind && p[3] == (uint8_t)number;
}

/* True when size bytes from offset on lie before `end`. */
static bool fits(uint64_t offset, uint64_t size, uint64_t end) {
    return offset <= end && size <= end - offset;
}

/* ---- the end record ------------------------------------------------------------------------ */

typedef struct end_record {
    uint64_t directory, directory_size, count;
} end_record;

/* Where a Windows executable's certificate table begins, or the file's size. PE format: the offset
 * of "PE\0\0" stands at 0x3C; the optional header follows 24 bytes behind it; its data directory 4
 * holds the file offset and size of the certificates. */
static size_t certificates_begin(const uint8_t *data, size_t size) {
    if (size < 0x40 || data[0] != 'M' || data[1] != 'Z') return size;
    uint64_t pe = read32(data + 0x3C);
    if (!fits(pe, 24 + 152, size) || memcmp(data + pe, "PE\0\0", 4) != 0) return size;
    const uint8_t *optional = data + pe + 24;
    uint32_t magic = read16(optional);
    if (magic != 0x10B && magic != 0x20B) return size;
    const uint8_t *entry = optional + (magic == 0x20B ? 144 : 128);
    uint64_t begin = read32(entry), bytes = read32(entry + 4);
    if (begin == 0 || bytes == 0 || !fits(begin, bytes, size)) return size;
    return (size_t)begin;
}

static bool read_end64(const lp_container *c, size_t at, end_record *end, uint64_t *ends_at) {
    if (at < LOCATOR_BYTES) return false;
    const uint8_t *locator = c->data + at - LOCATOR_BYTES;
    if (!signed_as(locator, 6, 7) || read32(locator + 4) != 0 || read32(locator + 16) != 1) {
        return false;
    }
    uint64_t offset = read64(locator + 8);
    if (!fits(offset, END64_BYTES, at - LOCATOR_BYTES)) return false;
    const uint8_t *p = c->data + offset;
    /* Its own size leaves out the first twelve bytes; the locator follows directly. */
    if (!signed_as(p, 6, 6) || read64(p + 4) != at - LOCATOR_BYTES - offset - 12) return false;
    if (read32(p + 16) != 0 || read32(p + 20) != 0 || read64(p + 24) != read64(p + 32))
        return false;
    *end = (end_record){read64(p + 48), read64(p + 40), read64(p + 32)};
    *ends_at = offset;
    return true;
}

/* Is the record at `at` the end of an archive of this file? */
static bool read_end(lp_container *c, size_t at, end_record *end) {
    const uint8_t *p = c->data + at;
    uint32_t count = read16(p + 10), size = read32(p + 12), offset = read32(p + 16);
    size_t comment = read16(p + 20);
    if (read16(p + 4) != 0 || read16(p + 6) != 0 || read16(p + 8) != count) return false;
    if (comment > c->size - at - END_BYTES) return false;
    uint64_t ends_at = at;
    *end = (end_record){offset, size, count};
    if (count == 0xFFFF || size == 0xFFFFFFFF || offset == 0xFFFFFFFF) {
        end_record end64;
        if (read_end64(c, at, &end64, &ends_at)) *end = end64;
    }
    if (end->count == 0 || end->directory > ends_at ||
        end->directory_size != ends_at - end->directory || end->directory_size < CENTRAL_BYTES) {
        return false;
    }
    if (!signed_as(c->data + end->directory, 1, 2)) return false;
    c->directory = (size_t)end->directory;
    c->fixed_end = at + END_BYTES;
    c->comment = (lp_str){(const char *)p + END_BYTES, comment};
    return true;
}

static bool find_end_before(lp_container *c, size_t limit, end_record *end) {
    size_t first = limit > REACH ? limit - REACH : 0;
    if (limit < END_BYTES) return false;
    for (size_t at = limit - END_BYTES + 1; at-- > first;) {
        if (c->data[at] == 'P' && signed_as(c->data + at, 5, 6) && read_end(c, at, end))
            return true;
    }
    return false;
}

bool lp_cut_by_fat32(size_t size) {
    uint64_t most =
        UINT32_MAX; /* of a file there; what is copied in blocks may end a little before */
    return size <= most && size > most - (1u << 20);
}

static lp_code find_end(lp_container *c, end_record *end, lp_error *err) {
    size_t certificates = certificates_begin(c->data, c->size);
    if (find_end_before(c, certificates, end)) return LP_OK;
    if (certificates < c->size && find_end_before(c, c->size, end)) return LP_OK;
    if (lp_cut_by_fat32(c->size)) {
        return lp_fail(err, LP_ERR_FORMAT,
                       "this file ends at 4 GiB: it was cut off when it was copied to a medium "
                       "formatted as FAT32, which holds no larger files (exFAT and NTFS do, and "
                       "llamapack build has --split and --max-size for it)");
    }
    return lp_fail(err, LP_ERR_FORMAT,
                   "no archive at the end of this file: it was not made by llamapack, or it was "
                   "cut off, stripped or repacked afterwards");
}

/* ---- the directory ------------------------------------------------------------------------- */

static int shown(lp_str name) {
    return name.len > 80 ? 80 : (int)name.len;
}

static lp_code bad_entry(const lp_entry *entry, const char *what, lp_error *err) {
    return lp_fail(err, LP_ERR_FORMAT, "archive entry %.*s: %s", shown(entry->name),
                   entry->name.data, what);
}

/* Names that could leave a directory, or mean something else on another system, are refused, even
 * though the runtime never writes entries to files: what lists and extracts them may. */
bool lp_container_plain_name(lp_str name) {
    if (name.len == 0 || name.len > MOST_NAME || !lp_utf8_valid(name)) return false;
    size_t start = 0;
    for (size_t i = 0; i <= name.len; i++) {
        char c = i < name.len ? name.data[i] : '/';
        if ((unsigned char)c < 0x20 || c == 0x7F || strchr("\\:*?\"<>|", c)) return false;
        if (c != '/') continue;
        lp_str part = lp_str_slice(name, start, i);
        if (part.len == 0 || lp_str_is(part, ".") || lp_str_is(part, "..")) return false;
        start = i + 1;
    }
    return true;
}

/* Takes 64-bit values from a ZIP64 extra field (kind 1) for those fields that hold all ones, in
 * their fixed order. False: the field is missing or cut off. */
static bool read_zip64(lp_str extra, uint64_t **fields, size_t n) {
    size_t wanted = 0;
    for (size_t i = 0; i < n; i++) wanted += *fields[i] == 0xFFFFFFFF;
    if (wanted == 0) return true;
    const uint8_t *p = (const uint8_t *)extra.data;
    for (size_t left = extra.len; left >= 4;) {
        size_t bytes = read16(p + 2);
        if (bytes > left - 4) return false;
        if (read16(p) == 1) {
            if (bytes < wanted * 8) return false;
            const uint8_t *value = p + 4;
            for (size_t i = 0; i < n; i++) {
                if (*fields[i] != 0xFFFFFFFF) continue;
                *fields[i] = read64(value);
                value += 8;
            }
            return true;
        }
        p += 4 + bytes;
        left -= 4 + bytes;
    }
    return false;
}

/* Reads the header in front of an entry's data, which must say what the directory says, and finds
 * the data. Offset and sizes are the directory's. */
static lp_code locate(const lp_container *c, lp_entry *entry, uint64_t offset, uint64_t stored,
                      uint32_t method, lp_error *err) {
    if (!fits(offset, LOCAL_BYTES, c->directory) || !signed_as(c->data + offset, 3, 4)) {
        return bad_entry(entry, "no header where the directory says", err);
    }
    const uint8_t *p = c->data + offset;
    uint64_t begin = offset + LOCAL_BYTES, name_len = read16(p + 26), extra_len = read16(p + 28);
    if (!fits(begin, name_len + extra_len, c->directory)) {
        return bad_entry(entry, "its header is cut off", err);
    }
    lp_str name = {(const char *)c->data + begin, (size_t)name_len};
    lp_str extra = {name.data + name_len, (size_t)extra_len};
    uint64_t local_stored = read32(p + 18), local_size = read32(p + 22);
    uint64_t *fields[] = {&local_size, &local_stored};
    if (read16(p + 6) & 8) {
        return lp_fail(err, LP_ERR_UNSUPPORTED, "archive entry %.*s: sizes behind the data",
                       shown(entry->name), entry->name.data);
    }
    if (!lp_str_equal(name, entry->name) || read16(p + 8) != method ||
        read32(p + 14) != entry->crc32 || !read_zip64(extra, fields, 2) || local_stored != stored ||
        local_size != entry->bytes) {
        return bad_entry(entry, "its header and the directory disagree", err);
    }
    begin += name_len + extra_len;
    if (!fits(begin, stored, c->directory)) {
        return bad_entry(entry, "its data runs into the directory", err);
    }
    entry->data = c->data + begin;
    entry->stored_bytes = (size_t)stored;
    return LP_OK;
}

/* Reads the entry at *at of the directory and moves *at behind it. */
static lp_code read_entry(const lp_container *c, lp_entry *entry, size_t *at, size_t end,
                          lp_error *err) {
    const uint8_t *p = c->data + *at;
    if (!fits(*at, CENTRAL_BYTES, end) || !signed_as(p, 1, 2)) {
        return lp_fail(err, LP_ERR_FORMAT, "the archive's directory is damaged");
    }
    size_t name_len = read16(p + 28), extra_len = read16(p + 30), comment_len = read16(p + 32);
    if (!fits(*at + CENTRAL_BYTES, name_len + extra_len + comment_len, end)) {
        return lp_fail(err, LP_ERR_FORMAT, "the archive's directory is cut off");
    }
    lp_str name = {(const char *)p + CENTRAL_BYTES, name_len};
    lp_str extra = {name.data + name_len, extra_len};
    entry->name = name;
    if (!lp_container_plain_name(name))
        return bad_entry(entry, "its name is not a plain relative path", err);

    uint32_t flags = read16(p + 8), method = read16(p + 10);
    uint64_t stored = read32(p + 20), bytes = read32(p + 24), offset = read32(p + 42);
    uint64_t *fields[] = {&bytes, &stored, &offset};
    if (!read_zip64(extra, fields, 3)) return bad_entry(entry, "its ZIP64 record is missing", err);
    if (flags & 1) return bad_entry(entry, "it is encrypted", err);
    if (method != STORED && method != DEFLATED) {
        return bad_entry(entry, "it is compressed in an unknown way", err);
    }
    if (method == STORED && stored != bytes) return bad_entry(entry, "it has two sizes", err);
    entry->bytes = (size_t)bytes;
    entry->crc32 = read32(p + 16);
    entry->deflated = method == DEFLATED;
    LP_TRY(locate(c, entry, offset, stored, method, err));
    *at += CENTRAL_BYTES + name_len + extra_len + comment_len;
    return LP_OK;
}

static int by_name(const void *a, const void *b) {
    const lp_entry *const *x = a, *const *y = b;
    return lp_str_compare((*x)->name, (*y)->name);
}

static int by_place(const void *a, const void *b) {
    const lp_entry *const *x = a, *const *y = b;
    if ((*x)->data != (*y)->data) return (*x)->data < (*y)->data ? -1 : 1;
    return ((*x)->stored_bytes > (*y)->stored_bytes) - ((*x)->stored_bytes < (*y)->stored_bytes);
}

static lp_code sort_entries(lp_container *c, lp_error *err) {
    for (size_t i = 0; i < c->n; i++) c->sorted[i] = c->placed[i] = &c->entries[i];
    qsort(c->sorted, c->n, sizeof *c->sorted, by_name);
    qsort(c->placed, c->n, sizeof *c->placed, by_place);
    for (size_t i = 1; i < c->n; i++) {
        if (lp_str_equal(c->sorted[i - 1]->name, c->sorted[i]->name)) {
            return bad_entry(c->sorted[i], "there are two of this name", err);
        }
        /* At least a header lies between the data of two entries. */
        size_t gap = (size_t)(c->placed[i]->data - c->placed[i - 1]->data);
        if (gap < c->placed[i - 1]->stored_bytes + LOCAL_BYTES) {
            return bad_entry(c->placed[i], "it overlaps another entry", err);
        }
    }
    return LP_OK;
}

static lp_code read_directory(lp_container *c, const end_record *end, lp_error *err) {
    if (end->count > MOST_ENTRIES || end->count > end->directory_size / CENTRAL_BYTES) {
        return lp_fail(err, LP_ERR_FORMAT, "the archive's directory claims %llu entries",
                       (unsigned long long)end->count);
    }
    c->n = (size_t)end->count;
    c->entries = lp_alloc(c->n, sizeof *c->entries);
    c->sorted = lp_alloc(c->n, sizeof *c->sorted);
    c->placed = lp_alloc(c->n, sizeof *c->placed);
    if (!c->entries || !c->sorted || !c->placed) {
        return lp_fail(err, LP_ERR_MEMORY, "no memory for the archive's directory");
    }
    size_t at = c->directory, directory_end = at + (size_t)end->directory_size;
    for (size_t i = 0; i < c->n; i++) {
        LP_TRY(read_entry(c, &c->entries[i], &at, directory_end, err));
    }
    if (at != directory_end) {
        return lp_fail(err, LP_ERR_FORMAT, "the archive's directory is longer than its entries");
    }
    return sort_entries(c, err);
}

lp_code lp_container_open(lp_container **out, const uint8_t *data, size_t size, lp_error *err) {
    *out = NULL;
    lp_container *c = lp_alloc(1, sizeof *c);
    if (!c) return lp_fail(err, LP_ERR_MEMORY, "no memory for the archive's directory");
    c->data = data;
    c->size = size;
    end_record end;
    lp_code code = find_end(c, &end, err);
    if (code == LP_OK) code = read_directory(c, &end, err);
    if (code == LP_OK) code = lp_manifest_read(c, err);
    if (code != LP_OK) {
        lp_container_close(c);
        return code;
    }
    *out = c;
    return LP_OK;
}

void lp_container_close(lp_container *container) {
    if (!container) return;
    lp_json_free(container->json);
    lp_free(container->args);
    lp_free(container->entries);
    lp_free(container->sorted);
    lp_free(container->placed);
    lp_free(container);
}

size_t lp_container_count(const lp_container *container) {
    return container->n;
}

const lp_entry *lp_container_at(const lp_container *container, size_t index) {
    return index < container->n ? &container->entries[index] : NULL;
}

const lp_entry *lp_container_find(const lp_container *container, lp_str name) {
    size_t low = 0, high = container->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = lp_str_compare(container->sorted[middle]->name, name);
        if (order == 0) return container->sorted[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

lp_code lp_container_check(const lp_entry *entry, lp_error *err) {
    uint32_t crc;
    if (entry->deflated) {
        lp_buf plain;
        lp_buf_init(&plain, 0);
        lp_code code = lp_inflate_add(&plain, entry->data, entry->stored_bytes, entry->bytes, err);
        crc = code == LP_OK ? lp_crc32(0, plain.data, plain.len) : 0;
        lp_buf_free(&plain);
        LP_TRY(code);
    } else {
        crc = lp_crc32(0, entry->data, entry->stored_bytes);
    }
    return crc == entry->crc32 ? LP_OK : bad_entry(entry, "it is damaged", err);
}
