/* ConvGradWeight over threads: W's taps are products of X, shifted, with dY. Invariant: places of dY fall into blocks
 * and blocks into parts, by shape alone; a part sums its blocks in order, an element sums its parts in order.
 *
 * X is laid out with its pads, some channels (a strip) side by side at every place; so is dY, its filters a strip. As
 * much of both as FRAME_BYTES hold is there at once. A tile is what one tap makes of a strip of each: the sweep that
 * sums it starts at the tap's offset in X, and nothing is laid out for each tap. Few channels make no good tile: then
 * the taps along the last axis, which lie side by side, are its rows, too.
 *
 * Where 3 taps an axis let tiles pay, lines of tiles are transformed instead (correlation_tiles.inc). */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/depthwise.h"
#include "backend/cpu/tiles.h"

enum {
  FEW_CHANNELS = 4,
  BLOCK = 512,             /* places, about: what two strips have of them lies in a second-level cache */
  TASKS = 32,              /* at least, where there is enough to do */
  PARTIAL_BYTES = 4 << 20, /* of all parts' sums, where there is more than one part */
  TILE_BYTES = 8 << 20,    /* of transformed tiles at once, where a line of them has no more */
};

/* How one instruction set goes about it. */
typedef struct {
  Convolution c;
  Frame frame; /* of X */
  Reach reach;
  int64_t rows, taps;                      /* of tiles: channels and taps, or some of the taps among the rows */
  int64_t tile_rows, vector;               /* at most; elements */
  int64_t row_strips, filter_strips, tile; /* of a group; elements of a tile */
  int64_t samples, slices;                 /* of dY, laid out at once */
  int64_t block[3];                        /* samples, slices and lines of a block */
  int64_t parts, ranges;                   /* of places, and of tiles: a task each */
  bool tiled;                              /* dY is taken in tiles of results (correlation_tiles.inc): */
  Frame frame_dy;
  int64_t results[AXES], places, count[AXES]; /* of a tile, places, and tiles along each axis */
  int64_t lines, tiles;                       /* along the last axis, at once, and tiles of them */
  int64_t x_width, x_strips;                  /* lanes of a strip of channels */
  bool at_once;                               /* all lines: no sums wait for the next ones */
} Plan;

typedef struct {
  const Plan *plan;
  const Isa *isa;
  const char *x, *dy;
  char *laid_x, *laid_dy, *sums, *dw;
  int64_t sample, samples, slice, slices; /* of dY, at hand */
  int64_t line, lines, tiles;             /* where it is taken in tiles */
} Job;

static int64_t up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

static bool merges(const Plan *p) {
  return p->rows != p->c.channels;
}

/* Slices of X that so many of dY read. */
static int64_t slices_read(const Plan *p, int64_t slices) {
  return (slices - 1) * p->reach.step[0] + (p->c.k[0] - 1) * p->reach.tap[0] + 1;
}

static int64_t filters_laid(const Plan *p) {
  return round_up(p->c.filters, p->vector);
}

/* Elements of one sample at a time, of X and dY. */
static int64_t laid_x(const Plan *p) {
  return p->c.groups * p->c.channels * slices_read(p, p->slices) * p->frame.slice;
}

static int64_t laid_dy(const Plan *p) {
  return p->c.groups * filters_laid(p) * p->slices * p->c.y[1] * p->c.y[2];
}

static int64_t tiles(const Plan *p) {
  return p->c.groups * p->filter_strips * p->row_strips * p->taps;
}

static void plan_chunks(Plan *p, int64_t size) {
  p->slices = p->c.y[0];
  int64_t sample = (laid_x(p) + laid_dy(p)) * size;
  p->samples = least(sample ? FRAME_BYTES / sample : p->c.samples, p->c.samples);
  if (p->samples > 0)
    return;
  int64_t slice = (p->c.groups * p->c.channels * p->frame.slice * p->reach.step[0] + laid_dy(p) / p->slices) * size;
  int64_t depth = laid_x(p) * size / slices_read(p, p->slices) * (slices_read(p, 1) - 1);
  p->samples = 1;
  p->slices = (FRAME_BYTES - depth) / slice;
  p->slices = p->slices < 1 ? 1 : least(p->slices, p->c.y[0]);
}

/* Whole samples, else whole slices, else lines. */
static void plan_blocks(Plan *p) {
  int64_t line = p->c.y[2], slice = line * p->c.y[1], sample = slice * p->slices;
  p->block[0] = sample < BLOCK ? BLOCK / sample : 1;
  p->block[1] = sample < BLOCK ? p->slices : slice < BLOCK ? BLOCK / slice : 1;
  p->block[2] = slice < BLOCK ? p->c.y[1] : line < BLOCK ? BLOCK / line : 1;
}

static int64_t blocks(const Plan *p, int64_t samples, int64_t slices) {
  return up(samples, p->block[0]) * up(slices, p->block[1]) * up(p->c.y[1], p->block[2]);
}

/* Lines of tiles: V, Z and U are what is laid out of X and dY, and the sums. False where tiles do not pay. */
static bool plan_tiles(Plan *p, int64_t size) {
  p->tiled = tiles_choose(&p->c, p->c.y, p->c.channels, p->c.filters, p->results);
  if (!p->tiled)
    return false;
  p->frame_dy = (Frame){.phases = 1};
  p->places = 1;
  for (int i = 0; i < AXES; i++) {
    p->count[i] = up(p->c.y[i], p->results[i]);
    p->places *= transform_size(TRANSFORM_INPUT, 1, p->results[i]);
    p->frame.size[i] = p->count[i] * p->results[i] + (p->results[i] > 1 ? 2 : 0);
    p->frame_dy.size[i] = p->count[i] * p->results[i];
    p->frame_dy.source[i] = p->c.y[i];
    p->frame_dy.scale[i] = 1;
  }
  p->x_width = p->vector * (2 * p->vector <= p->tile_rows ? 2 : 1);
  p->x_strips = up(p->c.channels, p->x_width);
  p->filter_strips = up(p->c.filters, 2 * p->vector);
  int64_t lanes = p->c.groups * (p->x_strips * p->x_width + filters_laid(p));
  int64_t line = lanes * p->places * p->count[2] * size;
  int64_t lines = p->c.samples * p->count[0] * p->count[1];
  p->lines = least(TILE_BYTES / line, lines);
  p->lines = p->lines < 1 ? 1 : p->lines;
  p->tiles = p->lines * p->count[2];
  p->at_once = p->lines == lines;
  return true;
}

/* False where X's frame would be out of proportion. */
static bool plan_for(const Convolution *c, const Isa *isa, int64_t size, Plan *p) {
  *p = (Plan){.c = *c, .rows = c->channels, .taps = c->k_plane, .tile_rows = isa->tile_rows};
  p->frame = frame_of_input(c, false, &p->reach);
  p->vector = isa->vector_bytes / size;
  if (!frame_measure(&p->frame, frame_most(c, (size_t)size)))
    return false;
  if (plan_tiles(p, size))
    return true;
  if (c->channels <= FEW_CHANNELS && c->k[2] > 1 && c->dilation[2] == 1) {
    p->rows *= c->k[2];
    p->taps /= c->k[2];
  }
  p->row_strips = up(p->rows, p->tile_rows);
  p->filter_strips = up(c->filters, 2 * p->vector);
  p->tile = up(p->rows, p->row_strips) * least(filters_laid(p), 2 * p->vector);
  plan_chunks(p, size);
  plan_blocks(p);
  int64_t fit = PARTIAL_BYTES / (tiles(p) * p->tile * size);
  p->parts = least(least(TASKS, blocks(p, p->samples, p->slices)), fit < 1 ? 1 : fit);
  p->ranges = least(up(TASKS, p->parts), tiles(p));
  return true;
}

static size_t laid_x_bytes(const Plan *p, size_t size) {
  if (p->tiled)
    return (size_t)round_up(p->c.groups * p->x_strips * p->x_width * p->places * p->tiles * (int64_t)size, 64);
  return (size_t)round_up(p->samples * laid_x(p) * (int64_t)size, 64);
}

static size_t laid_dy_bytes(const Plan *p, size_t size) {
  if (p->tiled)
    return (size_t)round_up(p->c.groups * filters_laid(p) * p->places * p->tiles * (int64_t)size, 64);
  return (size_t)round_up(p->samples * laid_dy(p) * (int64_t)size, 64);
}

static size_t sums_bytes(const Plan *p, size_t size) {
  if (p->tiled)
    return p->at_once ? 0 : (size_t)(p->c.groups * filters_laid(p) * p->places * p->c.channels) * size;
  return (size_t)(p->parts * tiles(p) * p->tile) * size;
}

static int64_t first_row(const Plan *p, int64_t strip) {
  return strip * p->rows / p->row_strips;
}

/* Vectors of a strip of filters. */
static int64_t vectors(const Plan *p, int64_t strip) {
  return p->c.filters - strip * 2 * p->vector > p->vector ? 2 : 1;
}

/* Strips as they are laid out: of rows, or of all channels where taps are among the rows. */
static int64_t channel_strips(const Plan *p) {
  return merges(p) ? 1 : p->row_strips;
}

static int64_t first_channel(const Plan *p, int64_t strip) {
  return merges(p) ? strip * p->c.channels : first_row(p, strip);
}

/* A block of the places at hand: the first and how many samples, slices and lines. */
typedef struct {
  int64_t first[3], count[3];
} Block;

static Block block_at(const Job *job, int64_t i) {
  const Plan *p = job->plan;
  int64_t all[] = {job->samples, job->slices, p->c.y[1]};
  int64_t at[3] = {0, i / up(all[2], p->block[2]), i % up(all[2], p->block[2])};
  at[0] = at[1] / up(all[1], p->block[1]);
  at[1] %= up(all[1], p->block[1]);
  Block b;
  for (int k = 0; k < 3; k++) {
    b.first[k] = at[k] * p->block[k];
    b.count[k] = least(all[k] - b.first[k], p->block[k]);
  }
  return b;
}

/* The sweep over a block in X, of which `width` channels lie side by side. */
static Sweep sweep_over(const Plan *p, const Block *b, int64_t width) {
  int64_t step = p->reach.step[2] * width, line = p->reach.step[1] * p->frame.row * width;
  int64_t slice = p->reach.step[0] * p->frame.slice * width,
          sample = slices_read(p, p->slices) * p->frame.slice * width;
  return (Sweep){{p->c.y[2], b->count[2], b->count[1], b->count[0]},
                 {step, line - p->c.y[2] * step, slice - b->count[2] * line, sample - b->count[1] * slice}};
}

/* Where a tap begins in X's frame, in places. */
static int64_t tap_offset(const Plan *p, int64_t tap) {
  int64_t last = merges(p) ? 1 : p->c.k[2], line = tap / last % p->c.k[1], slice = tap / last / p->c.k[1];
  return slice * p->reach.tap[0] * p->frame.slice + line * p->reach.tap[1] * p->frame.row +
         tap % last * p->reach.tap[2];
}

#define T float
#define S(name) name##_f32
#include "backend/cpu/correlation.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/cpu/correlation.inc"
#undef T
#undef S

static Convolution operands_of(const Node *node, const Tensor *in, Shape w) {
  return frame_convolution(convolution_of(node, in[1].shape, w, in->shape));
}

static bool nothing(const Tensor *in, Shape w) {
  return shape_elements(in[0].shape) == 0 || shape_elements(in[1].shape) == 0 || shape_elements(w) == 0;
}

/* Enough for every instruction set. */
static size_t correlation_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Tensor in[] = {kernel_input(graph, node, 0), kernel_input(graph, node, 1)};
  Shape w = graph_value(graph, node->out[0])->shape;
  size_t size = dtype_bytes(in->dtype), most = 0;
  if (nothing(in, w))
    return 0;
  Convolution c = operands_of(node, in, w);
  if (depthwise_takes(&c, in->dtype))
    return depthwise_sums(&c);
  for (int i = 0; isas[i]; i++) {
    Plan p;
    if (!plan_for(&c, isas[i], (int64_t)size, &p))
      return 0;
    size_t bytes = laid_x_bytes(&p, size) + laid_dy_bytes(&p, size) + sums_bytes(&p, size);
    most = bytes > most ? bytes : most;
  }
  return most;
}

/* The state: a Plan, or NULL where there is nothing to sum, it is depthwise or the reference has to. */
static Status correlation_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                                  size_t workspace_bytes, void **state) {
  (void)workspace_bytes;
  *state = NULL;
  if (nothing(in, out->shape))
    return OK;
  Convolution c = operands_of(node, in, out->shape);
  if (depthwise_takes(&c, in->dtype))
    return OK;
  Plan *p = malloc(sizeof *p);
  if (!p)
    return fail(E_MEMORY, "out of memory");
  if (plan_for(&c, stream->isa, (int64_t)dtype_bytes(in->dtype), p))
    *state = p;
  else
    free(p);
  return OK;
}

CPU_KERNEL(ConvGradWeight, .accepts = takes_floats, .workspace = correlation_workspace, .prepare = correlation_prepare,
           .release = free) {
  const Plan *p = state;
  Convolution c = operands_of(node, in, out->shape);
  if (!nothing(in, out->shape) && depthwise_takes(&c, in->dtype))
    return depthwise_grad_weight(stream, &c, in[0].data, in[1].data, out->data, workspace);
  if (!p)
    return reference_ConvGradWeight.run(stream, node, in, out, NULL, NULL);
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  size_t size = dtype_bytes(in->dtype);
  Job job = {.plan = p, .isa = stream->isa, .dy = in[0].data, .x = in[1].data, .laid_x = workspace, .dw = out->data};
  job.laid_dy = job.laid_x + laid_x_bytes(p, size);
  job.sums = job.laid_dy + laid_dy_bytes(p, size);
  if (p->tiled)
    return size == 4 ? correlate_tiles_f32(&job, stream->pool) : correlate_tiles_f64(&job, stream->pool);
  return size == 4 ? correlate_f32(&job, stream->pool) : correlate_f64(&job, stream->pool);
}
