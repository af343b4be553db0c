/* Random cases of attention. */
#include "graph/ops/attention.h"
#include "tests/ops/draw.h"

static void draw_mask(Draw *d, Shape scores) {
  CaseInput *in = input(d, part_of(d, scores));
  if (between(d, 0, 1) == 0) {
    *in = (CaseInput){.present = true, .absent = true};
    return;
  }
  in->fixed = true;
  if (between(d, 0, 1)) {
    in->dtype = BOOL;
    in->fill = FILL_TRUTH;
  } else {
    in->fill = FILL_UNIT;
  }
}

bool draw_attention(Draw *d, OpKind op) {
  if (op != OP_Attention && op != OP_AttentionGrad)
    return false;
  bool wide = between(d, 0, 2) == 0, grad = op == OP_AttentionGrad;
  int64_t most = wide ? 80 : 9, batch = between(d, 1, 2), groups = between(d, 1, 2), each = between(d, 1, 2);
  int64_t queries = between(d, 1, most), keys = between(d, 1, most), size = between(d, 1, most);
  int64_t value_size = between(d, 1, most);
  Shape q = {4, {batch, groups * each, queries, size}}, k = {4, {batch, groups, keys, size}};
  Shape v = {4, {batch, groups, keys, value_size}}, y = {4, {batch, groups * each, queries, value_size}};
  input(d, q)->fill = FILL_UNIT;
  input(d, k)->fill = FILL_UNIT;
  input(d, v)->fill = FILL_UNIT;
  d->c->attrs[d->n_attrs++] = attr_float("scale", wide ? 0.125 : 0.5);
  if (between(d, 0, 1))
    put_int(d, "right", between(d, 0, 2) ? 0 : between(d, -2, most));
  if (between(d, 0, 3) == 0)
    put_int(d, "left", between(d, -2, most));
  if (grad) {
    input(d, y)->fill = FILL_UNIT;
    input(d, shape_of(3, y.dim))->fill = FILL_BEYOND;
    input(d, shape_of(3, y.dim))->fill = FILL_UNIT;
    input(d, y)->fill = FILL_UNIT;
  }
  draw_mask(d, (Shape){4, {batch, groups * each, queries, keys}});
  output(d, grad ? q : y);
  output(d, grad ? k : shape_of(3, y.dim));
  output(d, grad ? v : shape_of(3, y.dim));
  return true;
}
