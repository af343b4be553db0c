/* From nodes to launches: accumulation, squared norms and updates, of whole accumulators and of rows. */
#include "backend/cuda/cuda.h"
#include "backend/reference/reference.h"
#include "graph/op.h"

/* A bfloat16 term is added to a float32 sum. */
static bool adds_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  (void)node, (void)out;
  return in[0].dtype == F32;
}

KERNEL(Accumulate, .accepts = takes_floats, .narrow = adds_narrow) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_accumulate(stream->cuda, in->dtype, in[1].dtype, shape_elements(in->shape), in[1].data, in[0].data);
  return cuda_launched(stream, node);
}

KERNEL(AccumulateRows, .accepts = takes_floats, .narrow = adds_narrow) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  RowsWork work = {.index_type = in[3].dtype,
                   .rows = node_int(node, "rows", 0),
                   .microbatches = in[1].shape.dim[0],
                   .lookups = in[1].shape.dim[1],
                   .inner = shape_elements(shape_of(in->shape.rank - 2, in->shape.dim + 2))};
  launch_accumulate_rows(stream->cuda, in->dtype, in[2].dtype, &work, cuda_reporter(stream, node), stream->finished,
                         in[2].data, in[3].data, in[0].data, in[1].data);
  return cuda_launched(stream, node);
}

/* ---- norms and updates ---- */

static bool is_update(const Node *node) {
  return op_def(node->op)->traits & OP_UPDATE;
}

static int first_group(const Node *node) {
  return is_update(node) ? 2 + (int)node_int(node, "states", 0) : 0;
}

/* The shape of the parameter. */
static Shape parameter_shape(const Node *node, Shape first) {
  int rank;
  const int64_t *dims = node_ints(node, "shape", &rank);
  return node->op == OP_SquaredNormRows ? shape_of(rank, dims) : first;
}

/* Its sizes, and the groups of its gradient. in: types, shapes and places, which may be NULL still. */
static Status take_gradient(const Node *node, const Tensor *in, ParameterWork *w) {
  Shape shape = parameter_shape(node, in->shape);
  w->elements = shape_elements(shape);
  for (int i = first_group(node); i < node->n_in; i++) {
    if (w->n_groups == MOST_GROUPS) {
      fail(E_UNSUPPORTED, "more than %d groups of a gradient", MOST_GROUPS);
      node_context(node);
      return E_UNSUPPORTED;
    }
    GradientGroup *group = &w->groups[w->n_groups++];
    *group = (GradientGroup){.data = in[i].data, .first = w->lookups};
    if (i + 1 == node->n_in || in[i + 1].dtype != I64) {
      w->has_whole = true;
      continue;
    }
    group->places = in[++i].data;
    group->lookups = in[i].shape.dim[1];
    w->lookups += shape_elements(in[i].shape);
    w->rows = shape.dim[0];
    w->row = w->rows ? w->elements / w->rows : 0;
  }
  return cuda_sortable(node, w->lookups, w->rows + 1);
}

/* Numbers of eight bytes: keys, and the sums of a norm's parts. */
static size_t parameter_workspace(const Graph *graph, const Node *node, size_t budget) {
  Tensor in[2 + 2 + 2 * MOST_GROUPS];
  ParameterWork w = {0};
  (void)budget;
  for (int i = 0; i < node->n_in && i < (int)(sizeof in / sizeof *in); i++)
    in[i] = kernel_input(graph, node, i);
  if (node->n_in > (int)(sizeof in / sizeof *in) || take_gradient(node, in, &w) != OK)
    return 0; /* running it says why */
  int64_t sums = is_update(node) ? 0 : parameter_parts(PARTS_OF_ELEMENTS, &w);
  return sizeof(uint64_t) * (size_t)(2 * w.lookups + sums);
}

static ParameterKind kind_of(const Node *node, const ParameterWork *w) {
  if (!is_update(node))
    return PARAMETER_NORM;
  if (node->op == OP_SparseAdamUpdate)
    return PARAMETER_SPARSE_ADAM_ROWS;
  if (node->op == OP_AdamUpdate || node->op == OP_AdamUpdateRows)
    return PARAMETER_ADAM;
  if (w->momentum)
    return PARAMETER_MOMENTUM;
  return w->has_whole || w->decay != 0 ? PARAMETER_SGD : PARAMETER_SGD_ROWS; /* of the others zeros change nothing */
}

Status cuda_take_parameter(const Node *node, const Tensor *in, const Tensor *out, ParameterWork *w) {
  int states = (int)node_int(node, "states", 0);
  *w = (ParameterWork){.type = in->dtype};
  TAKES(in->dtype, is_float(in->dtype));
  TRY(take_gradient(node, in, w));
  if (is_update(node)) {
    w->parameter = in[0].data;
    w->rounded = in[0].rounded;
    w->scalars = in[1].data;
    w->momentum = states ? in[2].data : NULL;
    w->variance = states > 1 ? in[3].data : NULL;
    w->momentum_factor = node_float(node, "momentum", 0);
    w->decay = node_float(node, "weight_decay", 0);
    w->nesterov = node_int(node, "nesterov", 0);
    w->decoupled = node_int(node, "decoupled", 0);
    w->beta1 = node_float(node, "beta1", 0.9);
    w->beta2 = node_float(node, "beta2", 0.999);
    w->epsilon = node_float(node, "epsilon", 1e-8);
  } else {
    w->y = out->data;
  }
  w->kind = kind_of(node, w);
  return OK;
}

#define PARAMETER(op_name)                                                                                             \
  KERNEL(op_name, .accepts = takes_floats, .workspace = parameter_workspace) {                                         \
    ParameterWork work;                                                                                                \
    (void)state;                                                                                                       \
    TRY(cuda_take_parameter(node, in, out, &work));                                                                    \
    parameter_sorts(&work, workspace);                                                                                 \
    work.partial = (double *)workspace + 2 * work.lookups;                                                             \
    launch_parameters(stream->cuda, &(Parameters){.works = &work, .n = 1});                                            \
    return cuda_launched(stream, node);                                                                                \
  }
PARAMETER(SquaredNorm)
PARAMETER(SquaredNormRows)
PARAMETER(SgdUpdate)
PARAMETER(SgdUpdateRows)
PARAMETER(AdamUpdate)
PARAMETER(AdamUpdateRows)
PARAMETER(SparseAdamUpdate)
