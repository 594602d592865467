/* listeners_posix.c - whose listening sockets are these: lp_net_own_listeners of net.h.
 *
 *   Linux   /proc/net/tcp names the user of every socket (Documentation/networking/
 *           proc_net_tcp.rst): "sl: local_address rem_address st tx:rx tr:tm retrnsmt uid ...",
 *           addresses as hexadecimal words in the machine's own byte order, state 0A = listening.
 *   macOS   libproc (sys/proc_info.h): the descriptors of each process of this user.
 *   others  nothing is known.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "platform/net.h"

#include <unistd.h>

#if defined(__linux__)
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#elif defined(__APPLE__)
#include <libproc.h>
#include <netinet/in.h>
#include <sys/proc_info.h>

#include "base/memory.h"
#endif

#if defined(__linux__) || defined(__APPLE__)

/* Adds a port in rising order, once. */
static void enter(uint16_t port, uint16_t *ports, size_t *n, size_t most) {
    size_t at = *n;
    while (at > 0 && ports[at - 1] > port) at--;
    if ((at > 0 && ports[at - 1] == port) || *n == most) return;
    for (size_t i = *n; i > at; i--) ports[i] = ports[i - 1];
    ports[at] = port;
    *n += 1;
}

#endif

#if defined(__linux__)

enum { LISTENING = 10 };

/* The start of the n-th field (from 0) between blanks; the line's end if there are fewer. */
static const char *field(const char *line, int n) {
    for (;; n--) {
        line += strspn(line, " ");
        if (n == 0 || *line == '\0') return line;
        line += strcspn(line, " ");
    }
}

/* Digits at *at, which moves behind them; 0 where there are none. */
static uint64_t number(const char **at, unsigned base) {
    static const char digits[] = "0123456789ABCDEF";
    uint64_t value = 0;
    for (; **at != '\0'; (*at)++) {
        const char *digit = strchr(digits, **at);
        if (digit == NULL || (unsigned)(digit - digits) >= base) break;
        value = value * base + (unsigned)(digit - digits);
    }
    return value;
}

size_t lp_net_own_listeners(uint16_t first, uint16_t last, uint16_t *ports, size_t most) {
    size_t n = 0;
    FILE *file = fopen("/proc/net/tcp", "re");
    if (file == NULL) return 0;
    char line[512];
    while (fgets(line, sizeof line, file) != NULL) {
        const char *local = field(line, 1);
        const char *state = field(line, 3);
        const char *user = field(line, 7);
        uint64_t address = number(&local, 16);
        if (*local == ':') local++;
        uint64_t port = number(&local, 16);
        bool here = address == htonl(INADDR_LOOPBACK) || address == htonl(INADDR_ANY);
        if (here && number(&state, 16) == LISTENING && number(&user, 10) == geteuid() &&
            port >= first && port <= last) {
            enter((uint16_t)port, ports, &n, most);
        }
    }
    (void)fclose(file);
    return n;
}

#elif defined(__APPLE__)

enum { LISTENING = 1 }; /* TSI_S_LISTEN */

static void look_at(pid_t process, uint16_t first, uint16_t last, uint16_t *ports, size_t *n,
                    size_t most) {
    int bytes = proc_pidinfo(process, PROC_PIDLISTFDS, 0, NULL, 0);
    if (bytes <= 0) return;
    struct proc_fdinfo *list = lp_alloc(1, (size_t)bytes);
    if (list == NULL) return;
    bytes = proc_pidinfo(process, PROC_PIDLISTFDS, 0, list, bytes);
    for (size_t i = 0; bytes > 0 && i < (size_t)bytes / sizeof *list; i++) {
        struct socket_fdinfo info;
        if (list[i].proc_fdtype != PROX_FDTYPE_SOCKET ||
            proc_pidfdinfo(process, list[i].proc_fd, PROC_PIDFDSOCKETINFO, &info, sizeof info) !=
                (int)sizeof info ||
            info.psi.soi_kind != SOCKINFO_TCP || info.psi.soi_family != AF_INET ||
            info.psi.soi_proto.pri_tcp.tcpsi_state != LISTENING) {
            continue;
        }
        uint16_t port = ntohs((uint16_t)info.psi.soi_proto.pri_tcp.tcpsi_ini.insi_lport);
        if (port >= first && port <= last) enter(port, ports, n, most);
    }
    lp_free(list);
}

size_t lp_net_own_listeners(uint16_t first, uint16_t last, uint16_t *ports, size_t most) {
    size_t n = 0;
    int bytes = proc_listpids(PROC_UID_ONLY, (uint32_t)geteuid(), NULL, 0);
    if (bytes <= 0) return 0;
    pid_t *processes = lp_alloc(1, (size_t)bytes);
    if (processes == NULL) return 0;
    bytes = proc_listpids(PROC_UID_ONLY, (uint32_t)geteuid(), processes, bytes);
    for (size_t i = 0; bytes > 0 && i < (size_t)bytes / sizeof *processes; i++)
        look_at(processes[i], first, last, ports, &n, most);
    lp_free(processes);
    return n;
}

#else

size_t lp_net_own_listeners(uint16_t first, uint16_t last, uint16_t *ports, size_t most) {
    (void)first, (void)last, (void)ports, (void)most;
    return 0;
}

#endif
