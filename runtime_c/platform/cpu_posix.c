/* cpu_posix.c - how many threads compute fastest here: lp_cpu_count and lp_cpu_limit of
 * thread.h.
 *
 * Matrix products are bound by memory and by full-width vector units, so a second hardware thread
 * of a core adds nothing, and a slow core holds up every barrier. Counted are therefore cores:
 *
 *   Linux    processors of the affinity mask; of each core (topology/thread_siblings_list) one; of
 *            hybrid chips the fast ones: /sys/devices/cpu_core/cpus (Intel), else cpu_capacity
 *            (ARM), else cpufreq/cpuinfo_max_freq. Then the control group's quota, rounded.
 *   macOS    hw.perflevel0.physicalcpu (the performance level), else hw.physicalcpu.
 *   FreeBSD  processors of the affinity mask, at most kern.smp.cores of them.
 *   others   the processors online (OpenBSD leaves second threads of a core off by default).
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/thread.h"

#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "platform/shared_posix.h"
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__FreeBSD__)
#include <sys/param.h>

#include <sys/cpuset.h>
#include <sys/sysctl.h>
#endif

typedef struct cpu_counts {
    int cores, limit; /* what lp_cpu_count and lp_cpu_limit give */
} cpu_counts;

static int online(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (n < 1) return 1;
    return n > 4096 ? 4096 : (int)n;
}

#if defined(__linux__)

/* The kernel's own bound is 8192 (CONFIG_MAXSMP). */
enum { MOST = 8192, WORD = 64 };

typedef struct cpu_set {
    uint64_t bits[MOST / WORD];
} cpu_set;

static bool has(const cpu_set *set, unsigned cpu) {
    return cpu < MOST && (set->bits[cpu / WORD] >> (cpu % WORD) & 1) != 0;
}

static void add(cpu_set *set, unsigned cpu) {
    set->bits[cpu / WORD] |= (uint64_t)1 << (cpu % WORD);
}

/* Parses the kernel's list format, "0-3,8,10-11". */
static void parse_list(const char *text, cpu_set *out) {
    memset(out, 0, sizeof *out);
    for (;;) {
        uint64_t first, last;
        if (!lp_read_number(&text, &first)) return;
        last = first;
        if (*text == '-') {
            text++;
            if (!lp_read_number(&text, &last)) return;
        }
        for (uint64_t cpu = first; cpu <= last && cpu < MOST; cpu++) add(out, (unsigned)cpu);
        if (*text++ != ',') return;
    }
}

static bool read_of(unsigned cpu, const char *name, char *out, size_t size) {
    char path[128];
    int n = snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/%s", cpu, name);
    return n > 0 && (size_t)n < sizeof path && lp_read_small(path, out, size);
}

/* Keeps one processor of each core: the lowest of its siblings that we may use. */
static void drop_siblings(cpu_set *mine) {
    cpu_set siblings, kept = *mine;
    char text[1024];
    for (unsigned cpu = 0; cpu < MOST; cpu++) {
        if (!has(mine, cpu) || !read_of(cpu, "topology/thread_siblings_list", text, sizeof text)) {
            continue;
        }
        parse_list(text, &siblings);
        for (unsigned other = 0; other < cpu; other++) {
            if (has(&siblings, other) && has(mine, other)) {
                kept.bits[cpu / WORD] &= ~((uint64_t)1 << (cpu % WORD));
                break;
            }
        }
    }
    *mine = kept;
}

static unsigned count(const cpu_set *set) {
    unsigned n = 0;
    for (size_t i = 0; i < MOST / WORD; i++) n += (unsigned)__builtin_popcountll(set->bits[i]);
    return n;
}

/* Keeps the processors whose figure (of file `name`) is at least `percent` of the best one's.
 * False when the file is missing for one of them: then the figure says nothing. */
static bool keep_fast(cpu_set *mine, const char *name, uint64_t percent) {
    uint64_t best = 0, value;
    char text[64];
    cpu_set kept;
    for (int pass = 0; pass < 2; pass++) {
        memset(&kept, 0, sizeof kept);
        for (unsigned cpu = 0; cpu < MOST; cpu++) {
            if (!has(mine, cpu)) continue;
            const char *at = text;
            if (!read_of(cpu, name, text, sizeof text) || !lp_read_number(&at, &value))
                return false;
            if (pass == 0 && value > best) best = value;
            if (pass == 1 && value >= best / 100 * percent) add(&kept, cpu);
        }
    }
    *mine = kept;
    return true;
}

static void drop_slow(cpu_set *mine) {
    char text[1024];
    if (lp_read_small("/sys/devices/cpu_core/cpus", text, sizeof text)) {
        cpu_set fast, both;
        parse_list(text, &fast);
        for (size_t i = 0; i < MOST / WORD; i++) both.bits[i] = fast.bits[i] & mine->bits[i];
        if (count(&both) > 0) *mine = both;
        return;
    }
    /* Middle cores of phones and boards have 75 % and more of the best one's capacity, little ones
     * under 50 %. Boost clocks of equal cores differ by a few percent, those of efficiency cores
     * by a quarter. */
    if (keep_fast(mine, "cpu_capacity", 70)) return;
    (void)keep_fast(mine, "cpufreq/cpuinfo_max_freq", 80);
}

/* The affinity mask. The kernel refuses a buffer smaller than its own mask, so ours is the
 * largest; the raw size also serves C libraries whose cpu_set_t holds only 1024. */
static bool affinity(cpu_set *out) {
    memset(out, 0, sizeof *out);
    return sched_getaffinity(0, sizeof *out, (cpu_set_t *)(void *)out) == 0 && count(out) > 0;
}

static cpu_counts count_all(void) {
    cpu_counts n = {online(), online()};
    cpu_set mine;
    if (affinity(&mine)) {
        n.limit = (int)count(&mine);
        drop_siblings(&mine);
        drop_slow(&mine);
        n.cores = (int)count(&mine);
    }
    double quota = lp_cgroup_cpus();
    if (quota > 0 && quota < (double)n.cores) n.cores = (int)(quota + 0.5);
    if (quota > 0 && quota < (double)n.limit) n.limit = (int)(quota + 0.999);
    return n;
}

#else

#if defined(__APPLE__) || defined(__FreeBSD__)
static int sysctl_int(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 ? value : 0;
}
#endif

static cpu_counts count_all(void) {
    cpu_counts n = {online(), online()};
#if defined(__APPLE__)
    int cores = sysctl_int("hw.perflevel0.physicalcpu");
    if (cores < 1) cores = sysctl_int("hw.physicalcpu");
    if (cores > 0) n.cores = cores;
#elif defined(__FreeBSD__)
    int cores = sysctl_int("kern.smp.cores");
    cpuset_t mine;
    if (cpuset_getaffinity(CPU_LEVEL_WHICH, CPU_WHICH_PID, -1, sizeof mine, &mine) == 0) {
        int allowed = (int)CPU_COUNT(&mine);
        if (allowed > 0 && allowed < n.limit) n.limit = allowed;
    }
    n.cores = cores > 0 && cores < n.limit ? cores : n.limit;
#endif
    return n;
}

#endif

/* Counted once: the files this needs may be out of reach later (lp_confine). */
static const cpu_counts *known(void) {
    static cpu_counts counts;
    if (counts.cores == 0) {
        counts = count_all();
        if (counts.cores < 1) counts.cores = 1;
        if (counts.limit < counts.cores) counts.limit = counts.cores;
    }
    return &counts;
}

int lp_cpu_count(void) {
    return known()->cores;
}

int lp_cpu_limit(void) {
    return known()->limit;
}
