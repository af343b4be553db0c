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
  int64_t sums = is_update(node) ? 0 : parameter_parts(PARTS_OF_ELEMENTS, in->dtype, &w);
  return sizeof(uint64_t) * (size_t)(2 * w.lookups + sums);
}

static Status take_parameter(const Node *node, const Tensor *in, const Tensor *out, void *workspace, ParameterWork *w) {
  int states = (int)node_int(node, "states", 0);
  *w = (ParameterWork){0};
  TAKES(in->dtype, is_float(in->dtype));
  TRY(take_gradient(node, in, w));
  if (w->lookups)
    parameter_sorts(w, workspace);
  if (!is_update(node)) {
    w->y = out->data;
    w->partial = (double *)workspace + 2 * w->lookups;
    return OK;
  }
  w->parameter = in[0].data;
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
  return OK;
}

static UpdateRule rule_of(const Node *node) {
  return node->op == OP_SparseAdamUpdate                              ? UPDATE_SPARSE_ADAM
         : node->op == OP_AdamUpdate || node->op == OP_AdamUpdateRows ? UPDATE_ADAM
                                                                      : UPDATE_SGD;
}

/* Whether elements without gradient change, too, or cannot be told. */
static bool updates_whole(const Node *node, const ParameterWork *w) {
  return rule_of(node) == UPDATE_ADAM ||
         (rule_of(node) == UPDATE_SGD && (w->has_whole || w->momentum || w->decay != 0));
}

static Status squared_norm(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  ParameterWork work;
  TRY(take_parameter(node, in, out, workspace, &work));
  launch_squared_norm(stream->cuda, in->dtype, &work);
  return cuda_launched(stream, node);
}

static Status update(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  ParameterWork work;
  TRY(take_parameter(node, in, out, workspace, &work));
  launch_update(stream->cuda, in->dtype, rule_of(node), updates_whole(node, &work), &work);
  return cuda_launched(stream, node);
}

#define PARAMETER(op_name, run)                                                                                        \
  KERNEL(op_name, .accepts = takes_floats, .workspace = parameter_workspace) {                                         \
    UNUSED;                                                                                                            \
    return run(stream, node, in, out, workspace);                                                                      \
  }
PARAMETER(SquaredNorm, squared_norm)
PARAMETER(SquaredNormRows, squared_norm)
PARAMETER(SgdUpdate, update)
PARAMETER(SgdUpdateRows, update)
PARAMETER(AdamUpdate, update)
PARAMETER(AdamUpdateRows, update)
PARAMETER(SparseAdamUpdate, update)
