/* Three nodes tell a machine's speed: a product, a sum of vectors that no cache holds, and one of a few numbers.
 * Invariant: as many of them run at once as ranks will. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "graph/op.h"
#include "runtime/costs/cache.h"
#include "runtime/costs/internal.h"

enum { PRODUCT, STREAM, TINY, PROBES };
enum { SIDE = 768, LONG = 8 << 20, SHORT = 16, MOST_RANKS = 64 };
static const double SECONDS = 0.6; /* of each */

static Status add_probe(Graph *g, OpKind op, Shape shape, const Backend *backend) {
  ValueId in[2];
  NodeId node;
  TRY(graph_add_value(g, "a", F32, shape, ROLE_INPUT, &in[0]));
  TRY(graph_add_value(g, "b", F32, shape, ROLE_INPUT, &in[1]));
  TRY(graph_add_node(g, op, "probe", in, 2, NULL, 0, NULL, 1, &node));
  graph_node(g, node)->workspace_bytes[0] = backend_workspace_bytes(backend, g, graph_node(g, node));
  return OK;
}

static Status make_probes(Arena *arena, const Backend *backend, Graph **g) {
  TRY(graph_create(arena, "probes", g));
  TRY(add_probe(*g, OP_MatMul, shape_of(2, (int64_t[]){SIDE, SIDE}), backend));
  TRY(add_probe(*g, OP_Add, shape_of(1, (int64_t[]){LONG}), backend));
  return add_probe(*g, OP_Add, shape_of(1, (int64_t[]){SHORT}), backend);
}

typedef struct {
  const Graph *graph;
  RankDevice device;
  int threads;
  double seconds[PROBES]; /* negative: not known */
  pthread_t thread;
  bool started;
} Probe;

static Status call(const Probe *p, Stream *stream, const NodeKernel *kernel, const Node *node, const Tensor *tensors,
                   void *workspace, double *seconds) {
  double begun = clock_seconds();
  TRY(kernel->run(stream, node, tensors, tensors + node->n_in, workspace, kernel->state));
  TRY(p->device.backend->stream_wait(stream));
  *seconds = clock_seconds() - begun;
  return OK;
}

/* The fastest call: what the machine can do. */
static Status time_node(Probe *p, Stream *stream, int which) {
  const Backend *backend = p->device.backend;
  const Node *node = p->graph->nodes[which];
  Tensor tensors[3];
  NodeKernel kernel = {0};
  void *memory;
  size_t bytes = graph_value_bytes(p->graph, node->in[0]), workspace = node->workspace_bytes[0];
  TRY(backend->alloc(stream, 3 * bytes + workspace, &memory));
  for (int i = 0; i < 3; i++)
    tensors[i] = tensor_at(F32, graph_value(p->graph, node->in[0])->shape, (char *)memory + (size_t)i * bytes);
  Status status = backend->zero(stream, memory, 3 * bytes);
  if (status == OK)
    status = backend_prepare(backend, stream, node, tensors, tensors + 2, workspace, &kernel);
  double until = clock_seconds() + SECONDS, seconds;
  for (int i = 0; status == OK && (i < 3 || clock_seconds() < until); i++) {
    status = call(p, stream, &kernel, node, tensors, (char *)memory + 3 * bytes, &seconds);
    if (status == OK && (p->seconds[which] < 0 || seconds < p->seconds[which]))
      p->seconds[which] = seconds;
  }
  backend_forget(&kernel);
  backend->release(stream, memory);
  return status;
}

static void *time_all(void *argument) {
  Probe *p = argument;
  Stream *stream;
  if (p->device.backend->stream_open(p->device.device, p->threads, &stream) != OK)
    return NULL;
  for (int i = 0; i < PROBES; i++)
    (void)time_node(p, stream, i);
  p->device.backend->stream_close(stream);
  return NULL;
}

/* On all ranks like this one at once; the slowest of them counts. */
static void probe_ranks(const Job *job, const Graph *g, int rank, double *seconds) {
  const JobDecisions *decided = &job->decided;
  double capacity = costs_capacity(job);
  int n = capacity > 0 && capacity < decided->ranks ? (int)capacity : decided->ranks;
  Probe probes[MOST_RANKS];
  n = n < 1 ? 1 : n < MOST_RANKS ? n : MOST_RANKS;
  for (int r = 0; r < n; r++) {
    probes[r] = (Probe){.graph = g, .device = decided->devices[rank], .threads = decided->threads};
    for (int i = 0; i < PROBES; i++)
      probes[r].seconds[i] = -1;
    probes[r].started = r && pthread_create(&probes[r].thread, NULL, time_all, &probes[r]) == 0;
  }
  time_all(&probes[0]);
  for (int r = 0; r < n; r++) {
    if (probes[r].started)
      pthread_join(probes[r].thread, NULL);
    for (int i = 0; i < PROBES; i++)
      seconds[i] = fmax(seconds[i], probes[r].seconds[i]);
  }
}

static void set_rates(const double *seconds, DeviceSpec *spec) {
  double overhead = seconds[TINY], flops = spec->flops_per_second;
  if (seconds[PRODUCT] > overhead)
    spec->flops_per_second = 2.0 * SIDE * SIDE * SIDE / (seconds[PRODUCT] - overhead);
  if (seconds[STREAM] > overhead)
    spec->bytes_per_second = 3.0 * LONG * sizeof(float) / (seconds[STREAM] - overhead);
  spec->narrow_flops_per_second *= spec->flops_per_second / flops;
  spec->node_overhead_seconds = overhead;
}

static Status calibrate(Job *job, int rank, DeviceSpec *spec) {
  Graph *g;
  Kinds kinds;
  Cached cached;
  const char *about;
  TRY(make_probes(job->arena, job->decided.devices[rank].backend, &g));
  TRY(kinds_find(job->arena, g, &kinds));
  TRY(cache_about(job, rank, 0, &about));
  TRY(cache_read(job->arena, about, &kinds, &cached));
  bool known = true;
  for (int k = 0; k < PROBES; k++)
    known &= cached.kind_seconds[k] >= 0;
  if (!known) {
    probe_ranks(job, g, rank, cached.kind_seconds);
    cache_write(about, &kinds, &cached);
  }
  for (int k = 0; k < PROBES; k++)
    if (cached.kind_seconds[k] < 0)
      return job_decide(job, "costs", "by stated speed: %s could not be calibrated", spec->name);
  set_rates(cached.kind_seconds, spec);
  return job_decide(job, "costs", "by this machine's speed: %.3g Gflop/s, %.3g GB/s a rank, %.2g us a node%s",
                    1e-9 * spec->flops_per_second, 1e-9 * spec->bytes_per_second, 1e6 * spec->node_overhead_seconds,
                    known ? ", from before" : "");
}

Status costs_calibrate(Job *job, JobCosts *costs) {
  int ranks = job->decided.ranks;
  DeviceSpec *devices;
  TRY(ARENA_NEW(job->arena, devices, ranks));
  for (int r = 0; r < ranks; r++) {
    int first = 0;
    while (job->decided.devices[first].backend != job->decided.devices[r].backend ||
           strcmp(job->decided.request.devices[first].name, job->decided.request.devices[r].name) != 0)
      first++;
    devices[r] = first < r ? devices[first] : job->decided.request.devices[r];
    if (first == r)
      TRY(calibrate(job, r, &devices[r]));
  }
  *costs = (JobCosts){.devices = devices, .capacity = costs_capacity(job)};
  return OK;
}
