/* cpu_features_windows.c - Arm features by IsProcessorFeaturePresent.
 * SPDX-License-Identifier: Apache-2.0 */
#include "platform/cpu_features.h"

#if defined(__aarch64__)
#include <windows.h>

/* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; I8MM has no documented number yet. */
#define PF_DOTPROD 43
#define PF_CRYPTO  30 /* PF_ARM_V8_CRYPTO_INSTRUCTIONS_AVAILABLE */

uint32_t lp_cpu_arm_features(void) {
    uint32_t features = 0;
    if (IsProcessorFeaturePresent(PF_DOTPROD)) features |= LP_ARM_DOTPROD;
    if (IsProcessorFeaturePresent(PF_CRYPTO)) features |= LP_ARM_SHA2;
    return features;
}

#else

uint32_t lp_cpu_arm_features(void) {
    return 0;
}

#endif
