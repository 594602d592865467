/* pretok.h - cuts a text into the words that BPE merges never cross.
 *
 * Each family of models names its splitter in `tokenizer.ggml.pre`. The splitters are published as
 * regular expressions; here they are rows of a table that one hand-written scanner reads, so that
 * every text costs linear time and no stack.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_PRETOK_H
#define LP_MODEL_PRETOK_H

#include "base/text.h"

typedef struct lp_pretok_family lp_pretok_family; /* static data */

typedef struct lp_pretok_name {
    const char *pre; /* value of tokenizer.ggml.pre */
    const lp_pretok_family *family;
    bool ignore_merges; /* a word that is a token is taken whole, before any merge */
    bool add_bos;       /* what add_bos_token is when the file does not say */
} lp_pretok_name;

/* The row of a pre-tokenizer; NULL if this build has none of that name. The empty name and
 * "default" give the splitter of files that name none. */
const lp_pretok_name *lp_pretok_find(lp_str pre);

/* A walk over the words of one text. */
enum { LP_PRETOK_STAGES = 4 };
typedef struct lp_pretok {
    lp_str text; /* borrowed */
    const lp_pretok_family *family;
    size_t at;                          /* end of the last word */
    size_t piece_end[LP_PRETOK_STAGES]; /* of the piece that each stage is inside of */
} lp_pretok;

void lp_pretok_start(lp_pretok *walk, const lp_pretok_family *family, lp_str text);
/* The next word; false at the end. The words in order are the whole text, none is empty. */
bool lp_pretok_next(lp_pretok *walk, lp_str *word);

#endif
