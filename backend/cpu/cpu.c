/* The cpu backend's table and streams. */
#include "backend/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/cpu/ways.h"
#include "backend/reference/reference.h"

/* The reference's, and over them the ones that are faster here. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
static const KernelDef *const cpu_kernels[OP_COUNT] = {
#define OP(name) [OP_##name] = &reference_##name,
#include "graph/ops.def"
#undef OP
#define OP(name) [OP_##name] = &cpu_##name,
    CPU_OPERATORS(OP)
#undef OP
};
#pragma GCC diagnostic pop

Status cpu_stream_open(int threads, const Isa *isa, Stream **out) {
  Stream *stream = calloc(1, sizeof *stream);
  *out = NULL;
  if (!stream)
    return fail(E_MEMORY, "out of memory");
  stream->isa = isa;
  Status status = pool_create(threads, &stream->pool);
  if (status != OK)
    free(stream);
  else
    *out = stream;
  return status;
}

static Status stream_open(int device, int threads, Stream **stream) {
  (void)device;
  const Isa *isa;
  TRY(isa_choose(&isa));
  return cpu_stream_open(threads, isa, stream);
}

static void stream_close(Stream *stream) {
  pool_destroy(stream->pool);
  free(stream);
}

static void stream_place(Stream *stream, const int *cores) {
  pool_place(stream->pool, cores);
}

static void stream_between(Stream *stream, void (*between)(void *context), void *context) {
  pool_between(stream->pool, between, context);
}

static void stream_soon(Stream *stream, const Reading *readings, int n) {
  stream->n_soon = n;
  for (int i = 0; i < n; i++)
    stream->soon[i] = readings[i];
}

/* One core at some 3 GHz, products near their peak. */
static Status describe(int device, DeviceSpec *spec) {
  (void)device;
  const Isa *isa;
  TRY(isa_choose(&isa));
  /* pairs of numbers, or a tile's rows of them, at a time */
  int more = isa->bf16.bytes == sizeof(float) ? 0 : isa->bf16.depth > 2 ? 8 : 2;
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  *spec = (DeviceSpec){.memory_bytes = (size_t)pages * (size_t)page,
                       .flops_per_second = 2.5e9 * isa->vector_bytes,
                       .narrow_flops_per_second = more * 2.5e9 * isa->vector_bytes,
                       .bytes_per_second = 1e10,
                       .node_overhead_seconds = 1e-6};
  snprintf(spec->name, sizeof spec->name, "%s", isa->name);
  return OK;
}

static const char *instructions(void) {
  const Isa *isa;
  return isa_choose(&isa) == OK ? isa->name : "";
}

const Backend backend_cpu = {
    .name = "cpu",
    .instructions = instructions,
    HOST_BACKEND,
    .kernels = cpu_kernels,
    .describe = describe,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .stream_place = stream_place,
    .stream_between = stream_between,
    .stream_soon = stream_soon,
    .way = cpu_way,
};
