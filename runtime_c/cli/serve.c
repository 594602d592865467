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

#define PROBE_SECONDS    1.0 /* for a running copy to say that it is one */
#define PATIENCE_SECONDS 5.0 /* for one that is just starting */

static _Atomic(lp_server *) listening;

static void on_signal(void *user, bool terminate) {
    (void)user;
    (void)terminate;
    lp_server *server = atomic_load(&listening);
    if (server != NULL) lp_server_stop(server);
}

typedef struct ready {
    lp_app *app;
    bool browser;
    bool held; /* by a terminal */
} ready;

static void show_address(const char *url) {
    char text[200];
    (void)snprintf(text, sizeof text, "The chat is ready. Open %s in a browser.", url);
    lp_alert(text);
}

static void on_listening(void *user, const char *url) {
    const ready *s = user;
    lp_print_status("%s is ready at %s", lp_app_name(s->app), url);
    bool opens = s->browser && lp_browser_open(url);
    if (s->browser && !opens) {
        lp_print_note("no browser could be opened; open %s in one yourself", url);
        if (!s->held) show_address(url);
    }
    lp_print_status("%s%s", opens ? "The page opens in your browser. " : "",
                    lp_process_owns_console() ? "Close this window or press Ctrl-C here to quit."
                                              : "Press Ctrl-C here to quit.");
}

/* What a second start must share with a running program to open its page: the file's content, as
 * its manifest tells it by hashes, under whatever name or in whatever copy; and the options. */
static lp_code add_instance(const lp_app *app, lp_buf *out, lp_error *err) {
    const lp_entry *manifest =
        app->container == NULL ? NULL
                               : lp_container_find(app->container, lp_str_from("manifest.json"));
    if (manifest != NULL) {
        lp_buf_add(out, (const char *)manifest->data, manifest->stored_bytes);
    } else {
        lp_buf_add_format(out, "%s %zu", app->own_path.data, app->own_map.size);
    }
    lp_buf_add_format(out, "\n%zu\n", app->gguf_size);
    lp_options_add_given(out, &app->options);
    return lp_buf_check(out, err);
}

static lp_code serve(lp_app *app, lp_server *server, bool browser, const char *instance,
                     lp_error *err) {
    app->sandbox = lp_confine();
    LP_TRY(lp_app_open_chat(app, err));
    size_t n_seq = (size_t)app->options.n_parallel;
    lp_draft_params draft = lp_app_draft(app);
    LP_TRY(lp_app_open_engine(app, n_seq, n_seq + draft.most, 0, err));
    lp_str license = lp_str_from("");
    LP_TRY(lp_gguf_get_str(app->gguf, lp_str_from("general.license"), &license, err));
    bool held = lp_terminal_is(0) || lp_terminal_is(1) || lp_terminal_is(2);
    ready s = {app, browser, held};
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

/* The port of this user's program with the same instance text up to `last`; 0 = none. A program
 * that does not answer may be this very one, clicked twice: it listens before it has loaded its
 * model. So it is waited for, once: *given_up is its port then (0 = none yet). */
static uint16_t find_running(const char *instance, uint16_t last, uint16_t *given_up) {
    uint16_t silent;
    uint16_t port = lp_server_probe(LP_SERVER_PORT, last, instance, PROBE_SECONDS, &silent);
    if (port != 0 || silent == 0 || silent == *given_up) return port;
    lp_print_note("the program at port %u does not answer yet; waiting for it", (unsigned)silent);
    *given_up = silent;
    return lp_server_probe(LP_SERVER_PORT, last, instance, PATIENCE_SECONDS, &silent);
}

static void open_running(lp_app *app, uint16_t port, bool browser) {
    char url[64];
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", (unsigned)port);
    lp_print_status("already running at %s", url);
    if (!browser) return;
    lp_browser_prepare();
    app->must_be_read = !lp_browser_open(url);
}

static lp_code listen_for(lp_server **out, const lp_app *app, lp_error *err) {
    const lp_options *o = &app->options;
    lp_str hosts[LP_MAX_ALLOW_HOSTS];
    for (size_t i = 0; i < o->n_allow_hosts; i++) hosts[i] = lp_str_from(o->allow_hosts[i]);
    lp_listen_params listen = {.host = lp_options_given(o, "--host") ? o->host : NULL,
                               .port = o->port < 0 ? LP_SERVER_PORT : (uint16_t)o->port,
                               .port_fixed = o->port >= 0,
                               .api_key = lp_buf_str(&app->api_key),
                               .allow_hosts = hosts,
                               .n_allow_hosts = o->n_allow_hosts};
    return lp_server_listen(out, &listen, err);
}

static lp_code start(lp_app *app, const char *instance, lp_error *err) {
    const lp_options *o = &app->options;
    bool browser = o->command == LP_COMMAND_WEB && !o->no_browser;
    bool once = o->command == LP_COMMAND_WEB && o->port < 0;
    uint16_t given_up = 0;
    uint16_t running = once ? find_running(instance, LP_SERVER_PORT_LAST, &given_up) : 0;
    if (running != 0) {
        open_running(app, running, browser);
        return LP_OK;
    }
    if (app->gguf_data == NULL) return lp_app_open_gguf(app, err); /* says so, takes no port */
    lp_server *server = NULL;
    LP_TRY(listen_for(&server, app, err));
    /* Of two that start at the same moment, the one with the lower port stays. */
    uint16_t port = lp_server_port(server);
    if (once && port > LP_SERVER_PORT && port <= LP_SERVER_PORT_LAST)
        running = find_running(instance, (uint16_t)(port - 1), &given_up);
    if (running != 0) {
        lp_server_close(server);
        open_running(app, running, browser);
        return LP_OK;
    }
    if (browser) lp_browser_prepare();
    atomic_store(&listening, server);
    lp_signal_install(on_signal, NULL);
    lp_code code = serve(app, server, browser, instance, err);
    atomic_store(&listening, NULL);
    lp_server_close(server);
    return code;
}

lp_code lp_command_serve(lp_app *app, lp_error *err) {
    lp_buf instance;
    lp_buf_init(&instance, 0);
    lp_code code = add_instance(app, &instance, err);
    if (code == LP_OK) code = start(app, instance.data, err);
    lp_buf_free(&instance);
    return code;
}
