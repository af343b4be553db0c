/* Random cases of batch normalisation and of what is drawn. */
#include "tests/ops/draw.h"

static void like(Draw *d, CaseInput *of, DType dtype, Shape shape) {
  (void)d;
  of->dtype = dtype;
  of->shape = shape;
  of->fixed = true;
}

static bool draw_channels(Draw *d, OpKind op) {
  Shape x = any_shape(d, 2, 4, 5), k = shape_of(1, &x.dim[1]);
  if (op == OP_BatchNormalization) {
    input(d, x);
    input(d, k);
    input(d, k);
    output(d, x);
    for (int i = 0; i < 3; i++)
      output(d, k);
    put_int(d, "unbiased", between(d, 0, 1));
    return true;
  }
  input(d, x);
  input(d, x);
  if (op == OP_BatchNormalizationGradInput)
    input(d, k);
  input(d, k);
  input(d, k)->fill = FILL_POSITIVE;
  if (op == OP_BatchNormalizationGradInput) {
    input(d, k);
    input(d, k);
    output(d, x);
  } else {
    output(d, k);
    output(d, k);
  }
  return true;
}

static bool draw_numbers(Draw *d, OpKind op) {
  Shape x = any_shape(d, 1, 4, 6), counter = {1, {COUNTER_NUMBERS}};
  int axis = (int)between(d, 0, x.rank - 1);
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < x.rank; i++)
    *(i < axis ? &outer : &inner) *= i == axis ? 1 : x.dim[i];
  input(d, x);
  like(d, input(d, counter), I64, counter);
  output(d, x);
  if (op == OP_Dropout)
    output(d, x);
  put_int(d, "node", between(d, 0, 9));
  put_int(d, "per_sample", outer && inner);
  put_int(d, "outer", outer);
  put_int(d, "inner", inner);
  return true;
}

bool draw_normalization(Draw *d, OpKind op) {
  Shape x;
  switch (op) {
  case OP_BatchNormalization:
  case OP_BatchNormalizationGradInput:
  case OP_BatchNormalizationGradScale:
    return draw_channels(d, op);
  case OP_UpdateStatistics:
    x = any_shape(d, 1, 1, 70);
    input(d, x);
    input(d, x);
    return true;
  case OP_Dropout:
  case OP_RandomUniform:
  case OP_RandomNormal:
    return draw_numbers(d, op);
  case OP_DropoutGrad:
    x = any_shape(d, 0, 4, 6);
    input(d, x);
    like(d, input(d, x), BOOL, x);
    output(d, x);
    return true;
  default:
    return false;
  }
}
