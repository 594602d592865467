/* kv_file.h - the keys and values of a token sequence as bytes: a prefix evaluated once, long
 * before it is used.
 *
 * The builder writes one for the system prompt (`system.kv` in the container, see
 * builder/llamapack/system_kv.py); the runtime copies as many of its positions as a prompt shares.
 * Layout, little-endian, nothing aligned but the last part:
 *
 *     0  magic "LPKVDATA"                          8 bytes
 *     8  format of this layout: 2                  u32
 *    12  LP_KV_VERSION of the writer               u32
 *    16  bytes of the whole                        u64
 *    24  checksum of the bytes from 32 on          u64
 *    32  SHA-256 of the weights (container.py)     32 bytes
 *    64  bytes of the weights                      u64
 *    72  activation mode, cache type               u32, u32: lp_act_mode, lp_kv_type
 *    80  layers, vocabulary, tokens                u32 each
 *    92  zero                                      u32
 *    96  ISA level that computed it                16 bytes, padded with zeros
 *   112  bytes of a key slot and a value slot      u32, u32 per layer,
 *        first position stored                     u32        per layer
 *        token ids                                 i32        per token
 *        zeros up to a multiple of 64
 *        each layer: the keys of its positions in order, then the values; a slot holds the vectors
 *        of all kv heads of a position, so the order does not depend on the cache's blocks
 *
 * Of layers with a sliding window only what can be needed is there: from lp_kv_oldest of all tokens
 * on, which serves prompts that share all but the last LP_KV_SLACK tokens or more.
 *
 * Nothing of it is trusted: sizes, ids and the checksum are checked before the cache is touched,
 * and keys and values are numbers that cannot harm, whatever they are. The checksum shows damage;
 * who wants to deceive can change the weights as well.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_KV_FILE_H
#define LP_ENGINE_KV_FILE_H

#include "engine/engine.h"

/* To be raised whenever the same tokens, weights, level and modes begin to give other bytes in the
 * cache: another order of additions, another rotation, another layout of a slot; and whenever the
 * layout above changes, for the builder hands on what an earlier one evaluated by this number. */
enum { LP_KV_VERSION = 5, LP_KV_LEVEL_BYTES = 16 };

typedef enum lp_kv_state { LP_KV_UNCHECKED = 0, LP_KV_WHOLE, LP_KV_DAMAGED } lp_kv_state;

typedef struct lp_kv_file {
    const uint8_t *data; /* borrowed, as all pointers here */
    size_t size;
    uint32_t version; /* LP_KV_VERSION of the writer */
    lp_act_mode act;
    lp_kv_type type;
    uint32_t n_layer, n_vocab;
    size_t n_tokens;
    size_t least; /* positions that can be taken at least: fewer leave a window unknown */
    char level[LP_KV_LEVEL_BYTES + 1]; /* printable */
    const uint8_t *model_sha256;       /* 32 bytes */
    uint64_t model_bytes;
    const uint8_t *slots, *tokens, *layers; /* the last three parts */
    lp_kv_state state;
} lp_kv_file;

/* Appends the first n_tokens positions of a sequence, whose ids the caller gives. LP_ERR_ARGUMENT:
 * the sequence is shorter, or its window layers no longer hold what is to be stored. Belongs to no
 * weights before lp_kv_file_seal. */
lp_code lp_kv_file_write(lp_buf *out, const lp_engine *engine, int32_t sequence,
                         const int32_t *tokens, size_t n_tokens, lp_error *err) LP_MUST_USE;
/* Binds what lp_kv_file_write wrote to the weights (sha256: 32 bytes) and sets the checksum. */
void lp_kv_file_seal(uint8_t *data, size_t size, const uint8_t *model_sha256, uint64_t model_bytes);

/* Reads the header and the ids; keys and values are not touched. LP_ERR_FORMAT: not such a file, or
 * its sizes disagree; LP_ERR_UNSUPPORTED: another LP_KV_VERSION. */
lp_code lp_kv_file_open(lp_kv_file *file, const uint8_t *data, size_t size,
                        lp_error *err) LP_MUST_USE;
/* The checksum, once; LP_ERR_FORMAT: damaged. */
lp_code lp_kv_file_check(lp_kv_file *file, lp_error *err) LP_MUST_USE;
/* Whether it may stand for what this engine would compute with the weights of this hash (32 bytes)
 * and size: LP_ERR_ARGUMENT says what differs. The level may: a named path (see README.md). */
lp_code lp_kv_file_fits(const lp_kv_file *file, const lp_engine *engine,
                        const uint8_t *model_sha256, uint64_t model_bytes,
                        lp_error *err) LP_MUST_USE;

/* How many of the ids' first tokens it holds; 0 when they are too few to be of use or to be worth
 * reading it. */
size_t lp_kv_file_common(const lp_kv_file *file, const int32_t *ids, size_t n);
/* The sequence then holds the first n positions and nothing else. For a file that fits; checks the
 * checksum first, and leaves the sequence alone when anything is wrong. */
lp_code lp_kv_file_load(lp_kv_file *file, lp_engine *engine, int32_t sequence, size_t n,
                        lp_error *err) LP_MUST_USE;

#endif
