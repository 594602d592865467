/* options.h - the command line: one table of options, one of commands; the help text is in the
 * rows.
 *
 * The user's own arguments are parsed first; defaults baked into the file fill in what was not
 * given. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_OPTIONS_H
#define LP_CLI_OPTIONS_H

#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"

enum { LP_MAX_STOPS = 16, LP_MAX_ALLOW_HOSTS = 16 };

typedef enum lp_command {
    LP_COMMAND_WEB = 0, /* none given: the server, and the browser opens */
    LP_COMMAND_ONESHOT, /* none given, but -p or -f */
    LP_COMMAND_CHAT,
    LP_COMMAND_SERVE,
    LP_COMMAND_BENCH,
    LP_COMMAND_PERPLEXITY,
    LP_COMMAND_TOKENIZE,
    LP_COMMAND_INFO,
    LP_COMMAND_VERIFY,
    LP_COMMAND_LICENSES,
    LP_COMMAND_COUNT
} lp_command;

/* Everything the command line can set. A pointer is borrowed from argv or the manifest; NULL when
 * not given. Numbers start at their defaults (lp_options_init). */
typedef struct lp_options {
    lp_command command;
    bool help, version;
    const char *operand; /* the FILE or TEXT after a command */

    const char *prompt, *prompt_file, *model_file, *system_text;
    const char *stops[LP_MAX_STOPS];
    size_t n_stops;
    bool raw, json, ids, parse_special, add_special, no_thinking, ignore_memory;
    bool no_embedded_kv, live_date;
    int64_t n_predict, n_ctx, n_threads; /* 0 = automatic (n_ctx: -1 automatic, 0 = trained) */
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, repeat_last_n;
    int64_t draft; /* most guessed tokens per step; 0 = no guessing */
    int64_t seed;  /* -1 = random */
    const char *act, *cpu, *kv_type;

    const char *host, *api_key_file;
    const char *allow_hosts[LP_MAX_ALLOW_HOSTS];
    size_t n_allow_hosts;
    int64_t port; /* -1 = 8080 or the next free one */
    int64_t n_parallel;
    bool no_browser;

    int64_t bench_prompt, bench_predict, bench_depth, bench_repeat, chunks;
    uint64_t given; /* bit i: row i of the table was given (see lp_options_given) */
    uint64_t asked; /* the same, by the user and not by the file's defaults */
} lp_options;

void lp_options_init(lp_options *options);

/* Parses argv[1..argc). strict: unknown options are errors; otherwise (baked-in defaults) rows of
 * other commands are skipped. LP_ERR_ARGUMENT names the option. */
lp_code lp_options_parse(lp_options *options, int argc, char **argv, lp_error *err) LP_MUST_USE;

/* Applies one baked-in default, "--flag" or "--flag value", after lp_options_parse. Options that
 * the user gave and those that the command in options->command does not have are skipped; of
 * several for one option the last counts, or all where it is a list. Its value is copied into
 * `keep`. */
lp_code lp_options_apply_default(lp_options *options, lp_str argument, lp_arena *keep,
                                 lp_error *err) LP_MUST_USE;

/* Whether the option with this long name was given by the user or baked in. */
bool lp_options_given(const lp_options *options, const char *long_name);

/* Appends what was given, a line per option in the table's order, but for what does not change the
 * running program (--port, --no-browser). */
void lp_options_add_given(lp_buf *out, const lp_options *options);

/* The help of a command (or of the whole program for LP_COMMAND_WEB). */
void lp_options_add_help(lp_buf *out, const char *program, lp_command command);

#endif
