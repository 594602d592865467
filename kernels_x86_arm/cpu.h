/* cpu.h - which ISA levels this processor and operating system can run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CPU_H
#define LP_CPU_H

#include "base/common.h"

/* One function per line of isa.def . Those of another architecture are not defined. */
bool lp_cpu_has_sse2(void);
bool lp_cpu_has_avx(void);        /* AVX, SSE4.1, SSSE3 */
bool lp_cpu_has_avx2(void);       /* AVX2, FMA, F16C */
bool lp_cpu_has_avxvnni(void);    /* avx2 and AVX-VNNI */
bool lp_cpu_has_avx512(void);     /* avx2 and AVX-512 F, BW, DQ, VL, VNNI */
bool lp_cpu_has_avx512bf16(void); /* avx512 and AVX512_BF16 */
bool lp_cpu_has_amx(void);        /* avx512bf16 and AMX-TILE, -INT8, -BF16, allowed by the system */
bool lp_cpu_has_neon(void);
bool lp_cpu_has_dotprod(void);
bool lp_cpu_has_i8mm(void); /* dotprod, I8MM and BF16: Armv8.6 asks for all three */

#endif
