/* cpu.c - feature detection.
 *
 * x86: CPUID says what the processor has, XCR0 (read by XGETBV) which registers the operating
 * system saves on a task switch; AVX needs both (Intel SDM volume 1, 14.3 and 15.2). A system that
 * does not save ZMM would corrupt them silently, so XCR0 is asked first. Arm has no unprivileged
 * CPUID; the system is asked (platform/cpu_features.h).
 *
 * Compiled for the baseline, so that it runs everywhere.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include "platform/cpu_features.h"

typedef struct features {
    bool avx, avx2, avxvnni, avx512, avx512bf16, tiles;
} features;

static uint32_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Asked anew every time: it happens a few times per process, and a cache would be shared state. */
static features ask(void) {
    features f = {0};
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) return f;
    bool ssse3 = ((c >> 9) & 1u) != 0, sse41 = ((c >> 19) & 1u) != 0;
    bool fma = ((c >> 12) & 1u) != 0, f16c = ((c >> 29) & 1u) != 0;
    bool osxsave = ((c >> 27) & 1u) != 0, avx = ((c >> 28) & 1u) != 0;
    if (!osxsave || !avx || !ssse3 || !sse41) return f;
    uint32_t state = enabled_state();
    if ((state & 0x06u) != 0x06u) return f; /* XMM and upper YMM halves */
    f.avx = true;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return f;
    uint32_t leaf7_b = b, leaf7_c = c, leaf7_d = d, subleaves = a;
    f.avx2 = fma && f16c && ((leaf7_b >> 5) & 1u) != 0;
    if (!f.avx2) return f;
    bool zmm_saved = (state & 0xe0u) == 0xe0u; /* mask registers, upper halves, ZMM16-31 */
    uint32_t wanted = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31); /* F, DQ, BW, VL */
    f.avx512 = zmm_saved && (leaf7_b & wanted) == wanted && ((leaf7_c >> 11) & 1u) != 0;
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
        f.avxvnni = ((a >> 4) & 1u) != 0;
        f.avx512bf16 = f.avx512 && ((a >> 5) & 1u) != 0;
    }
    wanted = (1u << 22) | (1u << 24) | (1u << 25); /* AMX: BF16, tiles, INT8 */
    f.tiles = f.avx512bf16 && (leaf7_d & wanted) == wanted && (state & 0x60000u) == 0x60000u;
    return f;
}

bool lp_cpu_has_sse2(void) {
    return true;
} /* part of x86-64 */
bool lp_cpu_has_avx(void) {
    return ask().avx;
}
bool lp_cpu_has_avx2(void) {
    return ask().avx2;
}
bool lp_cpu_has_avxvnni(void) {
    return ask().avxvnni;
}
bool lp_cpu_has_avx512(void) {
    return ask().avx512;
}
bool lp_cpu_has_avx512bf16(void) {
    return ask().avx512bf16;
}
bool lp_cpu_has_amx(void) {
#ifdef LP_TILES_IN_C /* tests */
    return ask().avx512;
#else
    return ask().tiles && lp_cpu_allow_tiles();
#endif
}

#elif defined(__aarch64__)
#include "platform/cpu_features.h"

bool lp_cpu_has_neon(void) {
    return true;
} /* part of AArch64 */
bool lp_cpu_has_dotprod(void) {
    return (lp_cpu_arm_features() & LP_ARM_DOTPROD) != 0;
}
bool lp_cpu_has_i8mm(void) {
    const uint32_t wanted = LP_ARM_DOTPROD | LP_ARM_I8MM | LP_ARM_BF16;
    return (lp_cpu_arm_features() & wanted) == wanted;
}
#endif
