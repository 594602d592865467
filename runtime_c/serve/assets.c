/* assets.c - the page's files and their headers.
 *
 * The policy allows scripts, styles and connections of our own origin and nothing else, no inline
 * code, no framing, no string turned into markup (trusted types): model output is text, and a page
 * that forgot it would still not run it. Hence also no header may be left out for one file type.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/assets.h"

#include "base/inflate.h"
#include "base/memory.h"
#include "platform/thread.h"

#include <string.h>

#define PLAIN_MAX ((size_t)32 << 20) /* bytes of one file of the page, inflated */

static const char security[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'\r\n"
    "Permissions-Policy: camera=(), geolocation=(), microphone=(), payment=(), usb=()\r\n";

static const char no_page[] =
    "This program has no page inside. The API answers under /v1/chat/completions.\n";

static const struct {
    const char *suffix, *type;
} types[] = {
    {".html", "text/html; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".svg", "image/svg+xml"},
    {".png", "image/png"},
    {".ico", "image/x-icon"},
    {".woff2", "font/woff2"},
    {".json", "application/json; charset=utf-8"},
    {".webmanifest", "application/manifest+json"},
    {".txt", "text/plain; charset=utf-8"},
};

static const char *type_of(lp_str name) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (lp_str_ends(name, lp_str_from(types[i].suffix))) return types[i].type;
    return "application/octet-stream";
}

static void put_u32(char *out, uint32_t value) {
    for (int i = 0; i < 4; i++) out[i] = (char)(uint8_t)(value >> (8 * i));
}

static lp_code add_asset(lp_assets *assets, lp_str path, const lp_entry *entry, lp_error *err) {
    lp_asset *asset = &assets->list[assets->n++];
    lp_buf_init(&asset->path, 0);
    lp_buf_init(&asset->plain, PLAIN_MAX);
    lp_buf_add_str(&asset->path, path);
    asset->entry = entry;
    asset->content_type = type_of(entry->name);
    lp_buf tag;
    lp_buf_init(&tag, sizeof asset->etag - 1);
    lp_buf_add_format(&tag, "\"%08x%08x\"", (unsigned)entry->crc32,
                      (unsigned)(uint32_t)entry->bytes);
    if (!tag.failed) memcpy(asset->etag, tag.data, tag.len + 1);
    lp_code code = lp_buf_check(&tag, err);
    lp_buf_free(&tag);
    put_u32(asset->gzip_tail, entry->crc32);
    put_u32(asset->gzip_tail + 4, (uint32_t)entry->bytes);
    if (code == LP_OK) code = lp_buf_check(&asset->path, err);
    return code;
}

static lp_code add_text(lp_assets *assets, lp_error *err) {
    lp_asset *asset = &assets->list[assets->n++];
    lp_buf_init(&asset->path, 0);
    lp_buf_init(&asset->plain, PLAIN_MAX);
    lp_buf_add_char(&asset->path, '/');
    lp_buf_add_text(&asset->plain, no_page);
    asset->content_type = "text/plain; charset=utf-8";
    memcpy(asset->etag, "\"none\"", 7);
    LP_TRY(lp_buf_check(&asset->plain, err));
    return lp_buf_check(&asset->path, err);
}

static lp_code fill(lp_assets *assets, const lp_container *container, size_t count, lp_error *err) {
    lp_str folder = lp_str_from("web/");
    for (size_t i = 0; i < count; i++) {
        const lp_entry *entry = lp_container_at(container, i);
        if (!lp_str_starts(entry->name, folder) || entry->bytes > PLAIN_MAX) continue;
        if (lp_str_is(entry->name, "web/index.html"))
            LP_TRY(add_asset(assets, lp_str_from("/"), entry, err));
        LP_TRY(add_asset(assets, lp_str_slice(entry->name, 3, entry->name.len), entry, err));
    }
    return assets->n == 0 ? add_text(assets, err) : LP_OK;
}

lp_code lp_assets_open(lp_assets *assets, const lp_container *container, lp_error *err) {
    memset(assets, 0, sizeof *assets);
    size_t count = container != NULL ? lp_container_count(container) : 0;
    assets->list = lp_alloc(count + 2, sizeof *assets->list);
    if (assets->list == NULL)
        return lp_fail(err, LP_ERR_MEMORY, "out of memory for the page's files");
    lp_code code = fill(assets, container, count, err);
    if (code != LP_OK) lp_assets_close(assets);
    return code;
}

void lp_assets_close(lp_assets *assets) {
    for (size_t i = 0; i < assets->n; i++) {
        lp_buf_free(&assets->list[i].path);
        lp_buf_free(&assets->list[i].plain);
    }
    lp_free(assets->list);
    memset(assets, 0, sizeof *assets);
}

lp_asset *lp_assets_find(lp_assets *assets, lp_str path) {
    for (size_t i = 0; i < assets->n; i++)
        if (lp_str_equal(lp_buf_str(&assets->list[i].path), path)) return &assets->list[i];
    return NULL;
}

/* The plain bytes, inflated at the first request that needs them; false when the entry is damaged.
 */
static bool plain_bytes(lp_asset *asset, lp_str *out) {
    const lp_entry *entry = asset->entry;
    if (entry != NULL && !entry->deflated) {
        *out = (lp_str){(const char *)entry->data, entry->bytes};
        return true;
    }
    if (entry != NULL && asset->plain.data == NULL &&
        lp_inflate_add(&asset->plain, entry->data, entry->stored_bytes, entry->bytes, NULL) !=
            LP_OK) {
        lp_buf_free(&asset->plain);
        return false;
    }
    *out = lp_buf_str(&asset->plain);
    return true;
}

void lp_asset_answer(lp_asset *asset, const lp_http_request *request, lp_buf *head,
                     lp_asset_reply *reply) {
    static const char gzip_head[10] = {0x1f, (char)0x8b, 8, 0, 0, 0, 0, 0, 0, (char)0xff};
    *reply = (lp_asset_reply){{NULL, 0}, {NULL, 0}};
    lp_str value;
    bool same =
        lp_http_field_get(request, "if-none-match", &value) && lp_http_list_has(value, asset->etag);
    bool gzip = asset->entry != NULL && asset->entry->deflated &&
                lp_http_field_get(request, "accept-encoding", &value) &&
                lp_http_list_has(value, "gzip");
    lp_http_reply answer = {.status = same ? 304 : 200,
                            .content_type = same ? NULL : asset->content_type,
                            .keep_alive = request->keep_alive,
                            .now = lp_clock_unix()};
    if (!same && gzip) {
        reply->body = (lp_str){(const char *)asset->entry->data, asset->entry->stored_bytes};
        reply->tail = (lp_str){asset->gzip_tail, sizeof asset->gzip_tail};
        answer.length = sizeof gzip_head + reply->body.len + reply->tail.len;
    } else if (!same && !plain_bytes(asset, &reply->body)) {
        answer.status = 500;
        answer.content_type = "text/plain; charset=utf-8";
    } else if (!same) {
        answer.length = reply->body.len;
    }
    lp_buf extra;
    lp_buf_init(&extra, 0);
    lp_buf_add_text(&extra, security);
    lp_buf_add_format(&extra, "ETag: %s\r\nVary: Accept-Encoding\r\n%s", asset->etag,
                      gzip && !same ? "Content-Encoding: gzip\r\n" : "");
    answer.extra = extra.data;
    lp_http_add_head(head, &answer);
    if (extra.failed) head->failed = true;
    lp_buf_free(&extra);
    if (request->method == LP_HTTP_HEAD_METHOD)
        *reply = (lp_asset_reply){{NULL, 0}, {NULL, 0}};
    else if (gzip && !same)
        lp_buf_add(head, gzip_head, sizeof gzip_head);
}
