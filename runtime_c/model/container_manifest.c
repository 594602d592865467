/* container_manifest.c - reads manifest.json and checks every hash it holds.
 *
 * The layout of the manifest is documented once, by its writer: builder/llamapack/container.py.
 * Unknown keys are ignored, another major format is refused. At the start only the manifest itself
 * is checked (by its CRC-32); lp_container_verify reads the whole file:
 *
 *   runtime   bytes 0 .. runtime.size, less the ranges that signing changes
 *   entries   the data of each, as it lies in the file, the weights by chunk
 *   the rest  local headers, padding, manifest, directory and the end record's 22 fixed bytes, by
 *             the hash in the end record's comment
 *
 * so that every byte up to the comment is covered by exactly one of them. The program of a macOS
 * application, a file of its own, has a row like the runtime's ("program").
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/memory.h"
#include "base/sha256.h"
#include "model/container_internal.h"

enum { FORMAT = 1, MOST_ARGS = 1024, MOST_MANIFEST = 16 << 20 };

/* The first second of the year 10000. */
static const int64_t END_OF_DATES = INT64_C(253402300800);

static const char manifest_name[] = "manifest.json";

static lp_code wrong(lp_error *err, const char *key, const char *what) {
    return lp_fail(err, LP_ERR_FORMAT, "manifest.json: \"%s\" %s", key, what);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* A missing key leaves the empty string. NUL is refused: these texts become C strings later. */
static lp_code read_text(const lp_json_node *object, const char *key, lp_str *out, lp_error *err) {
    *out = (lp_str){"", 0};
    const lp_json_node *node = lp_json_get(object, key);
    if (!node) return LP_OK;
    if (lp_json_type_of(node) != LP_JSON_STRING) return wrong(err, key, "is not a text");
    lp_str text = lp_json_string(node);
    if (text.len > 0 && memchr(text.data, 0, text.len)) return wrong(err, key, "holds a NUL");
    if (text.len > 0) *out = text;
    return LP_OK;
}

static lp_code read_format(const lp_json_node *root, lp_manifest *m, lp_error *err) {
    int64_t format;
    const lp_json_node *node = lp_json_get(root, "format");
    if (!node || !lp_json_integer(node, &format) || format < 0 || format > 1000000) {
        return wrong(err, "format", "is missing or not a version");
    }
    if (format != FORMAT) {
        return lp_fail(
            err, LP_ERR_UNSUPPORTED,
            "manifest.json has format %d, this runtime knows %d: made by another version "
            "of llamapack",
            (int)format, FORMAT);
    }
    m->format = (uint32_t)format;
    return LP_OK;
}

static lp_code read_args(lp_container *c, const lp_json_node *root, lp_error *err) {
    const lp_json_node *node = lp_json_get(root, "args");
    if (!node) return LP_OK;
    if (lp_json_type_of(node) != LP_JSON_ARRAY) return wrong(err, "args", "is not a list");
    size_t n = lp_json_count(node);
    if (n > MOST_ARGS) return wrong(err, "args", "is too long");
    c->args = lp_alloc(n, sizeof *c->args);
    if (!c->args) return lp_fail(err, LP_ERR_MEMORY, "no memory for the manifest");
    size_t i = 0;
    for (const lp_json_node *item = lp_json_first(node); item; item = lp_json_next(item)) {
        lp_str text = lp_json_string(item);
        if (lp_json_type_of(item) != LP_JSON_STRING || memchr(text.data, 0, text.len)) {
            return wrong(err, "args", "holds something else than texts");
        }
        c->args[i++] = text;
    }
    c->manifest.args = c->args;
    c->manifest.n_args = n;
    return LP_OK;
}

static lp_code read_license(const lp_json_node *root, lp_manifest *m, lp_error *err) {
    m->license_name = m->license_notice = (lp_str){"", 0};
    const lp_json_node *node = lp_json_get(root, "license");
    if (!node) return LP_OK;
    if (lp_json_type_of(node) != LP_JSON_OBJECT) return wrong(err, "license", "is not an object");
    LP_TRY(read_text(node, "name", &m->license_name, err));
    return read_text(node, "notice", &m->license_notice, err);
}

/* The prepared system prompt only saves time: a row that makes no sense is as none. */
static void read_system_kv(lp_container *c, const lp_json_node *root) {
    lp_manifest *m = &c->manifest;
    const lp_json_node *prepared = lp_json_get(root, "system_kv");
    m->system_kv_entry = m->model_sha256 = (lp_str){"", 0};
    if (!prepared || lp_json_type_of(prepared) != LP_JSON_OBJECT ||
        read_text(prepared, "entry", &m->system_kv_entry, NULL) != LP_OK)
        m->system_kv_entry = (lp_str){"", 0};
    const lp_json_node *rows = lp_json_get(root, "entries"), *row = NULL;
    if (rows && lp_json_type_of(rows) == LP_JSON_ARRAY) row = lp_json_first(rows);
    for (; row && m->model_entry.len > 0; row = lp_json_next(row)) {
        const lp_json_node *name = lp_json_get(row, "name"), *digest = lp_json_get(row, "sha256");
        if (!name || !digest || !lp_str_equal(lp_json_string(name), m->model_entry)) continue;
        m->model_sha256 = lp_json_string(digest);
        return;
    }
}

/* Weights in a file of their own. Its name is used to look beside this file, so it must be one. */
static lp_code read_weights(const lp_json_node *root, lp_manifest *m, lp_error *err) {
    m->weights_file = m->weights_seal = (lp_str){"", 0};
    const lp_json_node *node = lp_json_get(root, "weights");
    if (!node) return LP_OK;
    if (lp_json_type_of(node) != LP_JSON_OBJECT) return wrong(err, "weights", "is not an object");
    LP_TRY(read_text(node, "file", &m->weights_file, err));
    LP_TRY(read_text(node, "sha256", &m->weights_seal, err));
    int64_t size;
    const lp_json_node *bytes = lp_json_get(node, "size");
    if (!bytes || !lp_json_integer(bytes, &size) || size <= 0 || m->weights_seal.len != 64) {
        return wrong(err, "weights", "has no size or no hash");
    }
    m->weights_size = (uint64_t)size;
    bool plain = lp_container_plain_name(m->weights_file);
    if (!plain || memchr(m->weights_file.data, '/', m->weights_file.len)) {
        return wrong(err, "weights", "does not name a file");
    }
    if (m->model_entry.len > 0) return wrong(err, "weights", "stands beside \"model\"");
    return LP_OK;
}

static lp_code read_date(const lp_json_node *root, lp_manifest *m, lp_error *err) {
    const lp_json_node *node = lp_json_get(root, "date");
    if (!node) return LP_OK;
    m->has_date = lp_json_integer(node, &m->date) && m->date >= 0 && m->date < END_OF_DATES;
    return m->has_date ? LP_OK : wrong(err, "date", "is not a time");
}

/* The weights are used where they lie, so they must be stored, and aligned for vector loads. */
static lp_code check_model(const lp_container *c, lp_error *err) {
    lp_str name = c->manifest.model_entry;
    if (name.len == 0) return LP_OK;
    const lp_entry *entry = lp_container_find(c, name);
    const char *what = NULL;
    if (!entry)
        what = "names an entry that is not there";
    else if (entry->deflated)
        what = "names a compressed entry; weights must be stored";
    else if ((size_t)(entry->data - c->data) % 64 != 0)
        what = "names an entry that is not aligned";
    return what ? wrong(err, "model", what) : LP_OK;
}

static lp_code read_manifest(lp_container *c, lp_error *err) {
    const lp_json_node *root = lp_json_root(c->json);
    lp_manifest *m = &c->manifest;
    if (lp_json_type_of(root) != LP_JSON_OBJECT) {
        return lp_fail(err, LP_ERR_FORMAT, "manifest.json is not an object");
    }
    LP_TRY(read_format(root, m, err));
    LP_TRY(read_text(root, "name", &m->name, err));
    LP_TRY(read_text(root, "builder", &m->builder, err));
    LP_TRY(read_text(root, "target", &m->target, err));
    LP_TRY(read_text(root, "model", &m->model_entry, err));
    LP_TRY(read_text(root, "system", &m->system, err));
    LP_TRY(read_text(root, "chat_template_sha256", &m->template_sha256, err));
    LP_TRY(read_args(c, root, err));
    LP_TRY(read_license(root, m, err));
    LP_TRY(read_weights(root, m, err));
    LP_TRY(read_date(root, m, err));
    const lp_json_node *program = lp_json_get(root, "program");
    m->program = (lp_str){"", 0};
    if (program) LP_TRY(read_text(program, "name", &m->program, err));
    if (program && m->program.len == 0) return wrong(err, "program", "has no name");
    read_system_kv(c, root);
    return check_model(c, err);
}

lp_code lp_manifest_read(lp_container *container, lp_error *err) {
    const lp_entry *entry = lp_container_find(container, lp_str_from(manifest_name));
    if (!entry) return LP_OK;
    if (entry->deflated) return lp_fail(err, LP_ERR_FORMAT, "manifest.json is compressed");
    if (entry->stored_bytes > MOST_MANIFEST) {
        return lp_fail(err, LP_ERR_LIMIT, "manifest.json is over 16 MiB");
    }
    LP_TRY(lp_container_check(entry, err));
    lp_code code =
        lp_json_parse(&container->json, (lp_str){(const char *)entry->data, entry->bytes}, err);
    if (code != LP_OK) return lp_error_prefix(err, manifest_name);
    return read_manifest(container, err);
}

const lp_manifest *lp_container_manifest(const lp_container *container) {
    return container->json ? &container->manifest : NULL;
}

lp_str lp_container_seal(const lp_container *container) {
    lp_str head = lp_str_from("llamapack sha256 "), comment = container->comment;
    if (comment.len != head.len + 64 || !lp_str_starts(comment, head)) return (lp_str){"", 0};
    return lp_str_slice(comment, head.len, comment.len);
}

/* ---- verifying ----------------------------------------------------------------------------- */

typedef struct verifier {
    const lp_container *c;
    const lp_json_node *root;
    const uint8_t *data; /* what is read, from its first byte on */
    size_t runtime_size;
    bool *listed; /* owned; per entry: the manifest has a row for it */
    uint64_t done;
    void (*progress)(void *user, uint64_t done, uint64_t total);
    void *user;
    lp_error *err;
} verifier;

/* Feeds in pieces, so that progress moves and a pause is never long. */
static void feed(verifier *v, lp_sha256_state *hash, size_t begin, size_t end) {
    while (begin < end) {
        size_t part = end - begin < (4u << 20) ? end - begin : (4u << 20);
        lp_sha256_add(hash, v->data + begin, part);
        begin += part;
        v->done += part;
        if (v->progress) v->progress(v->user, v->done, v->c->fixed_end);
    }
}

/* Compares a digest with 64 lower-case hex digits. */
static bool same_digest(lp_sha256_state *hash, lp_str hex) {
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[32];
    lp_sha256_finish(hash, digest);
    if (hex.len != 64) return false;
    for (size_t i = 0; i < 64; i++) {
        if (hex.data[i] != digits[digest[i / 2] >> (i % 2 ? 0 : 4) & 15]) return false;
    }
    return true;
}

static bool read_size(const lp_json_node *node, size_t *out) {
    int64_t value;
    if (!node || !lp_json_integer(node, &value) || value < 0) return false;
    *out = (size_t)value;
    return true;
}

static lp_str text_of(const lp_json_node *object, const char *key) {
    const lp_json_node *node = lp_json_get(object, key);
    return node ? lp_json_string(node) : (lp_str){"", 0};
}

/* The digest of a program's first `size` bytes, `have` of which are there, less its row's "skip".
 */
static lp_code hash_program(verifier *v, const lp_json_node *row, size_t size, size_t have,
                            lp_sha256_state *hash) {
    lp_sha256_start(hash);
    size_t at = 0;
    const lp_json_node *skip = lp_json_get(row, "skip");
    if (skip && lp_json_type_of(skip) != LP_JSON_ARRAY)
        return wrong(v->err, "skip", "is not a list");
    for (const lp_json_node *s = skip ? lp_json_first(skip) : NULL; s; s = lp_json_next(s)) {
        const lp_json_node *from = lp_json_first(s);
        size_t offset, length;
        if (lp_json_type_of(s) != LP_JSON_ARRAY || lp_json_count(s) != 2 ||
            !read_size(from, &offset) || !read_size(lp_json_next(from), &length) || offset < at ||
            offset > size || length > size - offset) {
            return wrong(v->err, "skip", "is not a list of ascending ranges of the program");
        }
        feed(v, hash, at, offset < have ? offset : have);
        at = offset + length;
        v->done += length;
    }
    feed(v, hash, at, size < have ? size : have);
    return LP_OK;
}

static lp_code verify_runtime(verifier *v) {
    const lp_json_node *runtime = lp_json_get(v->root, "runtime");
    if (!runtime || !read_size(lp_json_get(runtime, "size"), &v->runtime_size)) {
        return wrong(v->err, "runtime", "has no size");
    }
    const lp_entry *first = v->c->placed[0];
    if (v->runtime_size > (size_t)(first->data - v->c->data)) {
        return wrong(v->err, "runtime", "reaches into the archive");
    }
    lp_sha256_state hash;
    LP_TRY(hash_program(v, runtime, v->runtime_size, v->runtime_size, &hash));
    if (same_digest(&hash, text_of(runtime, "sha256"))) return LP_OK;
    return lp_fail(v->err, LP_ERR_FORMAT, "the runtime (the first %llu bytes) was changed",
                   (unsigned long long)v->runtime_size);
}

/* Each chunk's digest, and the root: the digest of all digests in a row. */
static lp_code verify_chunks(verifier *v, const lp_entry *entry, const lp_json_node *row,
                             const lp_json_node *chunks) {
    size_t chunk_size, begin = (size_t)(entry->data - v->c->data);
    if (lp_json_type_of(chunks) != LP_JSON_ARRAY ||
        !read_size(lp_json_get(row, "chunk_size"), &chunk_size) || chunk_size == 0) {
        return wrong(v->err, "chunks", "is not a list, or has no chunk_size");
    }
    size_t expected = entry->stored_bytes / chunk_size + (entry->stored_bytes % chunk_size != 0);
    if (lp_json_count(chunks) != expected) return wrong(v->err, "chunks", "has a wrong length");
    lp_sha256_state root, hash;
    lp_sha256_start(&root);
    size_t at = 0;
    for (const lp_json_node *item = lp_json_first(chunks); item; item = lp_json_next(item)) {
        size_t left = entry->stored_bytes - at, part = left < chunk_size ? left : chunk_size;
        lp_sha256_start(&hash);
        feed(v, &hash, begin + at, begin + at + part);
        lp_sha256_state copy = hash;
        uint8_t digest[32];
        lp_sha256_finish(&copy, digest);
        lp_sha256_add(&root, digest, sizeof digest);
        if (!same_digest(&hash, lp_json_string(item))) {
            return lp_fail(v->err, LP_ERR_FORMAT, "%.*s was changed within its bytes %llu to %llu",
                           entry->name.len > 80 ? 80 : (int)entry->name.len, entry->name.data,
                           (unsigned long long)at, (unsigned long long)(at + part));
        }
        at += part;
    }
    if (same_digest(&root, text_of(row, "sha256"))) return LP_OK;
    return wrong(v->err, "sha256", "of the weights is not that of their chunks");
}

static lp_code verify_entry(verifier *v, const lp_json_node *row) {
    lp_str name = text_of(row, "name");
    const lp_entry *entry = lp_container_find(v->c, name);
    int shown = name.len > 80 ? 80 : (int)name.len;
    if (!entry) {
        return lp_fail(v->err, LP_ERR_FORMAT, "%.*s is in the manifest but not in the archive",
                       shown, name.data);
    }
    bool *listed = &v->listed[entry - v->c->entries];
    size_t size, stored;
    if (*listed || lp_str_is(name, manifest_name) || !read_size(lp_json_get(row, "size"), &size) ||
        !read_size(lp_json_get(row, "stored"), &stored)) {
        return wrong(v->err, "entries", "has a row that is doubled or not complete");
    }
    *listed = true;
    if (size != entry->bytes || stored != entry->stored_bytes) {
        return lp_fail(v->err, LP_ERR_FORMAT, "%.*s has another size than when it was packed",
                       shown, name.data);
    }
    const lp_json_node *chunks = lp_json_get(row, "chunks");
    if (chunks) return verify_chunks(v, entry, row, chunks);
    lp_sha256_state hash;
    lp_sha256_start(&hash);
    size_t begin = (size_t)(entry->data - v->c->data);
    feed(v, &hash, begin, begin + entry->stored_bytes);
    if (same_digest(&hash, text_of(row, "sha256"))) return LP_OK;
    return lp_fail(v->err, LP_ERR_FORMAT, "%.*s was changed", shown, name.data);
}

static lp_code verify_entries(verifier *v) {
    const lp_json_node *rows = lp_json_get(v->root, "entries");
    if (!rows || lp_json_type_of(rows) != LP_JSON_ARRAY) {
        return wrong(v->err, "entries", "is missing or not a list");
    }
    for (const lp_json_node *row = lp_json_first(rows); row; row = lp_json_next(row)) {
        LP_TRY(verify_entry(v, row));
    }
    for (size_t i = 0; i < v->c->n; i++) {
        lp_str name = v->c->entries[i].name;
        if (v->listed[i] || lp_str_is(name, manifest_name)) continue;
        return lp_fail(v->err, LP_ERR_FORMAT, "%.*s was added after packing",
                       name.len > 80 ? 80 : (int)name.len, name.data);
    }
    return LP_OK;
}

/* What lies between the data of the listed entries, from the runtime's end to the end record's. */
static lp_code verify_rest(verifier *v) {
    const lp_container *c = v->c;
    lp_str seal = lp_container_seal(c);
    if (seal.len == 0) {
        return lp_fail(v->err, LP_ERR_FORMAT, "the archive was rewritten: its seal is missing");
    }
    lp_sha256_state hash;
    lp_sha256_start(&hash);
    size_t at = v->runtime_size;
    for (size_t i = 0; i < c->n; i++) {
        const lp_entry *entry = c->placed[i];
        if (!v->listed[entry - c->entries]) continue;
        size_t begin = (size_t)(entry->data - c->data);
        feed(v, &hash, at, begin);
        at = begin + entry->stored_bytes;
    }
    feed(v, &hash, at, c->fixed_end);
    if (same_digest(&hash, seal)) return LP_OK;
    return lp_fail(v->err, LP_ERR_FORMAT, "the archive's headers or its manifest were changed");
}

lp_code lp_container_verify(const lp_container *container,
                            void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                            lp_error *err) {
    if (!container->json) return lp_fail(err, LP_ERR_FORMAT, "the archive has no manifest.json");
    verifier v = {.c = container,
                  .root = lp_json_root(container->json),
                  .data = container->data,
                  .progress = progress,
                  .user = user,
                  .err = err};
    v.listed = lp_alloc(container->n, sizeof *v.listed);
    if (!v.listed) return lp_fail(err, LP_ERR_MEMORY, "no memory to verify");
    lp_code code = verify_runtime(&v);
    if (code == LP_OK) code = verify_entries(&v);
    if (code == LP_OK) code = verify_rest(&v);
    lp_free(v.listed);
    return code;
}

lp_code lp_container_verify_program(const lp_container *container, const uint8_t *data, size_t size,
                                    lp_error *err) {
    verifier v = {.c = container, .data = data, .err = err};
    v.root = container->json ? lp_json_root(container->json) : NULL;
    const lp_json_node *row = v.root ? lp_json_get(v.root, "program") : NULL;
    size_t built;
    if (!row || !read_size(lp_json_get(row, "size"), &built)) {
        return wrong(err, "program", "has no size");
    }
    lp_sha256_state hash;
    LP_TRY(hash_program(&v, row, built, size, &hash));
    if (same_digest(&hash, text_of(row, "sha256"))) return LP_OK;
    return lp_fail(err, LP_ERR_FORMAT, "the program was changed");
}
