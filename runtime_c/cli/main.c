/* main.c - from the command line to one command's function and an exit status.
 *
 * Exit status: 0 done, 1 failed (one line "error: ..." on standard error), 2 the command line was
 * wrong, 70 a mapped file went away under us, 130 ended by Ctrl-C.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/launch.h"
#include "cli/print.h"
#include "platform/process.h"
#include "platform/terminal.h"

typedef lp_code (*command_function)(lp_app *app, lp_error *err);

static const command_function functions[LP_COMMAND_COUNT] = {
    [LP_COMMAND_WEB] = lp_command_serve,         [LP_COMMAND_ONESHOT] = lp_command_oneshot,
    [LP_COMMAND_CHAT] = lp_command_chat,         [LP_COMMAND_SERVE] = lp_command_serve,
    [LP_COMMAND_BENCH] = lp_command_bench,       [LP_COMMAND_PERPLEXITY] = lp_command_perplexity,
    [LP_COMMAND_TOKENIZE] = lp_command_tokenize, [LP_COMMAND_INFO] = lp_command_info,
    [LP_COMMAND_VERIFY] = lp_command_verify,     [LP_COMMAND_LICENSES] = lp_command_licenses,
};

static atomic_int interrupts;

/* Ctrl-C stops a running answer; without one, or the second time, it ends the program. The server
 * and the chat install their own. */
static void on_signal(void *user, bool terminate) {
    (void)user;
    if (terminate || atomic_fetch_add(&interrupts, 1) > 0 || !lp_answer_running()) _Exit(130);
    lp_answer_interrupt();
}

static int show_text(const lp_app *app) {
    lp_buf text;
    lp_buf_init(&text, 0);
    if (app->options.version) {
        lp_buf_add_text(&text, "llamapack runtime " LP_VERSION "\n");
    } else {
        lp_options_add_help(&text, app->program, app->options.command);
    }
    bool ok = lp_print_text(lp_buf_str(&text));
    lp_buf_free(&text);
    return ok ? 0 : 1;
}

/* Everything the user named is open by now; what comes next parses it. The server confines itself
 * once it listens, and verify opens its operand first and parses nothing of a model. */
static void confine(lp_app *app) {
    lp_command command = app->options.command;
    if (command == LP_COMMAND_WEB || command == LP_COMMAND_SERVE || command == LP_COMMAND_VERIFY) {
        return;
    }
    if (command == LP_COMMAND_CHAT) { /* the history's directory must exist to stay reachable */
        lp_buf path;
        lp_buf_init(&path, 0);
        (void)!lp_state_directory(&path, NULL);
        lp_buf_free(&path);
    }
    app->sandbox = lp_confine();
}

/* A window that opened for this program closes with it: not before its text was read. A command
 * that the user ends from inside leaves nothing to read, but for an error. */
static void hold_window(const lp_app *app, int status) {
    lp_command command = app->options.command;
    bool ended_inside =
        command == LP_COMMAND_WEB || command == LP_COMMAND_SERVE || command == LP_COMMAND_CHAT;
    bool shows = !ended_inside || app->options.help || app->options.version || app->must_be_read;
    if (!lp_process_owns_console() || status == 130 || !(shows || status != 0)) return;
    lp_signal_install(on_signal, NULL); /* so that closing the window ends the wait */
    bool keys = lp_terminal_raw(true);
    lp_print_status("\nPress %s to close this window.", keys ? "a key" : "Enter");
    char input[64];
    while (lp_terminal_read(input, sizeof input, -1) == 0) continue;
    lp_terminal_restore();
}

static int run(lp_app *app, int argc, char **argv) {
    lp_error err = {0};
    lp_code code = lp_app_start(app, argc, argv, &err);
    if (code == LP_OK && (app->options.help || app->options.version)) return show_text(app);
    if (code == LP_OK) confine(app);
    if (code == LP_OK) code = functions[app->options.command](app, &err);
    if (code == LP_OK) return atomic_load(&interrupts) > 0 ? 130 : 0;
    lp_print_error(&err);
    /* A double-click that fails must not look like nothing at all. */
    const lp_options *o = &app->options;
    bool page = o->command == LP_COMMAND_WEB && o->prompt == NULL && o->prompt_file == NULL;
    bool seen = lp_terminal_is(0) || lp_terminal_is(1) || lp_terminal_is(2);
    if (page && !seen && (argc <= 1 || code != LP_ERR_ARGUMENT)) lp_alert(err.text);
    return code == LP_ERR_ARGUMENT ? 2 : 1;
}

int main(int argc, char **argv) {
    if (lp_launch_is_probe(argc, argv)) return 0;
    if (!lp_process_ensure_stack()) return 1;
    lp_error err = {0};
    lp_terminal_prepare();
    (void)lp_process_owns_console();
    if (lp_process_arguments(&argc, &argv, &err) != LP_OK) {
        lp_print_error(&err);
        return 2;
    }
    lp_map_guard_install();
    lp_signal_install(on_signal, NULL);
    static lp_app app;
    int status = run(&app, argc, argv);
    if (lp_terminal_output_problem() != NULL) {
        (void)lp_fail(&err, LP_ERR_IO, "cannot write to standard output: %s",
                      lp_terminal_output_problem());
        lp_print_error(&err);
        status = 1;
    }
    hold_window(&app, status);
    lp_app_close(&app);
    return status;
}
