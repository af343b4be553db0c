/* Steps that put elements by index or find the largest: along an axis, by known rows, or each sample into itself. */
#include <string.h>

#include "tests/batch/draw.h"

static bool top_k(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  int axis = v ? pick_axis(d, v) : -1;
  Dim dims[MOST_AXES];
  if (axis < 0 || d->opset < 11 || (dim_fixed(v->dim[axis]) && v->dim[axis].c < 1))
    return false;
  int64_t k = dim_fixed(v->dim[axis]) ? 1 + (int64_t)below(d, (unsigned)v->dim[axis].c) : 1;
  memcpy(dims, v->dim, sizeof dims);
  dims[axis] = fixed_dim(k);
  return result(d,
                add_node(d, "TopK", texts("%s,%s", v->name, add_ints(d, 1, &k)),
                         texts("axis:i=%d largest:i=%u", axis, below(d, 2))),
                REAL, v->rank, dims);
}

/* " reduction:s=add", or nothing. Without one only the last update of a place counts. */
static const char *reduction(Draw *d) {
  static const char *const how[] = {"none", "add", "mul", "max", "min"};
  return d->opset < 16 ? "" : texts(" reduction:s=%s", how[below(d, d->opset < 18 ? 3 : 5)]);
}

/* Each sample's integers say where in it the others' parts go. */
static bool elements(Draw *d) {
  const Drawn *ids = pick(d, INTEGER, 2), *v = pick(d, REAL, 2);
  if (!ids || !v || d->opset < 11 || ids->rank != v->rank || !dim_fixed(v->dim[1]) || v->dim[1].c < 3)
    return false;
  for (int i = 0; i < v->rank; i++)
    if (i != 1 && !dim_equal(ids->dim[i], v->dim[i]))
      return false;
  const char *updates = add_node(d, "GatherElements", texts("%s,%s", v->name, ids->name), "axis:i=1");
  updates = add_node(d, "Tanh", updates, "");
  return like(
      d,
      add_node(d, "ScatterElements", texts("%s,%s,%s", v->name, ids->name, updates), texts("axis:i=1%s", reduction(d))),
      v);
}

/* Known places of the first axis, the first twice. */
static bool rows(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  if (!v || d->opset < 11 || (!dim_fixed(v->dim[0]) && d->calm))
    return false;
  int64_t last = dim_fixed(v->dim[0]) ? (int64_t)below(d, (unsigned)v->dim[0].c) : 1;
  if (dim_fixed(v->dim[0]) && v->dim[0].c < 1)
    return false;
  const char *at = add_ints(d, 3, (int64_t[]){0, last, 0});
  const char *updates = add_node(d, "Gather", texts("%s,%s", v->name, at), "axis:i=0");
  updates = add_node(d, "Sigmoid", updates, "");
  const char *places = with_axes(d, "Unsqueeze", at, 1, (int64_t[]){1});
  return like(d, add_node(d, "ScatterND", texts("%s,%s,%s", v->name, places, updates), reduction(d)), v);
}

/* Each sample into itself, by its number: the whole of it, or the part that its own integer says. */
static bool own_rows(Draw *d) {
  const Drawn *v = pick(d, REAL, 1), *ids = pick(d, INTEGER, 1);
  const char *n = !v || d->opset < 12 || !dim_is_n(v->dim[0]) ? NULL : add_number(d, (Dim){.n = 1});
  if (!n)
    return false;
  const char *at = add_node(d, "Range", texts("%s,%s,%s", add_int(d, 0), n, add_int(d, 1)), "");
  at = with_axes(d, "Unsqueeze", at, 1, (int64_t[]){1});
  const char *updates = v->name;
  if (ids && ids->rank == 1 && dim_is_n(ids->dim[0]) && v->rank > 1 && dim_fixed(v->dim[1]) && v->dim[1].c >= 3) {
    const char *own = with_axes(d, "Unsqueeze", ids->name, 1, (int64_t[]){1});
    updates = add_node(d, "GatherND", texts("%s,%s", v->name, own), "batch_dims:i=1");
    at = add_node(d, "Concat", texts("%s,%s", at, own), "axis:i=1");
  }
  updates = add_node(d, "Tanh", updates, "");
  return like(d, add_node(d, "ScatterND", texts("%s,%s,%s", v->name, at, updates), reduction(d)), v);
}

bool draw_by_index(Draw *d) {
  switch (below(d, 4)) {
  case 0:
    return top_k(d);
  case 1:
    return elements(d);
  case 2:
    return rows(d);
  default:
    return own_rows(d);
  }
}
