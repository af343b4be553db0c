/* The rules of the operators, applied and proved. Invariant: after batch_prove a value is BATCH_NONE or BATCH_AXIS only
 * where its shape and its known contents in both graphs say so, too. */
#include "graph/batch.h"

#include <string.h>

#include "base/checked.h"
#include "graph/op.h"

Status batch_copy(Graph *graph, ValueId value, const Batch *batch) {
  Batch *to = &graph_value(graph, value)->batch;
  *to = *batch;
  if (to->by)
    to->by = arena_string(graph->arena, to->by);
  return batch->by && !to->by ? status_code() : OK;
}

static Status set_mixed(Graph *graph, ValueId value, const char *by) {
  Batch mixed = {.kind = BATCH_MIXED, .by = by};
  return batch_copy(graph, value, &mixed);
}

static Status describe(Graph *graph, const Node *node, const char *format, const char **text) {
  *text = arena_format(graph->arena, format, node->name, op_def(node->op)->name);
  return *text ? OK : status_code();
}

static Status mix_outputs(Graph *graph, const Node *node, const char *by) {
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      TRY(set_mixed(graph, node->out[i], by));
  return OK;
}

/* By the rule alone. */
Status batch_infer(Graph *graph, const Node *node) {
  const OpDef *def = op_def(node->op);
  bool any = false, uniform = !(def->traits & OP_RANDOM);
  Batch *in, *out;
  TRY(ARENA_NEW(graph->arena, in, node->n_in));
  TRY(ARENA_NEW(graph->arena, out, node->n_out));
  for (int i = 0; i < node->n_in; i++) {
    if (node->in[i] == NO_VALUE)
      continue;
    in[i] = graph_value(graph, node->in[i])->batch;
    if (in[i].kind == BATCH_MIXED)
      return mix_outputs(graph, node, in[i].by);
    any |= in[i].kind == BATCH_AXIS;
    uniform &= (in[i].kind != BATCH_AXIS || in[i].uniform) && graph_value(graph, node->in[i])->role != ROLE_COUNTER;
  }
  if (any && !def->batch) {
    for (int i = 0; i < node->n_out; i++)
      out[i].kind = BATCH_MIXED;
  } else if (any) {
    def->batch(graph, node, in, out);
  }
  for (int i = 0; i < node->n_out; i++) {
    if (node->out[i] == NO_VALUE)
      continue;
    Value *v = graph_value(graph, node->out[i]);
    v->batch = out[i];
    if (out[i].kind == BATCH_AXIS) {
      v->batch.uniform = uniform;
      if (out[i].axis >= v->shape.rank ||
          (graph->samples && v->shape.dim[out[i].axis] != out[i].outer * graph->samples * out[i].inner))
        v->batch.kind = BATCH_MIXED;
    }
    if (v->batch.kind == BATCH_MIXED)
      TRY(describe(graph, node, "node '%s' (%s)", &v->batch.by));
  }
  return OK;
}

/* The one axis in which two shapes of a value differ, as the numbers of samples do: it has *each places a sample. */
static bool grown_axis(const Graph *a, Shape in_a, const Graph *b, Shape in_b, int *axis, int64_t *each) {
  *axis = -1;
  if (in_a.rank != in_b.rank)
    return false;
  for (int i = 0; i < in_a.rank; i++) {
    if (in_a.dim[i] == in_b.dim[i])
      continue;
    *each = in_a.dim[i] / a->samples;
    if (*axis >= 0 || in_a.dim[i] != *each * a->samples || in_b.dim[i] != *each * b->samples)
      return false;
    *axis = i;
  }
  return *axis >= 0;
}

/* Whether every sample has the same contents, `each` rows along the axis. */
static bool is_uniform(const Value *v, int axis, int64_t each) {
  size_t row = dtype_bytes(v->dtype) * (size_t)each;
  int64_t outer = 1, samples = v->shape.dim[axis] / each;
  for (int i = axis + 1; i < v->shape.rank; i++)
    row *= (size_t)v->shape.dim[i];
  for (int i = 0; i < axis; i++)
    outer *= v->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    for (int64_t s = 1; s < samples; s++) {
      const char *first = (const char *)v->data + (size_t)(o * samples) * row;
      if (memcmp(first, first + (size_t)s * row, row) != 0)
        return false;
    }
  return true;
}

/* Whether the first sample has the same contents in both. */
static bool same_first(const Value *a, const Value *b, int axis, int64_t each) {
  size_t row = dtype_bytes(a->dtype) * (size_t)each, all_a = (size_t)(a->shape.dim[axis] / each),
         all_b = (size_t)(b->shape.dim[axis] / each);
  int64_t outer = 1;
  for (int i = axis + 1; i < a->shape.rank; i++)
    row *= (size_t)a->shape.dim[i];
  for (int i = 0; i < axis; i++)
    outer *= a->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    if (memcmp((const char *)a->data + (size_t)o * all_a * row, (const char *)b->data + (size_t)o * all_b * row, row) !=
        0)
      return false;
  return true;
}

/* Contents that grow with the samples: the same for each of them, or more by a step, and so in both graphs? */
static bool read_samples(const Value *a, const Value *b, int axis, int64_t each, Batch *batch) {
  Batch twin;
  if (!same_first(a, b, axis, each))
    return false;
  *batch = (Batch){.kind = BATCH_AXIS, .axis = axis, .outer = 1, .inner = each, .uniform = true};
  if (is_uniform(a, axis, each) && is_uniform(b, axis, each))
    return true;
  return batch_read_steps(a, axis, each, batch) && batch_read_steps(b, axis, each, &twin) && batch->step == twin.step &&
         batch->address == twin.address;
}

/* One known float for each sample; 0 where it is none. */
static double number_per_sample(const Graph *graph, const Value *v) {
  if (!v->data || shape_elements(v->shape) != 1 || (v->dtype != F32 && v->dtype != F64))
    return 0;
  return (v->dtype == F64 ? *(const double *)v->data : (double)*(const float *)v->data) / (double)graph->samples;
}

/* A value that no node makes, as an input of `node`. */
static Status prove_source(Graph *graph, const Node *node, ValueId id, const Graph *other, ValueId twin) {
  Value *a = graph_value(graph, id);
  const Value *b = graph_value(other, twin);
  bool same_shape = shape_equal(a->shape, b->shape);
  int axis;
  int64_t each = 0;
  if (a->role == ROLE_INPUT || (!a->data && !b->data && same_shape))
    return OK;
  a->batch = (Batch){0};
  if (a->data && b->data && a->dtype == b->dtype) {
    if (same_shape && memcmp(a->data, b->data, graph_value_bytes(graph, id)) == 0)
      return OK;
    if (grown_axis(graph, a->shape, other, b->shape, &axis, &each) && each && read_samples(a, b, axis, each, &a->batch))
      return OK;
  }
  const char *by;
  TRY(describe(graph, node, "node '%s' (%s), by a number that comes from how many samples there are", &by));
  TRY(set_mixed(graph, id, by));
  if (same_shape && number_per_sample(graph, a) == number_per_sample(other, b))
    a->batch.per_sample = number_per_sample(graph, a);
  return OK;
}

/* Whether both compute the same but for shapes, which are compared elsewhere. */
static bool attributes_equal(const Node *a, const Node *b) {
  for (int i = 0; i < a->n_attrs; i++) {
    bool is_shape = strcmp(a->attrs[i].name, "shape") == 0;
    if (is_shape ? strcmp(b->attrs[i].name, "shape") != 0 : !attr_equal(&a->attrs[i], &b->attrs[i]))
      return false;
  }
  return true;
}

/* The same place of both graphs: the operator, and what of each input is there and made by a node, which one. */
static bool corresponds(const Graph *a, const Node *node, const Graph *b, size_t index) {
  if (index >= b->n_nodes)
    return false;
  const Node *twin = b->nodes[index];
  if (node->op != twin->op || node->n_in != twin->n_in || node->n_out != twin->n_out || node->n_attrs != twin->n_attrs)
    return false;
  for (int i = 0; i < node->n_in; i++) {
    if ((node->in[i] == NO_VALUE) != (twin->in[i] == NO_VALUE))
      return false;
    if (node->in[i] == NO_VALUE)
      continue;
    const Value *v = graph_value(a, node->in[i]), *w = graph_value(b, twin->in[i]);
    if (v->producer != w->producer || v->role != w->role || v->initializer != w->initializer ||
        (v->role == ROLE_INPUT && strcmp(v->name, w->name) != 0))
      return false;
  }
  return true;
}

/* What the rule said, against both shapes. */
static Status prove_output(Graph *graph, const Node *node, int i, const Graph *other) {
  Value *a = graph_value(graph, node->out[i]);
  const Value *b = graph_value(other, other->nodes[node->id]->out[i]);
  int axis;
  int64_t each = 0;
  bool grown = grown_axis(graph, a->shape, other, b->shape, &axis, &each), good = true;
  if (a->batch.kind == BATCH_MIXED) {
    a->batch.grows = !shape_equal(a->shape, b->shape);
    return OK;
  }
  if (a->batch.kind == BATCH_AXIS)
    good = grown && axis == a->batch.axis && each == a->batch.outer * a->batch.inner;
  else if (grown && node->op == OP_Expand)
    a->batch = (Batch){.kind = BATCH_AXIS, .axis = axis, .outer = 1, .inner = each, .uniform = true};
  else
    good = shape_equal(a->shape, b->shape);
  if (good)
    return OK;
  const char *by;
  TRY(describe(graph, node, "node '%s' (%s), whose shape comes from how many samples there are", &by));
  TRY(set_mixed(graph, node->out[i], by));
  a->batch.grows = true;
  return OK;
}

/* Whether elements stay apart: they are moved or repeated, or made each of one element of the same value and of
 * numbers, of which none is the sample's own. */
static bool keeps_apart(const Graph *graph, const Node *node) {
  unsigned traits = op_def(node->op)->traits;
  ValueId of = NO_VALUE;
  bool reverses = node->op == OP_Slice &&
                  shape_equal(graph_value(graph, node->in[0])->shape, graph_value(graph, node->out[0])->shape);
  if (!(traits & (OP_ELEMENTWISE | OP_PERMUTES)) && node->op != OP_Reshape && node->op != OP_Expand && !reverses)
    return false;
  for (int i = 0; i < node->n_in; i++) {
    if (node->in[i] == NO_VALUE)
      continue;
    const Value *v = graph_value(graph, node->in[i]);
    if (v->batch.kind == BATCH_NONE && shape_elements(v->shape) == 1)
      continue;
    if (v->batch.kind == BATCH_NONE || (v->batch.kind == BATCH_MIXED && !v->batch.apart) || v->batch.step ||
        (of != NO_VALUE && of != node->in[i]))
      return false;
    of = node->in[i];
  }
  return of != NO_VALUE && node->n_out == 1;
}

/* Whether each sample has as many elements of the node's output in both graphs. */
static bool has_as_many(const Graph *graph, const Node *node, const Graph *other) {
  int64_t in_a = shape_elements(graph_value(graph, node->out[0])->shape), in_b, all_a, all_b;
  in_b = shape_elements(graph_value(other, other->nodes[node->id]->out[0])->shape);
  return checked_mul_i64(in_a, other->samples, &all_a) && checked_mul_i64(in_b, graph->samples, &all_b) &&
         all_a == all_b;
}

static Status prove_node(Graph *graph, const Node *node, const Graph *other) {
  const Node *twin = other->nodes[node->id];
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE && graph_value(graph, node->in[i])->producer == NO_NODE)
      TRY(prove_source(graph, node, node->in[i], other, twin->in[i]));
  TRY(batch_infer(graph, node));
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      TRY(prove_output(graph, node, i, other));
  if (attributes_equal(node, twin)) {
    if (node->n_out && node->out[0] != NO_VALUE)
      graph_value(graph, node->out[0])->batch.apart = graph_value(graph, node->out[0])->batch.kind == BATCH_MIXED &&
                                                      keeps_apart(graph, node) && has_as_many(graph, node, other);
    return OK;
  }
  const char *by;
  TRY(describe(graph, node, "node '%s' (%s), by a number that comes from how many samples there are", &by));
  TRY(mix_outputs(graph, node, by));
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      TRY(prove_output(graph, node, i, other));
  return OK;
}

/* An output that other nodes make with other numbers of samples. */
static Status mix_output(Graph *graph, ValueId id) {
  TRY(set_mixed(graph, id, "nodes that are others with other numbers of samples"));
  graph_value(graph, id)->batch.grows = true;
  return OK;
}

/* Everything from a node on. */
static Status mix_from(Graph *graph, size_t first) {
  const char *by;
  if (first >= graph->n_nodes)
    return OK;
  TRY(describe(graph, graph->nodes[first], "node '%s' (%s), which is another with other numbers of samples", &by));
  for (size_t i = first; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    TRY(mix_outputs(graph, node, by));
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        graph_value(graph, node->out[k])->batch.grows = true;
  }
  return OK;
}

Status batch_prove(Graph *graph, const Graph *other) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    if (!other)
      TRY(batch_infer(graph, node));
    else if (!corresponds(graph, node, other, i))
      return mix_from(graph, i);
    else
      TRY(prove_node(graph, node, other));
  }
  for (size_t i = 0; other && i < graph->n_outputs; i++)
    if (graph_value(graph, graph->outputs[i])->producer != graph_value(other, other->outputs[i])->producer)
      TRY(mix_output(graph, graph->outputs[i]));
  return OK;
}

/* The size at `samples` of an axis that has these sizes in two graphs; -1 where it is no whole number. */
static int64_t size_at(int64_t in_a, const Graph *a, int64_t in_b, const Graph *b, int64_t samples) {
  int64_t change = (in_b - in_a) * (samples - a->samples), step = b->samples - a->samples;
  return change % step ? -1 : in_a + change / step;
}

static bool shape_as_proved(const Graph *a, const Value *in_a, const Graph *b, const Value *in_b, const Graph *graph,
                            const Value *v) {
  if (v->shape.rank != in_a->shape.rank || v->shape.rank != in_b->shape.rank)
    return false;
  for (int i = 0; i < v->shape.rank; i++)
    if (v->shape.dim[i] != size_at(in_a->shape.dim[i], a, in_b->shape.dim[i], b, graph->samples))
      return false;
  return true;
}

/* Whether the samples of v are what `batch` says of those of a. */
static bool same_samples(const Value *a, const Value *v, const Batch *batch) {
  int64_t each = batch->outer * batch->inner, n = v->shape.dim[batch->axis] / each;
  Batch read;
  if (!same_first(a, v, batch->axis, each))
    return false;
  if (batch->uniform)
    return is_uniform(v, batch->axis, each);
  return n < 2 ||
         (batch_read_steps(v, batch->axis, each, &read) && read.step == batch->step && read.address == batch->address);
}

/* Known contents at this number of samples are what they are at the others. */
static bool contents_as_proved(const Graph *a, const Value *in_a, const Graph *b, const Value *in_b, const Graph *graph,
                               const Value *v) {
  if (!in_a->data != !v->data || v->dtype != in_a->dtype || !shape_as_proved(a, in_a, b, in_b, graph, v))
    return false;
  if (!v->data)
    return true;
  if (in_a->batch.kind == BATCH_AXIS)
    return same_samples(in_a, v, &in_a->batch);
  return memcmp(in_a->data, v->data, shape_elements(v->shape) * dtype_bytes(v->dtype)) == 0;
}

/* A value that no node makes, as an input of `node`. */
static Status transfer_source(const Graph *proved, ValueId from, const Graph *other, ValueId twin, Graph *graph,
                              const Node *node, ValueId to) {
  const Value *known = graph_value(proved, from), *v = graph_value(graph, to);
  const char *by;
  if (v->batch.kind == BATCH_MIXED)
    return OK;
  if (known->batch.kind == BATCH_MIXED) {
    TRY(batch_copy(graph, to, &known->batch));
    if (number_per_sample(graph, v) != known->batch.per_sample)
      graph_value(graph, to)->batch.per_sample = 0;
    return OK;
  }
  if (contents_as_proved(proved, known, other, graph_value(other, twin), graph, v))
    return batch_copy(graph, to, &known->batch);
  TRY(describe(graph, node, "node '%s' (%s), by a number that comes from how many samples there are", &by));
  return set_mixed(graph, to, by);
}

/* What was proved of the node's outputs, where it holds for this number of samples. */
static Status transfer_node(const Graph *proved, const Graph *other, Graph *graph, const Node *node) {
  const Node *known = proved->nodes[node->id], *twin = other->nodes[node->id];
  const char *by = NULL;
  for (int k = 0; k < node->n_in; k++) {
    if (node->in[k] == NO_VALUE)
      continue;
    if (graph_value(graph, node->in[k])->producer == NO_NODE)
      TRY(transfer_source(proved, known->in[k], other, twin->in[k], graph, node, node->in[k]));
    const Batch *batch = &graph_value(graph, node->in[k])->batch;
    if (!by && batch->kind == BATCH_MIXED && graph_value(proved, known->in[k])->batch.kind != BATCH_MIXED)
      by = batch->by;
  }
  bool same = attributes_equal(node, known);
  for (int k = 0; k < node->n_out && same; k++)
    if (node->out[k] != NO_VALUE && graph_value(proved, known->out[k])->batch.kind != BATCH_MIXED)
      same = shape_as_proved(proved, graph_value(proved, known->out[k]), other, graph_value(other, twin->out[k]), graph,
                             graph_value(graph, node->out[k]));
  if (!by && !same)
    TRY(describe(graph, node, "node '%s' (%s), which is another with other numbers of samples", &by));
  for (int k = 0; k < node->n_out; k++) {
    if (node->out[k] == NO_VALUE)
      continue;
    const Batch *batch = &graph_value(proved, known->out[k])->batch;
    if (!by || batch->kind == BATCH_MIXED) {
      TRY(batch_copy(graph, node->out[k], batch));
      graph_value(graph, node->out[k])->batch.apart &=
          !by && keeps_apart(graph, node) &&
          shape_as_proved(proved, graph_value(proved, known->out[k]), other, graph_value(other, twin->out[k]), graph,
                          graph_value(graph, node->out[k]));
      continue;
    }
    TRY(set_mixed(graph, node->out[k], by));
    graph_value(graph, node->out[k])->batch.grows = batch->kind == BATCH_AXIS;
  }
  return OK;
}

Status batch_transfer(const Graph *proved, const Graph *other, Graph *graph) {
  size_t same = 0;
  while (same < graph->n_nodes && same < other->n_nodes && corresponds(graph, graph->nodes[same], proved, same) &&
         corresponds(graph, graph->nodes[same], other, same))
    same++;
  for (size_t i = 0; i < same; i++)
    TRY(transfer_node(proved, other, graph, graph->nodes[i]));
  TRY(mix_from(graph, same));
  for (size_t i = 0; i < graph->n_outputs; i++) /* nodes may be missing at the end, too */
    if (i >= proved->n_outputs ||
        graph_value(graph, graph->outputs[i])->producer != graph_value(proved, proved->outputs[i])->producer)
      TRY(mix_output(graph, graph->outputs[i]));
  return OK;
}

bool batch_couples(const Graph *graph, const Node *node) {
  return op_def(node->op)->traits & OP_COUPLES && graph_value(graph, node->out[0])->batch.kind == BATCH_AXIS &&
         graph_value(graph, node->out[1])->batch.kind == BATCH_MIXED;
}

/* Of attributes that the node was made with. */
static void set_int(Node *node, const char *name, int64_t i) {
  for (int k = 0; k < node->n_attrs; k++)
    if (strcmp(node->attrs[k].name, name) == 0)
      node->attrs[k].i = i;
}

/* What lies as that which a node draws does, of which each element stands for so many draws; NULL: it draws nothing.
 * One that draws on the way to its results says `drawn`: so many for each element of its second one. */
static const Value *like_draws(const Graph *graph, const Node *node, int64_t *each) {
  *each = 1;
  if (op_def(node->op)->traits & OP_RANDOM)
    return graph_value(graph, node->out[0]);
  *each = node_int(node, "drawn", 0);
  return *each ? graph_value(graph, node->out[1]) : NULL;
}

void batch_place_draws(Graph *graph) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    Node *node = graph->nodes[i];
    int64_t each;
    const Value *v = like_draws(graph, node, &each);
    if (!v || v->batch.kind == BATCH_NONE)
      continue;
    int64_t outer = 1, inner = each;
    bool along = v->batch.kind == BATCH_AXIS;
    for (int k = 0; along && k < v->batch.axis; k++)
      outer *= v->shape.dim[k];
    for (int k = along ? v->batch.axis + 1 : 0; k < v->shape.rank; k++)
      inner *= v->shape.dim[k];
    set_int(node, "per_sample", 1);
    set_int(node, "outer", along ? outer * v->batch.outer : 1);
    set_int(node, "inner", along ? inner * v->batch.inner : inner);
  }
}

Status batch_doubt(Graph *graph, const char *why) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    TRY(batch_infer(graph, node));
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE && graph_value(graph, node->out[k])->batch.kind != BATCH_NONE) {
        TRY(set_mixed(graph, node->out[k], why));
        graph_value(graph, node->out[k])->batch.grows = true;
      }
  }
  return OK;
}
