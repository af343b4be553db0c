/* What a validation says: the loss, and metrics, from the predictions and targets of all samples. Counts are integers
 * and sums float64, taken in the order of samples, on one rank: so they do not depend on who computed the predictions,
 * nor on how many samples a microbatch has. */
#ifndef RUNTIME_TRAINING_TALLY_H
#define RUNTIME_TRAINING_TALLY_H

#include "graph/loss.h"
#include "runtime/onnxpipe.h"
#include "runtime/options.h"

typedef enum {
  METRIC_ACCURACY,    /* the largest prediction is the target's; of bce_with_logits: its sign is */
  METRIC_TOP,         /* the target is among the k largest; of equal ones the first count as larger */
  METRIC_F1,          /* 2 TP / (2 TP + FP + FN); mean over the classes that are predicted or targets */
  METRIC_DICE,        /* the same over elements; of classes without number 0, the background */
  METRIC_AUC,         /* of the ROC curve, ties half: all elements; of two classes, by x1 - x0 */
  METRIC_RELATIVE_L2, /* mean over samples of |x - t| / |t|; those with t = 0 do not count */
  METRIC_PERPLEXITY   /* exp(loss) */
} MetricKind;

enum { MOST_METRICS = ONNXPIPE_MOST_METRICS };

typedef struct {
  MetricKind kind;
  int64_t k;        /* of METRIC_TOP */
  const char *name; /* "accuracy", "top5", … */
} Metric;

typedef struct {
  LossSpec loss;
  DType dtype; /* of the prediction of one microbatch: */
  Shape shape;
  Batch batch;
  int64_t samples;   /* of a microbatch */
  int64_t classes;   /* of cross_entropy */
  int64_t positions; /* targets of a microbatch */
  Metric metrics[MOST_METRICS];
  int n_metrics;
} Measures;

/* From loss, prediction and samples, which are set: the rest, with the metrics that `names` ask for (none: those that
 * fit). E_USAGE for one that there is not, or not for this loss. */
Status measures_choose(Arena *arena, const TextList *names, int64_t all_samples, Measures *measures);

/* One rank's sums. */
typedef struct {
  const Measures *measures;
  double *predictions;                /* [elements of a microbatch] */
  int64_t *hits, *predicted, *actual; /* [classes] */
  double *errors, *norms;             /* [samples of a microbatch]: squares, of METRIC_RELATIVE_L2 */
  struct Score *scores;               /* of METRIC_AUC */
  size_t n_scores, scores_capacity;
  double loss, relative;
  int64_t counted, relative_counted;
  int64_t within[MOST_METRICS]; /* of METRIC_ACCURACY and METRIC_TOP */
} Tally;

/* Room for the predictions of all_samples. */
Status tally_create(Arena *arena, const Measures *measures, int64_t all_samples, Tally *tally);
void tally_begin(Tally *tally);
/* A microbatch: its prediction, dense; its targets, int64 for classes, else float64; its first `count` samples are
 * taken. E_MODEL for a target outside the classes. */
Status tally_add(Tally *tally, const void *prediction, const void *targets, int64_t count);
/* The loss and the metrics' values [n_metrics]; NaN where there is nothing to say. E_MODEL where no target counts. */
Status tally_end(Tally *tally, double *loss, double *values);

#endif
