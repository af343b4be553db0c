/* Random cases of what picks and puts by index, and of the k largest. */
#include "tests/ops/draw.h"

static void draw_indices(Draw *d, Shape shape, int64_t limit) {
  *input(d, shape) = (CaseInput){
      .present = true, .dtype = between(d, 0, 1) ? I64 : I32, .shape = shape, .fill = FILL_INDEX, .limit = limit};
}

static void draw_elements(Draw *d) {
  Shape data = any_shape(d, 1, 4, 7), at = data;
  int axis = (int)between(d, 0, data.rank - 1);
  for (int i = 0; i < at.rank; i++)
    at.dim[i] = i == axis ? between(d, 1, 9) : between(d, 1, data.dim[i]);
  bool gather = d->c->op == OP_GatherElements;
  input(d, gather ? data : at);
  draw_indices(d, at, data.dim[axis]);
  output(d, gather ? at : data);
  put_int(d, "axis", axis);
  if (!gather)
    input(d, data);
}

static void draw_scatter_nd(Draw *d) {
  Shape data = any_shape(d, 1, 4, 6), at = any_shape(d, 0, 2, 5), updates = at;
  int depth = (int)between(d, 1, data.rank);
  int64_t least = data.dim[0];
  for (int i = 0; i < data.rank; i++) {
    if (i < depth)
      least = data.dim[i] < least ? data.dim[i] : least;
    else
      updates.dim[updates.rank++] = data.dim[i];
  }
  at.dim[at.rank++] = depth;
  input(d, updates);
  draw_indices(d, at, least);
  input(d, data);
  output(d, data);
}

/* How updates of one place are put together; products of few only, sums of whatever there is. */
static void draw_reduction(Draw *d) {
  static const char *const reductions[] = {"none", "add", "max", "min"};
  int64_t which = between(d, 0, 3);
  d->c->types = which ? TYPES_NUMBERS : TYPES_ALL;
  d->c->attrs[d->n_attrs++] = attr_string("reduction", reductions[which]);
  for (int i = 0; which > 1 && i < d->n_in; i++)
    if (!d->c->in[i].dtype)
      d->c->in[i].fill = FILL_DISTINCT;
}

static void draw_top_k(Draw *d) {
  Shape from = between(d, 0, 1) ? any_shape(d, 1, 3, 9) : shape_of(2, (int64_t[]){between(d, 1, 4), between(d, 1, 90)});
  Shape to = from;
  int axis = (int)between(d, 0, from.rank - 1);
  to.dim[axis] = between(d, 0, from.dim[axis]);
  d->c->types = TYPES_NUMBERS;
  input(d, from)->fill = FILL_DISTINCT;
  output(d, to);
  output(d, to);
  put_int(d, "axis", axis);
  put_int(d, "k", to.dim[axis]);
  put_int(d, "largest", between(d, 0, 1));
}

bool draw_index(Draw *d, OpKind op) {
  switch (op) {
  case OP_GatherElements:
    d->c->types = TYPES_ALL;
    draw_elements(d);
    return true;
  case OP_ScatterElements:
    draw_elements(d);
    draw_reduction(d);
    return true;
  case OP_ScatterND:
    draw_scatter_nd(d);
    draw_reduction(d);
    return true;
  case OP_TopK:
    draw_top_k(d);
    return true;
  default:
    return false;
  }
}
