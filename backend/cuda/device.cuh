/* All that kernels may use of a device: where a thread stands, a barrier, exchanges within a warp, shared memory, and
 * the launch. nvcc compiles this for devices; the tests compile the same kernels for the host, over their own
 * emulate.h, which gives the same names. Kernels launch blocks and grids of one dimension. */
#ifndef BACKEND_CUDA_DEVICE_CUH
#define BACKEND_CUDA_DEVICE_CUH

#include <math.h>
#include <stdint.h>
#include <type_traits>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define DEVICE __device__ __forceinline__
#define GLOBAL __global__
#define SHARED __shared__

DEVICE int thread_index() {
  return (int)threadIdx.x;
}
DEVICE int block_index() {
  return (int)blockIdx.x;
}
DEVICE int block_size() {
  return (int)blockDim.x;
}
DEVICE int grid_size() {
  return (int)gridDim.x;
}

/* All threads of a block. */
DEVICE void barrier() {
  __syncthreads();
}

/* All lanes of a warp: the value of lane (own xor lane_mask). */
template <class T> DEVICE T shuffle_xor(T x, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, x, lane_mask);
}

/* True for one thread of all. */
DEVICE bool claim(int *flag) {
  return atomicCAS(flag, 0, 1) == 0;
}

/* True in all threads of the last block that comes here, once what the others wrote before can be read. */
DEVICE bool last_block(int *finished) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(finished, 1) == (int)gridDim.x - 1;
    if (last)
      *finished = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

/* No blocks: no launch. */
template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t blocks, int threads, cudaStream_t stream, A... a) {
  if (blocks)
    kernel<<<(unsigned)blocks, (unsigned)threads, 0, stream>>>(P(a)...);
}

#else
#include "emulate.h"
#endif

constexpr int WARP_LANES = 32, BLOCK_THREADS = 256;
constexpr int64_t MOST_BLOCKS = 1 << 20;

/* This thread's number among all, and how many there are. */
DEVICE int64_t global_thread() {
  return (int64_t)block_index() * block_size() + thread_index();
}
DEVICE int64_t global_threads() {
  return (int64_t)grid_size() * block_size();
}

/* Blocks of BLOCK_THREADS for n threads' work, none for none; loops over it step by global_threads(). */
static inline int64_t blocks_for(int64_t n) {
  int64_t blocks = (n + BLOCK_THREADS - 1) / BLOCK_THREADS;
  return blocks > MOST_BLOCKS ? MOST_BLOCKS : blocks;
}

#endif
