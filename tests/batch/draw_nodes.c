/* One step of a random model: an operator, its operands and what it makes of their sizes. A step gives up where nothing
 * fits; what it added so far stays, unused. */
#include <stdio.h>
#include <string.h>

#include "tests/batch/draw.h"

typedef bool Step(Draw *d);

Drawn *pick(Draw *d, Kind kind, int least) {
  for (int tries = 0; tries < 12; tries++) {
    int reach = chance(d, 70) && d->n_values > 3 ? 3 : d->n_values;
    Drawn *v = &d->values[d->n_values - 1 - (int)below(d, (unsigned)reach)];
    if (v->kind == kind && v->rank >= least)
      return v;
  }
  return NULL;
}

static Drawn *pick_any(Draw *d, int least) {
  for (int tries = 0; tries < 12; tries++) {
    Drawn *v = pick(d, chance(d, 85) ? REAL : (Kind)below(d, 3), least);
    if (v)
      return v;
  }
  return NULL;
}

int pick_axis(Draw *d, const Drawn *v) {
  for (int tries = 0; tries < 12 && v->rank; tries++) {
    int axis = (int)below(d, (unsigned)v->rank);
    if (dim_fixed(v->dim[axis]) || (!d->calm && chance(d, 50)))
      return axis;
  }
  return -1;
}

/* The axis as a file may write it. */
static int written(Draw *d, int axis, int rank) {
  return chance(d, 30) ? axis - rank : axis;
}

const char *texts(const char *format, ...) {
  static char ring[8][512];
  static int turn;
  char *text = ring[turn++ % 8];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof ring[0], format, args);
  va_end(args);
  return text;
}

static bool broadcast(const Drawn *a, const Drawn *b, int *rank, Dim dims[MOST_AXES]) {
  *rank = a->rank > b->rank ? a->rank : b->rank;
  for (int i = 1; i <= *rank; i++) {
    Dim one = fixed_dim(1), x = i <= a->rank ? a->dim[a->rank - i] : one, y = i <= b->rank ? b->dim[b->rank - i] : one;
    if (!dim_equal(x, y) && !dim_equal(x, one) && !dim_equal(y, one))
      return false;
    dims[*rank - i] = dim_equal(x, one) ? y : x;
  }
  return true;
}

bool result(Draw *d, const char *name, Kind kind, int rank, const Dim *dims) {
  return name && add_value(d, name, kind, rank, dims);
}

bool like(Draw *d, const char *name, const Drawn *v) {
  return result(d, name, v->kind, v->rank, v->dim);
}

static Dim some_other(Draw *d) {
  return (Dim){.other = ++d->n_others};
}

/* A parameter, or a constant, that broadcasts to v: some of its last axes. */
static Drawn operand_for(Draw *d, const Drawn *v, double low, double high) {
  Drawn made = {.kind = REAL, .rank = (int)below(d, (unsigned)v->rank + 1)};
  int64_t dims[MOST_AXES];
  for (int i = 0; i < made.rank; i++) {
    Dim dim = v->dim[v->rank - made.rank + i];
    dims[i] = dim_fixed(dim) && chance(d, 80) ? dim.c : 1;
    made.dim[i] = fixed_dim(dims[i]);
  }
  const char *name = add_reals(d, made.rank > 0 && chance(d, 75), made.rank, dims, low, high);
  snprintf(made.name, sizeof made.name, "%s", name);
  return made;
}

/* ---- elementwise ---- */

static bool unary(Draw *d) {
  static const char *const ops[] = {
      "Neg",      "Abs",       "Tanh",       "Sigmoid", "Relu", "Sin",      "Cos",     "Erf",       "Exp",
      "Softplus", "LeakyRelu", "Elu",        "Celu",    "Selu", "Softsign", "Sign",    "HardSwish", "HardSigmoid",
      "Identity", "Mish",      "Reciprocal", "Sqrt",    "Log",  "Gelu",     "Dropout", "Clip",      "ThresholdedRelu"};
  const char *op = ops[below(d, sizeof ops / sizeof *ops)];
  const Drawn *v = pick(d, REAL, 0);
  if (!v || (strcmp(op, "Gelu") == 0 && d->opset < 20) || (strcmp(op, "HardSwish") == 0 && d->opset < 14) ||
      (strcmp(op, "Mish") == 0 && d->opset < 18) || (strcmp(op, "Celu") == 0 && d->opset < 12))
    return false;
  const char *name = v->name;
  if (strcmp(op, "Reciprocal") == 0 || strcmp(op, "Sqrt") == 0 || strcmp(op, "Log") == 0) /* away from their edge */
    name = add_node(d, "Add", texts("%s,%s", add_node(d, "Mul", texts("%s,%s", name, name), ""), add_real(d, 0.7)), "");
  if (strcmp(op, "Clip") == 0)
    return like(d, add_node(d, op, texts("%s,%s,%s", name, add_real(d, -0.6), add_real(d, 0.8)), ""), v);
  return like(d, add_node(d, op, name, ""), v);
}

static bool binary(Draw *d) {
  static const char *const ops[] = {"Add", "Sub", "Mul", "Mul", "Add", "Max", "Min", "Sum", "Mean", "Div", "PRelu"};
  const char *op = ops[below(d, sizeof ops / sizeof *ops)];
  const Drawn *a = pick(d, REAL, 0);
  Drawn b;
  Dim dims[MOST_AXES];
  int rank;
  bool divides = strcmp(op, "Div") == 0, prelu = strcmp(op, "PRelu") == 0;
  if (!a)
    return false;
  if (chance(d, 45) && !divides && !prelu) {
    const Drawn *other = NULL;
    for (int tries = 0; tries < 8 && !other; tries++) {
      other = pick(d, REAL, 0);
      if (other && (other == a ? !chance(d, 10) || strcmp(op, "Sub") == 0 : !broadcast(a, other, &rank, dims)))
        other = NULL;
    }
    if (!other)
      return false;
    b = *other;
  } else {
    b = operand_for(d, a, divides ? 0.5 : -1, 1);
  }
  if (!broadcast(a, &b, &rank, dims))
    return false;
  bool turned = !divides && !prelu && chance(d, 30);
  return result(d, add_node(d, op, texts("%s,%s", turned ? b.name : a->name, turned ? a->name : b.name), ""), REAL,
                rank, dims);
}

static bool compare(Draw *d) {
  static const char *const ops[] = {"Greater", "Less", "GreaterOrEqual", "LessOrEqual"};
  const Drawn *a = pick(d, REAL, 0);
  if (!a)
    return false;
  Drawn b = operand_for(d, a, -0.5, 0.5);
  if (!result(d, add_node(d, ops[below(d, d->opset < 12 ? 2 : 4)], texts("%s,%s", a->name, b.name), ""), TRUTH, a->rank,
              a->dim))
    return false;
  Drawn *truth = &d->values[d->n_values - 1];
  if (chance(d, 30)) {
    const Drawn *other = pick(d, TRUTH, 0);
    int rank;
    Dim dims[MOST_AXES];
    if (other && broadcast(truth, other, &rank, dims))
      return result(d,
                    add_node(d,
                             chance(d, 30)   ? "And"
                             : chance(d, 50) ? "Or"
                                             : "Xor",
                             texts("%s,%s", truth->name, other->name), ""),
                    TRUTH, rank, dims);
    return like(d, add_node(d, "Not", truth->name, ""), truth);
  }
  if (chance(d, 40))
    return result(d, add_node(d, "Cast", truth->name, texts("to:i=%d", d->real)), REAL, truth->rank, truth->dim);
  const Drawn *x = pick(d, REAL, 0);
  Drawn y, both = *truth;
  int rank;
  Dim dims[MOST_AXES];
  if (!x || !broadcast(truth, x, &rank, dims))
    return true;
  both.rank = rank;
  memcpy(both.dim, dims, sizeof dims);
  y = operand_for(d, &both, -1, 1);
  return result(d, add_node(d, "Where", texts("%s,%s,%s", truth->name, x->name, y.name), ""), REAL, rank, dims);
}

/* Integers as reals, compared, counted from the other end; reals as integers and back. */
static bool integers(Draw *d) {
  const Drawn *v = pick(d, INTEGER, 0);
  if (!v) {
    v = pick(d, REAL, 0);
    const char *whole = v ? add_node(d, "Cast", v->name, "to:i=7") : NULL;
    return v && like(d, add_node(d, "Cast", whole, texts("to:i=%d", d->real)), v);
  }
  switch (below(d, 4)) {
  case 0:
    return result(d, add_node(d, "Equal", texts("%s,%s", v->name, add_int(d, (int64_t)below(d, 3))), ""), TRUTH,
                  v->rank, v->dim);
  case 1:
    return like(d, add_node(d, "Sub", texts("%s,%s", add_int(d, 2), v->name), ""), v);
  default:
    return result(d, add_node(d, "Cast", v->name, texts("to:i=%d", d->real)), REAL, v->rank, v->dim);
  }
}

/* A power, or what is left of a division. */
static bool power(Draw *d) {
  const Drawn *v = pick(d, REAL, 0);
  if (!v)
    return false;
  if (d->opset >= 13 && chance(d, 30))
    return like(d, add_node(d, "Mod", texts("%s,%s", v->name, add_real(d, 0.7)), "fmod:i=1"), v);
  if (chance(d, 50))
    return like(d, add_node(d, "Pow", texts("%s,%s", v->name, add_real(d, 2)), ""), v);
  const char *base = add_node(d, "Add", texts("%s,%s", add_node(d, "Abs", v->name, ""), add_real(d, 0.5)), "");
  return like(d, add_node(d, "Pow", texts("%s,%s", base, operand_for(d, v, -1, 1.5).name), ""), v);
}

/* ---- movement ---- */

/* The target as a file may write it: copies, one open size, numbers that come from shapes. */
static bool reshape_to(Draw *d, const Drawn *v, int rank, const Dim *dims) {
  int64_t written[MOST_AXES];
  bool open = false, literal = true;
  for (int i = 0; i < rank; i++) {
    bool copies = i < v->rank && dim_equal(v->dim[i], dims[i]);
    if (copies && chance(d, 40))
      written[i] = 0;
    else if (!open && (!dim_fixed(dims[i]) || chance(d, 15)))
      written[i] = -1, open = true;
    else if (dim_fixed(dims[i]))
      written[i] = dims[i].c;
    else
      literal = false;
  }
  const char *shape = literal && chance(d, 75) ? add_ints(d, rank, written) : add_shape(d, rank, dims, true);
  return shape && result(d, add_node(d, "Reshape", texts("%s,%s", v->name, shape), ""), v->kind, rank, dims);
}

static bool reshape(Draw *d) {
  const Drawn *v = pick_any(d, 1);
  Dim dims[MOST_AXES], whole = fixed_dim(1);
  if (!v)
    return false;
  int at = (int)below(d, (unsigned)v->rank), rank = v->rank;
  memcpy(dims, v->dim, sizeof dims);
  switch (below(d, d->calm ? 3 : 4)) {
  case 0: /* two axes become one */
    if (at + 1 >= rank || !dim_times(dims[at], dims[at + 1], &dims[at]))
      return false;
    for (int i = at + 1; i + 1 < rank; i++)
      dims[i] = dims[i + 1];
    rank--;
    break;
  case 1: { /* one becomes two */
    int64_t by =
        dims[at].c > 1 && dim_fixed(dims[at]) ? 1 + (int64_t)below(d, (unsigned)dims[at].c) : 1 + (int64_t)below(d, 5);
    Dim rest;
    if (rank == MOST_AXES || !dim_over(dims[at], by, &rest))
      return false;
    for (int i = rank; i > at + 1; i--)
      dims[i] = dims[i - 1];
    bool first = dim_fixed(rest) ? chance(d, 50) : chance(d, 25);
    dims[at] = first ? fixed_dim(by) : rest;
    dims[at + 1] = first ? rest : fixed_dim(by);
    rank++;
    break;
  }
  case 2: /* what stands behind the first axis, otherwise */
    if (rank < 3 || !dim_fixed(dims[1]) || !dim_fixed(dims[2]))
      return false;
    dims[1] = v->dim[2];
    dims[2] = v->dim[1];
    break;
  default: /* anything */
    for (int i = 0; i < rank; i++)
      if (!dim_times(whole, dims[i], &whole))
        return false;
    if (chance(d, 50)) {
      dims[0] = whole;
      rank = 1;
    } else {
      for (int i = 0; i < rank; i++)
        dims[i] = v->dim[(i + 1) % rank];
    }
  }
  return reshape_to(d, v, rank, dims);
}

static bool transpose(Draw *d) {
  const Drawn *v = pick_any(d, 2);
  if (!v)
    return false;
  Dim dims[MOST_AXES];
  int perm[MOST_AXES];
  char text[64] = "perm:I=";
  for (int i = 0; i < v->rank; i++) {
    int j = (int)below(d, (unsigned)i + 1);
    perm[i] = perm[j];
    perm[j] = i;
  }
  for (int i = 0; i < v->rank; i++) {
    dims[i] = v->dim[perm[i]];
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", i ? "," : "", perm[i]);
  }
  return result(d, add_node(d, "Transpose", v->name, text), v->kind, v->rank, dims);
}

static bool flatten(Draw *d) {
  const Drawn *v = pick_any(d, 1);
  if (!v)
    return false;
  int axis = (int)below(d, (unsigned)v->rank + 1);
  axis = d->calm && chance(d, 60) ? 1 : axis;
  Dim sides[2] = {fixed_dim(1), fixed_dim(1)};
  for (int i = 0; i < v->rank; i++)
    if (!dim_times(sides[i >= axis], v->dim[i], &sides[i >= axis]))
      return false;
  return result(d, add_node(d, "Flatten", v->name, texts("axis:i=%d", axis)), v->kind, 2, sides);
}

/* Axes by attribute before opset 13. */
const char *with_axes(Draw *d, const char *op, const char *name, int n, const int64_t *axes) {
  char text[64] = "axes:I=";
  if (d->opset >= 13)
    return add_node(d, op, texts("%s,%s", name, add_ints(d, n, axes)), "");
  for (int i = 0; i < n; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", i ? "," : "", (long long)axes[i]);
  return add_node(d, op, name, text);
}

static bool squeeze(Draw *d) {
  const Drawn *v = pick_any(d, 0);
  Dim dims[MOST_AXES];
  if (!v)
    return false;
  for (int i = 0; i < v->rank; i++)
    if (dim_equal(v->dim[i], fixed_dim(1))) {
      for (int k = 0; k + 1 < v->rank; k++)
        dims[k] = v->dim[k + (k >= i)];
      return result(d, with_axes(d, "Squeeze", v->name, 1, (int64_t[]){written(d, i, v->rank)}), v->kind, v->rank - 1,
                    dims);
    }
  if (v->rank == MOST_AXES)
    return false;
  int at = (int)below(d, (unsigned)v->rank + 1);
  for (int k = 0; k <= v->rank; k++)
    dims[k] = k == at ? fixed_dim(1) : v->dim[k - (k > at)];
  return result(d, with_axes(d, "Unsqueeze", v->name, 1, (int64_t[]){written(d, at, v->rank + 1)}), v->kind,
                v->rank + 1, dims);
}

static bool slice(Draw *d) {
  const Drawn *v = pick_any(d, 1);
  int axis = v ? pick_axis(d, v) : -1;
  bool all = v && axis < 0;
  axis = all ? 0 : axis;
  if (!v || axis < 0)
    return false;
  Dim dims[MOST_AXES], dim = v->dim[axis];
  int64_t start = 0, end = INT64_MAX, step = 1, n = dim.c;
  const char *stop = NULL;
  memcpy(dims, v->dim, sizeof dims);
  if (all) { /* of an axis that grows */
    stop = chance(d, 50) ? add_number(d, dim) : NULL;
  } else if (dim_fixed(dim)) {
    start = (int64_t)below(d, (unsigned)n);
    end = start + 1 + (int64_t)below(d, (unsigned)(n - start));
    step = 1 + (int64_t)below(d, 2);
    dims[axis] = fixed_dim((end - start + step - 1) / step);
    if (chance(d, 30)) { /* from the end on */
      int64_t first = n - 1 - start;
      start = first, step = -step;
      end = first - (end - (n - 1 - first));
      end = end < 0 ? INT64_MIN + 1 : end;
    }
  } else {
    switch (below(d, 5)) {
    case 0:
      start = 1;
      dims[axis].c--;
      break;
    case 1:
      end = -1;
      dims[axis].c--;
      break;
    case 2:
      start = -1, end = INT64_MIN + 1, step = -1;
      break;
    case 3:
      step = 2;
      dims[axis] = some_other(d);
      break;
    default:
      end = 2;
      dims[axis] = some_other(d);
    }
  }
  if (d->opset < 10)
    return false;
  if (stop)
    stop = d->opset < 13 ? add_node(d, "Unsqueeze", stop, "axes:I=0")
                         : add_node(d, "Unsqueeze", texts("%s,%s", stop, add_ints(d, 1, (int64_t[]){0})), "");
  const char *starts = add_ints(d, 1, &start), *ends = stop ? stop : add_ints(d, 1, &end);
  const char *axes = add_ints(d, 1, (int64_t[]){written(d, axis, v->rank)}), *steps = add_ints(d, 1, &step);
  return result(d, add_node(d, "Slice", texts("%s,%s,%s,%s,%s", v->name, starts, ends, axes, steps), ""), v->kind,
                v->rank, dims);
}

static bool gather(Draw *d) {
  const Drawn *v = pick_any(d, 1);
  int axis = v ? pick_axis(d, v) : -1;
  Dim dims[MOST_AXES];
  int64_t at[3];
  if (axis < 0)
    return false;
  bool fixed = dim_fixed(v->dim[axis]);
  int64_t n = fixed ? v->dim[axis].c : 1;
  int count = (int)below(d, 4);
  for (int i = 0; i < 3; i++)
    at[i] = (int64_t)below(d, (unsigned)n) - (chance(d, 20) ? n : 0);
  if (count == 0) {
    for (int k = 0; k + 1 < v->rank; k++)
      dims[k] = v->dim[k + (k >= axis)];
    const char *index = add_int(d, at[0]);
    Dim last = v->dim[axis];
    last.c--;
    if (!fixed && chance(d, 30) && !(index = add_number(d, last)))
      return false;
    return result(d, add_node(d, "Gather", texts("%s,%s", v->name, index), texts("axis:i=%d", axis)), v->kind,
                  v->rank - 1, dims);
  }
  memcpy(dims, v->dim, sizeof dims);
  dims[axis] = fixed_dim(count);
  return result(d, add_node(d, "Gather", texts("%s,%s", v->name, add_ints(d, count, at)), texts("axis:i=%d", axis)),
                v->kind, v->rank, dims);
}

/* Rows of a table by the data's integers: trained, or an input. */
static bool lookup(Draw *d) {
  const Drawn *ids = pick(d, INTEGER, 0);
  Dim dims[MOST_AXES];
  if (!ids || ids->rank + 1 > MOST_AXES)
    return false;
  int64_t width = 1 + (int64_t)below(d, 4);
  const char *table = NULL;
  for (int i = 0; i < d->n_values && !table; i++)
    if (strcmp(d->values[i].name, "table") == 0 && chance(d, 60))
      table = "table", width = d->values[i].dim[1].c;
  table = table ? table : add_reals(d, true, 2, (int64_t[]){3 + (int64_t)below(d, 2), width}, -1, 1);
  memcpy(dims, ids->dim, sizeof dims);
  dims[ids->rank] = fixed_dim(width);
  if (chance(d, 25) && ids->rank >= 1 && d->opset >= 12) { /* the same, by address */
    const char *address = with_axes(d, "Unsqueeze", ids->name, 1, (int64_t[]){-1});
    return result(d, add_node(d, "GatherND", texts("%s,%s", table, address), ""), REAL, ids->rank + 1, dims);
  }
  return result(d, add_node(d, "Gather", texts("%s,%s", table, ids->name), "axis:i=0"), REAL, ids->rank + 1, dims);
}

/* One of each sample's elements, by its integer. */
static bool pick_elements(Draw *d) {
  const Drawn *ids = pick(d, INTEGER, 1), *v = pick(d, REAL, 2);
  Dim dims[MOST_AXES];
  if (!ids || !v || !dim_equal(ids->dim[0], v->dim[0]) || !dim_fixed(v->dim[1]) || v->dim[1].c < 3)
    return false;
  if (ids->rank == v->rank) {
    for (int i = 2; i < v->rank; i++)
      if (!dim_equal(ids->dim[i], v->dim[i]))
        return false;
    return result(d, add_node(d, "GatherElements", texts("%s,%s", v->name, ids->name), "axis:i=1"), REAL, ids->rank,
                  ids->dim);
  }
  if (ids->rank != 1 || d->opset < 12)
    return false;
  const char *address = with_axes(d, "Unsqueeze", ids->name, 1, (int64_t[]){-1});
  dims[0] = v->dim[0];
  for (int i = 2; i < v->rank; i++)
    dims[i - 1] = v->dim[i];
  return result(d, add_node(d, "GatherND", texts("%s,%s", v->name, address), "batch_dims:i=1"), REAL, v->rank - 1,
                dims);
}

static bool one_hot(Draw *d) {
  const Drawn *ids = pick(d, INTEGER, 0);
  Dim dims[MOST_AXES];
  if (!ids || ids->rank + 1 > MOST_AXES)
    return false;
  int axis = (int)below(d, (unsigned)ids->rank + 1);
  for (int i = 0; i <= ids->rank; i++)
    dims[i] = i == axis ? fixed_dim(4) : ids->dim[i - (i > axis)];
  const char *values = add_reals(d, false, 1, (int64_t[]){2}, -1, 1);
  return result(d, add_node(d, "OneHot", texts("%s,%s,%s", ids->name, add_int(d, 4), values), texts("axis:i=%d", axis)),
                REAL, ids->rank + 1, dims);
}

static bool concat(Draw *d) {
  const Drawn *v = pick_any(d, 1), *other = NULL;
  int axis = v ? pick_axis(d, v) : -1;
  Dim dims[MOST_AXES];
  if (axis < 0)
    return false;
  for (int i = 0; i < d->n_values && !other; i++) {
    const Drawn *o = &d->values[(i + (int)below(d, 3)) % d->n_values];
    bool fits = o->kind == v->kind && o->rank == v->rank;
    for (int k = 0; fits && k < v->rank; k++)
      fits = k == axis || dim_equal(o->dim[k], v->dim[k]);
    other = fits && !v->dim[axis].other && !o->dim[axis].other ? o : NULL;
  }
  memcpy(dims, v->dim, sizeof dims);
  if (v->kind == REAL && chance(d, 30)) { /* a parameter, as a class token is */
    int64_t one[MOST_AXES];
    Dim sizes[MOST_AXES];
    bool grows = false;
    for (int k = 0; k < v->rank; k++) {
      sizes[k] = k == axis ? fixed_dim(1) : v->dim[k];
      grows |= !dim_fixed(sizes[k]);
      one[k] = dim_fixed(sizes[k]) ? sizes[k].c : 1;
    }
    const char *row = add_reals(d, true, v->rank, one, -1, 1);
    if (grows) {
      const char *shape = add_shape(d, v->rank, sizes, false);
      row = shape ? add_node(d, "Expand", texts("%s,%s", row, shape), "") : NULL;
    }
    if (!row || v->dim[axis].other)
      return false;
    dims[axis].c++;
    return result(d,
                  add_node(d, "Concat", chance(d, 50) ? texts("%s,%s", row, v->name) : texts("%s,%s", v->name, row),
                           texts("axis:i=%d", written(d, axis, v->rank))),
                  REAL, v->rank, dims);
  }
  if (!other)
    return false;
  dims[axis] = (Dim){v->dim[axis].c + other->dim[axis].c, v->dim[axis].n + other->dim[axis].n,
                     v->dim[axis].q + other->dim[axis].q, 0};
  return result(
      d, add_node(d, "Concat", texts("%s,%s", v->name, other->name), texts("axis:i=%d", written(d, axis, v->rank))),
      v->kind, v->rank, dims);
}

static bool split(Draw *d) {
  const Drawn *v = pick_any(d, 1);
  int axis = v ? pick_axis(d, v) : -1;
  if (axis < 0 || !dim_fixed(v->dim[axis]) || v->dim[axis].c < 2)
    return false;
  Dim dims[MOST_AXES];
  int64_t n = v->dim[axis].c, sizes[2] = {1 + (int64_t)below(d, (unsigned)n - 1), 0};
  sizes[1] = n - sizes[0];
  memcpy(dims, v->dim, sizeof dims);
  char a[16], b[16];
  snprintf(a, sizeof a, "%s", fresh(d, 't'));
  snprintf(b, sizeof b, "%s", fresh(d, 't'));
  if (chance(d, 25)) { /* by way of a sequence */
    const char *all = add_node(d, "SplitToSequence", texts("%s,%s", v->name, add_int(d, 1)), texts("axis:i=%d", axis));
    if (chance(d, 40)) /* and one of it behind the others again */
      all = add_node(d, "SequenceInsert",
                     texts("%s,%s", all, add_node(d, "SequenceAt", texts("%s,%s", all, add_int(d, 0)), "")), ""),
      n++;
    if (chance(d, 40)) {
      dims[axis] = fixed_dim(n);
      return result(d, add_node(d, "ConcatFromSequence", all, texts("axis:i=%d", axis)), v->kind, v->rank, dims);
    }
    dims[axis] = fixed_dim(1);
    return result(d, add_node(d, "SequenceAt", texts("%s,%s", all, add_int(d, (int64_t)below(d, (unsigned)n))), ""),
                  v->kind, v->rank, dims);
  }
  if (d->opset >= 13)
    add_node_to(d, "Split", texts("%s,%s", v->name, add_ints(d, 2, sizes)), texts("%s,%s", a, b),
                texts("axis:i=%d", axis));
  else
    add_node_to(d, "Split", v->name, texts("%s,%s", a, b),
                texts("axis:i=%d split:I=%lld,%lld", axis, (long long)sizes[0], (long long)sizes[1]));
  dims[axis] = fixed_dim(sizes[0]);
  Kind kind = v->kind;
  int rank = v->rank;
  if (!result(d, a, kind, rank, dims))
    return false;
  dims[axis] = fixed_dim(sizes[1]);
  return result(d, b, kind, rank, dims);
}

/* A row for every sample: of a parameter, or of a value that has it for none. */
static bool expand(Draw *d) {
  const Drawn *like_this = pick(d, REAL, 1), *v = pick(d, REAL, 1);
  Dim dims[MOST_AXES];
  if (!like_this || !v)
    return false;
  memcpy(dims, like_this->dim, sizeof dims);
  int rank = like_this->rank;
  const char *shape = add_shape(d, rank, dims, false);
  if (!shape)
    return false;
  if (chance(d, 60)) {
    Drawn row = operand_for(d, like_this, -1, 1);
    return result(d, add_node(d, "Expand", texts("%s,%s", row.name, shape), ""), REAL, rank, dims);
  }
  Drawn target = {.rank = rank};
  int both;
  memcpy(target.dim, dims, sizeof dims);
  if (!broadcast(v, &target, &both, dims))
    return false;
  return result(d, add_node(d, "Expand", texts("%s,%s", v->name, shape), ""), REAL, both, dims);
}

static bool constant_of_shape(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  const char *shape;
  if (!v || !(shape = chance(d, 40) ? add_node(d, "Shape", v->name, "") : add_shape(d, v->rank, v->dim, false)))
    return false;
  return like(d, add_node(d, "ConstantOfShape", shape, "value:t=0.625"), v);
}

static bool tile(Draw *d) {
  const Drawn *v = pick_any(d, 1);
  if (!v)
    return false;
  int64_t repeats[MOST_AXES];
  Dim dims[MOST_AXES];
  int axis = (int)below(d, (unsigned)v->rank);
  axis = d->calm && !dim_fixed(v->dim[axis]) && chance(d, 60) ? v->rank - 1 : axis;
  for (int i = 0; i < v->rank; i++) {
    repeats[i] = i == axis ? 2 + (int64_t)below(d, 2) : 1;
    if (!dim_times(v->dim[i], fixed_dim(repeats[i]), &dims[i]))
      return false;
  }
  return result(d, add_node(d, "Tile", texts("%s,%s", v->name, add_ints(d, v->rank, repeats)), ""), v->kind, v->rank,
                dims);
}

static bool pad(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  int axis = v ? pick_axis(d, v) : -1;
  if (axis < 0 || d->opset < 11 || v->dim[axis].other)
    return false;
  int64_t pads[2 * MOST_AXES] = {0};
  Dim dims[MOST_AXES];
  memcpy(dims, v->dim, sizeof dims);
  pads[axis] = (int64_t)below(d, 2);
  pads[axis + v->rank] = 1;
  dims[axis].c += pads[axis] + 1;
  const char *amounts = add_ints(d, 2 * v->rank, pads);
  return result(
      d,
      add_node(d, "Pad",
               chance(d, 50) ? texts("%s,%s", v->name, amounts) : texts("%s,%s,%s", v->name, amounts, add_real(d, 0.5)),
               ""),
      REAL, v->rank, dims);
}

static bool cumsum(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  int axis = v ? pick_axis(d, v) : -1;
  return axis >= 0 && like(d,
                           add_node(d, "CumSum", texts("%s,%s", v->name, add_int(d, written(d, axis, v->rank))),
                                    texts("exclusive:i=%u reverse:i=%u", below(d, 2), below(d, 2))),
                           v);
}

static bool trilu(Draw *d) {
  const Drawn *v = pick(d, REAL, 2);
  if (!v || d->opset < 14)
    return false;
  for (int i = v->rank - 2; i < v->rank; i++)
    if (d->calm && !dim_fixed(v->dim[i]))
      return false;
  return like(d,
              add_node(d, "Trilu", texts("%s,%s", v->name, add_int(d, (int64_t)below(d, 3) - 1)),
                       texts("upper:i=%u", below(d, 2))),
              v);
}

static bool depth_to_space(Draw *d) {
  const Drawn *v = pick(d, REAL, 4);
  Dim c, h, w;
  if (!v || v->rank != 4)
    return false;
  if (dim_over(v->dim[1], 4, &c) && dim_times(v->dim[2], fixed_dim(2), &h) && dim_times(v->dim[3], fixed_dim(2), &w))
    return result(d, add_node(d, "DepthToSpace", v->name, chance(d, 50) ? "blocksize:i=2 mode:s=CRD" : "blocksize:i=2"),
                  REAL, 4, (Dim[]){v->dim[0], c, h, w});
  if (dim_over(v->dim[2], 2, &h) && dim_over(v->dim[3], 2, &w) && dim_times(v->dim[1], fixed_dim(4), &c))
    return result(d, add_node(d, "SpaceToDepth", v->name, "blocksize:i=2"), REAL, 4, (Dim[]){v->dim[0], c, h, w});
  return false;
}

/* ---- reductions, softmax, norms ---- */

static bool reduce(Draw *d) {
  static const char *const ops[] = {"ReduceSum", "ReduceMean", "ReduceMean",   "ReduceMax",       "ReduceMin",
                                    "ReduceL1",  "ReduceL2",   "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"};
  const char *op = ops[below(d, sizeof ops / sizeof *ops)], *name;
  const Drawn *v = pick(d, REAL, 1);
  Dim dims[MOST_AXES];
  bool gone[MOST_AXES] = {false}, keep = chance(d, 50);
  int64_t axes[MOST_AXES];
  char text[96] = "axes:I=";
  int n = 0, rank = 0;
  for (int k = 0; v && k < 2; k++) {
    int axis = k == 0 || chance(d, 30) ? pick_axis(d, v) : -1;
    if (axis >= 0 && !gone[axis])
      axes[n++] = written(d, axis, v->rank), gone[axis] = true;
  }
  if (n == 0)
    return false;
  for (int i = 0; i < v->rank; i++)
    if (!gone[i] || keep)
      dims[rank++] = gone[i] ? fixed_dim(1) : v->dim[i];
  for (int i = 0; i < n; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", i ? "," : "", (long long)axes[i]);
  snprintf(text + strlen(text), sizeof text - strlen(text), " keepdims:i=%d", keep);
  name = v->name;
  if (strcmp(op, "ReduceLogSum") == 0 || strcmp(op, "ReduceL2") == 0)
    name = add_node(d, "Exp", add_node(d, "Tanh", name, ""), "");
  if (d->opset >= (strcmp(op, "ReduceSum") == 0 ? 13 : 18))
    name = add_node(d, op, texts("%s,%s", name, add_ints(d, n, axes)), texts("keepdims:i=%d", keep));
  else
    name = add_node(d, op, name, text);
  return result(d, name, REAL, rank, dims);
}

static bool softmax(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  int axis = v ? pick_axis(d, v) : -1;
  if (axis < 0)
    return false;
  if (d->opset < 13 && d->calm) /* over all from there on */
    axis = v->rank - 1;
  if ((d->opset < 13 && d->calm && !dim_fixed(v->dim[axis])) || dim_equal(v->dim[axis], fixed_dim(1)))
    return false;
  return like(
      d, add_node(d, chance(d, 70) ? "Softmax" : "LogSoftmax", v->name, texts("axis:i=%d", written(d, axis, v->rank))),
      v);
}

static bool norm(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  if (!v || d->opset < 17)
    return false;
  int axis = v->rank - 1;
  if (v->rank > 1 && chance(d, 40))
    axis = (int)below(d, (unsigned)v->rank);
  int64_t dims[MOST_AXES], elements = 1;
  int n = v->rank - axis;
  for (int i = 0; i < n; i++) {
    Dim dim = v->dim[axis + i];
    if (d->calm && !dim_fixed(dim))
      return false;
    dims[i] = dim_fixed(dim) ? dim.c : 1;
    elements *= dim_fixed(dim) ? dim.c : 2;
  }
  if (elements == 1) /* a number normalised alone is none any more */
    return false;
  const char *scale = add_reals(d, true, n, dims, 0.5, 1.5);
  if (d->opset >= 23 && chance(d, 40))
    return like(d, add_node(d, "RMSNormalization", texts("%s,%s", v->name, scale), texts("axis:i=%d", axis)), v);
  const char *inputs = texts("%s,%s", v->name, scale);
  if (chance(d, 60))
    inputs = texts("%s,%s,%s", v->name, scale, add_reals(d, true, n, dims, -0.5, 0.5));
  return like(d, add_node(d, "LayerNormalization", inputs, texts("axis:i=%d epsilon:f=0.01", axis)), v);
}

/* ---- products ---- */

static bool linear(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  if (!v || !dim_fixed(v->dim[v->rank - 1]))
    return false;
  Dim dims[MOST_AXES];
  int64_t k = v->dim[v->rank - 1].c, m = 1 + (int64_t)below(d, 5);
  memcpy(dims, v->dim, sizeof dims);
  dims[v->rank - 1] = fixed_dim(m);
  if (v->rank == 2 && chance(d, 50)) {
    bool turned = chance(d, 50);
    const char *w = add_reals(d, true, 2, (int64_t[]){turned ? m : k, turned ? k : m}, -1, 1);
    const char *b = add_reals(d, true, 1, &m, -1, 1);
    return result(d,
                  add_node(d, "Gemm", texts("%s,%s,%s", v->name, w, b),
                           texts("transB:i=%d alpha:f=%s", turned, chance(d, 70) ? "1" : "0.5")),
                  REAL, 2, dims);
  }
  return result(d, add_node(d, "MatMul", texts("%s,%s", v->name, add_reals(d, true, 2, (int64_t[]){k, m}, -1, 1)), ""),
                REAL, v->rank, dims);
}

/* A parameter's product with the last axis but one. */
static bool mix_rows(Draw *d) {
  const Drawn *v = pick(d, REAL, 2);
  if (!v || !dim_fixed(v->dim[v->rank - 2]))
    return false;
  Dim dims[MOST_AXES];
  int64_t m = 1 + (int64_t)below(d, 4);
  memcpy(dims, v->dim, sizeof dims);
  const char *w = add_reals(d, true, 2, (int64_t[]){m, dims[v->rank - 2].c}, -1, 1);
  dims[v->rank - 2] = fixed_dim(m);
  return result(d, add_node(d, "MatMul", texts("%s,%s", w, v->name), ""), REAL, v->rank, dims);
}

/* x·xᵀ or xᵀ·x of the last two axes. */
static bool with_itself(Draw *d) {
  const Drawn *v = pick(d, REAL, 2);
  if (!v || (d->calm && (!dim_fixed(v->dim[v->rank - 1]) || !dim_fixed(v->dim[v->rank - 2]))))
    return false;
  bool left = chance(d, 50);
  int r = v->rank;
  Dim dims[MOST_AXES];
  memcpy(dims, v->dim, sizeof dims);
  dims[r - 1] = dims[r - 2] = v->dim[left ? r - 2 : r - 1];
  if (r == 2 && chance(d, 30))
    return result(d, add_node(d, "Gemm", texts("%s,%s", v->name, v->name), left ? "transB:i=1" : "transA:i=1"), REAL, 2,
                  dims);
  char perm[64] = "perm:I=";
  for (int i = 0; i < r; i++)
    snprintf(perm + strlen(perm), sizeof perm - strlen(perm), "%s%d", i ? "," : "",
             i == r - 1   ? r - 2
             : i == r - 2 ? r - 1
                          : i);
  const char *turned = add_node(d, "Transpose", v->name, perm);
  return result(d, add_node(d, "MatMul", left ? texts("%s,%s", v->name, turned) : texts("%s,%s", turned, v->name), ""),
                REAL, r, dims);
}

static bool matmul(Draw *d) {
  const Drawn *a = pick(d, REAL, 1), *b = pick(d, REAL, 1);
  if (!a || !b || a->rank < 2 || b->rank < 2 || !dim_equal(a->dim[a->rank - 1], b->dim[b->rank - 2]))
    return false;
  if (d->calm && !dim_fixed(a->dim[a->rank - 1]))
    return false;
  Drawn x = *a, y = *b;
  Dim dims[MOST_AXES];
  int rank;
  x.rank -= 2, y.rank -= 2;
  if (!broadcast(&x, &y, &rank, dims))
    return false;
  dims[rank++] = a->dim[a->rank - 2];
  dims[rank++] = b->dim[b->rank - 1];
  return result(d, add_node(d, "MatMul", texts("%s,%s", a->name, b->name), ""), REAL, rank, dims);
}

static bool einsum(Draw *d) {
  const Drawn *v = pick(d, REAL, 2);
  if (!v || d->opset < 12)
    return false;
  Dim last = v->dim[v->rank - 1], dims[MOST_AXES];
  memcpy(dims, v->dim, sizeof dims);
  if (dim_fixed(last) && chance(d, 50)) {
    int64_t m = 1 + (int64_t)below(d, 4);
    const char *w = add_reals(d, true, 2, (int64_t[]){m, last.c}, -1, 1);
    if (chance(d, 30)) { /* a new axis in front */
      for (int i = v->rank - 1; i > 0; i--)
        dims[i] = dims[i - 1];
      dims[0] = fixed_dim(m);
      return result(d, add_node(d, "Einsum", texts("%s,%s", v->name, w), "equation:s=...k,mk->m..."), REAL, v->rank,
                    dims);
    }
    dims[v->rank - 1] = fixed_dim(m);
    return result(d, add_node(d, "Einsum", texts("%s,%s", v->name, w), "equation:s=...k,mk->...m"), REAL, v->rank,
                  dims);
  }
  if (v->rank == 2) {
    if (dim_fixed(last) && chance(d, 50))
      return result(d, add_node(d, "Einsum", texts("%s,%s", v->name, v->name), "equation:s=nd,nd->n"), REAL, 1, dims);
    if (!d->calm && chance(d, 50))
      return result(d, add_node(d, "Einsum", texts("%s,%s", v->name, v->name), "equation:s=nd,md->nm"), REAL, 2,
                    (Dim[]){dims[0], dims[0]});
    if (!d->calm)
      return result(d, add_node(d, "Einsum", v->name, "equation:s=nd->d"), REAL, 1, &dims[1]);
    return result(d, add_node(d, "Einsum", v->name, "equation:s=nd->dn"), REAL, 2, (Dim[]){dims[1], dims[0]});
  }
  if (v->rank == 3)
    return d->calm && !dim_fixed(dims[2])
               ? false
               : result(d, add_node(d, "Einsum", texts("%s,%s", v->name, v->name), "equation:s=bik,bjk->ijb"), REAL, 3,
                        (Dim[]){dims[1], dims[1], dims[0]});
  return false;
}

static bool attention(Draw *d) {
  const Drawn *v = pick(d, REAL, 3);
  if (!v || v->rank != 3 || (d->calm && !dim_fixed(v->dim[1])))
    return false;
  if (d->opset >= 23 && dim_fixed(v->dim[2]) && chance(d, 50)) {
    int heads = v->dim[2].c % 2 == 0 && chance(d, 50) ? 2 : 1;
    return like(d,
                add_node(d, "Attention", texts("%s,%s,%s", v->name, v->name, v->name),
                         texts("q_num_heads:i=%d kv_num_heads:i=%d is_causal:i=%u", heads, heads, below(d, 2))),
                v);
  }
  const char *keys = add_node(d, "Transpose", v->name, "perm:I=0,2,1");
  const char *scores = add_node(d, "MatMul", texts("%s,%s", v->name, keys), "");
  const char *weights = add_node(d, "Softmax", scores, "axis:i=2");
  return like(d, add_node(d, "MatMul", texts("%s,%s", weights, v->name), ""), v);
}

/* ---- numbers from the number of samples ---- */

static const char *real_n(Draw *d) {
  const char *n = add_number(d, (Dim){.n = 1});
  return n ? add_node(d, "Cast", n, texts("to:i=%d", d->real)) : NULL;
}

/* 0 … N-1, or a sample's distance from the last. */
static bool positions(Draw *d) {
  const char *n = d->calm ? NULL : add_number(d, (Dim){.n = 1});
  if (!n)
    return false;
  const char *range = add_node(d, "Range", texts("%s,%s,%s", add_int(d, 0), n, add_int(d, 1)), "");
  return result(d, add_node(d, "Cast", range, texts("to:i=%d", d->real)), REAL, 1, (Dim[]){{.n = 1}});
}

static bool by_count(Draw *d) {
  const Drawn *v = pick(d, REAL, 0);
  if (!v || (d->calm && chance(d, 80)))
    return false;
  if (chance(d, 30)) { /* more than so many samples, or not */
    const char *n = add_number(d, (Dim){.n = 1});
    if (!n)
      return false;
    const char *many = add_node(d, "Greater", texts("%s,%s", n, add_int(d, 1 + (int64_t)below(d, 12))), "");
    if (chance(d, 40)) {
      const char *out = fresh(d, 't');
      add_if(d, many, v->name, out, "Tanh", "Identity");
      return like(d, out, v);
    }
    return like(d, add_node(d, "Where", texts("%s,%s,%s", many, v->name, add_node(d, "Neg", v->name, "")), ""), v);
  }
  const char *n = real_n(d);
  static const char *const ops[] = {"Div", "Mul", "Sub", "Div"};
  return n && like(d, add_node(d, ops[below(d, 4)], texts("%s,%s", v->name, n), ""), v);
}

/* A mean over the samples written by hand. */
static bool mean_by_hand(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  if (!v || d->calm || !dim_is_n(v->dim[0]))
    return false;
  const char *sum =
      d->opset >= 13 ? add_node(d, "ReduceSum", texts("%s,%s", v->name, add_ints(d, 1, (int64_t[]){0})), "keepdims:i=1")
                     : add_node(d, "ReduceSum", v->name, "axes:I=0 keepdims:i=1");
  const char *n = real_n(d);
  Dim dims[MOST_AXES];
  memcpy(dims, v->dim, sizeof dims);
  dims[0] = fixed_dim(1);
  return n && result(d, add_node(d, "Div", texts("%s,%s", sum, n), ""), REAL, v->rank, dims);
}

static bool eye_like(Draw *d) {
  const Drawn *v = pick(d, REAL, 2);
  return v && v->rank == 2 && !d->calm && like(d, add_node(d, "EyeLike", v->name, texts("dtype:i=%d", d->real)), v);
}

bool draw_step(Draw *d) {
  static const struct {
    Step *step;
    unsigned weight;
  } steps[] = {{unary, 10},    {binary, 14},           {compare, 5},        {integers, 3},     {reshape, 9},
               {transpose, 7}, {flatten, 3},           {squeeze, 5},        {slice, 5},        {gather, 4},
               {lookup, 6},    {pick_elements, 4},     {one_hot, 2},        {concat, 5},       {split, 3},
               {expand, 4},    {constant_of_shape, 2}, {tile, 3},           {pad, 2},          {cumsum, 3},
               {trilu, 2},     {depth_to_space, 3},    {reduce, 8},         {softmax, 4},      {norm, 4},
               {linear, 12},   {mix_rows, 3},          {with_itself, 3},    {matmul, 5},       {einsum, 4},
               {attention, 3}, {positions, 2},         {by_count, 3},       {mean_by_hand, 2}, {eye_like, 1},
               {power, 3},     {draw_by_index, 5},     {draw_convolved, 5}, {draw_norm, 2}};
  unsigned all = 0;
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
    all += steps[i].weight;
  unsigned at = below(d, all);
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    if (at < steps[i].weight)
      return d->n_values + 3 < MOST_VALUES && steps[i].step(d);
    at -= steps[i].weight;
  }
  return false;
}

bool draw_trained(Draw *d) {
  Step *const steps[] = {linear, linear, binary, mix_rows, einsum, norm, draw_convolved};
  for (int tries = 0; tries < 20 && !d->n_trained; tries++)
    steps[below(d, sizeof steps / sizeof *steps)](d);
  return d->n_trained > 0;
}

const char *draw_loss(Draw *d, const Drawn *v) {
  static const char *const reductions[] = {"mean", "mean", "sum"};
  if (v->rank < 2 || d->opset < 12 || !dim_fixed(v->dim[1]) || v->dim[1].c < 3)
    return NULL;
  for (int i = 0; i < d->n_values; i++) {
    const Drawn *labels = &d->values[i];
    bool fits = labels->kind == INTEGER && labels->rank == v->rank - 1;
    for (int k = 0; fits && k < labels->rank; k++)
      fits = dim_equal(labels->dim[k], v->dim[k + (k > 0)]);
    if (!fits)
      continue;
    const char *attributes =
        texts("reduction:s=%s%s", reductions[below(d, 3)], chance(d, 50) ? " ignore_index:i=1" : "");
    if (chance(d, 70))
      return add_node(d, "SoftmaxCrossEntropyLoss", texts("%s,%s", v->name, labels->name), attributes);
    return add_node(d, "NegativeLogLikelihoodLoss",
                    texts("%s,%s", add_node(d, "LogSoftmax", v->name, "axis:i=1"), labels->name), attributes);
  }
  return NULL;
}
