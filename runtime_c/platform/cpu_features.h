/* cpu_features.h - what only the operating system can tell about a processor, or allows with it.
 * Bodies: cpu_features_posix.c, cpu_features_windows.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_CPU_FEATURES_H
#define LP_PLATFORM_CPU_FEATURES_H

#include "base/common.h"

#define LP_ARM_DOTPROD 1u     /* SDOT, UDOT (Armv8.2 DotProd) */
#define LP_ARM_I8MM    2u     /* SMMLA, USDOT (Armv8.6 I8MM) */
#define LP_ARM_BF16    4u     /* BFMLALB, BFMLALT (Armv8.6 BF16) */
#define LP_ARM_SHA2    0x100u /* SHA256H (Armv8 cryptography extension) */

uint32_t lp_cpu_arm_features(void); /* 0 on other processors */

/* Asks for this process's use of AMX tiles (x86-64), which a processor may have and a system not
 * save; true if it was given. May be called again. */
bool lp_cpu_allow_tiles(void);

#endif
