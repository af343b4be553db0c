/* What the parts of the emulation share. */
#ifndef TESTS_CUDA_RUNTIME_H
#define TESTS_CUDA_RUNTIME_H

#include <functional>
#include <stdint.h>

#include <cuda_runtime_api.h>

/* The next number of the seed's sequence; under the lock of the device. */
uint64_t emulated_random();
/* Runs a launch; under the lock of the device. */
void emulated_run(int blocks, int threads, const std::function<void()> &run);
/* Puts work on a stream. */
void emulated_enqueue(cudaStream_t stream, std::function<void()> work);

#endif
