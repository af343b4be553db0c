/* Random cases of tables whose gradients are rows. */
#include "tests/ops/draw.h"

static CaseInput places_of(Shape shape, int64_t rows) {
  return (CaseInput){.present = true, .dtype = I64, .shape = shape, .fill = FILL_CLASS, .limit = rows + 1};
}

/* Rows and places of a table. */
static void draw_group(Draw *d, Shape table, int64_t microbatches) {
  Shape places = {2, {microbatches, between(d, 1, 40)}}, rows = places;
  for (int i = 1; i < table.rank; i++)
    rows.dim[rows.rank++] = table.dim[i];
  input(d, rows);
  *input(d, places) = places_of(places, table.dim[0]);
}

static void draw_accumulate(Draw *d, Shape table, int64_t microbatches) {
  Shape indices = any_shape(d, 0, 2, 5), cotangent = indices;
  Shape places = {2, {microbatches, shape_elements(indices)}}, rows = places;
  for (int i = 1; i < table.rank; i++)
    rows.dim[rows.rank++] = cotangent.dim[cotangent.rank++] = table.dim[i];
  input(d, rows);
  *input(d, places) = places_of(places, table.dim[0]);
  input(d, cotangent);
  *input(d, indices) =
      (CaseInput){.present = true, .dtype = I64, .shape = indices, .fill = FILL_INDEX, .limit = table.dim[0]};
  put_int(d, "rows", table.dim[0]);
}

bool draw_rows(Draw *d, OpKind op) {
  Shape table = any_shape(d, 1, 3, 20);
  int64_t microbatches = between(d, 1, 4);
  bool adam = op == OP_SparseAdamUpdate || op == OP_AdamUpdateRows, sgd = op == OP_SgdUpdateRows;
  int states = adam ? 2 : sgd ? (int)between(d, 0, 1) : 0, groups = (int)between(d, 1, adam || sgd ? 2 : 4);
  int whole = op == OP_SparseAdamUpdate ? groups : (int)between(d, 0, groups); /* that one is an accumulator */
  table.dim[0] = between(d, 1, 300);
  d->c->types = TYPES_FLOAT;
  if (op == OP_AccumulateRows) {
    draw_accumulate(d, table, microbatches);
    return true;
  }
  if (op != OP_SquaredNormRows && !sgd && !adam)
    return false;
  if (op == OP_SquaredNormRows) {
    put_ints(d, "shape", table.dim, table.rank);
    d->c->out[0].present = true;
  } else {
    input(d, table);
    *input(d, shape_of(1, (int64_t[]){5})) = (CaseInput){
        .present = true, .dtype = F64, .shape = shape_of(1, (int64_t[]){5}), .fill = FILL_SCALARS, .fixed = true};
    put_int(d, "states", states);
  }
  for (int i = 0; i < states; i++)
    input(d, table)->fill = i == 1 ? FILL_POSITIVE : FILL_ANY;
  for (int i = 0; i < groups; i++)
    if (groups > 1 && i == whole)
      input(d, table);
    else
      draw_group(d, table, microbatches);
  if (states == 1)
    d->c->attrs[d->n_attrs++] = attr_float("momentum", 0.9);
  if (adam) {
    d->c->attrs[d->n_attrs++] = attr_float("beta1", 0.9);
    d->c->attrs[d->n_attrs++] = attr_float("beta2", 0.999);
    d->c->attrs[d->n_attrs++] = attr_float("epsilon", 1e-8);
  }
  if (op != OP_SquaredNormRows && op != OP_SparseAdamUpdate && between(d, 0, 1))
    d->c->attrs[d->n_attrs++] = attr_float("weight_decay", 0.1);
  return true;
}
