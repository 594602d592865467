/* chat.c - a conversation becomes template values, the template's text and spans become ids.
 *
 * What the template sees: messages (role, content, and reasoning_content, name where given),
 * add_generation_prompt, bos_token, eos_token, enable_thinking where given, and the members of
 * extra_json. Texts of messages are untrusted. The names of roles are trusted if they are known
 * ones, since templates build control tokens of them ('<|' + role + '|>').
 *
 * What a template can do is found by rendering small conversations with a marker in them, once,
 * when it is opened.
 * SPDX-License-Identifier: Apache-2.0 */
#include "chat/chat.h"

#include <string.h>

#include "base/memory.h"
#include "chat/fallback.h"
#include "chat/jinja_core.h"

struct lp_template {
    lp_str source; /* borrowed */
    const char *origin;
    lp_jinja *jinja;   /* NULL: broken */
    lp_error broken;   /* why */
    bool merge_system; /* a system message has to move into the first user turn */
    bool parts;        /* content must be a list of parts */
};

static const char *const known_roles[] = {
    "system",  "user",    "assistant",    "tool",     "developer",   "model",  "function",
    "ipython", "chatbot", "tool_results", "document", "context",     "critic", "environment",
    "human",   "gpt",     "bot",          "tools",    "observation", NULL};

static bool known_role(lp_str role) {
    for (size_t i = 0; known_roles[i] != NULL; i++) {
        if (lp_str_is(role, known_roles[i])) return true;
    }
    return false;
}

/* --- values ------------------------------------------------------------------------------- */

static lp_jv role_value(lp_jx *x, lp_str role) {
    return lp_jstr_new(x, role, known_role(role));
}

static lp_jv message_value(lp_jx *x, const lp_message *m) {
    lp_jdict *d = lp_jdict_new(x);
    lp_jdict_put(x, d, "role", role_value(x, m->role));
    lp_jdict_put(x, d, "content", lp_jstr_new(x, m->content, false));
    if (m->reasoning.len > 0) {
        lp_jdict_put(x, d, "reasoning_content", lp_jstr_new(x, m->reasoning, false));
    }
    if (m->name.len > 0) lp_jdict_put(x, d, "name", lp_jstr_new(x, m->name, false));
    return d == NULL ? lp_jv_undefined(NULL) : lp_jv_dict(d);
}

static lp_jv messages_value(lp_jx *x, const lp_render_params *params) {
    lp_jlist *list = lp_jlist_new(x);
    for (size_t i = 0; i < params->n_messages && x->code == LP_OK; i++) {
        lp_jlist_add(x, list, message_value(x, &params->messages[i]));
    }
    return lp_jv_list(list, LP_J_LIST);
}

/* Messages that came as JSON: their known roles become trusted. */
static void trust_roles(lp_jx *x, lp_jv messages) {
    if (messages.type != LP_J_LIST) return;
    for (size_t i = 0; i < messages.u.l->len && x->code == LP_OK; i++) {
        lp_jv m = messages.u.l->items[i];
        if (m.type != LP_J_DICT) continue;
        const lp_jv *role = lp_jdict_find(x, m.u.d, lp_str_from("role"));
        if (role == NULL || role->type != LP_J_STR) continue;
        lp_jdict_put(x, m.u.d, "role", role_value(x, lp_jstr_bytes(role->u.s)));
    }
}

static void add_extra(lp_jx *x, lp_jdict *globals, lp_str extra) {
    if (extra.len == 0) return;
    lp_jv v = lp_jv_from_json(x, extra, false);
    if (x->code != LP_OK) return;
    if (v.type != LP_J_DICT) {
        lp_jx_fail(x, LP_ERR_ARGUMENT, "the extra variables of a template must be a JSON object");
        return;
    }
    for (size_t i = 0; i < v.u.d->len && x->code == LP_OK; i++) {
        lp_jdict_set(x, globals, v.u.d->entries[i].key, v.u.d->entries[i].value);
    }
    const lp_jv *messages = lp_jdict_find(x, globals, lp_str_from("messages"));
    if (messages != NULL) trust_roles(x, *messages);
}

static lp_jdict *build_globals(lp_jx *x, const lp_render_params *params) {
    lp_jdict *globals = lp_jdict_new(x);
    lp_jdict_put(x, globals, "messages", messages_value(x, params));
    lp_jdict_put(x, globals, "add_generation_prompt", lp_jv_bool(params->add_generation_prompt));
    lp_jdict_put(x, globals, "bos_token", lp_jstr_new(x, params->bos_token, true));
    lp_jdict_put(x, globals, "eos_token", lp_jstr_new(x, params->eos_token, true));
    if (params->enable_thinking >= 0) {
        lp_jdict_put(x, globals, "enable_thinking", lp_jv_bool(params->enable_thinking != 0));
    }
    add_extra(x, globals, params->extra_json);
    return x->code == LP_OK ? globals : NULL;
}

/* --- fitting a conversation to the template ----------------------------------------------- */

static const lp_jv *member(lp_jx *x, lp_jv message, const char *key) {
    return message.type == LP_J_DICT ? lp_jdict_find(x, message.u.d, lp_str_from(key)) : NULL;
}

static bool has_role(lp_jx *x, lp_jv message, const char *role) {
    const lp_jv *v = member(x, message, "role");
    return v != NULL && lp_jstr_is(*v, role);
}

/* system S, user U  ->  user "S\n\nU". Without a user turn the system message becomes one. */
static void merge_system(lp_jx *x, lp_jlist *list) {
    if (list->len == 0 || !has_role(x, list->items[0], "system")) return;
    lp_jv first = list->items[0];
    const lp_jv *system = member(x, first, "content");
    size_t at = 1;
    while (at < list->len && !has_role(x, list->items[at], "user")) at++;
    if (at == list->len) {
        lp_jdict_put(x, first.u.d, "role", role_value(x, lp_str_from("user")));
        return;
    }
    const lp_jv *user = member(x, list->items[at], "content");
    if (system == NULL || user == NULL || system->type != LP_J_STR || user->type != LP_J_STR)
        return;
    lp_jbuf b;
    lp_jbuf_init(&b, x);
    lp_jbuf_add_str(&b, system->u.s);
    if (system->u.s->len > 0 && user->u.s->len > 0) lp_jbuf_add_text(&b, "\n\n", false);
    lp_jbuf_add_str(&b, user->u.s);
    lp_jdict_put(x, list->items[at].u.d, "content", lp_jbuf_value(&b));
    memmove(list->items, list->items + 1, (list->len - 1) * sizeof *list->items);
    list->len--;
}

/* "text" -> [{"type": "text", "text": "text"}] */
static void split_parts(lp_jx *x, lp_jlist *list) {
    for (size_t i = 0; i < list->len && x->code == LP_OK; i++) {
        const lp_jv *content = member(x, list->items[i], "content");
        if (content == NULL || content->type != LP_J_STR) continue;
        lp_jdict *part = lp_jdict_new(x);
        lp_jlist *parts = lp_jlist_new(x);
        lp_jdict_put(x, part, "type", lp_jstr_text(x, "text", true));
        lp_jdict_put(x, part, "text", *content);
        if (x->code == LP_OK) lp_jlist_add(x, parts, lp_jv_dict(part));
        lp_jdict_put(x, list->items[i].u.d, "content", lp_jv_list(parts, LP_J_LIST));
    }
}

/* --- rendering ---------------------------------------------------------------------------- */

typedef struct lp_fit {
    bool merge_system, parts;
    uint64_t steps; /* most the run may take */
} lp_fit;

/* The mask becomes sorted spans; text and spans are copied out of the run's arena. */
static lp_code take_result(const lp_jbuf *out, lp_prompt *prompt, lp_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < out->len; i++) {
        bool now = out->mask == NULL ? out->trusted : out->mask[i] != 0;
        bool before = i > 0 && (out->mask == NULL ? out->trusted : out->mask[i - 1] != 0);
        if (now && !before) n++;
    }
    prompt->spans = lp_alloc(n, sizeof *prompt->spans);
    if (prompt->spans == NULL)
        return lp_fail(err, LP_ERR_MEMORY, "not enough memory for the prompt");
    for (size_t i = 0; i < out->len; i++) {
        if (!(out->mask == NULL ? out->trusted : out->mask[i] != 0)) continue;
        bool more = prompt->n_spans > 0 && prompt->spans[prompt->n_spans - 1].end == i;
        if (!more) prompt->spans[prompt->n_spans++].begin = i;
        prompt->spans[prompt->n_spans - 1].end = i + 1;
    }
    lp_buf_add(&prompt->text, out->data, out->len);
    return lp_buf_check(&prompt->text, err);
}

void lp_prompt_init(lp_prompt *prompt) {
    *prompt = (lp_prompt){.n_spans = 0};
    lp_buf_init(&prompt->text, LP_J_TEXT);
}

void lp_prompt_free(lp_prompt *prompt) {
    lp_buf_free(&prompt->text);
    lp_free(prompt->spans);
    lp_prompt_init(prompt);
}

static lp_code render(const lp_template *tmpl, const lp_render_params *params, lp_fit fit,
                      lp_prompt *prompt, lp_error *err) {
    lp_prompt_free(prompt);
    if (tmpl->jinja == NULL) return lp_fail(err, tmpl->broken.code, "%s", tmpl->broken.text);
    lp_jx x = {.err = err, .source = {"", 0}, .now = params->now, .max_steps = fit.steps};
    lp_jbuf out = {.x = &x};
    lp_arena_init(&x.arena, LP_J_ARENA);
    lp_jdict *globals = build_globals(&x, params);
    const lp_jv *messages =
        globals == NULL ? NULL : lp_jdict_find(&x, globals, lp_str_from("messages"));
    if (messages != NULL && messages->type == LP_J_LIST) {
        if (fit.merge_system) merge_system(&x, messages->u.l);
        if (fit.parts) split_parts(&x, messages->u.l);
    }
    lp_code code = x.code;
    if (code == LP_OK) code = lp_jx_run(&x, tmpl->jinja, globals, &out, err);
    if (code == LP_OK) code = take_result(&out, prompt, err);
    lp_arena_free(&x.arena);
    if (code != LP_OK) lp_prompt_free(prompt);
    return code;
}

lp_code lp_template_render(const lp_template *tmpl, const lp_render_params *params,
                           lp_prompt *prompt, lp_error *err) {
    return render(tmpl, params, (lp_fit){false, false, LP_J_STEPS}, prompt, err);
}

lp_code lp_chat_prompt(const lp_template *tmpl, const lp_render_params *params, lp_prompt *prompt,
                       lp_error *err) {
    return render(tmpl, params, (lp_fit){tmpl->merge_system, tmpl->parts, LP_J_STEPS}, prompt, err);
}

/* --- opening ------------------------------------------------------------------------------ */

static const char marker[] = "Lp7marker";

/* Two short messages need a few hundred; opening a hostile template must not take long. */
enum { TRIAL_STEPS = 50000 };

/* Whether the marker comes out, as a system's (system = true) or a user's text. */
static lp_code tries(const lp_template *tmpl, bool system, bool parts, bool *out, lp_error *err) {
    lp_message messages[2] = {
        {.role = lp_str_from("system"), .content = lp_str_from(marker)},
        {.role = lp_str_from("user"), .content = lp_str_from(system ? "x" : marker)}};
    lp_render_params params = {.messages = system ? messages : messages + 1,
                               .n_messages = system ? 2 : 1,
                               .add_generation_prompt = true,
                               .bos_token = lp_str_from("<s>"),
                               .eos_token = lp_str_from("</s>"),
                               .enable_thinking = -1};
    lp_prompt prompt;
    lp_error ignored = {0};
    lp_prompt_init(&prompt);
    lp_code code = render(tmpl, &params, (lp_fit){false, parts, TRIAL_STEPS}, &prompt, &ignored);
    *out =
        code == LP_OK && lp_str_find(lp_buf_str(&prompt.text), lp_str_from(marker), 0) != SIZE_MAX;
    lp_prompt_free(&prompt);
    return code == LP_ERR_MEMORY ? lp_fail(err, code, "%s", ignored.text) : LP_OK;
}

static lp_code find_abilities(lp_template *tmpl, lp_error *err) {
    bool text = false, parts = false, system = false;
    LP_TRY(tries(tmpl, false, false, &text, err));
    if (!text) LP_TRY(tries(tmpl, false, true, &parts, err));
    if (!text && !parts) return LP_OK; /* needs more than messages: leave the conversation alone */
    LP_TRY(tries(tmpl, true, parts, &system, err));
    tmpl->parts = parts;
    tmpl->merge_system = !system;
    return LP_OK;
}

static lp_code open_template(lp_template **out, lp_str source, const char *origin, bool lenient,
                             lp_error *err) {
    *out = NULL;
    lp_template *tmpl = lp_alloc(1, sizeof *tmpl);
    if (tmpl == NULL) return lp_fail(err, LP_ERR_MEMORY, "not enough memory for the template");
    tmpl->source = source;
    tmpl->origin = origin;
    lp_code code = lp_jinja_open(&tmpl->jinja, source, &tmpl->broken);
    bool later = lenient && code != LP_OK && code != LP_ERR_MEMORY;
    if (code != LP_OK && !later) lp_fail(err, code, "%s", tmpl->broken.text);
    if (code == LP_OK) code = find_abilities(tmpl, err);
    if (code != LP_OK && !later) {
        lp_template_close(tmpl);
        return code;
    }
    *out = tmpl;
    return LP_OK;
}

lp_code lp_template_open(lp_template **out, lp_str source, lp_error *err) {
    return open_template(out, source, "given", false, err);
}

lp_code lp_template_for_model(lp_template **out, const lp_gguf *gguf, const lp_vocab *vocab,
                              lp_error *err) {
    lp_str source = {NULL, 0}, arch = {"", 0};
    *out = NULL;
    LP_TRY(lp_gguf_get_str(gguf, lp_str_from("tokenizer.chat_template"), &source, err));
    if (source.len > 0) return open_template(out, source, "model", true, err);
    LP_TRY(lp_gguf_get_str(gguf, lp_str_from("general.architecture"), &arch, err));
    const lp_fallback *fallback = lp_fallback_for(vocab, arch);
    return open_template(out, (lp_str){fallback->source, fallback->len}, fallback->name, false,
                         err);
}

void lp_template_close(lp_template *tmpl) {
    if (tmpl == NULL) return;
    lp_jinja_close(tmpl->jinja);
    lp_free(tmpl);
}

lp_str lp_template_source(const lp_template *tmpl) {
    return tmpl->source;
}
const char *lp_template_origin(const lp_template *tmpl) {
    return tmpl->origin;
}

/* --- ids ---------------------------------------------------------------------------------- */

static lp_str vocab_text(const lp_vocab *vocab, int32_t id) {
    return id < 0 ? (lp_str){"", 0} : lp_vocab_text(vocab, id);
}

/* An EOS that the template wrote at the end gives way to the one that tokenizing adds. */
static void drop_eos(lp_prompt *prompt, lp_str eos) {
    size_t len = prompt->text.len;
    if (eos.len == 0 || prompt->n_spans == 0 || !lp_str_ends(lp_buf_str(&prompt->text), eos))
        return;
    lp_span *last = &prompt->spans[prompt->n_spans - 1];
    if (last->end != len || last->end - last->begin < eos.len) return;
    prompt->text.len = len - eos.len;
    prompt->text.data[prompt->text.len] = 0;
    last->end = prompt->text.len;
    if (last->begin == last->end) prompt->n_spans--;
}

lp_code lp_chat_prompt_ids(const lp_template *tmpl, const lp_vocab *vocab,
                           const lp_render_params *params, lp_ids *ids, lp_error *err) {
    lp_render_params filled = *params;
    int32_t eos = lp_vocab_eos(vocab);
    if (filled.bos_token.len == 0) filled.bos_token = vocab_text(vocab, lp_vocab_bos(vocab));
    if (filled.eos_token.len == 0) filled.eos_token = vocab_text(vocab, eos);
    lp_prompt prompt;
    lp_prompt_init(&prompt);
    lp_code code = lp_chat_prompt(tmpl, &filled, &prompt, err);
    if (code == LP_OK) {
        if (lp_vocab_adds_eos(vocab)) drop_eos(&prompt, filled.eos_token);
        code = lp_tokenize(vocab, lp_buf_str(&prompt.text), prompt.spans, prompt.n_spans, true, ids,
                           err);
    }
    lp_prompt_free(&prompt);
    if (code != LP_OK) return code;
    bool waits = params->add_generation_prompt && lp_vocab_adds_eos(vocab);
    if (waits && ids->len > 0 && ids->data[ids->len - 1] == eos) ids->len--;
    return LP_OK;
}
