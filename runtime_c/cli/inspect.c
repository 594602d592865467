/* inspect.c - `info`, `verify`, `licenses`: what is inside this file, and whether it is whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "base/inflate.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/system_kv.h"
#include "platform/terminal.h"
#include "platform/thread.h"

/* ---- info: one list of facts, printed as lines or as a JSON object */

typedef struct facts {
    lp_buf out;
    bool json, first;
} facts;

static void begin_fact(facts *f, const char *key, const char *label) {
    if (f->json) {
        lp_buf_add_format(&f->out, "%s\"%s\": ", f->first ? "{" : ", ", key);
    } else {
        lp_buf_add_format(&f->out, "%-16s  ", label);
    }
    f->first = false;
}

static void end_fact(facts *f) {
    if (!f->json) lp_buf_add_char(&f->out, '\n');
}

static void text_fact(facts *f, const char *key, const char *label, lp_str text) {
    begin_fact(f, key, label);
    if (f->json) {
        lp_json_add_string(&f->out, text);
    } else {
        lp_buf_add_str(&f->out, text);
    }
    end_fact(f);
}

static void number_fact(facts *f, const char *key, const char *label, uint64_t number,
                        const char *unit) {
    begin_fact(f, key, label);
    lp_buf_add_format(&f->out, "%" PRIu64, number);
    if (!f->json) lp_buf_add_text(&f->out, unit);
    end_fact(f);
}

/* Weight types and how many tensors have each: "Q4_K 27, Q6_K 9". */
static void type_facts(const lp_app *app, facts *f) {
    size_t n = lp_gguf_n_tensors(app->gguf);
    bool first = true;
    begin_fact(f, "types", "weight types");
    if (f->json) lp_buf_add_char(&f->out, '{');
    for (uint32_t type = 0; type < 256; type++) {
        const lp_type_info *info = lp_type_get(type);
        size_t count = 0;
        for (size_t i = 0; i < n && info != NULL; i++) {
            if (lp_gguf_tensor_at(app->gguf, i)->type == type) count++;
        }
        if (count == 0) continue;
        lp_buf_add_format(&f->out, f->json ? "%s\"%s\": %zu" : "%s%s %zu", first ? "" : ", ",
                          info->name, count);
        first = false;
    }
    if (f->json) lp_buf_add_char(&f->out, '}');
    end_fact(f);
}

static void model_facts(const lp_app *app, facts *f) {
    lp_model_info info = lp_model_describe(app->model);
    lp_str license = lp_str_from("");
    (void)lp_gguf_get_str(app->gguf, lp_str_from("general.license"), &license, NULL);
    text_fact(f, "architecture", "architecture", lp_str_from(info.arch));
    number_fact(f, "parameters", "parameters", info.n_params, "");
    number_fact(f, "weight_bytes", "weights", info.weight_bytes, " bytes");
    type_facts(app, f);
    number_fact(f, "layers", "layers", info.n_layer, "");
    number_fact(f, "embedding", "embedding", info.n_embd, "");
    number_fact(f, "vocabulary", "vocabulary", info.n_vocab, " tokens");
    number_fact(f, "context_trained", "trained context", info.n_ctx_train, " tokens");
    lp_kv_need cache = lp_engine_kv_need(app->model, LP_KV_F16, info.n_ctx_train, 1);
    number_fact(f, "kv_bytes_per_token", "cache", cache.per_token, " bytes per token");
    if (cache.window > 0) {
        number_fact(f, "kv_window", "sliding window", cache.window, " tokens");
        number_fact(f, "kv_window_bytes", "window cache", cache.window_bytes,
                    " bytes, whatever the context");
    }
    text_fact(f, "license", "licence", license);
    text_fact(f, "template", "chat template", lp_str_from(lp_template_origin(app->tmpl)));
}

/* The prepared system prompt: how it was computed, or what is wrong with it. */
static void prepared_facts(const lp_app *app, facts *f) {
    lp_kv_file file;
    lp_error why = {0};
    bool found = false;
    const lp_container *weights =
        app->partner.container != NULL ? app->partner.container : app->container;
    lp_code code = lp_system_kv_open(&file, app->container, weights, &found, &why);
    if (!found) return;
    if (code == LP_OK) code = lp_kv_file_check(&file, &why);
    if (code != LP_OK) {
        text_fact(f, "system_kv_error", "system prompt", lp_str_from(why.text));
        return;
    }
    number_fact(f, "system_kv_tokens", "system prompt", file.n_tokens, " tokens prepared");
    number_fact(f, "system_kv_bytes", "its cache", file.size, " bytes");
    lp_buf path;
    lp_buf_init(&path, 0);
    lp_buf_add_format(&path, "--cpu %s --act %s --kv-type %s", file.level, lp_act_name(file.act),
                      lp_kv_type_name(file.type));
    text_fact(f, "system_kv_path", "computed with", lp_buf_str(&path));
    lp_buf_free(&path);
}

static lp_code machine_facts(const lp_app *app, facts *f, lp_error *err) {
    const char *why = NULL;
    const lp_kernels *best = lp_kernels_select(app->options.cpu, &why);
    if (best == NULL) return lp_fail(err, LP_ERR_ARGUMENT, "--cpu %s: %s", app->options.cpu, why);
    lp_buf levels;
    lp_buf_init(&levels, 0);
    for (size_t i = 0; i < lp_kernels_count(); i++) {
        const lp_kernels *k = lp_kernels_at(i);
        if (lp_kernels_runs_here(k)) {
            lp_buf_add_format(&levels, "%s%s", levels.len == 0 ? "" : " ", k->name);
        }
    }
    text_fact(f, "cpu", "instructions", lp_str_from(best->name));
    text_fact(f, "cpu_levels", "--cpu offers", lp_buf_str(&levels));
    lp_buf_free(&levels);
    number_fact(f, "threads", "threads", (uint64_t)lp_cpu_count(), "");
    number_fact(f, "memory_total", "memory", lp_memory_total(), " bytes");
    number_fact(f, "memory_available", "memory free", lp_memory_available(), " bytes");
    text_fact(f, "sandbox", "sandbox", lp_str_from(app->sandbox));
    return LP_OK;
}

static lp_code collect(lp_app *app, facts *f, lp_error *err) {
    text_fact(f, "runtime", "runtime", lp_str_from("llamapack " LP_VERSION));
    const lp_manifest *manifest =
        app->container == NULL ? NULL : lp_container_manifest(app->container);
    if (manifest != NULL) {
        text_fact(f, "target", "target", manifest->target);
        text_fact(f, "builder", "built by", manifest->builder);
    }
    if (app->gguf_data != NULL) {
        LP_TRY(lp_app_open_chat(app, err));
        LP_TRY(lp_model_open(&app->model, app->gguf, err));
        text_fact(f, "name", "name", lp_str_from(lp_app_name(app)));
        model_facts(app, f);
    }
    prepared_facts(app, f);
    LP_TRY(machine_facts(app, f, err));
    if (f->json) lp_buf_add_text(&f->out, "}\n");
    return lp_buf_check(&f->out, err);
}

lp_code lp_command_info(lp_app *app, lp_error *err) {
    facts f = {.json = app->options.json, .first = true};
    lp_buf_init(&f.out, 0);
    lp_code code = collect(app, &f, err);
    if (code == LP_OK) (void)lp_print_text(lp_buf_str(&f.out));
    lp_buf_free(&f.out);
    return code;
}

/* ---- verify */

static void show_progress(void *user, uint64_t done, uint64_t total) {
    int *shown = user;
    int percent = total == 0 ? 100 : (int)(done * 100 / total);
    if (percent / 10 == *shown / 10 && percent != 100) return;
    *shown = percent;
    lp_print_status("checked %d %%", percent);
}

static lp_code verify_one(const lp_container *container, lp_error *err) {
    int shown = 0;
    bool progress = lp_terminal_is(2);
    return lp_container_verify(container, progress ? show_progress : NULL, &shown, err);
}

static lp_code verify_prepared(const lp_container *container, const lp_container *weights,
                               lp_error *err) {
    lp_kv_file prepared;
    bool found = false;
    LP_TRY(lp_system_kv_open(&prepared, container, weights, &found, err));
    return found ? lp_kv_file_check(&prepared, err) : LP_OK;
}

/* Of two files each is looked at, whatever is wrong with the other. */
static lp_code verify_pair(lp_partner *partner, const lp_container *container, const char *path,
                           lp_error *err) {
    lp_error own = {0}, its = {0};
    lp_code code = verify_one(container, &own);
    if (code != LP_OK) code = lp_error_prefix(&own, path);
    lp_code other = lp_partner_open(partner, path, lp_container_manifest(container), &its);
    if (other == LP_OK) {
        other = verify_one(partner->container, &its);
        if (other != LP_OK) other = lp_error_prefix(&its, partner->path.data);
    }
    if (code != LP_OK && other != LP_OK) return lp_fail(err, code, "%s; %s", own.text, its.text);
    if (code != LP_OK) return lp_fail(err, code, "%s", own.text);
    if (other != LP_OK) return lp_fail(err, other, "%s", its.text);
    LP_TRY(verify_prepared(container, partner->container, err));
    (void)lp_print_format("ok: every byte of %s and of %s is as it was built\n", path,
                          partner->path.data);
    return LP_OK;
}

/* The program of an application, which lies where bundle.h says when the archive is at `path`. */
static lp_code verify_program(const lp_container *container, const char *path, lp_str name,
                              lp_error *err) {
    if (memchr(name.data, '/', name.len)) {
        return lp_fail(err, LP_ERR_FORMAT, "manifest.json: \"program\" does not name a file");
    }
    lp_buf relative, place;
    lp_map map;
    lp_buf_init(&relative, 0);
    lp_buf_init(&place, 0);
    lp_buf_add_text(&relative, "../MacOS/");
    lp_buf_add_str(&relative, name);
    lp_code code = lp_buf_check(&relative, err);
    if (code == LP_OK) code = lp_path_beside(&place, path, lp_buf_str(&relative), false, err);
    if (code == LP_OK) code = lp_map_open(&map, place.data, err);
    if (code == LP_OK) {
        code = lp_container_verify_program(container, map.data, map.size, err);
        if (code != LP_OK) code = lp_error_prefix(err, place.data);
        lp_map_close(&map);
    }
    lp_buf_free(&relative);
    lp_buf_free(&place);
    return code;
}

static lp_code verify(lp_app *app, const lp_container *container, const char *path, lp_error *err) {
    const lp_manifest *manifest = lp_container_manifest(container);
    if (manifest != NULL && manifest->weights_file.len > 0)
        return verify_pair(&app->partner, container, path, err);
    LP_TRY(verify_one(container, err));
    LP_TRY(verify_prepared(container, container, err));
    bool bundle = manifest != NULL && manifest->program.len > 0;
    if (bundle) LP_TRY(verify_program(container, path, manifest->program, err));
    (void)lp_print_format("ok: every byte of %s%s is as it was built\n", path,
                          bundle ? " and of its program, less its signature," : "");
    return LP_OK;
}

lp_code lp_command_verify(lp_app *app, lp_error *err) {
    const char *other = app->options.operand;
    if (other == NULL) return verify(app, app->container, app->own_path.data, err);
    LP_TRY(lp_map_open(&app->model_map, other, err));
    lp_code code =
        lp_container_open(&app->model_container, app->model_map.data, app->model_map.size, err);
    if (code != LP_OK) return lp_error_prefix(err, other);
    const lp_manifest *manifest = lp_container_manifest(app->model_container);
    bool pair = manifest != NULL && manifest->weights_file.len > 0;
    code = verify(app, app->model_container, other, err);
    return code == LP_OK || pair ? code : lp_error_prefix(err, other);
}

/* ---- licenses */

static lp_code print_entry(const lp_entry *entry, lp_error *err) {
    (void)lp_print_format("==== %.*s\n\n", (int)entry->name.len, entry->name.data);
    if (!entry->deflated) {
        (void)lp_print_text((lp_str){(const char *)entry->data, entry->stored_bytes});
    } else {
        uint8_t *text = lp_alloc(entry->bytes, 1);
        if (text == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for a licence");
        lp_code code = lp_inflate(text, entry->bytes, entry->data, entry->stored_bytes, err);
        if (code == LP_OK) (void)lp_print_text((lp_str){(const char *)text, entry->bytes});
        lp_free(text);
        LP_TRY(code);
    }
    (void)lp_print_text(lp_str_from("\n"));
    return LP_OK;
}

lp_code lp_command_licenses(lp_app *app, lp_error *err) {
    size_t shown = 0;
    const lp_container *c = app->container;
    for (size_t i = 0; c != NULL && i < lp_container_count(c); i++) {
        const lp_entry *entry = lp_container_at(c, i);
        bool page = lp_str_is(entry->name, "web/licenses.txt"); /* of the page's libraries */
        if (!page && !lp_str_starts(entry->name, lp_str_from("licenses/"))) continue;
        LP_TRY(print_entry(entry, err));
        shown++;
    }
    if (shown == 0)
        return lp_fail(err, LP_ERR_FORMAT, "there are no licence texts inside this file");
    return LP_OK;
}
