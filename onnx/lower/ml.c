/* Operators of domain ai.onnx.ml, as skl2onnx writes them for linear models and
 * what stands before those. Weights lie in attributes: those that train are
 * parameters (onnx/file/weights_in_nodes.c), the others constants. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

/* A list of floats: the parameter that it is, or its numbers; NULL where there
 * is none. */
static Status floats(Op *op, const char *name, Term **out) {
  const Onnx__AttributeProto *a = op_attribute(op, name);
  int64_t n = a ? (int64_t)a->n_floats : 0;
  *out = NULL;
  if (n == 0)
    return OK;
  int i = initializer_in_attribute(op->lower->model, a);
  if (i >= 0 && op->lower->model->initializers[i].trains)
    return *out = op->lower->initializers[i], OK;
  return term_make(op->lower, NULL, F32, shape_of(1, &n), a->floats, out);
}

/* One float a feature, or one for all; NULL where there is none. */
static Status feature_floats(Op *op, const char *name, const Term *x, Term **out) {
  TRY(floats(op, name, out));
  int64_t n = *out ? (*out)->shape.dim[0] : 1, features = x->shape.rank ? x->shape.dim[x->shape.rank - 1] : 1;
  return n == 1 || n == features
             ? OK
             : fail(E_SHAPE, "'%s' has %lld numbers for %lld features", name, (long long)n, (long long)features);
}

static bool is_float(const Term *x) {
  return x->dtype == F32 || x->dtype == F64;
}

/* (x - offset) scale */
static Status scaler(Op *op) {
  Term *x, *offset, *scale;
  TRY(op_cast(op, op->in[0], F32, &x));
  TRY(feature_floats(op, "offset", x, &offset));
  TRY(feature_floats(op, "scale", x, &scale));
  if (offset)
    TRY(op_emit2(op, OP_Sub, x, offset, &x));
  if (scale)
    TRY(op_emit2(op, OP_Mul, x, scale, &x));
  op->out[0] = x;
  return OK;
}

/* x by its norm along the features, which counts as 1e-30 at least. */
static Status normalizer(Op *op) {
  const char *norm;
  Term *x, *t;
  int64_t axis = op->in[0]->shape.rank > 1 ? 1 : 0;
  TRY(op_string(op, "norm", "MAX", &norm));
  if (!op->in[0]->shape.rank)
    return fail(E_SHAPE, "a number has no features");
  TRY(op_cast(op, op->in[0], F32, &x));
  if (strcmp(norm, "L2") == 0)
    TRY(op_emit2(op, OP_Mul, x, x, &t));
  else if (strcmp(norm, "L1") == 0 || strcmp(norm, "MAX") == 0)
    TRY(op_emit1(op, OP_Abs, x, &t));
  else
    return fail(E_MODEL, "norm is '%s'", norm);
  TRY(op_reduce(op, strcmp(norm, "MAX") == 0 ? OP_ReduceMax : OP_ReduceSum, t, &axis, 1, true, &t));
  if (strcmp(norm, "L2") == 0)
    TRY(op_emit1(op, OP_Sqrt, t, &t));
  TRY(op_with_number(op, OP_Max, t, 1e-30, &t));
  return op_emit2(op, OP_Div, x, t, &op->out[0]);
}

/* What is missing, which is NaN or a number of its own, becomes a feature's
 * value. */
static Status imputer(Op *op) {
  Term *x = op->in[0], *values, *missing;
  if (is_float(x)) {
    double replaced = op_float(op, "replaced_value_float", 0);
    TRY(feature_floats(op, "imputed_value_floats", x, &values));
    if (values)
      TRY(op_cast(op, values, x->dtype, &values));
    TRY(isnan(replaced) ? op_emit2(op, OP_Equal, x, x, &missing) : op_with_number(op, OP_Equal, x, replaced, &missing));
    if (isnan(replaced))
      TRY(op_emit1(op, OP_Not, missing, &missing));
  } else {
    const int64_t *ints;
    int n;
    op_ints(op, "imputed_value_int64s", &ints, &n);
    values = NULL;
    if (n) {
      if (n != 1 && n != x->shape.dim[x->shape.rank ? x->shape.rank - 1 : 0])
        return fail(E_SHAPE, "%d values for features of %s", n, SHAPE_STR(x->shape));
      TRY(term_make(op->lower, NULL, I64, shape_of(1, (int64_t[]){n}), ints, &values));
      TRY(op_cast(op, values, x->dtype, &values));
    }
    TRY(op_with_number(op, OP_Equal, x, (double)op_int(op, "replaced_value_int64", 0), &missing));
  }
  if (!values)
    return fail(E_MODEL, "there is no value for what is missing in %s", dtype_name(x->dtype));
  return op_where(op, missing, values, x, &op->out[0]);
}

static Status binarizer(Op *op) {
  Term *above, *limit;
  TRY(op_scalar(op, op->in[0], op_float(op, "threshold", 0), &limit));
  TRY(op_emit2(op, OP_Greater, op->in[0], limit, &above));
  return op_cast(op, above, op->in[0]->dtype, &op->out[0]);
}

/* Columns of the last axis; a vector counts as one row. */
static Status feature_extractor(Op *op) {
  Term *x = op->in[0], *which;
  int64_t n = shape_elements(op->in[1]->shape);
  Attr axis = attr_int("axis", x->shape.rank - 1);
  if (!x->shape.rank)
    return fail(E_SHAPE, "a number has no features");
  TRY(op_reshape(op, op->in[1], shape_of(1, &n), &which));
  TRY(op_emit(op, OP_Gather, (Term *[]){x, which}, 2, &axis, 1, &x, 1));
  return x->shape.rank == 1 ? op_reshape(op, x, shape_of(2, (int64_t[]){1, n}), &op->out[0]) : (op->out[0] = x, OK);
}

/* X [N, features] times the coefficients, a row of them for each of `rows`
 * results (0: as many as fit), plus intercepts. */
static Status scores(Op *op, int64_t rows, Term **out) {
  Term *x = op->in[0], *weights, *intercepts;
  TRY(op_cast(op, x, F32, &x));
  if (x->shape.rank == 1)
    TRY(op_reshape(op, x, shape_of(2, (int64_t[]){1, x->shape.dim[0]}), &x));
  if (x->shape.rank != 2)
    return fail(E_SHAPE, "X is %s, not [samples,features]", SHAPE_STR(x->shape));
  TRY(floats(op, "coefficients", &weights));
  TRY(floats(op, "intercepts", &intercepts));
  int64_t features = x->shape.dim[1], n = weights ? weights->shape.dim[0] : 0;
  if (!rows)
    rows = features ? n / features : 0;
  if (n == 0 || rows < 1 || n % rows || n / rows != features ||
      (intercepts && intercepts->shape.dim[0] != rows && intercepts->shape.dim[0] != 1))
    return fail(E_MODEL,
                "%lld coefficients and %lld intercepts for %lld results of "
                "%lld features",
                (long long)n, (long long)(intercepts ? intercepts->shape.dim[0] : 0), (long long)rows,
                (long long)features);
  TRY(op_reshape(op, weights, shape_of(2, (int64_t[]){rows, features}), &weights));
  TRY(op_matmul(op, x, false, weights, true, out));
  return intercepts ? op_emit2(op, OP_Add, *out, intercepts, out) : OK;
}

static Status post_transform(Op *op, Term *x, Term **out) {
  const char *how;
  Attr axis = attr_int("axis", 1);
  TRY(op_string(op, "post_transform", "NONE", &how));
  if (strcmp(how, "LOGISTIC") == 0)
    return op_emit1(op, OP_Sigmoid, x, out);
  if (strcmp(how, "SOFTMAX") == 0)
    return op_emit(op, OP_Softmax, &x, 1, &axis, 1, out, 1);
  *out = x;
  return strcmp(how, "NONE") == 0 ? OK : fail(E_UNSUPPORTED, "post_transform is '%s'", how);
}

static Status linear_regressor(Op *op) {
  Term *y;
  TRY(scores(op, op_int(op, "targets", 1), &y));
  return post_transform(op, y, &op->out[0]);
}

/* The label of the largest score; of one score alone, the first label where it
 * says yes, else 0. */
static Status labels(Op *op, Term *scores, const int64_t *ints, int n, Term **out) {
  Attr largest[] = {attr_int("axis", 1), attr_int("k", 1), attr_int("largest", 1)};
  int64_t samples = scores->shape.dim[0], one[] = {samples};
  const char *how;
  Term *best[2], *names;
  if (scores->shape.dim[1] > 1) {
    TRY(op_emit(op, OP_TopK, &scores, 1, largest, 3, best, 2));
    TRY(op_reshape(op, best[1], shape_of(1, one), &best[1]));
    if (n == 0)
      return *out = best[1], OK;
    if (n != scores->shape.dim[1])
      return fail(E_MODEL, "%d labels for %lld scores", n, (long long)scores->shape.dim[1]);
    Attr axis = attr_int("axis", 0);
    TRY(term_make(op->lower, NULL, I64, shape_of(1, (int64_t[]){n}), ints, &names));
    return op_emit(op, OP_Gather, (Term *[]){names, best[1]}, 2, &axis, 1, out, 1);
  }
  TRY(op_string(op, "post_transform", "NONE", &how));
  TRY(op_scalar(op, scores, strcmp(how, "NONE") == 0 ? 0 : 0.5, &names));
  TRY(op_emit2(op, OP_GreaterOrEqual, scores, names, &best[0]));
  TRY(op_reshape(op, best[0], shape_of(1, one), &best[0]));
  TRY(op_cast(op, best[0], I64, out));
  return n ? op_with_number(op, OP_Mul, *out, (double)ints[0], out) : OK;
}

/* Two classes may have one score: it is the second's, and the first's with the
 * other sign. */
static Status linear_classifier(Op *op) {
  const Onnx__AttributeProto *texts = op_attribute(op, "classlabels_strings");
  const int64_t *ints;
  int n;
  Term *y, *minus;
  op_ints(op, "classlabels_ints", &ints, &n);
  bool named = texts && texts->n_strings;
  if (named && op_wants(op, 0))
    return fail(E_UNSUPPORTED, "labels that are texts: only the scores can be read");
  TRY(scores(op, 0, &y));
  if (y->shape.dim[1] == 1 && (n == 2 || (named && texts->n_strings == 2))) {
    TRY(op_emit1(op, OP_Neg, y, &minus));
    TRY(op_concat(op, (Term *[]){minus, y}, 2, 1, &y));
  }
  TRY(post_transform(op, y, &y));
  if (op->n_out > 1)
    op->out[1] = y;
  return op_wants(op, 0) ? labels(op, y, ints, n, &op->out[0]) : OK;
}

#define ML(name, inputs, outputs, lower, attributes)                                                                   \
  { "ai.onnx.ml::" #name, 1, 5, inputs, inputs, outputs, lower, attributes }

const Lowering lowerings_ml[] = {
    ML(Scaler, 1, 1, scaler, "offset:F scale:F"),
    ML(Normalizer, 1, 1, normalizer, "norm:s"),
    ML(Imputer, 1, 1, imputer,
       "imputed_value_floats:F imputed_value_int64s:I replaced_value_float:f "
       "replaced_value_int64:i"),
    ML(Binarizer, 1, 1, binarizer, "threshold:f"),
    ML(ArrayFeatureExtractor, 2, 1, feature_extractor, ""),
    ML(LinearRegressor, 1, 1, linear_regressor, "coefficients:F intercepts:F targets:i post_transform:s"),
    ML(LinearClassifier, 1, 2, linear_classifier,
       "coefficients:F! intercepts:F multi_class:b post_transform:s "
       "classlabels_ints:I classlabels_strings:S"),
    {0},
};
