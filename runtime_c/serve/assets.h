/* assets.h - the page's files: a fixed table made once from the container's web/ entries.
 *
 * A request's path is compared with the table and never becomes a file's path. Entries are kept
 * deflated in the executable; a client that takes gzip gets those bytes with ten in front and
 * eight behind (RFC 1952), others get the inflated text.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_ASSETS_H
#define LP_SERVE_ASSETS_H

#include "model/container.h"
#include "serve/http.h"

typedef struct lp_asset {
    lp_buf path;              /* "/app.js"; index.html is "/" as well */
    const char *content_type; /* static */
    const lp_entry *entry;    /* borrowed from the container; NULL for built-in text */
    lp_buf plain;             /* inflated on first use; owned */
    char etag[24];            /* with its quotes */
    char gzip_tail[8];        /* CRC-32 and size */
} lp_asset;

typedef struct lp_assets {
    lp_asset *list; /* owned */
    size_t n;
} lp_assets;

/* container may be NULL or hold no page: then "/" is a line of text that says so. */
lp_code lp_assets_open(lp_assets *assets, const lp_container *container, lp_error *err) LP_MUST_USE;
void lp_assets_close(lp_assets *assets);
lp_asset *lp_assets_find(lp_assets *assets, lp_str path);

/* A reply in three parts; body and tail are borrowed from the asset. */
typedef struct lp_asset_reply {
    lp_str body, tail;
} lp_asset_reply;
void lp_asset_answer(lp_asset *asset, const lp_http_request *request, lp_buf *head,
                     lp_asset_reply *reply);

#endif
