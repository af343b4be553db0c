/* What a node costs on a device. Invariant: a node that moves nothing and computes nothing takes no time. */
#include "graph/cost.h"

double cost_seconds(Cost cost, const DeviceSpec *device) {
  if (cost.bytes == 0 && cost.flops == 0)
    return 0;
  double compute = cost.flops / device->flops_per_second, memory = cost.bytes / device->bytes_per_second;
  return device->node_overhead_seconds + (compute > memory ? compute : memory);
}
