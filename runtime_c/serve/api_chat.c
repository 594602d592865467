/* api_chat.c - POST /v1/chat/completions: messages to a prompt.
 *
 * Text of messages stays data: the template engine marks what it wrote itself, and only there
 * special tokens can match (chat/chat.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "platform/thread.h"
#include "serve/fields_generate.h"

#include <string.h>

typedef struct message_fields {
    lp_str role, name, reasoning;
    const lp_json_node *content;
} message_fields;

static const lp_field message_table[] = {
    {"role", LP_FIELD_TEXT, offsetof(message_fields, role), 1, 32},
    {"content", LP_FIELD_ANY, offsetof(message_fields, content), 0, 0},
    {"name", LP_FIELD_TEXT, offsetof(message_fields, name), 0, 256},
    {"reasoning_content", LP_FIELD_TEXT, offsetof(message_fields, reasoning), 0, LP_HTTP_BODY_MAX},
    {"tool_calls", LP_FIELD_REFUSED, 0, 0, 0},
    {"function_call", LP_FIELD_REFUSED, 0, 0, 0},
    {"audio", LP_FIELD_REFUSED, 0, 0, 0},
};

typedef struct part_fields {
    lp_str type, text;
} part_fields;
static const lp_field part_table[] = {
    {"type", LP_FIELD_TEXT, offsetof(part_fields, type), 1, 64},
    {"text", LP_FIELD_TEXT, offsetof(part_fields, text), 0, LP_HTTP_BODY_MAX},
};

/* What a prompt is made of; strings live in the document or the arena. */
typedef struct conversation {
    lp_arena arena;
    lp_message *messages;
    size_t n;
    bool system_given;
    lp_buf extra; /* chat_template_kwargs without enable_thinking, as JSON */
    int enable_thinking;
} conversation;

/* ---- messages ------------------------------------------------------------------------------- */

static lp_code read_part(const lp_json_node *node, lp_str *text, lp_error *err) {
    if (lp_json_type_of(node) != LP_JSON_OBJECT)
        return lp_fail(err, LP_ERR_FORMAT, "a part of \"content\" must be an object");
    part_fields part = {{NULL, 0}, {NULL, 0}};
    LP_TRY(lp_fields_read(part_table, 2, node, &part, err));
    if (!lp_str_is(part.type, "text"))
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "content parts of type \"%.*s\" are not supported here", (int)part.type.len,
                       part.type.len > 0 ? part.type.data : "");
    *text = part.text;
    return LP_OK;
}

/* Text parts joined by line breaks, as llama.cpp's server does. */
static lp_code join_parts(conversation *c, const lp_json_node *list, lp_str *out, lp_error *err) {
    size_t total = 0;
    lp_str text;
    for (const lp_json_node *node = lp_json_first(list); node != NULL; node = lp_json_next(node)) {
        LP_TRY(read_part(node, &text, err));
        total += text.len + 1; /* of bytes that came in one body: no overflow */
    }
    char *joined = lp_arena_alloc(&c->arena, total + 1, 1);
    if (joined == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the messages");
    size_t n = 0;
    for (const lp_json_node *node = lp_json_first(list); node != NULL; node = lp_json_next(node)) {
        LP_TRY(read_part(node, &text, err));
        if (n > 0) joined[n++] = '\n';
        if (text.len > 0) memcpy(joined + n, text.data, text.len);
        n += text.len;
    }
    *out = (lp_str){joined, n};
    return LP_OK;
}

static lp_code read_content(conversation *c, const message_fields *f, lp_str *out, lp_error *err) {
    *out = lp_str_from("");
    if (f->content == NULL) {
        if (lp_str_is(f->role, "assistant")) return LP_OK;
        return lp_fail(err, LP_ERR_FORMAT, "a message has no \"content\"");
    }
    switch (lp_json_type_of(f->content)) {
    case LP_JSON_STRING:
        *out = lp_json_string(f->content);
        return LP_OK;
    case LP_JSON_ARRAY:
        return join_parts(c, f->content, out, err);
    default:
        return lp_fail(err, LP_ERR_FORMAT,
                       "\"content\" must be a string or an array of text parts");
    }
}

static bool known_role(lp_str role) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (size_t i = 0; i < 4; i++)
        if (lp_str_is(role, roles[i])) return true;
    return false;
}

static lp_code read_message(conversation *c, const lp_json_node *node, lp_error *err) {
    if (lp_json_type_of(node) != LP_JSON_OBJECT)
        return lp_fail(err, LP_ERR_FORMAT, "a message must be an object");
    message_fields f;
    memset(&f, 0, sizeof f);
    LP_TRY(lp_fields_read(message_table, sizeof message_table / sizeof message_table[0], node, &f,
                          err));
    if (lp_str_is(f.role, "developer")) f.role = lp_str_from("system");
    if (!known_role(f.role))
        return lp_fail(err, LP_ERR_FORMAT,
                       "\"role\" must be system, developer, user, assistant or tool");
    lp_message *m = &c->messages[c->n];
    *m = (lp_message){.role = f.role, .reasoning = f.reasoning, .name = f.name};
    LP_TRY(read_content(c, &f, &m->content, err));
    bool system = lp_str_is(m->role, "system");
    c->system_given = c->system_given || system;
    /* An empty system message says "none", which for a template is to leave it out. */
    if (!system || m->content.len > 0) c->n++;
    return LP_OK;
}

static lp_code read_messages(conversation *c, const lp_json_node *list, lp_str system,
                             lp_error *err) {
    if (list == NULL) return lp_fail(err, LP_ERR_FORMAT, "\"messages\" is missing");
    c->messages = lp_arena_alloc(&c->arena, lp_json_count(list) + 1, sizeof *c->messages);
    if (c->messages == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the messages");
    c->messages++; /* room for a system message in front */
    size_t index = 0;
    for (const lp_json_node *node = lp_json_first(list); node != NULL;
         node = lp_json_next(node), index++) {
        if (read_message(c, node, err) == LP_OK) continue;
        lp_buf prefix;
        lp_buf_init(&prefix, 64);
        lp_buf_add_format(&prefix, "messages[%zu]", index);
        if (!prefix.failed) lp_error_prefix(err, prefix.data);
        lp_buf_free(&prefix);
        return err->code;
    }
    if (!c->system_given && system.len > 0) {
        c->messages--;
        c->n++;
        c->messages[0] = (lp_message){.role = lp_str_from("system"), .content = system};
    }
    if (c->n == 0) return lp_fail(err, LP_ERR_FORMAT, "\"messages\" holds nothing to answer");
    return LP_OK;
}

/* ---- template variables ---------------------------------------------------------------------- */

static bool is_reserved(lp_str name) {
    static const char *const names[] = {
        "messages", "bos_token", "eos_token", "add_generation_prompt", "tools", "documents"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (lp_str_is(name, names[i])) return true;
    return false;
}

static bool add_scalar(lp_buf *out, const lp_json_node *value) {
    switch (lp_json_type_of(value)) {
    case LP_JSON_NULL:
        lp_buf_add_text(out, "null");
        return true;
    case LP_JSON_BOOL:
        lp_buf_add_text(out, lp_json_bool(value) ? "true" : "false");
        return true;
    case LP_JSON_NUMBER:
        lp_json_add_number(out, lp_json_number(value));
        return true;
    case LP_JSON_STRING:
        lp_json_add_string(out, lp_json_string(value));
        return true;
    default:
        return false;
    }
}

static lp_code read_kwargs(conversation *c, const lp_json_node *object, lp_error *err) {
    c->enable_thinking = -1;
    if (object == NULL) return LP_OK;
    if (lp_json_count(object) > 32)
        return lp_fail(err, LP_ERR_LIMIT, "\"chat_template_kwargs\" may have 32 members");
    lp_buf_add_char(&c->extra, '{');
    for (const lp_json_node *member = lp_json_first(object); member != NULL;
         member = lp_json_next(member)) {
        lp_str key = lp_json_key(member);
        if (lp_str_is(key, "enable_thinking")) {
            if (lp_json_type_of(member) != LP_JSON_BOOL)
                return lp_fail(err, LP_ERR_FORMAT, "\"enable_thinking\" must be true or false");
            c->enable_thinking = lp_json_bool(member) ? 1 : 0;
            continue;
        }
        if (is_reserved(key))
            return lp_fail(err, LP_ERR_UNSUPPORTED,
                           "\"%.*s\" cannot be set by \"chat_template_kwargs\"", (int)key.len,
                           key.data);
        if (c->extra.len > 1) lp_buf_add_char(&c->extra, ',');
        lp_json_add_string(&c->extra, key);
        lp_buf_add_char(&c->extra, ':');
        if (!add_scalar(&c->extra, member))
            return lp_fail(err, LP_ERR_UNSUPPORTED,
                           "lists and objects in \"chat_template_kwargs\" are not supported here");
    }
    lp_buf_add_char(&c->extra, '}');
    return lp_buf_check(&c->extra, err);
}

/* ---- the prompt ------------------------------------------------------------------------------ */

static lp_str token_text(const lp_vocab *vocab, int32_t id) {
    return id >= 0 ? lp_vocab_text(vocab, id) : lp_str_from("");
}

/* The end of the prompt as text, to see whether the template has opened a thinking block. */
static bool opens_thinking(const lp_vocab *vocab, const lp_ids *ids) {
    lp_buf tail;
    lp_buf_init(&tail, 65536);
    size_t n = ids->len < 16 ? ids->len : 16;
    for (size_t i = ids->len - n; i < ids->len; i++)
        lp_vocab_add_piece(vocab, ids->data[i], true, &tail);
    bool opened = !tail.failed && lp_reasoning_opened(lp_buf_str(&tail));
    lp_buf_free(&tail);
    return opened;
}

static lp_code make_prompt(conversation *c, lp_work *work, lp_error *err) {
    const lp_server_params *p = work->api->params;
    lp_render_params render = {.messages = c->messages,
                               .n_messages = c->n,
                               .add_generation_prompt = true,
                               .bos_token = token_text(p->vocab, lp_vocab_bos(p->vocab)),
                               .eos_token = token_text(p->vocab, lp_vocab_eos(p->vocab)),
                               .enable_thinking = c->enable_thinking,
                               .now = p->date != NULL ? *p->date : lp_clock_local(),
                               .extra_json =
                                   c->extra.len > 2 ? lp_buf_str(&c->extra) : (lp_str){NULL, 0}};
    lp_generation *g = &work->gen;
    LP_TRY(lp_chat_prompt_ids(p->tmpl, p->vocab, &render, &g->prompt, err));
    if (g->prompt.len == 0) return lp_fail(err, LP_ERR_FORMAT, "the messages give an empty prompt");
    lp_reasoning_init(&g->reasoning, opens_thinking(p->vocab, &g->prompt));
    return LP_OK;
}

static lp_code chat(lp_work *work, const lp_json *json, lp_error *err) {
    const lp_server_params *p = work->api->params;
    lp_generate_fields f;
    work->gen.chat = true;
    LP_TRY(lp_generate_fields_read(&f, p, lp_json_root(json), err));
    LP_TRY(lp_generate_fields_apply(&f, work, err));
    work->gen.split = !lp_str_is(f.reasoning_format, "none");
    conversation c;
    memset(&c, 0, sizeof c);
    lp_arena_init(&c.arena, 0);
    lp_buf_init(&c.extra, 65536);
    lp_code code = read_messages(&c, f.messages, p->system, err);
    if (code == LP_OK) code = read_kwargs(&c, f.chat_template_kwargs, err);
    if (code == LP_OK) code = make_prompt(&c, work, err);
    lp_buf_free(&c.extra);
    lp_arena_free(&c.arena);
    work->gen.wanted = code == LP_OK;
    return code;
}

lp_code lp_api_chat(lp_work *work, lp_error *err) {
    return lp_api_with_json(work, chat, err);
}
