/* app.c - opens the payload, the model and the engine for a command.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/app.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/bundle.h"
#include "cli/launch.h"
#include "cli/print.h"
#include "cli/system_kv.h"
#include "platform/process.h"
#include "platform/slice.h"
#include "platform/terminal.h"
#include "platform/thread.h"

enum {
    DEFAULT_CTX = 8192,
    LEAST_CTX = 256, /* of the default, however little memory is free */
    MAX_PROMPT_FILE = 64 * 1024 * 1024,
    MAX_API_KEY = 4096,
    ENGINE_ROOM = 64 * 1024 * 1024 /* buffers beside the cache, for the memory check */
};

static const char *last_part(const char *path) {
    const char *name = path;
    for (const char *c = path; *c != '\0'; c++) {
        if ((*c == '/' || *c == '\\') && c[1] != '\0') name = c + 1;
    }
    return name;
}

/* The GGUF inside an archive, or in the file that belongs to the one at `path`. */
static lp_code find_weights(lp_app *app, const lp_container *container, const char *path,
                            lp_error *err) {
    const lp_manifest *manifest = lp_container_manifest(container);
    if (manifest != NULL && manifest->weights_file.len > 0) {
        /* Needed by those who read it; verify says more, for both files. */
        lp_command command = app->options.command;
        if (command == LP_COMMAND_VERIFY || command == LP_COMMAND_LICENSES) return LP_OK;
        LP_TRY(lp_partner_open(&app->partner, path, manifest, err));
        app->model_label = app->partner.path.data;
        container = app->partner.container;
        manifest = lp_container_manifest(container);
    }
    lp_str name = lp_str_from("model.gguf");
    if (manifest != NULL) name = manifest->model_entry;
    if (name.len == 0) return LP_OK;
    const lp_entry *entry = lp_container_find(container, name);
    if (entry == NULL) {
        return lp_fail(err, LP_ERR_FORMAT, "the archive has no entry %.*s", (int)name.len,
                       name.data);
    }
    if (entry->deflated) {
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "the weights in the archive are compressed; they must be stored");
    }
    app->gguf_data = entry->data;
    app->gguf_size = entry->bytes;
    return LP_OK;
}

static lp_code open_model_file(lp_app *app, lp_error *err) {
    const char *path = app->options.model_file;
    app->model_label = path;
    LP_TRY(lp_map_open(&app->model_map, path, err));
    if (app->model_map.size >= 4 && memcmp(app->model_map.data, "GGUF", 4) == 0) {
        app->gguf_data = app->model_map.data;
        app->gguf_size = app->model_map.size;
        return LP_OK;
    }
    if (lp_container_open(&app->model_container, app->model_map.data, app->model_map.size, NULL) !=
        LP_OK) {
        return lp_fail(err, LP_ERR_FORMAT, "%s: neither a GGUF file nor a packed executable", path);
    }
    LP_TRY(find_weights(app, app->model_container, path, err));
    if (app->gguf_data == NULL) {
        return lp_fail(err, LP_ERR_FORMAT, "%s: there are no weights inside", path);
    }
    return LP_OK;
}

/* A program without an archive may be that of an application: then the application's archive takes
 * the place of its own file. */
static bool enter_bundle(lp_app *app) {
    lp_buf path;
    lp_map map = {0};
    lp_buf_init(&path, 0);
    if (lp_bundle_payload(&path, lp_buf_str(&app->own_path), NULL) != LP_OK ||
        lp_map_open(&map, path.data, NULL) != LP_OK) {
        lp_buf_free(&path);
        return false;
    }
    lp_map_close(&app->own_map);
    lp_buf_free(&app->own_path);
    app->own_map = map;
    app->own_path = path;
    return true;
}

static lp_code open_payload(lp_app *app, lp_error *err) {
    if (app->own_path.len == 0) LP_TRY(lp_own_path(&app->own_path, err));
    LP_TRY(lp_map_open(&app->own_map, app->own_path.data, err));
    lp_error archive;
    lp_code code =
        lp_container_open(&app->container, app->own_map.data, app->own_map.size, &archive);
    if (code != LP_OK && enter_bundle(app)) {
        code = lp_container_open(&app->container, app->own_map.data, app->own_map.size, &archive);
    }
    app->model_label = app->own_path.data;
    if (app->options.model_file != NULL) {
        /* A bare runtime may be tried with other weights; a damaged archive may not pass unsaid. */
        return open_model_file(app, err);
    }
    if (code != LP_OK) return lp_fail(err, code, "%s: %s", app->own_path.data, archive.text);
    return find_weights(app, app->container, app->own_path.data, err);
}

static lp_code apply_baked_defaults(lp_app *app, lp_error *err) {
    if (app->container == NULL) return LP_OK;
    const lp_manifest *manifest = lp_container_manifest(app->container);
    if (manifest == NULL) return LP_OK;
    for (size_t i = 0; i < manifest->n_args; i++) {
        LP_TRY(lp_options_apply_default(&app->options, manifest->args[i], &app->kept, err));
    }
    return LP_OK;
}

/* Files and pipes may hold anything: each ill-formed part becomes U+FFFD, with one warning. */
static lp_code add_text_file(lp_buf *out, const char *path, lp_error *err) {
    lp_buf raw;
    lp_buf_init(&raw, 0);
    lp_code code = lp_file_read(&raw, path, MAX_PROMPT_FILE, err);
    if (code == LP_OK) {
        size_t repaired = lp_utf8_add_repaired(out, lp_buf_str(&raw));
        if (repaired > 0) {
            lp_print_note("%s: %zu parts are not valid UTF-8 and were replaced", path, repaired);
        }
        code = lp_buf_check(out, err);
    }
    lp_buf_free(&raw);
    return code;
}

static lp_code read_prompt(lp_app *app, lp_error *err) {
    const lp_options *o = &app->options;
    bool wants = o->command == LP_COMMAND_ONESHOT ||
                 (o->command == LP_COMMAND_TOKENIZE && o->operand == NULL);
    if (o->command == LP_COMMAND_PERPLEXITY) return add_text_file(&app->prompt, o->operand, err);
    if (o->command == LP_COMMAND_TOKENIZE && o->operand != NULL) {
        lp_str text = lp_str_from(o->operand);
        if (!lp_utf8_valid(text))
            return lp_fail(err, LP_ERR_ARGUMENT, "the text is not valid UTF-8");
        lp_buf_add_str(&app->prompt, text);
        return lp_buf_check(&app->prompt, err);
    }
    if (!wants) return LP_OK;
    if (o->prompt != NULL) lp_buf_add_text(&app->prompt, o->prompt);
    if (o->prompt_file != NULL) {
        if (app->prompt.len > 0) lp_buf_add_text(&app->prompt, "\n\n");
        LP_TRY(add_text_file(&app->prompt, o->prompt_file, err));
    }
    bool from_stdin = o->prompt_file != NULL && strcmp(o->prompt_file, "-") == 0;
    if (!from_stdin && !lp_terminal_is(0) && lp_stdin_is_piped()) {
        lp_buf piped;
        lp_buf_init(&piped, 0);
        lp_code code = add_text_file(&piped, "-", err);
        if (code == LP_OK && piped.len > 0) {
            if (app->prompt.len > 0) lp_buf_add_text(&app->prompt, "\n\n");
            lp_buf_add_str(&app->prompt, lp_buf_str(&piped));
        }
        lp_buf_free(&piped);
        LP_TRY(code);
    }
    LP_TRY(lp_buf_check(&app->prompt, err));
    if (app->prompt.len == 0 && o->command == LP_COMMAND_ONESHOT) {
        return lp_fail(err, LP_ERR_ARGUMENT, "the prompt is empty");
    }
    return LP_OK;
}

static lp_code read_api_key(lp_app *app, lp_error *err) {
    if (app->options.api_key_file == NULL) return LP_OK;
    LP_TRY(lp_file_read(&app->api_key, app->options.api_key_file, MAX_API_KEY, err));
    while (app->api_key.len > 0 && strchr("\r\n \t", app->api_key.data[app->api_key.len - 1])) {
        app->api_key.data[--app->api_key.len] = '\0';
    }
    if (app->api_key.len == 0) {
        return lp_fail(err, LP_ERR_ARGUMENT, "%s: the key file is empty",
                       app->options.api_key_file);
    }
    return LP_OK;
}

const lp_container *lp_app_weights(const lp_app *app) {
    if (app->partner.container != NULL) return app->partner.container;
    return app->options.model_file == NULL ? app->container : app->model_container;
}

lp_code lp_app_start(lp_app *app, int argc, char **argv, lp_error *err) {
    *app = (lp_app){.program = argc > 0 ? last_part(argv[0]) : "chat", .sandbox = "none"};
    lp_options_init(&app->options);
    lp_buf_init(&app->own_path, 0);
    LP_TRY(lp_launch_take(&app->own_path, &argc, &argv, err));
    if (app->own_path.len > 0) {
        app->program = last_part(app->own_path.data);
        lp_slice_rename(app->program);
    }
    LP_TRY(lp_options_parse(&app->options, argc, argv, err));
    if (app->options.help || app->options.version) return LP_OK;
    LP_TRY(open_payload(app, err));
    LP_TRY(apply_baked_defaults(app, err));
    LP_TRY(read_prompt(app, err));
    return read_api_key(app, err);
}

void lp_app_close(lp_app *app) {
    lp_scheduler_close(app->scheduler);
    lp_engine_close(app->engine);
    lp_model_close(app->model);
    lp_template_close(app->tmpl);
    lp_vocab_close(app->vocab);
    lp_gguf_close(app->gguf);
    lp_container_close(app->model_container);
    lp_container_close(app->container);
    lp_partner_close(&app->partner);
    if (app->model_map.data != NULL) lp_map_close(&app->model_map);
    if (app->own_map.data != NULL) lp_map_close(&app->own_map);
    lp_buf_free(&app->prompt);
    lp_buf_free(&app->api_key);
    lp_buf_free(&app->own_path);
    lp_arena_free(&app->kept);
}

/* Errors about the model begin with the file's name. */
static lp_code about_model(const lp_app *app, lp_code code, lp_error *err) {
    if (code == LP_OK) return LP_OK;
    if (app->model_map.data != NULL && lp_cut_by_fat32(app->model_map.size)) {
        code = lp_error_prefix(err, "the file ends at 4 GiB, where FAT32 cuts files off");
    }
    return lp_error_prefix(err, last_part(app->model_label));
}

lp_code lp_app_open_gguf(lp_app *app, lp_error *err) {
    if (app->gguf != NULL) return LP_OK;
    if (app->gguf_data == NULL) {
        return lp_fail(err, LP_ERR_ARGUMENT,
                       "this file holds no weights; name them with -m FILE.gguf");
    }
    LP_TRY(about_model(app, lp_gguf_open(&app->gguf, app->gguf_data, app->gguf_size, err), err));
    lp_terminal_title(lp_app_name(app));
    return LP_OK;
}

lp_code lp_app_open_vocab(lp_app *app, lp_error *err) {
    LP_TRY(lp_app_open_gguf(app, err));
    if (app->vocab != NULL) return LP_OK;
    return about_model(app, lp_vocab_open(&app->vocab, app->gguf, err), err);
}

lp_code lp_app_open_chat(lp_app *app, lp_error *err) {
    LP_TRY(lp_app_open_vocab(app, err));
    if (app->tmpl != NULL) return LP_OK;
    return about_model(app, lp_template_for_model(&app->tmpl, app->gguf, app->vocab, err), err);
}

/* The author's sampler settings (general.sampling.*) where the user gave none. */
static lp_code apply_author_sampling(lp_app *app, lp_error *err) {
    lp_options *o = &app->options;
    struct {
        const char *key, *option;
        double *real;
        int64_t *integer;
    } settings[] = {
        {"general.sampling.temp", "--temp", &o->temp, NULL},
        {"general.sampling.top_k", "--top-k", NULL, &o->top_k},
        {"general.sampling.top_p", "--top-p", &o->top_p, NULL},
        {"general.sampling.min_p", "--min-p", &o->min_p, NULL},
        {"general.sampling.penalty_repeat", "--repeat-penalty", &o->repeat_penalty, NULL},
        {"general.sampling.penalty_last_n", "--repeat-last-n", NULL, &o->repeat_last_n},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        lp_str key = lp_str_from(settings[i].key);
        if (lp_gguf_find(app->gguf, key) == NULL || lp_options_given(o, settings[i].option))
            continue;
        float value = 0;
        LP_TRY(about_model(app, lp_gguf_get_f32(app->gguf, key, &value, err), err));
        if (settings[i].real != NULL) {
            *settings[i].real = (double)value;
        } else if (value >= -1 && value < 1e9f) {
            *settings[i].integer = (int64_t)value;
        }
    }
    lp_sampling sampling = lp_app_sampling(app);
    return lp_sampling_check(&sampling, err);
}

/* Of the weights that every token reads: all but an embedding that is not the output as well. */
static void want_large_pages(const lp_app *app) {
    const uint8_t *begin = app->gguf_data + lp_gguf_data_offset(app->gguf);
    const lp_tensor *embd = lp_gguf_find_tensor(app->gguf, lp_str_from("token_embd.weight"));
    if (lp_gguf_find_tensor(app->gguf, lp_str_from("output.weight")) != NULL) {
        lp_map_large_pages(begin, (size_t)(embd->data - begin));
        begin = embd->data + embd->bytes;
    }
    lp_map_large_pages(begin, (size_t)(app->gguf_data + app->gguf_size - begin));
}

/* The cache when all n_seq sequences are full. */
static size_t cache_bytes(const lp_app *app, lp_kv_type kv_type, size_t n_seq, size_t n_ctx) {
    return lp_engine_kv_need(app->model, kv_type, n_ctx, n_seq).bytes;
}

/* What a cache may take without being asked: half of the free memory, and no more than the weights
 * leave of the machine's. */
static uint64_t cache_room(uint64_t weight_bytes) {
    uint64_t available = lp_memory_available(), total = lp_memory_total();
    uint64_t fixed = weight_bytes + ENGINE_ROOM;
    uint64_t room = available > 0 ? available / 2 : UINT64_MAX;
    if (total == 0) return room;
    uint64_t left = total > fixed ? total - fixed : 0;
    return left < room ? left : room;
}

/* The longest context up to the usual one whose cache has room, by bisection: layers with a window
 * do not grow with it. */
static size_t default_ctx(const lp_app *app, lp_kv_type kv_type, size_t n_seq) {
    lp_model_info info = lp_model_describe(app->model);
    size_t n = info.n_ctx_train < DEFAULT_CTX ? info.n_ctx_train : DEFAULT_CTX;
    size_t fits = n < LEAST_CTX ? n : LEAST_CTX;
    uint64_t room = cache_room(info.weight_bytes);
    while (fits < n) {
        size_t middle = fits + (n - fits + 1) / 2;
        if (cache_bytes(app, kv_type, n_seq, middle) <= room)
            fits = middle;
        else
            n = middle - 1;
    }
    return fits;
}

static lp_code choose_ctx(const lp_app *app, lp_kv_type kv_type, size_t n_seq, size_t *n_ctx,
                          lp_error *err) {
    lp_model_info info = lp_model_describe(app->model);
    int64_t asked = app->options.n_ctx;
    if (asked < 0) {
        *n_ctx = default_ctx(app, kv_type, n_seq);
    } else {
        *n_ctx = asked == 0 ? info.n_ctx_train : (size_t)asked;
    }
    if (*n_ctx == 0)
        return lp_fail(err, LP_ERR_ARGUMENT, "the context must have at least one token");
    return LP_OK;
}

static double mib(uint64_t bytes) {
    return (double)bytes / (1024.0 * 1024.0);
}

/* What the sender of a model that is too large could send instead, in words. */
static const char *what_fits(const lp_app *app, uint64_t total, uint64_t anonymous) {
    static const struct {
        const char *name;
        double bits; /* per weight, of files of that kind; Q4_K_M and Q5_K_M mix types */
    } types[] = {{"Q8_0", 8.5}, {"Q6_K", 6.6}, {"Q5_K_M", 5.7}, {"Q4_K_M", 4.9}, {"Q4_0", 4.6}};
    static char text[160];
    lp_model_info info = lp_model_describe(app->model);
    uint64_t system = total / 4; /* for everything else that runs on the machine */
    uint64_t room = total > system + anonymous ? total - system - anonymous : 0;
    int len = snprintf(text, sizeof text, "a model of up to %.0f MiB", mib(room));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        double bytes = (double)info.n_params * types[i].bits / 8.0;
        if (bytes > (double)room || bytes > (double)info.weight_bytes) continue;
        (void)snprintf(text + len, sizeof text - (size_t)len, ", such as this one as %s",
                       types[i].name);
        break;
    }
    return text;
}

static lp_code check_memory(const lp_app *app, lp_kv_type kv_type, size_t n_seq, size_t n_ctx,
                            lp_error *err) {
    if (app->options.ignore_memory) return LP_OK;
    size_t anonymous = 0;
    if (!lp_size_add(cache_bytes(app, kv_type, n_seq, n_ctx), ENGINE_ROOM, &anonymous)) {
        return lp_fail(err, LP_ERR_ARGUMENT, "a context of %zu tokens is larger than any memory",
                       n_ctx);
    }
    uint64_t total = lp_memory_total();
    uint64_t available = lp_memory_available();
    uint64_t weights = lp_model_describe(app->model).weight_bytes;
    if (available > 0 && anonymous > available) {
        return lp_fail(
            err, LP_ERR_MEMORY,
            "a context of %zu tokens needs %.0f MiB and %.0f MiB are free; choose a smaller -c "
            "(or --ignore-memory)",
            n_ctx, mib(anonymous), mib(available));
    }
    if (total > 0 && weights + anonymous > total) {
        return lp_fail(
            err, LP_ERR_MEMORY,
            "the model needs %.0f MiB of memory and this machine has %.0f MiB; what fits "
            "is %s (--ignore-memory starts it all the same, very slowly)",
            mib(weights + anonymous), mib(total), what_fits(app, total, anonymous));
    }
    if (available > 0 && weights + anonymous > available) {
        lp_print_note(
            "the model takes %.0f MiB of memory and %.0f MiB are free: it gets faster when "
            "other programs are closed",
            mib(weights + anonymous), mib(available));
    }
    return LP_OK;
}

lp_code lp_app_open_engine(lp_app *app, size_t n_seq, size_t n_logit_rows, size_t n_ctx,
                           lp_error *err) {
    LP_TRY(lp_app_open_vocab(app, err));
    if (app->engine != NULL) return LP_OK;
    lp_act_mode act = LP_ACT_INT8;
    lp_kv_type kv_type = LP_KV_F16;
    LP_TRY(apply_author_sampling(app, err));
    LP_TRY(about_model(app, lp_model_open(&app->model, app->gguf, err), err));
    want_large_pages(app);
    LP_TRY(lp_engine_choose_modes(app->model, app->options.act, app->options.kv_type, &act,
                                  &kv_type, err));
    if (n_ctx == 0) LP_TRY(choose_ctx(app, kv_type, n_seq, &n_ctx, err));
    LP_TRY(check_memory(app, kv_type, n_seq, n_ctx, err));
    uint32_t trained = lp_model_describe(app->model).n_ctx_train;
    if (app->options.n_ctx > 0 && n_ctx > trained) {
        lp_print_note("the model was trained for %u tokens of context, %zu were asked for", trained,
                      n_ctx);
    }
    int threads = app->options.n_threads > 0 ? (int)app->options.n_threads : lp_cpu_count();
    lp_engine_params params = {.n_ctx = n_ctx,
                               .n_seq = n_seq,
                               .n_logit_rows = n_logit_rows,
                               .n_threads = threads,
                               .act = act,
                               .kv_type = kv_type,
                               .cpu = app->options.cpu};
    return lp_engine_open(&app->engine, app->model, &params, err);
}

lp_code lp_app_open_scheduler(lp_app *app, lp_error *err) {
    if (app->scheduler != NULL) return LP_OK;
    LP_TRY(lp_app_open_chat(app, err));
    lp_draft_params draft = lp_app_draft(app);
    LP_TRY(lp_app_open_engine(app, 1, 1 + draft.most, 0, err));
    LP_TRY(lp_scheduler_open(&app->scheduler, app->engine, app->vocab, &draft, err));
    lp_scheduler_prepare(app->scheduler, lp_app_system_kv(app));
    return LP_OK;
}

lp_draft_params lp_app_draft(const lp_app *app) {
    return (lp_draft_params){.most = (size_t)app->options.draft};
}

lp_sampling lp_app_sampling(const lp_app *app) {
    const lp_options *o = &app->options;
    return (lp_sampling){.temp = (float)o->temp,
                         .top_k = (int32_t)o->top_k,
                         .top_p = (float)o->top_p,
                         .min_p = (float)o->min_p,
                         .repeat_penalty = (float)o->repeat_penalty,
                         .presence_penalty = (float)o->presence_penalty,
                         .frequency_penalty = (float)o->frequency_penalty,
                         .repeat_last_n = (int32_t)o->repeat_last_n,
                         .seed = o->seed < 0 ? lp_random_seed() : (uint64_t)o->seed};
}

const char *lp_app_name(const lp_app *app) {
    static char name[256];
    lp_str text = lp_str_from("");
    const lp_manifest *manifest =
        app->container == NULL ? NULL : lp_container_manifest(app->container);
    if (manifest != NULL && app->options.model_file == NULL) text = manifest->name;
    if (text.len == 0 && app->gguf != NULL) {
        (void)lp_gguf_get_str(app->gguf, lp_str_from("general.name"), &text, NULL);
    }
    if (text.len == 0) {
        const char *given = app->options.model_file;
        text = lp_str_from(last_part(given != NULL ? given : app->own_path.data));
    }
    lp_buf printable;
    lp_buf_init(&printable, sizeof name - 1);
    lp_utf8_add_printable(&printable, text);
    (void)snprintf(name, sizeof name, "%s", printable.data == NULL ? "" : printable.data);
    lp_buf_free(&printable);
    return name;
}

const int64_t *lp_app_date(const lp_app *app) {
    const lp_manifest *manifest =
        app->container == NULL ? NULL : lp_container_manifest(app->container);
    bool fixed = manifest != NULL && manifest->has_date && app->options.model_file == NULL &&
                 !app->options.live_date;
    return fixed ? &manifest->date : NULL;
}

lp_str lp_app_system(const lp_app *app) {
    if (app->options.system_text != NULL) return lp_str_from(app->options.system_text);
    const lp_manifest *manifest =
        app->container == NULL ? NULL : lp_container_manifest(app->container);
    return manifest == NULL ? lp_str_from("") : manifest->system;
}
