/* What tests say to the emulated device. */
#ifndef TESTS_CUDA_EMULATION_H
#define TESTS_CUDA_EMULATION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* From now on blocks and threads run in the order that this seed gives, and streams get ahead or lag behind by it. */
#ifdef EMULATED
void emulation_seed(uint64_t seed);
#else /* a device has its own */
static inline void emulation_seed(uint64_t seed) {
  (void)seed;
}
#endif
/* How many devices there are (2), and the memory of each (1 GiB). */
void emulation_devices(int count, size_t bytes);
/* The call number `after` from now of the runtime's function of this name fails, once; of cuDNN's: cudnnCreate,
 * cudnnBackendFinalize of a plan, cudnnBackendExecute. */
void emulation_fail(const char *function, int after);
/* Bytes that are allocated on all devices, and pinned on the host; one more for each graph. */
size_t emulation_allocated(void);

/* How often memory has been allocated on devices or pinned so far. */
int emulation_allocations(void);

/* How often the calling thread has waited for a device so far, copies of memory that is not pinned included. */
int emulation_waits(void);

/* What the calling thread has put on streams so far: kernels, copies, zeros, libraries' work; of a graph one. */
int emulation_launches(void);

/* How many convolutions have been put on streams by cuDNN so far. */
int emulation_convolutions(void);
/* Those of them whose activations were bfloat16. */
int emulation_narrow_convolutions(void);

/* How long nothing may happen (60 seconds) before what waits is told that it waits for ever. */
void emulation_patience(double seconds);

/* The rank that computes on this device dies, as far as its peers over NCCL can see. */
void emulation_nccl_kill(int device);
/* NCCL's operations so far: groups that were put on streams. */
int emulation_nccl_groups(void);

#ifdef __cplusplus
}
#endif

#endif
