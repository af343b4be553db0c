/* Accumulation over microbatches and the optimizer steps, PyTorch's formulas in the element type. Invariant: the
 * gradient of a parameter is the sum of its accumulators from the left, times the gradient factor. */
#include <string.h>
#include <tgmath.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"
#include "graph/op.h"
#include "graph/optimizer.h"

/* The first of a node's rows and places. */
static int first_group(const Node *node) {
  return op_def(node->op)->traits & OP_UPDATE ? 2 + (int)node_int(node, "states", 0) : 0;
}

/* One behind the lookups of the row of lookup i. */
static int64_t row_end(const Lookup *lookups, int64_t n, int64_t i) {
  int64_t row = lookups[i].row;
  while (i < n && lookups[i].row == row)
    i++;
  return i;
}

/* Whether input i, an accumulator of its group or the rows in its stead, is followed by places. */
static bool has_places(const Node *node, const Tensor *in, int i) {
  return i + 1 < node->n_in && in[i + 1].dtype == I64;
}

/* The first lookup of this row, or of one behind it. */
static int64_t first_lookup(const Lookup *lookups, int64_t n, int64_t row) {
  int64_t low = 0, high = n;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (lookups[middle].row < row)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* What an update makes of a row whose gradient and states are zeros. */
typedef enum { ZEROS_COUNT, ZEROS_DECAY, ZEROS_STAY } Zeros;

/* The partial sums of LANE_SUM, pairwise; zeros are left. */
static double fold_lanes(double lane[LANES]) {
  for (int half = LANES / 2; half; half /= 2)
    for (int l = 0; l < half; l++)
      lane[l] += lane[l + half];
  double sum = lane[0];
  memset(lane, 0, LANES * sizeof *lane);
  return sum;
}

#define T float
#define S(name) name##_f32
#include "backend/reference/optimizer.inc"
#include "backend/reference/rows.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/optimizer.inc"
#include "backend/reference/rows.inc"
#undef T
#undef S

FLOAT_KERNEL(Accumulate)
FLOAT_KERNEL(SquaredNorm)
FLOAT_KERNEL(SgdUpdate)
FLOAT_KERNEL(AdamUpdate)

/* ---- rows and places ---- */

int64_t empty_microbatch(const Tensor *places) {
  int64_t microbatches = places->shape.dim[0], n = places->shape.dim[1], m = 0;
  while (m < microbatches && n && ((const int64_t *)places->data)[m * n])
    m++;
  return m % microbatches; /* full: a step is over */
}

Status accumulate_rows_part(const Node *node, const Tensor *in, int64_t microbatch, int64_t first, int64_t end) {
  int64_t n = in[1].shape.dim[1], size = node_int(node, "rows", 0), *places = (int64_t *)in[1].data + microbatch * n;
  size_t row = n ? (size_t)(shape_elements(in[2].shape) / n) * dtype_bytes(in[2].dtype) : 0;
  for (int64_t i = first; i < end; i++) {
    int64_t at;
    TRY(gather_index(node, &in[3], i, shape_of(1, &size), 0, &at));
    places[i] = at + 1;
  }
  if (row && first < end)
    memcpy((char *)in[0].data + (size_t)(microbatch * n + first) * row, (const char *)in[2].data + (size_t)first * row,
           (size_t)(end - first) * row);
  return OK;
}

KERNEL(AccumulateRows, .accepts = takes_floats) {
  UNUSED;
  (void)out;
  TRY(float_type(node, in[0].dtype));
  return accumulate_rows_part(node, in, empty_microbatch(&in[1]), 0, in[1].shape.dim[1]);
}

/* Room for every lookup, twice. */
size_t lookups_workspace(const Graph *graph, const Node *node, size_t budget) {
  int64_t n = 0;
  (void)budget;
  for (int i = first_group(node); i < node->n_in; i++)
    if (graph_value(graph, node->in[i])->dtype == I64)
      n += shape_elements(graph_value(graph, node->in[i])->shape);
  return (size_t)n * 2 * sizeof(Lookup);
}

/* Those that there are, and their largest row. */
static int64_t list_lookups(const Node *node, const Tensor *in, Lookup *to, int64_t *largest) {
  int64_t n = 0, at = 0;
  *largest = 0;
  for (int i = first_group(node); i < node->n_in; i++) {
    const int64_t *places = in[i].data;
    int64_t count = in[i].dtype == I64 ? shape_elements(in[i].shape) : 0;
    for (int64_t k = 0; k < count; k++, at++)
      if (places[k] > 0) {
        to[n++] = (Lookup){places[k] - 1, at};
        *largest = places[k] - 1 > *largest ? places[k] - 1 : *largest;
      }
  }
  return n;
}

/* Digit by digit from the lowest, which keeps what is equal in its order. */
const Lookup *lookups_sort(const Node *node, const Tensor *in, void *workspace, int64_t *n) {
  int64_t room = 0, largest;
  for (int i = first_group(node); i < node->n_in; i++)
    room += in[i].dtype == I64 ? shape_elements(in[i].shape) : 0;
  Lookup *from = workspace, *to = from + room;
  *n = list_lookups(node, in, from, &largest);
  enum { DIGIT = 9, DIGITS = 1 << DIGIT }; /* two for most tables */
  for (int shift = 0; shift < 63 && largest >> shift; shift += DIGIT) {
    int64_t begin[DIGITS + 1] = {0};
    for (int64_t i = 0; i < *n; i++)
      begin[(from[i].row >> shift & (DIGITS - 1)) + 1]++;
    for (int d = 0; d < DIGITS; d++)
      begin[d + 1] += begin[d];
    for (int64_t i = 0; i < *n; i++)
      to[begin[from[i].row >> shift & (DIGITS - 1)]++] = from[i];
    Lookup *sorted = to;
    to = from;
    from = sorted;
  }
  return from;
}

bool updates_whole(const Node *node, const Tensor *in) {
  bool whole = node->op == OP_AdamUpdateRows || node_int(node, "states", 0) || node_float(node, "weight_decay", 0) != 0;
  for (int i = first_group(node); i < node->n_in; i += 2)
    whole |= !has_places(node, in, i); /* up to the first that has none, each takes two */
  return whole && node->op != OP_SparseAdamUpdate;
}

Status update_rows_part(const Node *node, const Tensor *in, const Lookup *lookups, int64_t n, int64_t first,
                        int64_t end) {
  bool whole = updates_whole(node, in);
  switch (in[0].dtype) {
    CASE(F32, (whole ? update_whole_f32 : update_rows_f32)(node, in, lookups, n, first, end))
    CASE(F64, (whole ? update_whole_f64 : update_rows_f64)(node, in, lookups, n, first, end))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}

double norm_rows_part(const Node *node, const Tensor *in, const Lookup *lookups, int64_t n, int64_t first,
                      int64_t end) {
  return in[0].dtype == F32 ? norm_rows_f32(node, in, lookups, n, first, end)
                            : norm_rows_f64(node, in, lookups, n, first, end);
}

KERNEL(SquaredNormRows, .accepts = takes_floats, .workspace = lookups_workspace) {
  UNUSED;
  int64_t n, elements = 1;
  int rank;
  const int64_t *dims = node_ints(node, "shape", &rank);
  TRY(float_type(node, in[0].dtype));
  const Lookup *lookups = lookups_sort(node, in, workspace, &n);
  for (int i = 0; i < rank; i++)
    elements *= dims[i];
  *(double *)out->data = norm_rows_part(node, in, lookups, n, 0, elements);
  return OK;
}

static Status update_rows(const Node *node, const Tensor *in, void *workspace) {
  int64_t n;
  const Lookup *lookups = lookups_sort(node, in, workspace, &n);
  return update_rows_part(node, in, lookups, n, 0, updates_whole(node, in) ? shape_elements(in[0].shape) : n);
}

#define UPDATE_ROWS_KERNEL(op_name)                                                                                    \
  KERNEL(op_name, .accepts = takes_floats, .workspace = lookups_workspace) {                                           \
    UNUSED;                                                                                                            \
    (void)out;                                                                                                         \
    return update_rows(node, in, workspace);                                                                           \
  }
UPDATE_ROWS_KERNEL(SgdUpdateRows)
UPDATE_ROWS_KERNEL(AdamUpdateRows)
UPDATE_ROWS_KERNEL(SparseAdamUpdate)
