/* The CUDA backend's table and its devices. Invariant: nothing waits for the device but stream_wait, and copies from
 * and to host memory that is not pinned. */
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"

struct Event {
  int device;
  cudaEvent_t cuda;
};

struct Recording {
  int device;
  cudaGraphExec_t cuda;
};

Status cuda_check(int device, cudaError_t error, const char *what) {
  if (error == cudaSuccess)
    return OK;
  cudaGetLastError(); /* or the next launch would report it again */
  return fail(E_DEVICE, "cuda:%d: %s: %s (%s)", device, what, cudaGetErrorString(error), cudaGetErrorName(error));
}

/* The calling thread's device, as far as this file knows. */
static Status enter(int device) {
  static _Thread_local int entered = -1;
  if (entered == device)
    return OK;
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return fail(E_DEVICE, "cuda:%d: there is no CUDA device that can be used here: %s (%s)", device,
                cudaGetErrorString(error), cudaGetErrorName(error));
  }
  if (device < 0 || device >= count)
    return fail(E_DEVICE, "cuda:%d: this machine has %d CUDA device%s, cuda:0 to cuda:%d", device, count,
                count == 1 ? "" : "s", count - 1);
  TRY(cuda_check(device, cudaSetDevice(device), "choosing the device"));
  entered = device;
  return OK;
}

Status cuda_enter(const Stream *stream) {
  return enter(stream->device);
}

Status cuda_dnn(Stream *stream) {
  TRY(cuda_enter(stream));
  return stream->dnn ? OK : dnn_open(stream->cuda, &stream->dnn);
}

Status cuda_launched(const Stream *stream, const Node *node) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess)
    return OK;
  cuda_check(stream->device, error, "launching a kernel");
  node_context(node);
  return E_DEVICE;
}

/* Multiply-adds that a multiprocessor does in a cycle: in float32, and in its tensor cores. */
typedef struct {
  int float32, tf32, bf16;
} Lanes;

static Lanes lanes_of(int major, int minor) {
  if (major == 8)
    return minor == 0 ? (Lanes){64, 512, 1024} : (Lanes){128, 256, 512};
  return major == 9 ? (Lanes){128, 1024, 2048} : (Lanes){128, 2048, 4096};
}

/* What sixteen lanes of the bus that such devices have carry, each way. */
static double bus_bytes_per_second(int major) {
  return major >= 9 ? 50e9 : major == 8 ? 25e9 : 12e9;
}

/* What is left for arenas: a context and the code of kernels lie on the device, too. Not what is free right now, for
 * that would make plans depend on the hour. */
static size_t usable(size_t total) {
  size_t reserve = (size_t)1 << 30;
  return total - (total / 8 < reserve ? total / 8 : reserve);
}

static Status describe(int device, DeviceSpec *spec) {
  struct cudaDeviceProp p;
  int clock_khz, memory_khz, bus_bits;
  TRY(enter(device));
  TRY(cuda_check(device, cudaGetDeviceProperties(&p, device), "asking for its properties"));
  TRY(cuda_check(device, cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, device), "asking for its clock"));
  TRY(cuda_check(device, cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, device),
                 "asking for its memory's clock"));
  TRY(cuda_check(device, cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, device),
                 "asking for its memory's width"));
  clock_khz = clock_khz > 0 ? clock_khz : 1000000; /* some devices do not say */
  memory_khz = memory_khz > 0 ? memory_khz : 1000000;
  bus_bits = bus_bits > 0 ? bus_bits : 256;
  Lanes lanes = lanes_of(p.major, p.minor);
  double cycles = 2e3 * p.multiProcessorCount * clock_khz; /* a second; a multiply-add is two */
  *spec = (DeviceSpec){.memory_bytes = usable(p.totalGlobalMem),
                       .flops_per_second = cycles * lanes.float32,
                       .tf32_flops_per_second = cycles * lanes.tf32,
                       .bf16_flops_per_second = cycles * lanes.bf16,
                       .narrow_flops_per_second = cycles * lanes.bf16,
                       .bytes_per_second = 2.0 * memory_khz * 1e3 * bus_bits / 8,
                       .host_bytes_per_second = bus_bytes_per_second(p.major),
                       .node_overhead_seconds = 4e-6};
  snprintf(spec->name, sizeof spec->name, "%.63s", p.name);
  return OK;
}

static void stream_close(Stream *stream) {
  if (cuda_enter(stream) == OK) {
    if (stream->cuda)
      cudaStreamSynchronize(stream->cuda);
    dnn_close(stream->dnn);
    blas_close(stream->blas);
    cudaFreeHost(stream->fault);
    cudaFree(stream->claimed);
    if (stream->cuda)
      cudaStreamDestroy(stream->cuda);
  }
  free(stream);
}

static Status open_parts(Stream *s) {
  TRY(cuda_enter(s));
  TRY(cuda_check(s->device, cudaStreamCreateWithFlags(&s->cuda, cudaStreamNonBlocking), "opening a stream"));
  void *fault, *claimed;
  TRY(cuda_check(s->device, cudaHostAlloc(&fault, sizeof *s->fault, cudaHostAllocDefault), "pinning memory"));
  s->fault = memset(fault, 0, sizeof *s->fault);
  TRY(cuda_check(s->device, cudaMalloc(&claimed, 2 * sizeof *s->claimed), "allocating memory"));
  s->claimed = claimed;
  s->finished = s->claimed + 1;
  TRY(backend_cuda.zero(s, s->claimed, 2 * sizeof *s->claimed));
  return blas_open(s->device, &s->blas);
}

static Status stream_open(int device, int threads, Stream **out) {
  (void)threads;
  Stream *stream = calloc(1, sizeof *stream);
  if (!stream)
    return fail(E_MEMORY, "out of memory");
  stream->device = device;
  Status status = open_parts(stream);
  if (status != OK)
    stream_close(stream);
  else
    *out = stream;
  return status;
}

/* What was reported; from now on the next may be. */
static Status fault_status(Stream *stream) {
  Fault *fault = stream->fault;
  TRY(backend_cuda.zero(stream, stream->claimed, sizeof *stream->claimed));
  fault->is_there = 0;
  if (fault->axis == FAULT_BAG)
    fail(E_MODEL, "bag %lld goes from row %lld to %lld of %lld", (long long)fault->position, (long long)fault->value,
         (long long)fault->shape.dim[0], (long long)fault->shape.dim[1]);
  else if (fault->axis == FAULT_REGION)
    fail(E_MODEL, "a region from %g to %g has %g samples in a place, and %d are most", fault->number[0],
         fault->number[1], fault->number[2], PLACE_SAMPLES);
  else if (fault->axis == FAULT_SAMPLE)
    fail(E_MODEL, "region %lld is of sample %g, and there are %lld", (long long)fault->position, fault->number[0],
         (long long)fault->shape.dim[0]);
  else if (fault->axis == FAULT_TARGET)
    fail(E_MODEL, "target %lld at position %lld is outside the %lld classes (0 to %lld)", (long long)fault->value,
         (long long)fault->position, (long long)fault->shape.dim[0], (long long)fault->shape.dim[0] - 1);
  else
    fail(E_MODEL, "index %lld at position %lld is outside axis %d of %s", (long long)fault->value,
         (long long)fault->position, fault->axis, SHAPE_STR(fault->shape));
  node_context(fault->node);
  return E_MODEL;
}

static Status stream_wait(Stream *stream) {
  TRY(cuda_enter(stream));
  TRY(cuda_check(stream->device, cudaStreamSynchronize(stream->cuda), "waiting for the stream"));
  return stream->fault->is_there ? fault_status(stream) : OK;
}

static Status alloc(Stream *stream, size_t bytes, void **memory) {
  TRY(cuda_enter(stream));
  cudaError_t error = cudaMalloc(memory, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    size_t available = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&available, &total);
    return fail(E_MEMORY, "an arena of %zu bytes does not fit cuda:%d, which has %zu free of %zu bytes", bytes,
                stream->device, available, total);
  }
  return cuda_check(stream->device, error, "allocating memory");
}

static void release(Stream *stream, void *memory) {
  if (cuda_enter(stream) != OK)
    return;
  cudaStreamSynchronize(stream->cuda); /* what was enqueued may use it still */
  cudaFree(memory);
}

static Status taken(Stream *stream, size_t *bytes) {
  size_t available = 0, total = 0;
  TRY(cuda_enter(stream));
  TRY(cuda_check(stream->device, cudaMemGetInfo(&available, &total), "asking for its memory"));
  *bytes = total - available;
  return OK;
}

static Status pin(Stream *stream, size_t bytes, void **memory) {
  TRY(cuda_enter(stream));
  return cuda_check(stream->device, cudaHostAlloc(memory, bytes ? bytes : 1, cudaHostAllocDefault), "pinning memory");
}

static void unpin(Stream *stream, void *memory) {
  if (cuda_enter(stream) == OK)
    cudaFreeHost(memory);
}

static Status copy(Stream *stream, void *to, const void *from, size_t bytes, CopyKind kind) {
  static const enum cudaMemcpyKind kinds[] = {[COPY_HOST_TO_DEVICE] = cudaMemcpyHostToDevice,
                                              [COPY_DEVICE_TO_HOST] = cudaMemcpyDeviceToHost,
                                              [COPY_DEVICE_TO_DEVICE] = cudaMemcpyDeviceToDevice};
  TRY(cuda_enter(stream));
  return bytes ? cuda_check(stream->device, cudaMemcpyAsync(to, from, bytes, kinds[kind], stream->cuda), "copying")
               : OK;
}

static Status zero(Stream *stream, void *memory, size_t bytes) {
  TRY(cuda_enter(stream));
  return bytes ? cuda_check(stream->device, cudaMemsetAsync(memory, 0, bytes, stream->cuda), "zeroing memory") : OK;
}

static Status convert(Stream *stream, void *to, DType to_type, const void *from, DType from_type, int64_t n) {
  TRY(cuda_enter(stream));
  launch_convert(stream->cuda, from_type, to_type, n, from, to);
  return cuda_check(stream->device, cudaGetLastError(), "launching a kernel");
}

static Status create_event(Stream *stream, unsigned flags, Event **out) {
  TRY(cuda_enter(stream));
  Event *event = calloc(1, sizeof *event);
  if (!event)
    return fail(E_MEMORY, "out of memory");
  event->device = stream->device;
  Status status = cuda_check(stream->device, cudaEventCreateWithFlags(&event->cuda, flags), "creating an event");
  if (status != OK)
    free(event);
  else
    *out = event;
  return status;
}

static Status event_create(Stream *stream, Event **out) {
  return create_event(stream, cudaEventDisableTiming, out);
}

static Status timer_create(Stream *stream, Event **out) {
  return create_event(stream, cudaEventDefault, out);
}

static Status timer_seconds(const Event *from, const Event *to, double *seconds) {
  float milliseconds = 0;
  TRY(enter(from->device));
  TRY(cuda_check(from->device, cudaEventElapsedTime(&milliseconds, from->cuda, to->cuda), "reading a timer"));
  *seconds = 1e-3 * (double)milliseconds;
  return OK;
}

static void event_destroy(Event *event) {
  if (enter(event->device) == OK)
    cudaEventDestroy(event->cuda);
  free(event);
}

static Status event_record(Stream *stream, Event *event) {
  TRY(cuda_enter(stream));
  unsigned flags = stream->records ? cudaEventRecordExternal : cudaEventRecordDefault; /* external: at each replay */
  return cuda_check(stream->device, cudaEventRecordWithFlags(event->cuda, stream->cuda, flags), "recording an event");
}

static Status event_wait(Stream *stream, Event *event) {
  TRY(cuda_enter(stream));
  return cuda_check(stream->device, cudaStreamWaitEvent(stream->cuda, event->cuda, 0), "waiting for an event");
}

/* The thread's own calls alone are kept from what would spoil it: other ranks are other threads. */
static Status record_begin(Stream *stream) {
  TRY(cuda_enter(stream));
  TRY(cuda_check(stream->device, cudaStreamBeginCapture(stream->cuda, cudaStreamCaptureModeThreadLocal),
                 "recording a stream"));
  stream->records = true;
  return OK;
}

static Status record_end(Stream *stream, Recording **out) {
  cudaGraph_t graph = NULL;
  stream->records = false;
  TRY(cuda_enter(stream));
  Status status = cuda_check(stream->device, cudaStreamEndCapture(stream->cuda, &graph), "recording a stream");
  Recording *recording = status == OK ? calloc(1, sizeof *recording) : NULL;
  if (status == OK && !recording)
    status = fail(E_MEMORY, "out of memory");
  if (status == OK)
    status =
        cuda_check(stream->device, cudaGraphInstantiateWithFlags(&recording->cuda, graph, 0), "keeping a recording");
  if (graph)
    cudaGraphDestroy(graph);
  if (status != OK) {
    free(recording);
    return status;
  }
  recording->device = stream->device;
  *out = recording;
  return OK;
}

static Status replay(Stream *stream, const Recording *recording) {
  TRY(cuda_enter(stream));
  return cuda_check(stream->device, cudaGraphLaunch(recording->cuda, stream->cuda), "replaying a recording");
}

static void recording_free(Recording *recording) {
  if (enter(recording->device) == OK)
    cudaGraphExecDestroy(recording->cuda);
  free(recording);
}

static Status stream_idle(Stream *stream, bool *idle) {
  TRY(cuda_enter(stream));
  cudaError_t error = cudaStreamQuery(stream->cuda);
  *idle = error == cudaSuccess;
  if (error == cudaErrorNotReady)
    cudaGetLastError(); /* it is no error, and yet is kept as one */
  return error == cudaErrorNotReady ? OK : cuda_check(stream->device, error, "looking at the stream");
}

static void *stream_handle(const Stream *stream) {
  return stream->cuda;
}

static Status identify(int device, unsigned char id[16]) {
  struct cudaDeviceProp p;
  TRY(enter(device));
  TRY(cuda_check(device, cudaGetDeviceProperties(&p, device), "asking for its properties"));
  memcpy(id, &p.uuid, 16);
  return OK;
}

static Status reach(Stream *stream, int device) {
  int can = 0;
  if (device == stream->device)
    return OK;
  TRY(cuda_enter(stream));
  TRY(cuda_check(stream->device, cudaDeviceCanAccessPeer(&can, stream->device, device), "asking what it can reach"));
  if (!can) /* copies go through the host then, by themselves */
    return OK;
  cudaError_t error = cudaDeviceEnablePeerAccess(device, 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();
    return OK;
  }
  return cuda_check(stream->device, error, "reaching another device");
}

static const char *convolves(const Graph *graph) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *n = graph->nodes[i];
    bool is_one = n->op == OP_Conv || n->op == OP_ConvGradInput || n->op == OP_ConvGradWeight;
    if (is_one && graph_value(graph, n->in[0])->dtype == F32)
      return dnn_name();
  }
  return NULL;
}

/* NULL where there is no kernel: backend_check names the node. */
static const KernelDef *const cuda_kernels[OP_COUNT] = {
#define OP(name) [OP_##name] = &cuda_##name,
    CUDA_OPERATORS(OP)
#undef OP
};

const Backend backend_cuda = {
    .name = "cuda",
    .is_host = false,
    .reduces_precision = true,
    .keeps_rounded = true,
    .kernels = cuda_kernels,
    .describe = describe,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .stream_wait = stream_wait,
    .alloc = alloc,
    .release = release,
    .taken = taken,
    .pin = pin,
    .unpin = unpin,
    .copy = copy,
    .zero = zero,
    .convert = convert,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .timer_create = timer_create,
    .timer_seconds = timer_seconds,
    .event_wait = event_wait,
    .record_begin = record_begin,
    .record_end = record_end,
    .replay = replay,
    .recording_free = recording_free,
    .stream_idle = stream_idle,
    .stream_handle = stream_handle,
    .identify = identify,
    .reach = reach,
    .convolves = convolves,
    .join = cuda_join,
};
