/* fuzz_http.c - hostile request bytes, cut in a way the input chooses.
 *
 * libFuzzer harness. The first byte says how long the pieces are; the rest is what a client sends.
 * Oracles: every way of cutting gives the same events, statuses, bodies and rest; borrowed strings
 * lie inside the head; the guard takes whatever the parser lets through.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "serve/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REQUESTS = 4 };

typedef struct outcome {
    lp_http_event event;
    int status;
    size_t used, body, n_fields;
    uint64_t body_hash;
} outcome;

static void require(bool condition) {
    if (!condition) abort();
}

static void inside(const lp_http_request *r, lp_str text) {
    if (text.len == 0) return;
    const char *begin = r->head.data, *end = r->head.data + r->head.len;
    /* "/" of an absolute target without a path is the one text that is not the client's. */
    bool constant = text.len == 1 && text.data[0] == '/';
    require(constant || (text.data >= begin && text.data + text.len <= end));
}

static void check_head(const lp_http_request *r) {
    inside(r, r->target);
    inside(r, r->path);
    inside(r, r->authority);
    for (size_t i = 0; i < r->n_fields; i++) {
        inside(r, r->fields[i].name);
        inside(r, r->fields[i].value);
    }
    lp_guard guard;
    lp_str key = lp_str_from("0123456789abcdef"), host = lp_str_from("chat.example");
    if (lp_guard_open(&guard, NULL, 8080, &host, 1, key, NULL) != LP_OK) return;
    const char *reason = NULL;
    int status = lp_guard_check(&guard, r, false, &reason);
    require(status == 0 || reason != NULL);
    (void)lp_guard_key_ok(&guard, r);
    lp_guard_close(&guard);
}

/* Feeds up to REQUESTS requests in pieces of `piece` bytes; returns how many outcomes. */
static size_t feed(const char *data, size_t size, size_t piece, outcome out[REQUESTS]) {
    lp_http_request r;
    lp_http_init(&r);
    size_t at = 0, n = 0;
    while (n < REQUESTS) {
        size_t len = size - at < piece ? size - at : piece, taken = 0;
        lp_http_event event = lp_http_feed(&r, data + at, len, &taken);
        require(taken <= len);
        at += taken;
        if (event == LP_HTTP_HEAD) {
            check_head(&r);
            continue;
        }
        if (event == LP_HTTP_MORE && at < size) {
            require(taken == len);
            continue;
        }
        lp_str body = lp_buf_str(&r.body);
        out[n++] = (outcome){event, r.status, at, body.len, r.n_fields, lp_str_hash(body)};
        if (event != LP_HTTP_DONE) break;
        lp_http_reset(&r);
        if (at == size) break;
    }
    lp_http_free(&r);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const char *text = (const char *)data + 1;
    outcome whole[REQUESTS], cut[REQUESTS];
    memset(whole, 0, sizeof whole);
    memset(cut, 0, sizeof cut);
    size_t n = feed(text, size - 1, size, whole);
    size_t m = feed(text, size - 1, (size_t)data[0] % 97 + 1, cut);
    require(n == m);
    for (size_t i = 0; i < n; i++) {
        require(whole[i].event == cut[i].event && whole[i].status == cut[i].status);
        require(whole[i].used == cut[i].used && whole[i].body == cut[i].body);
        require(whole[i].n_fields == cut[i].n_fields && whole[i].body_hash == cut[i].body_hash);
    }
    return 0;
}
