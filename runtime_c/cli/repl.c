/* repl.c - `chat`: a conversation in the terminal.
 *
 * Commands are rows of a table, their help text included. Ctrl-C stops the answer that is being
 * written; the program ends with /exit, Ctrl-D or the end of its input.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/print.h"
#include "cli/prompt.h"
#include "platform/process.h"
#include "platform/terminal.h"
#include "platform/thread.h"

typedef struct chat {
    lp_app *app;
    lp_conversation conversation;
    lp_asker *asker;
    lp_job_stats stats; /* of the last answer */
    bool any_answer, leaving;
    /* while an answer is written */
    bool shows_thinking, ends_line;
    size_t thinking_bytes;
    double thinking_began;
} chat;

/* ---- commands */

typedef lp_code (*slash_function)(chat *c, lp_str argument, lp_error *err);

typedef struct slash_row {
    const char *name, *argument, *help;
    slash_function run;
} slash_row;

static lp_code show_help(chat *c, lp_str argument, lp_error *err);

static lp_code clear_chat(chat *c, lp_str argument, lp_error *err) {
    (void)argument;
    (void)err;
    bool has_system = c->conversation.n > 0 && strcmp(c->conversation.turns[0].role, "system") == 0;
    lp_conversation_cut(&c->conversation, has_system ? 1 : 0);
    (void)lp_print_format("The conversation is empty again.\n");
    return LP_OK;
}

static lp_code set_system(chat *c, lp_str argument, lp_error *err) {
    if (argument.len == 0) {
        bool set = c->conversation.n > 0 && strcmp(c->conversation.turns[0].role, "system") == 0;
        (void)lp_print_text(set ? lp_buf_str(&c->conversation.turns[0].content)
                                : lp_str_from("There is no system prompt."));
        (void)lp_print_text(lp_str_from("\n"));
        return LP_OK;
    }
    if (lp_str_is(argument, "-")) argument = lp_str_from("");
    LP_TRY(lp_conversation_set_system(&c->conversation, argument, err));
    (void)lp_print_format(argument.len == 0 ? "No system prompt from now on.\n"
                                            : "The system prompt is set.\n");
    return LP_OK;
}

static double rate(size_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

static lp_code show_stats(chat *c, lp_str argument, lp_error *err) {
    (void)argument;
    (void)err;
    const lp_job_stats *s = &c->stats;
    size_t used = lp_engine_length(c->app->engine, 0);
    (void)lp_print_format("context   %zu of %zu tokens in use\n", used,
                          lp_engine_n_ctx(c->app->engine));
    if (!c->any_answer) return LP_OK;
    size_t read = s->prompt_tokens - s->cached_tokens;
    (void)lp_print_format("prompt    %zu tokens, %zu of them from the cache, %.1f tokens/s\n",
                          s->prompt_tokens, s->cached_tokens, rate(read, s->prompt_seconds));
    (void)lp_print_format("answer    %zu tokens, %.1f tokens/s, the first after %.2f s\n",
                          s->answer_tokens, rate(s->answer_tokens, s->answer_seconds),
                          s->first_token_seconds);
    if (s->drafted_tokens > 0)
        (void)lp_print_format("lookup    %zu tokens guessed from the text, %zu of them right\n",
                              s->drafted_tokens, s->accepted_tokens);
    return LP_OK;
}

/* Takes back the last question and its answer. */
static lp_code undo(chat *c, lp_str argument, lp_error *err) {
    (void)argument;
    (void)err;
    size_t n = c->conversation.n;
    while (n > 0 && strcmp(c->conversation.turns[n - 1].role, "user") != 0) n--;
    if (n == 0) {
        (void)lp_print_format("There is nothing to take back.\n");
        return LP_OK;
    }
    lp_conversation_cut(&c->conversation, n - 1);
    (void)lp_print_format("The last question and its answer are taken back.\n");
    return LP_OK;
}

static lp_code show_thinking(chat *c, lp_str argument, lp_error *err) {
    (void)argument;
    (void)err;
    const lp_turn *last =
        c->conversation.n == 0 ? NULL : &c->conversation.turns[c->conversation.n - 1];
    bool any = last != NULL && last->thinking.len > 0;
    (void)lp_print_text(any ? lp_buf_str(&last->thinking)
                            : lp_str_from("The last answer came without thinking aloud."));
    (void)lp_print_text(lp_str_from("\n"));
    return LP_OK;
}

static lp_code leave(chat *c, lp_str argument, lp_error *err) {
    (void)argument;
    (void)err;
    c->leaving = true;
    return LP_OK;
}

static const slash_row slashes[] = {
    {"/help", "", "this list", show_help},
    {"/clear", "", "begin a new conversation", clear_chat},
    {"/system", "[TEXT|-]", "show, set or (-) remove the system prompt", set_system},
    {"/stats", "", "context in use and speed of the last answer", show_stats},
    {"/undo", "", "take back the last question and its answer", undo},
    {"/think", "", "show what the model thought before the last answer", show_thinking},
    {"/exit", "", "leave (also /quit, Ctrl-D)", leave},
    {"/quit", NULL, NULL, leave},
};

enum { N_SLASHES = sizeof slashes / sizeof slashes[0] };

static lp_code show_help(chat *c, lp_str argument, lp_error *err) {
    (void)c;
    (void)argument;
    (void)err;
    for (size_t i = 0; i < N_SLASHES; i++) {
        if (slashes[i].help == NULL) continue;
        (void)lp_print_format("%-8s %-9s %s\n", slashes[i].name, slashes[i].argument,
                              slashes[i].help);
    }
    (void)lp_print_format(
        "Enter sends; Alt-Enter, Ctrl-J or a \\ at the end begin a new line. Ctrl-C stops "
        "an answer.\n");
    return LP_OK;
}

static lp_code run_slash(chat *c, lp_str text, lp_error *err) {
    size_t blank = lp_str_find(text, lp_str_from(" "), 0);
    lp_str name = lp_str_slice(text, 0, blank);
    lp_str argument = blank == SIZE_MAX ? lp_str_from("") : lp_str_slice(text, blank + 1, text.len);
    for (size_t i = 0; i < N_SLASHES; i++) {
        if (lp_str_is(name, slashes[i].name)) return slashes[i].run(c, argument, err);
    }
    (void)lp_print_format("There is no command %.*s; /help lists them.\n",
                          (int)(name.len < 40 ? name.len : 40), name.data);
    return LP_OK;
}

/* ---- answers */

static void fold_thinking(chat *c) {
    if (!c->shows_thinking) return;
    c->shows_thinking = false;
    (void)lp_print_raw("\r\x1b[K");
    (void)lp_print_raw(lp_style_code(LP_STYLE_DIM));
    (void)lp_print_format("thought for %.1f s (/think shows it)",
                          lp_clock_seconds() - c->thinking_began);
    (void)lp_print_raw(lp_style_code(LP_STYLE_NONE));
    (void)lp_print_raw("\n");
}

static bool on_text(void *user, bool is_thinking, lp_str text) {
    chat *c = user;
    if (!is_thinking) {
        fold_thinking(c);
        c->ends_line = lp_str_ends(text, lp_str_from("\n"));
        return lp_print_text(text);
    }
    if (!lp_terminal_colors(1)) return true;
    if (!c->shows_thinking) c->thinking_began = lp_clock_seconds();
    c->shows_thinking = true;
    c->thinking_bytes += text.len;
    (void)lp_print_raw("\r\x1b[K");
    (void)lp_print_raw(lp_style_code(LP_STYLE_DIM));
    (void)lp_print_format("thinking ... %zu", c->thinking_bytes);
    return lp_print_raw(lp_style_code(LP_STYLE_NONE));
}

static lp_code generate(chat *c, lp_answer *answer, lp_error *err) {
    lp_message *messages = NULL;
    lp_ids ids = {0};
    bool thinking_open = false;
    LP_TRY(lp_conversation_messages(&c->conversation, &messages, err));
    lp_code code = lp_answer_prompt(c->app, messages, c->conversation.n, &ids, &thinking_open, err);
    lp_free(messages);
    if (code == LP_OK) {
        lp_answer_params params = {.ids = ids.data,
                                   .n_ids = ids.len,
                                   .thinking_open = thinking_open,
                                   .split_thinking = true,
                                   .on_text = on_text,
                                   .user = c};
        c->shows_thinking = false;
        c->thinking_bytes = 0;
        c->ends_line = false;
        code = lp_answer_run(c->app, &params, answer, err);
        fold_thinking(c);
    }
    lp_ids_free(&ids);
    return code;
}

static lp_code reply(chat *c, lp_str text, lp_error *err) {
    LP_TRY(lp_conversation_add(&c->conversation, "user", text, lp_str_from(""), err));
    lp_answer answer = {0};
    lp_code code = generate(c, &answer, err);
    if (code == LP_OK) {
        c->stats = answer.stats;
        c->any_answer = true;
        if (!c->ends_line) (void)lp_print_text(lp_str_from("\n"));
        const char *remark = lp_answer_remark(c->app, &answer);
        if (remark != NULL) lp_print_note("%s", remark);
        code = lp_conversation_add(&c->conversation, "assistant", lp_buf_str(&answer.text),
                                   lp_buf_str(&answer.thinking), err);
    } else {
        /* The question did not make it; what was said before stays. */
        lp_conversation_cut(&c->conversation, c->conversation.n - 1);
    }
    lp_answer_free(&answer);
    return code;
}

static lp_str trimmed(lp_str text) {
    size_t end = text.len;
    while (end > 0 && strchr(" \t\r\n", text.data[end - 1]) != NULL) end--;
    return lp_str_slice(text, 0, end);
}

static lp_code converse(chat *c, lp_error *err) {
    LP_TRY(lp_conversation_set_system(&c->conversation, lp_app_system(c->app), err));
    bool terminal = lp_terminal_is(0) && lp_terminal_is(1);
    if (terminal)
        (void)lp_print_format("%s. /help lists what can be done here.\n\n", lp_app_name(c->app));
    while (!c->leaving) {
        lp_str text;
        bool interrupted = false;
        if (!lp_asker_ask(c->asker, &text, &interrupted)) break;
        text = trimmed(text);
        if (interrupted) (void)lp_print_format("(/exit or Ctrl-D to leave)\n");
        if (text.len == 0) continue;
        lp_error problem = {0};
        bool command = text.data[0] == '/' && lp_str_find(text, lp_str_from("\n"), 0) == SIZE_MAX;
        lp_code code = command ? run_slash(c, text, &problem) : reply(c, text, &problem);
        if (code == LP_ERR_MEMORY) return lp_fail(err, code, "%s", problem.text);
        if (code == LP_ERR_FULL) {
            lp_print_note("%s; /undo, /clear or a start with a larger -c makes room", problem.text);
        } else if (code != LP_OK) {
            lp_print_error(&problem);
        }
        if (terminal) (void)lp_print_text(lp_str_from("\n"));
    }
    return LP_OK;
}

static void on_signal(void *user, bool terminate) {
    const lp_asker *asker = user;
    if (terminate) {
        (void)lp_terminal_raw(false);
        _Exit(143);
    }
    /* At a prompt that reads keys Ctrl-C is one of them, and between two prompts it must not end
     * the program. Where lines are read it is only this signal: without an answer it means the
     * program. */
    if (!lp_answer_running() && asker != NULL && !lp_asker_reads_keys(asker)) _Exit(130);
    lp_answer_interrupt();
}

lp_code lp_command_chat(lp_app *app, lp_error *err) {
    LP_TRY(lp_app_open_scheduler(app, err));
    chat c = {.app = app, .asker = lp_asker_new()};
    if (c.asker == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory");
    lp_signal_install(on_signal, c.asker);
    lp_code code = converse(&c, err);
    lp_signal_install(on_signal, NULL);
    lp_asker_free(c.asker);
    lp_conversation_free(&c.conversation);
    return code;
}
