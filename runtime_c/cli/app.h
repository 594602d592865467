/* app.h - what every command needs, opened in the order that trust asks for.
 *
 * Phase 1 (outside the box): own file, its archive and manifest, the weights' mapping, the texts
 * the user named. Then lp_confine. Phase 2 (inside): GGUF, vocabulary, template, model, engine;
 * each command opens only as far as it needs. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_APP_H
#define LP_CLI_APP_H

#include "base/memory.h"
#include "chat/chat.h"
#include "cli/options.h"
#include "cli/partner.h"
#include "engine/scheduler.h"
#include "model/container.h"
#include "platform/file.h"

typedef struct lp_app {
    lp_options options;
    const char *program;           /* argv[0]'s last part, or the archive's */
    lp_arena kept;                 /* values of baked-in default arguments */
    lp_buf own_path;               /* of the file with the payload: see launch.h */
    lp_map own_map, model_map;     /* model_map only with -m */
    lp_container *container;       /* of the own file; NULL: none */
    lp_container *model_container; /* of a packed file given with -m */
    lp_partner partner;            /* what holds the weights of either, if it does not itself */
    const uint8_t *gguf_data;      /* borrowed from one of the maps; NULL: no weights */
    size_t gguf_size;
    const char *model_label; /* for messages: the path of the file with the weights */
    lp_buf prompt;           /* -p, -f and piped standard input together */
    lp_buf api_key;
    const char *sandbox; /* what lp_confine returned */
    bool must_be_read;   /* what stands in the window matters, though no answer was asked for */

    lp_gguf *gguf;
    lp_vocab *vocab;
    lp_template *tmpl;
    lp_model *model;
    lp_engine *engine;
    lp_kv_file system_kv; /* see system_kv.h */
    lp_scheduler *scheduler;
} lp_app;

/* The archive with the weights in use; NULL: none, or a bare GGUF. */
const lp_container *lp_app_weights(const lp_app *app);

/* Phase 1. err tells what is wrong; the app must be closed in any case. */
lp_code lp_app_start(lp_app *app, int argc, char **argv, lp_error *err) LP_MUST_USE;
void lp_app_close(lp_app *app);

/* Phase 2, each includes the ones before it. */
lp_code lp_app_open_gguf(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_app_open_vocab(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_app_open_chat(lp_app *app, lp_error *err) LP_MUST_USE; /* vocabulary and template */
/* n_seq sequences; n_logit_rows 0 = n_seq; n_ctx 0 = as the options say. Applies the sampling
 * defaults that the model's author left in the file to options that were not given. */
lp_code lp_app_open_engine(lp_app *app, size_t n_seq, size_t n_logit_rows, size_t n_ctx,
                           lp_error *err) LP_MUST_USE;
lp_code lp_app_open_scheduler(lp_app *app, lp_error *err) LP_MUST_USE; /* one sequence */

lp_draft_params lp_app_draft(const lp_app *app);
lp_sampling lp_app_sampling(const lp_app *app); /* a random seed if none was asked for */
const char *lp_app_name(const lp_app *app); /* what the sender calls it, else the model's name */
lp_str lp_app_system(const lp_app *app);    /* --system, else the sender's; may be empty */
/* The date that prompts of templates with a date print, in seconds since 1970: the build's, if the
 * system prompt was prepared with it; NULL = the clock's. */
const int64_t *lp_app_date(const lp_app *app);

#endif
