/* Attention and its gradient in tiles, without the matrix of weights. Invariant: which numbers are summed together, and
 * in which order, follows from the shape and the instruction set. A task is some queries of heads that share keys; what
 * several tasks sum for the same keys is added in the tasks' order.
 *
 * Scores lie turned, a strip of queries wide: as wide as a product's tile, so that softmax runs down a strip lane by
 * lane, and weights are a product's packed operand as they are. Keys and values are packed once for all their queries,
 * some groups of heads at a time: a wave. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/ways.h"
#include "backend/reference/attention.h"
#include "backend/reference/parts.h"

enum {
  KEYS = 192, /* of a block; a multiple of every tile's rows, as the next */
  KEYS_BACK = 96,
  QUERIES = 128,               /* of a task, forward, and at most of a block, backward; whole strips */
  LEAST_TASKS = 24,            /* backward: queries of a group are shared by tasks until there are as many */
  WAVE_TASKS = 64,             /* in a wave, where the workspace allows */
  LANE_ROWS = 8,               /* for numbers lane by lane */
  PUT_AT_ONCE = 2 * KEYS_BACK, /* numbers of each query of a strip that go to memory together */
  WIDEST = 2 * MOST_VECTOR_BYTES
};

/* Of products: a tile's rows and columns, what k is a multiple of in packed strips, and bytes of an element there. */
typedef struct {
  int64_t rows, width, depth, bytes;
} Tiles;

typedef struct {
  Attention a;
  AttentionMask mask;
  const Node *node;
  const int64_t *counter; /* NULL: no weights are dropped */
  const Isa *isa;
  const Tensor *in, *out;
  Tiles tiles;
  int64_t rows, width;         /* tiles' */
  int64_t each;                /* heads of a group */
  int64_t units;               /* of QUERIES queries, of a group */
  int64_t parts;               /* backward: tasks of a group; else 0 */
  int64_t block;               /* backward: queries that stand in scratch together */
  int64_t wave, first, groups; /* groups of a wave; those of this one */
  char *packed;                /* of this wave's groups, one behind the other */
} Job;

/* What is packed of a group, in bytes, in the order in which it lies. Forward: K, and V turned; backward: K, V, K
 * turned, and the sums dK and dV of each part. Rows are those of tiles; turned by blocks of keys. */
typedef struct {
  int64_t keys, values, turned, sums, all;
} Sizes;

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* Tiles of numbers of `size` bytes. */
static Tiles tiles_of(const Isa *isa, int64_t size) {
  return (Tiles){isa->tile_rows, 2 * isa->vector_bytes / size, 1, size};
}

/* Of bfloat16. */
static Tiles narrow_tiles_of(const Isa *isa) {
  return (Tiles){isa->bf16.rows, isa->bf16.columns, isa->bf16.depth, isa->bf16.bytes};
}

/* size: bytes of a number of the sums. */
static Sizes sizes_of(const Attention *a, Tiles t, int64_t size, int64_t parts) {
  int64_t tall = round_up(a->keys, t.rows);
  Sizes s = {.keys = tall * round_up(a->size, t.depth) * t.bytes};
  s.values = tall * (parts ? round_up(a->value_size, t.depth) : round_up(a->value_size, t.rows)) * t.bytes;
  s.turned = parts ? tall * round_up(a->size, t.rows) * t.bytes : 0;
  s.sums = tall * (round_up(a->size, t.width) + round_up(a->value_size, t.width)) * size;
  s.all = round_up(s.keys + s.values + s.turned + parts * s.sums, MOST_VECTOR_BYTES);
  return s;
}

/* Bytes of a group for the instruction set that takes most: the same number for all of a build. */
static int64_t most_of_group(const Attention *a, int64_t size, bool narrow, int64_t parts) {
  int64_t most = 0;
  for (int i = 0; isas[i]; i++) {
    Tiles t = narrow ? narrow_tiles_of(isas[i]) : tiles_of(isas[i], size);
    int64_t all = sizes_of(a, t, size, parts).all;
    most = all > most ? all : most;
  }
  return most;
}

/* A thread's scratch in bytes: forward strips of Q, Y, scores, weights and twice as much for a mask; backward so many
 * queries of Q, dQ and dY, the latter two as left and right operands, of weights and their slopes. */
static int64_t scratch_bytes(const Attention *a, int64_t block, int64_t size) {
  int64_t lanes = LANE_ROWS * WIDEST, size_q = a->size + MOST_BF16_WIDTH, size_y = a->value_size + MOST_BF16_WIDTH;
  if (!block)
    return lanes + (size_q + size_y + 4 * KEYS) * WIDEST;
  int64_t wide = round_up(a->size, WIDEST / size) + round_up(a->value_size, WIDEST / size);
  return lanes + 5 * KEYS_BACK * WIDEST + block * size * (2 * size_q + size_y + wide + 2 * KEYS_BACK + 3);
}

/* The plan of a job, by its shape: everything but the tensors and the instruction set. False: the reference has it. */
static bool plan(Job *job, bool backward, int64_t size, bool narrow, size_t budget) {
  const Attention *a = &job->a;
  int64_t all = a->batch * a->groups;
  job->each = a->heads / a->groups;
  job->units = job->each * divide_up(a->queries, QUERIES);
  for (job->block = backward ? QUERIES : 0; scratch_bytes(a, job->block, size) > POOL_SCRATCH_BYTES; job->block /= 2)
    if (job->block <= WIDEST / 4)
      return false;
  if (!all || !job->units || !a->keys || !a->size || !a->value_size)
    return false;
  job->parts = backward ? least(divide_up(LEAST_TASKS, all), job->units) : 0;
  size_t each = (size_t)most_of_group(a, size, narrow, job->parts);
  int64_t most = (int64_t)(budget / 2 / each);
  job->wave = least(divide_up(WAVE_TASKS, backward ? job->parts : job->units), most > 1 ? most : 1);
  job->wave = least(job->wave, all);
  return true;
}

static size_t workspace(const Graph *graph, const Node *node, size_t budget, bool backward,
                        const KernelDef *reference) {
  DType type = graph_value(graph, node->in[0])->dtype;
  int64_t size = type == F64 ? 8 : 4;
  size_t most = 0;
  for (int narrow = 0; narrow < (type == BF16 ? 2 : 1); narrow++) {
    Job job = {.a = attention_in(graph, node)};
    bool fits = plan(&job, backward, size, narrow, budget);
    size_t bytes = fits ? (size_t)(job.wave * most_of_group(&job.a, size, narrow, job.parts))
                        : reference->workspace(graph, node, budget);
    most = bytes > most ? bytes : most;
  }
  return most;
}

static size_t forward_workspace(const Graph *graph, const Node *node, size_t budget) {
  return workspace(graph, node, budget, false, &reference_Attention);
}

static size_t backward_workspace(const Graph *graph, const Node *node, size_t budget) {
  return workspace(graph, node, budget, true, &reference_AttentionGrad);
}

bool attention_takes(const Graph *graph, const Node *node, bool *narrow) {
  Job job = {.a = attention_in(graph, node)};
  int64_t size = graph_value(graph, node->in[0])->dtype == F64 ? 8 : 4;
  *narrow = attention_narrow_in(graph, node);
  return plan(&job, node->op == OP_AttentionGrad, size, *narrow, WORKSPACE_BUDGET);
}

/* The keys that queries t … t + n - 1 see by their places, together. */
static void seen_by(const Attention *a, int64_t t, int64_t n, int64_t *first, int64_t *end) {
  *first = attention_first(a, t);
  *end = attention_end(a, t + n - 1);
}

#define T float
#define S(name) name##_f32
#include "backend/cpu/attention.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/cpu/attention.inc"
#undef T
#undef S

#include "backend/cpu/attention_bf16.inc"

/* Every wave: packs its groups, then runs its tasks, then adds up what they summed. */
static Status run_waves(Job *job, Pool *pool, Task *pack, Task *task, int64_t tasks, Task *finish) {
  int64_t all = job->a.batch * job->a.groups, blocks = divide_up(job->a.keys, job->parts ? KEYS_BACK : KEYS);
  for (job->first = 0; job->first < all; job->first += job->wave) {
    job->groups = least(job->wave, all - job->first);
    TRY(pool_run(pool, job->groups * blocks, pack, job));
    TRY(pool_run(pool, job->groups * tasks, task, job));
    if (finish)
      TRY(pool_run(pool, job->groups * blocks, finish, job));
  }
  return OK;
}

static Status attend(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *work, void *state,
                     const KernelDef *reference) {
  bool backward = node->op == OP_AttentionGrad, narrow = attention_narrow(node, in, out);
  if (in->dtype != F32 && in->dtype != F64 && in->dtype != BF16)
    return unsupported_type(node, in->dtype);
  int64_t size = in->dtype == F64 ? 8 : 4;
  Job job = {.a = attention_of_tensors(node, in),
             .mask = attention_mask(node, in),
             .node = node,
             .counter = attention_counter(node, in),
             .isa = stream->isa,
             .in = in,
             .out = out,
             .tiles = narrow ? narrow_tiles_of(stream->isa) : tiles_of(stream->isa, size),
             .packed = work};
  job.rows = job.tiles.rows;
  job.width = job.tiles.width;
  if (!plan(&job, backward, size, narrow, WORKSPACE_BUDGET))
    return reference->run(stream, node, in, out, work, state);
  if (narrow)
    return backward ? run_waves(&job, stream->pool, pack_bf16, backward_bf16, job.parts, finish_bf16)
                    : run_waves(&job, stream->pool, pack_bf16, forward_bf16, job.units, NULL);
  if (size == 4)
    return backward ? run_waves(&job, stream->pool, pack_f32, backward_f32, job.parts, finish_f32)
                    : run_waves(&job, stream->pool, pack_f32, forward_f32, job.units, NULL);
  return backward ? run_waves(&job, stream->pool, pack_f64, backward_f64, job.parts, finish_f64)
                  : run_waves(&job, stream->pool, pack_f64, forward_f64, job.units, NULL);
}

/* Where all is bfloat16, that is what is multiplied. Else it is converted as it is packed, where it fits; the kernel's
 * own sums stay float32. */
static bool takes_bf16(const Node *node, const Tensor *in, const Tensor *out) {
  if (attention_narrow(node, in, out))
    return true;
  bool backward = node->op == OP_AttentionGrad;
  int mask = attention_mask_input(node);
  Job job = {.a = attention_of_tensors(node, in)};
  bool wide = backward ? in[ATTENTION_GRAD_MOST].dtype == F32 && in[ATTENTION_GRAD_LOG_SUM].dtype == F32
                       : out[1].dtype == F32 && out[2].dtype == F32;
  wide &= node->n_in <= mask || in[mask].dtype != BF16;
  return wide && job.a.size <= KEYS_BACK && job.a.value_size <= KEYS_BACK &&
         plan(&job, backward, sizeof(float), false, WORKSPACE_BUDGET);
}

CPU_KERNEL(Attention, .accepts = takes_floats, .narrow = takes_bf16, .workspace = forward_workspace) {
  return attend(stream, node, in, out, workspace, state, &reference_Attention);
}

CPU_KERNEL(AttentionGrad, .accepts = takes_floats, .narrow = takes_bf16, .workspace = backward_workspace) {
  return attend(stream, node, in, out, workspace, state, &reference_AttentionGrad);
}
