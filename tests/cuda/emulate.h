/* The device primitives of backend/cuda/device.cuh on the host. A launch is put on its stream; when it runs, its blocks
 * run one after another and the threads of a block as fibers, each until it meets a barrier or an exchange within its
 * warp, in an order that the seed shuffles. So code that misses a barrier, or whose sums depend on the order of blocks,
 * gives other bits under another seed, and a sanitizer sees every access. What stops for ever, or a barrier that not
 * all threads reach at one place, ends the program with a message. */
#ifndef TESTS_CUDA_EMULATE_H
#define TESTS_CUDA_EMULATE_H

#include <functional>
#include <stdint.h>
#include <string.h>

#include <cuda_runtime_api.h>

#define DEVICE inline
#define GLOBAL
#define SHARED static /* one launch runs at a time */

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

/* `line` tells apart the places where threads wait. */
void emulated_barrier(int line);
uint64_t emulated_shuffle(uint64_t bits, int lane_mask, int line);

static inline void barrier(int line = __builtin_LINE()) {
  emulated_barrier(line);
}

template <class T> T shuffle_xor(T x, int lane_mask, int line = __builtin_LINE()) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  bits = emulated_shuffle(bits, lane_mask, line);
  memcpy(&x, &bits, sizeof x);
  return x;
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

void emulated_launch(cudaStream_t stream, int blocks, int threads, std::function<void()> thread);

template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t blocks, int threads, cudaStream_t stream, A... a) {
  if (blocks)
    emulated_launch(stream, (int)blocks, threads, [=] { kernel(P(a)...); });
}

#endif
