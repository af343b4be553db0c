/* Fourier transforms over threads, several lines at once. */
#include "backend/reference/fourier.h"
#include "backend/cpu/split.h"

typedef struct {
  const Node *node;
  const Tensor *in, *out;
  const double *table;
  int64_t lines, of_task, at_once;
} Lines;

static Status lines_task(void *context, int64_t i, void *scratch) {
  const Lines *l = context;
  fourier_part(l->node, l->in, l->out, l->table, scratch, l->at_once, i * l->of_task,
               least((i + 1) * l->of_task, l->lines));
  return OK;
}

/* What a thread's own room does not hold goes line by line in the node's. */
CPU_KERNEL(DFT, .accepts = takes_floats, .workspace = fourier_workspace) {
  (void)state;
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  int64_t length = node_int(node, "length", 0);
  if (fourier_room_bytes(length, 1) > POOL_SCRATCH_BYTES)
    return reference_DFT.run(stream, node, in, out, workspace, state);
  Lines l = {.node = node, .in = in, .out = out, .table = workspace, .lines = fourier_lines(node, in)};
  l.at_once = FOURIER_LINES;
  while (fourier_room_bytes(length, l.at_once) > POOL_SCRATCH_BYTES)
    l.at_once /= 2;
  if (!l.lines)
    return OK;
  l.of_task = round_up(items_of_task(l.lines, length * 4), l.at_once);
  fourier_table(length, workspace);
  return pool_run(stream->pool, (l.lines + l.of_task - 1) / l.of_task, lines_task, &l);
}
