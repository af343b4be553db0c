/* Attention, one query behind the other. Invariant: weights and sums in double; those over a query's keys go from the
 * first key on, those over a key's queries from the first head and query on. A query that may see no key gives 0 and
 * hands no gradient on; its largest score is minus infinity. What all operands are bfloat16 of multiplies bfloat16. */
#include "backend/reference/attention.h"

#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"
#include "graph/narrow.h"

AttentionMask attention_mask(const Node *node, const Tensor *in) {
  AttentionMask m = {0};
  int i = attention_mask_input(node);
  if (node->n_in <= i || !in[i].data)
    return m;
  const Tensor *mask = &in[i];
  int64_t step = 1;
  m.data = mask->data;
  m.is_bool = mask->dtype == BOOL;
  for (int k = mask->shape.rank - 1, axis = 3; k >= 0; k--, axis--) {
    m.step[axis] = mask->shape.dim[k] == 1 ? 0 : step;
    step *= mask->shape.dim[k];
  }
  return m;
}

const int64_t *attention_counter(const Node *node, const Tensor *in) {
  return attention_drops(node) ? in[attention_counter_input(node)].data : NULL;
}

double attention_factor(const Node *node) {
  double ratio = node_float(node, "ratio", 0.5);
  return ratio < 1 ? 1 / (1 - ratio) : 0;
}

/* What the weights of query number `row` of all are multiplied by [keys]. work: as many bytes. */
static void find_kept(const Node *node, const Tensor *in, const Attention *a, int64_t row, double factor, double *kept,
                      uint8_t *work) {
  const int64_t *counter = attention_counter(node, in);
  if (counter)
    draw_kept(node, counter, a->batch * a->heads * a->queries * a->keys, row * a->keys, a->keys, work);
  for (int64_t j = 0; j < a->keys; j++)
    kept[j] = !counter ? 1 : work[j] ? factor : 0;
}

Attention attention_of_tensors(const Node *node, const Tensor *in) {
  Shape shapes[3] = {in[0].shape, in[1].shape, in[2].shape};
  return attention_of(node, shapes);
}

bool attention_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  bool narrow = !attention_drops(node), backward = node->op == OP_AttentionGrad;
  for (int i = 0; i < node->n_in; i++) {
    bool statistic = backward && (i == ATTENTION_GRAD_MOST || i == ATTENTION_GRAD_LOG_SUM);
    bool wide = statistic || i == attention_mask_input(node);
    if (node->in[i] != NO_VALUE)
      narrow &= wide ? in[i].dtype != BF16 : in[i].dtype == BF16;
  }
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      narrow &= !backward && i ? out[i].dtype == F32 : out[i].dtype == BF16;
  return narrow;
}

bool attention_narrow_in(const Graph *graph, const Node *node) {
  Tensor in[ATTENTION_GRAD_COUNTER + 1] = {{0}}, out[3] = {{0}};
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE)
      in[i].dtype = graph_value(graph, node->in[i])->dtype;
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      out[i].dtype = graph_value(graph, node->out[i])->dtype;
  return attention_narrow(node, in, out);
}

/* T: of operands and results, and its numbers: READ, WRITE; SUMS: of statistics and masks; ROUND: what is multiplied.
 */
#define T float
#define SUMS float
#define READ(x) (double)(x)
#define WRITE(x) (T)(x)
#define ROUND(x) (x)
#define S(name) name##_f32
#include "backend/reference/attention.inc"
#undef T
#undef SUMS
#undef S

#define T double
#define SUMS double
#define S(name) name##_f64
#include "backend/reference/attention.inc"
#undef T
#undef SUMS
#undef READ
#undef WRITE
#undef ROUND
#undef S

#define T uint16_t
#define SUMS float
#define READ(x) (double)bf16_value(x)
#define WRITE(x) bf16_bits((float)(x))
#define ROUND(x) READ(WRITE(x))
#define S(name) name##_bf16
#include "backend/reference/attention.inc"
#undef T
#undef SUMS
#undef READ
#undef WRITE
#undef ROUND
#undef S

/* A query's weights, what they are multiplied by, and its sums. */
static size_t forward_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Attention a = attention_in(graph, node);
  return (size_t)(3 * a.keys + a.value_size) * sizeof(double);
}

/* The same; a group's sums. */
static size_t backward_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Attention a = attention_in(graph, node);
  return (size_t)(a.keys * (3 + a.size + a.value_size) + a.size) * sizeof(double);
}

KERNEL(Attention, .accepts = takes_floats, .narrow = attention_narrow, .workspace = forward_workspace) {
  (void)stream, (void)state;
  switch (in[0].dtype) {
    CASE(F32, forward_f32(node, in, out, workspace))
    CASE(F64, forward_f64(node, in, out, workspace))
    CASE(BF16, forward_bf16(node, in, out, workspace))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}

KERNEL(AttentionGrad, .accepts = takes_floats, .narrow = attention_narrow, .workspace = backward_workspace) {
  (void)stream, (void)state;
  switch (in[0].dtype) {
    CASE(F32, backward_f32(node, in, out, workspace))
    CASE(F64, backward_f64(node, in, out, workspace))
    CASE(BF16, backward_bf16(node, in, out, workspace))
  default:
    return unsupported_type(node, in[0].dtype);
  }
}
