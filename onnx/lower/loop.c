/* Loop, Scan and SequenceMap, unrolled: how often a body runs is known. Invariant: the nodes of run i are called
 * NODE/i/…; what bodies are lowered to in all is bounded (budget.c). */
#include <string.h>

#include "onnx/lower/bag.h"

/* What each run gives of some outputs: the parts of one, in order of the runs. */
typedef struct {
  Term **parts;
  size_t n, capacity;
} Parts;

static Status append(Op *op, Parts *list, Term *part) {
  TRY(ARENA_RESERVE(op->lower->arena, list->parts, list->n, list->capacity, list->n + 1));
  list->parts[list->n++] = part;
  return OK;
}

static Status run_once(Op *op, const Body *body, int64_t i, Term *const *in, Term **out) {
  return body_run(op, body, arena_format(op->lower->arena, "%s/%lld/", op->name, (long long)i), in, out);
}

/* What `unroll` lowers is one loop's. */
static Status as_one_loop(Op *op, Status (*unroll)(Op *op)) {
  int before = graph_unroll_begin(op->lower->graph);
  Status status = unroll(op);
  graph_unroll_end(op->lower->graph, before);
  return status;
}

/* Of no run: an output's shape as the body declares it, with nothing along the new axis. */
static Status nothing(Op *op, const Onnx__ValueInfoProto *info, int axis, Term **out) {
  const Onnx__TypeProto__Tensor *type =
      info->type && info->type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE ? info->type->tensor_type : NULL;
  size_t n = type && type->shape ? type->shape->n_dim : MAX_RANK;
  Shape shape = {.rank = (int)n + 1};
  for (size_t i = 0, to = 0; i < n && n < MAX_RANK; i++, to++) {
    const Onnx__TensorShapeProto__Dimension *dim = type->shape->dim[i];
    to += (int)i == axis;
    if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE && dim->dim_value >= 0)
      shape.dim[to] = dim->dim_value;
    else
      n = MAX_RANK;
  }
  DType dtype = n < MAX_RANK ? dtype_from_onnx(type->elem_type) : DTYPE_NONE;
  if (dtype == DTYPE_NONE || axis > (int)n)
    return fail(E_UNSUPPORTED, "the body never runs, and the shape of its output '%s' is not declared",
                proto_text(info->name));
  return term_make(op->lower, NULL, dtype, shape, "", out);
}

static Status stacked(Op *op, const Onnx__ValueInfoProto *info, const Parts *list, int axis, Term **out) {
  return list->n ? op_stack(op, list->parts, (int)list->n, axis, out) : nothing(op, info, axis, out);
}

/* ---- Loop ---- */

static Status goes_on(Op *op, Term *condition, int64_t runs, bool *goes) {
  double number;
  bool known = false;
  if (condition->kind == TERM_TENSOR)
    TRY(term_given(op->lower, condition, &known));
  if (!known)
    return fail(E_UNSUPPORTED, "its condition after %lld runs is not known before the model runs", (long long)runs);
  if (!term_number(condition, &number))
    return fail(E_MODEL, "its condition is %s %s", dtype_name(condition->dtype), SHAPE_STR(condition->shape));
  *goes = number != 0;
  return OK;
}

/* The trip count, and the condition before the first run. */
static Status loop_begins(Op *op, int64_t *trips, Term **condition, bool *goes) {
  uint8_t yes = 1;
  *trips = INT64_MAX;
  *goes = true;
  if (op_has(op, 0))
    TRY(op_known_int(op, 0, trips));
  if (!op_has(op, 1))
    return term_make(op->lower, NULL, BOOL, (Shape){0}, &yes, condition);
  *condition = op_in(op, 1);
  return goes_on(op, *condition, 0, goes);
}

/* in: number of the run, condition, what is carried; out: condition, what is carried, what is stacked. */
static Status unroll_loop(Op *op) {
  Body body;
  Parts *lists;
  Term **in, **out;
  int64_t trips;
  bool goes;
  size_t carried = op->proto->n_input > 2 ? op->proto->n_input - 2 : 0;
  TRY(body_open(op, "body", &body));
  size_t n_out = body.graph->n_output, stacks = n_out - 1 - carried;
  if (n_out < 1 + carried)
    return fail(E_MODEL, "the body has %zu outputs, and carries %zu", n_out, carried);
  TRY(body_counts(&body, 2 + carried, n_out));
  if ((size_t)op->n_out > carried + stacks)
    return fail(E_MODEL, "%d outputs, the body gives %zu", op->n_out, carried + stacks);
  TRY(ARENA_NEW(op->lower->arena, in, 2 + carried));
  TRY(ARENA_NEW(op->lower->arena, out, n_out));
  TRY(ARENA_NEW(op->lower->arena, lists, stacks));
  TRY(loop_begins(op, &trips, &in[1], &goes));
  if (goes && !carried && stacks == 1 && op->n_out == 1 && op_has(op, 0) && trips > 0) {
    TRY(bags_lower(op, &body, trips, in[1], &op->out[0]));
    if (op->out[0])
      return OK;
  }
  for (size_t i = 0; i < carried; i++)
    in[2 + i] = op_in(op, (int)i + 2);
  for (int64_t i = 0; i < trips && goes; i++) {
    TRY(term_make(op->lower, NULL, I64, (Shape){0}, &i, &in[0]));
    TRY(run_once(op, &body, i, in, out));
    if (body_unsupported(op, &body))
      return outputs_unknown(op);
    memcpy(in + 1, out, (1 + carried) * sizeof *in);
    for (size_t k = 0; k < stacks; k++)
      TRY(append(op, &lists[k], out[1 + carried + k]));
    TRY(goes_on(op, in[1], i + 1, &goes));
  }
  for (size_t i = 0; i < (size_t)op->n_out; i++)
    if (i < carried)
      op->out[i] = in[2 + i];
    else if (op_wants(op, (int)i))
      TRY(stacked(op, body.graph->output[1 + i], &lists[i - carried], 0, &op->out[i]));
  return OK;
}

/* ---- Scan ---- */

enum { MOST_RUNS = 1 << 20 };

/* One Scan: `states` of its values are carried, the others are cut along their axes. */
typedef struct {
  Body body;
  size_t states, cuts, stacks;
  int64_t runs;
  const int64_t *axes, *backwards, *out_axes, *out_backwards; /* NULL: zeros */
} Scan;

static int64_t entry(const int64_t *list, size_t i) {
  return list ? list[i] : 0;
}

static Status scan_list(const Op *op, const char *name, size_t wanted, const int64_t **list) {
  int n;
  op_ints(op, name, list, &n);
  return !*list || (size_t)n == wanted ? OK : fail(E_MODEL, "%s has %d entries, not %zu", name, n, wanted);
}

static Status scan_read(Op *op, size_t values, Scan *s) {
  int64_t cuts = op_int(op, "num_scan_inputs", 0);
  if (cuts < 1 || (uint64_t)cuts > values)
    return fail(E_MODEL, "num_scan_inputs is %lld of %zu inputs", (long long)cuts, values);
  *s = (Scan){.cuts = (size_t)cuts, .states = values - (size_t)cuts};
  TRY(body_open(op, "body", &s->body));
  size_t n_out = s->body.graph->n_output;
  s->stacks = n_out - s->states;
  if (n_out < s->states)
    return fail(E_MODEL, "the body has %zu outputs, and carries %zu", n_out, s->states);
  TRY(body_counts(&s->body, values, n_out));
  if ((size_t)op->n_out > n_out)
    return fail(E_MODEL, "%d outputs, the body gives %zu", op->n_out, n_out);
  TRY(scan_list(op, "scan_input_axes", s->cuts, &s->axes));
  TRY(scan_list(op, op->opset < 9 ? "directions" : "scan_input_directions", s->cuts, &s->backwards));
  TRY(scan_list(op, "scan_output_axes", s->stacks, &s->out_axes));
  return scan_list(op, "scan_output_directions", s->stacks, &s->out_backwards);
}

/* All parts of one along its axis, without the axis. */
static Status cut_up(Op *op, Scan *s, size_t i, Term *whole, Term **parts) {
  int axis = axis_normalize(entry(s->axes, i), whole->shape.rank);
  int64_t *ones;
  Shape part = whole->shape;
  if (axis < 0 || whole->shape.dim[axis] != s->runs)
    return fail(E_SHAPE, "axis %lld of %s, which others have %lld long", (long long)entry(s->axes, i),
                SHAPE_STR(whole->shape), (long long)s->runs);
  TRY(ARENA_NEW(op->lower->arena, ones, s->runs));
  for (int64_t k = 0; k < s->runs; k++)
    ones[k] = 1;
  if (s->runs)
    TRY(op_split(op, whole, axis, ones, (int)s->runs, parts));
  part.rank--;
  memmove(part.dim + axis, part.dim + axis + 1, (size_t)(part.rank - axis) * sizeof *part.dim);
  for (int64_t k = 0; k < s->runs; k++)
    TRY(op_reshape(op, parts[k], part, &parts[k]));
  return OK;
}

static Status scan_length(Scan *s, const Term *first) {
  int axis = first->kind == TERM_TENSOR ? axis_normalize(entry(s->axes, 0), first->shape.rank) : -1;
  if (axis < 0)
    return fail(E_SHAPE, "scan_input_axes[0] is %lld, the input %s", (long long)entry(s->axes, 0),
                SHAPE_STR(first->shape));
  s->runs = first->shape.dim[axis];
  return s->runs <= MOST_RUNS ? OK : fail(E_LIMIT, "%lld runs: at most %d", (long long)s->runs, MOST_RUNS);
}

/* values: states, then what is cut. `out`: states, then what is stacked. *known: nothing was found unsupported. */
static Status scan_run(Op *op, Scan *s, Term *const *values, Term **out, bool *known) {
  Term **in, **given, ***parts;
  Parts *lists;
  size_t n = s->states + s->cuts;
  *known = true;
  TRY(scan_length(s, values[s->states]));
  TRY(ARENA_NEW(op->lower->arena, in, n));
  TRY(ARENA_NEW(op->lower->arena, given, s->states + s->stacks));
  TRY(ARENA_NEW(op->lower->arena, parts, s->cuts));
  TRY(ARENA_NEW(op->lower->arena, lists, s->stacks));
  memcpy(in, values, s->states * sizeof *in);
  for (size_t i = 0; i < s->cuts; i++) {
    TRY(ARENA_NEW(op->lower->arena, parts[i], s->runs));
    TRY(cut_up(op, s, i, values[s->states + i], parts[i]));
  }
  for (int64_t k = 0; k < s->runs; k++) {
    for (size_t i = 0; i < s->cuts; i++)
      in[s->states + i] = parts[i][entry(s->backwards, i) ? s->runs - 1 - k : k];
    TRY(run_once(op, &s->body, k, in, given));
    *known = !body_unsupported(op, &s->body);
    if (!*known)
      return OK;
    memcpy(in, given, s->states * sizeof *in);
    for (size_t i = 0; i < s->stacks; i++)
      TRY(append(op, &lists[i], given[s->states + i]));
  }
  memcpy(out, in, s->states * sizeof *out);
  for (size_t i = 0; i < s->stacks; i++) {
    Parts *list = &lists[i];
    for (size_t a = 0, b = list->n; entry(s->out_backwards, i) && a + 1 < b; a++) {
      Term *t = list->parts[a];
      list->parts[a] = list->parts[--b];
      list->parts[b] = t;
    }
    int rank = list->n ? list->parts[0]->shape.rank + 1 : MAX_RANK, axis = axis_normalize(entry(s->out_axes, i), rank);
    if (axis < 0)
      return fail(E_SHAPE, "scan_output_axes[%zu] is %lld of %d", i, (long long)entry(s->out_axes, i), rank);
    TRY(stacked(op, s->body.graph->output[s->states + i], list, axis, &out[s->states + i]));
  }
  return OK;
}

static Status unroll_scan(Op *op) {
  Scan s;
  Term **out;
  bool known;
  TRY(scan_read(op, (size_t)op->n_in, &s));
  TRY(ARENA_NEW(op->lower->arena, out, s.states + s.stacks));
  TRY(scan_run(op, &s, op->in, out, &known));
  if (!known)
    return outputs_unknown(op);
  memcpy(op->out, out, (size_t)op->n_out * sizeof *out);
  return OK;
}

/* Opset 8: everything has an axis of samples in front, each of which is scanned by itself. */
static Status unroll_scans(Op *op) {
  Scan s;
  Term **values, **out;
  Parts *lists;
  bool known;
  size_t n = (size_t)(op->n_in > 0 ? op->n_in - 1 : 0);
  if (op_has(op, 0))
    return fail(E_UNSUPPORTED, "sequence_lens");
  TRY(scan_read(op, n, &s));
  int64_t samples = op->in[1]->shape.rank ? op->in[1]->shape.dim[0] : 0;
  TRY(ARENA_NEW(op->lower->arena, values, n));
  TRY(ARENA_NEW(op->lower->arena, out, s.states + s.stacks));
  TRY(ARENA_NEW(op->lower->arena, lists, s.states + s.stacks));
  for (int64_t b = 0; b < samples; b++) {
    for (size_t i = 0; i < n; i++) {
      Shape one = op->in[i + 1]->shape;
      if (op->in[i + 1]->kind != TERM_TENSOR || one.rank < 1 || one.dim[0] != samples)
        return fail(E_SHAPE, "'%s' is %s, not of %lld samples", op->proto->input[i + 1], SHAPE_STR(one),
                    (long long)samples);
      TRY(op_slice(op, op->in[i + 1], 0, b, b + 1, &values[i]));
      TRY(op_reshape(op, values[i], shape_of(one.rank - 1, one.dim + 1), &values[i]));
    }
    TRY(scan_run(op, &s, values, out, &known));
    if (!known)
      return outputs_unknown(op);
    for (size_t i = 0; i < s.states + s.stacks; i++)
      TRY(append(op, &lists[i], out[i]));
  }
  for (int i = 0; i < op->n_out; i++)
    TRY(stacked(op, s.body.graph->output[i], &lists[i], 0, &op->out[i]));
  return OK;
}

/* ---- SequenceMap ---- */

static Status unroll_map(Op *op) {
  Body body;
  Parts *lists;
  Term **in, **out;
  int n = op->in[0]->kind == TERM_SEQUENCE ? op->in[0]->n_parts : -1;
  TRY(body_open(op, "body", &body));
  TRY(body_counts(&body, (size_t)op->n_in, (size_t)op->n_out));
  TRY(ARENA_NEW(op->lower->arena, in, op->n_in));
  TRY(ARENA_NEW(op->lower->arena, out, op->n_out));
  TRY(ARENA_NEW(op->lower->arena, lists, op->n_out));
  if (n < 0)
    return fail(E_MODEL, "input '%s' is no sequence", op->proto->input[0]);
  for (int k = 0; k < n; k++) {
    for (int i = 0; i < op->n_in; i++) {
      bool parted = op->in[i]->kind == TERM_SEQUENCE;
      if (parted && op->in[i]->n_parts != n)
        return fail(E_MODEL, "sequences of %d and %d", n, op->in[i]->n_parts);
      in[i] = parted ? op->in[i]->parts[k] : op->in[i];
    }
    TRY(run_once(op, &body, k, in, out));
    if (body_unsupported(op, &body))
      return outputs_unknown(op);
    for (int i = 0; i < op->n_out; i++)
      TRY(append(op, &lists[i], out[i]));
  }
  for (int i = 0; i < op->n_out; i++) {
    TRY(ARENA_NEW(op->lower->arena, op->out[i], 1));
    *op->out[i] =
        (Term){.kind = TERM_SEQUENCE, .initializer = -1, .value = NO_VALUE, .parts = lists[i].parts, .n_parts = n};
  }
  return OK;
}

static Status loop(Op *op) {
  return as_one_loop(op, unroll_loop);
}

static Status scan(Op *op) {
  return as_one_loop(op, unroll_scan);
}

static Status scan_of_samples(Op *op) {
  return as_one_loop(op, unroll_scans);
}

static Status sequence_map(Op *op) {
  return as_one_loop(op, unroll_map);
}

const Lowering lowerings_loop[] = {
    {"Loop", 1, OPSET_LAST, 0, SOME, MANY, loop, "body:g!"},
    {"Scan", 8, 8, 0, SOME, MANY, scan_of_samples, "body:g! num_scan_inputs:i! directions:I"},
    {"Scan", 9, OPSET_LAST, 1, MANY, MANY, scan,
     "body:g! num_scan_inputs:i! scan_input_axes:I scan_input_directions:I scan_output_axes:I "
     "scan_output_directions:I"},
    {"SequenceMap", 17, OPSET_LAST, 1, MANY, MANY, sequence_map, "body:g!"},
    {0},
};
