/* windows_probe.c - what wine cannot show from outside, for test_platform.py.
 *
 * First lines: whose processes are ours, and is our listener in the system's table (wine knows no
 * owner of a listener, so lp_net_own_listeners finds none there). Then the cores of made-up
 * machines, one per argument: cores separated by commas, each GROUP:MASK:CLASS (mask in
 * hexadecimal, class = efficiency class). The first two arguments are our group and mask.
 * SPDX-License-Identifier: Apache-2.0 */
#include "../runtime_c/platform/listeners_windows.c"

#include "../runtime_c/platform/cpu_windows.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void listeners(void) {
    lp_socket listener;
    uint16_t port = 0;
    int found = 0;
    if (lp_net_start(NULL) != LP_OK ||
        lp_net_listen(&listener, "127.0.0.1", 0, &port, NULL, NULL) != LP_OK) {
        exit(9);
    }
    MIB_TCPTABLE_OWNER_PID *table = read_table();
    for (DWORD i = 0; table != NULL && i < table->dwNumEntries; i++)
        found += is_at(&table->table[i], port);
    (void)printf("listed %d\n", found);
    lp_free(table);
    (void)printf("own %d\nnobody %d\n", is_ours(GetCurrentProcessId()), is_ours(0));
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    listeners();
    WORD group = (WORD)strtoul(argv[1], NULL, 10);
    KAFFINITY mine = (KAFFINITY)strtoull(argv[2], NULL, 16);
    for (int i = 3; i < argc; i++) {
        record list[64];
        DWORD n = 0;
        memset(list, 0, sizeof list);
        for (char *core = strtok(argv[i], ","); core != NULL && n < 64; core = strtok(NULL, ",")) {
            unsigned in_group, class;
            unsigned long long mask;
            if (sscanf(core, "%u:%llx:%u", &in_group, &mask, &class) != 3) return 2;
            record *r = &list[n++];
            r->Relationship = RelationProcessorCore;
            r->Size = sizeof *r;
            r->Processor.EfficiencyClass = (BYTE)class;
            r->Processor.GroupCount = 1;
            r->Processor.GroupMask[0].Group = (WORD)in_group;
            r->Processor.GroupMask[0].Mask = (KAFFINITY)mask;
        }
        (void)printf("cores %d\n",
                     count_cores((const char *)list, n * (DWORD)sizeof *list, mine, group));
    }
    return 0;
}
