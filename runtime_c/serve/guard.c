/* guard.c - Host allow-list, same-origin rule, media type and API key.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/guard.h"

#include "base/memory.h"
#include "base/sha256.h"

#include <string.h>

static const char *const loopback_names[] = {"localhost", "127.0.0.1", "[::1]"};

/* Copies a host in lower case into memory of its own; bytes that no host has are refused. */
static lp_code add_host(lp_guard *guard, lp_str host, bool bracket, lp_error *err) {
    if (host.len == 0 || host.len > 255)
        return lp_fail(err, LP_ERR_ARGUMENT, "a host name is empty or longer than 255");
    size_t extra = bracket ? 2 : 0;
    char *copy = lp_alloc(host.len + extra + 1, 1);
    if (copy == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the host list");
    size_t n = 0;
    if (bracket) copy[n++] = '[';
    for (size_t i = 0; i < host.len; i++) {
        char c = host.data[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        bool fine = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || strchr("-._:[]", c) != NULL;
        if (!fine || c == 0) {
            lp_free(copy);
            return lp_fail(err, LP_ERR_ARGUMENT, "'%.*s' is not a host name", (int)host.len,
                           host.data);
        }
        copy[n++] = c;
    }
    if (bracket) copy[n++] = ']';
    guard->hosts[guard->n_hosts++] = (lp_str){copy, n};
    return LP_OK;
}

static lp_code add_hosts(lp_guard *guard, const char *bound_host, const lp_str *allow_hosts,
                         size_t n_allow_hosts, lp_error *err) {
    for (size_t i = 0; i < 3; i++)
        LP_TRY(add_host(guard, lp_str_from(loopback_names[i]), false, err));
    if (bound_host != NULL) {
        bool ipv6 = strchr(bound_host, ':') != NULL && bound_host[0] != '[';
        LP_TRY(add_host(guard, lp_str_from(bound_host), ipv6, err));
    }
    for (size_t i = 0; i < n_allow_hosts; i++) LP_TRY(add_host(guard, allow_hosts[i], false, err));
    return LP_OK;
}

lp_code lp_guard_open(lp_guard *guard, const char *bound_host, uint16_t port,
                      const lp_str *allow_hosts, size_t n_allow_hosts, lp_str api_key,
                      lp_error *err) {
    memset(guard, 0, sizeof *guard);
    guard->port = port;
    if (n_allow_hosts > 64) return lp_fail(err, LP_ERR_ARGUMENT, "more than 64 allowed hosts");
    if (api_key.len > 0) {
        if (api_key.len < LP_GUARD_KEY_MIN)
            return lp_fail(err, LP_ERR_ARGUMENT, "the API key is shorter than %u characters",
                           LP_GUARD_KEY_MIN);
        guard->has_key = true;
        lp_sha256(api_key.data, api_key.len, guard->key_hash);
    }
    guard->hosts = lp_alloc(n_allow_hosts + 4, sizeof *guard->hosts);
    if (guard->hosts == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the host list");
    lp_code code = add_hosts(guard, bound_host, allow_hosts, n_allow_hosts, err);
    if (code != LP_OK) lp_guard_close(guard);
    return code;
}

void lp_guard_close(lp_guard *guard) {
    for (size_t i = 0; i < guard->n_hosts; i++) lp_free((void *)(uintptr_t)guard->hosts[i].data);
    lp_free(guard->hosts);
    guard->hosts = NULL;
    guard->n_hosts = 0;
}

/* ---- Host ---------------------------------------------------------------------------------- */

/* Splits "name:port" and "[v6]:port". No port gives port.len 0 and has_colon false. */
static void split_host(lp_str host, lp_str *name, lp_str *port, bool *has_colon) {
    size_t end = 0;
    if (host.len > 0 && host.data[0] == '[') {
        while (end < host.len && host.data[end] != ']') end++;
        if (end < host.len) end++;
    } else {
        while (end < host.len && host.data[end] != ':') end++;
    }
    *name = lp_str_slice(host, 0, end);
    *has_colon = end < host.len && host.data[end] == ':';
    *port = *has_colon ? lp_str_slice(host, end + 1, host.len) : lp_str_slice(host, end, host.len);
}

/* Digits without leading zeros, as browsers write them. */
static bool port_is(lp_str text, uint16_t port) {
    uint64_t value;
    if (text.len == 0 || text.data[0] == '0' || !lp_parse_u64(text, &value)) return false;
    return value == port;
}

/* The three loopback names and the bound host: with our exact port (80 may be left out). Others: an
 * entry with a port is compared as it stands; one without stands for the name alone (behind a proxy
 * at its default port) and for the name with our port. */
static bool host_allowed(const lp_guard *guard, lp_str host) {
    lp_str name, port;
    bool has_colon;
    split_host(host, &name, &port, &has_colon);
    bool junk = !has_colon && port.len > 0;
    if (junk) return false;
    bool ours = has_colon ? port_is(port, guard->port) : guard->port == 80;
    for (size_t i = 0; i < guard->n_hosts; i++) {
        bool listed = i >= 3;
        if (ours && lp_http_same_text(name, guard->hosts[i])) return true;
        if (listed && lp_http_same_text(host, guard->hosts[i])) return true;
    }
    return false;
}

/* ---- same origin --------------------------------------------------------------------------- */

static bool origin_matches(lp_str origin, lp_str host) {
    static const char *const schemes[] = {"http://", "https://"};
    for (size_t i = 0; i < 2; i++) {
        lp_str scheme = lp_str_from(schemes[i]);
        if (origin.len > scheme.len &&
            lp_http_same_text(lp_str_slice(origin, 0, scheme.len), scheme))
            return lp_http_same_text(lp_str_slice(origin, scheme.len, origin.len), host);
    }
    return false;
}

/* Both must agree: what the browser says of the relation, and the origin it names. Neither header:
 * not a browser (or one too old to send them, which then sends no cross-site JSON post either). */
static bool same_origin(const lp_http_request *request, lp_str host) {
    lp_str value;
    if (lp_http_field_get(request, "sec-fetch-site", &value) && !lp_str_is(value, "same-origin") &&
        !lp_str_is(value, "none"))
        return false;
    return !lp_http_field_get(request, "origin", &value) || origin_matches(value, host);
}

/* application/json, with no parameter but charset=utf-8. */
static bool is_json_type(lp_str value) {
    size_t semicolon = lp_str_find(value, lp_str_from(";"), 0);
    lp_str type = lp_str_slice(value, 0, semicolon < value.len ? semicolon : value.len);
    while (type.len > 0 && (type.data[type.len - 1] == ' ' || type.data[type.len - 1] == '\t'))
        type.len--;
    if (!lp_http_same_text(type, lp_str_from("application/json"))) return false;
    if (semicolon >= value.len) return true;
    lp_str rest = lp_str_slice(value, semicolon + 1, value.len);
    while (rest.len > 0 && (rest.data[0] == ' ' || rest.data[0] == '\t')) rest.data++, rest.len--;
    return rest.len == 0 || lp_http_same_text(rest, lp_str_from("charset=utf-8")) ||
           lp_http_same_text(rest, lp_str_from("charset=\"utf-8\""));
}

int lp_guard_check(const lp_guard *guard, const lp_http_request *request, bool open_to_all,
                   const char **reason) {
    lp_str host;
    if (!lp_http_field_get(request, "host", &host) || host.len == 0) {
        *reason = "the request has no Host header";
        return 400;
    }
    if (!host_allowed(guard, host)) {
        *reason = "this server does not answer to that host name (see --allow-host)";
        return 421;
    }
    if (request->authority.len > 0 && !lp_http_same_text(request->authority, host)) {
        *reason = "the target names another host than the Host header";
        return 400;
    }
    bool reads = request->method == LP_HTTP_GET || request->method == LP_HTTP_HEAD_METHOD;
    if (!(open_to_all && reads) && !same_origin(request, host)) {
        *reason = "requests from other sites are refused";
        return 403;
    }
    lp_str type;
    if (request->method == LP_HTTP_POST &&
        !(lp_http_field_get(request, "content-type", &type) && is_json_type(type))) {
        *reason = "POST needs Content-Type: application/json";
        return 415;
    }
    return 0;
}

/* ---- key ----------------------------------------------------------------------------------- */

bool lp_guard_key_ok(const lp_guard *guard, const lp_http_request *request) {
    if (!guard->has_key) return true;
    lp_str value;
    if (lp_http_field_get(request, "authorization", &value)) {
        static const char bearer[] = "bearer ";
        if (value.len < 7 || !lp_http_same_text(lp_str_slice(value, 0, 7), lp_str_from(bearer)))
            return false;
        value = lp_str_slice(value, 7, value.len);
    } else if (!lp_http_field_get(request, "x-api-key", &value)) {
        return false;
    }
    uint8_t hash[32];
    lp_sha256(value.data, value.len, hash);
    unsigned differ = 0;
    for (size_t i = 0; i < sizeof hash; i++) differ |= (unsigned)(hash[i] ^ guard->key_hash[i]);
    return differ == 0;
}
