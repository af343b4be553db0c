/* Targets are looked at before any row is multiplied: parts of them are told by their places among all. */
#include "backend/cuda/fault.cuh"

static GLOBAL void check_classes(Classes c, Reporter reporter, const void *target) {
  for (int64_t i = global_thread(); i < c.lines.outer; i += global_threads()) {
    int64_t value = index_at(c.target_type, target, i);
    if (value != c.ignored && (value < 0 || value >= c.lines.size))
      report(reporter, FAULT_TARGET, Shape{1, {c.lines.size}}, i, value);
  }
}

void launch_check_classes(cudaStream_t s, const Classes *classes, Reporter reporter, const void *target) {
  launch(check_classes, blocks_for(classes->lines.outer), BLOCK_THREADS, s, *classes, reporter, target);
}
