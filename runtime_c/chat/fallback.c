/* fallback.c - guesses a model's turn format from the special tokens it has.
 *
 * The rows are tried in order; a row fits when the vocabulary has both of its tokens as whole
 * tokens. A row with an architecture instead fits that one alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "chat/fallback.h"

typedef struct lp_fallback_rule {
    const char *name;
    const char *token, *other; /* other may be NULL */
    const char *arch;          /* NULL = any */
} lp_fallback_rule;

static const lp_fallback_rule rules[] = {
    {"phi4", "<|im_start|>", "<|im_sep|>", NULL},
    {"kimi-k2", "<|im_user|>", "<|im_middle|>", NULL},
    {"chatml", "<|im_start|>", "<|im_end|>", NULL},
    {"gemma", "<start_of_turn>", "<end_of_turn>", NULL},
    {"llama4", "<|header_start|>", "<|eot|>", NULL},
    {"llama3", "<|start_header_id|>", "<|eot_id|>", NULL},
    {"gpt-oss", "<|channel|>", "<|message|>", NULL},
    {"granite", "<|start_of_role|>", "<|end_of_role|>", NULL},
    {"command-r", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", NULL},
    {"deepseek3", "<｜User｜>", "<｜Assistant｜>", NULL},
    {"mistral-v7", "[SYSTEM_PROMPT]", "[INST]", NULL},
    {"mistral-v3", "[INST]", "[/INST]", NULL},
    {"exaone4", "[|assistant|]", "[|endofturn|]", NULL},
    {"chatglm4", "[gMASK]", "<|assistant|>", NULL},
    {"phi3", "<|assistant|>", "<|end|>", NULL},
    {"zephyr", "<|assistant|>", "<|user|>", NULL},
    {"gemma", NULL, NULL, "gemma"},
    {"gemma", NULL, NULL, "gemma2"},
    {"gemma", NULL, NULL, "gemma3"},
    {"phi3", NULL, NULL, "phi3"},
    {"llama2", NULL, NULL, "llama"},
};

const lp_fallback *lp_fallback_named(lp_str name) {
    for (size_t i = 0; i < lp_fallback_count; i++) {
        if (lp_str_is(name, lp_fallbacks[i].name)) return &lp_fallbacks[i];
    }
    return NULL;
}

static bool has(const lp_vocab *vocab, const char *token) {
    return token == NULL || lp_vocab_find(vocab, lp_str_from(token)) >= 0;
}

const lp_fallback *lp_fallback_for(const lp_vocab *vocab, lp_str arch) {
    const lp_fallback *found = NULL;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0] && found == NULL; i++) {
        const lp_fallback_rule *r = &rules[i];
        /* Llama's name alone says little: only the old SentencePiece vocabulary is meant. */
        bool arch_fits = r->arch == NULL ||
                         (lp_str_is(arch, r->arch) && lp_vocab_kind_of(vocab) == LP_VOCAB_SPM);
        if (arch_fits && has(vocab, r->token) && has(vocab, r->other)) {
            found = lp_fallback_named(lp_str_from(r->name));
        }
    }
    if (found == NULL) found = lp_fallback_named(lp_str_from("chatml"));
    return found == NULL ? &lp_fallbacks[0] : found;
}
