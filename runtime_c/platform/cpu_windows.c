/* cpu_windows.c - how many threads compute fastest here: lp_cpu_count and lp_cpu_limit of
 * thread.h.
 *
 * GetLogicalProcessorInformationEx lists cores with their processor masks and an efficiency class
 * (higher = faster; all 0 on chips with one kind of core). Counted are the cores of the highest
 * class of which at least one processor is in the process's affinity mask. Processes span only
 * their own processor group unless they ask for more, and so does this count.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/thread.h"

#include "base/memory.h"

typedef SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX record;

static int count_cores(const char *data, DWORD size, KAFFINITY mine, WORD group) {
    int n = 0;
    BYTE best = 0;
    for (DWORD at = 0; size - at >= sizeof(DWORD) * 2;) {
        const record *r = (const record *)(const void *)(data + at);
        if (r->Size == 0 || r->Size > size - at) break;
        if (r->Relationship == RelationProcessorCore && r->Processor.GroupCount > 0 &&
            r->Processor.GroupMask[0].Group == group &&
            (r->Processor.GroupMask[0].Mask & mine) != 0) {
            BYTE class = r->Processor.EfficiencyClass;
            if (class > best) {
                best = class;
                n = 0;
            }
            if (class == best) n++;
        }
        at += r->Size;
    }
    return n;
}

int lp_cpu_count(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    int n = info.dwNumberOfProcessors < 1 ? 1 : (int)info.dwNumberOfProcessors;

    DWORD_PTR mine = 0, all = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) || mine == 0) return n;
    PROCESSOR_NUMBER number;
    GetCurrentProcessorNumberEx(&number);

    DWORD size = 0;
    GetLogicalProcessorInformationEx(RelationProcessorCore, NULL, &size);
    if (size == 0) return n;
    char *data = lp_alloc(1, size);
    if (!data) return n;
    if (GetLogicalProcessorInformationEx(RelationProcessorCore, (record *)(void *)data, &size)) {
        int cores = count_cores(data, size, mine, number.Group);
        if (cores > 0) n = cores;
    }
    lp_free(data);
    return n;
}

int lp_cpu_limit(void) {
    DWORD_PTR mine = 0, all = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) || mine == 0)
        return lp_cpu_count();
    int n = 0;
    for (; mine != 0; mine &= mine - 1) n++;
    return n;
}
