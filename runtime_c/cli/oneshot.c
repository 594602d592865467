/* oneshot.c - `-p TEXT`: one answer on standard output and nothing else there.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/print.h"

typedef struct printer {
    bool any, ends_line;
    bool unread; /* nobody takes the answer any more: that it was stopped is no news */
} printer;

/* Thinking is not the answer: it stays off standard output. */
static bool print_piece(void *user, bool is_thinking, lp_str text) {
    printer *p = user;
    if (is_thinking) return true;
    p->any = true;
    p->ends_line = lp_str_ends(text, lp_str_from("\n"));
    p->unread = !lp_print_text(text);
    return !p->unread;
}

static lp_code prompt_ids(lp_app *app, lp_ids *ids, bool *thinking_open, lp_error *err) {
    lp_str text = lp_buf_str(&app->prompt);
    if (app->options.raw) {
        return lp_tokenize(app->vocab, text, NULL, 0, true, ids, err);
    }
    lp_message messages[2];
    size_t n = 0;
    lp_str system = lp_app_system(app);
    if (system.len > 0)
        messages[n++] = (lp_message){.role = lp_str_from("system"), .content = system};
    messages[n++] = (lp_message){.role = lp_str_from("user"), .content = text};
    return lp_answer_prompt(app, messages, n, ids, thinking_open, err);
}

lp_code lp_command_oneshot(lp_app *app, lp_error *err) {
    LP_TRY(lp_app_open_scheduler(app, err));
    lp_ids ids = {0};
    bool thinking_open = false;
    lp_code code = prompt_ids(app, &ids, &thinking_open, err);
    if (code == LP_OK && ids.len == 0) {
        code = lp_fail(err, LP_ERR_ARGUMENT, "the prompt has no tokens");
    }
    if (code != LP_OK) {
        lp_ids_free(&ids);
        return code;
    }
    printer p = {0};
    lp_answer_params params = {.ids = ids.data,
                               .n_ids = ids.len,
                               .thinking_open = thinking_open,
                               .split_thinking = !app->options.raw,
                               .on_text = print_piece,
                               .user = &p};
    lp_answer answer;
    code = lp_answer_run(app, &params, &answer, err);
    if (p.any && !p.ends_line) (void)lp_print_text(lp_str_from("\n"));
    const char *remark = lp_answer_remark(app, &answer);
    bool asked_for = answer.finish == LP_FINISH_LENGTH;
    if (code == LP_OK && remark != NULL && !asked_for && !p.unread) lp_print_note("%s", remark);
    lp_answer_free(&answer);
    lp_ids_free(&ids);
    return code;
}
