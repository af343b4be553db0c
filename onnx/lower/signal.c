/* Signals: Fourier transforms, windows, mel weights. Invariant: a transform's
 * length is a number when a model is bound. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

typedef struct {
  int axis;
  int64_t length;
  bool inverse, onesided;
} Transform;

/* X cut to as many places as the transform reads. */
static Status cut(Op *op, Term *x, int axis, int64_t most, Term **out) {
  *out = x;
  return x->shape.dim[axis] > most ? op_slice(op, x, axis, 0, most, out) : OK;
}

static Status transform(Op *op, Term *x, Transform t, Term **out) {
  int64_t half = t.length / 2 + 1, parts = x->shape.dim[x->shape.rank - 1];
  bool real_out = t.onesided && t.inverse;
  if (t.length < 1)
    return fail(E_SHAPE, "a transform of length %lld", (long long)t.length);
  if (t.onesided && parts != (t.inverse ? 2 : 1))
    return fail(E_SHAPE,
                "a one-sided transform of %lld parts a number: it goes from "
                "real numbers to complex ones or, "
                "inverse, back",
                (long long)parts);
  TRY(cut(op, x, t.axis, real_out ? half : t.length, &x));
  Attr attrs[] = {attr_int("axis", t.axis),
                  attr_int("length", t.length),
                  attr_int("inverse", t.inverse),
                  attr_float("scale", t.inverse ? 1 / (double)t.length : 1),
                  attr_int("places", t.onesided && !t.inverse ? half : t.length),
                  attr_int("parts", real_out ? 1 : 2),
                  attr_int("hermitian", real_out)};
  return op_emit(op, OP_DFT, &x, 1, attrs, 7, out, 1);
}

/* The axis by attribute up to opset 19, by input 2 afterwards. */
static Status dft(Op *op) {
  Term *x = op->in[0];
  int last = x->shape.rank - 1;
  Transform t = {.inverse = op_int(op, "inverse", 0), .onesided = op_int(op, "onesided", 0)};
  int64_t axis = op_int(op, "axis", op->opset < 20 ? 1 : -2);
  if (op_has(op, 2))
    TRY(op_known_int(op, 2, &axis));
  t.axis = axis_normalize(axis, x->shape.rank);
  if (t.axis < 0 || t.axis == last)
    return fail(E_SHAPE, "axis %lld of %s is none of a signal", (long long)axis, SHAPE_STR(x->shape));
  t.length = x->shape.dim[t.axis];
  if (t.inverse && t.onesided)
    t.length = 2 * (t.length - 1);
  if (op_has(op, 1))
    TRY(op_known_int(op, 1, &t.length));
  return transform(op, x, t, &op->out[0]);
}

/* [frames, length]: where frame f's place p lies in the signal. */
static Status frame_places(Op *op, int64_t frames, int64_t step, int64_t length, Term **out) {
  int64_t *at;
  if (length && frames > INT64_MAX / 16 / length)
    return fail(E_SHAPE, "%lld frames of %lld", (long long)frames, (long long)length);
  TRY(budget_need(&op->lower->budget, (size_t)(frames * length) * sizeof *at, (double)frames * (double)length));
  TRY(ARENA_NEW(op->lower->arena, at, frames * length));
  for (int64_t f = 0; f < frames; f++)
    for (int64_t p = 0; p < length; p++)
      at[f * length + p] = f * step + p;
  return term_make(op->lower, NULL, I64, shape_of(2, (int64_t[]){frames, length}), at, out);
}

/* Frames of the signal [N, length, 1 or 2] times the window, transformed: [N,
 * frames, places, 2]. */
static Status stft(Op *op) {
  Term *x = op->in[0], *places, *window;
  int64_t step, length = x->shape.rank == 3 ? x->shape.dim[1] : 0, frames;
  if (x->shape.rank != 3)
    return fail(E_SHAPE, "the signal is %s, not [N,length,1] or [N,length,2]", SHAPE_STR(x->shape));
  TRY(op_known_int(op, 1, &step));
  if (op_has(op, 2))
    length = op_in(op, 2)->shape.rank == 1 ? op_in(op, 2)->shape.dim[0] : 0;
  if (op_has(op, 3))
    TRY(op_known_int(op, 3, &length));
  if (step < 1 || length < 1 || length > x->shape.dim[1])
    return fail(E_SHAPE, "frames of %lld in steps of %lld from a signal of %lld", (long long)length, (long long)step,
                (long long)x->shape.dim[1]);
  frames = (x->shape.dim[1] - length) / step + 1;
  TRY(frame_places(op, frames, step, length, &places));
  Attr axis = attr_int("axis", 1);
  TRY(op_emit(op, OP_Gather, (Term *[]){x, places}, 2, &axis, 1, &x, 1));
  if (op_has(op, 2)) {
    TRY(op_reshape(op, op_in(op, 2), shape_of(2, (int64_t[]){length, 1}), &window));
    TRY(op_emit2(op, OP_Mul, x, window, &x));
  }
  return transform(op, x, (Transform){.axis = 2, .length = length, .onesided = op_int(op, "onesided", 1)}, &op->out[0]);
}

/* Room for numbers that become a known term of the type that the node names. */
static Status numbers_begin(Op *op, int64_t n, double **numbers) {
  if (n < 0 || n > INT64_MAX / 16)
    return fail(E_SHAPE, "%lld numbers", (long long)n);
  TRY(budget_need(&op->lower->budget, (size_t)n * sizeof **numbers, (double)n));
  return ARENA_NEW(op->lower->arena, *numbers, n);
}

static Status numbers_end(Op *op, Shape shape, const double *numbers) {
  DType dtype = dtype_from_onnx((int32_t)op_int(op, "output_datatype", 1));
  Term *wide;
  if (dtype == DTYPE_NONE)
    return fail(E_UNSUPPORTED, "a result of ONNX type %lld", (long long)op_int(op, "output_datatype", 1));
  TRY(term_make(op->lower, NULL, F64, shape, numbers, &wide));
  return op_cast(op, wide, dtype, &op->out[0]);
}

/* a + b cos(t) + c cos(2t), t from 0 to 2π: the last point, or the one behind
 * it. */
static Status window(Op *op, double a, double b, double c) {
  int64_t n;
  double *w;
  TRY(op_known_int(op, 0, &n));
  TRY(numbers_begin(op, n, &w));
  double around = (double)(op_int(op, "periodic", 1) ? n : n - 1);
  for (int64_t i = 0; i < n; i++) {
    double t = around > 0 ? 2 * M_PI * (double)i / around : M_PI; /* one number alone is the middle, as in SciPy */
    w[i] = a + b * cos(t) + c * cos(2 * t);
  }
  return numbers_end(op, shape_of(1, &n), w);
}

static Status hann(Op *op) {
  return window(op, 0.5, -0.5, 0);
}

static Status hamming(Op *op) {
  return window(op, 25.0 / 46, -21.0 / 46, 0);
}

static Status blackman(Op *op) {
  return window(op, 0.42, -0.5, 0.08);
}

/* mel = 2595 log10(1 + hertz / 700), and back */
static double mel_of(double hertz) {
  return 2595 * log1p(hertz / 700) / M_LN10;
}

static double hertz_of(double mel) {
  return 700 * expm1(mel / 2595 * M_LN10);
}

/* A triangle: 0 at `low`, 1 at `peak`, 0 at `high`, in column `bin` of [rows,
 * bins]. */
static Status triangle(double *w, int64_t rows, int64_t bins, int64_t bin, int64_t low, int64_t peak, int64_t high) {
  if (low < 0 || peak < low || peak >= rows || high > rows)
    return fail(E_MODEL,
                "band %lld reaches from %lld over %lld to %lld, and there are "
                "%lld frequencies",
                (long long)bin, (long long)low, (long long)peak, (long long)high, (long long)rows);
  for (int64_t j = low; j < peak; j++)
    w[j * bins + bin] = (double)(j - low) / (double)(peak - low);
  w[peak * bins + bin] = 1;
  for (int64_t j = peak + 1; j < high; j++)
    w[j * bins + bin] = (double)(high - j) / (double)(high - peak);
  return OK;
}

/* The frequency, counted in rows, at which edge i of bins + 2 lies. */
static int64_t edge(double low, double high, int64_t i, int64_t edges, double length, double rate) {
  double mel = (double)i * (mel_of(high) - mel_of(low)) / (double)edges + mel_of(low);
  double at = floor((length + 1) * hertz_of(mel) / rate);
  return at > -1 && at < 0x1p62 ? (int64_t)at : -1;
}

static Status mel_weights(Op *op) {
  int64_t bins, length, rate;
  double low, high, *w;
  TRY(op_known_int(op, 0, &bins));
  TRY(op_known_int(op, 1, &length));
  TRY(op_known_int(op, 2, &rate));
  TRY(op_known_number(op, 3, &low));
  TRY(op_known_number(op, 4, &high));
  int64_t rows = length / 2 + 1;
  if (bins < 0 || length < 0 || rate < 1 || (bins && rows > INT64_MAX / 16 / bins))
    return fail(E_MODEL, "%lld bands of %lld frequencies at %lld hertz", (long long)bins, (long long)rows,
                (long long)rate);
  TRY(numbers_begin(op, rows * bins, &w));
  memset(w, 0, (size_t)(rows * bins) * sizeof *w);
  for (int64_t i = 0; i < bins; i++) {
    int64_t at[3];
    for (int k = 0; k < 3; k++)
      at[k] = edge(low, high, i + k, bins + 2, (double)length, (double)rate);
    TRY(triangle(w, rows, bins, i, at[0], at[1], at[2]));
  }
  return numbers_end(op, shape_of(2, (int64_t[]){rows, bins}), w);
}

#define WINDOW(name, lower)                                                                                            \
  { #name, 17, OPSET_LAST, 1, 1, 1, lower, "periodic:b output_datatype:d" }

const Lowering lowerings_signal[] = {
    {"DFT", 17, 19, 1, 2, 1, dft, "axis:i inverse:b onesided:b"},
    {"DFT", 20, OPSET_LAST, 1, 3, 1, dft, "inverse:b onesided:b"},
    {"STFT", 17, OPSET_LAST, 2, 4, 1, stft, "onesided:b"},
    WINDOW(HannWindow, hann),
    WINDOW(HammingWindow, hamming),
    WINDOW(BlackmanWindow, blackman),
    {"MelWeightMatrix", 17, OPSET_LAST, 5, 5, 1, mel_weights, "output_datatype:d"},
    {0},
};
