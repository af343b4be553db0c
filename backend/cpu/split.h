/* Running a kernel on parts of its tensors, a task each. */
#ifndef BACKEND_CPU_SPLIT_H
#define BACKEND_CPU_SPLIT_H

#include "backend/cpu/cpu.h"

/* Elements of a task: enough that starting it costs nothing, few enough to lie in a second-level cache. */
enum { TASK_ELEMENTS = 16384 };

/* In all of these, parts that are bfloat16 are float32 to the kernel: copies in the thread's scratch. */

/* Elementwise operators: inputs broadcast to out[0]. */
Status split_elementwise(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, Kernel *kernel);

/* Operators that treat every index of the axes before `axes` of out[0] alone; inputs and outputs broadcast to it. */
Status split_leading(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, int axes, Kernel *kernel);

/* KernelDef.narrow of split_elementwise, and of split_leading where `axes` is the node's axis: the copies of a part fit
 * a thread's scratch. */
bool split_takes_narrow(const Node *node, const Tensor *in, const Tensor *out);
bool split_takes_narrow_rows(const Node *node, const Tensor *in, const Tensor *out);

/* Operators that write inputs: those shaped like in[0] are split, the others given whole. */
Status split_inputs(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, Kernel *kernel);

/* Tasks of at least one of n items that have `elements` elements each: items of one task. */
int64_t items_of_task(int64_t n, int64_t elements);

/* SquaredNorm's tasks: elements of one, of which there are at most NORM_TASKS. */
enum { NORM_RUN = 65536, NORM_TASKS = 1024 };
static inline int64_t norm_of_task(int64_t elements) {
  return elements / NORM_TASKS < NORM_RUN ? NORM_RUN : elements / NORM_TASKS + 1;
}

#endif
