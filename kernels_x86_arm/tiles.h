/* tiles.h - the vocabulary of matrix tiles: AMX's eight registers of 16 rows of 64 bytes.
 *
 * What a tile is (rows, bytes of a row) says a configuration; `t`, `c`, `a`, `b` are the registers'
 * numbers, written out. Between tiles_begin and tiles_end a thread has 8 KiB more to be saved when
 * it is interrupted, and a function that is called may use them: memcpy and memset do not.
 * Formulas: Intel SDM volume 2, TDPBSSD, TDPBSUD, TDPBF16PS.
 * As text, so that the rest of the file needs no AMX.
 *
 * LP_TILES_IN_C: the same in plain C, for tests on processors without them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_TILES_H
#define LP_TILES_H

#include <stdint.h>
#include <string.h>

/* LDTILECFG's operand. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

#ifndef LP_TILES_IN_C

static inline void tiles_begin(const tile_config *config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}
static inline void tiles_end(void) {
    __asm__ volatile("tilerelease");
}
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : :)
/* Row i is at p + i * stride. */
#define TILE_LOAD(t, p, stride)                                                                    \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride)                                                                   \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)"                                           \
                     :                                                                             \
                     : "r"(p), "r"((size_t)(stride))                                               \
                     : "memory")
/* c += a by b: dword n of c's row m, by the four bytes of a's dword k of row m and of b's dword n
 * of row k. Bytes of a are signed; of b signed (SS) or not (SU). */
#define TILE_DOT_SS(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define TILE_DOT_SU(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
/* The same by two bfloats. */
#define TILE_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#else

#include <math.h>

static _Thread_local struct {
    tile_config config;
    uint8_t tiles[8][16][64];
} tiles;

static inline void tiles_begin(const tile_config *config) {
    memset(&tiles, 0, sizeof tiles);
    tiles.config = *config;
}
static inline void tiles_end(void) {
    memset(&tiles, 0, sizeof tiles);
}
static inline void tile_zero(int t) {
    memset(tiles.tiles[t], 0, sizeof tiles.tiles[t]);
}
static inline void tile_load(int t, const void *p, size_t stride) {
    tile_zero(t);
    for (size_t i = 0; i < tiles.config.rows[t]; i++)
        memcpy(tiles.tiles[t][i], (const uint8_t *)p + i * stride, tiles.config.row_bytes[t]);
}
static inline void tile_store(int t, void *p, size_t stride) {
    for (size_t i = 0; i < tiles.config.rows[t]; i++)
        memcpy((uint8_t *)p + i * stride, tiles.tiles[t][i], tiles.config.row_bytes[t]);
}
/* What a tile has no room for is zero, so all of it may take part. */
static inline void tile_dot(int c, int a, int b, int b_is_signed) {
    for (int m = 0; m < 16; m++) {
        int32_t sums[16];
        memcpy(sums, tiles.tiles[c][m], 64);
        for (int i = 0; i < 64; i++) {
            int x = (int8_t)tiles.tiles[a][m][i];
            for (int n = 0; n < 16; n++) {
                uint8_t y = tiles.tiles[b][i / 4][4 * n + i % 4];
                sums[n] += x * (b_is_signed ? (int8_t)y : y);
            }
        }
        memcpy(tiles.tiles[c][m], sums, 64);
    }
}
/* Denormals count as zeros, here and in results. */
static inline float tile_flushed(float x) {
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}
static inline float tile_bfloat(uint32_t word, int odd) {
    uint32_t bits = odd ? word & 0xffff0000u : word << 16;
    float x;
    memcpy(&x, &bits, 4);
    return tile_flushed(x);
}
static inline void tile_dot_bf16(int c, int a, int b) {
    for (int m = 0; m < 16; m++) {
        float sums[16], parts[2][16] = {{0}, {0}};
        memcpy(sums, tiles.tiles[c][m], 64);
        for (int i = 0; i < 32; i++) {
            uint32_t x, row[16];
            memcpy(&x, &tiles.tiles[a][m][i / 2 * 4], 4);
            memcpy(row, tiles.tiles[b][i / 2], 64);
            for (int n = 0; n < 16; n++) {
                float product =
                    fmaf(tile_bfloat(x, i % 2), tile_bfloat(row[n], i % 2), parts[i % 2][n]);
                parts[i % 2][n] = tile_flushed(product);
            }
        }
        for (int n = 0; n < 16; n++) {
            float both = tile_flushed(parts[0][n] + parts[1][n]);
            sums[n] = tile_flushed(tile_flushed(sums[n]) + both);
        }
        memcpy(tiles.tiles[c][m], sums, 64);
    }
}
#define TILE_ZERO(t)             tile_zero(t)
#define TILE_LOAD(t, p, stride)  tile_load(t, p, stride)
#define TILE_STORE(t, p, stride) tile_store(t, p, stride)
#define TILE_DOT_SS(c, a, b)     tile_dot(c, a, b, 1)
#define TILE_DOT_SU(c, a, b)     tile_dot(c, a, b, 0)
#define TILE_DOT_BF16(c, a, b)   tile_dot_bf16(c, a, b)

#endif
#endif
