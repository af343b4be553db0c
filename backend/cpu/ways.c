/* Which way the cpu backend takes for a node, as the kernels themselves decide it. */
#include "backend/cpu/ways.h"

#include <stdio.h>
#include <string.h>

#include "backend/cpu/convolution_plan.h"
#include "backend/cpu/depthwise.h"
#include "backend/cpu/product_bf16.h"
#include "backend/reference/reference.h"

static const char by_reference[] = "the reference's loops", by_rows[] = "depthwise rows";

static Shape shape_of_output(const Graph *graph, const Node *node) {
  return graph_value(graph, node->out[0])->shape;
}

static const char *product_way(const Graph *graph, const Node *node, const Isa *isa, char text[WAY_BYTES]) {
  int first = node->op == OP_AccumulateMatMul || node->op == OP_ProductCrossEntropy;
  Tensor in[] = {kernel_input(graph, node, first), kernel_input(graph, node, first + 1)};
  if (product_is_bf16(in))
    snprintf(text, WAY_BYTES, "bfloat16 tiles %d x %d", isa->bf16.rows, isa->bf16.columns);
  else
    snprintf(text, WAY_BYTES, "packed tiles %d x %d", isa->tile_rows,
             2 * isa->vector_bytes / (int)dtype_bytes(in->dtype));
  return text;
}

/* What is convolved: X, W and Y are the node's first, second and result in another order each. */
static const char *convolution_way(const Graph *graph, const Node *node, char text[WAY_BYTES]) {
  Tensor a = kernel_input(graph, node, 0), b = kernel_input(graph, node, 1);
  Shape result = shape_of_output(graph, node);
  bool of_input = node->op == OP_ConvGradInput, of_weight = node->op == OP_ConvGradWeight;
  Convolution c = frame_convolution(of_input    ? convolution_of(node, result, b.shape, a.shape)
                                    : of_weight ? convolution_of(node, b.shape, result, a.shape)
                                                : convolution_of(node, a.shape, b.shape, result));
  size_t size = dtype_bytes(a.dtype);
  if (depthwise_takes(&c, a.dtype))
    return by_rows;
  Plan plan;
  Reach reach;
  Frame frame = frame_of_input(&c, false, &reach);
  bool takes = of_weight ? frame_measure(&frame, frame_most(&c, size)) : plan_sizes(&c, of_input, size, &plan);
  if (of_weight)
    plan.tiled = tiles_choose(&c, c.y, c.channels, c.filters, plan.tile);
  if (!takes)
    return by_reference;
  if (!plan.tiled)
    return of_weight ? "sweeps of taps" : "implicit product";
  size_t at = (size_t)snprintf(text, WAY_BYTES, "Winograd");
  for (int i = 0; i < AXES; i++)
    if (plan.tile[i] > 1)
      at += (size_t)snprintf(text + at, WAY_BYTES - at, at > 8 ? " x %d" : " %d", (int)plan.tile[i]);
  return text;
}

/* NULL: no loops of the instruction set. */
static const char *special_way(const Graph *graph, const Node *node, const Isa *isa, char text[WAY_BYTES]) {
  Tensor in = kernel_input(graph, node, 0);
  int64_t last = in.shape.rank - 1;
  bool narrow;
  switch (node->op) {
  case OP_MatMul:
  case OP_Gemm:
  case OP_AccumulateMatMul:
  case OP_ProductAdd:
  case OP_ProductGelu:
  case OP_ProductGeluGrad:
  case OP_ProductCrossEntropy:
    return product_way(graph, node, isa, text);
  case OP_Conv:
  case OP_ConvGradInput:
  case OP_ConvGradWeight:
    return convolution_way(graph, node, text);
  case OP_Attention:
  case OP_AttentionGrad:
    return !attention_takes(graph, node, &narrow) ? by_reference
           : narrow                               ? "attention in bfloat16 tiles"
                                                  : "attention in tiles";
  case OP_RecurrentSteps:
  case OP_RecurrentStepsGrad:
    return recurrent_takes(node, in.dtype) ? "packed steps" : by_reference;
  case OP_Exp:
  case OP_Tanh:
  case OP_Sigmoid:
  case OP_Erf:
  case OP_Gelu:
  case OP_GeluGrad:
  case OP_Swish:
  case OP_SwishGrad:
  case OP_SwiGLU:
  case OP_SwiGLUGrad:
    return in.dtype == F32 ? "functions" : NULL;
  case OP_Softmax:
    return in.dtype == F32 && node_int(node, "axis", 0) == last ? "functions" : NULL;
  case OP_CrossEntropy:
  case OP_CrossEntropyGrad:
    return in.dtype == F32 && node_int(node, "class_axis", 0) == last ? "functions" : by_reference;
  default:
    return NULL;
  }
}

void cpu_way(const Graph *graph, const Node *node, char text[WAY_BYTES]) {
  const Isa *isa;
  char what[WAY_BYTES];
  const char *way = isa_choose(&isa) == OK ? special_way(graph, node, isa, what) : NULL;
  if (way == by_rows)
    snprintf(text, WAY_BYTES, "%s", way);
  else if (way && way != by_reference)
    snprintf(text, WAY_BYTES, "%.40s, %.20s", way, isa->name);
  else if (way || backend_cpu.kernels[node->op] == backend_reference.kernels[node->op])
    snprintf(text, WAY_BYTES, "%s", by_reference);
  else
    snprintf(text, WAY_BYTES, "shared by threads");
}
