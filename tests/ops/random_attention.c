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

/* How an operand's input looks: [B,heads,rows,size], or rows of `wide` elements, of which the first head begins at
 * `offset` and each next one `step` behind. */
typedef struct {
  int64_t heads, count, size, offset, step, wide;
  bool rows, shared; /* shared: in the input before */
} Operand;

/* Operands first … end - 1 behind one another in a row: head by head where they have as many, else each in one piece.
 */
static void put_together(Draw *d, Operand *o, int first, int end) {
  bool mixes = between(d, 0, 1) == 1;
  int64_t wide = 0;
  for (int i = first; i < end; i++) {
    mixes &= o[i].heads == o[first].heads;
    o[i].rows = true;
    o[i].shared = i > first;
  }
  for (int i = first; i < end; i++) {
    o[i].offset = wide;
    o[i].step = o[i].size;
    wide += mixes ? o[i].size : o[i].heads * o[i].size;
  }
  for (int i = first; i < end; i++) {
    o[i].step = mixes ? wide : o[i].step;
    o[i].wide = mixes ? wide * o[i].heads : wide;
  }
}

static void draw_places(Draw *d, Operand o[3]) {
  int how = (int)between(d, 0, 5);
  if (how == 0 && o[0].count == o[1].count) {
    put_together(d, o, 0, 3);
    return;
  }
  if (how < 3)
    put_together(d, o, 1, 3);
  for (int i = 0; i < (how < 3 ? 1 : 3); i++)
    if (how < 5 && between(d, 0, 1))
      put_together(d, o, i, i + 1);
}

static Shape shape_in(int64_t batch, const Operand *o) {
  return o->rows ? (Shape){3, {batch, o->count, o->wide}} : (Shape){4, {batch, o->heads, o->count, o->size}};
}

static void put_places(Draw *d, const Operand o[3], bool y_rows) {
  static const char *const names[] = {"q_rows", "k_rows", "v_rows"};
  bool any = y_rows;
  for (int i = 0; i < 3; i++) {
    any |= o[i].rows;
    if (o[i].rows)
      put_ints(d, names[i], (int64_t[]){o[i].offset, o[i].step}, 2);
  }
  if (!any)
    return;
  put_int(d, "heads", o[0].heads);
  put_int(d, "groups", o[1].heads);
  put_int(d, "size", o[0].size);
  put_int(d, "value_size", o[2].size);
  if (y_rows)
    put_int(d, "y_rows", 1);
}

bool draw_attention(Draw *d, OpKind op) {
  if (op != OP_Attention && op != OP_AttentionGrad)
    return false;
  bool wide = between(d, 0, 2) == 0, grad = op == OP_AttentionGrad, y_rows = between(d, 0, 2) == 0;
  int64_t most = wide ? 80 : 9, batch = between(d, 1, 2), groups = between(d, 1, 2), each = between(d, 1, 2);
  int64_t queries = between(d, 1, most), keys = between(d, 0, 1) ? queries : between(d, 1, most);
  int64_t size = between(d, 1, most), value_size = between(d, 0, 1) ? size : between(d, 1, most);
  Operand o[3] = {{.heads = groups * each, .count = queries, .size = size},
                  {.heads = groups, .count = keys, .size = size},
                  {.heads = groups, .count = keys, .size = value_size}};
  draw_places(d, o);
  Operand result = {.heads = groups * each, .count = queries, .size = value_size, .rows = y_rows};
  result.wide = result.heads * value_size;
  Shape y = shape_in(batch, &result), stats = {3, {batch, groups * each, queries}};
  for (int i = 0; i < 3; i++) {
    CaseInput *in = input(d, shape_in(batch, &o[i]));
    in->fill = FILL_UNIT;
    if (o[i].shared)
      *in = (CaseInput){.present = true, .absent = true};
  }
  d->c->attrs[d->n_attrs++] = attr_float("scale", wide ? 0.125 : 0.5);
  if (between(d, 0, 1))
    put_int(d, "right", between(d, 0, 2) ? 0 : between(d, -2, most));
  if (between(d, 0, 3) == 0)
    put_int(d, "left", between(d, -2, most));
  put_places(d, o, y_rows);
  if (grad) {
    input(d, y)->fill = FILL_UNIT;
    input(d, stats)->fill = FILL_BEYOND;
    input(d, stats)->fill = FILL_UNIT;
    input(d, y)->fill = FILL_UNIT;
  }
  draw_mask(d, (Shape){4, {batch, groups * each, queries, keys}});
  if (!grad) {
    output(d, y);
    output(d, stats);
    output(d, stats);
  }
  for (int i = 0; i < 3 && grad; i++)
    if (!o[i].shared)
      output(d, shape_in(batch, &o[i]));
  return true;
}
