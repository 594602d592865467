/* listeners_windows.c - whose listening sockets are these: lp_net_own_listeners of net.h.
 *
 * GetExtendedTcpTable tells each listening socket's process, and a process's token its user. The
 * library that holds it is loaded when asked: it costs milliseconds that other starts need not pay.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
/* winsock2.h must come before windows.h, or the older winsock.h gets in. */
#include <winsock2.h>

#include <windows.h>

#include <iphlpapi.h>

#include "platform/net.h"

#include "base/memory.h"

typedef DWORD(WINAPI *get_table)(PVOID, PDWORD, BOOL, ULONG, TCP_TABLE_CLASS, ULONG);

enum { LISTENERS_ONLY = 3 /* TCP_TABLE_OWNER_PID_LISTENER */ };

typedef struct user {
    union {
        TOKEN_USER token;
        char room[sizeof(TOKEN_USER) + SECURITY_MAX_SID_SIZE];
    } data;
} user;

static bool user_of(HANDLE process, user *out) {
    HANDLE token;
    DWORD size;
    if (!OpenProcessToken(process, TOKEN_QUERY, &token)) return false;
    bool done = GetTokenInformation(token, TokenUser, &out->data, sizeof out->data, &size) != 0;
    CloseHandle(token);
    return done;
}

static bool is_ours(DWORD number) {
    user mine, theirs;
    HANDLE process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, FALSE, number);
    if (process == NULL) return false;
    bool same = user_of(process, &theirs) && user_of(GetCurrentProcess(), &mine) &&
                EqualSid(mine.data.token.User.Sid, theirs.data.token.User.Sid) != 0;
    CloseHandle(process);
    return same;
}

/* The table, owned by the caller; NULL = none. */
static MIB_TCPTABLE_OWNER_PID *read_table(void) {
    HMODULE library = LoadLibraryExW(L"iphlpapi.dll", NULL, LOAD_LIBRARY_SEARCH_SYSTEM32);
    if (library == NULL) return NULL;
    get_table get = (get_table)(void (*)(void))GetProcAddress(library, "GetExtendedTcpTable");
    MIB_TCPTABLE_OWNER_PID *table = NULL;
    DWORD size = 16384;
    for (int attempt = 0; get != NULL && attempt < 8; attempt++) { /* it may grow meanwhile */
        table = lp_alloc(1, size);
        if (table == NULL) break;
        DWORD code = get(table, &size, TRUE, AF_INET, (TCP_TABLE_CLASS)LISTENERS_ONLY, 0);
        if (code == NO_ERROR) break;
        lp_free(table);
        table = NULL;
        if (code != ERROR_INSUFFICIENT_BUFFER) break;
    }
    FreeLibrary(library);
    return table;
}

/* Can 127.0.0.1 reach the row's listener at this port? */
static bool is_at(const MIB_TCPROW_OWNER_PID *row, uint16_t port) {
    bool here = row->dwLocalAddr == htonl(INADDR_LOOPBACK) || row->dwLocalAddr == 0;
    return here && ntohs((u_short)row->dwLocalPort) == port;
}

size_t lp_net_own_listeners(uint16_t first, uint16_t last, uint16_t *ports, size_t most) {
    MIB_TCPTABLE_OWNER_PID *table = read_table();
    if (table == NULL) return 0;
    size_t n = 0;
    for (uint32_t port = first; port <= last && n < most; port++) {
        for (DWORD i = 0; i < table->dwNumEntries; i++) {
            const MIB_TCPROW_OWNER_PID *row = &table->table[i];
            if (is_at(row, (uint16_t)port) && is_ours(row->dwOwningPid)) {
                ports[n++] = (uint16_t)port;
                break;
            }
        }
    }
    lp_free(table);
    return n;
}
