/* The rate at which a processor's cores multiply and add registers, without memory accesses. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <time.h>

#include <immintrin.h>

/* Independent sums, enough to hide an instruction's latency and few enough for the registers. */
enum { AVX2_SUMS = 12, AVX512_SUMS = 16, STEPS = 20000 };

typedef struct loop {
  const char *instructions;
  double operations; /* of one run: a product and an addition count as two */
  void (*run)(void);
} loop;

/* Keeps a value in a register, and hides it from the compiler's optimisation. */
#define KEEP(value) __asm__ volatile("" : "+v"(value))

/* A function that adds products to SUMS sums; the compiler keeps them in registers. */
#define DEFINE_LOOP(NAME, TARGET, SUMS, SUM, FACTOR, ONE, ADD_PRODUCT)    \
  __attribute__((target(TARGET))) static void NAME(void) {                \
    FACTOR a = ONE, b = ONE;                                              \
    SUM sums[SUMS] = {{0}};                                               \
    KEEP(a);                                                              \
    KEEP(b);                                                              \
    for (int step = 0; step < STEPS; step++) {                            \
      for (int i = 0; i < SUMS; i++) {                                    \
        sums[i] = ADD_PRODUCT;                                            \
        KEEP(sums[i]);                                                    \
      }                                                                   \
    }                                                                     \
  }

DEFINE_LOOP(avx2_f32, "avx2,fma", AVX2_SUMS, __m256, __m256, _mm256_set1_ps(1.0f),
            _mm256_fmadd_ps(a, b, sums[i]))
DEFINE_LOOP(avx512_f32, "avx512f", AVX512_SUMS, __m512, __m512, _mm512_set1_ps(1.0f),
            _mm512_fmadd_ps(a, b, sums[i]))
DEFINE_LOOP(avx512_bf16, "avx512f,avx512bw,avx512bf16", AVX512_SUMS, __m512, __m512bh,
            (__m512bh)_mm512_set1_epi16(0x3f80), _mm512_dpbf16_ps(sums[i], a, b))

#define OPERATIONS(SUMS, PRODUCTS) (2.0 * STEPS * (SUMS) * (PRODUCTS))

static const loop *f32_loop(void) {
  static const loop wide = {"AVX-512", OPERATIONS(AVX512_SUMS, 16), avx512_f32};
  static const loop narrow = {"AVX2 and FMA", OPERATIONS(AVX2_SUMS, 8), avx2_f32};
  if (__builtin_cpu_supports("avx512f")) return &wide;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &narrow : NULL;
}

/* Without bf16 instructions, bf16 products are computed in f32. */
static const loop *bf16_loop(void) {
  static const loop dot = {"AVX-512 BF16", OPERATIONS(AVX512_SUMS, 32), avx512_bf16};
  return __builtin_cpu_supports("avx512bf16") ? &dot : f32_loop();
}

static const loop *loop_of(int is_bf16) { return is_bf16 ? bf16_loop() : f32_loop(); }

/* The instructions that `peak` uses; NULL if the processor has none of them. */
const char *peak_instructions(int is_bf16) {
  const loop *loop = loop_of(is_bf16);
  return loop ? loop->instructions : NULL;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

typedef struct worker {
  pthread_t thread;
  pthread_barrier_t *start;
  const loop *loop;
  double seconds; /* how long to run */
  double rate;    /* operations per second */
} worker;

static void *work(void *state) {
  worker *self = state;
  self->loop->run(); /* wakes the wide units */
  pthread_barrier_wait(self->start);
  double start = now(), end = start, operations = 0;
  while (end - start < self->seconds) {
    self->loop->run();
    operations += self->loop->operations;
    end = now();
  }
  self->rate = operations / (end - start);
  return NULL;
}

/* Pins a thread to the core of its index among the usable ones. Otherwise a new thread may share a
 * core with another one for a while, although others are idle. */
static void place(pthread_t thread, int number) {
  cpu_set_t usable, one;
  if (sched_getaffinity(0, sizeof usable, &usable)) return;
  int left = number % CPU_COUNT(&usable), core = 0;
  while (!CPU_ISSET(core, &usable) || left-- > 0) core++;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  pthread_setaffinity_np(thread, sizeof one, &one);
}

/* Operations per second of all threads together; 0 if they cannot be started. */
double peak(int is_bf16, int threads, double seconds) {
  enum { MOST_THREADS = 1024 };
  static worker workers[MOST_THREADS];
  const loop *loop = loop_of(is_bf16);
  pthread_barrier_t start;
  double rate = 0;
  if (!loop || threads < 1 || threads > MOST_THREADS) return 0;
  if (pthread_barrier_init(&start, NULL, (unsigned)threads)) return 0;
  for (int i = 0; i < threads; i++) {
    workers[i] = (worker){.start = &start, .loop = loop, .seconds = seconds};
    /* The threads that already run keep waiting at the barrier and cannot be stopped. */
    if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) return 0;
    place(workers[i].thread, i);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(workers[i].thread, NULL);
    rate += workers[i].rate;
  }
  pthread_barrier_destroy(&start);
  return rate;
}
