/* gguf.c - reads a GGUF header, keys and tensor table without ever trusting a number in them.
 *
 * One reader walks the bytes once. Its small `take_` functions are the only way forward; each
 * compares with the bytes left before it moves, so a bad file has one way to fail. Memory asked
 * for follows what was really read, never what a count announces. Keys and tensors are also kept
 * sorted by name, for look-ups that a hostile set of names cannot slow down.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum {
    MAX_NAME = 64 * 1024, /* bytes of a key or tensor name; real ones are below 100 */
    SHOWN = 80,           /* bytes of a name that an error quotes */
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 64 * 1024,
    DEFAULT_ALIGNMENT = 32
};

struct lp_gguf {
    const uint8_t *data; /* borrowed */
    size_t size;
    uint32_t version;
    size_t data_offset;
    lp_gguf_kv *kvs; /* (n_kv), owned, file order */
    size_t n_kv;
    const lp_gguf_kv **kvs_by_name; /* (n_kv), owned */
    lp_tensor *tensors;             /* (n_tensors), owned, file order */
    size_t n_tensors;
    const lp_tensor **tensors_by_name; /* (n_tensors), owned */
};

typedef struct reader {
    const uint8_t *data;
    size_t size;
    size_t at;
    const char *part; /* what is being read, for the error */
    lp_error *err;
} reader;

/* How to quote a name from the file: at most SHOWN bytes ("%.*s"). */
static int shown(lp_str text) {
    return text.len < SHOWN ? (int)text.len : SHOWN;
}

static lp_code cut_short(const reader *r) {
    return lp_fail(r->err, LP_ERR_FORMAT, "the file ends inside its %s, at byte %zu", r->part,
                   r->size);
}

static lp_code take(reader *r, size_t n, const uint8_t **bytes) {
    if (n > r->size - r->at) return cut_short(r);
    *bytes = r->data + r->at;
    r->at += n;
    return LP_OK;
}

static uint64_t little_endian(const uint8_t *bytes, size_t n) {
    uint64_t value = 0;
    for (size_t i = n; i-- > 0;) value = value << 8 | bytes[i];
    return value;
}

static lp_code take_u32(reader *r, uint32_t *value) {
    const uint8_t *bytes = NULL;
    LP_TRY(take(r, 4, &bytes));
    *value = (uint32_t)little_endian(bytes, 4);
    return LP_OK;
}

static lp_code take_u64(reader *r, uint64_t *value) {
    const uint8_t *bytes = NULL;
    LP_TRY(take(r, 8, &bytes));
    *value = little_endian(bytes, 8);
    return LP_OK;
}

static lp_code take_string(reader *r, lp_str *text) {
    uint64_t len = 0;
    const uint8_t *bytes = NULL;
    LP_TRY(take_u64(r, &len));
    if (len > r->size - r->at) return cut_short(r);
    LP_TRY(take(r, (size_t)len, &bytes));
    *text = (lp_str){(const char *)bytes, (size_t)len};
    return LP_OK;
}

static lp_code take_name(reader *r, lp_str *name) {
    LP_TRY(take_string(r, name));
    if (name->len == 0) {
        return lp_fail(r->err, LP_ERR_FORMAT, "an empty name in the %s at byte %zu", r->part,
                       r->at);
    }
    if (name->len > MAX_NAME) {
        return lp_fail(r->err, LP_ERR_FORMAT, "a name of %zu bytes in the %s", name->len, r->part);
    }
    return LP_OK;
}

/* Bytes of a value of fixed size; 0 for strings, arrays and unknown types. */
static size_t scalar_bytes(uint32_t type) {
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

const char *lp_gguf_type_name(uint32_t type) {
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return type < sizeof names / sizeof names[0] ? names[type] : "unknown";
}

static lp_code take_array(reader *r, lp_gguf_kv *kv) {
    uint32_t element = 0;
    LP_TRY(take_u32(r, &element));
    LP_TRY(take_u64(r, &kv->count));
    size_t left = r->size - r->at;
    kv->value = r->data + r->at;
    if (element == LP_GGUF_STRING) {
        if (kv->count > left / 8) return cut_short(r);
        for (uint64_t i = 0; i < kv->count; i++) {
            lp_str ignored;
            LP_TRY(take_string(r, &ignored));
        }
        kv->value_bytes = (size_t)(r->data + r->at - kv->value);
    } else {
        size_t size = scalar_bytes(element);
        if (size == 0) {
            return lp_fail(r->err, LP_ERR_FORMAT,
                           "key %.*s is an array of type %u, which is not allowed", shown(kv->key),
                           kv->key.data, element);
        }
        if (kv->count > left / size) return cut_short(r);
        LP_TRY(take(r, (size_t)kv->count * size, &kv->value));
        kv->value_bytes = (size_t)kv->count * size;
    }
    kv->element = (lp_gguf_type)element;
    return LP_OK;
}

static lp_code take_kv(reader *r, lp_gguf_kv *kv) {
    uint32_t type = 0;
    LP_TRY(take_name(r, &kv->key));
    LP_TRY(take_u32(r, &type));
    kv->type = (lp_gguf_type)type;
    kv->count = 1;
    if (type == LP_GGUF_ARRAY) return take_array(r, kv);
    if (type == LP_GGUF_STRING) {
        lp_str text;
        LP_TRY(take_string(r, &text));
        kv->value = (const uint8_t *)text.data;
        kv->value_bytes = text.len;
        return LP_OK;
    }
    kv->value_bytes = scalar_bytes(type);
    if (kv->value_bytes == 0) {
        return lp_fail(r->err, LP_ERR_FORMAT, "key %.*s has the unknown value type %u",
                       shown(kv->key), kv->key.data, type);
    }
    return take(r, kv->value_bytes, &kv->value);
}

/* Sizes of one tensor from its dims and type: the only place where they are computed. */
static lp_code measure_tensor(reader *r, lp_tensor *t, uint64_t type) {
    const lp_type_info *info = type <= UINT32_MAX ? lp_type_get((uint32_t)type) : NULL;
    if (info == NULL || info->name == NULL) {
        return lp_fail(r->err, LP_ERR_UNSUPPORTED, "tensor %.*s has the unknown type %u",
                       shown(t->name), t->name.data, (unsigned)type);
    }
    t->type = info->id;
    t->n_rows = 1;
    bool fits = t->dims[0] <= SIZE_MAX;
    for (uint32_t i = 0; i < 4; i++) {
        if (t->dims[i] == 0) {
            return lp_fail(r->err, LP_ERR_FORMAT, "tensor %.*s has a dimension of 0",
                           shown(t->name), t->name.data);
        }
        if (i > 0) fits = fits && lp_size_mul(t->n_rows, (size_t)t->dims[i], &t->n_rows);
    }
    if (fits && t->dims[0] % info->block_len != 0) {
        return lp_fail(r->err, LP_ERR_FORMAT,
                       "tensor %.*s: rows of %llu elements are no whole number of %s blocks (%u)",
                       shown(t->name), t->name.data, (unsigned long long)t->dims[0], info->name,
                       info->block_len);
    }
    size_t elements = 0;
    fits = fits && lp_size_mul((size_t)t->dims[0], t->n_rows, &elements) &&
           elements <= (size_t)INT64_MAX &&
           lp_type_row_bytes(info, (size_t)t->dims[0], &t->row_bytes) &&
           lp_size_mul(t->row_bytes, t->n_rows, &t->bytes);
    if (!fits) {
        return lp_fail(r->err, LP_ERR_FORMAT, "tensor %.*s is absurdly large", shown(t->name),
                       t->name.data);
    }
    return LP_OK;
}

static lp_code take_tensor(reader *r, lp_tensor *t, uint64_t *offset) {
    uint32_t type = 0;
    LP_TRY(take_name(r, &t->name));
    LP_TRY(take_u32(r, &t->n_dims));
    if (t->n_dims > 4) {
        return lp_fail(r->err, LP_ERR_FORMAT,
                       "tensor %.*s has %u dimensions, at most 4 are allowed", shown(t->name),
                       t->name.data, t->n_dims);
    }
    for (uint32_t i = 0; i < 4; i++) t->dims[i] = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) LP_TRY(take_u64(r, &t->dims[i]));
    if (t->n_dims == 0) t->n_dims = 1; /* a scalar */
    LP_TRY(take_u32(r, &type));
    LP_TRY(take_u64(r, offset));
    return measure_tensor(r, t, type);
}

/* Grows an array that holds `len` elements so that one more fits, doubling. */
static lp_code grow(void **array, size_t len, size_t *room, size_t element, lp_error *err) {
    if (len < *room) return LP_OK;
    size_t more = *room == 0 ? 32 : *room * 2;
    void *grown = lp_realloc(*array, more, element);
    if (grown == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the model's header");
    *array = grown;
    *room = more;
    return LP_OK;
}

static lp_code read_kvs(reader *r, lp_gguf *g, uint64_t n_kv) {
    size_t room = 0;
    void *array = NULL;
    r->part = "metadata";
    for (uint64_t i = 0; i < n_kv; i++) {
        lp_code code = grow(&array, g->n_kv, &room, sizeof *g->kvs, r->err);
        g->kvs = array;
        LP_TRY(code);
        g->kvs[g->n_kv] = (lp_gguf_kv){0};
        LP_TRY(take_kv(r, &g->kvs[g->n_kv]));
        g->n_kv++;
    }
    return LP_OK;
}

/* The tensor's data pointer holds its offset until the place of the data is known. */
static lp_code read_tensors(reader *r, lp_gguf *g, uint64_t n_tensors) {
    size_t room = 0;
    void *array = NULL;
    r->part = "tensor table";
    for (uint64_t i = 0; i < n_tensors; i++) {
        lp_code code = grow(&array, g->n_tensors, &room, sizeof *g->tensors, r->err);
        g->tensors = array;
        LP_TRY(code);
        lp_tensor *t = &g->tensors[g->n_tensors];
        *t = (lp_tensor){0};
        uint64_t offset = 0;
        LP_TRY(take_tensor(r, t, &offset));
        t->data = (const uint8_t *)(uintptr_t)offset;
        g->n_tensors++;
    }
    return LP_OK;
}

static int by_key(const void *a, const void *b) {
    const lp_gguf_kv *const *x = a;
    const lp_gguf_kv *const *y = b;
    return lp_str_compare((*x)->key, (*y)->key);
}

static int by_name(const void *a, const void *b) {
    const lp_tensor *const *x = a;
    const lp_tensor *const *y = b;
    return lp_str_compare((*x)->name, (*y)->name);
}

static lp_code sort_kvs(lp_gguf *g, lp_error *err) {
    g->kvs_by_name = lp_alloc(g->n_kv, sizeof *g->kvs_by_name);
    if (g->kvs_by_name == NULL)
        return lp_fail(err, LP_ERR_MEMORY, "out of memory for the metadata");
    for (size_t i = 0; i < g->n_kv; i++) g->kvs_by_name[i] = &g->kvs[i];
    qsort(g->kvs_by_name, g->n_kv, sizeof *g->kvs_by_name, by_key);
    for (size_t i = 1; i < g->n_kv; i++) {
        lp_str key = g->kvs_by_name[i]->key;
        if (lp_str_equal(g->kvs_by_name[i - 1]->key, key)) {
            return lp_fail(err, LP_ERR_FORMAT, "the key %.*s stands twice in the metadata",
                           shown(key), key.data);
        }
    }
    return LP_OK;
}

static lp_code sort_tensors(lp_gguf *g, lp_error *err) {
    g->tensors_by_name = lp_alloc(g->n_tensors, sizeof *g->tensors_by_name);
    if (g->tensors_by_name == NULL) {
        return lp_fail(err, LP_ERR_MEMORY, "out of memory for the tensor table");
    }
    for (size_t i = 0; i < g->n_tensors; i++) g->tensors_by_name[i] = &g->tensors[i];
    qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, by_name);
    for (size_t i = 1; i < g->n_tensors; i++) {
        lp_str name = g->tensors_by_name[i]->name;
        if (lp_str_equal(g->tensors_by_name[i - 1]->name, name)) {
            return lp_fail(err, LP_ERR_FORMAT, "the tensor %.*s stands twice in the file",
                           shown(name), name.data);
        }
    }
    return LP_OK;
}

static int by_place(const void *a, const void *b) {
    const lp_tensor *const *x = a;
    const lp_tensor *const *y = b;
    return ((*x)->data > (*y)->data) - ((*x)->data < (*y)->data);
}

/* Gaps between tensors are allowed, overlaps are not: they are how one tensor's bytes would be
 * read as another's. */
static lp_code check_overlaps(const lp_gguf *g, lp_error *err) {
    const lp_tensor **by = lp_alloc(g->n_tensors, sizeof *by);
    if (by == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the tensor table");
    for (size_t i = 0; i < g->n_tensors; i++) by[i] = &g->tensors[i];
    qsort(by, g->n_tensors, sizeof *by, by_place);
    lp_code code = LP_OK;
    for (size_t i = 1; i < g->n_tensors && code == LP_OK; i++) {
        if (by[i - 1]->data + by[i - 1]->bytes > by[i]->data) {
            code = lp_fail(err, LP_ERR_FORMAT, "the tensors %.*s and %.*s overlap",
                           shown(by[i - 1]->name), by[i - 1]->name.data, shown(by[i]->name),
                           by[i]->name.data);
        }
    }
    lp_free(by);
    return code;
}

static lp_code place_tensors(lp_gguf *g, size_t table_end, lp_error *err) {
    uint32_t alignment = DEFAULT_ALIGNMENT;
    LP_TRY(lp_gguf_get_u32(g, lp_str_from("general.alignment"), &alignment, err));
    if (alignment < MIN_ALIGNMENT || alignment > MAX_ALIGNMENT ||
        (alignment & (alignment - 1)) != 0) {
        return lp_fail(err, LP_ERR_FORMAT,
                       "general.alignment is %u, it must be a power of two from %d to %d",
                       alignment, MIN_ALIGNMENT, MAX_ALIGNMENT);
    }
    g->data_offset = (table_end + alignment - 1) & ~((size_t)alignment - 1);
    for (size_t i = 0; i < g->n_tensors; i++) {
        lp_tensor *t = &g->tensors[i];
        size_t offset = (size_t)(uintptr_t)t->data;
        if (offset % alignment != 0) {
            return lp_fail(err, LP_ERR_FORMAT,
                           "tensor %.*s begins at %zu, which is no multiple of %u", shown(t->name),
                           t->name.data, offset, alignment);
        }
        size_t room = g->size > g->data_offset ? g->size - g->data_offset : 0;
        if (offset > room || t->bytes > room - offset) {
            size_t end = 0;
            if (!lp_size_add(offset, t->bytes, &end)) end = SIZE_MAX;
            return lp_fail(err, LP_ERR_FORMAT,
                           "tensor %.*s ends %zu bytes past the end of the file (is it complete?)",
                           shown(t->name), t->name.data, end - room);
        }
        t->data = g->data + g->data_offset + offset;
    }
    return check_overlaps(g, err);
}

static lp_code read_all(lp_gguf *g, reader *r) {
    const uint8_t *magic = NULL;
    uint64_t n_tensors = 0;
    uint64_t n_kv = 0;
    if (r->size < 4 || memcmp(r->data, "GGUF", 4) != 0) {
        return lp_fail(r->err, LP_ERR_FORMAT, "not a GGUF file (it does not begin with \"GGUF\")");
    }
    LP_TRY(take(r, 4, &magic));
    LP_TRY(take_u32(r, &g->version));
    if (g->version != 0 && (g->version & 0xFFFF) == 0) {
        return lp_fail(r->err, LP_ERR_UNSUPPORTED,
                       "a big-endian GGUF file; only little-endian is supported");
    }
    if (g->version != 2 && g->version != 3) {
        return lp_fail(r->err, LP_ERR_UNSUPPORTED,
                       "GGUF version %u; versions 2 and 3 are supported", g->version);
    }
    LP_TRY(take_u64(r, &n_tensors));
    LP_TRY(take_u64(r, &n_kv));
    /* A key takes at least 13 bytes and a tensor 33: larger counts cannot be true. */
    if (n_kv > r->size / 13 || n_tensors > r->size / 33) {
        return lp_fail(
            r->err, LP_ERR_FORMAT,
            "the header announces %llu keys and %llu tensors, more than the file can hold",
            (unsigned long long)n_kv, (unsigned long long)n_tensors);
    }
    LP_TRY(read_kvs(r, g, n_kv));
    LP_TRY(sort_kvs(g, r->err));
    LP_TRY(read_tensors(r, g, n_tensors));
    LP_TRY(sort_tensors(g, r->err));
    return place_tensors(g, r->at, r->err);
}

lp_code lp_gguf_open(lp_gguf **out, const uint8_t *data, size_t size, lp_error *err) {
    *out = NULL;
    lp_gguf *g = lp_alloc(1, sizeof *g);
    if (g == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the model's header");
    g->data = data;
    g->size = size;
    reader r = {.data = data, .size = size, .part = "header", .err = err};
    lp_code code = read_all(g, &r);
    if (code != LP_OK) {
        lp_gguf_close(g);
        return code;
    }
    *out = g;
    return LP_OK;
}

void lp_gguf_close(lp_gguf *gguf) {
    if (gguf == NULL) return;
    lp_free(gguf->kvs);
    lp_free(gguf->kvs_by_name);
    lp_free(gguf->tensors);
    lp_free(gguf->tensors_by_name);
    lp_free(gguf);
}

uint32_t lp_gguf_version(const lp_gguf *gguf) {
    return gguf->version;
}

size_t lp_gguf_data_offset(const lp_gguf *gguf) {
    return gguf->data_offset;
}

size_t lp_gguf_n_kv(const lp_gguf *gguf) {
    return gguf->n_kv;
}

const lp_gguf_kv *lp_gguf_kv_at(const lp_gguf *gguf, size_t index) {
    return index < gguf->n_kv ? &gguf->kvs[index] : NULL;
}

const lp_gguf_kv *lp_gguf_find(const lp_gguf *gguf, lp_str key) {
    lp_gguf_kv wanted = {.key = key};
    const lp_gguf_kv *pointer = &wanted;
    if (gguf->n_kv == 0) return NULL;
    const lp_gguf_kv **hit =
        bsearch(&pointer, gguf->kvs_by_name, gguf->n_kv, sizeof *gguf->kvs_by_name, by_key);
    return hit == NULL ? NULL : *hit;
}

size_t lp_gguf_n_tensors(const lp_gguf *gguf) {
    return gguf->n_tensors;
}

const lp_tensor *lp_gguf_tensor_at(const lp_gguf *gguf, size_t index) {
    return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

const lp_tensor *lp_gguf_find_tensor(const lp_gguf *gguf, lp_str name) {
    lp_tensor wanted = {.name = name};
    const lp_tensor *pointer = &wanted;
    if (gguf->n_tensors == 0) return NULL;
    const lp_tensor **hit = bsearch(&pointer, gguf->tensors_by_name, gguf->n_tensors,
                                    sizeof *gguf->tensors_by_name, by_name);
    return hit == NULL ? NULL : *hit;
}

static bool is_integer(lp_gguf_type type) {
    return type <= LP_GGUF_I32 || type == LP_GGUF_U64 || type == LP_GGUF_I64;
}

/* An integer element as int64; values above INT64_MAX saturate, which every caller's bound then
 * refuses. */
static int64_t integer_at(const uint8_t *bytes, lp_gguf_type type) {
    uint64_t raw = little_endian(bytes, scalar_bytes(type));
    switch (type) {
    case LP_GGUF_I8:
        return (int8_t)raw;
    case LP_GGUF_I16:
        return (int16_t)raw;
    case LP_GGUF_I32:
        return (int32_t)raw;
    case LP_GGUF_I64:
        return (int64_t)raw;
    case LP_GGUF_BOOL:
        return raw != 0;
    default:
        return raw > (uint64_t)INT64_MAX ? INT64_MAX : (int64_t)raw;
    }
}

static float float_at(const uint8_t *bytes, lp_gguf_type type) {
    if (type == LP_GGUF_F64) {
        double value = 0;
        memcpy(&value, bytes, sizeof value);
        return (float)value;
    }
    float value = 0;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static lp_code wrong_type(const lp_gguf_kv *kv, const char *expected, lp_error *err) {
    return lp_fail(err, LP_ERR_FORMAT, "the key %.*s is of type %s, expected %s", shown(kv->key),
                   kv->key.data, lp_gguf_type_name(kv->type), expected);
}

static lp_code to_u32(const lp_gguf_kv *kv, int64_t value, uint32_t *out, lp_error *err) {
    if (value < 0 || value > UINT32_MAX) {
        return lp_fail(err, LP_ERR_FORMAT, "the key %.*s is %lld, out of range", shown(kv->key),
                       kv->key.data, (long long)value);
    }
    *out = (uint32_t)value;
    return LP_OK;
}

lp_code lp_gguf_get_u32(const lp_gguf *gguf, lp_str key, uint32_t *out, lp_error *err) {
    const lp_gguf_kv *kv = lp_gguf_find(gguf, key);
    if (kv == NULL) return LP_OK;
    if (!is_integer(kv->type)) return wrong_type(kv, "an integer", err);
    return to_u32(kv, integer_at(kv->value, kv->type), out, err);
}

lp_code lp_gguf_get_f32(const lp_gguf *gguf, lp_str key, float *out, lp_error *err) {
    const lp_gguf_kv *kv = lp_gguf_find(gguf, key);
    if (kv == NULL) return LP_OK;
    if (kv->type == LP_GGUF_F32 || kv->type == LP_GGUF_F64) {
        *out = float_at(kv->value, kv->type);
        return LP_OK;
    }
    if (!is_integer(kv->type)) return wrong_type(kv, "a number", err);
    *out = (float)integer_at(kv->value, kv->type);
    return LP_OK;
}

lp_code lp_gguf_get_bool(const lp_gguf *gguf, lp_str key, bool *out, lp_error *err) {
    const lp_gguf_kv *kv = lp_gguf_find(gguf, key);
    if (kv == NULL) return LP_OK;
    if (kv->type != LP_GGUF_BOOL) return wrong_type(kv, "bool", err);
    *out = kv->value[0] != 0;
    return LP_OK;
}

lp_code lp_gguf_get_str(const lp_gguf *gguf, lp_str key, lp_str *out, lp_error *err) {
    const lp_gguf_kv *kv = lp_gguf_find(gguf, key);
    if (kv == NULL) return LP_OK;
    if (kv->type != LP_GGUF_STRING) return wrong_type(kv, "string", err);
    *out = (lp_str){(const char *)kv->value, kv->value_bytes};
    return LP_OK;
}

static bool same_kind(lp_gguf_type have, lp_gguf_type want) {
    if (have == want) return true;
    if (is_integer(want)) return is_integer(have) || have == LP_GGUF_BOOL;
    return want == LP_GGUF_F32 && have == LP_GGUF_F64;
}

lp_code lp_gguf_get_array(const lp_gguf *gguf, lp_str key, lp_gguf_type element,
                          const lp_gguf_kv **out, lp_error *err) {
    const lp_gguf_kv *kv = lp_gguf_find(gguf, key);
    *out = NULL;
    if (kv == NULL) return LP_OK;
    if (kv->type != LP_GGUF_ARRAY) return wrong_type(kv, "an array", err);
    if (!same_kind(kv->element, element)) {
        return lp_fail(err, LP_ERR_FORMAT, "the key %.*s is an array of %s, expected %s",
                       shown(kv->key), kv->key.data, lp_gguf_type_name(kv->element),
                       lp_gguf_type_name(element));
    }
    *out = kv;
    return LP_OK;
}

lp_code lp_gguf_get_u32_at(const lp_gguf *gguf, lp_str key, size_t index, uint32_t *out,
                           lp_error *err) {
    const lp_gguf_kv *kv = lp_gguf_find(gguf, key);
    if (kv == NULL) return LP_OK;
    if (kv->type != LP_GGUF_ARRAY) return lp_gguf_get_u32(gguf, key, out, err);
    LP_TRY(lp_gguf_get_array(gguf, key, LP_GGUF_U32, &kv, err));
    if (index >= kv->count) {
        return lp_fail(err, LP_ERR_FORMAT, "the key %.*s has %llu elements, number %zu is needed",
                       shown(kv->key), kv->key.data, (unsigned long long)kv->count, index);
    }
    return to_u32(kv, lp_gguf_array_int(kv, index), out, err);
}

float lp_gguf_array_f32(const lp_gguf_kv *array, size_t index) {
    bool is_float = array->element == LP_GGUF_F32 || array->element == LP_GGUF_F64;
    if (index >= array->count || !is_float) return 0.0f;
    return float_at(array->value + index * scalar_bytes(array->element), array->element);
}

int64_t lp_gguf_array_int(const lp_gguf_kv *array, size_t index) {
    bool is_int = is_integer(array->element) || array->element == LP_GGUF_BOOL;
    if (index >= array->count || !is_int) return 0;
    return integer_at(array->value + index * scalar_bytes(array->element), array->element);
}

lp_str lp_gguf_array_next_str(const lp_gguf_kv *array, size_t *cursor) {
    if (array->element != LP_GGUF_STRING || *cursor >= array->value_bytes) return (lp_str){"", 0};
    size_t len = (size_t)little_endian(array->value + *cursor, 8);
    lp_str text = {(const char *)array->value + *cursor + 8, len};
    *cursor += 8 + len;
    return text;
}
