/* The reference backend: plain C, one thread, complete; the definition of every operator. Other host backends copy
 * reference_kernels and override entries. */
#ifndef BACKEND_REFERENCE_REFERENCE_H
#define BACKEND_REFERENCE_REFERENCE_H

#include "backend/backend.h"

#define OP(name) extern const KernelDef reference_##name;
#include "graph/ops.def"
#undef OP

extern const KernelDef *const reference_kernels[OP_COUNT];

/* What kernels of host backends take of a node that passed its shape rule, by the type of in[0]: every one, or a shape
 * rule that leaves one; numbers, truth values and bytes; float32, float64, int64 and int32; the two floats. */
bool takes_any(const Graph *graph, const Node *node);
bool takes_comparable(const Graph *graph, const Node *node);
bool takes_numbers(const Graph *graph, const Node *node);
bool takes_floats(const Graph *graph, const Node *node);
/* Numbers and bytes. */
bool takes_pooled(const Graph *graph, const Node *node);
/* Numbers as base and as exponent. */
bool takes_powers(const Graph *graph, const Node *node);

/* Whether a node's GELU is the one by tanh, not by erf. */
bool gelu_is_tanh(const Node *node);

/* Type and shape of in[i], which is there. */
Tensor kernel_input(const Graph *graph, const Node *node, int i);

/* The host's memory and events, for the tables of host backends. Work is done when a kernel returns: there is nothing
 * to wait for. What is allocated is zero. */
Status host_wait(Stream *stream);
Status host_alloc(Stream *stream, size_t bytes, void **memory);
void host_release(Stream *stream, void *memory);
Status host_copy(Stream *stream, void *to, const void *from, size_t bytes, CopyKind kind);
Status host_zero(Stream *stream, void *memory, size_t bytes);
Status host_convert(Stream *stream, void *to, DType to_type, const void *from, DType from_type, int64_t n);
Status host_event_create(Stream *stream, Event **event);
void host_event_destroy(Event *event);
Status host_event_pass(Stream *stream, Event *event);

/* The entries that all of these tables have. */
#define HOST_BACKEND                                                                                                   \
  .is_host = true, .stream_wait = host_wait, .alloc = host_alloc, .release = host_release, .copy = host_copy,          \
  .zero = host_zero, .convert = host_convert, .event_create = host_event_create, .event_destroy = host_event_destroy,  \
  .event_record = host_event_pass, .event_wait = host_event_pass

/* Wide loops get a version for each instruction set, chosen when the program is loaded. Bits are the same on one
 * machine, which is what the promise covers. Sanitizers do not go with it, nor does clang, whose versions of static
 * functions collide. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE_LOOPS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE_LOOPS
#endif

/* How up to three inputs run along an output: axes merged where all of them allow it. */
typedef struct {
  int rank; /* at least 1; the last axis is the inner loop */
  int64_t dim[MAX_RANK];
  int64_t stride[3][MAX_RANK]; /* elements, 0 where an input is broadcast */
} Walk;

/* The walk of inputs that broadcast to `out`, at most three. */
void walk_init(Walk *walk, Shape out, const Tensor *in, int n_in);

/* Offsets of the inputs at the start of inner run number `run`. */
void walk_offsets(const Walk *walk, int64_t run, int n_in, int64_t offset[3]);

/* Number of inner runs. */
int64_t walk_runs(const Walk *walk);

/* [outer, axis, inner] view of a shape. */
typedef struct {
  int64_t outer, size, inner;
} Split3;
Split3 split_at(Shape shape, int axis);
/* [outer, size] with everything from axis on in `size`. */
Split3 split_from(Shape shape, int axis);

static inline int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}
static inline int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

/* E_UNSUPPORTED naming the type. */
Status unsupported_type(const Node *node, DType dtype);

#endif
