/* probes.c - what this machine gives at the moment: read bandwidth and the peak rates of int8, BF16
 * and FP32 dot products; and a busy neighbour.
 *
 *   probes THREADS      for each line "MILLISECONDS" on standard input one line of JSON, until it
 *                       closes: {"read_gbps": X, "int8_gops": X, "bf16_gflops": X|null,
 *                       "fp32_gflops": X, "int8_tiles_gops": X|null, "bf16_tiles_gflops": X|null},
 *                       each measured for that long on THREADS threads at once
 *   probes spin         keeps one core busy until the parent is gone
 *
 * Rates are sums over the threads of each thread's work by its own time: a stolen core shows. A
 * multiply-add counts as two operations. Compiled for the machine it runs on (-mcpu=native).
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#define TILES
#endif

/* Per instruction set: the widest register of bytes and floats, and one dot product step of each
 * kind with its operations. CHAINS independent sums hide the latency; both operands stay in
 * registers, so nothing but the arithmetic units bounds the loops. */
#if defined(__AVX512VNNI__)
#include <immintrin.h>
typedef __m512i ints;
typedef __m512 floats;
enum { CHAINS = 16, INT8_OPS = 128, BF16_OPS = 64, FP32_OPS = 32 };
#define INT8_STEP(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define FP32_STEP(sum, a, b) _mm512_fmadd_ps(a, b, sum)
#if defined(__AVX512BF16__)
#define BF16_STEP(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef __m256i ints;
typedef __m256 floats;
enum { CHAINS = 12, INT8_OPS = 64, BF16_OPS = 0, FP32_OPS = 16 };
#if defined(__AVXVNNI__)
#define INT8_STEP(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#else
/* The sum goes through the first factor, else the compiler computes the products once. */
#define INT8_STEP(sum, a, b)                                                                       \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_xor_si256(a, sum), b),     \
                                            _mm256_set1_epi16(1)))
#endif
#define FP32_STEP(sum, a, b) _mm256_fmadd_ps(a, b, sum)
#elif defined(__ARM_NEON)
#include <arm_neon.h>
typedef int32x4_t ints;
typedef float32x4_t floats;
enum { CHAINS = 16, INT8_OPS = 32, BF16_OPS = 16, FP32_OPS = 8 };
#if defined(__ARM_FEATURE_DOTPROD)
#define INT8_STEP(sum, a, b) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#else
#define INT8_STEP(sum, a, b)                                                                       \
    vpadalq_s16(sum, vmull_s8(vreinterpret_s8_s32(vget_low_s32(veorq_s32(a, sum))),                \
                              vreinterpret_s8_s32(vget_low_s32(b))))
#endif
#define FP32_STEP(sum, a, b) vfmaq_f32(sum, a, b)
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define BF16_STEP(sum, a, b) vbfdotq_f32(sum, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b))
#endif
#else
#error "the probes need AVX2 with FMA, or Advanced SIMD"
#endif

enum { BURST = 4096, CHUNK = 1 << 20, MAX_THREADS = 256 };
static const size_t READ_BYTES = (size_t)128 << 20; /* per thread: far beyond the caches */

typedef enum kind { READ, INT8, BF16, FP32, INT8_TILES, BF16_TILES, N_KINDS } kind;

typedef struct task {
    kind kind;
    double seconds;            /* how long to measure */
    const unsigned char *data; /* (READ_BYTES) */
    double rate;               /* result: billions of bytes or operations a second */
} task;

static volatile uint64_t sink; /* whatever is computed ends here, so that it is computed */

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void consume(const void *bytes, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, (const unsigned char *)bytes + i, 8);
        sum ^= word;
    }
    sink = sum;
}

/* A function of n steps on each of CHAINS sums. */
#define DEFINE_BURST(name, vector, STEP)                                                           \
    static void name(size_t n) {                                                                   \
        vector a, b, sums[CHAINS];                                                                 \
        /* 0.75 as a float or as two BF16; opaque, or the compiler would know the result. */       \
        memset(&a, 0x3f, sizeof a);                                                                \
        memset(&b, 0x3f, sizeof b);                                                                \
        __asm__ volatile("" : "+m"(a), "+m"(b));                                                   \
        memset(sums, 0, sizeof sums);                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            for (size_t k = 0; k < CHAINS; k++) sums[k] = STEP(sums[k], a, b);                     \
        }                                                                                          \
        consume(sums, sizeof sums);                                                                \
    }

DEFINE_BURST(int8_burst, ints, INT8_STEP)
DEFINE_BURST(fp32_burst, floats, FP32_STEP)
#if defined(BF16_STEP)
DEFINE_BURST(bf16_burst, floats, BF16_STEP)
#endif

#if defined(TILES)
/* As many steps, each a product of 16 rows of 64 bytes by 16 columns, on four sums. */
#define TILE_STEP(name)                                                                            \
    __asm__ volatile(name " %tmm6, %tmm4, %tmm0\n" name " %tmm7, %tmm4, %tmm1\n" name              \
                          " %tmm6, %tmm5, %tmm2\n" name " %tmm7, %tmm5, %tmm3")
enum { TILE_INT8_OPS = 16 * 16 * 64 * 2, TILE_BF16_OPS = 16 * 16 * 32 * 2, TILE_SUMS = 4 };

static void tiles_burst(size_t n, bool bytes) {
    struct {
        unsigned char palette, other[15];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.rows[i] = 16, config.row_bytes[i] = 64;
    __asm__ volatile("ldtilecfg %0" : : "m"(config)); /* tiles are zero then */
    for (size_t i = 0; i < n; i++) {
        if (bytes) {
            TILE_STEP("tdpbssd");
        } else {
            TILE_STEP("tdpbf16ps");
        }
    }
    __asm__ volatile("tilerelease");
}
#endif

/* Whether the system lets this process use them. */
static bool has_tiles(void) {
#if defined(TILES)
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
#else
    return false;
#endif
}

/* Sums one chunk with a prefetch 4 KiB ahead, the distance that helped most on 4 KiB pages. */
static void read_chunk(const unsigned char *data) {
    const uint64_t *words = (const uint64_t *)(const void *)data;
    uint64_t sums[16] = {0};
    for (size_t i = 0; i < CHUNK / 8; i += 16) {
        __builtin_prefetch(words + i + 512, 0, 3);
        __builtin_prefetch(words + i + 520, 0, 3);
        for (size_t k = 0; k < 16; k++) sums[k] += words[i + k];
    }
    consume(sums, sizeof sums);
}

static void *measure(void *argument) {
    task *t = argument;
    double begin = now();
    double elapsed = 0;
    double done = 0;
    size_t at = 0;
    do {
        switch (t->kind) {
        case READ:
            read_chunk(t->data + at);
            at = (at + CHUNK) % READ_BYTES;
            done += (double)CHUNK;
            break;
        case INT8:
            int8_burst(BURST);
            done += (double)(BURST * CHAINS * INT8_OPS);
            break;
        case BF16:
#if defined(BF16_STEP)
            bf16_burst(BURST);
            done += (double)(BURST * CHAINS * BF16_OPS);
#endif
            break;
        case FP32:
            fp32_burst(BURST);
            done += (double)(BURST * CHAINS * FP32_OPS);
            break;
        case INT8_TILES:
        case BF16_TILES:
#if defined(TILES)
            tiles_burst(BURST, t->kind == INT8_TILES);
            done +=
                (double)BURST * TILE_SUMS * (t->kind == INT8_TILES ? TILE_INT8_OPS : TILE_BF16_OPS);
#endif
            break;
        case N_KINDS:
            break;
        }
        elapsed = now() - begin;
    } while (elapsed < t->seconds);
    t->rate = done / elapsed / 1e9;
    return NULL;
}

static bool measure_all(task *tasks, int n_threads, kind kind, double seconds, double *rate) {
    pthread_t threads[MAX_THREADS];
    for (int i = 0; i < n_threads; i++) {
        tasks[i].kind = kind;
        tasks[i].seconds = seconds;
        if (pthread_create(&threads[i], NULL, measure, &tasks[i]) != 0) return false;
    }
    *rate = 0;
    for (int i = 0; i < n_threads; i++) {
        (void)pthread_join(threads[i], NULL);
        *rate += tasks[i].rate;
    }
    return true;
}

static int answer(int n_threads) {
    static task tasks[MAX_THREADS];
    for (int i = 0; i < n_threads; i++) {
        /* A page more: the prefetch of the last chunk runs past its end. */
        void *data = mmap(NULL, READ_BYTES + 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED) return fputs("probes: out of memory\n", stderr), 1;
#if defined(MADV_HUGEPAGE)
        (void)madvise(data, READ_BYTES, MADV_HUGEPAGE);
#endif
        memset(data, 1, READ_BYTES);
        tasks[i].data = data;
    }
    static const char *names[N_KINDS] = {"read_gbps",   "int8_gops",       "bf16_gflops",
                                         "fp32_gflops", "int8_tiles_gops", "bf16_tiles_gflops"};
    bool available[N_KINDS] = {[READ] = true, [INT8] = true, [FP32] = true};
#if defined(BF16_STEP)
    available[BF16] = true;
#endif
    available[INT8_TILES] = available[BF16_TILES] = has_tiles();
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *end = line;
        unsigned long milliseconds = strtoul(line, &end, 10);
        if (end == line || milliseconds < 1 || milliseconds > 60000) {
            return fputs("probes: expected milliseconds, 1 to 60000\n", stderr), 2;
        }
        for (int k = 0; k < N_KINDS; k++) {
            double rate = 0;
            if (!available[k]) {
                (void)printf(", \"%s\": null", names[k]);
                continue;
            }
            if (!measure_all(tasks, n_threads, (kind)k, (double)milliseconds / 1000, &rate)) {
                return fputs("probes: no more threads\n", stderr), 1;
            }
            (void)printf("%s\"%s\": %.2f", k == 0 ? "{" : ", ", names[k], rate);
        }
        (void)printf("}\n");
        (void)fflush(stdout);
    }
    return 0;
}

static int spin(void) {
    pid_t parent = getppid();
    volatile uint64_t count = 0;
    while (getppid() == parent) {
        for (int i = 0; i < 1000000; i++) count = count + 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "spin") == 0) return spin();
    int n_threads = argc == 2 ? (int)strtoul(argv[1], NULL, 10) : 0;
    if (n_threads < 1 || n_threads > MAX_THREADS) {
        return fputs("usage: probes THREADS | probes spin\n", stderr), 2;
    }
    return answer(n_threads);
}
