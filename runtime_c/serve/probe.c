/* probe.c - is another copy of this program already serving?
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/server.h"

#include "base/json.h"
#include "base/sha256.h"
#include "platform/net.h"
#include "platform/thread.h"

#define ANSWER_MAX      16384u
#define CONNECT_SECONDS 0.3
#define PORTS_MAX       128u

/* Asks for /health and reads until the other side closes. True: the time ran out before it did. */
static bool ask(lp_socket socket, uint16_t port, double patience, lp_buf *answer) {
    lp_buf request;
    lp_buf_init(&request, 0);
    lp_buf_add_format(&request,
                      "GET /health HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nConnection: close\r\n\r\n",
                      (unsigned)port);
    int64_t sent =
        lp_net_write(socket, request.data, request.len); /* far below any socket's buffer */
    bool whole = !request.failed && sent == (int64_t)request.len;
    lp_buf_free(&request);
    double end = lp_clock_seconds() + patience;
    while (whole && !answer->failed) {
        double left = end - lp_clock_seconds();
        lp_poll_item item = {.socket = socket, .want_read = true};
        if (left <= 0 || lp_net_poll(&item, 1, NULL, left) == 0) return true;
        char bytes[4096];
        int64_t n = lp_net_read(socket, bytes, sizeof bytes);
        if (n < 0) return false;
        lp_buf_add(answer, bytes, (size_t)n);
    }
    return false;
}

static bool text_is(const lp_json_node *object, const char *key, const char *value) {
    const lp_json_node *node = lp_json_get(object, key);
    return node != NULL && lp_json_type_of(node) == LP_JSON_STRING &&
           lp_str_is(lp_json_string(node), value);
}

static bool is_ours(lp_str answer, const char *id) {
    size_t head = lp_str_find(answer, lp_str_from("\r\n\r\n"), 0);
    if (head >= answer.len || !lp_str_starts(answer, lp_str_from("HTTP/1.1 200 "))) return false;
    lp_json *json = NULL;
    if (lp_json_parse(&json, lp_str_slice(answer, head + 4, answer.len), NULL) != LP_OK)
        return false;
    const lp_json_node *root = lp_json_root(json);
    bool ours = lp_json_type_of(root) == LP_JSON_OBJECT && text_is(root, "app", "llamapack") &&
                text_is(root, "instance", id);
    lp_json_free(json);
    return ours;
}

void lp_server_instance_id(const char *instance, char out[LP_INSTANCE_ID]) {
    uint8_t hash[32];
    lp_str text = lp_str_from(instance);
    lp_sha256(text.data, text.len, hash);
    for (size_t i = 0; i + 1 < LP_INSTANCE_ID; i++)
        out[i] = "0123456789abcdef"[(hash[i / 2] >> (i % 2 == 0 ? 4 : 0)) & 15];
    out[LP_INSTANCE_ID - 1] = '\0';
}

uint16_t lp_server_probe(uint16_t first, uint16_t last, const char *instance, double patience,
                         uint16_t *silent) {
    uint16_t ports[PORTS_MAX];
    char id[LP_INSTANCE_ID];
    *silent = 0;
    lp_server_instance_id(instance, id);
    if (lp_net_start(NULL) != LP_OK) return 0;
    size_t n = lp_net_own_listeners(first, last, ports, PORTS_MAX);
    for (size_t i = 0; i < n; i++) {
        lp_socket socket = lp_net_connect_loopback(ports[i], CONNECT_SECONDS);
        if (socket == LP_SOCKET_NONE) continue;
        lp_buf answer;
        lp_buf_init(&answer, ANSWER_MAX);
        bool waited = ask(socket, ports[i], patience, &answer);
        lp_net_close(socket);
        if (waited && answer.len == 0) *silent = ports[i];
        bool ours = is_ours(lp_buf_str(&answer), id);
        lp_buf_free(&answer);
        if (ours) return ports[i];
    }
    return 0;
}
