/* container.h - the ZIP payload at the end of the running executable.
 *
 * The payload is an ordinary ZIP (ZIP64 records only where needed) whose offsets count from the
 * first byte of the whole file. The end record is searched from the end of the file backwards, over
 * at least 65557 bytes (and past an Authenticode certificate table when the host is a PE): a
 * signature counts only when the directory lies where it says and ends where the record begins.
 * Format: PKWARE APPNOTE 6.3.x. Entries that the runtime parses must be stored.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_MODEL_CONTAINER_H
#define LP_MODEL_CONTAINER_H

#include "base/status.h"
#include "base/text.h"

typedef struct lp_entry {
    lp_str name;         /* borrowed from the mapping; valid UTF-8, relative, no ".." */
    const uint8_t *data; /* the entry's bytes as they lie in the file */
    size_t stored_bytes; /* of data */
    size_t bytes;        /* after inflating; == stored_bytes when stored */
    uint32_t crc32;
    bool deflated;
} lp_entry;

typedef struct lp_container lp_container;

/* data: the whole executable. LP_ERR_FORMAT with "no archive at the end of ..." when there is none.
 */
lp_code lp_container_open(lp_container **out, const uint8_t *data, size_t size,
                          lp_error *err) LP_MUST_USE;
void lp_container_close(lp_container *container);
/* A file of this size ends where FAT32 lets no file go on, a byte below 4 GiB: it was cut there. */
bool lp_cut_by_fat32(size_t size);
size_t lp_container_count(const lp_container *container);
const lp_entry *lp_container_at(const lp_container *container, size_t index);
const lp_entry *lp_container_find(const lp_container *container, lp_str name);

/* What the manifest (manifest.json, stored) says. All strings are owned by the container. */
typedef struct lp_manifest {
    uint32_t format;    /* major version of the container format: 1 */
    lp_str name;        /* what the sender calls it; "" if not given */
    lp_str builder;     /* "llamapack 0.1.0" */
    lp_str target;      /* "linux-x86_64" */
    lp_str model_entry; /* name of the GGUF entry; "" in a file without weights */
    lp_str system;      /* default system prompt; "" */
    const lp_str *args; /* default arguments, before the user's own */
    size_t n_args;
    lp_str license_name;    /* "apache-2.0"; "" */
    lp_str license_notice;  /* a line that must be shown, such as "Built with Llama"; "" */
    lp_str template_sha256; /* hex digits, of the model's chat template; "" */
    lp_str model_sha256;    /* hex digits, the root over the weights' chunks; "" */
    lp_str system_kv_entry; /* what engine/kv_file.h reads; "" when nothing was prepared */
    lp_str weights_file;   /* name of the file with the weights, in this one's folder; "": inside */
    uint64_t weights_size; /* bytes of that file */
    lp_str weights_seal;   /* 64 hex digits: what lp_container_seal gives of it */
    lp_str program; /* name of an application's program, which is a file of its own; else "" */
    bool has_date;  /* prompts that print a date print this one */
    int64_t date;   /* seconds since 1970 */
} lp_manifest;
/* Parsed when the container is opened; NULL when the archive has none. */
const lp_manifest *lp_container_manifest(const lp_container *container);

/* The 64 hex digits of the end record's comment: a hash that covers every byte of the file, since
 * it covers the manifest with the hashes of the rest. "" in an archive without. Not compared with
 * the bytes before lp_container_verify. */
lp_str lp_container_seal(const lp_container *container);

/* Checks an entry's CRC-32 (inflating it first when it is deflated). LP_ERR_FORMAT: damaged. */
lp_code lp_container_check(const lp_entry *entry, lp_error *err) LP_MUST_USE;

/* Checks every hash in the manifest: entries (weights by 64 MiB chunk), runtime. Calls progress
 * (may be NULL) with bytes done and in all; LP_ERR_FORMAT names the first part that differs. */
lp_code lp_container_verify(const lp_container *container,
                            void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                            lp_error *err) LP_MUST_USE;
/* The same for the program of an application (manifest.program), given with its bytes. What signing
 * changes may differ, its size included. */
lp_code lp_container_verify_program(const lp_container *container, const uint8_t *data, size_t size,
                                    lp_error *err) LP_MUST_USE;

#endif
