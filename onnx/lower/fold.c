/* Nodes whose inputs are known, computed while the model is bound. Invariant: what they touch was taken from the
 * budget; a node beyond that stays a node. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "graph/op.h"
#include "onnx/lower/lower.h"

enum { MAX_OUTPUTS = 64 };

/* Operators under which a repeat along an axis stays one. */
static bool keeps_repeats(OpKind kind) {
  return op_def(kind)->traits & (OP_ELEMENTWISE | OP_PERMUTES);
}

static size_t key_bytes(const Attr *attrs, int n_attrs, int n_in) {
  size_t bytes = 3 * sizeof(int64_t) + (size_t)n_in * (sizeof(void *) + sizeof(Shape));
  for (int i = 0; i < n_attrs; i++)
    bytes += strlen(attrs[i].name) + 1 + sizeof(Attr) + (attrs[i].s ? strlen(attrs[i].s) + 1 : 0) +
             (attrs[i].ints ? (size_t)attrs[i].n * sizeof(int64_t) : 0) +
             (attrs[i].floats ? (size_t)attrs[i].n * sizeof(double) : 0);
  return bytes;
}

static char *append(char *at, const void *data, size_t bytes) {
  if (bytes)
    memcpy(at, data, bytes);
  return at + bytes;
}

/* What the result depends on: equal keys give equal results. */
static Status fold_key(Lower *lower, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, int n_out,
                       char **key, size_t *bytes) {
  TRY(ARENA_NEW(lower->arena, *key, key_bytes(attrs, n_attrs, n_in)));
  char *at = append(*key, (int64_t[]){kind, n_in, n_out}, 3 * sizeof(int64_t));
  for (int i = 0; i < n_in; i++) {
    Shape shape = shape_of(in[i]->shape.rank, in[i]->shape.dim);
    at = append(at, &in[i]->constant, sizeof(void *));
    at = append(at, &shape, sizeof shape);
  }
  for (int i = 0; i < n_attrs; i++) {
    const Attr *a = &attrs[i];
    at = append(at, a->name, strlen(a->name) + 1);
    at = append(at, (int64_t[]){a->kind, a->i, a->n}, 3 * sizeof(int64_t));
    at = append(at, &a->f, sizeof a->f);
    at = append(at, a->s, a->s ? strlen(a->s) + 1 : 0);
    at = append(at, a->ints, a->ints ? (size_t)a->n * sizeof(int64_t) : 0);
    at = append(at, a->floats, a->floats ? (size_t)a->n * sizeof(double) : 0);
  }
  *bytes = (size_t)(at - *key);
  return OK;
}

/* The node in the probe graph, over inputs of these shapes. */
static Status probe_node(Op *op, OpKind kind, Term *const *in, const Shape *shapes, int n_in, const Attr *attrs,
                         int n_attrs, int n_out, const Node **node) {
  Graph *probe = op->lower->probe;
  ValueId *ids;
  NodeId id;
  probe->n_values = probe->n_nodes = 0;
  TRY(ARENA_NEW(op->lower->arena, ids, n_in));
  for (int i = 0; i < n_in; i++) {
    ids[i] = NO_VALUE;
    if (in[i]->kind != TERM_ABSENT)
      TRY(graph_add_value(probe, "", in[i]->dtype, shapes[i], ROLE_CONSTANT, &ids[i]));
  }
  TRY(graph_add_node(probe, kind, op->name, ids, n_in, attrs, n_attrs, NULL, n_out, &id));
  *node = graph_node(probe, id);
  return OK;
}

/* As large as the term, with ones where its contents repeat. */
static Shape stored_shape(const Term *term) {
  Shape shape = term->shape, stored = term->constant->stored;
  for (int i = 0; i < shape.rank; i++) {
    int j = i - (shape.rank - stored.rank);
    shape.dim[i] = j >= 0 ? stored.dim[j] : 1;
  }
  return shape_elements(term->shape) ? shape : term->shape;
}

/* Takes what the node touches from the budget; false where that is not enough. */
static bool take(Lower *lower, const Node *node, size_t *bytes) {
  const Graph *probe = lower->probe;
  *bytes = 0;
  for (size_t i = 0; i < probe->n_values; i++)
    if (!checked_add(*bytes, graph_value_bytes(probe, (ValueId)i), bytes))
      return false;
  return budget_fold(&lower->budget, *bytes, op_cost(probe, node).flops);
}

/* Room for one tensor at the front of what is left of a block, 64 bytes aligned. */
static Tensor carve(char **at, DType dtype, Shape shape) {
  Tensor tensor = {.dtype = dtype, .shape = shape, .data = *at};
  size_t bytes = (size_t)shape_elements(shape) * dtype_bytes(dtype);
  *at += (bytes + 63) & ~(size_t)63;
  return tensor;
}

static Status evaluate(Lower *lower, const Node *node, Term *const *in, const Shape *shapes, char *block,
                       const Shape *logical, Term **out) {
  Tensor *in_tensors, *out_tensors;
  TRY(ARENA_NEW(lower->arena, in_tensors, node->n_in));
  TRY(ARENA_NEW(lower->arena, out_tensors, node->n_out));
  for (int i = 0; i < node->n_in; i++)
    if (in[i]->kind != TERM_ABSENT) {
      in_tensors[i] = carve(&block, in[i]->dtype, shapes[i]);
      broadcast_copy(dtype_bytes(in[i]->dtype), in[i]->constant->stored, in[i]->constant->data, shapes[i],
                     in_tensors[i].data);
    }
  for (int i = 0; i < node->n_out; i++) {
    const Value *v = graph_value(lower->probe, node->out[i]);
    out_tensors[i] = carve(&block, v->dtype, v->shape);
  }
  TRY(lower->options->evaluate(lower->options->evaluate_context, node, in_tensors, out_tensors));
  for (int i = 0; i < node->n_out; i++) {
    const Constant *c;
    TRY(constant_make(lower, NULL, out_tensors[i].dtype, out_tensors[i].shape, out_tensors[i].data, &c));
    TRY(term_broadcast(lower, c, logical[i], &out[i]));
  }
  return OK;
}

static Status compute(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out,
                      int n_out, bool *done) {
  Lower *lower = op->lower;
  const Node *node;
  Shape *shapes, logical[MAX_OUTPUTS];
  size_t bytes;
  TRY(ARENA_NEW(lower->arena, shapes, n_in));
  for (int i = 0; i < n_in; i++)
    shapes[i] = in[i]->shape;
  TRY(probe_node(op, kind, in, shapes, n_in, attrs, n_attrs, n_out, &node));
  for (int i = 0; i < n_out; i++)
    logical[i] = graph_value(lower->probe, node->out[i])->shape;
  if (kind == OP_Expand) { /* repeats are not written out */
    *done = true;
    return term_broadcast(lower, in[0]->constant, logical[0], &out[0]);
  }
  if (keeps_repeats(kind)) {
    for (int i = 0; i < n_in; i++)
      shapes[i] = stored_shape(in[i]);
    TRY(probe_node(op, kind, in, shapes, n_in, attrs, n_attrs, n_out, &node));
  }
  if (!take(lower, node, &bytes))
    return OK;
  size_t room = bytes + (size_t)(n_in + n_out + 1) * 64;
  char *block = aligned_alloc(64, (room + 63) & ~(size_t)63);
  if (!block)
    return fail(E_MEMORY, "out of memory: %zu bytes", room);
  Status status = evaluate(lower, node, in, shapes, block, logical, out);
  free(block);
  *done = status == OK;
  return status;
}

/* Reads what is needed only once it is clear that the node can fold. */
static Status all_known(Lower *lower, Term *const *in, int n_in, bool *known) {
  *known = true;
  for (int i = 0; i < n_in && *known; i++)
    *known = in[i]->kind == TERM_ABSENT || term_readable(lower, in[i]);
  for (int i = 0; i < n_in && *known; i++)
    if (in[i]->kind != TERM_ABSENT)
      TRY(term_known(lower, in[i], known));
  return OK;
}

/* What pools regions takes as long as their contents say, which no shape bounds: it is left to run. */
static bool is_bounded(OpKind kind) {
  return kind != OP_RoiAlign && kind != OP_MaxRoiPool;
}

Status op_fold(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out, int n_out,
               bool *done) {
  Lower *lower = op->lower;
  bool known;
  char *key;
  size_t bytes;
  *done = false;
  TRY(all_known(lower, in, n_in, &known));
  if (!known || n_out > MAX_OUTPUTS || !is_bounded(kind))
    return OK;
  TRY(fold_key(lower, kind, in, n_in, attrs, n_attrs, n_out, &key, &bytes));
  Term **cached = map_find(lower->folded, key, bytes);
  if (cached) {
    memcpy(out, cached, (size_t)n_out * sizeof *out);
    *done = true;
    return OK;
  }
  TRY(compute(op, kind, in, n_in, attrs, n_attrs, out, n_out, done));
  if (!*done)
    return OK;
  cached = arena_copy(lower->arena, out, (size_t)n_out * sizeof *out);
  return cached ? map_put(lower->folded, key, bytes, cached) : status_code();
}
