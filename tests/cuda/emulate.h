/* The device primitives of backend/cuda/device.cuh on the host. A launch is put on its stream; when it runs, its blocks
 * run one after another and the threads of a block as fibers, each until it meets a barrier or an exchange within its
 * warp, in an order that the seed shuffles. So code that misses a barrier, or whose sums depend on the order of blocks,
 * gives other bits under another seed, and a sanitizer sees every access. What stops for ever, or a barrier that not
 * all threads reach at one place, ends the program with a message. */
#ifndef TESTS_CUDA_EMULATE_H
#define TESTS_CUDA_EMULATE_H

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cuda_runtime_api.h>

#define DEVICE inline
#define GLOBAL
#define GLOBAL_OF(threads, blocks)
#define UNROLL
#define SHARED static /* one launch runs at a time */
#define CONSTANT const
#define UNROLL_BY(n)

struct EmulatedThread {
  int thread, block, block_size, grid_size;
};
extern EmulatedThread *emulated; /* the one that runs */

static inline int thread_index() {
  return emulated->thread;
}
static inline int block_index() {
  return emulated->block;
}
static inline int block_size() {
  return emulated->block_size;
}
static inline int grid_size() {
  return emulated->grid_size;
}

/* `line` tells apart the places where threads wait. `together` runs once for a warp whose lanes all wait: lane[l] is
 * what lane l gave as its own. */
void emulated_barrier(int line);
void emulated_warp(void *own, void (*together)(void *const lane[32]), int line);

static inline void barrier(int line = __builtin_LINE()) {
  emulated_barrier(line);
}

template <class T> T shuffle_xor(T x, int lane_mask, int line = __builtin_LINE()) {
  struct Lane {
    T given, got;
    int mask;
  } own = {x, x, lane_mask};
  emulated_warp(
      &own,
      [](void *const lane[32]) {
        for (int i = 0; i < 32; i++)
          ((Lane *)lane[i])->got = ((Lane *)lane[i ^ ((Lane *)lane[i])->mask])->given;
      },
      line);
  return own.got;
}

/* The launch's; what is read before it was written is no number. */
char *shared_memory();

struct EmulatedMatrices {
  const uint16_t *row;
  uint32_t *to;
};
void emulated_matrices(void *const lane[32]);
void emulated_transposed(void *const lane[32]);

static inline void load_matrices(uint32_t (&to)[4], const void *row, int line = __builtin_LINE()) {
  EmulatedMatrices own = {(const uint16_t *)row, to};
  emulated_warp(&own, emulated_matrices, line);
}
static inline void load_transposed(uint32_t (&to)[4], const void *row, int line = __builtin_LINE()) {
  EmulatedMatrices own = {(const uint16_t *)row, to};
  emulated_warp(&own, emulated_transposed, line);
}

struct EmulatedProduct {
  float *c;
  const uint32_t *a;
  uint32_t b[2];
};
void emulated_product(void *const lane[32]);

static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                int line = __builtin_LINE()) {
  EmulatedProduct own = {c, a, {b0, b1}};
  emulated_warp(&own, emulated_product, line);
}

/* Copied as late as may be. */
void emulated_copy(void *to, const void *from, int bytes, bool real);
void emulated_copies_end();
void emulated_copies_wait(int left);

static inline void copy_16(void *to, const void *from, bool real) {
  emulated_copy(to, from, 16, real);
}
static inline void copy_4(void *to, const void *from, bool real) {
  emulated_copy(to, from, 4, real);
}
static inline void copies_end() {
  emulated_copies_end();
}
template <int left> void copies_wait() {
  emulated_copies_wait(left);
}

static inline float power_of_two(float x) {
  return exp2f(x);
}

static inline float quick_exp(float x) {
  return expf(x);
}
static inline float quick_quotient(float x, float y) {
  return x / y;
}

static inline bool claim(int *flag) {
  return *flag ? false : (*flag = 1, true);
}

static inline bool last_block(int *finished, int line = __builtin_LINE()) {
  static bool last;
  emulated_barrier(line);
  if (emulated->thread == 0) {
    last = ++*finished == emulated->grid_size;
    *finished = last ? 0 : *finished;
  }
  emulated_barrier(line);
  return last;
}

void emulated_launch(cudaStream_t stream, int blocks, int threads, size_t shared, std::function<void()> thread);

template <class... P, class... A>
void launch_shared(void (*kernel)(P...), int64_t blocks, int threads, size_t bytes, cudaStream_t stream, A... a) {
  if (blocks)
    emulated_launch(stream, (int)blocks, threads, bytes, [=] { kernel(P(a)...); });
}

template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t blocks, int threads, cudaStream_t stream, A... a) {
  launch_shared(kernel, blocks, threads, 0, stream, a...);
}

#endif
