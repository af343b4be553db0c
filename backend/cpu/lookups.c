/* Updates and norms of tables whose gradients are rows, over threads: a row, or an element where all of the table is
 * updated, is one task's. */
#include "backend/cpu/split.h"
#include "backend/reference/parts.h"

typedef struct {
  const Node *node;
  const Tensor *in;
  const Lookup *lookups;
  int64_t n;              /* lookups */
  int64_t whole, of_task; /* lookups, or elements of the table */
  int64_t microbatch;     /* that is filled */
  double *sums;
} Rows;

static Status accumulate_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  return accumulate_rows_part(r->node, r->in, r->microbatch, i * r->of_task, least((i + 1) * r->of_task, r->n));
}

CPU_KERNEL(AccumulateRows, .accepts = takes_floats) {
  (void)out, (void)workspace, (void)state;
  Rows r = {.node = node, .in = in, .n = in[1].shape.dim[1], .microbatch = empty_microbatch(&in[1])};
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  if (!r.n)
    return OK;
  r.of_task = items_of_task(r.n, shape_elements(in[2].shape) / r.n);
  return pool_run(stream->pool, (r.n + r.of_task - 1) / r.of_task, accumulate_task, &r);
}

static Status update_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  return update_rows_part(r->node, r->in, r->lookups, r->n, i * r->of_task, least((i + 1) * r->of_task, r->whole));
}

static Status update(Stream *stream, const Node *node, const Tensor *in, void *workspace) {
  Rows r = {.node = node, .in = in};
  Shape table = in[0].shape;
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  r.lookups = lookups_sort(node, in, workspace, &r.n);
  bool whole = updates_whole(node, in);
  r.whole = whole ? shape_elements(table) : r.n;
  if (!r.whole)
    return OK;
  r.of_task = items_of_task(r.whole, whole ? 1 : shape_elements(shape_of(table.rank - 1, table.dim + 1)));
  return pool_run(stream->pool, (r.whole + r.of_task - 1) / r.of_task, update_task, &r);
}

CPU_KERNEL(SgdUpdateRows, .accepts = takes_floats, .workspace = lookups_workspace) {
  (void)out, (void)state;
  return update(stream, node, in, workspace);
}

CPU_KERNEL(AdamUpdateRows, .accepts = takes_floats, .workspace = lookups_workspace) {
  (void)out, (void)state;
  return update(stream, node, in, workspace);
}

CPU_KERNEL(SparseAdamUpdate, .accepts = takes_floats, .workspace = lookups_workspace) {
  (void)out, (void)state;
  return update(stream, node, in, workspace);
}

static Status norm_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  r->sums[i] = norm_rows_part(r->node, r->in, r->lookups, r->n, i * r->of_task, least((i + 1) * r->of_task, r->whole));
  return OK;
}

/* In the tasks of SquaredNorm, so that the sum has its bits. */
CPU_KERNEL(SquaredNormRows, .accepts = takes_floats, .workspace = lookups_workspace) {
  (void)state;
  double sums[NORM_TASKS], sum = 0;
  Rows r = {.node = node, .in = in, .whole = 1, .sums = sums};
  int rank;
  const int64_t *dims = node_ints(node, "shape", &rank);
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  for (int i = 0; i < rank; i++)
    r.whole *= dims[i];
  r.lookups = lookups_sort(node, in, workspace, &r.n);
  r.of_task = norm_of_task(r.whole);
  int64_t tasks = (r.whole + r.of_task - 1) / r.of_task;
  TRY(pool_run(stream->pool, tasks, norm_task, &r));
  for (int64_t i = 0; i < tasks; i++)
    sum += sums[i];
  *(double *)out->data = sum;
  return OK;
}
