/* The CUDA runtime's streams, events and memory on the host. Invariant: work on a stream runs in its order and not
 * before it must: when the host waits or looks, when another stream's work waits for an event behind it, or when the
 * seed says so; never while the host is told that it is over. One lock is the world: one operation runs at a time, and
 * what waits for another stream is asked again when something has happened.
 *
 * Under AddressSanitizer the host cannot touch the memory of a device: it is poisoned while nothing runs. Memory that
 * is not pinned is read before the call returns, and written before it returns, as on a real device. */
#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
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

/* Events outlive their streams. */
struct Queue {
  std::deque<std::function<bool()>> work;
  uint64_t done = 0, added = 0; /* counts of operations */
  int device = 0;
  bool busy = false; /* its first operation is asked right now */
};

struct CUstream_st {
  std::shared_ptr<Queue> queue = std::make_shared<Queue>();
};

/* When a timer came to pass. */
struct Moment {
  bool is_over = false;
  std::chrono::steady_clock::time_point time;
};

struct CUevent_st {
  std::shared_ptr<Queue> queue; /* NULL: not recorded */
  uint64_t at = 0;              /* done once so many operations of the stream are */
  int device = 0;
  bool is_timer = false;
  std::shared_ptr<Moment> moment; /* of a timer */
};

struct Block {
  size_t bytes;
  int device;
  char *base; /* what malloc gave */
};

typedef std::chrono::steady_clock Clock;

static std::recursive_mutex lock;
static std::condition_variable_any changed;
static Clock::time_point last_change = Clock::now();
static double patience = 60;
typedef std::lock_guard<std::recursive_mutex> Locked;
static std::map<char *, Block> memory, pinned;
static uint64_t seed_state = 1;
static int n_devices = 2, running, allocations;
static thread_local int waits, launches;
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
  return bytes + emulated_graphs();
}

int emulation_launches(void) {
  return launches;
}

int emulation_allocations(void) {
  Locked locked(lock);
  return allocations;
}

int emulation_waits(void) {
  return waits;
}

bool emulated_fails(const char *function) {
  Locked locked(lock);
  if (failing != function || failing_after-- > 0)
    return false;
  failing.clear();
  return true;
}

cudaError_t emulated_result(cudaError_t error) {
  last_error = error ? error : last_error;
  return error;
}

#define result emulated_result
#define MAY_NOT_BE_CAPTURED                                                                                            \
  if (emulated_spoils(NULL))                                                                                           \
  return result(cudaErrorStreamCaptureUnsupported)

static void open_memory(bool open) {
  for (const auto &entry : memory)
    if (open)
      ASAN_UNPOISON_MEMORY_REGION(entry.first, entry.second.bytes);
    else
      ASAN_POISON_MEMORY_REGION(entry.first, entry.second.bytes);
}

static void something_happened() {
  last_change = Clock::now();
  changed.notify_all();
}

/* Runs a stream's work up to its operation number `until`, as far as it gets. Whether all is done. */
static bool progress(Queue *queue, uint64_t until) {
  if (queue->done >= until || queue->busy)
    return queue->done >= until;
  queue->busy = true;
  if (running++ == 0)
    open_memory(true);
  while (queue->done < until && queue->work.front()()) {
    queue->work.pop_front();
    queue->done++;
    something_happened();
  }
  if (--running == 0)
    open_memory(false);
  queue->busy = false;
  return queue->done >= until;
}

/* The host waits. */
static cudaError_t drain(cudaStream_t stream, uint64_t until) {
  EmulatedLock held = emulated_lock();
  waits++;
  last_change = Clock::now();
  while (!progress(stream->queue.get(), until)) {
    if (emulated_stuck())
      return cudaErrorLaunchTimeout;
    emulated_pause(held);
  }
  return cudaSuccess;
}

EmulatedLock emulated_lock() {
  return EmulatedLock(lock);
}

void emulated_pause(EmulatedLock &held) {
  changed.wait_for(held, std::chrono::milliseconds(1));
}

bool emulated_stuck() {
  return std::chrono::duration<double>(Clock::now() - last_change).count() > patience;
}

bool emulated_progress(cudaStream_t stream, uint64_t until) {
  return progress(stream->queue.get(), std::min(until, stream->queue->added));
}

int emulated_device_of(cudaStream_t stream) {
  return stream->queue->device;
}

void emulation_patience(double seconds) {
  Locked locked(lock);
  patience = seconds;
}

/* Under the lock. */
static uint64_t enqueue(cudaStream_t stream, std::function<bool()> work) {
  Queue *queue = stream->queue.get();
  queue->work.push_back(std::move(work));
  uint64_t number = ++queue->added;
  something_happened();
  if (emulated_random() % 64 == 0)
    progress(queue, emulated_random() % 2 ? queue->added : queue->done + 1);
  return number;
}

uint64_t emulated_enqueue_waiting(cudaStream_t stream, std::function<bool()> work) {
  Locked locked(lock);
  emulated_spoils(stream); /* when it is over is not for the stream alone to say */
  return enqueue(stream, std::move(work));
}

/* Unless it is kept. */
static uint64_t put(cudaStream_t stream, std::function<bool()> work) {
  Locked locked(lock);
  if (emulated_captures(stream, work))
    return 0;
  launches++;
  return enqueue(stream, std::move(work));
}

void emulated_enqueue(cudaStream_t stream, std::function<void()> work) {
  put(stream, [=] { return work(), true; });
}

void emulated_put_all(cudaStream_t stream, const EmulatedWork &work) {
  launches++;
  for (const auto &operation : work)
    enqueue(stream, operation);
}

/* Launches go to the calling thread's device. */
void emulated_launch(cudaStream_t stream, int blocks, int threads, size_t shared, std::function<void()> thread) {
  if (emulated_device_of(stream) != current) {
    result(cudaErrorInvalidValue);
    return;
  }
  emulated_enqueue(stream, [=] { emulated_run(blocks, threads, shared, thread); });
}

const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation           ? "cudaErrorMemoryAllocation"
         : error == cudaErrorNoDevice                 ? "cudaErrorNoDevice"
         : error == cudaErrorInvalidDevice            ? "cudaErrorInvalidDevice"
         : error == cudaErrorLaunchFailure            ? "cudaErrorLaunchFailure"
         : error == cudaErrorLaunchTimeout            ? "cudaErrorLaunchTimeout"
         : error == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported"
         : error == cudaErrorStreamCaptureInvalidated ? "cudaErrorStreamCaptureInvalidated"
                                                      : "cudaErrorInvalidValue";
}

const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation           ? "out of memory"
         : error == cudaErrorNoDevice                 ? "no CUDA-capable device is detected"
         : error == cudaErrorInvalidDevice            ? "invalid device ordinal"
         : error == cudaErrorLaunchFailure            ? "unspecified launch failure"
         : error == cudaErrorLaunchTimeout            ? "the launch timed out and was terminated"
         : error == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing"
         : error == cudaErrorStreamCaptureInvalidated ? "operation failed due to a previous error during capture"
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

cudaError_t cudaGetDevice(int *device) {
  *device = current;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  MAY_FAIL;
  if (device < 0 || device >= n_devices)
    return result(cudaErrorInvalidDevice);
  *properties = cudaDeviceProp();
  snprintf(properties->name, sizeof properties->name, "emulated device");
  properties->uuid.bytes[0] = (char)(1 + device);
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

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
  MAY_FAIL;
  *can = device != peer;
  return result(cudaSuccess);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  static bool enabled[16][16];
  MAY_FAIL;
  Locked locked(lock);
  (void)flags;
  if (enabled[current][peer])
    return result(cudaErrorPeerAccessAlreadyEnabled);
  enabled[current][peer] = true;
  return result(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
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
  MAY_NOT_BE_CAPTURED;
  Locked locked(lock);
  *address = NULL;
  if (bytes > device_bytes - allocated(current))
    return result(cudaErrorMemoryAllocation);
  *address = take(memory, bytes);
  return result(cudaSuccess);
}

cudaError_t cudaFree(void *address) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
  Locked locked(lock);
  return result(give(memory, address));
}

cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
  Locked locked(lock);
  (void)flags;
  *address = take(pinned, bytes);
  ASAN_UNPOISON_MEMORY_REGION(*address, bytes);
  return result(cudaSuccess);
}

cudaError_t cudaFreeHost(void *address) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
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

int emulated_device_of_memory(const void *address, size_t bytes) {
  if (!lies_in(memory, address, bytes))
    return -1;
  return std::prev(memory.upper_bound((char *)address))->second.device;
}

static bool is_pinned(const void *address, size_t bytes) {
  Locked locked(lock);
  return lies_in(pinned, address, bytes);
}

static bool is_device(const void *address, size_t bytes) {
  Locked locked(lock);
  return lies_in(memory, address, bytes);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  MAY_FAIL;
  bool from_device = kind != cudaMemcpyHostToDevice, to_device = kind != cudaMemcpyDeviceToHost;
  if (is_device(from, bytes) != from_device || is_device(to, bytes) != to_device)
    return result(cudaErrorInvalidValue);
  if (((!from_device && !is_pinned(from, bytes)) || (!to_device && !is_pinned(to, bytes))) && emulated_spoils(stream))
    return result(cudaErrorStreamCaptureUnsupported);
  if (!from_device && !is_pinned(from, bytes)) {
    std::vector<char> copy((const char *)from, (const char *)from + bytes);
    emulated_enqueue(stream, [=] { memcpy(to, copy.data(), bytes); });
    return result(cudaSuccess);
  }
  uint64_t at = put(stream, [=] { return memcpy(to, from, bytes), true; });
  return result(to_device || is_pinned(to, bytes) ? cudaSuccess : drain(stream, at));
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
  MAY_NOT_BE_CAPTURED;
  (void)flags;
  *stream = new CUstream_st();
  (*stream)->queue->device = current;
  return result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
  return result(drain(stream, stream->queue->added));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
  Locked locked(lock);
  return result(progress(stream->queue.get(), stream->queue->added) ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
  cudaError_t error = drain(stream, stream->queue->added);
  delete stream;
  return result(error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  MAY_FAIL;
  MAY_NOT_BE_CAPTURED;
  Locked locked(lock);
  (void)flags;
  std::shared_ptr<Queue> other = event->queue;
  uint64_t at = event->at;
  if (other && other != stream->queue)
    emulated_enqueue_waiting(stream, [=] { return progress(other.get(), at); });
  return result(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  MAY_FAIL;
  *event = new CUevent_st();
  (*event)->device = current;
  (*event)->is_timer = flags == cudaEventDefault;
  return result(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  MAY_FAIL;
  delete event;
  return result(cudaSuccess);
}

/* By a graph, each time that it is launched. */
static cudaError_t record_external(cudaEvent_t event, cudaStream_t stream) {
  auto moment = std::make_shared<Moment>();
  auto over = [=] { return moment->time = Clock::now(), moment->is_over = true; };
  if (!event->is_timer || !emulated_captures(stream, over, [=] { moment->is_over = false; }))
    return cudaErrorInvalidValue;
  event->moment = moment;
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  MAY_FAIL;
  Locked locked(lock);
  if (emulated_device_of(stream) != event->device || flags > cudaEventRecordExternal)
    return result(cudaErrorInvalidValue);
  if (flags == cudaEventRecordExternal)
    return result(record_external(event, stream));
  MAY_NOT_BE_CAPTURED;
  if (event->is_timer) {
    auto moment = event->moment = std::make_shared<Moment>();
    enqueue(stream, [=] { return moment->time = Clock::now(), moment->is_over = true; });
  }
  event->queue = stream->queue;
  event->at = stream->queue->added;
  return result(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
  MAY_FAIL;
  Locked locked(lock);
  if (!from->moment || !to->moment)
    return result(cudaErrorInvalidValue);
  if (!from->moment->is_over || !to->moment->is_over)
    return result(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(to->moment->time - from->moment->time).count();
  return result(cudaSuccess);
}
