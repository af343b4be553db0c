/* What a node costs, and what a device can do. */
#ifndef GRAPH_COST_H
#define GRAPH_COST_H

#include <stddef.h>

typedef struct {
  double flops; /* a multiply-add is two */
  double bytes; /* read and written, each tensor once */
} Cost;

/* What of a device's rates operators reach: by kinds of operators, and of the bytes. */
enum { REACH_PRODUCT, REACH_CONVOLUTION, REACH_ATTENTION, REACH_OTHER, REACH_BYTES, REACHES };

typedef struct {
  char name[64];
  size_t memory_bytes;
  double flops_per_second;
  double tf32_flops_per_second, bf16_flops_per_second; /* of products that round float32 so; 0: they do not here */
  double narrow_flops_per_second;                      /* of products of what is stored in bfloat16; 0: as of float32 */
  double bytes_per_second;
  double host_bytes_per_second; /* between its memory and the host's, each way; 0: it is the host's */
  double node_overhead_seconds; /* of starting one kernel */
  double reach[REACHES];        /* parts of the rates; 0: all of it */
} DeviceSpec;

/* The roofline: overhead + max(flops / flop rate, bytes / byte rate), seconds; 0 for a cost of nothing (a view). */
double cost_seconds(Cost cost, const DeviceSpec *device);

#endif
