/* The CUDA runtime's streams, events and memory on the host. Invariant: work on a stream runs in its order and not
 * before it must: when the host waits, when another stream's work waits for an event behind it, or when the seed says
 * so; never while the host is told that it is over. One lock is the device: one operation runs at a time.
 *
 * Under AddressSanitizer the host cannot touch the memory of a device: it is poisoned while nothing runs. Memory that
 * is not pinned is read before the call returns, and written before it returns, as on a real device. */
#include "runtime.h"

#include <deque>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#include "emulate.h"
#include "emulation.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

struct CUstream_st {
  std::deque<std::function<void()>> work;
  uint64_t done = 0, added = 0; /* counts of operations */
};

struct CUevent_st {
  cudaStream_t stream = NULL; /* NULL: not recorded */
  uint64_t at = 0;            /* done once so many operations of the stream are */
};

struct Block {
  size_t bytes;
  int device;
  char *base; /* what malloc gave */
};

static std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Locked;
static std::map<char *, Block> memory, pinned;
static uint64_t seed_state = 1;
static int n_devices = 2, running, waits, allocations;
static size_t device_bytes = (size_t)1 << 30;
static std::string failing;
static int failing_after;
static thread_local int current;
static thread_local cudaError_t last_error;

uint64_t emulated_random() {
  seed_state ^= seed_state << 13;
  seed_state ^= seed_state >> 7;
  return seed_state ^= seed_state << 17;
}

void emulation_seed(uint64_t seed) {
  Locked locked(lock);
  seed_state = seed * 0x9e3779b97f4a7c15u | 1;
}

void emulation_devices(int count, size_t bytes) {
  Locked locked(lock);
  n_devices = count;
  device_bytes = bytes;
}

void emulation_fail(const char *function, int after) {
  Locked locked(lock);
  failing = function;
  failing_after = after;
}

static size_t allocated(int device) {
  size_t bytes = 0;
  for (const auto &entry : memory)
    bytes += device < 0 || entry.second.device == device ? entry.second.bytes : 0;
  return bytes;
}

size_t emulation_allocated(void) {
  Locked locked(lock);
  size_t bytes = allocated(-1);
  for (const auto &entry : pinned)
    bytes += entry.second.bytes;
  return bytes;
}

int emulation_allocations(void) {
  Locked locked(lock);
  return allocations;
}

int emulation_waits(void) {
  Locked locked(lock);
  return waits;
}

/* Whether this call was told to fail. */
static bool fails(const char *function) {
  Locked locked(lock);
  if (failing != function || failing_after-- > 0)
    return false;
  failing.clear();
  return true;
}

static cudaError_t result(cudaError_t error) {
  last_error = error ? error : last_error;
  return error;
}

#define MAY_FAIL                                                                                                       \
  if (fails(__func__))                                                                                                 \
  return result(cudaErrorLaunchFailure)

static void open_memory(bool open) {
  for (const auto &entry : memory)
    if (open)
      ASAN_UNPOISON_MEMORY_REGION(entry.first, entry.second.bytes);
    else
      ASAN_POISON_MEMORY_REGION(entry.first, entry.second.bytes);
}

/* Runs a stream's work up to its operation number `until`. */
static void drain(cudaStream_t stream, uint64_t until) {
  if (stream->done < until && running++ == 0)
    open_memory(true);
  else if (stream->done >= until)
    return;
  while (stream->done < until) {
    std::function<void()> work = std::move(stream->work.front());
    stream->work.pop_front();
    stream->done++;
    work();
  }
  if (--running == 0)
    open_memory(false);
}

void emulated_enqueue(cudaStream_t stream, std::function<void()> work) {
  Locked locked(lock);
  stream->work.push_back(std::move(work));
  stream->added++;
  if (emulated_random() % 64 == 0)
    drain(stream, emulated_random() % 2 ? stream->added : stream->done + 1);
}

void emulated_launch(cudaStream_t stream, int blocks, int threads, std::function<void()> thread) {
  emulated_enqueue(stream, [=] { emulated_run(blocks, threads, thread); });
}

const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
         : error == cudaErrorNoDevice       ? "cudaErrorNoDevice"
         : error == cudaErrorInvalidDevice  ? "cudaErrorInvalidDevice"
         : error == cudaErrorLaunchFailure  ? "cudaErrorLaunchFailure"
                                            : "cudaErrorInvalidValue";
}

const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory"
         : error == cudaErrorNoDevice       ? "no CUDA-capable device is detected"
         : error == cudaErrorInvalidDevice  ? "invalid device ordinal"
         : error == cudaErrorLaunchFailure  ? "unspecified launch failure"
                                            : "invalid argument";
}

cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int *count) {
  MAY_FAIL;
  *count = n_devices;
  return result(n_devices ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  MAY_FAIL;
  if (device < 0 || device >= n_devices)
    return result(cudaErrorInvalidDevice);
  current = device;
  return result(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  MAY_FAIL;
  if (device < 0 || device >= n_devices)
    return result(cudaErrorInvalidDevice);
  *properties = cudaDeviceProp();
  snprintf(properties->name, sizeof properties->name, "emulated device");
  properties->totalGlobalMem = device_bytes;
  properties->major = 9;
  properties->multiProcessorCount = 1;
  return result(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  MAY_FAIL;
  (void)device;
  *value = attribute == cudaDevAttrGlobalMemoryBusWidth ? 64 : 1000000;
  return result(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  MAY_FAIL;
  Locked locked(lock);
  *total = device_bytes;
  *free = device_bytes - allocated(current);
  return result(cudaSuccess);
}

/* New memory holds garbage; what lies around it is nobody's. */
static void *take(std::map<char *, Block> &blocks, size_t bytes) {
  char *base = (char *)malloc(bytes + 512), *aligned = (char *)(((uintptr_t)base + 256) & ~(uintptr_t)255);
  memset(aligned, 0xa5, bytes);
  ASAN_POISON_MEMORY_REGION(base, bytes + 512);
  blocks[aligned] = Block{bytes, current, base};
  allocations++;
  return aligned;
}

static cudaError_t give(std::map<char *, Block> &blocks, void *address) {
  auto block = blocks.find((char *)address);
  if (!address)
    return cudaSuccess;
  if (block == blocks.end())
    return cudaErrorInvalidValue;
  ASAN_UNPOISON_MEMORY_REGION(block->second.base, block->second.bytes + 512);
  free(block->second.base);
  blocks.erase(block);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **address, size_t bytes) {
  MAY_FAIL;
  Locked locked(lock);
  *address = NULL;
  if (bytes > device_bytes - allocated(current))
    return result(cudaErrorMemoryAllocation);
  *address = take(memory, bytes);
  return result(cudaSuccess);
}

cudaError_t cudaFree(void *address) {
  MAY_FAIL;
  Locked locked(lock);
  return result(give(memory, address));
}

cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
  MAY_FAIL;
  Locked locked(lock);
  (void)flags;
  *address = take(pinned, bytes);
  ASAN_UNPOISON_MEMORY_REGION(*address, bytes);
  return result(cudaSuccess);
}

cudaError_t cudaFreeHost(void *address) {
  MAY_FAIL;
  Locked locked(lock);
  return result(give(pinned, address));
}

static bool lies_in(const std::map<char *, Block> &blocks, const void *address, size_t bytes) {
  auto next = blocks.upper_bound((char *)address);
  if (next == blocks.begin())
    return false;
  --next;
  return (char *)address + bytes <= next->first + next->second.bytes;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  MAY_FAIL;
  Locked locked(lock);
  bool from_device = kind != cudaMemcpyHostToDevice, to_device = kind != cudaMemcpyDeviceToHost;
  if (lies_in(memory, from, bytes) != from_device || lies_in(memory, to, bytes) != to_device)
    return result(cudaErrorInvalidValue);
  if (!from_device && !lies_in(pinned, from, bytes)) {
    std::vector<char> copy((const char *)from, (const char *)from + bytes);
    emulated_enqueue(stream, [=] { memcpy(to, copy.data(), bytes); });
  } else {
    emulated_enqueue(stream, [=] { memcpy(to, from, bytes); });
    if (!to_device && !lies_in(pinned, to, bytes)) {
      drain(stream, stream->added);
      waits++;
    }
  }
  return result(cudaSuccess);
}

cudaError_t cudaMemsetAsync(void *address, int byte, size_t bytes, cudaStream_t stream) {
  MAY_FAIL;
  Locked locked(lock);
  if (!lies_in(memory, address, bytes))
    return result(cudaErrorInvalidValue);
  emulated_enqueue(stream, [=] { memset(address, byte, bytes); });
  return result(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  MAY_FAIL;
  (void)flags;
  *stream = new CUstream_st();
  return result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  MAY_FAIL;
  Locked locked(lock);
  waits++;
  drain(stream, stream->added);
  return result(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  MAY_FAIL;
  Locked locked(lock);
  drain(stream, stream->added);
  delete stream;
  return result(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  MAY_FAIL;
  Locked locked(lock);
  (void)flags;
  cudaStream_t other = event->stream;
  uint64_t at = event->at;
  if (other && other != stream)
    emulated_enqueue(stream, [=] { drain(other, at); });
  return result(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  MAY_FAIL;
  (void)flags;
  *event = new CUevent_st();
  return result(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  MAY_FAIL;
  delete event;
  return result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  MAY_FAIL;
  Locked locked(lock);
  event->stream = stream;
  event->at = stream->added;
  return result(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  MAY_FAIL;
  Locked locked(lock);
  waits++;
  if (event->stream)
    drain(event->stream, event->at);
  return result(cudaSuccess);
}
