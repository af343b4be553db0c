/* All that kernels may use of a device: where a thread stands, a barrier, exchanges and products within a warp, shared
 * memory and copies to it, and the launch. nvcc compiles this for devices; the tests compile the same kernels for the
 * host, over their own emulate.h, which gives the same names. Kernels launch blocks and grids of one dimension. */
#ifndef BACKEND_CUDA_DEVICE_CUH
#define BACKEND_CUDA_DEVICE_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <type_traits>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define DEVICE __device__ __forceinline__
#define GLOBAL __global__
/* A kernel of so many threads a block, so many blocks at once on one processor. */
#define GLOBAL_OF(threads, blocks) __global__ __launch_bounds__(threads, blocks)
#define SHARED __shared__
/* Of a kernel's parameter that it reads at indices: there is no copy of it for each thread. */
#define CONSTANT const __grid_constant__
/* The loop that follows is spelled out: what it indexes stays in registers. */
#define UNROLL _Pragma("unroll")
/* The loop that follows, so many rounds at once: their loads come first. */
#define UNROLL_TEXT(text) _Pragma(#text)
#define UNROLL_BY(n) UNROLL_TEXT(unroll n)

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

/* What a launch of launch_shared() gives each block, with nothing in it yet. */
DEVICE char *shared_memory() {
  extern __shared__ uint4 dynamic_memory[];
  return (char *)dynamic_memory;
}

/* Four 8 x 8 matrices of two-byte elements, the warp's: lane l gives row l % 8 of matrix l / 8 (16 bytes, at a multiple
 * of them) and gets of each matrix elements 2 (l % 4) and the next of row l / 4, the first one low; of its transpose
 * those. */
DEVICE void load_matrices(uint32_t (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((unsigned)__cvta_generic_to_shared(row))
               : "memory");
}
DEVICE void load_transposed(uint32_t (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((unsigned)__cvta_generic_to_shared(row))
               : "memory");
}

/* The warp's c [16,8] += a [16,16] b [16,8], a and b of bfloat16. Lane l has of c row l / 4, columns 2 (l % 4) and the
 * next, then the same of row l / 4 + 8; a is four matrices as load_matrices gives them: rows 0-7 and 8-15 of columns
 * 0-7, then of 8-15; b two, of rows 0-7 and 8-15, each transposed. */
DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The thread's copies to shared memory go on beside what it does: 16 bytes, or 4; zeros unless `real`. Addresses are
 * multiples. What was begun since the last copies_end() is a group; copies_wait waits for all groups but the last
 * `left`. Other threads see it behind a barrier. */
DEVICE void copy_16(void *to, const void *from, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
               "l"(__cvta_generic_to_global(from)), "r"(real ? 16 : 0)
               : "memory");
}
DEVICE void copy_4(void *to, const void *from, bool real) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
               "l"(__cvta_generic_to_global(from)), "r"(real ? 4 : 0)
               : "memory");
}
DEVICE void copies_end() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int left> DEVICE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/* 2 to the power of x, with an error of a few units of the last digit; what is no normal number may be 0. */
DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* Good to some units in the last place; the quotient where y is not beyond 2^126. */
DEVICE float quick_exp(float x) {
  return __expf(x);
}
DEVICE float quick_quotient(float x, float y) {
  return __fdividef(x, y);
}

/* No blocks: no launch. */
template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t blocks, int threads, cudaStream_t stream, A... a) {
  if (blocks)
    kernel<<<(unsigned)blocks, (unsigned)threads, 0, stream>>>(P(a)...);
}

/* With so many bytes of shared memory; more than a device has fail as launches do. */
template <class... P, class... A>
void launch_shared(void (*kernel)(P...), int64_t blocks, int threads, size_t bytes, cudaStream_t stream, A... a) {
  if (bytes > 48 << 10)
    cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
  if (blocks)
    kernel<<<(unsigned)blocks, (unsigned)threads, bytes, stream>>>(P(a)...);
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
