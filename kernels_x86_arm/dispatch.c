/* dispatch.c - the table of levels: listed, asked for by name, picked for this machine.
 *
 * Compiled for the baseline. The order is isa.def's, best first, then "ref".
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "kernels.h"
#include "ref.h"

#if defined(__x86_64__)
#define LEVEL_x86_64(macro, name) macro(name)
#define LEVEL_aarch64(macro, name)
#elif defined(__aarch64__)
#define LEVEL_x86_64(macro, name)
#define LEVEL_aarch64(macro, name) macro(name)
#else
#define LEVEL_x86_64(macro, name)
#define LEVEL_aarch64(macro, name)
#endif

#define DECLARE(name)                         extern const lp_kernels lp_kernels_##name;
#define LP_ISA(name, arch, file, flags, text) LEVEL_##arch(DECLARE, name)
#include "isa.def"
#undef LP_ISA

static bool always(void) {
    return true;
}

typedef struct level_row {
    const lp_kernels *kernels;
    bool (*runs_here)(void);
} level_row;

#define ROW(name)                             {&lp_kernels_##name, lp_cpu_has_##name},
#define LP_ISA(name, arch, file, flags, text) LEVEL_##arch(ROW, name)
static const level_row levels[] = {
#include "isa.def"
    {&lp_kernels_ref, always},
};
#undef LP_ISA

size_t lp_kernels_count(void) {
    return sizeof(levels) / sizeof(levels[0]);
}

const lp_kernels *lp_kernels_at(size_t index) {
    return index < lp_kernels_count() ? levels[index].kernels : NULL;
}

bool lp_kernels_runs_here(const lp_kernels *level) {
    for (size_t i = 0; i < lp_kernels_count(); i++) {
        if (levels[i].kernels == level) return levels[i].runs_here();
    }
    return false;
}

const lp_kernels *lp_kernels_select(const char *name, const char **why) {
    if (name == NULL) name = getenv("LLAMAPACK_CPU");
    if (name != NULL && name[0] == '\0') name = NULL;
    for (size_t i = 0; i < lp_kernels_count(); i++) {
        if (name != NULL && strcmp(levels[i].kernels->name, name) != 0) continue;
        if (levels[i].runs_here()) return levels[i].kernels;
        if (name != NULL) {
            if (why != NULL) *why = "this machine cannot run that instruction set level";
            return NULL;
        }
    }
    if (why != NULL) *why = "no such instruction set level in this build";
    return NULL;
}
