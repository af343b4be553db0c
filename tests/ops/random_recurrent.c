/* Random cases of recurrent layers. */
#include "graph/ops/recurrent.h"
#include "tests/ops/draw.h"

static void absent_or(Draw *d, bool there, Shape shape) {
  CaseInput *in = input(d, shape);
  if (!there)
    *in = (CaseInput){.present = true, .absent = true};
}

static void draw_lengths(Draw *d, int64_t steps, int64_t samples) {
  Shape shape = shape_of(1, &samples);
  if (between(d, 0, 1))
    *input(d, shape) = (CaseInput){
        .present = true, .dtype = between(d, 0, 1) ? I64 : I32, .shape = shape, .fill = FILL_INDEX, .limit = steps + 2};
}

bool draw_recurrent(Draw *d, OpKind op) {
  static const int gates[] = {1, 1, 3, 3, 4}, biases[] = {1, 1, 3, 4, 4}, saved[] = {0, 0, 3, 4, 5};
  if (op != OP_RecurrentSteps && op != OP_RecurrentStepsGrad)
    return false;
  int c = (int)between(d, 0, CELL_COUNT - 1);
  bool lstm = c == CELL_LSTM, wide = between(d, 0, 3) == 0;
  int64_t T = between(d, 1, wide ? 3 : 5), N = between(d, 1, wide ? 15 : 4), H = between(d, 1, wide ? 70 : 5);
  if (op == OP_RecurrentStepsGrad) /* what is saved is no gate here: over many steps it grows beyond any digits */
    T = wide || T == 1 ? 1 : 2;
  Shape all = {3, {T, N, H}}, one = {2, {N, H}}, matrix = {2, {gates[c] * H, H}}, bias = {1, {biases[c] * H}};
  Shape p = {3, {T, N, gates[c] * H}}, keep = {3, {T, N, (saved[c] ? saved[c] : 1) * H}};
  d->c->types = TYPES_FLOAT;
  d->c->attrs[d->n_attrs++] = attr_string("cell", recurrent_cells[c]);
  put_int(d, "reverse", between(d, 0, 1));
  if (op == OP_RecurrentSteps) {
    input(d, p);
    input(d, matrix);
    absent_or(d, between(d, 0, 2), bias);
    absent_or(d, between(d, 0, 1), one);
    absent_or(d, lstm && between(d, 0, 1), one);
    draw_lengths(d, T, N);
    output(d, all);
    output(d, one);
    if (lstm)
      output(d, one);
    output(d, all);
    if (saved[c])
      output(d, keep);
  } else {
    input(d, matrix);
    input(d, all);
    input(d, keep);
    absent_or(d, between(d, 0, 3), all);
    absent_or(d, between(d, 0, 1), one);
    absent_or(d, lstm && between(d, 0, 1), one);
    draw_lengths(d, T, N);
    output(d, p);
    output(d, one);
    if (lstm || c == CELL_GRU_AFTER)
      output(d, lstm ? one : p);
  }
  return true;
}
