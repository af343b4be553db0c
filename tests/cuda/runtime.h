/* What the parts of the emulation share. */
#ifndef TESTS_CUDA_RUNTIME_H
#define TESTS_CUDA_RUNTIME_H

#include <functional>
#include <mutex>
#include <stdint.h>
#include <vector>

#include <cuda_runtime_api.h>

/* The next number of the seed's sequence; under the lock of the device. */
uint64_t emulated_random();
/* Runs a launch, `shared` bytes of shared memory a block; under the lock of the device. */
void emulated_run(int blocks, int threads, size_t shared, const std::function<void()> &run);
/* Whether the call of this function was told to fail. */
bool emulated_fails(const char *function);
cudaError_t emulated_result(cudaError_t error);
#define MAY_FAIL                                                                                                       \
  if (emulated_fails(__func__))                                                                                        \
  return emulated_result(cudaErrorLaunchFailure)
/* Puts work on a stream, or on its graph. */
void emulated_enqueue(cudaStream_t stream, std::function<void()> work);

/* For what is more than one device's (nccl.cpp). All under the lock, which is the world's. */
typedef std::unique_lock<std::recursive_mutex> EmulatedLock;
EmulatedLock emulated_lock();
/* Gives the lock up until something is enqueued or done, or a millisecond is over. It is held once. */
void emulated_pause(EmulatedLock &held);
/* Puts work on a stream that is asked again and again until it says that it is done. Its number on the stream. */
uint64_t emulated_enqueue_waiting(cudaStream_t stream, std::function<bool()> work);
/* Runs the stream's work up to that number, as far as it gets. Whether all is done. */
bool emulated_progress(cudaStream_t stream, uint64_t until);
/* Whether nothing at all has happened for longer than any host takes, while somebody asked. */
bool emulated_stuck();
int emulated_device_of(cudaStream_t stream);

/* Graphs (graph.cpp), under the lock. Operations that say whether they are done: */
typedef std::vector<std::function<bool()>> EmulatedWork;
/* Whether the stream is captured; then the work was kept, and what happens when it is launched. */
bool emulated_captures(cudaStream_t stream, const std::function<bool()> &work,
                       const std::function<void()> &launched = nullptr);
/* Whether the stream is captured, NULL: whether the thread captures one; then that will fail. */
bool emulated_spoils(cudaStream_t stream);
/* How many there are. */
size_t emulated_graphs();
/* Puts all of it on the stream, as one launch. */
void emulated_put_all(cudaStream_t stream, const EmulatedWork &work);

/* The device that has this memory; -1: none. */
int emulated_device_of_memory(const void *address, size_t bytes);

#endif
