/* cpu_features_posix.c - AMX by Linux's arch_prctl. Arm features: Linux, FreeBSD and OpenBSD by the
 * auxiliary vector, macOS by sysctl. NetBSD tells them only by way of the processor's registers:
 * none are used there. SPDX-License-Identifier: Apache-2.0 */
#include "platform/cpu_features.h"

#if defined(__aarch64__) && (defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__))
#include <sys/auxv.h>

#if !defined(__linux__)
static unsigned long getauxval(int kind) {
    unsigned long value = 0;
    return elf_aux_info(kind, &value, (int)sizeof value) == 0 ? value : 0;
}
#endif

/* Bits of Linux's documented user interface (arm64 ELF hwcaps), which the BSDs took over. */
#define HWCAP_SHA2_BIT    6
#define HWCAP_ASIMDDP_BIT 20
#define HWCAP2_I8MM_BIT   13
#define HWCAP2_BF16_BIT   14

uint32_t lp_cpu_arm_features(void) {
    uint32_t features = 0;
    if (((getauxval(AT_HWCAP) >> HWCAP_ASIMDDP_BIT) & 1u) != 0) features |= LP_ARM_DOTPROD;
    if (((getauxval(AT_HWCAP) >> HWCAP_SHA2_BIT) & 1u) != 0) features |= LP_ARM_SHA2;
    if (((getauxval(AT_HWCAP2) >> HWCAP2_I8MM_BIT) & 1u) != 0) features |= LP_ARM_I8MM;
    if (((getauxval(AT_HWCAP2) >> HWCAP2_BF16_BIT) & 1u) != 0) features |= LP_ARM_BF16;
    return features;
}

#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>

static bool has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}

uint32_t lp_cpu_arm_features(void) {
    uint32_t features = 0;
    if (has("hw.optional.arm.FEAT_DotProd")) features |= LP_ARM_DOTPROD;
    if (has("hw.optional.arm.FEAT_SHA256")) features |= LP_ARM_SHA2;
    if (has("hw.optional.arm.FEAT_I8MM")) features |= LP_ARM_I8MM;
    if (has("hw.optional.arm.FEAT_BF16")) features |= LP_ARM_BF16;
    return features;
}

#else

uint32_t lp_cpu_arm_features(void) {
    return 0;
}

#endif

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Linux's Documentation/arch/x86/xstate.rst: a process must ask for state this large. */
#define ARCH_REQ_XCOMP_PERM 0x1023L
#define XFEATURE_XTILEDATA  18L

bool lp_cpu_allow_tiles(void) {
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

#else

bool lp_cpu_allow_tiles(void) {
    return false;
}

#endif
