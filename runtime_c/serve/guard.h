/* guard.h - who may ask: the checks before any route, asset or handler.
 *
 * A browser is no friend because it runs on this machine: a page from elsewhere can name us by a
 * DNS name of its own (rebinding: stopped by the allow-list of Host values) or post to us across
 * sites (stopped by Sec-Fetch-Site and Origin, as Go 1.25's CrossOriginProtection does). No CORS
 * header is ever sent, so no other page can read an answer.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_GUARD_H
#define LP_SERVE_GUARD_H

#include "serve/http.h"

#define LP_GUARD_KEY_MIN 16u /* characters of an API key */

typedef struct lp_guard {
    uint16_t port;
    lp_str *hosts; /* (n_hosts) owned, lower case: "name" or "name:port" or "[::1]" */
    size_t n_hosts;
    bool has_key;
    uint8_t key_hash[32]; /* SHA-256 of the key */
} lp_guard;

/* localhost, 127.0.0.1, [::1], the bound host and allow_hosts, with our port. */
lp_code lp_guard_open(lp_guard *guard, const char *bound_host, uint16_t port,
                      const lp_str *allow_hosts, size_t n_allow_hosts, lp_str api_key,
                      lp_error *err) LP_MUST_USE;
void lp_guard_close(lp_guard *guard);

/* 0 = may go on, else the status to answer with (400, 403, 415, 421) and the reason (static text).
 * open_to_all: a GET that other sites may link to (the page's files, /health). */
int lp_guard_check(const lp_guard *guard, const lp_http_request *request, bool open_to_all,
                   const char **reason);
/* True without a key, or when the request carries it. Takes the same time for every wrong key. */
bool lp_guard_key_ok(const lp_guard *guard, const lp_http_request *request);

#endif
