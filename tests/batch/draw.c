/* What a random model is made of: sizes in N, nodes as text and as bytes, numbers that come from N, inputs and
 * outputs. */
#include "tests/batch/draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ONNX_INT64 = 7, ONNX_BOOL = 9, ONNX_DOUBLE = 11 };

unsigned below(Draw *d, unsigned n) {
  d->seed = d->seed * 6364136223846793005ull + 1442695040888963407ull;
  return (unsigned)((d->seed >> 33) % n);
}

bool chance(Draw *d, unsigned percent) {
  return below(d, 100) < percent;
}

/* ---- sizes ---- */

Dim fixed_dim(int64_t c) {
  return (Dim){.c = c};
}

bool dim_equal(Dim a, Dim b) {
  return a.c == b.c && a.n == b.n && a.q == b.q && a.other == b.other;
}

bool dim_fixed(Dim a) {
  return !a.n && !a.q && !a.other;
}

bool dim_is_n(Dim a) {
  return dim_equal(a, (Dim){.n = 1});
}

bool dim_times(Dim a, Dim b, Dim *product) {
  if (a.other || b.other || (a.n && b.q) || (a.q && b.n) || (a.q && b.q))
    return false;
  *product = (Dim){a.c * b.c, a.c * b.n + a.n * b.c, a.c * b.q + a.n * b.n + a.q * b.c, 0};
  return true;
}

bool dim_over(Dim a, int64_t by, Dim *quotient) {
  if (a.other || a.c % by || a.n % by || a.q % by)
    return false;
  *quotient = (Dim){a.c / by, a.n / by, a.q / by, 0};
  return true;
}

int64_t dim_at(Dim a, int64_t n) {
  return a.c + a.n * n + a.q * n * n;
}

static int dim_text(Dim a, char *text, size_t room) {
  if (a.other)
    return snprintf(text, room, "?%d", a.other);
  if (dim_fixed(a))
    return snprintf(text, room, "%lld", (long long)a.c);
  int at = 0;
  if (a.q)
    at += snprintf(text, room, "%lldNN", (long long)a.q);
  if (a.n)
    at += snprintf(text + at, room - (size_t)at, a.n == 1 ? "%sN" : "%s%lldN", at ? "+" : "", (long long)a.n);
  if (a.c)
    at += snprintf(text + at, room - (size_t)at, "%+lld", (long long)a.c);
  return at;
}

/* ---- text and bytes ---- */

static void say(Draw *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(Draw *d, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int wrote = vsnprintf(d->text + d->n_text, (size_t)(MOST_TEXT - d->n_text), format, args);
  va_end(args);
  d->n_text = wrote > 0 && d->n_text + wrote < MOST_TEXT ? d->n_text + wrote : d->n_text;
}

const char *fresh(Draw *d, char letter) {
  assert_true(d->n_names < MOST_NAMES);
  char *name = d->names[d->n_names];
  snprintf(name, 16, "%c%d", letter, d->n_names++);
  return name;
}

bool is_reached(const Draw *d, const char *names) {
  for (const char *at = names; *at; at += strcspn(at, ","), at += *at == ',')
    if (at[1] >= '0' && at[1] <= '9' && d->reached[atoi(at + 1)])
      return true;
  return false;
}

/* What the nodes' inputs are, their outputs are. */
static void reach(Draw *d, const char *inputs, const char *outputs) {
  bool reached = is_reached(d, inputs);
  for (const char *at = outputs; *at; at += strcspn(at, ","), at += *at == ',')
    d->reached[atoi(at + 1)] = reached;
}

/* "axis:i=1": one attribute. */
static void put_attribute(Draw *d, Bytes *node, const char *text) {
  char name[32] = "", kind;
  const char *colon = strchr(text, ':'), *value = colon + 3;
  memcpy(name, text, (size_t)(colon - text));
  kind = colon[1];
  if (kind == 'i') {
    put_attribute_int(node, name, strtoll(value, NULL, 10));
  } else if (kind == 'f') {
    put_attribute_float(node, name, (float)strtod(value, NULL));
  } else if (kind == 's') {
    put_attribute_text(node, name, value);
  } else if (kind == 't') {
    double number = strtod(value, NULL);
    Bytes a = attribute(name, 4), t = tensor("", ONNX_DOUBLE, 1, (int64_t[]){1});
    put_bytes(&t, TENSOR_RAW_DATA, &number, sizeof number);
    put_message(&a, 5, t);
    put_message(node, 5, a);
  } else {
    int64_t ints[8];
    int n = 0;
    for (char *at = (char *)value; *at && n < 8; at += *at == ',')
      ints[n++] = strtoll(at, &at, 10);
    put_attribute_ints(node, name, n, ints);
  }
  (void)d;
}

const char *add_node_to(Draw *d, const char *op, const char *inputs, const char *outputs, const char *attributes) {
  char label[32], list[512];
  snprintf(label, sizeof label, "node%d", d->n_nodes++);
  Bytes n = node(label, op, inputs, outputs);
  snprintf(list, sizeof list, "%s", attributes);
  for (char *rest = list, *one; (one = strtok_r(rest, " ", &rest));)
    put_attribute(d, &n, one);
  put_message(&d->graph, 1, n);
  reach(d, inputs, outputs);
  say(d, "  %s = %s(%s)%s%s\n", outputs, op, inputs, *attributes ? " " : "", attributes);
  return outputs;
}

const char *add_node(Draw *d, const char *op, const char *inputs, const char *attributes) {
  return add_node_to(d, op, inputs, fresh(d, 't'), attributes);
}

/* One node in each branch: `yes` or `no` of `in`. */
void add_if(Draw *d, const char *condition, const char *in, const char *out, const char *yes, const char *no) {
  char label[32];
  snprintf(label, sizeof label, "node%d", d->n_nodes++);
  Bytes n = node(label, "If", condition, out);
  for (int k = 0; k < 2; k++) {
    Bytes branch = {0}, info = {0};
    const char *made = fresh(d, 'b');
    put_message(&branch, 1, node("", k ? no : yes, in, made));
    put_text(&branch, 2, k ? "no" : "yes");
    put_text(&info, 1, made);
    put_message(&branch, 12, info);
    put_attribute_graph(&n, k ? "else_branch" : "then_branch", branch);
  }
  put_message(&d->graph, 1, n);
  reach(d, in, out);
  say(d, "  %s = If(%s) %s(%s) else %s(%s)\n", out, condition, yes, in, no, in);
}

const char *add_ints(Draw *d, int n, const int64_t *values) {
  const char *name = fresh(d, 'i');
  Bytes t = tensor(name, ONNX_INT64, 1, (int64_t[]){n});
  put_bytes(&t, TENSOR_RAW_DATA, values, (size_t)n * sizeof *values);
  put_message(&d->graph, 5, t);
  say(d, "  %s = [", name);
  for (int i = 0; i < n; i++)
    say(d, "%s%lld", i ? "," : "", (long long)values[i]);
  say(d, "]\n");
  return name;
}

const char *add_int(Draw *d, int64_t value) {
  const char *name = fresh(d, 'i');
  Bytes t = tensor(name, ONNX_INT64, 0, NULL);
  put_bytes(&t, TENSOR_RAW_DATA, &value, sizeof value);
  put_message(&d->graph, 5, t);
  say(d, "  %s = %lld\n", name, (long long)value);
  return name;
}

const char *add_reals(Draw *d, bool trained, int rank, const int64_t *dims, double low, double high) {
  const char *name = fresh(d, trained ? 'p' : 'c');
  int64_t n = 1;
  d->reached[d->n_names - 1] = trained;
  ++*(trained ? &d->n_trained : &d->n_constants);
  for (int i = 0; i < rank; i++)
    n *= dims[i];
  double *values = calloc((size_t)n + 1, sizeof *values);
  for (int64_t i = 0; i < n; i++)
    values[i] = low + (high - low) * below(d, 1 << 20) / (1 << 20);
  Bytes t = tensor(name, ONNX_DOUBLE, rank, dims);
  put_bytes(&t, TENSOR_RAW_DATA, values, (size_t)n * sizeof *values);
  put_message(&d->graph, 5, t);
  say(d, "  %s = %s [", name, trained ? "trained" : "constant");
  for (int i = 0; i < rank; i++)
    say(d, "%s%lld", i ? "," : "", (long long)dims[i]);
  say(d, n == 1 ? "] %.4f\n" : "]\n", values[0]);
  free(values);
  return name;
}

const char *add_real(Draw *d, double value) {
  return add_reals(d, false, 0, NULL, value, value);
}

Drawn *add_value(Draw *d, const char *name, Kind kind, int rank, const Dim *dims) {
  if (d->n_values == MOST_VALUES || rank > MOST_AXES)
    return NULL;
  Drawn *v = &d->values[d->n_values++];
  *v = (Drawn){.kind = kind, .rank = rank};
  snprintf(v->name, sizeof v->name, "%s", name);
  say(d, "    # %s %s [", name, kind == REAL ? "real" : kind == INTEGER ? "integer" : "truth");
  for (int i = 0; i < rank; i++) {
    char text[64];
    v->dim[i] = dims[i];
    dim_text(dims[i], text, sizeof text);
    say(d, "%s%s", i ? "," : "", text);
  }
  say(d, "]\n");
  return v;
}

/* ---- numbers that come from N ---- */

/* A value and its axis of exactly N. */
static const Drawn *counted(Draw *d, int *axis) {
  int start = (int)below(d, (unsigned)d->n_values);
  for (int k = 0; k < d->n_values; k++) {
    const Drawn *v = &d->values[(start + k) % d->n_values];
    for (*axis = 0; *axis < v->rank; ++*axis)
      if (dim_is_n(v->dim[*axis]))
        return v;
  }
  return NULL;
}

/* N as a scalar, in one of the ways that exporters have. */
static const char *add_n(Draw *d) {
  int axis;
  char text[64];
  const Drawn *v = counted(d, &axis);
  if (!v)
    return NULL;
  if (d->opset >= 15 && chance(d, 40)) {
    snprintf(text, sizeof text, "start:i=%d end:i=%d", axis, axis + 1);
    const char *one = add_node(d, "Shape", v->name, text);
    if (d->opset < 13)
      return add_node(d, "Squeeze", one, "axes:I=0");
    snprintf(text, sizeof text, "%s,%s", one, add_ints(d, 1, (int64_t[]){0}));
    return add_node(d, "Squeeze", text, "");
  }
  if (v->rank == 1 && chance(d, 40))
    return add_node(d, "Size", v->name, "");
  const char *shape = add_node(d, "Shape", v->name, "");
  snprintf(text, sizeof text, "%s,%s", shape, add_int(d, axis));
  return add_node(d, "Gather", text, "axis:i=0");
}

/* a op b, of scalars. */
static const char *combine(Draw *d, const char *op, const char *a, const char *b) {
  char inputs[64];
  snprintf(inputs, sizeof inputs, "%s,%s", a, b);
  return add_node(d, op, inputs, "");
}

const char *add_number(Draw *d, Dim number) {
  if (number.other)
    return NULL;
  if (dim_fixed(number))
    return add_int(d, number.c);
  const char *n = add_n(d), *sum = NULL;
  if (!n)
    return NULL;
  if (number.q) {
    sum = combine(d, "Mul", n, n);
    sum = number.q == 1 ? sum : combine(d, "Mul", sum, add_int(d, number.q));
  }
  if (number.n) {
    const char *part = number.n == 1 ? n : combine(d, "Mul", n, add_int(d, number.n));
    sum = sum ? combine(d, "Add", sum, part) : part;
  }
  return number.c ? combine(d, "Add", sum, add_int(d, number.c)) : sum;
}

const char *add_shape(Draw *d, int n, const Dim *dims, bool open) {
  int64_t numbers[MOST_AXES];
  int growing = 0;
  for (int i = 0; i < n; i++)
    growing += !dim_fixed(dims[i]);
  for (int i = 0; i < n; i++)
    numbers[i] = dim_fixed(dims[i]) ? dims[i].c : d->fixed && !dims[i].other ? dim_at(dims[i], d->fixed) : -1;
  bool literal = growing == 0 || (open && growing == 1 && chance(d, 50));
  if (literal)
    return add_ints(d, n, numbers);
  for (int i = 0; i < n; i++)
    if (dims[i].other)
      return NULL;
  char parts[128] = "", inputs[64];
  for (int i = 0; i < n; i++) {
    const char *one;
    if (dim_fixed(dims[i]) || (open && growing == 1 && chance(d, 20))) {
      one = add_ints(d, 1, &numbers[i]);
      growing += growing == 1 && !dim_fixed(dims[i]); /* one -1 is enough */
    } else {
      const char *scalar = add_number(d, dims[i]);
      if (!scalar)
        return NULL;
      if (d->opset < 13) {
        one = add_node(d, "Unsqueeze", scalar, "axes:I=0");
      } else {
        snprintf(inputs, sizeof inputs, "%s,%s", scalar, add_ints(d, 1, (int64_t[]){0}));
        one = add_node(d, "Unsqueeze", inputs, "");
      }
    }
    snprintf(parts + strlen(parts), sizeof parts - strlen(parts), "%s%s", i ? "," : "", one);
  }
  return n ? add_node(d, "Concat", parts, "axis:i=0") : NULL;
}

/* ---- the graph's ends ---- */

static void add_input(Draw *d, const char *name, Kind kind, int rank, const int64_t *dims, int batch_axis) {
  DrawnInput *in = &d->inputs[d->n_inputs++];
  Dim sizes[MOST_AXES];
  *in = (DrawnInput){.kind = kind, .rank = rank, .batch_axis = batch_axis, .below = 3};
  snprintf(in->name, sizeof in->name, "%s", name);
  Bytes info = {0}, type = {0}, dense = {0}, shape = {0};
  for (int i = 0; i < rank; i++) {
    Bytes dim = {0};
    in->dim[i] = dims[i];
    sizes[i] = dims[i] < 0 ? (Dim){.n = 1} : fixed_dim(dims[i]);
    if (dims[i] < 0 && !d->fixed)
      put_text(&dim, 2, "N");
    else
      put_int(&dim, 1, dims[i] < 0 ? d->fixed : dims[i]);
    put_message(&shape, 1, dim);
  }
  put_int(&dense, 1, kind == REAL ? ONNX_DOUBLE : ONNX_INT64);
  put_message(&dense, 2, shape);
  put_message(&type, 1, dense);
  put_text(&info, 1, name);
  put_message(&info, 2, type);
  put_message(&d->graph, 11, info);
  say(d, "  input");
  add_value(d, name, kind, rank, sizes);
}

static void add_output(Draw *d, const Drawn *v) {
  Bytes info = {0}, type = {0}, dense = {0};
  snprintf(d->outputs[d->n_outputs++], sizeof d->outputs[0], "%s", v->name);
  put_int(&dense, 1, v->kind == REAL ? ONNX_DOUBLE : v->kind == INTEGER ? ONNX_INT64 : ONNX_BOOL);
  put_message(&type, 1, dense);
  put_text(&info, 1, v->name);
  put_message(&info, 2, type);
  put_message(&d->graph, 12, info);
  say(d, "  output %s\n", v->name);
}

static int64_t small(Draw *d) {
  return 1 + below(d, 5);
}

static void draw_inputs(Draw *d) {
  int64_t dims[MOST_AXES];
  int rank = 1 + (int)below(d, 4), axis = rank > 1 && chance(d, 12) ? 1 : 0;
  rank = rank == 1 && chance(d, 70) ? 2 : rank;
  for (int i = 0; i < rank; i++)
    dims[i] = i == axis ? -1 : small(d);
  add_input(d, "x", REAL, rank, dims, axis);
  if (axis == 0 && chance(d, 25)) {
    int integers = 1 + (int)below(d, 2);
    add_input(d, "ids", INTEGER, integers, (int64_t[]){-1, small(d)}, 0);
  }
  if (axis == 0 && chance(d, 15)) {
    int more = 1 + (int)below(d, 3);
    add_input(d, "z", REAL, more, (int64_t[]){-1, rank > 1 ? dims[1] : small(d), small(d)}, 0);
  }
  if (axis == 0 && chance(d, 10)) /* once, for all samples */
    add_input(d, "table", REAL, 2, (int64_t[]){3 + (int64_t)below(d, 3), small(d)}, -1);
}

/* Between v and the end a parameter, where none stands before it. */
static bool end_trained(Draw *d, Drawn *v) {
  int64_t one = 1;
  if (v->rank && dim_fixed(v->dim[v->rank - 1]))
    one = v->dim[v->rank - 1].c;
  const char *parameter = add_reals(d, true, v->rank > 0, &one, 0.5, 1.5);
  const Drawn *made =
      add_value(d, combine(d, chance(d, 70) ? "Mul" : "Add", v->name, parameter), REAL, v->rank, v->dim);
  *v = made ? *made : *v;
  return made;
}

/* The axis `at` in front. */
static bool end_turned(Draw *d, Drawn *v, int at) {
  char perm[64];
  int n = snprintf(perm, sizeof perm, "perm:I=%d", at);
  Dim dims[MOST_AXES] = {v->dim[at]};
  for (int i = 0, k = 1; i < v->rank; i++)
    if (i != at) {
      n += snprintf(perm + n, sizeof perm - (size_t)n, ",%d", i);
      dims[k++] = v->dim[i];
    }
  const Drawn *made = add_value(d, add_node(d, "Transpose", v->name, perm), REAL, v->rank, dims);
  *v = made ? *made : *v;
  return made;
}

/* One number: a loss with labels where there are some, or the mean, of the squares perhaps. */
static void end_scalar(Draw *d, Drawn *v) {
  const char *name = draw_loss(d, v);
  if (!name) {
    name = v->name;
    if (chance(d, 60))
      name = combine(d, "Mul", name, name);
    if (v->rank > 1 && chance(d, 15))
      name = add_node(d, "ReduceSum", name, "keepdims:i=1");
    name = add_node(d, "ReduceMean", name, chance(d, 80) ? "keepdims:i=0" : "keepdims:i=1");
  }
  v->rank = 0;
  snprintf(v->name, sizeof v->name, "%s", name);
}

/* The last real value, ended in a way that can be trained on: N first, or one number. */
static bool draw_ends(Draw *d) {
  int last = d->n_values - 1;
  while (last >= 0 && d->values[last].kind != REAL)
    last--;
  if (last < d->n_inputs)
    return false;
  Drawn v = d->values[last];
  int other = (int)below(d, (unsigned)d->n_values), at = -1;
  if (!is_reached(d, v.name) && chance(d, 90) && !end_trained(d, &v))
    return false;
  for (int i = 0; i < v.rank; i++)
    at = at < 0 && dim_is_n(v.dim[i]) ? i : at;
  if (v.rank && chance(d, at < 0 ? 60 : 25))
    end_scalar(d, &v);
  else if (at > 0 && chance(d, 70) && !end_turned(d, &v, at))
    return false;
  d->first = v;
  add_output(d, &v);
  if (chance(d, 30) && other >= d->n_inputs && strcmp(d->values[other].name, v.name) != 0)
    add_output(d, &d->values[other]);
  return true;
}

bool draw_model(Draw *d, uint64_t seed, int64_t fixed) {
  static const int opsets[] = {11, 13, 17, 18, 20, 23, 23};
  *d = (Draw){.seed = seed * 2654435761u + 12345, .fixed = fixed, .real = ONNX_DOUBLE};
  below(d, 2);
  d->calm = chance(d, 60);
  d->opset = opsets[below(d, sizeof opsets / sizeof *opsets)];
  draw_inputs(d);
  int nodes = 3 + (int)below(d, 10);
  if (chance(d, 60))
    draw_trained(d);
  for (int tries = 0; d->n_nodes < nodes && tries < 200; tries++)
    draw_step(d);
  if (!d->n_trained)
    draw_trained(d);
  return draw_ends(d);
}

Bytes draw_finish(Draw *d) {
  return model_of(10, d->opset, d->graph);
}
