/* sha256_cpu.c - SHA-256's block step with SHA-NI (x86-64) and with Armv8's SHA2 instructions.
 *
 * Both have one instruction for rounds and two for the message schedule, over four words at a time:
 * w[t..t+3] = s1 of (w[t-16..] + s0(w[t-15..]) + w[t-7..]). The functions carry their own target
 * attributes, so that this file is compiled for the baseline and asked before they are entered.
 * Sources: Intel SDM volume 2 (SHA256RNDS2, SHA256MSG1, SHA256MSG2), Arm ARM (SHA256H, SHA256SU0).
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/sha256_cpu.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

bool lp_sha256_cpu_has(void) {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) return false;
    bool ssse3 = ((c >> 9) & 1u) != 0, sse41 = ((c >> 19) & 1u) != 0;
    if (!ssse3 || !sse41 || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    return ((b >> 29) & 1u) != 0;
}

/* The instructions want the eight words as {f, e, b, a} and {h, g, d, c}, lowest lane first. */
__attribute__((target("sha,ssse3,sse4.1"))) void
lp_sha256_cpu_blocks(uint32_t h[8], const uint8_t *data, size_t n, const uint32_t k[64]) {
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i abef = _mm_set_epi32((int)h[0], (int)h[1], (int)h[4], (int)h[5]);
    __m128i cdgh = _mm_set_epi32((int)h[2], (int)h[3], (int)h[6], (int)h[7]);
    for (; n > 0; n--, data += 64) {
        __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (size_t i = 0; i < 4; i++) {
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
        }
#pragma unroll
        for (size_t i = 0; i < 16; i++) {
            if (i >= 4) {
                __m128i last = w[(i + 3) % 4];
                __m128i seven = _mm_alignr_epi8(last, w[(i + 2) % 4], 4);
                __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]), seven);
                w[i % 4] = _mm_sha256msg2_epu32(sum, last);
            }
            __m128i wk = _mm_add_epi32(w[i % 4], _mm_loadu_si128((const __m128i *)(k + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk); /* two rounds: the roles change */
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    h[0] = (uint32_t)_mm_extract_epi32(abef, 3);
    h[1] = (uint32_t)_mm_extract_epi32(abef, 2);
    h[2] = (uint32_t)_mm_extract_epi32(cdgh, 3);
    h[3] = (uint32_t)_mm_extract_epi32(cdgh, 2);
    h[4] = (uint32_t)_mm_extract_epi32(abef, 1);
    h[5] = (uint32_t)_mm_extract_epi32(abef, 0);
    h[6] = (uint32_t)_mm_extract_epi32(cdgh, 1);
    h[7] = (uint32_t)_mm_extract_epi32(cdgh, 0);
}

#elif defined(__aarch64__) && (defined(__ARM_FEATURE_SHA2) || __clang_major__ >= 16)

#include <arm_neon.h>

#include "platform/cpu_features.h"

bool lp_sha256_cpu_has(void) {
    return (lp_cpu_arm_features() & LP_ARM_SHA2) != 0;
}

__attribute__((target("sha2"))) void lp_sha256_cpu_blocks(uint32_t h[8], const uint8_t *data,
                                                          size_t n, const uint32_t k[64]) {
    uint32x4_t abcd = vld1q_u32(h), efgh = vld1q_u32(h + 4);
    for (; n > 0; n--, data += 64) {
        uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t w[4];
        for (size_t i = 0; i < 4; i++) {
            w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
        }
#pragma unroll
        for (size_t i = 0; i < 16; i++) {
            if (i >= 4) {
                uint32x4_t sum = vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]);
                w[i % 4] = vsha256su1q_u32(sum, w[(i + 2) % 4], w[(i + 3) % 4]);
            }
            uint32x4_t wk = vaddq_u32(w[i % 4], vld1q_u32(k + 4 * i)), old = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, old, wk);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(h, abcd);
    vst1q_u32(h + 4, efgh);
}

#else

bool lp_sha256_cpu_has(void) {
    return false;
}

void lp_sha256_cpu_blocks(uint32_t h[8], const uint8_t *data, size_t n, const uint32_t k[64]) {
    (void)h;
    (void)data;
    (void)n;
    (void)k;
}

#endif
