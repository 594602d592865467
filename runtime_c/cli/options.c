/* options.c - the tables behind the command line.
 *
 * A row holds everything about an option: its names, where its value goes, its bounds, the commands
 * it belongs to and its help text, so parser and help cannot drift apart.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include <assert.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/draft.h"

typedef enum kind { FLAG, TEXT, LIST, INTEGER, REAL, WORD } kind;

#define ON(command) (1u << (command))

enum {
    WEB = ON(LP_COMMAND_WEB) | ON(LP_COMMAND_SERVE),
    ANSWERS = WEB | ON(LP_COMMAND_ONESHOT) | ON(LP_COMMAND_CHAT),
    RUNS = ANSWERS | ON(LP_COMMAND_BENCH) | ON(LP_COMMAND_PERPLEXITY),
    ALL = ON(LP_COMMAND_COUNT) - 1,
    BENCH = ON(LP_COMMAND_BENCH),
    FIRST = ON(LP_COMMAND_WEB) | ON(LP_COMMAND_ONESHOT) /* before it is known which of the two */
};

typedef struct row {
    const char *short_name, *long_name; /* "-n" or NULL, "--predict" */
    const char *value;                  /* "N"; NULL for a flag */
    kind kind;
    uint32_t commands;
    size_t offset;       /* of the field in lp_options */
    double low, high;    /* bounds of a number */
    size_t count_offset; /* LIST: of the counter */
    size_t count_max;
    const char *words; /* WORD: all that there are, separated by blanks */
    const char *help;
} row;

#define FIELD(name)                      offsetof(lp_options, name)
#define FLAG_ROW(s, l, c, f, h)          {s, l, NULL, FLAG, c, FIELD(f), 0, 0, 0, 0, NULL, h}
#define TEXT_ROW(s, l, v, c, f, h)       {s, l, v, TEXT, c, FIELD(f), 0, 0, 0, 0, NULL, h}
#define INT_ROW(s, l, c, f, lo, hi, h)   {s, l, "N", INTEGER, c, FIELD(f), lo, hi, 0, 0, NULL, h}
#define REAL_ROW(s, l, c, f, lo, hi, h)  {s, l, "X", REAL, c, FIELD(f), lo, hi, 0, 0, NULL, h}
#define LIST_ROW(s, l, v, c, f, n, m, h) {s, l, v, LIST, c, FIELD(f), 0, 0, FIELD(n), m, NULL, h}
#define WORD_ROW(s, l, v, c, f, w, h)    {s, l, v, WORD, c, FIELD(f), 0, 0, 0, 0, w, h}

static_assert(LP_DRAFT_MOST == 64, "the bound of --draft");

/* Bounds are written as numbers: builder/llamapack/default_args.py reads the rows, too. */
static const row rows[] = {
    TEXT_ROW("-p", "--prompt", "TEXT", FIRST, prompt,
             "answer TEXT once on standard output and end"),
    TEXT_ROW("-f", "--file", "FILE", FIRST | ON(LP_COMMAND_TOKENIZE), prompt_file,
             "take the text from FILE (- = standard input)"),
    INT_ROW("-p", "--prompt-tokens", BENCH, bench_prompt, 0, 1e6, "prompt tokens (512)"),
    INT_ROW("-n", "--predict", BENCH, bench_predict, 0, 1e6, "tokens to generate (128)"),
    INT_ROW("-d", "--depth", BENCH, bench_depth, 0, 1e6,
            "tokens in the context before what is measured (0)"),
    INT_ROW("-r", "--repeat", BENCH, bench_repeat, 1, 1000, "repetitions (3)"),
    INT_ROW("-n", "--predict", ANSWERS, n_predict, 0, 1e9,
            "most tokens of an answer (until it ends)"),
    TEXT_ROW(NULL, "--system", "TEXT", ANSWERS, system_text, "system prompt"),
    FLAG_ROW(NULL, "--raw", FIRST, raw, "no chat template: continue the text as it is"),
    FLAG_ROW(NULL, "--no-thinking", ANSWERS, no_thinking,
             "ask models that can think aloud not to (enable_thinking=false)"),
    FLAG_ROW(NULL, "--no-embedded-kv", ANSWERS, no_embedded_kv,
             "evaluate the system prompt, though it was prepared when this file was built"),
    FLAG_ROW(NULL, "--live-date", ANSWERS, live_date,
             "prompts that print a date print today's, not the build's"),
    TEXT_ROW("-m", "--model", "FILE", ALL & ~(uint32_t)ON(LP_COMMAND_VERIFY), model_file,
             "use these weights (a .gguf or a packed file) instead of the ones inside"),
    INT_ROW("-c", "--ctx-size", RUNS, n_ctx, 0, 1e9,
            "context in tokens (0 = what the model was trained for)"),
    INT_ROW("-t", "--threads", RUNS, n_threads, 1, 1024,
            "threads (the cores this process may use)"),
    REAL_ROW(NULL, "--temp", ANSWERS, temp, 0, 100, "temperature; 0 = always the likeliest (0.8)"),
    INT_ROW(NULL, "--top-k", ANSWERS, top_k, 0, 1e9, "only the N likeliest tokens; 0 = all (40)"),
    REAL_ROW(NULL, "--top-p", ANSWERS, top_p, 0, 1, "likeliest tokens up to this sum (0.95)"),
    REAL_ROW(NULL, "--min-p", ANSWERS, min_p, 0, 1,
             "only tokens with this share of the likeliest one's chance (0.05)"),
    REAL_ROW(NULL, "--repeat-penalty", ANSWERS, repeat_penalty, 0.01, 100,
             "divide the logit of recent tokens (1 = off)"),
    REAL_ROW(NULL, "--presence-penalty", ANSWERS, presence_penalty, -100, 100,
             "subtract from every recent token (0)"),
    REAL_ROW(NULL, "--frequency-penalty", ANSWERS, frequency_penalty, -100, 100,
             "subtract per occurrence (0)"),
    INT_ROW(NULL, "--repeat-last-n", ANSWERS, repeat_last_n, -1, 1e9,
            "how many tokens count as recent; -1 = the context (64)"),
    INT_ROW("-s", "--seed", ANSWERS | BENCH, seed, -1, 9007199254740992.0,
            "same seed, same text; -1 = random"),
    INT_ROW(NULL, "--draft", ANSWERS, draft, 0, 64,
            "tokens to guess ahead from the text so far; 0 = off (16)"),
    LIST_ROW(NULL, "--stop", "TEXT", FIRST | ON(LP_COMMAND_CHAT), stops, n_stops, LP_MAX_STOPS,
             "end the answer before TEXT (may be repeated)"),
    TEXT_ROW(NULL, "--host", "H", WEB, host, "address to listen on (127.0.0.1)"),
    INT_ROW(NULL, "--port", WEB, port, 0, 65535,
            "port to listen on; must be free (default: 8080 or the next free one)"),
    TEXT_ROW(NULL, "--api-key-file", "FILE", WEB, api_key_file,
             "clients must send the key in FILE (needed when others can reach the address)"),
    LIST_ROW(NULL, "--allow-host", "NAME", WEB, allow_hosts, n_allow_hosts, LP_MAX_ALLOW_HOSTS,
             "also answer requests for this host name (may be repeated)"),
    INT_ROW(NULL, "--parallel", WEB, n_parallel, 1, 64, "answers at the same time (2)"),
    FLAG_ROW(NULL, "--no-browser", WEB, no_browser, "do not open the browser"),
    INT_ROW(NULL, "--chunks", ON(LP_COMMAND_PERPLEXITY), chunks, 1, 1e9,
            "only the first N windows of the text"),
    FLAG_ROW(NULL, "--ids", ON(LP_COMMAND_TOKENIZE), ids, "only the ids, separated by blanks"),
    FLAG_ROW(NULL, "--special", ON(LP_COMMAND_TOKENIZE), parse_special,
             "read special tokens in the text as such"),
    FLAG_ROW(NULL, "--bos", ON(LP_COMMAND_TOKENIZE), add_special,
             "add the begin and end tokens that the model asks for"),
    FLAG_ROW(NULL, "--json",
             BENCH | ON(LP_COMMAND_PERPLEXITY) | ON(LP_COMMAND_INFO) | ON(LP_COMMAND_TOKENIZE),
             json, "machine-readable output"),
    WORD_ROW(NULL, "--act", "MODE", RUNS, act, "int8 int16 f32",
             "int8 (fast), int16 or f32 (precise) activations; models below 0.5 billion: int16"),
    WORD_ROW(NULL, "--kv-type", "TYPE", RUNS, kv_type, "f16 f32 q8_0",
             "key-value cache: f16 (default), f32, or q8_0 (half of f16)"),
    TEXT_ROW(NULL, "--cpu", "LEVEL", RUNS | ON(LP_COMMAND_INFO), cpu,
             "instruction set to use (the best one; info lists them)"),
    FLAG_ROW(NULL, "--ignore-memory", RUNS, ignore_memory,
             "start even if the model looks too large for this machine"),
    FLAG_ROW("-h", "--help", ALL, help, "this text"),
    FLAG_ROW(NULL, "--version", ALL, version, "version of the runtime"),
};

enum { N_ROWS = sizeof rows / sizeof rows[0] };
_Static_assert(N_ROWS <= 64, "lp_options.given has 64 bits");

typedef struct command_row {
    const char *name, *operand; /* operand: NULL = none */
    bool operand_needed;
    const char *help;
} command_row;

static const command_row commands[LP_COMMAND_COUNT] = {
    [LP_COMMAND_WEB] = {NULL, NULL, false, "open the chat page in the browser"},
    [LP_COMMAND_ONESHOT] = {NULL, NULL, false, "answer once"},
    [LP_COMMAND_CHAT] = {"chat", NULL, false, "chat in this terminal"},
    [LP_COMMAND_SERVE] = {"serve", NULL, false, "serve the page and an OpenAI-compatible API"},
    [LP_COMMAND_BENCH] = {"bench", NULL, false, "measure prefill and decode speed"},
    [LP_COMMAND_PERPLEXITY] = {"perplexity", "FILE", true, "perplexity of the model on a text"},
    [LP_COMMAND_TOKENIZE] = {"tokenize", "TEXT", false, "show the tokens of a text"},
    [LP_COMMAND_INFO] = {"info", NULL, false, "what is inside, and what this machine offers"},
    [LP_COMMAND_VERIFY] = {"verify", "FILE", false,
                           "check every byte of this file (or of another packed FILE)"},
    [LP_COMMAND_LICENSES] = {"licenses", NULL, false, "print the licences of model and runtime"},
};

void lp_options_init(lp_options *options) {
    *options = (lp_options){.n_ctx = -1,
                            .temp = 0.8,
                            .top_k = 40,
                            .top_p = 0.95,
                            .min_p = 0.05,
                            .repeat_penalty = 1.0,
                            .repeat_last_n = 64,
                            .seed = -1,
                            .draft = LP_DRAFT_DEFAULT,
                            .host = "127.0.0.1",
                            .port = -1,
                            .n_parallel = 2,
                            .bench_prompt = 512,
                            .bench_predict = 128,
                            .bench_repeat = 3};
}

static bool named(const row *r, lp_str name) {
    return (r->short_name != NULL && lp_str_is(name, r->short_name)) ||
           lp_str_is(name, r->long_name);
}

/* The row of `name` for the commands in the mask; NULL if none. */
static const row *find_row(lp_str name, uint32_t mask) {
    for (size_t i = 0; i < N_ROWS; i++) {
        if ((rows[i].commands & mask) != 0 && named(&rows[i], name)) return &rows[i];
    }
    return NULL;
}

/* Whether the text is one of the words; those are added to `list` as "a, b or c". */
static bool is_word(const row *r, lp_str text, lp_buf *list) {
    lp_str words = lp_str_from(r->words), blank = lp_str_from(" ");
    bool found = false;
    for (size_t at = 0; at < words.len;) {
        size_t end = lp_str_find(words, blank, at);
        lp_str word = lp_str_slice(words, at, end);
        bool last = end >= words.len;
        lp_buf_add_text(list, at == 0 ? "" : last ? " or " : ", ");
        lp_buf_add_str(list, word);
        found = found || lp_str_equal(text, word);
        at = last ? words.len : end + 1;
    }
    return found;
}

static lp_code check_word(const row *r, const char *value, lp_error *err) {
    lp_buf list;
    lp_buf_init(&list, 0);
    lp_code code = LP_OK;
    if (!is_word(r, lp_str_from(value), &list)) {
        code = lp_fail(err, LP_ERR_ARGUMENT, "%s is %s, not '%s'", r->long_name,
                       list.data == NULL ? r->words : list.data, value);
    }
    lp_buf_free(&list);
    return code;
}

static lp_code bad_value(const row *r, const char *value, lp_error *err) {
    if (r->kind == INTEGER || r->kind == REAL) {
        return lp_fail(err, LP_ERR_ARGUMENT, "%s takes a %snumber from %.15g to %.15g, not '%s'",
                       r->long_name, r->kind == INTEGER ? "whole " : "", r->low, r->high, value);
    }
    return lp_fail(err, LP_ERR_ARGUMENT, "%s: '%s' is not valid UTF-8", r->long_name, value);
}

static lp_code store(lp_options *options, const row *r, const char *value, lp_error *err) {
    char *field = (char *)options + r->offset;
    lp_str text = lp_str_from(value);
    switch (r->kind) {
    case FLAG:
        *(bool *)field = true;
        break;
    case WORD:
        LP_TRY(check_word(r, value, err));
        *(const char **)(void *)field = value;
        break;
    case TEXT:
        if (!lp_utf8_valid(text)) return bad_value(r, value, err);
        *(const char **)(void *)field = value;
        break;
    case LIST: {
        size_t *count = (size_t *)(void *)((char *)options + r->count_offset);
        if (*count >= r->count_max) {
            return lp_fail(err, LP_ERR_ARGUMENT, "%s can be given at most %zu times", r->long_name,
                           r->count_max);
        }
        if (!lp_utf8_valid(text)) return bad_value(r, value, err);
        ((const char **)(void *)field)[(*count)++] = value;
        break;
    }
    case INTEGER: {
        int64_t number = 0;
        if (!lp_parse_i64(text, &number) || (double)number < r->low || (double)number > r->high) {
            return bad_value(r, value, err);
        }
        *(int64_t *)(void *)field = number;
        break;
    }
    case REAL: {
        double number = 0;
        char with_zero[32]; /* ".5" is how people write it; the parser reads JSON's grammar */
        if (text.len > 0 && text.data[0] == '.' && text.len < sizeof with_zero - 1) {
            with_zero[0] = '0';
            memcpy(with_zero + 1, text.data, text.len);
            text = (lp_str){with_zero, text.len + 1};
        }
        if (!lp_parse_f64(text, &number) || number < r->low || number > r->high) {
            return bad_value(r, value, err);
        }
        *(double *)(void *)field = number;
        break;
    }
    }
    options->given |= (uint64_t)1 << (r - rows);
    return LP_OK;
}

static bool is_option(const char *argument) {
    /* "-" is a file name, "-5" would be a number: only letters begin an option. */
    if (argument[0] != '-' || argument[1] == '\0') return false;
    return argument[1] == '-' || (argument[1] >= 'A' && argument[1] <= 'z');
}

static lp_code unknown_option(const char *argument, uint32_t mask, lp_error *err) {
    lp_str name = lp_str_from(argument);
    if (find_row(lp_str_slice(name, 0, lp_str_find(name, lp_str_from("="), 0)), ~mask) != NULL) {
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "the option %s does not belong to this command (see --help)", argument);
    }
    return lp_fail(err, LP_ERR_ARGUMENT, "unknown option %s (see --help)", argument);
}

/* One option at argv[*at], "--name=value" or "--name value"; moves *at to its last word. */
static lp_code take_option(lp_options *options, int argc, char **argv, int *at, uint32_t mask,
                           lp_error *err) {
    lp_str word = lp_str_from(argv[*at]);
    size_t equals =
        lp_str_starts(word, lp_str_from("--")) ? lp_str_find(word, lp_str_from("="), 0) : SIZE_MAX;
    const row *r = find_row(lp_str_slice(word, 0, equals), mask);
    if (r == NULL) return unknown_option(argv[*at], mask, err);
    if (r->kind == FLAG) {
        if (equals != SIZE_MAX) {
            return lp_fail(err, LP_ERR_ARGUMENT, "%s takes no value", r->long_name);
        }
        return store(options, r, "", err);
    }
    if (equals != SIZE_MAX) return store(options, r, argv[*at] + equals + 1, err);
    if (*at + 1 >= argc) {
        return lp_fail(err, LP_ERR_ARGUMENT, "%s needs a value (%s)", r->long_name, r->value);
    }
    *at += 1;
    return store(options, r, argv[*at], err);
}

static lp_code take_command(lp_options *options, const char *word, lp_error *err) {
    for (int i = 0; i < LP_COMMAND_COUNT; i++) {
        if (commands[i].name != NULL && strcmp(commands[i].name, word) == 0) {
            options->command = (lp_command)i;
            return LP_OK;
        }
    }
    return lp_fail(err, LP_ERR_ARGUMENT,
                   "unknown command '%s' (see --help; a prompt goes after -p)", word);
}

lp_code lp_options_parse(lp_options *options, int argc, char **argv, lp_error *err) {
    bool options_end = false;
    /* The command may stand anywhere, but decides which options there are: find it first. */
    int command_at = 0;
    for (int i = 1; i < argc && command_at == 0; i++) {
        if (is_option(argv[i])) {
            lp_str name = lp_str_from(argv[i]);
            size_t equals = lp_str_find(name, lp_str_from("="), 0);
            const row *r = find_row(lp_str_slice(name, 0, equals), ALL);
            /* What follows would be taken for a command, and the message would be about that. */
            if (r == NULL && strcmp(argv[i], "--") != 0) return unknown_option(argv[i], ALL, err);
            if (r != NULL && r->kind != FLAG && equals == SIZE_MAX) i++;
        } else {
            command_at = i;
            LP_TRY(take_command(options, argv[i], err));
        }
    }
    uint32_t mask = ON(options->command);
    if (options->command == LP_COMMAND_WEB) mask |= FIRST | ANSWERS;
    for (int i = 1; i < argc; i++) {
        if (i == command_at) continue;
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
        } else if (!options_end && is_option(argv[i])) {
            LP_TRY(take_option(options, argc, argv, &i, mask, err));
        } else if (commands[options->command].operand == NULL || options->operand != NULL) {
            return lp_fail(err, LP_ERR_ARGUMENT, "unexpected argument '%s' (see --help)", argv[i]);
        } else {
            options->operand = argv[i];
        }
    }
    if (options->command == LP_COMMAND_WEB &&
        (options->prompt != NULL || options->prompt_file != NULL)) {
        options->command = LP_COMMAND_ONESHOT;
    }
    options->asked = options->given;
    if (commands[options->command].operand_needed && options->operand == NULL && !options->help) {
        return lp_fail(err, LP_ERR_ARGUMENT, "%s needs a %s", commands[options->command].name,
                       commands[options->command].operand);
    }
    return LP_OK;
}

lp_code lp_options_apply_default(lp_options *options, lp_str argument, lp_arena *keep,
                                 lp_error *err) {
    size_t blank = lp_str_find(argument, lp_str_from(" "), 0);
    lp_str name = lp_str_slice(argument, 0, blank);
    const row *any = find_row(name, ALL);
    if (any == NULL) {
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "the default argument '%.*s' inside this file is unknown",
                       (int)(argument.len < 100 ? argument.len : 100), argument.data);
    }
    const row *r = find_row(name, ON(options->command));
    if (r == NULL || (options->asked >> (r - rows) & 1) != 0) return LP_OK;
    lp_str value =
        blank == SIZE_MAX ? lp_str_from("") : lp_str_slice(argument, blank + 1, argument.len);
    char *copy = lp_arena_alloc(keep, 1, value.len + 1);
    if (copy == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the options");
    if (value.len > 0) memcpy(copy, value.data, value.len);
    return store(options, r, copy, err);
}

bool lp_options_given(const lp_options *options, const char *long_name) {
    for (size_t i = 0; i < N_ROWS; i++) {
        if (strcmp(rows[i].long_name, long_name) == 0 && (options->given >> i & 1) != 0)
            return true;
    }
    return false;
}

void lp_options_add_given(lp_buf *out, const lp_options *options) {
    for (size_t i = 0; i < N_ROWS; i++) {
        const row *r = &rows[i];
        const char *field = (const char *)options + r->offset;
        if ((options->given >> i & 1) == 0 || r->offset == FIELD(no_browser) ||
            r->offset == FIELD(port)) {
            continue;
        }
        lp_buf_add_format(out, "%s", r->long_name);
        if (r->kind == INTEGER)
            lp_buf_add_format(out, " %lld", (long long)*(const int64_t *)(const void *)field);
        if (r->kind == REAL) lp_buf_add_format(out, " %.17g", *(const double *)(const void *)field);
        if (r->kind == TEXT || r->kind == WORD)
            lp_buf_add_format(out, " %s", *(const char *const *)(const void *)field);
        if (r->kind == LIST) {
            size_t n = *(const size_t *)(const void *)((const char *)options + r->count_offset);
            for (size_t k = 0; k < n; k++)
                lp_buf_add_format(out, " %s", ((const char *const *)(const void *)field)[k]);
        }
        lp_buf_add_char(out, '\n');
    }
}

static void add_option_help(lp_buf *out, const row *r) {
    lp_buf left;
    lp_buf_init(&left, 0);
    lp_buf_add_format(&left, "  %s%s%s%s%s", r->short_name == NULL ? "" : r->short_name,
                      r->short_name == NULL ? "" : ", ", r->long_name, r->value == NULL ? "" : " ",
                      r->value == NULL ? "" : r->value);
    lp_buf_add_format(out, "%-28s  %s\n", left.data == NULL ? "" : left.data, r->help);
    lp_buf_free(&left);
}

void lp_options_add_help(lp_buf *out, const char *program, lp_command command) {
    uint32_t mask = ON(command);
    if (command == LP_COMMAND_WEB || command == LP_COMMAND_ONESHOT) {
        mask = FIRST | ANSWERS;
        lp_buf_add_format(out,
                          "Usage: %s [options]              open the chat page in the browser\n"
                          "       %s -p TEXT [options]      answer once on standard output\n"
                          "       %s COMMAND [options]\n\nCommands:\n",
                          program, program, program);
        for (int i = LP_COMMAND_CHAT; i < LP_COMMAND_COUNT; i++) {
            lp_buf_add_format(out, "  %-24s  %s\n", commands[i].name, commands[i].help);
        }
    } else {
        const command_row *c = &commands[command];
        lp_buf_add_format(out, "Usage: %s %s%s%s [options]\n\n%s\n", program, c->name,
                          c->operand == NULL ? "" : " ", c->operand == NULL ? "" : c->operand,
                          c->help);
    }
    lp_buf_add_text(out, "\nOptions:\n");
    for (size_t i = 0; i < N_ROWS; i++) {
        if ((rows[i].commands & mask) != 0) add_option_help(out, &rows[i]);
    }
    if (command == LP_COMMAND_WEB) {
        lp_buf_add_text(out,
                        "\nQuit with Ctrl-C or in the page; started without a terminal it also "
                        "ends 10 minutes\nafter the last page was closed. Started a second "
                        "time it opens the page of the first.\n");
    }
}
