/* vocab_internal.h - what the files of the tokenizer share and nobody else sees.
 *
 * Two kinds of token are kept apart, so that ordinary text can never become a special token
 * whatever the merges or scores of a file say:
 *
 *   ordinary   normal and unused tokens, in the hash table `tokens`; all that merging can produce
 *   special    control, unknown, user-defined and byte tokens, sorted by text in `specials`;
 *              found only as whole strings, see lp_vocab_match_special
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_VOCAB_INTERNAL_H
#define LP_MODEL_VOCAB_INTERNAL_H

#include "model/pretok.h"
#include "model/text_table.h"
#include "model/tok_merge.h"
#include "model/vocab.h"

#ifndef LP_CDEF
enum {
    LP_TOKEN_LONGEST = 64 * 1024, /* bytes of a token */
    LP_SPECIAL_LONGEST = 512      /* bytes of a token that is searched for in texts */
};

enum { /* lp_vocab.flags; the low bits are an lp_token_attr */
       LP_FLAG_ATTR = 7,
       LP_FLAG_END = 8,     /* ends a generation */
       LP_FLAG_STRIP = 16,  /* swallows white space after it */
       LP_FLAG_PRINTED = 32 /* a control token that prints its text */
};

struct lp_vocab {
    lp_vocab_kind kind;
    lp_text_table tokens; /* all texts; only ordinary ones are findable */
    uint8_t *flags;       /* (n_tokens), owned */
    int32_t *specials;    /* (n_specials), owned, by text and then id */
    size_t n_specials;
    uint32_t special_begin[257]; /* specials whose first byte is b: [b] .. [b + 1] */
    bool control_begins[256];    /* a control or unknown token begins with byte b */
    int32_t bytes[256];          /* SPM: id of <0xXX>; BPE: of its character; -1 = none */
    int32_t bos, eos, unknown;   /* -1 = none */
    bool add_bos, add_eos;
    /* BPE */
    const lp_pretok_name *pre;
    lp_text_table merges; /* "left right"; the index is the rank */
    /* SPM */
    lp_gguf_kv scores; /* floats in the file, unaligned */
    bool space_prefix;
    bool joins_space[256]; /* byte b stands before U+2581 inside some token */
};

/* The escaped space of SPM, U+2581. */
#define LP_SPM_SPACE "\xE2\x96\x81"
enum { LP_SPM_SPACE_BYTES = 3 };

/* vocab_ends.c: which tokens end a generation, print, or swallow white space. Comes before
 * lp_vocab_sort_specials, since it may find a token to be special that the file calls normal. */
lp_code lp_vocab_mark_ends(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) LP_MUST_USE;

/* vocab_special.c: special tokens by text. */
lp_code lp_vocab_sort_specials(lp_vocab *vocab, lp_error *err) LP_MUST_USE;
int32_t lp_vocab_find_special(const lp_vocab *vocab, lp_str text); /* lowest id, -1 = none */
bool lp_vocab_is_ordinary(const lp_vocab *vocab, int32_t id);

/* The special token that begins at text.data[at]: the longest of at most `longest` bytes that is
 * user-defined or, when it ends at or before `trusted_end`, of any kind but byte. With
 * user_defined false only the latter count. -1 = none. */
typedef struct lp_special_query {
    size_t at, longest, trusted_end;
    bool user_defined;
} lp_special_query;
int32_t lp_vocab_match_special(const lp_vocab *vocab, lp_str text, lp_special_query query);

/* The GPT-2 byte alphabet: one printable character per byte (tok_bpe.c). */
size_t lp_bpe_encode_byte(uint8_t byte, char out[4]);        /* bytes written, 1 or 2 */
bool lp_bpe_decode_char(uint32_t code_point, uint8_t *byte); /* false: not of the alphabet */

/* Working memory of one lp_tokenize. */
typedef struct lp_tok_work {
    const lp_vocab *vocab; /* borrowed */
    lp_ids *ids;           /* borrowed: where ids go */
    lp_merger merger;
    lp_buf word; /* the word being merged, in the vocabulary's spelling */
    lp_buf pair; /* the merge being looked up */
} lp_tok_work;

/* One fragment of text without special tokens. */
lp_code lp_bpe_tokenize(lp_tok_work *work, lp_str text, lp_error *err) LP_MUST_USE;
lp_code lp_spm_tokenize(lp_tok_work *work, lp_str text, bool prefix, lp_error *err) LP_MUST_USE;
#endif

#endif
