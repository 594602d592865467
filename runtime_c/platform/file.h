/* file.h - files: mapped, read whole, found; the program's own path.
 *
 * Paths are UTF-8 on every system (Windows bodies convert).  Bodies: file_posix.c, file_windows.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_FILE_H
#define LP_PLATFORM_FILE_H

#include "base/status.h"
#include "base/text.h"

/* A read-only mapping of a whole file. */
typedef struct lp_map {
    const uint8_t *data;
    size_t size;
    void *handle; /* private to the body */
} lp_map;

/* Errors name the path and the system's reason. A directory, an empty file: LP_ERR_IO. */
lp_code lp_map_open(lp_map *map, const char *path, lp_error *err) LP_MUST_USE;
void lp_map_close(lp_map *map);
/* Tells the system which part is about to be read (advice only). */
void lp_map_will_need(const lp_map *map, size_t offset, size_t size);
/* Tells the system that all of a part of a mapping will be read, again and again (advice only).
 * Linux then brings what is not in memory yet by megabytes and maps it by large pages, where the
 * file system has them. The same of memory of our own that nothing has touched yet. */
void lp_map_large_pages(const uint8_t *part, size_t size);
/* A read of a mapped page that fails (file truncated, medium gone) prints one line and exits with
 * status 70 instead of dying by signal. Called once by main. */
void lp_map_guard_install(void);

/* Reads a whole file or ("-") standard input; limit in bytes. */
lp_code lp_file_read(lp_buf *out, const char *path, size_t limit, lp_error *err) LP_MUST_USE;
/* Path of the running executable. */
lp_code lp_own_path(lp_buf *out, lp_error *err) LP_MUST_USE;
/* The path of the file called `name` in the folder of another; of that one's target if it is a link
 * and `real` is true. LP_ERR_IO: the link leads nowhere. */
lp_code lp_path_beside(lp_buf *out, const char *path, lp_str name, bool real,
                       lp_error *err) LP_MUST_USE;
/* Whether there is something under this path that lp_map_open might open. */
bool lp_file_exists(const char *path);
/* The last part of a path; borrowed. */
const char *lp_path_name(const char *path);
/* Writes a small file atomically with mode 0600 (history, state). */
lp_code lp_file_write_private(const char *path, lp_str data, lp_error *err) LP_MUST_USE;

/* Large anonymous memory: address space now, pages when touched. Zeroed. */
void *lp_pages_reserve(size_t bytes);
void lp_pages_release(void *pages, size_t bytes);
/* Asks for the pages of a part of it now. To be called for what vector code is going to touch
 * first: on Windows a touch raises an exception that lp_pages_reserve's handler resolves, and not
 * every system gives all vector registers back after one (wine does not for AVX-512). Elsewhere
 * nothing needs to be done, and nothing is. */
void lp_pages_commit(void *part, size_t bytes);
/* Memory that could be had without swapping, and the machine's total; 0 = unknown. */
uint64_t lp_memory_available(void);
uint64_t lp_memory_total(void);
/* Highest anonymous memory of this process in bytes (Linux VmHWM less file pages); 0 = unknown. */
uint64_t lp_memory_peak(void);

#endif
