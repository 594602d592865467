/* platform_probe.c - a program that does one thing with runtime_c/platform and says what came of
 * it.
 *
 * tests/test_platform.py compiles it for this machine, for ARM64 and for Windows and runs it there.
 * Output: lines "key value".
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "platform/file.h"
#include "platform/net.h"
#include "platform/process.h"
#include "platform/terminal.h"
#include "platform/thread.h"

static lp_error err;

static void say(const char *key, long long value) {
    printf("%s %lld\n", key, value);
    fflush(stdout);
}

static void say_text(const char *key, const char *value) {
    printf("%s %s\n", key, value);
    fflush(stdout);
}

/* ---- facts: everything that needs no partner ------------------------------------------------- */

typedef struct counter {
    lp_mutex *mutex;
    lp_condition *condition;
    long long value;
} counter;

static void count(void *argument) {
    counter *c = argument;
    for (int i = 0; i < 10000; i++) {
        lp_mutex_lock(c->mutex);
        c->value++;
        lp_mutex_unlock(c->mutex);
        if (i % 1000 == 0) lp_thread_yield();
    }
    lp_condition_wake_all(c->condition);
}

static void threads(void) {
    counter c = {lp_mutex_new(), lp_condition_new(), 0};
    lp_thread *list[4];
    for (int i = 0; i < 4; i++) {
        if (lp_thread_start(&list[i], count, &c, 1 << 16, &err) != LP_OK) exit(9);
    }
    lp_mutex_lock(c.mutex);
    while (c.value < 40000) (void)lp_condition_wait(c.condition, c.mutex, 0.5);
    double before = lp_clock_seconds();
    bool woken = lp_condition_wait(c.condition, c.mutex, 0.05);
    while (woken) woken = lp_condition_wait(c.condition, c.mutex, 0.05);
    double waited = lp_clock_seconds() - before;
    lp_mutex_unlock(c.mutex);
    for (int i = 0; i < 4; i++) lp_thread_join(list[i]);
    say("counted", c.value);
    say("waited", waited >= 0.045 && waited < 5);
    lp_condition_free(c.condition);
    lp_mutex_free(c.mutex);
}

static void clocks(void) {
    double before = lp_clock_seconds();
    lp_sleep_seconds(0.03);
    double slept = lp_clock_seconds() - before;
    say("slept", slept >= 0.029 && slept < 5);
    say("unix", lp_clock_unix());
    say("local", lp_clock_local() - lp_clock_unix());
    say("seeds", lp_random_seed() != lp_random_seed());
    unsigned char bytes[1000] = {0};
    bool filled = lp_random_bytes(bytes, sizeof bytes);
    int zeros = 0;
    for (size_t i = 0; i < sizeof bytes; i++) zeros += bytes[i] == 0;
    say("random", filled && zeros < 50);
}

static void memory(void) {
    say("cpus", lp_cpu_count());
    say("available", (long long)lp_memory_available());
    say("total", (long long)lp_memory_total());
    size_t bytes = (size_t)64 << 30;
    unsigned char *pages = lp_pages_reserve(bytes);
    say("reserved", pages != NULL);
    if (!pages) return;
    say("zeroed", pages[0] == 0 && pages[bytes / 2] == 0 && pages[bytes - 1] == 0);
    for (size_t i = 0; i < (size_t)8 << 20; i += 4096) pages[i] = 1;
    pages[bytes / 2] = 7;
    say("kept", pages[4096] == 1 && pages[bytes / 2] == 7);
    say("peak", (long long)lp_memory_peak());
    lp_pages_release(pages, bytes);
}

static void files(void) {
    static const char name[] = "pr\xC3\xB6"
                               "be.txt";
    lp_buf text;
    lp_map map;
    lp_buf_init(&text, 0);
    if (lp_own_path(&text, &err) == LP_OK) say_text("own", text.data);
    lp_buf_clear(&text);
    say("written", lp_file_write_private(name, lp_str_from("first"), &err));
    say("rewritten", lp_file_write_private(name, lp_str_from("second text"), &err));
    say("read", lp_file_read(&text, name, 11, &err));
    say_text("text", text.data);
    say("over", lp_file_read(&text, name, 10, &err));
    say("mapped", lp_map_open(&map, name, &err));
    say("same", map.size == 11 && memcmp(map.data, "second text", 11) == 0);
    lp_map_will_need(&map, 3, 100);
    lp_map_will_need(&map, 100, 1);
    lp_map_close(&map);
    say("absent", lp_map_open(&map, "absent\xC3\xB6", &err));
    say_text("absent-text", err.text);
    say("directory", lp_map_open(&map, ".", &err));
    say_text("directory-text", err.text);
    say("not-written", lp_file_write_private("absent/file", lp_str_from("x"), &err));
    lp_buf_free(&text);
}

static void ring(void *waker) {
    lp_sleep_seconds(0.05);
    lp_waker_ring(waker);
}

static void sockets(void) {
    lp_socket listener, other, client, server;
    uint16_t port = 0, port2;
    bool busy = false;
    char data[16];
    say("started", lp_net_start(&err));
    say("listening", lp_net_listen(&listener, "127.0.0.1", 0, &port, &busy, &err));
    say("own-listeners", (long long)lp_net_own_listeners(port, port, &port2, 1));
    say("own-port", port2 == port);
    say("again", lp_net_listen(&other, "localhost", port, &port2, &busy, &err));
    say("busy", busy);
    say_text("busy-text", err.text);
    say("name", lp_net_listen(&other, "example.org", 0, &port2, &busy, &err));
    say("none-waiting", lp_net_accept(listener) == LP_SOCKET_NONE);
    client = lp_net_connect_loopback(port, 5);
    lp_waker *waker = lp_waker_new();
    if (client == LP_SOCKET_NONE || !waker) exit(9);

    lp_poll_item item = {.socket = listener, .want_read = true};
    say("ready", lp_net_poll(&item, 1, waker, 5));
    server = lp_net_accept(listener);
    item = (lp_poll_item){.socket = server, .want_read = true};
    say("timeout", lp_net_poll(&item, 1, waker, 0.02));
    say("would-block", lp_net_read(server, data, sizeof data));

    lp_thread *thread;
    if (lp_thread_start(&thread, ring, waker, 1 << 16, &err) != LP_OK) exit(9);
    double before = lp_clock_seconds();
    say("rung", lp_net_poll(&item, 1, waker, 20));
    say("rung-soon", lp_clock_seconds() - before < 10);
    lp_thread_join(thread);
    for (int i = 0; i < 100000; i++) lp_waker_ring(waker); /* more than a pipe holds */
    say("rung-often", lp_net_poll(&item, 1, waker, 20));
    (void)lp_net_poll(&item, 1, waker, 0); /* what a full pipe did not take at once */
    (void)lp_net_poll(&item, 1, waker, 0);
    say("silent", lp_net_poll(&item, 1, waker, 0.02));

    say("sent", lp_net_write(client, "hello", 5));
    say("arrived", lp_net_poll(&item, 1, waker, 5) == 1 && item.can_read);
    say("received", lp_net_read(server, data, sizeof data));
    lp_net_close(client);
    say("hang-up", lp_net_poll(&item, 1, waker, 5) == 1 && (item.can_read || item.broken));
    say("end", lp_net_read(server, data, sizeof data));
    lp_net_close(server);
    lp_net_close(listener);
    say("own-closed", (long long)lp_net_own_listeners(port, port, &port2, 1));
    lp_waker_free(waker);
    say("refused", lp_net_connect_loopback(port, 5) == LP_SOCKET_NONE);
    say("v6", lp_net_listen(&listener, "::1", 0, &port, NULL, &err));
}

static void terminals(void) {
    say("terminal", lp_terminal_is(1));
    say("raw", lp_terminal_raw(true));
    say("columns", lp_terminal_columns());
    say("console", lp_process_owns_console());
    fflush(stdout);
    say("output", lp_terminal_write(1, lp_str_from("direct gr\xC3\xBC\xC3\x9F"
                                                   "e\n")));
}

/* ---- what a partner asks for ----------------------------------------------------------------- */

static int guard(const char *path) {
    lp_map map;
    char line[8];
    lp_map_guard_install();
    if (lp_map_open(&map, path, &err) != LP_OK) return 9;
    say("ready", (long long)map.size);
    (void)!fgets(line, sizeof line, stdin);
    long long sum = 0;
    for (size_t i = 0; i < map.size; i += 512) sum += map.data[i];
    say("sum", sum);
    return 0;
}

static volatile int stopped;

static void stop(void *user, bool terminate) {
    (void)user;
    stopped = terminate ? 2 : 1;
}

static int signals(void) {
    char data[8];
    lp_signal_install(stop, NULL);
    say("ready", 1);
    for (double end = lp_clock_seconds() + 10; !stopped && lp_clock_seconds() < end;) {
        if (lp_terminal_read(data, sizeof data, 10) < 0) break;
    }
    say("stopped", stopped);
    return 0;
}

static int browser(const char *url) {
    lp_browser_prepare();
    if (url) say("opened", lp_browser_open(url));
    if (url) say("twice", lp_browser_open(url));
    return 0;
}

static int raw(void) {
    char data[16];
    lp_signal_install(stop, NULL);
    say("raw", lp_terminal_raw(true));
    say("ready", lp_terminal_columns());
    while (!stopped) {
        int n = lp_terminal_read(data, sizeof data, 10);
        if (n < 0) break;
        if (n == 0) say("woken", lp_terminal_columns());
        for (int i = 0; i < n; i++) say("byte", (unsigned char)data[i]);
        if (n > 0 && data[0] == 'q') break;
    }
    say("stopped", stopped);
    return 0;
}

static int confine(uint64_t other_port) {
    lp_buf text, path;
    lp_socket listener, second;
    uint16_t port, port2;
    lp_thread *thread;
    unsigned char bytes[600] = {0};
    lp_buf_init(&text, 0);
    lp_buf_init(&path, 0);
    if (lp_net_start(&err) != LP_OK || lp_state_directory(&path, &err) != LP_OK) return 9;
    if (lp_net_listen(&listener, "127.0.0.1", 0, &port, NULL, &err) != LP_OK) return 9;
    lp_buf_add_text(&path, "/history");
    say_text("confined", lp_confine());

    say("read", lp_file_read(&text, "/etc/passwd", 1 << 20, &err));
    say("write", lp_file_write_private("note", lp_str_from("x"), &err));
    say("connect", lp_net_connect_loopback((uint16_t)other_port, 5) != LP_SOCKET_NONE);
    say("listen", lp_net_listen(&second, "127.0.0.1", 0, &port2, NULL, &err));
    say("shell", system("exit 7") == 7 << 8);
    say("state-written", lp_file_write_private(path.data, lp_str_from("history"), &err));
    say("state-read", lp_file_read(&text, path.data, 100, &err));

    say("random", lp_random_bytes(bytes, sizeof bytes) && memcmp(bytes, bytes + 300, 300) != 0);
    say("cpus", lp_cpu_count());
    say("available", (long long)lp_memory_available());
    say("local", lp_clock_local() - lp_clock_unix());
    counter c = {lp_mutex_new(), lp_condition_new(), 0};
    say("thread", lp_thread_start(&thread, count, &c, 1 << 16, &err));
    lp_thread_join(thread);
    say("port", port);
    lp_poll_item item = {.socket = listener, .want_read = true};
    say("polled", lp_net_poll(&item, 1, NULL, 10));
    lp_socket client = lp_net_accept(listener);
    say("accepted", client != LP_SOCKET_NONE && lp_net_write(client, "hello", 5) == 5);
    return 0;
}

/* Sends back what it gets, until it gets "quit". */
static int echo(const char *port_text) {
    lp_socket listener, clients[64];
    size_t n = 0;
    uint16_t port;
    uint64_t wanted;
    if (!lp_parse_u64(lp_str_from(port_text), &wanted) || lp_net_start(&err) != LP_OK) return 9;
    if (lp_net_listen(&listener, "127.0.0.1", (uint16_t)wanted, &port, NULL, &err) != LP_OK) {
        say_text("failed", err.text);
        return 1;
    }
    say("port", port);
    long long rounds = 0;
    for (;;) {
        lp_poll_item items[65];
        items[0] = (lp_poll_item){.socket = listener, .want_read = true};
        for (size_t i = 0; i < n; i++) {
            items[i + 1] = (lp_poll_item){.socket = clients[i], .want_read = true};
        }
        (void)lp_net_poll(items, n + 1, NULL, 10);
        rounds++;
        for (size_t i = n; i-- > 0;) {
            char data[4096];
            if (!items[i + 1].can_read && !items[i + 1].broken) continue;
            int64_t got = lp_net_read(clients[i], data, sizeof data);
            if (got == 4 && memcmp(data, "quit", 4) == 0) {
                say("rounds", rounds);
                return 0;
            }
            if (got > 0) (void)lp_net_write(clients[i], data, (size_t)got);
            if (got < 0) {
                lp_net_close(clients[i]);
                clients[i] = clients[--n];
            }
        }
        if (!items[0].can_read) continue;
        lp_socket client = lp_net_accept(listener);
        if (client != LP_SOCKET_NONE && n < 64) clients[n++] = client;
    }
}

int main(int argc, char **argv) {
    lp_terminal_prepare();
    if (lp_process_arguments(&argc, &argv, &err) != LP_OK) return 9;
    const char *command = argc > 1 ? argv[1] : "";
    const char *argument = argc > 2 ? argv[2] : NULL;
    if (strcmp(command, "guard") == 0 && argument) return guard(argument);
    if (strcmp(command, "signals") == 0) return signals();
    if (strcmp(command, "browser") == 0) return browser(argument);
    if (strcmp(command, "raw") == 0) return raw();
    if (strcmp(command, "echo") == 0 && argument) return echo(argument);
    uint64_t number;
    if (strcmp(command, "confine") == 0 && argument &&
        lp_parse_u64(lp_str_from(argument), &number)) {
        return confine(number);
    }
    if (strcmp(command, "write") == 0) {
        bool done = true;
        for (int i = 0; i < 1000 && done; i++) done = lp_terminal_write(1, lp_str_from("text\n"));
        fprintf(stderr, "done %d\n", done);
        return 0;
    }
    if (strcmp(command, "stdin") == 0) {
        lp_buf text;
        lp_buf_init(&text, 0);
        say("code", lp_file_read(&text, "-", 100000, &err));
        say("bytes", (long long)text.len);
        lp_buf_free(&text);
        return 0;
    }
    if (strcmp(command, "state") == 0) {
        lp_buf path;
        lp_buf_init(&path, 0);
        lp_code code = lp_state_directory(&path, &err);
        say("code", code);
        say_text("path", code == LP_OK ? path.data : err.text);
        lp_buf_free(&path);
        return 0;
    }
    if (strcmp(command, "cpus") == 0) {
        say("cpus", lp_cpu_count());
        say("limit", lp_cpu_limit());
        say("available", (long long)lp_memory_available());
        say("total", (long long)lp_memory_total());
        return 0;
    }
    for (int i = 2; i < argc; i++) say_text("argument", argv[i]);
    threads();
    clocks();
    memory();
    files();
    sockets();
    terminals();
    return 0;
}
