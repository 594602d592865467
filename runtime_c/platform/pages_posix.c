/* pages_posix.c - large anonymous memory, and how much of it there is, on POSIX systems.
 *
 * lp_pages_reserve asks for address space only: MAP_NORESERVE keeps a cache that is sized for the
 * longest context from being charged before it is used. Huge pages are left to the system's
 * default, because they would make a few touched rows of that cache cost 2 MiB each.
 *
 * Available memory (Linux) is the smallest of MemAvailable in /proc/meminfo, which counts page
 * cache that can be dropped, what the control groups leave, and what ulimit -v does. The BSDs count
 * pages that are free, and those that are inactive, which include dropped file cache.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/file.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#elif !defined(__linux__)
#include <sys/param.h>

#include <sys/sysctl.h>
#if defined(__NetBSD__)
#include <uvm/uvm_extern.h>
#elif defined(__OpenBSD__)
#include <uvm/uvmexp.h>
#endif
#endif

#include "platform/shared_posix.h"

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif
#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

static void *reserve(size_t bytes) {
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

void *lp_pages_reserve(size_t bytes) {
    if (bytes == 0) return NULL;
    void *pages = reserve(bytes);
#if defined(__OpenBSD__) || defined(__NetBSD__)
    /* Reserved memory counts against the soft limit of the login class, which we may raise. */
    struct rlimit limit;
    if (!pages && getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_DATA, &limit) == 0) pages = reserve(bytes);
    }
#endif
    return pages;
}

void lp_pages_commit(void *part, size_t bytes) {
    (void)part, (void)bytes;
}

void lp_pages_release(void *pages, size_t bytes) {
    if (pages) munmap(pages, bytes);
}

/* UINT64_MAX: nothing remembered. */
static uint64_t known_available = UINT64_MAX, known_total = UINT64_MAX;

void lp_memory_remember(void) {
    uint64_t available = lp_memory_available();
    known_total = lp_memory_total();
    known_available = available;
}

#if defined(__linux__)

/* The value in bytes behind "Key:" in a file of lines such as "MemTotal:  16384 kB"; 0 = none. */
static uint64_t kilobytes_of(const char *path, const char *key) {
    char text[8192];
    if (!lp_read_small(path, text, sizeof text)) return 0;
    size_t len = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, len) == 0) {
            const char *at = line + len;
            uint64_t value;
            return lp_read_number(&at, &value) ? value * 1024 : 0;
        }
    }
    return 0;
}

uint64_t lp_memory_available(void) {
    if (known_available != UINT64_MAX) return known_available;
    uint64_t machine = kilobytes_of("/proc/meminfo", "MemAvailable:");
    uint64_t left = lp_cgroup_memory_left();
    if (machine == 0) return left == UINT64_MAX ? 0 : left;
    return left < machine ? left : machine;
}

uint64_t lp_memory_total(void) {
    if (known_total != UINT64_MAX) return known_total;
    uint64_t machine = kilobytes_of("/proc/meminfo", "MemTotal:");
    uint64_t limit = lp_cgroup_memory_limit();
    struct rlimit space;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur < limit) limit = space.rlim_cur;
    if (machine == 0) return limit == UINT64_MAX ? 0 : limit;
    return limit < machine ? limit : machine;
}

/* VmHWM counts file pages too (the weights); taking the file pages resident now from it gives
 * what was ours at the peak, as long as they are not dropped meanwhile. */
uint64_t lp_memory_peak(void) {
    uint64_t peak = kilobytes_of("/proc/self/status", "VmHWM:");
    uint64_t file = kilobytes_of("/proc/self/status", "RssFile:");
    return peak > file ? peak - file : 0;
}

#elif defined(__APPLE__)

uint64_t lp_memory_available(void) {
    if (known_available != UINT64_MAX) return known_available;
    vm_statistics64_data_t info;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&info, &count) !=
        KERN_SUCCESS) {
        return 0;
    }
    /* Inactive pages include file cache that the system drops on demand. */
    uint64_t pages = (uint64_t)info.free_count + info.inactive_count + info.purgeable_count;
    return pages * (uint64_t)vm_kernel_page_size;
}

uint64_t lp_memory_total(void) {
    if (known_total != UINT64_MAX) return known_total;
    uint64_t total = 0;
    size_t size = sizeof total;
    return sysctlbyname("hw.memsize", &total, &size, NULL, 0) == 0 ? total : 0;
}

uint64_t lp_memory_peak(void) {
    task_vm_info_data_t info;
    mach_msg_type_number_t count = TASK_VM_INFO_COUNT;
    if (task_info(mach_task_self(), TASK_VM_INFO, (task_info_t)&info, &count) != KERN_SUCCESS) {
        return 0;
    }
    return (uint64_t)info.phys_footprint;
}

#else

uint64_t lp_memory_total(void) {
    if (known_total != UINT64_MAX) return known_total;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

#if defined(__FreeBSD__)
static uint64_t available_pages(void) {
    static const char *const names[] = {"vm.stats.vm.v_free_count", "vm.stats.vm.v_inactive_count"};
    uint64_t pages = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        unsigned value = 0;
        size_t size = sizeof value;
        if (sysctlbyname(names[i], &value, &size, NULL, 0) == 0) pages += value;
    }
    return pages;
}
#else
static uint64_t available_pages(void) {
#if defined(__NetBSD__)
    int query[2] = {CTL_VM, VM_UVMEXP2};
    struct uvmexp_sysctl info;
#else
    int query[2] = {CTL_VM, VM_UVMEXP};
    struct uvmexp info;
#endif
    size_t size = sizeof info;
    if (sysctl(query, 2, &info, &size, NULL, 0) != 0) return 0;
    return (uint64_t)info.free + (uint64_t)info.inactive;
}
#endif

uint64_t lp_memory_available(void) {
    if (known_available != UINT64_MAX) return known_available;
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? available_pages() * (uint64_t)size : 0;
}

uint64_t lp_memory_peak(void) {
    return 0;
}

#endif
