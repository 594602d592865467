/* vocab_ends.c - which tokens end a generation, and which ones behave in other special ways.
 *
 * A file names its ends by id (eos, eot, eom, fim_pad, fim_rep, fim_sep), but many files name only
 * one of several, so the texts that model makers use are looked for as well. A token with such a
 * text is a control token even if the file calls it normal: converters have got that wrong, and a
 * user must not be able to write one. The exception is `</s>`, which is also an HTML tag and an
 * ordinary token of many vocabularies (Qwen 2, Gemma): it counts only where the file calls it a
 * control token or names it as its end of sequence.
 *
 * Lists follow llama.cpp's, plus Llama 4's `<|eot|>` and `<|eom|>`.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/memory.h"
#include "model/vocab_internal.h"

typedef enum marker_role { END, PAD_END, REPO_END, FILE_END, HARMONY, HINT } marker_role;

typedef struct marker {
    const char *text;
    marker_role role; /* PAD_, REPO_, FILE_END: only if the file does not name that id itself */
} marker;

static const marker markers[] = {
    {"<|eot_id|>", END},
    {"<|im_end|>", END},
    {"<|end|>", END},
    {"<|return|>", END},
    {"<|call|>", END},
    {"<|flush|>", END},
    {"<|calls|>", END},
    {"<end_of_turn>", END},
    {"<|endoftext|>", END},
    {"</s>", END},
    {"<|eom_id|>", END},
    {"<EOT>", END},
    {"_<EOT>", END},
    {"[EOT]", END},
    {"[EOS]", END},
    {"<|end_of_text|>", END},
    {"<end_of_utterance>", END},
    {"<eos>", END},
    {"<turn|>", END},
    {"<|tool_response>", END},
    {"<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     END},
    {"[e~[", END},
    {"<|eot|>", END},
    {"<|eom|>", END},
    {"<|fim_pad|>", PAD_END},
    {"<fim-pad>", PAD_END},
    {"<fim_pad>", PAD_END},
    {"<PAD>", PAD_END},
    {"<|fim_repo|>", REPO_END},
    {"<|repo_name|>", REPO_END},
    {"<fim-repo>", REPO_END},
    {"<REPO>", REPO_END},
    {"<reponame>", REPO_END},
    {"<|file_sep|>", FILE_END},
    {"<|channel|>", HARMONY},
    {"<|message|>", HARMONY},
    {"<|start|>", HARMONY},
    {"<|constrain|>", HARMONY},
};
enum { N_MARKERS = sizeof markers / sizeof markers[0], LONGEST_MARKER = 40 };

typedef struct search {
    lp_vocab *vocab;
    int32_t found[N_MARKERS]; /* lowest id with that text, -1 = none */
} search;

static void find_markers(search *s) {
    bool first_byte[256] = {false};
    for (size_t m = 0; m < N_MARKERS; m++) {
        first_byte[(uint8_t)markers[m].text[0]] = true;
        s->found[m] = -1;
    }
    for (uint32_t i = 0; i < s->vocab->tokens.count; i++) {
        lp_str text = lp_text_table_text(&s->vocab->tokens, i);
        if (text.len == 0 || text.len > LONGEST_MARKER) continue;
        if (!first_byte[(uint8_t)text.data[0]]) continue;
        for (size_t m = 0; m < N_MARKERS; m++) {
            if (s->found[m] < 0 && lp_str_is(text, markers[m].text)) s->found[m] = (int32_t)i;
        }
    }
}

static int32_t found(const search *s, const char *text) {
    for (size_t m = 0; m < N_MARKERS; m++) {
        if (strcmp(markers[m].text, text) == 0) return s->found[m];
    }
    return -1;
}

static void set_attr(lp_vocab *vocab, int32_t id, lp_token_attr attr) {
    vocab->flags[id] = (uint8_t)((vocab->flags[id] & ~LP_FLAG_ATTR) | (int)attr);
}

static void make_control(lp_vocab *vocab, int32_t id) {
    if (lp_vocab_attr(vocab, id) != LP_TOKEN_UNKNOWN) set_attr(vocab, id, LP_TOKEN_CONTROL);
}

static void make_end(lp_vocab *vocab, int32_t id) {
    if (id >= 0) vocab->flags[id] |= LP_FLAG_END;
}

/* An end that the file names by id. `named` tells that it does. */
static lp_code end_by_key(lp_vocab *vocab, const lp_gguf *gguf, const char *key, bool *named,
                          lp_error *err) {
    uint32_t id = UINT32_MAX;
    LP_TRY(lp_gguf_get_u32(gguf, lp_str_from(key), &id, err));
    *named = id != UINT32_MAX;
    if (!*named) return LP_OK;
    if (id >= vocab->tokens.count) {
        return lp_fail(err, LP_ERR_FORMAT, "%s is %u, but there are %u tokens", key, id,
                       vocab->tokens.count);
    }
    make_end(vocab, (int32_t)id);
    return LP_OK;
}

static bool is_tag(const lp_vocab *vocab, const char *text, int32_t id) {
    return strcmp(text, "</s>") == 0 && id != vocab->eos &&
           lp_vocab_attr(vocab, id) != LP_TOKEN_CONTROL;
}

static void apply_harmony(search *s) {
    bool harmony = (found(s, "<|return|>") >= 0 && found(s, "<|call|>") >= 0) ||
                   (found(s, "<|calls|>") >= 0 && found(s, "<|flush|>") >= 0);
    if (!harmony) return;
    /* In these models <|end|> closes a message, and the next one follows. */
    int32_t end = found(s, "<|end|>");
    if (end >= 0 && end != s->vocab->eos) s->vocab->flags[end] &= (uint8_t)~LP_FLAG_END;
    for (size_t m = 0; m < N_MARKERS; m++) {
        if (markers[m].role != HARMONY || s->found[m] < 0) continue;
        make_control(s->vocab, s->found[m]);
        s->vocab->flags[s->found[m]] |= LP_FLAG_PRINTED;
    }
}

/* Tokens that swallow the white space beside them; no key says so, only the family's name. */
static lp_code mark_strips(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    lp_str name = {"", 0};
    LP_TRY(lp_gguf_get_str(gguf, lp_str_from("general.name"), &name, err));
    char lower[128];
    size_t n = 0;
    for (; n < name.len && n < sizeof lower; n++) {
        char c = name.data[n];
        lower[n] = c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
    }
    lp_str known = {lower, n};
    bool phi3 = lp_str_find(known, lp_str_from("phi-3"), 0) != SIZE_MAX ||
                lp_str_find(known, lp_str_from("phi3"), 0) != SIZE_MAX;
    for (uint32_t i = 0; phi3 && i < vocab->tokens.count; i++) {
        if (lp_vocab_is_ordinary(vocab, (int32_t)i)) continue;
        lp_str text = lp_text_table_text(&vocab->tokens, i);
        bool keeps = lp_str_is(text, "<unk>") || lp_str_is(text, "<s>") ||
                     lp_str_is(text, "<|endoftext|>") ||
                     lp_vocab_attr(vocab, (int32_t)i) == LP_TOKEN_BYTE;
        if (!keeps) vocab->flags[i] |= LP_FLAG_STRIP;
    }
    return LP_OK;
}

lp_code lp_vocab_mark_ends(lp_vocab *vocab, const lp_gguf *gguf, lp_error *err) {
    search s = {.vocab = vocab};
    bool named[6];
    static const char *const keys[6] = {
        "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",
        "tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.fim_rep_token_id",
        "tokenizer.ggml.fim_sep_token_id", "tokenizer.ggml.eos_token_id"};
    for (size_t i = 0; i < 6; i++) LP_TRY(end_by_key(vocab, gguf, keys[i], &named[i], err));
    make_end(vocab, vocab->eos);
    find_markers(&s);
    for (size_t m = 0; m < N_MARKERS; m++) {
        int32_t id = s.found[m];
        marker_role role = markers[m].role;
        bool applies = role == END || (role == PAD_END && !named[2]) ||
                       (role == REPO_END && !named[3]) || (role == FILE_END && !named[4]);
        if (id < 0 || !applies || is_tag(vocab, markers[m].text, id)) continue;
        make_control(vocab, id);
        make_end(vocab, id);
    }
    apply_harmony(&s);
    return mark_strips(vocab, gguf, err);
}
