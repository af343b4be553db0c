/* Constants in the graph, and bodies of nodes. Invariant: of an If whose condition is known only the branch that it
 * names is lowered; every run of a body is charged. */
#include <string.h>

#include "graph/narrow.h"
#include "onnx/lower/lower.h"

/* A weight that lies in a node or a branch; NULL where it is none, or does not train. */
static Term *weight_of(const Op *op, const Onnx__TensorProto *tensor) {
  int i = initializer_in_node(op->lower->model, tensor);
  return i >= 0 && op->lower->model->initializers[i].trains ? op->lower->initializers[i] : NULL;
}

/* A narrow type of the file stays known, for CastLike. */
static Status stored_as(Op *op, const Onnx__TensorProto *tensor, Term **term) {
  DType stored = stored_from_onnx(tensor->data_type);
  (*term)->bits = tensor_packed_bits(tensor);
  return term_of_narrow(op, *term, dtype_is_narrow(stored) ? stored : DTYPE_NONE, term);
}

static Status from_tensor(Op *op, const Onnx__TensorProto *tensor) {
  DType dtype;
  Shape shape;
  const void *data;
  if ((op->out[0] = weight_of(op, tensor)))
    return OK;
  TRY(tensor_read(op->lower->model, tensor, op->lower->arena, &dtype, &shape, &data));
  TRY(term_make(op->lower, op->proto->output[0], dtype, shape, data, &op->out[0]));
  return stored_as(op, tensor, &op->out[0]);
}

static Status constant(Op *op) {
  if (op->proto->n_attribute != 1)
    return fail(E_MODEL, "a constant has one value, this one %zu", op->proto->n_attribute);
  const char *kind = op->proto->attribute[0]->name;
  const Onnx__AttributeProto *a = op_attribute(op, kind);
  const char *name = op->proto->output[0];
  if (!a)
    return fail(E_MODEL, "its value is an attribute that the call of the function does not give");
  if (strcmp(kind, "value") == 0)
    return from_tensor(op, a->t);
  if (strcmp(kind, "value_int") == 0)
    return term_make(op->lower, name, I64, (Shape){0}, &a->i, &op->out[0]);
  if (strcmp(kind, "value_float") == 0)
    return term_make(op->lower, name, F32, (Shape){0}, &a->f, &op->out[0]);
  bool ints = strcmp(kind, "value_ints") == 0;
  int64_t n = (int64_t)(ints ? a->n_ints : a->n_floats);
  const void *data = ints ? (const void *)a->ints : (const void *)a->floats;
  return term_make(op->lower, name, ints ? I64 : F32, shape_of(1, &n), data, &op->out[0]);
}

/* Constants of a body; those of the main graph are in the model's table. */
static Status body_initializers(Op *op, Body *body) {
  for (size_t i = 0; i < body->graph->n_initializer; i++) {
    const Onnx__TensorProto *tensor = body->graph->initializer[i];
    DType dtype;
    Shape shape;
    const void *data;
    Term *term = weight_of(op, tensor);
    if (!term) {
      TRY(tensor_read(op->lower->model, tensor, op->lower->arena, &dtype, &shape, &data));
      TRY(term_make(op->lower, tensor->name, dtype, shape, data, &term));
      TRY(stored_as(op, tensor, &term));
    }
    TRY(scope_put(&body->constants, proto_text(tensor->name), term));
  }
  return OK;
}

Status body_open(Op *op, const char *attribute, Body *body) {
  const Onnx__AttributeProto *a = op_attribute(op, attribute);
  if (!a || !a->g)
    return fail(E_MODEL, "attribute '%s' is missing", attribute);
  if (a->g->n_sparse_initializer)
    return fail(E_UNSUPPORTED, "sparse initializers");
  *body = (Body){.graph = a->g, .constants = {.parent = op->scope}, .findings = op->lower->findings.n};
  TRY(map_create(op->lower->arena, &body->constants.terms));
  return body_initializers(op, body);
}

Status body_counts(const Body *body, size_t n_in, size_t n_out) {
  if (body->graph->n_input == n_in && body->graph->n_output == n_out)
    return OK;
  return fail(E_MODEL, "the body has %zu inputs and %zu outputs, the node asks for %zu and %zu", body->graph->n_input,
              body->graph->n_output, n_in, n_out);
}

Status body_run(Op *op, const Body *body, const char *prefix, Term *const *in, Term **out) {
  const Onnx__GraphProto *g = body->graph;
  Scope scope = {.parent = &body->constants};
  Frame frame = *op->frame;
  frame.prefix = prefix;
  TRY(prefix ? OK : status_code());
  TRY(budget_body(&op->lower->budget, g->n_node));
  TRY(map_create(op->lower->arena, &scope.terms));
  for (size_t i = 0; i < g->n_input; i++)
    TRY(scope_put(&scope, proto_text(g->input[i]->name), in[i]));
  TRY(lower_body(op->lower, &scope, &frame, g->node, g->n_node));
  for (size_t i = 0; i < g->n_output; i++) {
    const char *name = proto_text(g->output[i]->name);
    out[i] = scope_find(&scope, name);
    if (!out[i])
      return fail(E_MODEL, "the body does not define its output '%s'", name);
  }
  return OK;
}

bool body_unsupported(const Op *op, const Body *body) {
  return op->lower->findings.n > body->findings;
}

Status outputs_unknown(Op *op) {
  for (int i = 0; i < op->n_out; i++) {
    TRY(ARENA_NEW(op->lower->arena, op->out[i], 1));
    *op->out[i] = (Term){.kind = TERM_UNKNOWN, .initializer = -1, .value = NO_VALUE};
  }
  return OK;
}

static Status run_branch(Op *op, const char *attribute, const char *prefix, Term **out) {
  Body body;
  TRY(body_open(op, attribute, &body));
  TRY(body_counts(&body, 0, (size_t)op->n_out));
  return body_run(op, &body, prefix, NULL, out);
}

/* Of a condition that samples give, both branches are computed and one is taken. */
static Status both_branches(Op *op) {
  Term **yes, **no, *condition;
  size_t findings = op->lower->findings.n;
  if (op->in[0]->dtype != BOOL || shape_elements(op->in[0]->shape) != 1)
    return fail(E_MODEL, "its condition is %s %s", dtype_name(op->in[0]->dtype), SHAPE_STR(op->in[0]->shape));
  TRY(ARENA_NEW(op->lower->arena, yes, op->n_out));
  TRY(ARENA_NEW(op->lower->arena, no, op->n_out));
  TRY(run_branch(op, "then_branch", arena_format(op->lower->arena, "%s/then/", op->name), yes));
  TRY(run_branch(op, "else_branch", arena_format(op->lower->arena, "%s/else/", op->name), no));
  if (op->lower->findings.n > findings)
    return outputs_unknown(op);
  TRY(op_reshape(op, op->in[0], (Shape){0}, &condition));
  for (int i = 0; i < op->n_out; i++) {
    if (yes[i]->kind != TERM_TENSOR || no[i]->kind != TERM_TENSOR)
      return fail(E_UNSUPPORTED, "its condition is not known before the model runs, and a branch gives no tensor");
    if (!shape_equal(yes[i]->shape, no[i]->shape) || yes[i]->dtype != no[i]->dtype)
      return fail(
          E_UNSUPPORTED, "its condition is not known before the model runs, and the branches give %s %s and %s %s",
          dtype_name(yes[i]->dtype), SHAPE_STR(yes[i]->shape), dtype_name(no[i]->dtype), SHAPE_STR(no[i]->shape));
    TRY(op_where(op, condition, yes[i], no[i], &op->out[i]));
  }
  return OK;
}

static Status branch(Op *op) {
  double condition;
  bool known;
  TRY(term_given(op->lower, op->in[0], &known));
  if (!known)
    return both_branches(op);
  TRY(op_known_number(op, 0, &condition));
  return run_branch(op, condition != 0 ? "then_branch" : "else_branch", arena_format(op->lower->arena, "%s/", op->name),
                    op->out);
}

const Lowering lowerings_control[] = {
    {"Constant", 1, 10, 0, 0, 1, constant, "value:t"},
    {"Constant", 11, 11, 0, 0, 1, constant, "value:t"},
    {"Constant", 12, OPSET_LAST, 0, 0, 1, constant, "value:t value_int:i value_ints:I value_float:f value_floats:F"},
    {"If", 1, OPSET_LAST, 1, 1, MANY, branch, "then_branch:g! else_branch:g!"},
    {0},
};
