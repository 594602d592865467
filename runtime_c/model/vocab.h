/* vocab.h - the token table of a model: pieces, ids, attributes, special tokens.
 *
 * Texts are borrowed from the GGUF's mapping. Ids are int32_t, 0 .. n_tokens - 1; -1 = none.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_VOCAB_H
#define LP_MODEL_VOCAB_H

#include "base/text.h"
#include "model/gguf.h"

/* tokenizer.ggml.token_type */
typedef enum lp_token_attr {
    LP_TOKEN_NORMAL = 1,
    LP_TOKEN_UNKNOWN = 2,
    LP_TOKEN_CONTROL = 3,
    LP_TOKEN_USER_DEFINED = 4,
    LP_TOKEN_UNUSED = 5,
    LP_TOKEN_BYTE = 6
} lp_token_attr;

typedef enum lp_vocab_kind { LP_VOCAB_BPE, LP_VOCAB_SPM } lp_vocab_kind;

typedef struct lp_vocab lp_vocab;

/* Errors: LP_ERR_UNSUPPORTED names an unknown tokenizer model or pre-tokenizer; LP_ERR_FORMAT a
 * table of the wrong length or type, a special id outside the table, a token over 64 KiB. */
lp_code lp_vocab_open(lp_vocab **out, const lp_gguf *gguf, lp_error *err) LP_MUST_USE;
void lp_vocab_close(lp_vocab *vocab);

size_t lp_vocab_size(const lp_vocab *vocab);
lp_vocab_kind lp_vocab_kind_of(const lp_vocab *vocab);
lp_str lp_vocab_text(const lp_vocab *vocab, int32_t id); /* as stored in the file */
lp_token_attr lp_vocab_attr(const lp_vocab *vocab, int32_t id);
int32_t lp_vocab_find(const lp_vocab *vocab, lp_str text); /* -1 if no token has this text */
int32_t lp_vocab_bos(const lp_vocab *vocab);               /* -1 = none */
int32_t lp_vocab_eos(const lp_vocab *vocab);
bool lp_vocab_adds_bos(const lp_vocab *vocab);
bool lp_vocab_adds_eos(const lp_vocab *vocab);
bool lp_vocab_is_end(const lp_vocab *vocab, int32_t id); /* ends a generation: eos, eot, eom ... */

/* Appends the bytes a token stands for (not always whole characters). Control and unknown tokens
 * print nothing unless `special`. */
void lp_vocab_add_piece(const lp_vocab *vocab, int32_t id, bool special, lp_buf *out);

/* A growing list of ids. */
typedef struct lp_ids {
    int32_t *data; /* owned; lp_free */
    size_t len, size;
    bool failed;  /* an allocation was refused or the limit reached; later adds do nothing */
    size_t limit; /* most ids; 0 = no limit */
} lp_ids;
void lp_ids_add(lp_ids *ids, int32_t id);
void lp_ids_free(lp_ids *ids);

/* Bytes of a text that may become special tokens: the parts written by the template, never the
 * parts that came from a user. */
typedef struct lp_span {
    size_t begin, end;
} lp_span;

/* Text to ids. Special tokens match only wholly inside one of the trusted spans (sorted, disjoint,
 * adjacent ones merged); user-defined tokens match everywhere. Ordinary text is split across span
 * borders as if there were none. add_special: BOS/EOS as the file asks (a BOS the text already
 * begins with inside a trusted span is not doubled). Ill-formed UTF-8 counts as U+FFFD when
 * splitting; its bytes stay. O(n log n) at worst, no recursion; memory up to 30 bytes per byte of
 * the longest word. Appends to ids.
 * Errors: LP_ERR_MEMORY, LP_ERR_LIMIT (ids->limit), LP_ERR_ARGUMENT (spans out of order). */
lp_code lp_tokenize(const lp_vocab *vocab, lp_str text, const lp_span *trusted, size_t n_trusted,
                    bool add_special, lp_ids *ids, lp_error *err) LP_MUST_USE;

/* Ids to text, as llama.cpp's detokenize of a whole text without clean-up: SPM drops the one
 * leading space that add_space_prefix put there, also after a BOS that prints nothing. */
void lp_detokenize(const lp_vocab *vocab, const int32_t *ids, size_t n, bool special, lp_buf *out);

#endif
