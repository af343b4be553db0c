/* Plans of convolutions and of gradients of their inputs. */
#include "backend/cpu/convolution_plan.h"

#include <stdlib.h>

/* The part of one axis. */
typedef struct {
  int64_t count, first, step;  /* results */
  int64_t taps, tap, tap_step; /* the kernel's first, and from one to the next */
  int64_t offset, offset_step; /* in the frame, for result 0 */
} AxisPart;

static int64_t divisor(int64_t a, int64_t b) {
  return b ? divisor(b, a % b) : a;
}

static int64_t floor_of(int64_t a, int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/* How often the taps' remainders by the stride repeat. */
static int64_t period(const Convolution *c, int axis) {
  return c->stride[axis] / divisor(c->stride[axis], c->dilation[axis]);
}

static int64_t axis_parts(const Convolution *c, int axis) {
  return least(period(c, axis), c->k[axis]);
}

/* Part number i of X's axis: places with the remainder of tap i. Offsets are places of Y. */
static AxisPart spread_axis(const Convolution *c, int axis, int64_t i) {
  int64_t stride = c->stride[axis], reach = i * c->dilation[axis], remainder = reach % stride;
  int64_t first = -floor_of(remainder - c->pad[axis], stride);
  int64_t last = floor_of(c->x[axis] - 1 + c->pad[axis] - remainder, stride);
  return (AxisPart){.count = last < first ? 0 : last - first + 1,
                    .first = first * stride + remainder - c->pad[axis],
                    .step = stride,
                    .taps = (c->k[axis] - i + period(c, axis) - 1) / period(c, axis),
                    .tap = i,
                    .tap_step = period(c, axis),
                    .offset = first - reach / stride,
                    .offset_step = -(period(c, axis) * c->dilation[axis] / stride)};
}

/* Y's frame reaches over all that the parts read. */
static void spread_frame(const Convolution *c, int axis, Plan *plan) {
  int64_t lowest = INT64_MAX, highest = INT64_MIN, results = 0, farthest = 0;
  for (int64_t i = 0; i < axis_parts(c, axis); i++) {
    AxisPart p = spread_axis(c, axis, i);
    int64_t low = p.offset + (p.taps - 1) * p.offset_step, high = p.offset + p.count - 1;
    if (p.count == 0)
      continue;
    lowest = low < lowest ? low : lowest;
    highest = high > highest ? high : highest;
    farthest = p.offset > farthest || results == 0 ? p.offset : farthest;
    results = p.count > results ? p.count : results;
  }
  Frame *frame = &plan->frame;
  frame->source[axis] = c->y[axis];
  frame->scale[axis] = 1;
  frame->shift[axis] = results ? lowest : 0;
  frame->size[axis] = results ? highest - lowest + 1 : 1;
  if (axis != 0)
    return;
  plan->slices_at_once = results;
  plan->depth = results ? farthest - lowest + 1 : 1;
}

static AxisPart axis_part(const Convolution *c, bool spreads, const Plan *plan, const Reach *reach, int axis,
                          int64_t i) {
  if (!spreads)
    return (AxisPart){
        .count = c->y[axis], .step = 1, .taps = c->k[axis], .tap_step = 1, .offset_step = reach->tap[axis]};
  AxisPart part = spread_axis(c, axis, i);
  part.offset -= plan->frame.shift[axis];
  return part;
}

/* Adds the part that the axes' parts make, with its taps at `taps`. */
static void add_part(Plan *plan, const Convolution *c, const AxisPart axis[AXES], int64_t *taps) {
  Part *part = &plan->parts[plan->n_parts++];
  const Frame *f = &plan->frame;
  *part = (Part){.taps = axis[0].taps * axis[1].taps * axis[2].taps, .offset = taps};
  part->weight = taps + part->taps;
  for (int i = 0; i < AXES; i++) {
    part->count[i] = axis[i].count;
    part->first[i] = axis[i].first;
    part->step[i] = axis[i].step;
  }
  for (int64_t i = 0; i < part->taps; i++) {
    int64_t at[AXES] = {i / axis[2].taps / axis[1].taps, i / axis[2].taps % axis[1].taps, i % axis[2].taps};
    int64_t tap[AXES], offset[AXES];
    for (int k = 0; k < AXES; k++) {
      tap[k] = axis[k].tap + at[k] * axis[k].tap_step;
      offset[k] = axis[k].offset + at[k] * axis[k].offset_step;
    }
    part->offset[i] = offset[0] * f->slice + offset[1] * f->row + frame_place(f, offset[2]);
    part->weight[i] = (tap[0] * c->k[1] + tap[1]) * c->k[2] + tap[2];
  }
}

/* How much of the input is laid out at once: whole samples, or slices of one. */
static void plan_chunks(Plan *plan, int64_t results, size_t size) {
  int64_t slice = plan->groups * plan->channels * plan->frame.slice * (int64_t)size;
  int64_t sample = slice * plan->frame.size[0];
  plan->direct = frame_is_source(&plan->frame);
  plan->slices_at_once = results;
  plan->samples_at_once = plan->samples;
  if (plan->direct || sample == 0)
    return;
  int64_t most = FRAME_BYTES / sample;
  plan->samples_at_once = most < 1 ? 1 : least(most, plan->samples);
  if (most < 1)
    plan->slices_at_once = (FRAME_BYTES / slice - plan->depth) / plan->reach[0] + 1;
  plan->slices_at_once = plan->slices_at_once < 1 ? 1 : least(plan->slices_at_once, results);
}

/* Elements side by side that are whole vectors of every instruction set. */
static int64_t lanes(int64_t n, size_t size) {
  return round_up(n, MOST_VECTOR_BYTES / (int64_t)size);
}

/* The frame holds whole tiles. A task has at least some tiles to each set of weights that it reads, and its sums fit
 * its scratch; so do the places of its tiles, where channels are not too many for that. */
static void plan_in_tiles(Plan *plan, bool spreads, size_t size) {
  enum { LEAST_TILES = 24, MOST_TILES = 64, TASKS = 16, FEWEST = 12 };
  plan->places = 1;
  for (int i = 0; i < AXES; i++) {
    plan->frame.size[i] = round_up(plan->result[i], plan->tile[i]) + (plan->tile[i] > 1 ? 2 : 0);
    plan->count[i] = (plan->result[i] + plan->tile[i] - 1) / plan->tile[i];
    plan->places *= transform_size(TRANSFORM_INPUT, 0, plan->tile[i]);
  }
  int64_t tiles = plan_tiles(plan);
  plan->flips = spreads;
  plan->covers = true;
  plan->pitch = lanes(plan->channels, size);
  int64_t sums = plan->places * 2 * MOST_VECTOR_BYTES, laid = plan->places * plan->pitch * (int64_t)size;
  int64_t fits = LOCAL_BYTES / (laid + sums), few = (tiles + TASKS - 1) / TASKS;
  plan->fused = tiles <= least(MOST_TILES, SUMS_BYTES / sums);
  plan->local = !plan->fused && fits >= LEAST_TILES;
  plan->pitch += plan->local || plan->pitch * (int64_t)size % 512 ? 0 : MOST_VECTOR_BYTES / (int64_t)size;
  plan->block = least(least(MOST_TILES, SUMS_BYTES / sums), few < FEWEST ? FEWEST : few);
  plan->block = plan->local ? least(plan->block, fits) : plan->block;
  if (plan->fused)
    plan->block = tiles;
  else if (plan->count[2] < plan->block)
    plan->block -= plan->block % plan->count[2];
  laid = plan->groups * plan->places * plan->pitch * (int64_t)size * plan->block;
  plan->at_once = plan->block * (laid > FRAME_BYTES || laid == 0 ? 1 : FRAME_BYTES / laid);
  plan->at_once = least(plan->at_once, tiles);
}

bool plan_sizes(const Convolution *c, bool spreads, size_t size, Plan *plan) {
  Reach reach = {{1, 1, 1}, {0}};
  *plan = (Plan){.samples = c->samples, .groups = c->groups, .kernel = c->k_plane};
  plan->rows = spreads ? c->channels : c->filters;
  plan->channels = spreads ? c->filters : c->channels;
  plan->row_step = spreads ? c->k_plane : c->channels * c->k_plane;
  plan->channel_step = spreads ? c->channels * c->k_plane : c->k_plane;
  plan->result_plane = spreads ? c->x_plane : c->y_plane;
  plan->frame.phases = 1;
  for (int i = 0; i < AXES && spreads; i++)
    spread_frame(c, i, plan);
  if (!spreads) {
    plan->frame = frame_of_input(c, true, &reach);
    plan->depth = (c->k[0] - 1) * reach.tap[0] + 1;
    plan->slices_at_once = c->y[0];
  }
  for (int i = 0; i < AXES; i++) {
    plan->result[i] = spreads ? c->x[i] : c->y[i];
    plan->reach[i] = reach.step[i];
  }
  plan->tiled = tiles_choose(c, plan->result, plan->channels, plan->rows, plan->tile);
  if (plan->tiled)
    plan_in_tiles(plan, spreads, size);
  if (!frame_measure(&plan->frame, frame_most(c, size)))
    return false;
  if (!plan->tiled)
    plan_chunks(plan, plan->slices_at_once, size);
  return true;
}

Status plan_parts(const Convolution *c, bool spreads, Plan *plan) {
  if (plan->tiled)
    return OK;
  int64_t n[AXES], covered = 0;
  Reach reach;
  frame_of_input(c, true, &reach);
  for (int i = 0; i < AXES; i++)
    n[i] = spreads ? axis_parts(c, i) : 1;
  /* a part's taps are its own, and no kernel has more taps than weights lie in memory */
  size_t most = (size_t)(n[0] * n[1] * n[2]), taps = 2 * (size_t)c->k_plane * sizeof(int64_t);
  plan->parts = malloc(most * sizeof *plan->parts + taps);
  if (!plan->parts)
    return fail(E_MEMORY, "out of memory");
  int64_t *next = (int64_t *)(plan->parts + most), packed = 0;
  for (int64_t i = 0; i < n[0] * n[1] * n[2]; i++) {
    int64_t at[AXES] = {i / n[2] / n[1], i / n[2] % n[1], i % n[2]}, results = 1;
    AxisPart axis[AXES];
    for (int k = 0; k < AXES; k++) {
      axis[k] = axis_part(c, spreads, plan, &reach, k, at[k]);
      results *= axis[k].count;
    }
    if (results == 0)
      continue;
    add_part(plan, c, axis, next);
    Part *part = &plan->parts[plan->n_parts - 1];
    next += 2 * part->taps;
    part->packed = packed;
    packed += plan->groups * plan->rows * plan->channels * part->taps;
    covered += results;
  }
  plan->covers = covered == plan->result_plane;
  return OK;
}

int64_t plan_tiles(const Plan *plan) {
  return plan->samples * plan->count[0] * plan->count[1] * plan->count[2];
}

int64_t plan_packed(const Plan *plan, size_t size) {
  if (plan->fused)
    return 0;
  if (plan->tiled)
    return plan->groups * lanes(plan->rows, size) * plan->channels * plan->places;
  return plan->groups * plan->rows * plan->channels * plan->kernel;
}

int64_t plan_slices(const Plan *plan) {
  return least((plan->slices_at_once - 1) * plan->reach[0] + plan->depth, plan->frame.size[0]);
}

int64_t plan_plane(const Plan *plan) {
  return plan->direct ? plan->frame.plane : plan_slices(plan) * plan->frame.slice;
}

int64_t plan_laid(const Plan *plan) {
  if (plan->tiled)
    return plan->local ? 0 : plan->groups * plan->places * plan->pitch * plan->at_once;
  return plan->direct ? 0 : plan->samples_at_once * plan->groups * plan->channels * plan_plane(plan);
}
