/* A Loop over bags, as PyTorch's exporter writes an EmbeddingBag: run i takes rows starts[i] … ends[i]-1 of some
 * tensors, works on each row by itself and reduces them. The rows of all bags are worked on at once, and reduced bag by
 * bag. Invariant: ends are the starts moved by one, so that bags lie one behind the other. */
#include "onnx/lower/bag.h"

#include <string.h>

typedef enum { VALUE_OTHER, VALUE_BOUND, VALUE_ROWS } ValueKind;

/* What a name of the body stands for: the bound of a bag (the tensor that run i reads an element of), or rows. */
typedef struct {
  const char *name;
  ValueKind kind;
  Term *bounds;
} BodyValue;

typedef struct {
  Op *op;
  const Onnx__GraphProto *graph;
  Scope scope;
  Frame frame;
  BodyValue *values;
  size_t n, capacity;
  Term *starts, *result;
} Bags;

static const BodyValue *find(const Bags *b, const char *name) {
  static const BodyValue other = {0};
  for (size_t i = 0; i < b->n; i++)
    if (strcmp(b->values[i].name, name) == 0)
      return &b->values[i];
  return &other;
}

static bool is_op(const Onnx__NodeProto *node, const char *name) {
  return strcmp(proto_text(node->op_type), name) == 0 && !*proto_domain(node->domain);
}

static const Onnx__AttributeProto *attribute(const Onnx__NodeProto *node, const char *name) {
  for (size_t i = 0; i < node->n_attribute; i++)
    if (strcmp(proto_text(node->attribute[i]->name), name) == 0)
      return node->attribute[i];
  return NULL;
}

static int64_t attribute_int(const Onnx__NodeProto *node, const char *name, int64_t absent) {
  const Onnx__AttributeProto *a = attribute(node, name);
  return a ? a->i : absent;
}

/* The one integer of an attribute or of a known input. */
static Status one_integer(const Bags *b, const Onnx__NodeProto *node, const char *name, size_t input, int64_t *number,
                          bool *found) {
  const Onnx__AttributeProto *a = attribute(node, name);
  *found = a && a->n_ints == 1;
  if (*found)
    *number = a->ints[0];
  Term *term = !a && input < node->n_input ? scope_find(&b->scope, node->input[input]) : NULL;
  double given;
  bool known = false;
  if (term && term->kind == TERM_TENSOR)
    TRY(term_known(b->op->lower, term, &known));
  if (known && term_number(term, &given)) {
    *number = (int64_t)given;
    *found = true;
  }
  return OK;
}

static Status put(Bags *b, const char *name, ValueKind kind, Term *bounds) {
  Arena *arena = b->op->lower->arena;
  TRY(ARENA_RESERVE(arena, b->values, b->n, b->capacity, b->n + 1));
  b->values[b->n++] = (BodyValue){name, kind, bounds};
  return OK;
}

/* The node as it stands, on the rows of all bags. */
static Status lower_node(Bags *b, size_t i) {
  return lower_body(b->op->lower, &b->scope, &b->frame, &b->graph->node[i], 1);
}

/* Gather(bounds, run) and what only changes its shape. */
static Status bound(Bags *b, const Onnx__NodeProto *node, bool *fits) {
  Term *bounds = is_op(node, "Gather") ? scope_find(&b->scope, node->input[0]) : find(b, node->input[0])->bounds;
  *fits = find(b, node->input[0])->kind != VALUE_ROWS && bounds && bounds->kind == TERM_TENSOR &&
          bounds->shape.rank == 1 && attribute_int(node, "axis", 0) == 0;
  return *fits ? put(b, node->output[0], VALUE_BOUND, bounds) : OK;
}

/* Whether `ends` are `starts` from the second on. */
static Status follow(const Bags *b, Term *starts, Term *ends, bool *follows) {
  const Graph *g = b->op->lower->graph;
  const Value *v = ends->value == NO_VALUE ? NULL : graph_value(g, ends->value);
  const Node *n = v && v->producer != NO_NODE ? graph_node(g, v->producer) : NULL;
  int count;
  *follows = n && n->op == OP_Slice && n->in[0] == starts->value && ends->shape.dim[0] == starts->shape.dim[0] - 1 &&
             node_ints(n, "starts", &count)[0] == 1 && node_ints(n, "steps", &count)[0] == 1;
  if (*follows || ends->shape.dim[0] != starts->shape.dim[0] - 1)
    return OK;
  bool known, other;
  const int64_t *from, *to;
  TRY(term_known(b->op->lower, starts, &known));
  TRY(term_known(b->op->lower, ends, &other));
  if (!known || !other)
    return OK;
  TRY(term_ints(b->op->lower, starts, &from, &count));
  TRY(term_ints(b->op->lower, ends, &to, &count));
  *follows = memcmp(from + 1, to, (size_t)count * sizeof *to) == 0;
  return OK;
}

/* Slice(tensor, start, end) along the first axis: the whole tensor stands for it. */
static Status rows(Bags *b, const Onnx__NodeProto *node, bool *fits) {
  Term *whole = scope_find(&b->scope, node->input[0]), *starts, *ends;
  int64_t axis = 0, step = 1;
  bool has_axis = false, has_step = true;
  *fits = false;
  if (node->n_input < 4 || !whole || whole->kind != TERM_TENSOR || whole->shape.rank < 1)
    return OK;
  starts = find(b, node->input[1])->bounds;
  ends = find(b, node->input[2])->bounds;
  if (!starts || !ends || (b->starts && b->starts != starts) || starts->shape.dim[0] < 1)
    return OK;
  TRY(one_integer(b, node, "axes", 3, &axis, &has_axis));
  if (node->n_input > 4)
    TRY(one_integer(b, node, "steps", 4, &step, &has_step));
  if (!has_axis || axis != 0 || !has_step || step != 1)
    return OK;
  TRY(follow(b, starts, ends, fits));
  if (!*fits)
    return OK;
  b->starts = starts;
  TRY(put(b, node->output[0], VALUE_ROWS, NULL));
  return scope_put(&b->scope, node->output[0], whole);
}

/* Row by row: a look-up of each, an axis behind the first, arithmetic with rows or with one number. */
static Status by_row(Bags *b, size_t i, bool *fits) {
  static const char *const arithmetic[] = {"Mul", "Add", "Sub", "Div", "Cast", "Identity"};
  const Onnx__NodeProto *node = b->graph->node[i];
  int64_t axis = 0;
  *fits = false;
  if (is_op(node, "Gather"))
    *fits = find(b, node->input[0])->kind == VALUE_OTHER && attribute_int(node, "axis", 0) == 0;
  if (is_op(node, "Unsqueeze"))
    TRY(one_integer(b, node, "axes", 1, &axis, fits));
  if (is_op(node, "Unsqueeze"))
    *fits &= axis > 0;
  for (size_t k = 0; k < sizeof arithmetic / sizeof *arithmetic; k++)
    *fits |= is_op(node, arithmetic[k]);
  int rank = 0;
  for (size_t k = 0; k < node->n_input && *fits && !is_op(node, "Gather") && !is_op(node, "Unsqueeze"); k++) {
    const Term *t = scope_find(&b->scope, node->input[k]);
    bool is_rows = find(b, node->input[k])->kind == VALUE_ROWS;
    *fits = t && t->kind == TERM_TENSOR && (is_rows ? !rank || t->shape.rank == rank : shape_elements(t->shape) == 1);
    rank = is_rows && t ? t->shape.rank : rank;
  }
  if (!*fits)
    return OK;
  TRY(lower_node(b, i));
  return put(b, node->output[0], VALUE_ROWS, NULL);
}

static const struct {
  const char *op, *mode;
  OpKind kind;
} reductions[] = {
    {"ReduceSum", "sum", OP_ReduceSum}, {"ReduceMean", "mean", OP_ReduceMean}, {"ReduceMax", "max", OP_ReduceMax}};

/* How many rows every bag has; 0 where that is not known, or not one number: they are bags of samples then, each of
 * which is its own. */
static Status even_size(const Bags *b, int64_t rows, int64_t *size) {
  const int64_t *starts;
  bool known;
  int n;
  *size = 0;
  TRY(term_known(b->op->lower, b->starts, &known));
  if (!known)
    return OK;
  TRY(term_ints(b->op->lower, b->starts, &starts, &n));
  int64_t each = n > 1 ? starts[1] : 0;
  for (int i = 0; i < n; i++)
    if (each < 1 || starts[i] != i * each)
      return OK;
  if (starts[n - 1] == rows)
    *size = each;
  return OK;
}

static Status reduced(Bags *b, const Onnx__NodeProto *node, size_t how, bool *fits) {
  Term *all = scope_find(&b->scope, node->input[0]);
  int64_t axis = -1;
  *fits = false;
  TRY(one_integer(b, node, "axes", 1, &axis, fits));
  *fits &= find(b, node->input[0])->kind == VALUE_ROWS && axis == 0 && attribute_int(node, "keepdims", 1) == 0 && all &&
           all->kind == TERM_TENSOR && !b->result && dtype_is_float(all->dtype) && all->shape.rank < MAX_RANK &&
           strcmp(node->output[0], proto_text(b->graph->output[1]->name)) == 0;
  if (!*fits)
    return OK;
  int64_t size, along = 1;
  TRY(even_size(b, all->shape.dim[0], &size));
  if (!size) {
    Attr attr = attr_string("mode", reductions[how].mode);
    return op_emit(b->op, OP_SegmentReduce, (Term *[]){all, b->starts}, 2, &attr, 1, &b->result, 1);
  }
  Shape bags = {.rank = all->shape.rank + 1, .dim = {all->shape.dim[0] / size, size}};
  memcpy(bags.dim + 2, all->shape.dim + 1, (size_t)(all->shape.rank - 1) * sizeof *bags.dim);
  TRY(op_reshape(b->op, all, bags, &all));
  return op_reduce(b->op, reductions[how].kind, all, &along, 1, false, &b->result);
}

static bool reads(const Bags *b, const Onnx__NodeProto *node, ValueKind kind) {
  for (size_t i = 0; i < node->n_input; i++)
    if (find(b, node->input[i])->kind == kind)
      return true;
  return false;
}

static Status one_node(Bags *b, size_t i, const char *run, bool *fits) {
  const Onnx__NodeProto *node = b->graph->node[i];
  bool counts = node->n_input > 1 && strcmp(node->input[1], run) == 0;
  *fits = node->n_output == 1 && *node->output[0];
  if (!*fits)
    return OK;
  bool shapes = node->n_input && (is_op(node, "Unsqueeze") || is_op(node, "Reshape"));
  if ((is_op(node, "Gather") && counts) || (shapes && find(b, node->input[0])->kind == VALUE_BOUND))
    return bound(b, node, fits);
  if (is_op(node, "Slice") && reads(b, node, VALUE_BOUND))
    return rows(b, node, fits);
  *fits = !reads(b, node, VALUE_BOUND);
  for (size_t k = 0; k < node->n_input; k++) /* the number of the run itself */
    *fits &= strcmp(node->input[k], run) != 0;
  if (!*fits || !reads(b, node, VALUE_ROWS))
    return *fits ? lower_node(b, i) : OK;
  for (size_t k = 0; k < sizeof reductions / sizeof *reductions; k++)
    if (is_op(node, reductions[k].op))
      return reduced(b, node, k, fits);
  return by_row(b, i, fits);
}

/* Whether a first look at the operators says that it may be one: nothing was lowered then. */
static bool may_be(const Onnx__GraphProto *g) {
  size_t slices = 0, reductions = 0;
  for (size_t i = 0; i < g->n_node; i++) {
    slices += is_op(g->node[i], "Slice");
    reductions += strncmp(proto_text(g->node[i]->op_type), "Reduce", 6) == 0;
    for (size_t k = 0; k < g->node[i]->n_attribute; k++)
      if (g->node[i]->attribute[k]->g)
        return false;
  }
  return g->n_input == 2 && g->n_output == 2 && slices && reductions == 1;
}

Status bags_lower(Op *op, const Body *body, int64_t trips, Term *goes_on, Term **out) {
  Bags b = {.op = op, .graph = body->graph, .scope = {.parent = &body->constants}, .frame = *op->frame};
  bool fits = may_be(body->graph), goes = false;
  *out = NULL;
  b.frame.prefix = fits ? arena_format(op->lower->arena, "%s/", op->name) : "";
  TRY(b.frame.prefix ? OK : status_code());
  TRY(map_create(op->lower->arena, &b.scope.terms));
  if (fits)
    TRY(scope_put(&b.scope, proto_text(body->graph->input[1]->name), goes_on));
  for (size_t i = 0; i < body->graph->n_node && fits; i++)
    TRY(one_node(&b, i, proto_text(body->graph->input[0]->name), &fits));
  Term *condition = fits ? scope_find(&b.scope, proto_text(body->graph->output[0]->name)) : NULL;
  double number;
  if (condition && condition->kind == TERM_TENSOR)
    TRY(term_known(op->lower, condition, &goes));
  goes = goes && term_number(condition, &number) && number != 0;
  if (!goes || !b.result || trips > b.result->shape.dim[0] || body_unsupported(op, body))
    return OK;
  return op_slice(op, b.result, 0, 0, trips, out);
}
