/* Operators that read images where data says: at the places of a grid, and in regions. */
#include <string.h>

#include "graph/batch.h"
#include "graph/ops/rule.h"

/* ---- GridSample ---- */

static Status check_word(const Node *n, const char *name, const char *const *words) {
  const char *word = node_string(n, name, words[0]);
  for (int i = 0; i < 3; i++)
    if (strcmp(word, words[i]) == 0)
      return OK;
  return fail(E_UNSUPPORTED, "%s is '%s'", name, word);
}

/* The result for X [N, C, spatial…] and a grid [N, places…, axes]. */
static Status grid_shape(const Graph *g, const Node *n, Shape x, Shape grid, Shape *y) {
  static const char *const modes[] = {"linear", "nearest", "cubic"};
  static const char *const paddings[] = {"zeros", "border", "reflection"};
  TRY(check_word(n, "mode", modes));
  TRY(check_word(n, "padding_mode", paddings));
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (x.rank < 3 || x.rank > 5)
    return fail(E_UNSUPPORTED, "a grid over %d axes", x.rank - 2);
  if (grid.rank != x.rank || grid.dim[0] != x.dim[0] || grid.dim[grid.rank - 1] != x.rank - 2)
    return fail(E_SHAPE, "grid %s over %s", SHAPE_STR(grid), SHAPE_STR(x));
  for (int i = 2; i < x.rank; i++)
    if (x.dim[i] == 0)
      return fail(E_SHAPE, "nothing to sample in %s", SHAPE_STR(x));
  *y = x;
  memcpy(y->dim + 2, grid.dim + 1, (size_t)(x.rank - 2) * sizeof *grid.dim);
  return OK;
}

static Status infer_grid_sample(Graph *g, Node *n) {
  Shape y;
  TRY(grid_shape(g, n, rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape, &y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

static Status gradient_grid_sample(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Attr shape = attr_ints("shape", rule_in(g, n, 0)->shape.dim, rule_in(g, n, 0)->shape.rank);
  if (rule_wants(g, n, 0))
    TRY(emit_like(g, n, OP_GridSampleGradInput, (ValueId[]){d_out[0], n->in[1]}, 2, &shape, &d_in[0]));
  if (rule_wants(g, n, 1))
    TRY(emit_like(g, n, OP_GridSampleGradGrid, (ValueId[]){d_out[0], n->in[0], n->in[1]}, 3, NULL, &d_in[1]));
  return OK;
}

static Status check_cotangent(const Graph *g, const Node *n, Shape y) {
  if (shape_equal(rule_in(g, n, 0)->shape, y))
    return OK;
  return fail(E_SHAPE, "the result is %s, the cotangent %s", SHAPE_STR(y), SHAPE_STR(rule_in(g, n, 0)->shape));
}

static Status infer_grid_grad_input(Graph *g, Node *n) {
  Shape x, y;
  TRY(rule_shape(g, n, "shape", &x));
  TRY(grid_shape(g, n, x, rule_in(g, n, 1)->shape, &y));
  TRY(check_cotangent(g, n, y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, x);
  return OK;
}

static Status infer_grid_grad_grid(Graph *g, Node *n) {
  Shape y;
  TRY(grid_shape(g, n, rule_in(g, n, 1)->shape, rule_in(g, n, 2)->shape, &y));
  TRY(check_cotangent(g, n, y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rule_in(g, n, 2)->shape);
  return OK;
}

/* Neighbours of a place: 1, 2 or 4 along each axis; finding them counts as one of them each. */
static Cost cost_grid(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  const char *mode = node_string(n, "mode", "linear");
  Shape y = (n->op == OP_GridSample ? rule_out(g, n, 0) : rule_in(g, n, 0))->shape;
  double taps = strcmp(mode, "nearest") == 0 ? 1 : strcmp(mode, "linear") == 0 ? 2 : 4;
  cost.flops = 4 * (double)shape_elements(y);
  for (int i = 2; i < y.rank; i++)
    cost.flops *= taps;
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  cost.bytes += (double)graph_value_bytes(g, n->out[0]);
  return cost;
}

static bool leads(const Batch *batch) {
  return batch->kind == BATCH_AXIS && batch->axis == 0 && !batch->step && !batch->address;
}

/* Each sample by its own grid. */
static void batch_grid(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g;
  (void)n;
  out->kind = BATCH_MIXED;
  if (leads(&in[0]) && leads(&in[1]) && in[0].outer == in[1].outer && in[0].inner == in[1].inner) {
    *out = in[0];
    out->uniform = in[0].uniform && in[1].uniform;
  }
}

/* ---- regions ---- */

/* X [N, C, H, W] and regions [R, 4] of the samples that indices [R] name, or [R, 5] with the sample in front. */
static Status region_shape(const Graph *g, const Node *n, int first, Shape *y) {
  const Value *x = rule_in(g, n, first), *rois = rule_in(g, n, first + 1);
  bool named = n->n_in > first + 2;
  int64_t height = node_int(n, "output_height", 1), width = node_int(n, "output_width", 1);
  TRY(rule_float(g, n, first));
  if (x->shape.rank != 4 || rois->dtype != x->dtype || rois->shape.rank != 2 || rois->shape.dim[1] != (named ? 4 : 5) ||
      height < 1 || width < 1)
    return fail(E_SHAPE, "regions %s %s of %s %s, pooled to %lld by %lld", dtype_name(rois->dtype),
                SHAPE_STR(rois->shape), dtype_name(x->dtype), SHAPE_STR(x->shape), (long long)height, (long long)width);
  if (named) {
    const Value *indices = rule_in(g, n, first + 2);
    if ((indices->dtype != I64 && indices->dtype != I32) || indices->shape.rank != 1 ||
        indices->shape.dim[0] != rois->shape.dim[0])
      return fail(E_SHAPE, "indices %s %s of regions %s", dtype_name(indices->dtype), SHAPE_STR(indices->shape),
                  SHAPE_STR(rois->shape));
  }
  *y = (Shape){4, {rois->shape.dim[0], x->shape.dim[1], height, width}};
  return OK;
}

static Status infer_regions(Graph *g, Node *n) {
  Shape y;
  TRY(region_shape(g, n, 0, &y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

static Status infer_regions_grad(Graph *g, Node *n) {
  Shape y;
  TRY(region_shape(g, n, 1, &y));
  if (rule_in(g, n, 0)->dtype != rule_in(g, n, 1)->dtype)
    return fail(E_SHAPE, "X is %s, the cotangent %s", dtype_name(rule_in(g, n, 1)->dtype),
                dtype_name(rule_in(g, n, 0)->dtype));
  TRY(check_cotangent(g, n, y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rule_in(g, n, 1)->shape);
  return OK;
}

/* Regions are data: what made them learns nothing here, as in torchvision. */
static Status gradient_regions(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId in[4] = {d_out[0]}, zero;
  OpKind op = n->op == OP_RoiAlign ? OP_RoiAlignGrad : OP_MaxRoiPoolGrad;
  for (int i = 0; i < n->n_in; i++)
    in[i + 1] = n->in[i];
  if (rule_wants(g, n, 0))
    TRY(emit_like(g, n, op, in, n->n_in + 1, NULL, &d_in[0]));
  if (!rule_wants(g, n, 1))
    return OK;
  TRY(emit_scalar(g, n->in[1], 0, &zero));
  return emit_expand(g, zero, rule_in(g, n, 1)->shape, &d_in[1]);
}

ENTRY(GridSample, 2, 2, 1, 1, 0, infer_grid_sample, gradient_grid_sample, cost_grid, batch_grid)
ENTRY(GridSampleGradInput, 2, 2, 1, 1, 0, infer_grid_grad_input, NULL, cost_grid, NULL)
ENTRY(GridSampleGradGrid, 3, 3, 1, 1, 0, infer_grid_grad_grid, NULL, cost_grid, NULL)
ENTRY(RoiAlign, 3, 3, 1, 1, 0, infer_regions, gradient_regions, NULL, NULL)
ENTRY(RoiAlignGrad, 4, 4, 1, 1, 0, infer_regions_grad, NULL, NULL, NULL)
ENTRY(MaxRoiPool, 2, 2, 1, 1, 0, infer_regions, gradient_regions, NULL, NULL)
ENTRY(MaxRoiPoolGrad, 3, 3, 1, 1, 0, infer_regions_grad, NULL, NULL, NULL)
