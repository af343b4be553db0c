/* Constants in the graph and branches. Invariant: of an If only the branch that its condition names is lowered. */
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

/* Constants of a branch; those of the main graph are in the model's table. */
static Status branch_initializers(Op *op, Scope *scope, const Onnx__GraphProto *branch) {
  for (size_t i = 0; i < branch->n_initializer; i++) {
    const Onnx__TensorProto *tensor = branch->initializer[i];
    DType dtype;
    Shape shape;
    const void *data;
    Term *term = weight_of(op, tensor);
    if (!term) {
      TRY(tensor_read(op->lower->model, tensor, op->lower->arena, &dtype, &shape, &data));
      TRY(term_make(op->lower, tensor->name, dtype, shape, data, &term));
      TRY(stored_as(op, tensor, &term));
    }
    TRY(scope_put(scope, tensor->name ? tensor->name : "", term));
  }
  return OK;
}

static Status branch(Op *op) {
  double condition;
  bool known;
  TRY(term_given(op->lower, op->in[0], &known));
  if (!known)
    return fail(E_UNSUPPORTED, "its condition is not known before the model runs");
  TRY(op_known_number(op, 0, &condition));
  const Onnx__AttributeProto *a = op_attribute(op, condition != 0 ? "then_branch" : "else_branch");
  if (!a || !a->g)
    return fail(E_MODEL, "the branch that is taken is missing");
  if (a->g->n_output != (size_t)op->n_out)
    return fail(E_MODEL, "the branch has %zu outputs, the node %d", a->g->n_output, op->n_out);
  if (a->g->n_sparse_initializer)
    return fail(E_UNSUPPORTED, "sparse initializers");
  Scope scope = {.parent = op->scope};
  Frame frame = *op->frame;
  frame.prefix = arena_format(op->lower->arena, "%s/", op->name);
  TRY(frame.prefix ? OK : status_code());
  TRY(map_create(op->lower->arena, &scope.terms));
  TRY(branch_initializers(op, &scope, a->g));
  TRY(lower_body(op->lower, &scope, &frame, a->g->node, a->g->n_node));
  for (int i = 0; i < op->n_out; i++) {
    const char *name = a->g->output[i]->name ? a->g->output[i]->name : "";
    op->out[i] = scope_find(&scope, name);
    if (!op->out[i])
      return fail(E_MODEL, "the branch does not define its output '%s'", name);
  }
  return OK;
}

const Lowering lowerings_control[] = {
    {"Constant", 1, 10, 0, 0, 1, constant, "value:t"},
    {"Constant", 11, 11, 0, 0, 1, constant, "value:t"},
    {"Constant", 12, OPSET_LAST, 0, 0, 1, constant, "value:t value_int:i value_ints:I value_float:f value_floats:F"},
    {"If", 1, OPSET_LAST, 1, 1, MANY, branch, "then_branch:g! else_branch:g!"},
    {0},
};
