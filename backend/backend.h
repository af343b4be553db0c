/* A backend is one struct: a table of kernels and a device. A kernel only enqueues work on its stream; on the host
 * backends it is done when the call returns. Supported = there is an entry and it accepts the node. */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include "graph/cost.h"
#include "graph/graph.h"

typedef struct Stream Stream; /* each backend's own */
typedef struct Event Event;
typedef struct Recording Recording;

/* in[i], out[i]: as node->in, node->out; absent ones have data NULL. workspace: what the entry's workspace() said.
 * state: what its prepare() made, else NULL. Inputs are written only by operators that say so (OP_MUTATES_FIRST,
 * OP_UPDATE: what they round to, too, where that is kept). Fails E_UNSUPPORTED for a type it does not have, E_MODEL for
 * an index out of range with its position and value. */
typedef Status Kernel(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                      void *state);

/* What a kernel may take beside its operands where it could do with less. It is one number: bits may depend on it. */
#define WORKSPACE_BUDGET ((size_t)32 << 20)

/* One operator on one backend.
 *
 * What is stored in bfloat16. A pass (graph/passes/types.c) makes values that were float32 bfloat16, so that a node's
 * float operands and results are any mix of the two: in[i].dtype and out[j].dtype say which. A kernel computes as over
 * float32 and rounds a bfloat16 result once, to the nearest, ties to even. A product (OP_PRODUCT) of operands of which
 * one is bfloat16 is one of bfloat16 numbers: it rounds the other one, too, sums up in float32, adds in float32 and
 * rounds its result once where that is bfloat16, and may round a row that is added to all of it before, and its sums
 * where a library has no way to do at once what is behind them; its accumulator stays float32. Attention of which all
 * is bfloat16 is two products: it rounds its weights (backend/reference/attention.h). Kernels of operators that move
 * elements as they are (OP_ANY_TYPE) run where all float operands and results have one type. Others say which mixes
 * they take; what they do not take runs on copies in float32 (backend/wide.c). */
typedef struct {
  Kernel *run;
  /* Whether it has a node that passed its shape rule: types, attributes. What is stored in bfloat16 is float32 to it.
   */
  bool (*accepts)(const Graph *graph, const Node *node);
  /* Whether it takes these operands and results, some of them bfloat16, as they are; then `workspace`, `prepare` and
   * `run` see their types. NULL: none. */
  bool (*narrow)(const Node *node, const Tensor *in, const Tensor *out);
  /* Bytes beside the operands, part of the arena: what it cannot do without, and what helps within the budget.
   * NULL: none. */
  size_t (*workspace)(const Graph *graph, const Node *node, size_t budget);
  /* Works out once, before the first step, what does not depend on contents: descriptions for libraries, layouts,
   * plans. in, out: their types and shapes; their places may still change. workspace_bytes: what run will get. NULL:
   * nothing.
   */
  Status (*prepare)(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, size_t workspace_bytes,
                    void **state);
  /* The same of operands and results that `narrow` refuses, and that would be copied: *state stays NULL where the
   * kernel, by way of a library that may be there, does not take them as they are. NULL: it never does. */
  Status (*prepare_narrow)(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                           size_t workspace_bytes, void **state);
  void (*release)(void *state); /* of what prepare made */
} KernelDef;

/* How a node is run: run(stream, node, in, out, workspace, state). */
typedef struct {
  Kernel *run;
  void *state;
  void (*release)(void *state); /* NULL: there is no state */
} NodeKernel;

/* A node and its operands, at places that stay. */
typedef struct {
  const Node *node;
  const Tensor *in, *out;
} JoinedCall;

/* Memory that a kernel reads. */
typedef struct {
  const char *data;
  int64_t bytes;
} Reading;
enum { MOST_READINGS = 8 };

typedef enum { COPY_HOST_TO_DEVICE, COPY_DEVICE_TO_HOST, COPY_DEVICE_TO_DEVICE } CopyKind;

enum { WAY_BYTES = 64 };

typedef struct Backend {
  const char *name;
  bool is_host;                    /* device pointers are host pointers */
  bool reduces_precision;          /* products heed Node.precision */
  bool keeps_rounded;              /* products read Tensor.rounded, and updates write it */
  const KernelDef *const *kernels; /* [OP_COUNT]; NULL where it has none */
  Status (*describe)(int device, DeviceSpec *spec);
  const char *(*instructions)(void); /* the set that its bits depend on; NULL: on none, or on the device */
  Status (*stream_open)(int device, int threads, Stream **stream);
  void (*stream_close)(Stream *stream);
  /* Has thread i of the stream keep to core cores[i]; the first one is the caller's, which is left alone. NULL where
   * there are no threads. */
  void (*stream_place)(Stream *stream, const int *cores);
  /* Has long kernels call `between` now and then, on the thread that called them; NULL: no more. It does not wait, and
   * leaves the kernel's operands alone. NULL where kernels only enqueue, or are not interrupted. */
  void (*stream_between)(Stream *stream, void (*between)(void *context), void *context);
  /* What kernels behind the next one read, the first first: the next one may bring it near while it computes. NULL
   * where it is not slow to come. */
  void (*stream_soon)(Stream *stream, const Reading *readings, int n);
  Status (*stream_wait)(Stream *stream); /* until all that was enqueued is done; reports its errors */
  /* 64-byte aligned; zeros where is_host. E_MEMORY with need and limit. */
  Status (*alloc)(Stream *stream, size_t bytes, void **memory);
  void (*release)(Stream *stream, void *memory);
  /* Bytes of the stream's device that are taken right now, by whoever. NULL where is_host. */
  Status (*taken)(Stream *stream, size_t *bytes);
  /* Host memory that copies are only enqueued from and to; with other memory of the host, they may wait. NULL where
   * is_host. */
  Status (*pin)(Stream *stream, size_t bytes, void **memory);
  void (*unpin)(Stream *stream, void *memory);
  Status (*copy)(Stream *stream, void *to, const void *from, size_t bytes, CopyKind kind);
  Status (*zero)(Stream *stream, void *memory, size_t bytes);
  /* Copies n elements of float32 or bfloat16 as the other of the two, rounded to the nearest, ties to even; or float32
   * as float32, rounded to bfloat16 numbers. NULL: what its kernels do not take in bfloat16, it refuses. */
  Status (*convert)(Stream *stream, void *to, DType to_type, const void *from, DType from_type, int64_t n);
  Status (*event_create)(Stream *stream, Event **event);
  void (*event_destroy)(Event *event);
  Status (*event_record)(Stream *stream, Event *event);
  /* An event that tells when it came to pass, and how far two of them that did are apart; NULL where is_host. */
  Status (*timer_create)(Stream *stream, Event **timer);
  Status (*timer_seconds)(const Event *from, const Event *to, double *seconds);
  Status (*event_wait)(Stream *stream, Event *event);
  /* Between begin and end, which one thread calls, what that thread puts on the stream is kept and not run: kernels,
   * zeros, copies of devices' and pinned memory, timers, which then tell of the last replay. Nothing else may be asked
   * of the stream meanwhile, nor memory of any device. Replaying puts all of it on the stream once more, at the same
   * addresses, at the expense of one launch. Where the end fails, nothing was kept, and the stream is as before. NULL
   * where is_host. */
  Status (*record_begin)(Stream *stream);
  Status (*record_end)(Stream *stream, Recording **recording);
  Status (*replay)(Stream *stream, const Recording *recording);
  void (*recording_free)(Recording *recording); /* after its last replay is done */
  /* What devices that can exchange without the host need; NULL where is_host. */
  Status (*stream_idle)(Stream *stream, bool *idle); /* whether stream_wait would not wait */
  void *(*stream_handle)(const Stream *stream);      /* what the maker's libraries know the stream by: a cudaStream_t */
  Status (*identify)(int device, unsigned char id[16]); /* the same for one device in every process, and no other's */
  Status (*reach)(Stream *stream, int device);          /* copies from that device go straight, where they can */
  /* Who convolves, for people, as libraries that can be loaded here decide it; NULL: the graph convolves nothing that
   * is for them. The answer lives until the thread's next call. NULL where there is no choice. */
  const char *(*convolves)(const Graph *graph);
  /* How a node that it accepts is computed, for people: "packed tiles 12 x 32, avx512". NULL: all in one way. */
  void (*way)(const Graph *graph, const Node *node, char text[WAY_BYTES]);
  /* Makes one kernel of calls of which none reads what another writes, norms and updates of parameters: of those that
   * taken[i] says, whose bits stay. It runs over its state alone. Where it has none its run is NULL. NULL where each
   * call runs by itself. */
  Status (*join)(Stream *stream, const JoinedCall *calls, int n, NodeKernel *kernel, bool *taken);
} Backend;

/* Plain C, complete, one thread: the definition of every operator. */
extern const Backend backend_reference;
/* The same operators, faster: threads, and the widest vectors that the processor has. */
extern const Backend backend_cpu;
/* NVIDIA's devices; where the build has it. */
extern const Backend backend_cuda;

/* Every backend of this build, best first, NULL at the end. */
extern const Backend *const backends[];
/* By name; NULL when this build has none of that name. */
const Backend *backend_find(const char *name);

/* Whether the backend can run every node of the graph; if not, E_UNSUPPORTED with all of them named at once. */
Status backend_check(const Backend *backend, const Graph *graph);
bool backend_accepts(const Backend *backend, const Graph *graph, const Node *node);

/* What a node that the backend accepts takes beside its operands. */
size_t backend_workspace_bytes(const Backend *backend, const Graph *graph, const Node *node);

/* For people, of the arena: how the backend computes the graph's nodes (views apart), and how many of which operator
 * each way: "packed tiles 12 x 32, avx512: Gemm 8, MatMul 2; …". */
Status backend_kernels_text(const Backend *backend, const Graph *graph, Arena *arena, const char **text);

/* What runs a node over these operands, its entry's `prepare` done. in, out, workspace_bytes: as prepare's. Fails with
 * the node's name in front; then there is nothing to forget. */
Status backend_prepare(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                       size_t workspace_bytes, NodeKernel *kernel);
void backend_forget(const NodeKernel *kernel);

/* Runs one node on the host with the reference kernels: what the importer folds constants with. */
Status backend_evaluate(void *unused, const Node *node, const Tensor *in, const Tensor *out);

#endif
