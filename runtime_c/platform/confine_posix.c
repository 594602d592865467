/* confine_posix.c - lp_confine of process.h: after it, a bug in a parser is a bug in a box.
 *
 * Linux: Landlock (kernel 5.13 and later; Documentation/userspace-api/landlock.rst), by raw system
 * calls. Every file access the kernel's version knows is handled, and none is allowed but reading
 * and writing in the state directory, if there is one. From version 4 on TCP connect and bind are
 * refused (the listener is bound already, and accept is neither), from 6 on signals to and abstract
 * sockets of other processes. What is open stays open: mapped weights, standard streams, sockets.
 * Rights are those of the calling thread and all that it starts later, so this comes before them.
 *
 * What the runtime still wants to know afterwards and the system keeps in files is read before:
 * processors, memory, the time zone. Random bytes come from a system call.
 *
 * Everywhere: no core dumps, since they would hold the conversations.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/process.h"

#include <sys/resource.h>

#include "platform/shared_posix.h"
#include "platform/thread.h"

#if defined(__linux__)

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The numbers are the same on x86-64 and ARM64; headers older than the kernel lack them. */
enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446, QUERY_VERSION = 1, BENEATH = 1 };

typedef struct ruleset {
    uint64_t files, net, scoped; /* handled: refused unless a rule allows it */
} ruleset;

typedef struct __attribute__((packed)) beneath {
    uint64_t allowed;
    int32_t directory;
} beneath;

enum {
    WRITE_FILE = 1 << 1,
    READ_FILE = 1 << 2,
    READ_DIR = 1 << 3,
    REMOVE_FILE = 1 << 5,
    MAKE_REG = 1 << 8,
    TRUNCATE = 1 << 14,
};

/* Rights of each version: files grew by one right in versions 2, 3 and 5. */
static uint64_t file_rights(long version) {
    if (version >= 5) return (1u << 16) - 1;
    if (version >= 3) return (1u << 15) - 1;
    return version == 2 ? (1u << 14) - 1 : (1u << 13) - 1;
}

static void allow_state(long rules, uint64_t handled) {
    lp_buf path;
    lp_buf_init(&path, 0);
    if (lp_state_path(&path, NULL) == LP_OK) {
        beneath rule = {handled &
                            (WRITE_FILE | READ_FILE | READ_DIR | REMOVE_FILE | MAKE_REG | TRUNCATE),
                        open(path.data, O_PATH | O_DIRECTORY | O_CLOEXEC)};
        if (rule.directory >= 0) {
            (void)syscall(ADD_RULE, rules, BENEATH, &rule, 0);
            close(rule.directory);
        }
    }
    lp_buf_free(&path);
}

static const char *landlock(void) {
    long version = syscall(CREATE_RULESET, NULL, (size_t)0, QUERY_VERSION);
    if (version < 1) return "none";
    ruleset set = {file_rights(version), version >= 4 ? 3 : 0, version >= 6 ? 3 : 0};
    size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
    long rules = syscall(CREATE_RULESET, &set, size, 0);
    if (rules < 0) return "none";
    allow_state(rules, set.files);
    bool done =
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(RESTRICT_SELF, rules, 0) == 0;
    close((int)rules);
    if (!done) return "none";
    return version >= 4 ? "landlock (files, connections)" : "landlock (files)";
}

#else

static const char *landlock(void) {
    return "none";
}

#endif

const char *lp_confine(void) {
    (void)lp_cpu_count();
    (void)lp_clock_local();
    lp_memory_remember();
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    return landlock();
}
