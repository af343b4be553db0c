/* From nodes to launches: attention, and rotary positions. */
#include "backend/cuda/cuda.h"
#include "backend/reference/attention.h"

/* Heads that the tiles hold, rows and steps between them that 32 bits count. */
static bool takes_attention(const Graph *graph, const Node *node) {
  Attention a = attention_in(graph, node);
  return takes_floats(graph, node) && a.size <= ATTENTION_SIZE && a.value_size <= ATTENTION_SIZE &&
         a.queries <= INT32_MAX / 4 && a.keys <= INT32_MAX / 4;
}

/* As attention_narrow, and the same where weights are dropped. */
static bool takes_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  Node plain = *node;
  plain.n_in = least(plain.n_in, attention_counter_input(node));
  return attention_narrow(&plain, in, out);
}

static size_t attention_sums(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Attention a = attention_in(graph, node);
  size_t size = graph_value(graph, node->in[ATTENTION_GRAD_MOST])->dtype == F64 ? sizeof(double) : sizeof(float);
  return (size_t)(a.batch * a.heads * a.queries) * ATTENTION_SUMS * size;
}

static bool begins_rows(const void *data, const AttentionPlace *p, int64_t size) {
  return (uintptr_t)data % 16 == 0 && (p->offset | p->batch | p->head | p->row | size) % 8 == 0;
}

/* On tensor cores; they drop no weights, and the largest score is of the largest product there. */
static bool multiplies_narrow(const AttentionWork *w, DType type) {
  return type == BF16 && !w->counter && w->a.scale > 0;
}

static AttentionWork work_of(const Node *node, const Tensor *in) {
  AttentionWork w = {.a = attention_of_tensors(node, in), .counter = attention_counter(node, in)};
  AttentionMask mask = attention_mask(node, in);
  w.mask = mask.data;
  w.mask_is_bool = mask.is_bool;
  for (int i = 0; i < 4; i++)
    w.mask_step[i] = mask.step[i];
  for (int i = 0; i < 3; i++) {
    const AttentionPlace *p = &w.a.operand[i];
    w.operand[i] = in[p->input].data;
    w.aligned[i] = begins_rows(w.operand[i], p, i == 2 ? w.a.value_size : w.a.size);
  }
  if (!w.counter)
    return w;
  w.factor = attention_factor(node);
  w.drawing = cuda_drawing(node, w.a.batch * w.a.heads * w.a.queries * w.a.keys);
  return w;
}

KERNEL(Attention, .accepts = takes_attention, .narrow = takes_narrow) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  AttentionWork w = work_of(node, in);
  w.y = out[0].data;
  w.most = out[1].data;
  w.log_sum = out[2].data;
  w.aligned[3] = begins_rows(w.y, &w.a.result, w.a.value_size);
  if (multiplies_narrow(&w, in->dtype))
    launch_attention_narrow(stream->cuda, &w);
  else
    launch_attention(stream->cuda, in->dtype, &w);
  return cuda_launched(stream, node);
}

KERNEL(AttentionGrad, .accepts = takes_attention, .narrow = takes_narrow, .workspace = attention_sums) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  AttentionWork w = work_of(node, in);
  w.y = in[ATTENTION_GRAD_Y].data;
  w.most = in[ATTENTION_GRAD_MOST].data;
  w.log_sum = in[ATTENTION_GRAD_LOG_SUM].data;
  w.dy = in[ATTENTION_GRAD_DY].data;
  w.room = workspace;
  for (int i = 0; i < 3; i++) {
    const AttentionPlace *p = &w.a.operand[i];
    w.slope[i] = out[p->cotangent].data;
    w.aligned[i] &= begins_rows(w.slope[i], p, i == 2 ? w.a.value_size : w.a.size);
  }
  w.aligned[3] = begins_rows(w.y, &w.a.result, w.a.value_size) && begins_rows(w.dy, &w.a.result, w.a.value_size);
  if (multiplies_narrow(&w, in->dtype))
    launch_attention_narrow_grad(stream->cuda, &w);
  else
    launch_attention_grad(stream->cuda, in->dtype, &w);
  return cuda_launched(stream, node);
}

/* X and Y of one type, cosines and sines of one; these are float32, too, where X is bfloat16. */
static bool rotary_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  (void)node;
  return in[0].dtype == BF16 && out[0].dtype == BF16 && in[1].dtype == in[2].dtype;
}

KERNEL(Rotary, .accepts = takes_floats, .narrow = rotary_narrow) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Shape lead = shape_of(out->shape.rank - 1, out->shape.dim);
  Tensor angles[2] = {in[1], in[2]};
  Walk w;
  if (!shape_elements(out->shape))
    return OK;
  for (int i = 0; i < 2; i++)
    angles[i].shape.rank--;
  walk_init(&w, lead, angles, 2);
  Steps rows = {.rank = w.rank, .n = shape_elements(lead)};
  for (int i = 0; i < w.rank; i++) {
    rows.dim[i] = w.dim[i];
    for (int k = 0; k < 2; k++)
      rows.step[k][i] = w.stride[k][i];
  }
  launch_rotary(stream->cuda, in->dtype, in[1].dtype, &rows, out->shape.dim[lead.rank], node_int(node, "inverse", 0),
                in[0].data, in[1].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}
