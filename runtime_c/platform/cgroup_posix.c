/* cgroup_posix.c - reads control group limits on Linux; everywhere else reports none.
 *
 * Files (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/): cpu.max "QUOTA PERIOD" or
 * "max PERIOD"; cpu.cfs_quota_us (-1 = none) and cpu.cfs_period_us; memory.max, memory.current and
 * memory.stat; memory.limit_in_bytes, memory.usage_in_bytes and memory.stat. Page cache that is not
 * in active use (inactive_file) counts as available: the kernel drops it before it refuses memory,
 * and the weights of a model are exactly such pages.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/shared_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool lp_read_small(const char *path, char *out, size_t size) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    size_t len = 0;
    while (len + 1 < size) {
        ssize_t got = read(file, out + len, size - 1 - len);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        len += (size_t)got;
    }
    close(file);
    out[len] = '\0';
    return len > 0;
}

bool lp_read_number(const char **at, uint64_t *out) {
    const char *p = *at;
    while (*p == ' ' || *p == '\t') p++;
    if (*p < '0' || *p > '9') return false;
    uint64_t value = 0;
    while (*p >= '0' && *p <= '9') {
        unsigned digit = (unsigned)(*p++ - '0');
        value = value > (UINT64_MAX - digit) / 10 ? UINT64_MAX : value * 10 + digit;
    }
    *at = p;
    *out = value;
    return true;
}

#if defined(__linux__)

typedef struct limits {
    double cpus;          /* 0 = no quota */
    uint64_t memory_left; /* UINT64_MAX = no limit */
    uint64_t memory_limit;
} limits;

static bool number_in(const char *directory, const char *name, uint64_t *out) {
    char path[1200], text[64];
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof path || !lp_read_small(path, text, sizeof text)) return false;
    const char *at = text;
    return lp_read_number(&at, out);
}

/* The value behind "key " at the start of a line of memory.stat, or 0. */
static uint64_t stat_value(const char *directory, const char *key) {
    char path[1200], text[8192];
    int n = snprintf(path, sizeof path, "%s/memory.stat", directory);
    if (n < 0 || (size_t)n >= sizeof path || !lp_read_small(path, text, sizeof text)) return 0;
    size_t len = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, len) == 0 && line[len] == ' ') {
            const char *at = line + len;
            uint64_t value = 0;
            return lp_read_number(&at, &value) ? value : 0;
        }
    }
    return 0;
}

static void apply_cpu(limits *l, uint64_t quota, uint64_t period) {
    if (quota == 0 || period == 0) return;
    double cpus = (double)quota / (double)period;
    if (l->cpus == 0 || cpus < l->cpus) l->cpus = cpus;
}

static void apply_memory(limits *l, uint64_t limit, uint64_t used, uint64_t cache) {
    /* v1 writes "no limit" as the largest page-aligned number. */
    if (limit >= (uint64_t)1 << 62) return;
    used = used > cache ? used - cache : 0;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < l->memory_left) l->memory_left = left;
    if (limit < l->memory_limit) l->memory_limit = limit;
}

static void visit_v2(limits *l, const char *directory) {
    char path[1200], text[64];
    int n = snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (n > 0 && (size_t)n < sizeof path && lp_read_small(path, text, sizeof text)) {
        const char *at = text;
        uint64_t quota, period;
        if (lp_read_number(&at, &quota) && lp_read_number(&at, &period)) {
            apply_cpu(l, quota, period);
        }
    }
    uint64_t limit, used;
    if (number_in(directory, "memory.max", &limit) &&
        number_in(directory, "memory.current", &used)) {
        apply_memory(l, limit, used, stat_value(directory, "inactive_file"));
    }
}

static void visit_v1(limits *l, const char *directory) {
    uint64_t quota, period, limit, used;
    if (number_in(directory, "cpu.cfs_quota_us", &quota) &&
        number_in(directory, "cpu.cfs_period_us", &period)) {
        apply_cpu(l, quota, period);
    }
    if (number_in(directory, "memory.limit_in_bytes", &limit) &&
        number_in(directory, "memory.usage_in_bytes", &used)) {
        apply_memory(l, limit, used, stat_value(directory, "total_inactive_file"));
    }
}

/* Visits MOUNT/path, its parent, ... MOUNT. Inside a container the path of the outside may not
 * exist below the mount; then only the mount itself says something, which is the container's. */
static void climb(limits *l, const char *mount, const char *path, bool v2) {
    char directory[1024];
    int n = snprintf(directory, sizeof directory, "%s%s", mount, path);
    if (n < 0 || (size_t)n >= sizeof directory || strstr(path, "..")) {
        n = snprintf(directory, sizeof directory, "%s", mount);
    }
    size_t root = strlen(mount);
    for (size_t len = strlen(directory);;) {
        while (len > root && directory[len - 1] == '/') len--;
        directory[len] = '\0';
        if (v2)
            visit_v2(l, directory);
        else
            visit_v1(l, directory);
        if (len <= root) return;
        while (len > root && directory[len - 1] != '/') len--;
    }
}

/* True when name is one of the comma-separated controllers. */
static bool lists(const char *controllers, const char *name) {
    size_t len = strlen(name);
    for (const char *p = controllers; p; p = strchr(p, ',')) {
        if (*p == ',') p++;
        if (strncmp(p, name, len) == 0 && (p[len] == ',' || p[len] == '\0')) return true;
    }
    return false;
}

static limits read_limits(void) {
    limits l = {0, UINT64_MAX, UINT64_MAX};
    char text[8192];
    if (!lp_read_small("/proc/self/cgroup", text, sizeof text)) return l;
    /* Lines "ID:CONTROLLERS:PATH"; the v2 line has no controllers. */
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path++ = '\0';
        controllers++;
        if (*controllers == '\0') {
            climb(&l, "/sys/fs/cgroup", path, true);
        } else if (lists(controllers, "cpu") || lists(controllers, "memory")) {
            char mount[300];
            int n = snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controllers);
            if (n > 0 && (size_t)n < sizeof mount) climb(&l, mount, path, false);
        }
    }
    return l;
}

double lp_cgroup_cpus(void) {
    return read_limits().cpus;
}

uint64_t lp_cgroup_memory_left(void) {
    return read_limits().memory_left;
}

uint64_t lp_cgroup_memory_limit(void) {
    return read_limits().memory_limit;
}

#else

double lp_cgroup_cpus(void) {
    return 0;
}

uint64_t lp_cgroup_memory_left(void) {
    return UINT64_MAX;
}

uint64_t lp_cgroup_memory_limit(void) {
    return UINT64_MAX;
}

#endif
