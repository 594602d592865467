/* cpu_features_windows.c - Arm features by IsProcessorFeaturePresent.
 * SPDX-License-Identifier: Apache-2.0 */
#include "platform/cpu_features.h"

#if defined(__aarch64__)
#include <windows.h>

/* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; I8MM has no documented number yet. */
#define PF_DOTPROD 43

uint32_t lp_cpu_arm_features(void) {
    return IsProcessorFeaturePresent(PF_DOTPROD) ? LP_ARM_DOTPROD : 0;
}

#else

uint32_t lp_cpu_arm_features(void) {
    return 0;
}

#endif
