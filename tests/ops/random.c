/* Random cases: shapes that nobody thought of, small enough for naive oracles. */
#include "graph/op.h"
#include "tests/ops/draw.h"

int64_t between(Draw *d, int64_t low, int64_t high) {
  return low + random_below(&d->random, high - low + 1);
}

Shape any_shape(Draw *d, int least_rank, int most_rank, int64_t most) {
  Shape s = {.rank = (int)between(d, least_rank, most_rank)};
  for (int i = 0; i < s.rank; i++)
    s.dim[i] = between(d, 0, 9) ? between(d, 1, most) : 1;
  return s;
}

Shape part_of(Draw *d, Shape s) {
  int drop = (int)between(d, 0, 2) ? 0 : (int)between(d, 0, s.rank);
  Shape part = shape_of(s.rank - drop, s.dim + drop);
  for (int i = 0; i < part.rank; i++)
    if (between(d, 0, 3) == 0)
      part.dim[i] = 1;
  return part;
}

CaseInput *input(Draw *d, Shape shape) {
  CaseInput *in = &d->c->in[d->n_in++];
  *in = (CaseInput){.present = true, .shape = shape};
  return in;
}

void output(Draw *d, Shape shape) {
  d->c->out[d->n_out].present = true;
  d->c->out[d->n_out++].shape = shape;
}

void put_int(Draw *d, const char *name, int64_t x) {
  d->c->attrs[d->n_attrs++] = attr_int(name, x);
}

void put_ints(Draw *d, const char *name, const int64_t *x, int n) {
  d->c->attrs[d->n_attrs++] = attr_ints(name, arena_copy(d->arena, x, (size_t)n * sizeof *x), n);
}

static void draw_broadcast(Draw *d, int n_in, Fill fill) {
  Shape parts[3] = {{0}}, wide = any_shape(d, 0, 4, 6);
  for (int i = 0; i < n_in; i++)
    parts[i] = part_of(d, wide);
  Shape result = parts[0];
  for (int i = 1; i < n_in; i++)
    shape_broadcast(result, parts[i], &result);
  for (int i = 0; i < n_in; i++)
    input(d, parts[i])->fill = fill;
  output(d, result);
}

static void draw_same(Draw *d, int n_in, Fill fill) {
  Shape shape = between(d, 0, 1) ? any_shape(d, 0, 3, 9) : shape_of(1, (int64_t[]){between(d, 0, 2500)});
  for (int i = 0; i < n_in; i++)
    input(d, shape)->fill = fill;
  output(d, shape);
}

static void draw_transpose(Draw *d) {
  Shape from = any_shape(d, 1, 5, between(d, 0, 3) ? 6 : 20), to = from;
  int64_t perm[MAX_RANK];
  while (shape_elements(from) > 20000)
    from.rank--;
  to.rank = from.rank;
  for (int i = 0; i < from.rank; i++) {
    int64_t j = between(d, 0, i);
    perm[i] = perm[j];
    perm[j] = i;
  }
  for (int i = 0; i < from.rank; i++)
    to.dim[i] = from.dim[perm[i]];
  d->c->types = TYPES_ALL;
  input(d, from);
  output(d, to);
  put_ints(d, "perm", perm, from.rank);
}

static void draw_concat(Draw *d) {
  Shape shape = any_shape(d, 1, 4, 6), whole = shape;
  int axis = (int)between(d, 0, shape.rank - 1), n = (int)between(d, 1, 5);
  whole.dim[axis] = 0;
  for (int i = 0; i < n; i++) {
    shape.dim[axis] = between(d, 0, 5);
    whole.dim[axis] += shape.dim[axis];
    input(d, shape);
  }
  d->c->types = TYPES_ALL;
  output(d, whole);
  put_int(d, "axis", axis);
}

static void draw_slice(Draw *d) {
  Shape from = any_shape(d, 1, 4, 9), to = from;
  int64_t axes[MAX_RANK], starts[MAX_RANK], ends[MAX_RANK], steps[MAX_RANK];
  int n = 0;
  for (int i = 0; i < from.rank; i++) {
    if (between(d, 0, 1))
      continue;
    int64_t dim = from.dim[i], step = between(d, 1, 4), count = 0;
    bool back = between(d, 0, 1);
    int64_t start = back ? between(d, 0, dim - 1) : between(d, 0, dim);
    int64_t end = back ? between(d, -1, dim - 1) : between(d, 0, dim);
    for (int64_t at = start; back ? at > end : at < end; at += back ? -step : step)
      count++;
    axes[n] = i, starts[n] = start, ends[n] = end, steps[n++] = back ? -step : step;
    to.dim[i] = count;
  }
  d->c->types = TYPES_ALL;
  input(d, from);
  output(d, to);
  put_ints(d, "axes", axes, n);
  put_ints(d, "starts", starts, n);
  put_ints(d, "ends", ends, n);
  put_ints(d, "steps", steps, n);
}

static void draw_expand(Draw *d) {
  Shape to = any_shape(d, 0, 4, 7);
  d->c->types = TYPES_ALL;
  input(d, part_of(d, to));
  output(d, to);
  put_ints(d, "shape", to.dim, to.rank);
}

static void draw_gather(Draw *d) {
  Shape data = any_shape(d, 1, 3, 9), indices = any_shape(d, 0, 2, 9), to = {0};
  int axis = (int)between(d, 0, data.rank - 1);
  for (int i = 0; i < data.rank; i++)
    for (int k = 0; k < (i == axis ? indices.rank : 1); k++)
      to.dim[to.rank++] = i == axis ? indices.dim[k] : data.dim[i];
  bool grad = d->c->op == OP_GatherGrad;
  d->c->types = grad ? TYPES_FLOAT : TYPES_ALL;
  input(d, grad ? to : data);
  *input(d, indices) =
      (CaseInput){.present = true, .dtype = I64, .shape = indices, .fill = FILL_INDEX, .limit = data.dim[axis]};
  output(d, grad ? data : to);
  put_int(d, "axis", axis);
  if (grad)
    put_ints(d, "shape", data.dim, data.rank);
}

static void draw_reduce(Draw *d) {
  Shape from = any_shape(d, 1, 5, between(d, 0, 3) ? 6 : 24), to = {0};
  int64_t axes[MAX_RANK];
  int n = 0;
  while (shape_elements(from) > 20000)
    from.rank--;
  bool keep = between(d, 0, 1);
  for (int i = 0; i < from.rank; i++) {
    bool reduced = between(d, 0, 1) || (n == 0 && i == from.rank - 1);
    if (reduced)
      axes[n++] = i;
    if (!reduced || keep)
      to.dim[to.rank++] = reduced ? 1 : from.dim[i];
  }
  d->c->types = d->c->op == OP_ReduceMean ? TYPES_FLOAT : TYPES_NUMBERS;
  input(d, from)->fill = d->c->op == OP_ReduceMax ? FILL_DISTINCT : FILL_ANY;
  output(d, to);
  put_ints(d, "axes", axes, n);
  put_int(d, "keepdims", keep);
}

static void draw_along(Draw *d, int n_in) {
  Shape shape =
      between(d, 0, 1) ? any_shape(d, 1, 3, 8) : shape_of(2, (int64_t[]){between(d, 1, 5), between(d, 1, 90)});
  for (int i = 0; i < n_in; i++)
    input(d, shape);
  output(d, shape);
  put_int(d, "axis", between(d, 0, shape.rank - 1));
  if (d->c->op == OP_CumSum) {
    put_int(d, "exclusive", between(d, 0, 1));
    put_int(d, "reverse", between(d, 0, 1));
  }
}

/* Sizes around the edges of tiles and blocks, too. */
static int64_t side(Draw *d) {
  static const int64_t edges[] = {1, 6, 7, 8, 15, 16, 17, 31, 32, 33, 48, 65, 96, 97, 100};
  return between(d, 0, 2) ? between(d, 1, 20) : edges[between(d, 0, 14)];
}

static void swap_last(Shape *s) {
  int64_t t = s->dim[s->rank - 1];
  s->dim[s->rank - 1] = s->dim[s->rank - 2];
  s->dim[s->rank - 2] = t;
}

static void draw_product(Draw *d) {
  int64_t m = side(d), n = side(d), k = between(d, 0, 9) ? side(d) : between(d, 250, 530);
  bool ta = between(d, 0, 1), tb = between(d, 0, 1), gemm = d->c->op == OP_Gemm;
  Shape batch = gemm || m * n * k > 20000 ? (Shape){0} : any_shape(d, 0, 2, 3), y;
  Shape a = part_of(d, batch), b = part_of(d, batch);
  shape_broadcast(a, b, &y);
  a.dim[a.rank++] = m, a.dim[a.rank++] = k;
  b.dim[b.rank++] = k, b.dim[b.rank++] = n;
  y.dim[y.rank++] = m, y.dim[y.rank++] = n;
  if (ta)
    swap_last(&a);
  if (tb)
    swap_last(&b);
  if (d->c->op == OP_AccumulateMatMul)
    input(d, y);
  input(d, a);
  input(d, b);
  if (gemm && between(d, 0, 2))
    input(d, part_of(d, y));
  if (d->c->op != OP_AccumulateMatMul)
    output(d, y);
  put_int(d, "transA", ta);
  put_int(d, "transB", tb);
  if (d->c->op == OP_AccumulateMatMul && between(d, 0, 1))
    put_int(d, "begins", 1);
}

/* Rows times a matrix, and a GELU, its slope or a sum behind. */
static void draw_product_behind(Draw *d) {
  bool tb = between(d, 0, 1), is_gelu = d->c->op == OP_ProductGelu;
  int64_t k = between(d, 0, 9) ? side(d) : between(d, 500, 1100), n = side(d);
  Shape a = any_shape(d, 1, 2, 4), b = shape_of(2, tb ? (int64_t[]){n, k} : (int64_t[]){k, n}), y;
  a.dim[a.rank - 1] = side(d);
  y = a;
  a.dim[a.rank++] = k;
  y.dim[y.rank++] = n;
  d->c->types = TYPES_FLOAT;
  input(d, a);
  input(d, b);
  if (!is_gelu)
    input(d, y);
  if (d->c->op != OP_ProductGeluGrad && between(d, 0, 2))
    input(d, between(d, 0, 2) ? shape_of(1, &n) : shape_of(2, (int64_t[]){1, n}));
  output(d, y);
  if (is_gelu && between(d, 0, 2))
    output(d, y);
  put_int(d, "transB", tb);
  if (between(d, 0, 2))
    d->c->attrs[d->n_attrs++] = attr_string("approximate", "tanh");
}

/* X [.., axis ..] with its statistics; which inputs there are depends on the operator. */
static void draw_norm(Draw *d) {
  OpKind op = d->c->op;
  bool layer =
      op == OP_LayerNormalization || op == OP_LayerNormalizationGradInput || op == OP_LayerNormalizationGradScale;
  bool forward = op == OP_LayerNormalization || op == OP_RMSNormalization;
  bool scale_grad = op == OP_LayerNormalizationGradScale || op == OP_RMSNormalizationGradScale;
  Shape x = between(d, 0, 1) ? any_shape(d, 1, 4, 6) : shape_of(2, (int64_t[]){between(d, 1, 6), between(d, 2, 150)});
  int axis = (int)between(d, 0, x.rank - 1);
  Shape tail = shape_of(x.rank - axis, x.dim + axis), stats = x;
  for (int i = axis; i < x.rank; i++)
    stats.dim[i] = 1;
  input(d, x);
  if (!forward)
    input(d, x);
  if (!scale_grad)
    input(d, tail);
  if (forward && layer && between(d, 0, 1))
    input(d, tail);
  if (!forward && layer)
    input(d, stats);
  if (!forward)
    input(d, stats)->fill = FILL_POSITIVE;
  if (!forward && !scale_grad && between(d, 0, 1))
    input(d, x); /* what is added */
  output(d, scale_grad ? tail : x);
  for (int i = 0; forward && i < 1 + layer; i++)
    output(d, stats);
  put_int(d, "axis", axis);
  d->c->attrs[d->n_attrs++] = attr_float("epsilon", 0.1); /* a row of one element has no variance */
}

static void draw_rotary(Draw *d) {
  Shape x = any_shape(d, 1, 4, 6);
  x.dim[x.rank - 1] = 2 * between(d, 1, 40);
  d->c->types = TYPES_FLOAT;
  input(d, x);
  for (int i = 0; i < 2; i++) {
    Shape angles = part_of(d, x);
    if (!angles.rank)
      angles.rank = 1;
    angles.dim[angles.rank - 1] = x.dim[x.rank - 1];
    input(d, angles);
  }
  output(d, x);
  put_int(d, "inverse", between(d, 0, 1));
}

static void draw_head(Draw *d) {
  Shape x = any_shape(d, 1, 3, 9), w, target = shape_of(x.rank - 1, x.dim);
  int64_t v = between(d, 1, 70), size = x.dim[x.rank - 1];
  bool trans = between(d, 0, 1), biased = between(d, 0, 1);
  w = shape_of(2, trans ? (int64_t[]){v, size} : (int64_t[]){size, v});
  d->c->types = TYPES_FLOAT;
  input(d, w);
  input(d, x);
  input(d, w);
  *input(d, target) = (CaseInput){.present = true, .dtype = I64, .shape = target, .fill = FILL_CLASS, .limit = v};
  *input(d, (Shape){0}) = (CaseInput){.present = true, .dtype = F64, .fill = FILL_POSITIVE};
  if (biased)
    input(d, shape_of(1, &v));
  output(d, x);
  output(d, (Shape){0});
  if (biased)
    output(d, shape_of(1, &v));
  put_int(d, "transB", trans);
  put_int(d, "rows", between(d, 1, 20));
  put_int(d, "begins", between(d, 0, 1));
}

static void draw_cross_entropy(Draw *d) {
  Shape logits = any_shape(d, 1, 3, 9), target = {0};
  int axis = (int)between(d, 0, logits.rank - 1);
  for (int i = 0; i < logits.rank; i++)
    if (i != axis)
      target.dim[target.rank++] = logits.dim[i];
  bool grad = d->c->op == OP_CrossEntropyGrad;
  input(d, logits);
  *input(d, target) =
      (CaseInput){.present = true, .dtype = I64, .shape = target, .fill = FILL_CLASS, .limit = logits.dim[axis]};
  if (grad) {
    input(d, target);
    *input(d, (Shape){0}) = (CaseInput){.present = true, .dtype = F64, .fill = FILL_POSITIVE};
  }
  output(d, grad ? logits : (Shape){0});
  if (!grad)
    output(d, target);
  put_int(d, "class_axis", axis);
}

static void draw_update(Draw *d, int states) {
  Shape shape = shape_of(1, (int64_t[]){between(d, 0, 2500)});
  int groups = (int)between(d, 1, 4);
  input(d, shape);
  *input(d, shape_of(1, (int64_t[]){5})) = (CaseInput){
      .present = true, .dtype = F64, .shape = shape_of(1, (int64_t[]){5}), .fill = FILL_SCALARS, .fixed = true};
  for (int i = 0; i < states + groups; i++)
    input(d, shape)->fill = states == 2 && i == 1 ? FILL_POSITIVE : FILL_ANY;
  put_int(d, "states", states);
  if (states == 1)
    d->c->attrs[d->n_attrs++] = attr_float("momentum", 0.9);
  if (states == 2) {
    d->c->attrs[d->n_attrs++] = attr_float("beta1", 0.9);
    d->c->attrs[d->n_attrs++] = attr_float("beta2", 0.999);
    d->c->attrs[d->n_attrs++] = attr_float("epsilon", 1e-8);
  }
}

/* Elementwise operators; false for others. */
static bool draw_elementwise(Draw *d, OpKind op) {
  OpCase *c = d->c;
  switch (op) {
  case OP_Add:
  case OP_Sub:
  case OP_Mul:
  case OP_Div:
    c->types = TYPES_NUMBERS;
    draw_broadcast(d, 2, FILL_ANY);
    return true;
  case OP_Pow:
    draw_broadcast(d, 2, FILL_POSITIVE);
    return true;
  case OP_Max:
  case OP_Min:
    draw_broadcast(d, 2, FILL_DISTINCT);
    return true;
  case OP_Equal:
  case OP_LessOrEqual:
    draw_broadcast(d, 2, FILL_TIED);
    return true;
  case OP_Where:
    c->types = TYPES_ALL;
    draw_broadcast(d, 3, FILL_ANY);
    c->in[0].dtype = BOOL;
    return true;
#define UNARY(op_name, of, fill, x)                                                                                    \
  case OP_##op_name:                                                                                                   \
    c->types = TYPES_##of;                                                                                             \
    draw_same(d, 1, FILL_##fill);                                                                                      \
    return true;
#include "tests/ops/unary.def"
#undef UNARY
  case OP_LeakyRelu:
  case OP_Gelu:
  case OP_Swish:
  case OP_Clip:
    draw_same(d, 1, FILL_ANY);
    return true;
  case OP_TanhGrad:
  case OP_SigmoidGrad:
  case OP_ReluGrad:
  case OP_LeakyReluGrad:
  case OP_GeluGrad:
  case OP_SwishGrad:
  case OP_ClipGrad:
  case OP_SwiGLU:
    draw_same(d, 2, FILL_ANY);
    return true;
  case OP_SwiGLUGrad:
    draw_same(d, 3, FILL_ANY);
    output(d, c->out[0].shape);
    return true;
  default:
    return false;
  }
}

/* By the operator's name: another operator in the table changes no case. */
static uint64_t start_of(OpKind op) {
  uint64_t hash = 14695981039346656037U;
  for (const char *at = op_def(op)->name; *at; at++)
    hash = (hash ^ (unsigned char)*at) * 1099511628211U;
  return hash;
}

bool case_random(OpKind op, uint64_t seed, Arena *arena, OpCase *c) {
  Draw d = {.random = seed * 977 + start_of(op), .arena = arena, .c = c};
  *c = (OpCase){.op = op};
  if (draw_elementwise(&d, op))
    return true;
  switch (op) {
  case OP_Transpose:
    draw_transpose(&d);
    return true;
  case OP_Concat:
    draw_concat(&d);
    return true;
  case OP_Slice:
    draw_slice(&d);
    return true;
  case OP_Expand:
    draw_expand(&d);
    return true;
  case OP_Gather:
  case OP_GatherGrad:
    draw_gather(&d);
    return true;
  case OP_ReduceSum:
  case OP_ReduceMean:
  case OP_ReduceMax:
    draw_reduce(&d);
    return true;
  case OP_CumSum:
  case OP_Softmax:
  case OP_LogSoftmax:
    draw_along(&d, 1);
    return true;
  case OP_SoftmaxGrad:
  case OP_LogSoftmaxGrad:
    draw_along(&d, 2);
    return true;
  case OP_MatMul:
  case OP_Gemm:
  case OP_AccumulateMatMul:
    draw_product(&d);
    return true;
  case OP_ProductGelu:
  case OP_ProductGeluGrad:
  case OP_ProductAdd:
    draw_product_behind(&d);
    return true;
  case OP_LayerNormalization:
  case OP_LayerNormalizationGradInput:
  case OP_LayerNormalizationGradScale:
  case OP_RMSNormalization:
  case OP_RMSNormalizationGradInput:
  case OP_RMSNormalizationGradScale:
    draw_norm(&d);
    return true;
  case OP_Rotary:
    draw_rotary(&d);
    return true;
  case OP_ProductCrossEntropy:
    draw_head(&d);
    return true;
  case OP_CrossEntropy:
  case OP_CrossEntropyGrad:
    draw_cross_entropy(&d);
    return true;
  case OP_SgdUpdate:
    draw_update(&d, (int)between(&d, 0, 1));
    return true;
  case OP_AdamUpdate:
    draw_update(&d, 2);
    return true;
  case OP_SquaredNorm:
  case OP_Accumulate:
    draw_same(&d, op == OP_Accumulate ? 2 : 3, FILL_ANY);
    c->out[0].present = op == OP_SquaredNorm;
    c->out[0].shape.rank = 0;
    return true;
  default:
#define FAMILY(name)                                                                                                   \
  if (draw_##name(&d, op))                                                                                             \
    return true;
#include "tests/ops/families.def"
#undef FAMILY
    return false;
  }
}
