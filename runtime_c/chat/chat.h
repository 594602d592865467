/* chat.h - messages become a prompt: text with trusted spans, then token ids.
 *
 * The model's own template (tokenizer.chat_template) is run by the engine in jinja.h; a model
 * without one gets the fallback of its family (templates/chat/). What the template wrote is
 * trusted; what came from a message is not, however the template trimmed, cut or joined it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CHAT_CHAT_H
#define LP_CHAT_CHAT_H

#include "base/status.h"
#include "base/text.h"
#include "model/gguf.h"
#include "model/vocab.h"

typedef struct lp_message {
    lp_str role;      /* "system", "user", "assistant", "tool", ...; bounded by the caller */
    lp_str content;   /* UTF-8 */
    lp_str reasoning; /* an earlier answer's thinking, empty if none */
    lp_str name;      /* optional */
} lp_message;

typedef struct lp_template lp_template;

/* source: a Jinja template (borrowed). Errors carry line and column. */
lp_code lp_template_open(lp_template **out, lp_str source, lp_error *err) LP_MUST_USE;
/* The template of a model: tokenizer.chat_template if present (a broken one is an error of the
 * later render, with line and column, never of the load), else a fallback by family. */
lp_code lp_template_for_model(lp_template **out, const lp_gguf *gguf, const lp_vocab *vocab,
                              lp_error *err) LP_MUST_USE;
void lp_template_close(lp_template *tmpl);
lp_str lp_template_source(const lp_template *tmpl);
const char *lp_template_origin(const lp_template *tmpl); /* "model", or the fallback's name */

typedef struct lp_render_params {
    const lp_message *messages;
    size_t n_messages;
    bool add_generation_prompt;
    lp_str bos_token, eos_token; /* texts */
    int enable_thinking;         /* -1 = not given, 0, 1 */
    int64_t now;       /* seconds since 1970 UTC plus the local offset; for strftime_now */
    lp_str extra_json; /* more top-level variables as a JSON object (tools, ...); may be empty */
} lp_render_params;

typedef struct lp_prompt {
    lp_buf text;
    lp_span *spans; /* trusted parts of text, sorted, merged */
    size_t n_spans;
} lp_prompt;
void lp_prompt_init(lp_prompt *prompt);
void lp_prompt_free(lp_prompt *prompt);

/* extra_json may also hold "messages": they then replace the ones above (tool calls and typed
 * content parts come this way). Its strings count as a user's, but for the roles.
 * Text equals what Python's jinja2 (trim_blocks, lstrip_blocks, as transformers sets it up)
 * gives for the same input. Budgets: 1e6 steps, 4 MiB of text, depth 64. */
lp_code lp_template_render(const lp_template *tmpl, const lp_render_params *params,
                           lp_prompt *prompt, lp_error *err) LP_MUST_USE;

/* The same, fitted to what the template can do (tried out when it was opened): a system message
 * that it refuses or ignores moves into the first user turn; text becomes a list of
 * {"type": "text"} parts where only those are understood. */
lp_code lp_chat_prompt(const lp_template *tmpl, const lp_render_params *params, lp_prompt *prompt,
                       lp_error *err) LP_MUST_USE;

/* lp_chat_prompt, tokenized: the ids to give the model, appended to ids. Empty bos_token and
 * eos_token stand for the vocabulary's. BOS is not doubled; a prompt that waits for an answer
 * does not end with an EOS that only the vocabulary's settings added. */
lp_code lp_chat_prompt_ids(const lp_template *tmpl, const lp_vocab *vocab,
                           const lp_render_params *params, lp_ids *ids, lp_error *err) LP_MUST_USE;

#endif
