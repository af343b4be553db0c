/* A file bound to a graph: inputs with numbers for dimensions, nodes in order, functions inlined, outputs named.
 * Invariant: what the caller gets was built in the caller's arena by the passes; everything else is gone. */
#include <stdio.h>
#include <string.h>

#include "graph/batch.h"
#include "graph/narrow.h"
#include "graph/passes/passes.h"
#include "onnx/lower/lower.h"

Term *scope_find(const Scope *scope, const char *name) {
  for (; scope; scope = scope->parent) {
    Term *term = map_find(scope->terms, name, strlen(name));
    if (term)
      return term;
  }
  return NULL;
}

Status scope_put(Scope *scope, const char *name, Term *term) {
  if (!*name)
    return fail(E_MODEL, "a value without a name");
  if (map_find(scope->terms, name, strlen(name)))
    return fail(E_MODEL, "'%s' is defined twice", name);
  return map_put(scope->terms, name, strlen(name), term);
}

static Status term_new(Lower *lower, TermKind kind, Term **term) {
  TRY(ARENA_NEW(lower->arena, *term, 1));
  **term = (Term){.kind = kind, .initializer = -1, .value = NO_VALUE};
  return OK;
}

/* ---- nodes ---- */

static Status find_inputs(Op *op) {
  const Onnx__NodeProto *node = op->proto;
  op->n_in = (int)node->n_input;
  op->n_out = (int)node->n_output;
  TRY(ARENA_NEW(op->lower->arena, op->in, op->n_in));
  TRY(ARENA_NEW(op->lower->arena, op->out, op->n_out));
  for (int i = 0; i < op->n_in; i++) {
    if (!*node->input[i])
      TRY(term_new(op->lower, TERM_ABSENT, &op->in[i]));
    else if (!(op->in[i] = scope_find(op->scope, node->input[i])))
      return fail(E_MODEL, "input '%s' is not defined before it", node->input[i]);
  }
  while (op->n_in && op->in[op->n_in - 1]->kind == TERM_ABSENT) /* absent at the end: not there */
    op->n_in--;
  return OK;
}

/* A value that no output of the file is called after so far gets this one's name. */
static Status name_value(Op *op, ValueId id, const char *name) {
  Lower *lower = op->lower;
  Value *v = id == NO_VALUE ? NULL : graph_value(lower->graph, id);
  if (!v || v->producer == NO_NODE || map_find(lower->named, &id, sizeof id))
    return OK;
  v->name = arena_format(lower->arena, "%s%s", op->frame->prefix, name);
  return v->name ? map_put(lower->named, &id, sizeof id, lower) : status_code();
}

static Status publish(Op *op, Scope *scope) {
  for (int i = 0; i < op->n_out; i++) {
    const char *name = op->proto->output[i];
    if (!*name)
      continue;
    if (!op->out[i])
      return fail(E_UNSUPPORTED, "output %d ('%s')", i, name);
    TRY(name_value(op, op->out[i]->value, name));
    TRY(scope_put(scope, name, op->out[i]));
  }
  return OK;
}

static Status pass_over(Op *op, Scope *scope) {
  for (size_t i = 0; i < op->proto->n_output; i++)
    if (*op->proto->output[i]) {
      Term *term;
      TRY(term_new(op->lower, TERM_UNKNOWN, &term));
      TRY(scope_put(scope, op->proto->output[i], term));
    }
  return OK;
}

/* What the call gives, or the function's own default. */
static Status call_attributes(const Op *op, const Onnx__FunctionProto *f, Map *map) {
  for (size_t i = 0; i < f->n_attribute_proto; i++) {
    Onnx__AttributeProto *a = f->attribute_proto[i];
    if (a->name)
      TRY(map_put(map, a->name, strlen(a->name), a));
  }
  for (size_t i = 0; i < op->proto->n_attribute; i++) {
    const char *name = op->proto->attribute[i]->name;
    const Onnx__AttributeProto *a = name ? op_attribute(op, name) : NULL;
    if (a)
      TRY(map_put(map, name, strlen(name), (void *)a));
  }
  return OK;
}

static Status call_function(Op *op, const Onnx__FunctionProto *f, bool specified) {
  Lower *lower = op->lower;
  Scope scope = {0};
  Frame frame = {.function = f,
                 .imports = f->opset_import,
                 .n_imports = f->n_opset_import,
                 .specified = specified || op->frame->specified};
  if ((size_t)op->n_in > f->n_input || (size_t)op->n_out > f->n_output)
    return fail(E_MODEL, "the function has %zu inputs and %zu outputs, the node %d and %d", f->n_input, f->n_output,
                op->n_in, op->n_out);
  frame.prefix = arena_format(lower->arena, "%s/", op->name);
  if (!frame.prefix)
    return status_code();
  TRY(map_create(lower->arena, &frame.attributes));
  TRY(map_create(lower->arena, &scope.terms));
  TRY(call_attributes(op, f, frame.attributes));
  for (size_t i = 0; i < f->n_input; i++)
    TRY(scope_put(&scope, f->input[i], op_in(op, (int)i)));
  TRY(lower_body(lower, &scope, &frame, f->node, f->n_node));
  for (int i = 0; i < op->n_out; i++)
    if (!(op->out[i] = scope_find(&scope, f->output[i])))
      return fail(E_MODEL, "function '%s' does not define its output '%s'", f->name, f->output[i]);
  return OK;
}

static bool reads_unknown(const Op *op) {
  for (int i = 0; i < op->n_in; i++)
    if (op->in[i]->kind == TERM_UNKNOWN)
      return true;
  return false;
}

/* E_UNSUPPORTED of one node becomes a finding, so that all of them are named at once. */
static Status lower_found(Op *op, Scope *scope) {
  if (reads_unknown(op))
    return pass_over(op, scope);
  Status status = op->lowering->lower(op);
  if (status == OK)
    status = publish(op, scope);
  if (status != E_UNSUPPORTED)
    return status;
  const char *reason = status_message(), *rest = strncmp(reason, "node '", 6) == 0 ? strstr(reason, "): ") : NULL;
  reason = rest ? rest + 3 : reason; /* the finding names the node */
  TRY(finding_add(op->lower->arena, &op->lower->findings, op->name, op->proto->op_type, reason));
  return pass_over(op, scope);
}

/* Inputs that an operator needs as tensors are: those that say so take sequences, too. */
static Status check_kinds(const Op *op) {
  static const char *const others[] = {"ConcatFromSequence", "Identity",          "Loop", "Scan", "Optional",
                                       "OptionalHasElement", "OptionalGetElement"};
  bool takes = strncmp(op->proto->op_type, "Sequence", 8) == 0;
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    takes |= strcmp(op->proto->op_type, others[i]) == 0;
  for (int i = 0; i < op->n_in && !takes; i++)
    if (op->in[i]->kind == TERM_SEQUENCE)
      return fail(E_MODEL, "input '%s' is a sequence", op->proto->input[i]);
  return OK;
}

static Status lower_in_context(Op *op, Scope *scope) {
  Lower *lower = op->lower;
  const char *reason;
  TRY(find_inputs(op));
  const Onnx__FunctionProto *f = op->frame->specified ? NULL : model_function(lower->model, op->proto);
  if (f) {
    TRY(call_function(op, f, false));
    return publish(op, scope);
  }
  op->opset = operator_opset(op->proto->domain, op->frame->imports, op->frame->n_imports);
  TRY(operator_find(lower->arena, op->proto, op->opset, op->frame->attributes, &op->lowering, &reason));
  if (!op->lowering)
    TRY(body_find(lower->model, op->proto, op->opset, &f));
  if (f && !(reason = body_refuses(lower->arena, f, op->proto))) {
    Status status = call_function(op, f, true);
    if (status == OK)
      return publish(op, scope);
    if (status != E_SHAPE)
      return status;
    reason = status_message(); /* its constants are of a type, and the node may be of another */
  }
  if (!op->lowering) {
    TRY(finding_add(lower->arena, &lower->findings, op->name, op->proto->op_type, reason));
    return pass_over(op, scope);
  }
  for (int i = 0; i < op->lowering->min_in; i++)
    if (op_in(op, i)->kind == TERM_ABSENT)
      return fail(E_MODEL, "input %d is missing", i);
  TRY(check_kinds(op));
  return lower_found(op, scope);
}

Status lower_body(Lower *lower, Scope *scope, const Frame *frame, Onnx__NodeProto *const *nodes, size_t n_nodes) {
  for (size_t i = 0; i < n_nodes; i++) {
    const char *label = node_label(lower->arena, nodes[i], i);
    Op op = {.lower = lower, .scope = scope, .frame = frame, .proto = nodes[i]};
    op.name = label ? arena_format(lower->arena, "%s%s", frame->prefix, label) : NULL;
    if (!op.name)
      return status_code();
    Status status = lower_in_context(&op, scope);
    if (status != OK && strncmp(status_message(), "node '", 6) != 0)
      status_context("node '%s' (%s): ", op.name, nodes[i]->op_type ? nodes[i]->op_type : "");
    TRY(status);
  }
  return OK;
}

/* ---- the graph's ends ---- */

static const char *dim_name(Lower *lower, const ModelInput *input, int axis) {
  if (*proto_text(input->dim_name[axis]))
    return input->dim_name[axis];
  return arena_format(lower->arena, "%s.%d", input->name, axis);
}

/* The number of a symbolic dimension: by --dim, else the microbatch where it is the batch, also under its name. */
static Status bind_dim(Lower *lower, const ModelInput *input, int axis, int64_t *dim) {
  const BindOptions *options = lower->options;
  int n;
  const ModelInput *inputs = model_inputs(lower->model, &n);
  const char *name = dim_name(lower, input, axis);
  if (!name)
    return status_code();
  bool is_batch = axis == input->batch_axis;
  for (int i = 0; i < n && !is_batch && *proto_text(input->dim_name[axis]); i++)
    is_batch = inputs[i].batch_axis >= 0 && inputs[i].dim_name[inputs[i].batch_axis] &&
               strcmp(inputs[i].dim_name[inputs[i].batch_axis], name) == 0;
  *dim = is_batch && options->batch ? options->batch : -1;
  for (int i = 0; i < options->n_dims; i++)
    if (strcmp(options->dims[i].name, name) == 0) {
      if (*dim >= 0 && *dim != options->dims[i].value)
        return fail(E_USAGE, "dimension '%s' counts the %lld samples of a microbatch, --dim says %lld", name,
                    (long long)*dim, (long long)options->dims[i].value);
      *dim = options->dims[i].value;
    }
  if (*dim < 0)
    return fail(E_USAGE, "dimension '%s' (axis %d of input '%s') is open: give --dim %s=N", name, axis, input->name,
                name);
  return OK;
}

static Status bind_input(Lower *lower, Scope *scope, const ModelInput *input) {
  Shape shape = {.rank = input->rank};
  if (input->rank < 0)
    return fail(E_MODEL, "input '%s' has no shape", input->name);
  for (int i = 0; i < input->rank; i++) {
    shape.dim[i] = input->dim[i];
    if (input->dim[i] < 0)
      TRY(bind_dim(lower, input, i, &shape.dim[i]));
  }
  Term *term;
  TRY(term_new(lower, TERM_TENSOR, &term));
  Status status = graph_add_value(lower->graph, input->name, input->dtype, shape, ROLE_INPUT, &term->value);
  if (status != OK) {
    status_context("input '%s': ", input->name);
    return status;
  }
  TRY(graph_add_input(lower->graph, term->value));
  if (input->batch_axis >= 0)
    graph_value(lower->graph, term->value)->batch = batch_along(input->batch_axis);
  term->dtype = input->dtype;
  term->narrow = dtype_is_narrow(input->stored) ? input->stored : DTYPE_NONE;
  term->shape = shape;
  if (input->batch_axis >= 0 && !lower->graph->samples) {
    lower->graph->samples = shape.dim[input->batch_axis];
    budget_samples(&lower->budget, lower->graph->samples);
  }
  return scope_put(scope, input->name, term);
}

static Status bind_inputs(Lower *lower, Scope *scope) {
  int n;
  const ModelInput *inputs = model_inputs(lower->model, &n);
  int64_t fixed = model_fixed_batch(lower->model), asked = lower->options->batch;
  if (fixed && asked && fixed != asked)
    return fail(E_USAGE, "the file was exported for %lld samples, a microbatch has %lld", (long long)fixed,
                (long long)asked);
  for (int i = 0; i < n; i++)
    TRY(bind_input(lower, scope, &inputs[i]));
  return OK;
}

/* A trained tensor with frozen rows: these come from constants, so that no gradient reaches them. */
static Status freeze_rows(Op *op, int initializer, Term *parameter, Term **masked) {
  const Model *model = op->lower->model;
  Term *term = parameter;
  for (int k = 0; k < model->n_frozen_rows; k++) {
    const FrozenRow *frozen = &model->frozen_rows[k];
    Shape rows = {.rank = parameter->shape.rank}, row = parameter->shape;
    Term *is_row, *contents;
    uint8_t *flags;
    if (frozen->initializer != initializer)
      continue;
    for (int i = 0; i < rows.rank; i++)
      rows.dim[i] = i ? 1 : parameter->shape.dim[0];
    row.dim[0] = 1;
    TRY(ARENA_NEW(op->lower->arena, flags, rows.dim[0]));
    flags[frozen->row] = 1;
    TRY(term_make(op->lower, NULL, BOOL, rows, flags, &is_row));
    TRY(term_make(op->lower, NULL, parameter->dtype, row, frozen->contents, &contents));
    TRY(op_where(op, is_row, contents, term, &term));
  }
  *masked = term;
  if (term != parameter)
    term->unmasked = parameter;
  return OK;
}

/* Initializers are placed when somebody reads them; a tied one is the other, perhaps transposed. */
static Status bind_initializers(Lower *lower, Scope *scope, const Frame *frame) {
  int n;
  const Initializer *list = model_initializers(lower->model, &n);
  Term **terms;
  TRY(ARENA_NEW(lower->arena, terms, n));
  TRY(ARENA_NEW(lower->arena, lower->initializers, n));
  for (int i = 0; i < n; i++) {
    TRY(term_new(lower, TERM_TENSOR, &terms[i]));
    terms[i]->dtype = list[i].dtype;
    terms[i]->narrow = dtype_is_narrow(list[i].stored) ? list[i].stored : DTYPE_NONE;
    terms[i]->shape = list[i].shape;
    terms[i]->initializer = i;
    if (!dtype_is_float(list[i].dtype))
      terms[i]->bits = tensor_packed_bits(lower->model->sources[i].proto);
  }
  for (int i = 0; i < n && lower->model->n_frozen_rows; i++) {
    Op op = {.lower = lower, .scope = scope, .frame = frame, .name = list[i].name};
    TRY(freeze_rows(&op, i, terms[i], &terms[i]));
  }
  for (int i = 0; i < n; i++) {
    Term *term = terms[i];
    if (list[i].tied_to >= 0) {
      Op op = {.lower = lower, .scope = scope, .frame = frame, .name = list[i].name};
      int64_t swap[] = {1, 0};
      term = terms[list[i].tied_to];
      if (list[i].tied_transposed)
        TRY(op_transpose(&op, term, swap, &term));
    }
    if (list[i].copies) {
      Op op = {.lower = lower, .scope = scope, .frame = frame, .name = list[i].name};
      TRY(op_expand(&op, term, list[i].file_shape, &term));
    }
    lower->initializers[i] = term;
    if (!list[i].in_node) /* those are defined where they lie */
      TRY(scope_put(scope, list[i].name, term));
  }
  return OK;
}

static bool is_output(const Graph *graph, ValueId id) {
  for (size_t i = 0; i < graph->n_outputs; i++)
    if (graph->outputs[i] == id)
      return true;
  return false;
}

/* An output that no node makes, or that has a name as an output already, gets a view with its own name. */
static Status bind_output(Lower *lower, const Scope *scope, const Frame *frame, const char *name) {
  Op op = {.lower = lower, .scope = scope, .frame = frame, .name = name};
  Term *term = scope_find(scope, name);
  ValueId id;
  if (!term)
    return fail(E_MODEL, "output '%s' is not defined", name);
  if (term->kind == TERM_UNKNOWN) /* the finding says more */
    return OK;
  if (term->kind != TERM_TENSOR)
    return fail(E_UNSUPPORTED, "output '%s' is no tensor", name);
  TRY(term_value(&op, term, &id));
  if (graph_value(lower->graph, id)->producer == NO_NODE || is_output(lower->graph, id)) {
    Attr shape = attr_ints("shape", term->shape.dim, term->shape.rank);
    NodeId node;
    TRY(graph_add_node(lower->graph, OP_Reshape, name, &id, 1, &shape, 1, &name, 1, &node));
    id = graph_node(lower->graph, node)->out[0];
  }
  graph_value(lower->graph, id)->name = name;
  return graph_add_output(lower->graph, id);
}

/* The whole graph, with what no output needs. */
static Status lower_model(Lower *lower) {
  const Onnx__ModelProto *proto = lower->model->proto;
  const Onnx__GraphProto *g = proto->graph;
  Frame frame = {.imports = proto->opset_import, .n_imports = proto->n_opset_import, .prefix = ""};
  Scope scope = {0};
  int n;
  const ModelInput *outputs = model_outputs(lower->model, &n);
  TRY(graph_create(lower->arena, g->name ? g->name : "", &lower->graph));
  TRY(graph_create(lower->arena, "", &lower->probe));
  TRY(map_create(lower->arena, &lower->constants));
  TRY(map_create(lower->arena, &lower->folded));
  TRY(map_create(lower->arena, &lower->placed));
  TRY(map_create(lower->arena, &lower->named));
  TRY(map_create(lower->arena, &scope.terms));
  TRY(bind_inputs(lower, &scope));
  TRY(bind_initializers(lower, &scope, &frame));
  TRY(lower_body(lower, &scope, &frame, g->node, g->n_node));
  for (int i = 0; i < n; i++)
    TRY(bind_output(lower, &scope, &frame, outputs[i].name));
  return findings_fail(&lower->findings);
}

Status bind_graph(Model *model, const BindOptions *options, Replay *replay, Arena *scratch, Arena *result,
                  Graph **graph) {
  Lower lower = {.model = model, .options = options, .arena = scratch, .replay = replay, .budget = budget_of(model)};
  arena_limit(scratch, lower.budget.arena_bytes, "importing a file of this size");
  TRY(lower_model(&lower));
  return options->no_fuse
             ? graph_copy(lower.graph, result, NULL, graph)
             : graph_fuse(lower.graph, options->takes, options->takes_context, replay_settle, replay, result, graph);
}

Status model_bind(Model *model, const BindOptions *options, Arena *arena, Graph **graph) {
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = bind_with_samples(model, options, scratch, arena, graph);
  if (status != OK)
    status_context("%s: ", model->path);
  arena_destroy(scratch);
  return status;
}
