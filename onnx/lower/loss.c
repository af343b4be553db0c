/* Losses inside the model. Invariant: a mean that may ignore labels is a float64 sum divided by a CountTargets, as
 * graph/loss_model.c looks for it; other means are ReduceMeans. */
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

typedef struct {
  Term *scores, *labels, *weights; /* weights of classes, or absent */
  const char *reduction;
  bool ignores;
  int64_t ignored;
} Loss;

static Status loss_of(Op *op, Loss *loss) {
  *loss = (Loss){.scores = op->in[0], .labels = op->in[1], .weights = op_in(op, 2)};
  loss->ignores = op_attribute(op, "ignore_index");
  loss->ignored = op_int(op, "ignore_index", INT64_MIN);
  TRY(op_string(op, "reduction", "mean", &loss->reduction));
  if (strcmp(loss->reduction, "mean") != 0 && strcmp(loss->reduction, "sum") != 0 &&
      strcmp(loss->reduction, "none") != 0)
    return fail(E_MODEL, "reduction is '%s'", loss->reduction);
  if (loss->scores->shape.rank < 2 || loss->labels->shape.rank != loss->scores->shape.rank - 1)
    return fail(E_SHAPE, "scores %s, labels %s", SHAPE_STR(loss->scores->shape), SHAPE_STR(loss->labels->shape));
  return OK;
}

/* Which labels are to be ignored, as booleans. */
static Status ignored_labels(Op *op, const Loss *loss, Term **out) {
  return op_with_number(op, OP_Equal, loss->labels, (double)loss->ignored, out);
}

/* The sum in float64, or its mean, as a number of the scores' type. */
static Status finish(Op *op, const Loss *loss, Term *sum, Term **out) {
  Term *count;
  if (strcmp(loss->reduction, "mean") == 0) {
    Attr ignored = attr_int("ignore_index", loss->ignored);
    TRY(op_emit(op, OP_CountTargets, (Term *[]){loss->labels}, 1, &ignored, 1, &count, 1));
    TRY(op_emit2(op, OP_Div, sum, count, &sum));
  }
  return op_cast(op, sum, loss->scores->dtype, out);
}

static Status cross_entropy_of(Op *op, const Loss *loss, Term *logits, Term **out) {
  Attr attrs[] = {attr_int("class_axis", 1), attr_int("ignore_index", loss->ignored)};
  Term *made[2];
  TRY(op_emit(op, OP_CrossEntropy, (Term *[]){logits, loss->labels}, 2, attrs, 2, made, 2));
  return finish(op, loss, made[0], out);
}

/* The address of log_probability[n, label, d..] for every label, [N, d.., rank]. */
static Status label_address(Op *op, Term *labels, Term **out) {
  Shape s = labels->shape, column = s;
  Term *parts[MAX_RANK];
  column.dim[column.rank++] = 1;
  for (int i = 0; i <= s.rank; i++) {
    int axis = i - (i > 1);
    if (i == 1) {
      TRY(op_cast(op, labels, I64, &parts[1]));
      TRY(op_reshape(op, parts[1], column, &parts[1]));
      continue;
    }
    Shape line = {.rank = s.rank + 1};
    for (int j = 0; j <= s.rank; j++)
      line.dim[j] = j == axis ? s.dim[axis] : 1;
    TRY(op_iota(op, s.dim[axis], &parts[i]));
    TRY(op_reshape(op, parts[i], line, &parts[i]));
    TRY(op_expand(op, parts[i], column, &parts[i]));
  }
  return op_concat(op, parts, s.rank + 1, s.rank, out);
}

/* What each label counts, 0 where it is ignored; NULL where all count alike. */
static Status label_weights(Op *op, const Loss *loss, Term *labels, Term *ignored, Term **out) {
  Attr axis = attr_int("axis", 0);
  Term *zero;
  *out = NULL;
  if (loss->weights->kind == TERM_ABSENT)
    return OK;
  TRY(op_emit(op, OP_Gather, (Term *[]){loss->weights, labels}, 2, &axis, 1, out, 1));
  if (!ignored)
    return OK;
  TRY(op_scalar(op, *out, 0, &zero));
  return op_where(op, ignored, zero, *out, out);
}

/* -weight log_probability[label] of every label, 0 where it is ignored; *weights as label_weights. */
static Status picked(Op *op, const Loss *loss, Term *log_probability, Term **weights, Term **out) {
  Term *ignored = NULL, *zero, *labels = loss->labels, *address, *t;
  Attr batch_dims = attr_int("batch_dims", 0);
  if (loss->ignores) { /* some class, so that the address is one */
    TRY(ignored_labels(op, loss, &ignored));
    TRY(op_scalar(op, labels, 0, &zero));
    TRY(op_where(op, ignored, zero, labels, &labels));
  }
  TRY(label_address(op, labels, &address));
  TRY(op_emit(op, OP_GatherND, (Term *[]){log_probability, address}, 2, &batch_dims, 1, &t, 1));
  TRY(op_emit1(op, OP_Neg, t, &t));
  TRY(label_weights(op, loss, labels, ignored, weights));
  if (*weights)
    return op_emit2(op, OP_Mul, t, *weights, out);
  if (!loss->ignores)
    return *out = t, OK;
  TRY(op_scalar(op, t, 0, &zero));
  return op_where(op, ignored, zero, t, out);
}

static Status reduce_all(Op *op, OpKind kind, Term *t, Term **out) {
  int64_t axes[MAX_RANK];
  for (int i = 0; i < t->shape.rank; i++)
    axes[i] = i;
  return op_reduce(op, kind, t, axes, t->shape.rank, false, out);
}

static Status reduce_picked(Op *op, const Loss *loss, Term *log_probability, Term **out) {
  Term *each, *weights, *sum;
  bool mean = strcmp(loss->reduction, "mean") == 0;
  TRY(picked(op, loss, log_probability, &weights, &each));
  if (strcmp(loss->reduction, "none") == 0)
    return *out = each, OK;
  if (mean && weights) {
    TRY(reduce_all(op, OP_ReduceSum, weights, &weights));
    TRY(reduce_all(op, OP_ReduceSum, each, &sum));
    return op_emit2(op, OP_Div, sum, weights, out);
  }
  if (mean && !loss->ignores)
    return reduce_all(op, OP_ReduceMean, each, out);
  TRY(op_cast(op, each, F64, &each));
  TRY(reduce_all(op, OP_ReduceSum, each, &sum));
  return finish(op, loss, sum, out);
}

static Status softmax_cross_entropy(Op *op) {
  Loss loss;
  Term *log_probability = NULL;
  Attr axis = attr_int("axis", 1);
  TRY(loss_of(op, &loss));
  bool each = strcmp(loss.reduction, "none") == 0 || loss.weights->kind != TERM_ABSENT;
  if (each || op_wants(op, 1))
    TRY(op_emit(op, OP_LogSoftmax, &loss.scores, 1, &axis, 1, &log_probability, 1));
  if (op_wants(op, 1))
    op->out[1] = log_probability;
  return each ? reduce_picked(op, &loss, log_probability, &op->out[0])
              : cross_entropy_of(op, &loss, loss.scores, &op->out[0]);
}

/* Of log-probabilities; of those that a LogSoftmax just made it is the cross entropy. */
static Status negative_log_likelihood(Op *op) {
  Loss loss;
  TRY(loss_of(op, &loss));
  Term *logits;
  TRY(op_before_log_softmax(op, loss.scores, 1, &logits));
  if (logits && loss.weights->kind == TERM_ABSENT && strcmp(loss.reduction, "none") != 0)
    return cross_entropy_of(op, &loss, logits, &op->out[0]);
  return reduce_picked(op, &loss, loss.scores, &op->out[0]);
}

const Lowering lowerings_loss[] = {
    {"SoftmaxCrossEntropyLoss", 12, OPSET_LAST, 2, 3, 2, softmax_cross_entropy, "ignore_index:i reduction:s"},
    {"NegativeLogLikelihoodLoss", 12, OPSET_LAST, 2, 3, 1, negative_log_likelihood, "ignore_index:i reduction:s"},
    {0},
};
