/* serve.c - `serve` and the bare start: listen, confine, load, serve; open the browser when asked.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/server.h"

#include <stdatomic.h>
#include <stdio.h>

#include "cli/commands.h"
#include "cli/print.h"
#include "cli/system_kv.h"
#include "platform/process.h"
#include "platform/terminal.h"

/* A program that no terminal holds ends this long after the last page was closed. */
enum { IDLE_EXIT_SECONDS = 600 };

static _Atomic(lp_server *) listening;

static void on_signal(void *user, bool terminate) {
    (void)user;
    (void)terminate;
    lp_server *server = atomic_load(&listening);
    if (server != NULL) lp_server_stop(server);
}

typedef struct start {
    lp_app *app;
    bool browser;
} start;

static void on_listening(void *user, const char *url) {
    const start *s = user;
    lp_print_status("%s is ready at %s", lp_app_name(s->app), url);
    bool opens = s->browser && lp_browser_open(url);
    if (s->browser && !opens)
        lp_print_note("no browser could be opened; open %s in one yourself", url);
    lp_print_status(opens ? "The page opens in your browser. Press Ctrl-C here to quit."
                          : "Press Ctrl-C to quit.");
}

/* Name and identity of what runs, so that a second start finds the first. */
static void instance_text(const lp_app *app, char *out, size_t size) {
    (void)snprintf(out, size, "%s/%zu/%zu", app->own_path.data, app->own_map.size, app->gguf_size);
}

static lp_code serve(lp_app *app, lp_server *server, bool browser, const char *instance,
                     lp_error *err) {
    app->sandbox = lp_confine();
    LP_TRY(lp_app_open_chat(app, err));
    size_t n_seq = (size_t)app->options.n_parallel;
    lp_draft_params draft = lp_app_draft(app);
    LP_TRY(lp_app_open_engine(app, n_seq, n_seq + draft.most, 0, err));
    start s = {app, browser};
    lp_str license = lp_str_from("");
    LP_TRY(lp_gguf_get_str(app->gguf, lp_str_from("general.license"), &license, err));
    bool held = lp_terminal_is(0) || lp_terminal_is(1) || lp_terminal_is(2);
    bool web = app->options.command == LP_COMMAND_WEB;
    lp_server_params params = {.engine = app->engine,
                               .vocab = app->vocab,
                               .tmpl = app->tmpl,
                               .container = app->container,
                               .name = lp_app_name(app),
                               .instance = instance,
                               .version = LP_VERSION,
                               .sandbox = app->sandbox,
                               .license = license,
                               .system = lp_app_system(app),
                               .date = lp_app_date(app),
                               .ready = lp_app_system_kv(app),
                               .sampling = lp_app_sampling(app),
                               .seed_given = app->options.seed >= 0,
                               .draft = draft,
                               .max_tokens = (size_t)app->options.n_predict,
                               .idle_exit_seconds = web && !held ? IDLE_EXIT_SECONDS : 0,
                               .on_listening = on_listening,
                               .user = &s};
    return lp_server_run(server, &params, err);
}

lp_code lp_command_serve(lp_app *app, lp_error *err) {
    const lp_options *o = &app->options;
    char instance[1024];
    instance_text(app, instance, sizeof instance);
    bool browser = o->command == LP_COMMAND_WEB && !o->no_browser;
    if (o->command == LP_COMMAND_WEB && o->port < 0) {
        uint16_t port = lp_server_probe(LP_SERVER_PORT, LP_SERVER_PORT_LAST, instance);
        if (port != 0) {
            char url[64];
            (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", port);
            lp_print_status("already running at %s", url);
            if (browser) {
                lp_browser_prepare();
                (void)lp_browser_open(url);
            }
            return LP_OK;
        }
    }
    if (app->gguf_data == NULL) return lp_app_open_gguf(app, err); /* says so, takes no port */
    lp_str hosts[LP_MAX_ALLOW_HOSTS];
    for (size_t i = 0; i < o->n_allow_hosts; i++) hosts[i] = lp_str_from(o->allow_hosts[i]);
    lp_listen_params listen = {.host = lp_options_given(o, "--host") ? o->host : NULL,
                               .port = o->port < 0 ? LP_SERVER_PORT : (uint16_t)o->port,
                               .port_fixed = o->port >= 0,
                               .api_key = lp_buf_str(&app->api_key),
                               .allow_hosts = hosts,
                               .n_allow_hosts = o->n_allow_hosts};
    lp_server *server = NULL;
    LP_TRY(lp_server_listen(&server, &listen, err));
    if (browser) lp_browser_prepare();
    atomic_store(&listening, server);
    lp_signal_install(on_signal, NULL);
    lp_code code = serve(app, server, browser, instance, err);
    atomic_store(&listening, NULL);
    lp_server_close(server);
    return code;
}
