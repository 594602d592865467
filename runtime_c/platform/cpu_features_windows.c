/* cpu_features_windows.c - Arm features by IsProcessorFeaturePresent and the registry.
 * SPDX-License-Identifier: Apache-2.0 */
#include "platform/cpu_features.h"

#if defined(__aarch64__)
#include <windows.h>

/* winnt.h's PF_ARM_V8_CRYPTO_, V82_DP_, V82_I8MM_ and V86_BF16_INSTRUCTIONS_AVAILABLE. */
#define PF_CRYPTO  30
#define PF_DOTPROD 43
#define PF_I8MM    66
#define PF_BF16    68

/* Older Windows does not know the last two, but Windows on Arm shows the identification registers
 * in the registry; "CP 4031" is ID_AA64ISAR1_EL1 (op0 to op2 as bits).
 * Its fields of four bits: I8MM at 52, BF16 at 44 (Arm ARM, D19.2). */
#define ISAR1_I8MM 52
#define ISAR1_BF16 44

static uint64_t isar1(void) {
    uint64_t value = 0;
    DWORD size = sizeof value;
    LSTATUS status =
        RegGetValueA(HKEY_LOCAL_MACHINE, "HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                     "CP 4031", RRF_RT_REG_QWORD, NULL, &value, &size);
    return status == ERROR_SUCCESS ? value : 0;
}

static bool has(DWORD number, unsigned field) {
    return IsProcessorFeaturePresent(number) || ((isar1() >> field) & 15u) != 0;
}

uint32_t lp_cpu_arm_features(void) {
    uint32_t features = 0;
    if (IsProcessorFeaturePresent(PF_DOTPROD)) features |= LP_ARM_DOTPROD;
    if (IsProcessorFeaturePresent(PF_CRYPTO)) features |= LP_ARM_SHA2;
    if (has(PF_I8MM, ISAR1_I8MM)) features |= LP_ARM_I8MM;
    if (has(PF_BF16, ISAR1_BF16)) features |= LP_ARM_BF16;
    return features;
}

#else

uint32_t lp_cpu_arm_features(void) {
    return 0;
}

#endif

/* Windows has to be asked as well (EnableProcessOptionalXStateFeatures); no such machine was at
 * hand to try it on. */
bool lp_cpu_allow_tiles(void) {
    return false;
}
