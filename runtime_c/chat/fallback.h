/* fallback.h - templates for models that bring none, by family.
 *
 * The texts are templates/chat/<name>.jinja, turned into _generated/fallback_templates.c by
 * builder/generate/chat_templates.py. Which one fits is told by the vocabulary's special tokens.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CHAT_FALLBACK_H
#define LP_CHAT_FALLBACK_H

#include "base/text.h"
#include "model/vocab.h"

typedef struct lp_fallback {
    const char *name; /* of the file, without .jinja */
    const char *source;
    size_t len;
} lp_fallback;

extern const lp_fallback lp_fallbacks[]; /* sorted by name */
extern const size_t lp_fallback_count;

/* Never NULL: ChatML where nothing else is recognised. arch: general.architecture. */
const lp_fallback *lp_fallback_for(const lp_vocab *vocab, lp_str arch);
const lp_fallback *lp_fallback_named(lp_str name); /* NULL if there is none */

#endif
