/* sha256.c - SHA-256 (FIPS 180-4) in plain C, or by the processor's instructions (sha256_cpu.h).
 *
 * The message is padded with one bit, zeros and its length in bits (big-endian, 64 bits) to whole
 * blocks of 64 bytes. Each block is expanded to 64 words, which drive 64 rounds on the chaining
 * value. The constants are the fractional parts of the square roots (h) and cube roots (k) of the
 * first primes. Verifying an executable is bound by this.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/sha256.h"

#include <stdatomic.h>
#include <string.h>

#include "base/sha256_cpu.h"

static const uint32_t k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turn(uint32_t x, unsigned n) {
    return x >> n | x << (32 - n);
}

static uint32_t read_big(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

/* One round: a new a (in the place of h) and e (in the place of d). */
static inline void step(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *d,
                        const uint32_t *e, const uint32_t *f, const uint32_t *g, uint32_t *h,
                        uint32_t word) {
    uint32_t s1 = turn(*e, 6) ^ turn(*e, 11) ^ turn(*e, 25);
    uint32_t t1 = *h + s1 + (*g ^ (*e & (*f ^ *g))) + word;
    uint32_t s0 = turn(*a, 2) ^ turn(*a, 13) ^ turn(*a, 22);
    *d += t1;
    *h = t1 + s0 + ((*a & *b) | (*c & (*a | *b)));
}

static void plain_blocks(uint32_t h[8], const uint8_t *data, size_t n) {
    uint32_t w[64];
    for (; n > 0; n--, data += 64) {
        for (size_t i = 0; i < 16; i++) w[i] = read_big(data + 4 * i);
        for (size_t i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            uint32_t s0 = turn(a, 7) ^ turn(a, 18) ^ a >> 3;
            uint32_t s1 = turn(b, 17) ^ turn(b, 19) ^ b >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t v[8];
        memcpy(v, h, sizeof v);
        /* The eight words move one place on per round; instead of them, the roles move. */
        for (size_t i = 0; i < 64; i += 8) {
            step(&v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], k[i] + w[i]);
            step(&v[7], &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], k[i + 1] + w[i + 1]);
            step(&v[6], &v[7], &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], k[i + 2] + w[i + 2]);
            step(&v[5], &v[6], &v[7], &v[0], &v[1], &v[2], &v[3], &v[4], k[i + 3] + w[i + 3]);
            step(&v[4], &v[5], &v[6], &v[7], &v[0], &v[1], &v[2], &v[3], k[i + 4] + w[i + 4]);
            step(&v[3], &v[4], &v[5], &v[6], &v[7], &v[0], &v[1], &v[2], k[i + 5] + w[i + 5]);
            step(&v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[0], &v[1], k[i + 6] + w[i + 6]);
            step(&v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[0], k[i + 7] + w[i + 7]);
        }
        for (size_t i = 0; i < 8; i++) h[i] += v[i];
    }
}

enum { UNKNOWN, PLAIN, FAST };
static atomic_int way = UNKNOWN; /* asking the processor takes long in some virtual machines */

bool lp_sha256_select(bool fast) {
    int chosen = fast && lp_sha256_cpu_has() ? FAST : PLAIN;
    atomic_store(&way, chosen);
    return chosen == FAST;
}

static void blocks(uint32_t h[8], const uint8_t *data, size_t n) {
    if (atomic_load(&way) == UNKNOWN) (void)lp_sha256_select(true);
    if (atomic_load(&way) == FAST) {
        lp_sha256_cpu_blocks(h, data, n, k);
    } else {
        plain_blocks(h, data, n);
    }
}

void lp_sha256_start(lp_sha256_state *state) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memset(state, 0, sizeof *state);
    memcpy(state->h, first, sizeof first);
}

void lp_sha256_add(lp_sha256_state *state, const void *data, size_t size) {
    const uint8_t *at = data;
    size_t held = (size_t)(state->bytes % 64);
    state->bytes += size;
    if (held > 0) {
        size_t part = 64 - held < size ? 64 - held : size;
        if (part > 0) memcpy(state->block + held, at, part);
        if (held + part < 64) return;
        blocks(state->h, state->block, 1);
        at += part;
        size -= part;
    }
    blocks(state->h, at, size / 64);
    if (size % 64 > 0) memcpy(state->block, at + size / 64 * 64, size % 64);
}

void lp_sha256_finish(lp_sha256_state *state, uint8_t digest[32]) {
    uint8_t end[128] = {0x80};
    uint64_t bits = state->bytes * 8;
    size_t held = (size_t)(state->bytes % 64);
    size_t size = (held < 56 ? 64 : 128) - held; /* at least nine bytes */
    for (size_t i = 0; i < 8; i++) end[size - 8 + i] = (uint8_t)(bits >> (56 - 8 * i));
    lp_sha256_add(state, end, size);
    for (size_t i = 0; i < 32; i++) digest[i] = (uint8_t)(state->h[i / 4] >> (24 - 8 * (i % 4)));
}

void lp_sha256(const void *data, size_t size, uint8_t digest[32]) {
    lp_sha256_state state;
    lp_sha256_start(&state);
    lp_sha256_add(&state, data, size);
    lp_sha256_finish(&state, digest);
}
