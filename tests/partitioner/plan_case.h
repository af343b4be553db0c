/* What the tests of plans share: a device, a request, a graph of like layers. */
#ifndef TESTS_PARTITIONER_PLAN_CASE_H
#define TESTS_PARTITIONER_PLAN_CASE_H

#include "partitioner/plan/plan.h"
#include "tests/random_graph.h"

static const DeviceSpec device = {
    .name = "test", .flops_per_second = 1e9, .bytes_per_second = 1e9, .node_overhead_seconds = 1e-7};
static DeviceSpec devices[16];

static inline PlanRequest request_of(int ranks, int microbatches, const char *schedule) {
  for (int r = 0; r < 16; r++)
    devices[r] = device;
  return (PlanRequest){.model_hash = "0123456789abcdef",
                       .loss = "mse",
                       .optimizer = "adamw",
                       .device = "cpu",
                       .precision = "float32",
                       .ranks = ranks,
                       .chunks = 1,
                       .microbatches = microbatches,
                       .microbatch_size = ROWS,
                       .schedule = schedule,
                       .devices = devices,
                       .link = {.latency_seconds = 1e-7, .bytes_per_second = 1e9}};
}

/* `layers` of MatMul with a parameter of its own [width, width], bias, Tanh, on [rows, width]; trained by AdamW. */
static inline Graph *layers_of(Arena *arena, int layers, int rows, int width) {
  RandomGraph r = {0};
  ASSERT_OK(graph_create(arena, "layers", &r.g));
  Shape shape = shape_of(2, (int64_t[]){rows, width}), weight = shape_of(2, (int64_t[]){width, width});
  ValueId v = random_value(&r, "x", shape, ROLE_INPUT);
  ASSERT_OK(graph_add_input(r.g, v));
  for (int i = 0; i < layers; i++) {
    v = random_node(&r, OP_MatMul, (ValueId[]){v, random_value(&r, "w", weight, ROLE_PARAMETER)}, 2, NULL, 0, 1);
    ValueId bias = random_value(&r, "b", shape_of(1, (int64_t[]){width}), ROLE_PARAMETER);
    v = random_node(&r, OP_Add, (ValueId[]){v, bias}, 2, NULL, 0, 1);
    v = random_node(&r, OP_Tanh, &v, 1, NULL, 0, 1);
  }
  return random_train(&r, v);
}

#endif
