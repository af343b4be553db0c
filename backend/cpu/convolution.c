/* Conv and ConvGradInput over threads, as products whose right side is never
 * written out. Invariant: an element is the sum, block by block of K_BLOCK, of
 * each block's own left-to-right sum over channels, then taps: bits depend on
 * the shape and the instruction set.
 *
 * The weights are packed once, in strips of rows. The input is laid out with
 * its pads, as much of it at once as FRAME_BYTES hold. Then each task takes
 * columns of the result, and perhaps some of its rows: for each block of terms
 * and strip of columns it lays what they read into its scratch and multiplies
 * it with the weights' strips. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/convolution_plan.h"
#include "backend/cpu/depthwise.h"

enum {
  K_BLOCK = 256,
  STRIPS_OF_TASK = 8, /* at most, of columns */
  LEAST_STRIPS = 4,   /* of columns and of rows, where there are as many: what is
                         laid out serves them all */
  PACK_CHANNELS = 16, /* whose weights are transformed at a time, */
  LAY_TILES = 16,     /* and tiles whose places are */
  TASKS = 16,         /* of a part at least, where it is large enough */
  WIDEST = 2 * MOST_VECTOR_BYTES,
  MOST_RUNS = WIDEST / (int)sizeof(float), /* of a strip */
  MOST_ROWS =
      (POOL_SCRATCH_BYTES - K_BLOCK * WIDEST - 1024) / (STRIPS_OF_TASK * WIDEST) - MOST_TILE_ROWS, /* of a task */
  SPARE = MOST_VECTOR_BYTES /* behind what is laid out: whole vectors are read
                               and written */
};

typedef struct {
  const Plan *plan;
  const Isa *isa;
  const char *from, *weights, *laid;
  char *packed, *frames, *to;
  const Part *part;
  int64_t sample, samples, slice, slices; /* the results at hand */
  int64_t columns, width;                 /* of a group, and of a strip */
  int64_t strips, column_tasks;           /* of a task, and how many */
  int64_t row_strips, row_tasks;          /* of a task, and how many */
  int64_t tile, tiles;                    /* whose places are laid out */
} Job;

/* Rows of strip i are first … the next one's first - 1: of nearly the same
 * height each. */
static int64_t row_strips(const Job *job) {
  return (job->plan->rows + job->isa->tile_rows - 1) / job->isa->tile_rows;
}

static int64_t first_row(const Job *job, int64_t strip) {
  return strip * job->plan->rows / row_strips(job);
}

/* Enough tasks for many threads, by shape alone. */
static void plan_tasks(Job *job) {
  int64_t strips = (job->columns + job->width - 1) / job->width, groups = job->plan->groups, rows = row_strips(job);
  job->strips = least(STRIPS_OF_TASK, (strips * groups + TASKS - 1) / TASKS);
  job->strips = job->strips < LEAST_STRIPS ? LEAST_STRIPS : job->strips;
  job->column_tasks = (strips + job->strips - 1) / job->strips;
  job->row_strips = least(rows, (rows * job->column_tasks * groups + TASKS - 1) / TASKS);
  job->row_strips = job->row_strips < LEAST_STRIPS ? LEAST_STRIPS : job->row_strips;
  job->row_strips = least(job->row_strips, MOST_ROWS / job->isa->tile_rows);
  job->row_tasks = (rows + job->row_strips - 1) / job->row_strips;
}

/* What a task makes. */
typedef struct {
  int64_t group, row, end_row, strip, end_strip; /* in strips of rows and of columns */
} Piece;

static Piece piece_of(const Job *job, int64_t i) {
  int64_t row = i % job->row_tasks * job->row_strips, strip = i / job->row_tasks % job->column_tasks * job->strips;
  return (Piece){.group = i / job->row_tasks / job->column_tasks,
                 .row = row,
                 .end_row = least(row + job->row_strips, row_strips(job)),
                 .strip = strip,
                 .end_strip = least(strip + job->strips, (job->columns + job->width - 1) / job->width)};
}

/* A column of the part at hand: a sample's place. */
typedef struct {
  int64_t sample, at[AXES];
} Place;

static Place place_of(const Job *job, int64_t column) {
  const int64_t *count = job->part->count;
  return (Place){.sample = column / count[2] / count[1] / job->slices,
                 .at = {column / count[2] / count[1] % job->slices, column / count[2] % count[1], column % count[2]}};
}

static void next_row(const Job *job, Place *place) {
  place->at[2] = 0;
  if (++place->at[1] < job->part->count[1])
    return;
  place->at[1] = 0;
  if (++place->at[0] < job->slices)
    return;
  place->at[0] = 0;
  place->sample++;
}

/* What the strip's columns read and write. */
static int64_t runs_of(const Job *job, int64_t strip, Run *runs) {
  const Plan *p = job->plan;
  const Part *part = job->part;
  int64_t column = strip * job->width, width = least(job->columns - column, job->width), n = 0;
  int64_t from_sample = p->groups * p->channels * plan_plane(p), to_sample = p->groups * p->rows * p->result_plane;
  Place place = place_of(job, column);
  for (int64_t to = 0, count; to < width; to += count) {
    count = least(width - to, part->count[2] - place.at[2]);
    int64_t from = place.sample * from_sample + place.at[0] * p->reach[0] * p->frame.slice +
                   place.at[1] * p->reach[1] * p->frame.row + place.at[2];
    int64_t at[AXES] = {job->slice + place.at[0], place.at[1], place.at[2]};
    for (int i = 0; i < AXES; i++)
      at[i] = part->first[i] + at[i] * part->step[i];
    int64_t result = (job->sample + place.sample) * to_sample + (at[0] * p->result[1] + at[1]) * p->result[2] + at[2];
    Run *last = &runs[n - 1];
    if (n && last->from + last->n == from && last->result + last->n * part->step[2] == result)
      last->n += count;
    else
      runs[n++] = (Run){.from = from, .to = to, .n = count, .result = result};
    next_row(job, &place);
  }
  return n;
}

/* Tiles of one line, neighbours. */
typedef struct {
  int64_t sample, slice, row, tile, n;
} Segment;

/* Those that follow tile number `tile` of all, `most` at most. */
static Segment segment_at(const Plan *p, int64_t tile, int64_t most) {
  int64_t line = tile / p->count[2], row = line / p->count[1];
  Segment s = {.sample = row / p->count[0], .slice = row % p->count[0], .row = line % p->count[1]};
  s.tile = tile % p->count[2];
  s.n = least(most, p->count[2] - s.tile);
  return s;
}

/* Strips of rows, where they lie side by side, and how wide one is. */
static int64_t wide_strips(const Job *job) {
  return (job->plan->rows + job->width - 1) / job->width;
}

static int64_t strip_width(const Job *job, int64_t n, int64_t strip) {
  return n - strip * job->width > job->width / 2 ? job->width : job->width / 2;
}

#define T float
#define S(name) name##_f32
#include "backend/cpu/convolution.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/cpu/convolution.inc"
#undef T
#undef S

/* A node's operands as the convolution of X by W. */
typedef struct {
  Convolution c;
  bool spreads, empty;
} Operands;

static Operands operands_of(const Node *node, const Tensor *in, const Tensor *out) {
  Operands o = {.spreads = node->op == OP_ConvGradInput};
  o.c = frame_convolution(o.spreads ? convolution_of(node, out->shape, in[1].shape, in->shape)
                                    : convolution_of(node, in->shape, in[1].shape, out->shape));
  o.empty = shape_elements(in->shape) == 0 || shape_elements(in[1].shape) == 0 || shape_elements(out->shape) == 0;
  return o;
}

/* The packed weights, and behind them what is laid out of the input. */
static size_t packed_bytes(const Plan *plan, size_t size) {
  return (size_t)round_up(plan_packed(plan, size) * (int64_t)size, 64);
}

static size_t convolution_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Tensor in[] = {kernel_input(graph, node, 0), kernel_input(graph, node, 1)}, out = {.dtype = in->dtype};
  out.shape = graph_value(graph, node->out[0])->shape;
  Operands o = operands_of(node, in, &out);
  Plan plan;
  size_t size = dtype_bytes(in->dtype);
  if (o.empty || depthwise_takes(&o.c, in->dtype) || !plan_sizes(&o.c, o.spreads, size, &plan))
    return 0;
  return packed_bytes(&plan, size) + (size_t)plan_laid(&plan) * size + SPARE;
}

/* The state: a Plan, or NULL where there is nothing to sum, it is depthwise or the
 * reference has to. */
static Status convolution_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                                  size_t workspace_bytes, void **state) {
  (void)stream, (void)workspace_bytes;
  Operands o = operands_of(node, in, out);
  Plan plan, *kept;
  *state = NULL;
  if (o.empty || depthwise_takes(&o.c, in->dtype) || !plan_sizes(&o.c, o.spreads, dtype_bytes(in->dtype), &plan))
    return OK;
  TRY(plan_parts(&o.c, o.spreads, &plan));
  if (!(kept = malloc(sizeof *kept))) {
    free(plan.parts);
    return fail(E_MEMORY, "out of memory");
  }
  *kept = plan;
  *state = kept;
  return OK;
}

static void convolution_release(void *state) {
  Plan *plan = state;
  if (plan)
    free(plan->parts);
  free(plan);
}

static Status convolve(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                       const Plan *plan, Kernel *reference) {
  Operands o = operands_of(node, in, out);
  if (!o.empty && depthwise_takes(&o.c, in->dtype))
    return (o.spreads ? depthwise_grad_input : depthwise_forward)(stream, &o.c, in[0].data, in[1].data, out->data);
  if (!plan)
    return reference(stream, node, in, out, NULL, NULL);
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  Job job = {.plan = plan,
             .isa = stream->isa,
             .from = in[0].data,
             .weights = in[1].data,
             .packed = workspace,
             .frames = (char *)workspace + packed_bytes(plan, dtype_bytes(in->dtype)),
             .to = out->data,
             .width = 2 * stream->isa->vector_bytes / (int64_t)dtype_bytes(in->dtype)};
  if (plan->tiled)
    return in->dtype == F32 ? convolve_tiles_f32(&job, stream->pool) : convolve_tiles_f64(&job, stream->pool);
  if (!plan->covers)
    memset(out->data, 0, (size_t)shape_elements(out->shape) * dtype_bytes(out->dtype));
  return in->dtype == F32 ? convolve_f32(&job, stream->pool) : convolve_f64(&job, stream->pool);
}

#define CONVOLUTION                                                                                                    \
  .accepts = takes_floats, .workspace = convolution_workspace, .prepare = convolution_prepare,                         \
  .release = convolution_release

CPU_KERNEL(Conv, CONVOLUTION) {
  return convolve(stream, node, in, out, workspace, state, reference_Conv.run);
}

CPU_KERNEL(ConvGradInput, CONVOLUTION) {
  return convolve(stream, node, in, out, workspace, state, reference_ConvGradInput.run);
}
