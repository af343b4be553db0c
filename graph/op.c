/* The table itself. Invariant: entry i belongs to OpKind i, by construction from ops.def. */
#include "graph/op.h"

#include <string.h>

static const OpDef *const table[OP_COUNT] = {
#define OP(name) &op_##name,
#include "graph/ops.def"
#undef OP
};

const OpDef *op_def(OpKind op) {
  return table[op];
}

OpKind op_find(const char *name) {
  for (int i = 0; i < OP_COUNT; i++)
    if (strcmp(table[i]->name, name) == 0)
      return (OpKind)i;
  return OP_COUNT;
}

Cost op_cost(const Graph *graph, const Node *node) {
  const OpDef *def = op_def(node->op);
  if (def->traits & OP_VIEW)
    return (Cost){0, 0};
  if (def->cost)
    return def->cost(graph, node);
  Cost cost = {0, 0};
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE)
      cost.bytes += (double)graph_value_bytes(graph, node->in[i]);
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE) {
      cost.bytes += (double)graph_value_bytes(graph, node->out[i]);
      cost.flops += (double)shape_elements(graph_value(graph, node->out[i])->shape);
    }
  return cost;
}

/* Whether a product multiplies bfloat16 numbers, since one of its operands is stored so. */
static bool is_narrow(const Graph *graph, const Node *node) {
  int first = op_def(node->op)->traits & OP_MUTATES_FIRST ? 1 : 0;
  return graph_value(graph, node->in[first])->dtype == BF16 || graph_value(graph, node->in[first + 1])->dtype == BF16;
}

/* The device's rates as nodes of this kind reach them. */
static DeviceSpec reached(DeviceSpec device, unsigned traits) {
  int kind = traits & OP_ATTENDS     ? REACH_ATTENTION
             : traits & OP_CONVOLVES ? REACH_CONVOLUTION
             : traits & OP_PRODUCT   ? REACH_PRODUCT
                                     : REACH_OTHER;
  double part = device.reach[kind] > 0 ? device.reach[kind] : 1;
  device.flops_per_second *= part;
  device.tf32_flops_per_second *= part;
  device.bf16_flops_per_second *= part;
  device.narrow_flops_per_second *= part;
  device.bytes_per_second *= device.reach[REACH_BYTES] > 0 ? device.reach[REACH_BYTES] : 1;
  return device;
}

double op_seconds(const Graph *graph, const Node *node, const DeviceSpec *device) {
  unsigned traits = op_def(node->op)->traits;
  DeviceSpec own = reached(*device, traits);
  bool product = traits & OP_PRODUCT, narrow = product && is_narrow(graph, node);
  double reduced = narrow                              ? own.narrow_flops_per_second
                   : node->precision == PRECISION_TF32 ? own.tf32_flops_per_second
                   : node->precision == PRECISION_BF16 ? own.bf16_flops_per_second
                                                       : 0;
  if (product && reduced > 0 && (narrow || graph_value(graph, node->in[0])->dtype == F32))
    own.flops_per_second = reduced;
  return cost_seconds(op_cost(graph, node), &own);
}
