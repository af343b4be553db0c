/* Elements by index, and the k largest, over threads: no two tasks write to one place. */
#include "backend/cpu/split.h"
#include "backend/reference/parts.h"

typedef Status Part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);

typedef struct {
  const Node *node;
  const Tensor *in, *out;
  Part *part;
  int64_t n, of_task;
} Parts;

static Status part_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Parts *p = context;
  return p->part(p->node, p->in, p->out, i * p->of_task, least((i + 1) * p->of_task, p->n));
}

/* n items of so many elements each, in tasks of whole multiples of `unit`. */
static Status run_parts(Stream *stream, Parts *p, int64_t elements, int64_t unit) {
  if (!p->n || !unit)
    return OK;
  p->of_task = round_up(items_of_task(p->n, elements), unit);
  return pool_run(stream->pool, (p->n + p->of_task - 1) / p->of_task, part_task, p);
}

CPU_KERNEL(GatherElements, .accepts = takes_any) {
  CPU_UNUSED;
  Parts p = {node, in, out, gather_elements_part, element_runs(&in[1]), 0};
  return run_parts(stream, &p, p.n ? shape_elements(in[1].shape) / p.n : 0, 1);
}

CPU_KERNEL(ScatterElements, .accepts = takes_puts) {
  CPU_UNUSED;
  Parts p = {node, in, out, scatter_elements_part, element_runs(&in[1]), 0};
  put_begin(node, in, out);
  return run_parts(stream, &p, p.n ? shape_elements(in[1].shape) / p.n : 0, runs_that_meet(node, &in[1]));
}

CPU_KERNEL(TopK, .accepts = takes_numbers) {
  CPU_UNUSED;
  Parts p = {node, in, out, top_k_part, top_k_lines(node, out), 0};
  return run_parts(stream, &p, in->shape.dim[node_int(node, "axis", 0)], 1);
}
