/* What a kernel reports that met a number which it cannot use: the host fails with it when it next waits. */
#ifndef BACKEND_CUDA_FAULT_CUH
#define BACKEND_CUDA_FAULT_CUH

#include "backend/cuda/steps.cuh"

DEVICE int64_t index_at(DType type, const void *indices, int64_t i) {
  return type == I64 ? ((const int64_t *)indices)[i] : ((const int32_t *)indices)[i];
}

DEVICE void report(const Reporter &reporter, int axis, const Shape &shape, int64_t position, int64_t value,
                   double number0 = 0, double number1 = 0, double number2 = 0) {
  Fault *fault = reporter.fault;
  if (!claim(reporter.claimed))
    return;
  fault->node = reporter.node;
  fault->axis = axis;
  fault->shape = shape;
  fault->position = position;
  fault->value = value;
  fault->number[0] = number0;
  fault->number[1] = number1;
  fault->number[2] = number2;
  fault->is_there = 1;
}

#endif
