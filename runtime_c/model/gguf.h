/* gguf.h - a careful reader of GGUF version 2 and 3 over bytes already mapped in memory.
 *
 * Layout (little-endian): header { "GGUF", u32 version, i64 n_tensors, i64 n_kv },
 * n_kv x { string key, i32 type, value }, n_tensors x { string name, u32 n_dims, i64 dims[],
 * i32 type, u64 offset }, padding to general.alignment, tensor data. A string is u64 length and
 * bytes. Specification: the GGUF document of the ggml project.
 *
 * Everything is borrowed from the mapping, which must outlive the lp_gguf. Every count is compared
 * with the bytes left before memory is asked for; sizes are computed once, checked, into views.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_GGUF_H
#define LP_MODEL_GGUF_H

#include "base/status.h"
#include "base/text.h"
#include "qtype.h"

typedef enum lp_gguf_type {
    LP_GGUF_U8 = 0,
    LP_GGUF_I8 = 1,
    LP_GGUF_U16 = 2,
    LP_GGUF_I16 = 3,
    LP_GGUF_U32 = 4,
    LP_GGUF_I32 = 5,
    LP_GGUF_F32 = 6,
    LP_GGUF_BOOL = 7,
    LP_GGUF_STRING = 8,
    LP_GGUF_ARRAY = 9,
    LP_GGUF_U64 = 10,
    LP_GGUF_I64 = 11,
    LP_GGUF_F64 = 12
} lp_gguf_type;

typedef struct lp_gguf_kv {
    lp_str key;
    lp_gguf_type type;
    lp_gguf_type element; /* of an array */
    uint64_t count;       /* elements of an array, else 1 */
    const uint8_t *value; /* first byte of the value or of the first element (unaligned) */
    size_t value_bytes;
} lp_gguf_kv;

/* A tensor whose extent was checked: data..data+bytes lies inside the file. */
typedef struct lp_tensor {
    lp_str name;
    uint32_t n_dims;  /* 1..4 */
    uint64_t dims[4]; /* dims[0] = contiguous row length; unused ones are 1 */
    uint32_t type;    /* lp_type id, known to lp_type_get */
    const uint8_t *data;
    size_t bytes;
    size_t row_bytes; /* bytes of dims[0] elements */
    size_t n_rows;    /* product of dims[1..3] */
} lp_tensor;

typedef struct lp_gguf lp_gguf;

/* Reads the header, keys and tensor table at data[0..size). On success *out is owned by the
 * caller (lp_gguf_close). Errors: LP_ERR_FORMAT, LP_ERR_UNSUPPORTED, LP_ERR_MEMORY. */
lp_code lp_gguf_open(lp_gguf **out, const uint8_t *data, size_t size, lp_error *err) LP_MUST_USE;
void lp_gguf_close(lp_gguf *gguf); /* NULL is fine */

uint32_t lp_gguf_version(const lp_gguf *gguf);
size_t lp_gguf_data_offset(const lp_gguf *gguf); /* of the tensor data, from the first byte */
size_t lp_gguf_n_kv(const lp_gguf *gguf);
const lp_gguf_kv *lp_gguf_kv_at(const lp_gguf *gguf, size_t index);
const lp_gguf_kv *lp_gguf_find(const lp_gguf *gguf, lp_str key); /* NULL if absent */
size_t lp_gguf_n_tensors(const lp_gguf *gguf);
const lp_tensor *lp_gguf_tensor_at(const lp_gguf *gguf, size_t index);
const lp_tensor *lp_gguf_find_tensor(const lp_gguf *gguf, lp_str name); /* NULL if absent */

/* Typed getters: the only way to a value. An absent key leaves *out as it was and is LP_OK; a
 * value of another type (integers are accepted in any integer type they fit) is an error that
 * names key, found and expected type. */
lp_code lp_gguf_get_u32(const lp_gguf *gguf, lp_str key, uint32_t *out, lp_error *err) LP_MUST_USE;
lp_code lp_gguf_get_f32(const lp_gguf *gguf, lp_str key, float *out, lp_error *err) LP_MUST_USE;
lp_code lp_gguf_get_bool(const lp_gguf *gguf, lp_str key, bool *out, lp_error *err) LP_MUST_USE;
lp_code lp_gguf_get_str(const lp_gguf *gguf, lp_str key, lp_str *out, lp_error *err) LP_MUST_USE;

/* Arrays. *out is NULL when the key is absent; else its element type was checked. */
lp_code lp_gguf_get_array(const lp_gguf *gguf, lp_str key, lp_gguf_type element,
                          const lp_gguf_kv **out, lp_error *err) LP_MUST_USE;
/* A scalar u32, or element `index` of an integer array. */
lp_code lp_gguf_get_u32_at(const lp_gguf *gguf, lp_str key, size_t index, uint32_t *out,
                           lp_error *err) LP_MUST_USE;
float lp_gguf_array_f32(const lp_gguf_kv *array, size_t index);
int64_t lp_gguf_array_int(const lp_gguf_kv *array,
                          size_t index); /* any integer element type or bool */

/* Walks the strings of an array in order: start with *cursor = 0. Lengths were checked when the
 * file was opened, so this cannot fail; returns the string at the cursor and moves it on. */
lp_str lp_gguf_array_next_str(const lp_gguf_kv *array, size_t *cursor);

const char *lp_gguf_type_name(uint32_t type);

#endif
