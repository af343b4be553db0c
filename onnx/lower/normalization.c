/* Normalisations of channels and their like. Invariant: in training the statistics are a microbatch's, and the file's
 * running ones are buffers that the graph writes; else the running ones are constants. */
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/lower.h"

enum { MOST_CHANNELS = 1 << 14 }; /* of a matrix of channels by channels */

/* [C] to [C,1,…] beside X [N,C,…]. */
static Status beside_channels(Op *op, Term *vector, Shape x, Term **out) {
  Shape shape = {.rank = x.rank - 1};
  for (int i = 0; i < shape.rank; i++)
    shape.dim[i] = i ? 1 : x.dim[1];
  return op_reshape(op, vector, shape, out);
}

/* Input i as a vector of X's channels and type. */
static Status channel_vector(Op *op, int i, const Term *x, Term **vector) {
  *vector = op_in(op, i);
  if ((*vector)->shape.rank != 1 || (*vector)->shape.dim[0] != x->shape.dim[1])
    return fail(E_SHAPE, "'%s' is %s, '%s' %s has %lld channels", op->proto->input[i], SHAPE_STR((*vector)->shape),
                op->proto->input[0], SHAPE_STR(x->shape), (long long)x->shape.dim[1]);
  return op_cast(op, *vector, x->dtype, vector);
}

/* Whether an output behind the first is one of the model's: then it has to be what the operator's specification says.
 */
static bool tells_statistics(const Op *op) {
  int n;
  const ModelInput *outputs = model_outputs(op->lower->model, &n);
  for (int k = 1; k < op->n_out; k++)
    for (int i = 0; i < n && !op->frame->function; i++)
      if (strcmp(outputs[i].name, op->proto->output[k]) == 0)
        return true;
  return false;
}

/* By its attribute; before opset 14 by its outputs. */
static bool says_training(const Op *op) {
  return op->lowering->from >= 14 ? op_int(op, "training_mode", 0) == 1 : op_wants(op, 1);
}

/* Y = (X - mean) scale / sqrt(variance + epsilon) + bias */
static Status normalize(Op *op, Term *x, Term *const vectors[4], Term **y) {
  Term *term, *factor, *mean, *bias;
  TRY(op_with_number(op, OP_Add, vectors[3], op_float(op, "epsilon", 1e-5f), &factor));
  TRY(op_emit1(op, OP_Sqrt, factor, &factor));
  TRY(op_emit2(op, OP_Div, vectors[0], factor, &factor));
  TRY(beside_channels(op, factor, x->shape, &factor));
  TRY(beside_channels(op, vectors[2], x->shape, &mean));
  TRY(beside_channels(op, vectors[1], x->shape, &bias));
  TRY(op_emit2(op, OP_Sub, x, mean, &term));
  TRY(op_emit2(op, OP_Mul, term, factor, &term));
  return op_emit2(op, OP_Add, term, bias, y);
}

/* momentum old + (1 - momentum) new */
static Status running(Op *op, Term *old, Term *new, double momentum, Term **out) {
  TRY(op_with_number(op, OP_Mul, old, momentum, &old));
  TRY(op_with_number(op, OP_Mul, new, 1 - momentum, &new));
  return op_emit2(op, OP_Add, old, new, out);
}

/* The running statistic as a buffer; NO_VALUE where it is no tensor of the file's. */
static Status place_buffer(Op *op, Term *term, ValueId *buffer) {
  Lower *lower = op->lower;
  *buffer = NO_VALUE;
  if (term->constant || term->initializer < 0 || lower->model->initializers[term->initializer].trains)
    return OK;
  if (term->value == NO_VALUE) {
    const char *name = lower->model->initializers[term->initializer].name;
    TRY(graph_add_value(lower->graph, name, term->dtype, term->shape, ROLE_BUFFER, &term->value));
    graph_value(lower->graph, term->value)->initializer = term->initializer;
  }
  if (graph_value(lower->graph, term->value)->role == ROLE_BUFFER)
    *buffer = term->value;
  return OK;
}

static Status update(Op *op, Term *old, Term *new, double momentum) {
  Lower *lower = op->lower;
  ValueId buffer, statistic;
  NodeId node;
  Attr attr = attr_float("momentum", momentum);
  TRY(place_buffer(op, old, &buffer));
  if (buffer == NO_VALUE)
    return OK;
  TRY(op_cast(op, new, old->dtype, &new));
  TRY(term_value(op, new, &statistic));
  TRY(graph_add_node(lower->graph, OP_UpdateStatistics, op->name, (ValueId[]){buffer, statistic}, 2, &attr, 1, NULL, 0,
                     &node));
  return budget_node(lower, graph_node(lower->graph, node));
}

/* By the statistics of the microbatch. The running ones follow as PyTorch has it, by the unbiased variance; as outputs
 * of a model they are the specification's, by the biased one. */
static Status normalize_batch(Op *op, Term *x, Term *const vectors[4], Term **y) {
  bool updates = op->lower->options->updates;
  double momentum = op_float(op, "momentum", 0.9f);
  Attr attrs[] = {attr_float("epsilon", op_float(op, "epsilon", 1e-5f)), attr_int("unbiased", updates),
                  attr_int("couples", 1)};
  Term *out[4];
  TRY(op_emit(op, OP_BatchNormalization, (Term *[]){x, vectors[0], vectors[1]}, 3, attrs, 3, out, 4));
  *y = out[0];
  for (int i = 0; i < 2; i++) {
    Term *new = out[i ? 3 : 1];
    if (op_wants(op, 1 + i) && !updates)
      TRY(running(op, vectors[2 + i], new, momentum, &op->out[1 + i]));
    else if (i + 1 < op->n_out)
      op->out[1 + i] = new;
    if (i + 3 < op->n_out)
      op->out[3 + i] = new;
    if (updates)
      TRY(update(op, op_in(op, 3 + i), new, momentum));
  }
  return OK;
}

static Status batch_normalization(Op *op) {
  Term *x = op->in[0], *vectors[4];
  Shape whole = x->shape, columns = {2, {whole.rank ? whole.dim[0] : 1, 1}};
  if (op_int(op, "spatial", 1) != 1)
    return fail(E_UNSUPPORTED, "spatial is 0");
  if (whole.rank < 2)
    TRY(op_reshape(op, x, columns, &x));
  for (int i = 0; i < 4; i++)
    TRY(channel_vector(op, 1 + i, x, &vectors[i]));
  if (op->lower->options->training || (says_training(op) && tells_statistics(op))) {
    TRY(normalize_batch(op, x, vectors, &op->out[0]));
  } else {
    TRY(normalize(op, x, vectors, &op->out[0]));
    for (int i = 1; i < op->n_out; i++)
      op->out[i] = vectors[2 + (i - 1) % 2];
  }
  return whole.rank < 2 ? op_reshape(op, op->out[0], whole, &op->out[0]) : OK;
}

/* ---- within a sample ---- */

/* Elements of all axes from `axis` on: a shape without any may have more than can be counted. */
static Status length_from(const Op *op, const Term *x, int axis, int64_t *length) {
  *length = 1;
  for (int i = axis; i < x->shape.rank; i++)
    if (!checked_mul_i64(*length, x->shape.dim[i], length))
      return fail(E_SHAPE, "'%s' is %s: sizes overflow", op->proto->input[0], SHAPE_STR(x->shape));
  return OK;
}

/* X [N,C,…] by the statistics of each of `groups` runs of channels of each sample: [1, N groups, …] has these as its
 * channels. Scale and bias [groups], or as long as divides it. */
static Status normalize_groups(Op *op, Term *x, int64_t groups, Term *scale, Term *bias, Term **y) {
  Shape whole = x->shape, runs = {3, {1, 0, 0}};
  Attr epsilon = attr_float("epsilon", op_float(op, "epsilon", 1e-5f));
  Term *out[4];
  TRY(length_from(op, x, 2, &runs.dim[2]));
  if (!checked_mul_i64(whole.dim[0], groups, &runs.dim[1]) ||
      !checked_mul_i64(whole.dim[1] / (groups ? groups : 1), runs.dim[2], &runs.dim[2]))
    return fail(E_SHAPE, "'%s' is %s: sizes overflow", op->proto->input[0], SHAPE_STR(whole));
  TRY(op_reshape(op, x, runs, &x));
  TRY(op_emit(op, OP_BatchNormalization, (Term *[]){x, scale, bias}, 3, &epsilon, 1, out, 4));
  return op_reshape(op, out[0], whole, y);
}

static Status instance_normalization(Op *op) {
  Term *x = op->in[0], *scale, *bias;
  if (x->shape.rank < 2)
    return fail(E_SHAPE, "'%s' is %s: it has no channels on axis 1", op->proto->input[0], SHAPE_STR(x->shape));
  TRY(channel_vector(op, 1, x, &scale));
  TRY(channel_vector(op, 2, x, &bias));
  return normalize_groups(op, x, x->shape.dim[1], scale, bias, &op->out[0]);
}

/* Until opset 20 scale and bias are the groups', then the channels'. */
static Status group_normalization(Op *op) {
  Term *x = op->in[0], *scale, *bias, *one, *zero;
  int64_t groups = op_int(op, "num_groups", 0), channels = x->shape.rank < 2 ? 0 : x->shape.dim[1];
  if (x->shape.rank < 2 || groups < 1 || channels % groups)
    return fail(E_SHAPE, "%lld groups of the channels of '%s' %s", (long long)groups, op->proto->input[0],
                SHAPE_STR(x->shape));
  bool of_groups = op->lowering->to < 21;
  for (int i = 1; i < 3; i++)
    if (op->in[i]->shape.rank != 1 || op->in[i]->shape.dim[0] != (of_groups ? groups : channels))
      return fail(E_SHAPE, "'%s' is %s, there are %lld %s", op->proto->input[i], SHAPE_STR(op->in[i]->shape),
                  (long long)(of_groups ? groups : channels), of_groups ? "groups" : "channels");
  TRY(op_cast(op, op->in[1], x->dtype, &scale));
  TRY(op_cast(op, op->in[2], x->dtype, &bias));
  if (of_groups)
    return normalize_groups(op, x, groups, scale, bias, &op->out[0]);
  Shape each = {1, {1}};
  TRY(op_scalar(op, x, 1, &one));
  TRY(op_reshape(op, one, each, &one));
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_reshape(op, zero, each, &zero));
  Shape shape = x->shape;
  TRY(normalize_groups(op, x, groups, one, zero, &x));
  TRY(beside_channels(op, scale, shape, &scale));
  TRY(beside_channels(op, bias, shape, &bias));
  TRY(op_emit2(op, OP_Mul, x, scale, &x));
  return op_emit2(op, OP_Add, x, bias, &op->out[0]);
}

/* Y = X / (bias + alpha / size (sum of the squares of `size` channels around))^beta: the sum is a product with a matrix
 * of ones near its diagonal. */
static Status lrn(Op *op) {
  Term *x = op->in[0], *band, *t;
  Shape whole = x->shape;
  int64_t size = op_int(op, "size", 0);
  if (whole.rank < 2 || size < 1)
    return fail(E_SHAPE, "size %lld for '%s' %s", (long long)size, op->proto->input[0], SHAPE_STR(whole));
  int64_t channels = whole.dim[1], rest;
  uint8_t *near;
  if (channels > MOST_CHANNELS)
    return fail(E_UNSUPPORTED, "%lld channels, more than %d", (long long)channels, MOST_CHANNELS);
  TRY(length_from(op, x, 2, &rest));
  TRY(budget_need(&op->lower->budget, (size_t)channels * (size_t)channels, (double)channels * (double)channels));
  TRY(ARENA_NEW(op->lower->arena, near, channels * channels));
  for (int64_t c = 0; c < channels; c++)
    for (int64_t k = 0; k < channels; k++)
      near[c * channels + k] = k - c <= size / 2 && c - k <= (size - 1) / 2;
  TRY(term_make(op->lower, NULL, BOOL, (Shape){2, {channels, channels}}, near, &band));
  TRY(op_cast(op, band, x->dtype, &band));
  TRY(op_emit2(op, OP_Mul, x, x, &t));
  TRY(op_reshape(op, t, (Shape){3, {whole.dim[0], channels, rest}}, &t));
  TRY(op_matmul(op, band, false, t, false, &t));
  TRY(op_reshape(op, t, whole, &t));
  TRY(op_with_number(op, OP_Mul, t, op_float(op, "alpha", 1e-4f) / (double)size, &t));
  TRY(op_with_number(op, OP_Add, t, op_float(op, "bias", 1), &t));
  TRY(op_with_number(op, OP_Pow, t, -op_float(op, "beta", 0.75), &t));
  return op_emit2(op, OP_Mul, x, t, &op->out[0]);
}

/* X / (sum |X|^p)^(1/p) along an axis; 0 where that is 0. */
static Status lp_normalization(Op *op) {
  Term *x = op->in[0], *norm, *zero, *none, *one;
  int64_t p = op_int(op, "p", 2), along;
  int axis;
  TRY(op_axis(op, "axis", -1, x->shape.rank, &axis));
  along = axis;
  if (p != 1 && p != 2)
    return fail(E_UNSUPPORTED, "p is %lld, not 1 or 2", (long long)p);
  TRY(p == 1 ? op_emit1(op, OP_Abs, x, &norm) : op_emit2(op, OP_Mul, x, x, &norm));
  TRY(op_reduce(op, OP_ReduceSum, norm, &along, 1, true, &norm));
  TRY(op_scalar(op, x, 0, &zero));
  TRY(op_scalar(op, x, 1, &one));
  TRY(op_emit2(op, OP_Equal, norm, zero, &none));
  TRY(op_where(op, none, one, norm, &norm));
  if (p == 2)
    TRY(op_emit1(op, OP_Sqrt, norm, &norm));
  return op_emit2(op, OP_Div, x, norm, &op->out[0]);
}

/* (X - mean) / (deviation + 1e-9), as the operator's function body has it, but that it subtracts the mean first. */
static Status mean_variance_normalization(Op *op) {
  static const int64_t usual[] = {0, 2, 3};
  Term *x = op->in[0], *mean, *deviation;
  int64_t axes[MAX_RANK];
  int n;
  TRY(op_axes(op, "axes", 1, x->shape.rank, axes, &n));
  if (n < 0) {
    if (x->shape.rank < 4)
      return fail(E_SHAPE, "the axes are 0, 2 and 3, '%s' is %s", op->proto->input[0], SHAPE_STR(x->shape));
    n = 3;
    memcpy(axes, usual, sizeof usual);
  }
  TRY(op_reduce(op, OP_ReduceMean, x, axes, n, true, &mean));
  TRY(op_emit2(op, OP_Sub, x, mean, &x));
  TRY(op_emit2(op, OP_Mul, x, x, &deviation));
  TRY(op_reduce(op, OP_ReduceMean, deviation, axes, n, true, &deviation));
  TRY(op_emit1(op, OP_Sqrt, deviation, &deviation));
  TRY(op_with_number(op, OP_Add, deviation, 1e-9, &deviation));
  return op_emit2(op, OP_Div, x, deviation, &op->out[0]);
}

const Lowering lowerings_normalization[] = {
    {"BatchNormalization", 7, 8, 5, 5, 5, batch_normalization, "epsilon:f momentum:f spatial:b"},
    {"BatchNormalization", 9, 13, 5, 5, 5, batch_normalization, "epsilon:f momentum:f"},
    {"BatchNormalization", 14, OPSET_LAST, 5, 5, 3, batch_normalization, "epsilon:f momentum:f training_mode:b"},
    {"InstanceNormalization", 6, OPSET_LAST, 3, 3, 1, instance_normalization, "epsilon:f"},
    {"GroupNormalization", 18, 20, 3, 3, 1, group_normalization, "epsilon:f num_groups:i!"},
    {"GroupNormalization", 21, OPSET_LAST, 3, 3, 1, group_normalization, "epsilon:f num_groups:i! stash_type:d"},
    {"LRN", 1, OPSET_LAST, 1, 1, 1, lrn, "alpha:f beta:f bias:f size:i!"},
    {"LpNormalization", 1, OPSET_LAST, 1, 1, 1, lp_normalization, "axis:i p:i"},
    {"MeanVarianceNormalization", 9, OPSET_LAST, 1, 1, 1, mean_variance_normalization, "axes:I"},
    {0},
};
