/* Invariant: whatever is added is added in the order of positions, one microbatch after another. */
#include "runtime/training/tally.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/data.h"

enum { FEW_CLASSES = 100, FEW_SCORES = 1 << 22 }; /* up to which F1 and AUC are not too much to compute unasked */

typedef struct Score {
  double score;
  bool actual;
} Score;

static const struct {
  const char *name;
  MetricKind kind;
  LossKind losses[2];
} table[] = {{"accuracy", METRIC_ACCURACY, {LOSS_CROSS_ENTROPY, LOSS_BCE_WITH_LOGITS}},
             {"f1", METRIC_F1, {LOSS_CROSS_ENTROPY, LOSS_BCE_WITH_LOGITS}},
             {"dice", METRIC_DICE, {LOSS_CROSS_ENTROPY, LOSS_BCE_WITH_LOGITS}},
             {"auc", METRIC_AUC, {LOSS_CROSS_ENTROPY, LOSS_BCE_WITH_LOGITS}},
             {"relative-l2", METRIC_RELATIVE_L2, {LOSS_MSE, LOSS_MSE}},
             {"perplexity", METRIC_PERPLEXITY, {LOSS_CROSS_ENTROPY, LOSS_CROSS_ENTROPY}}};
enum { N_TABLE = sizeof table / sizeof *table };

static bool parse(const char *name, Metric *metric, LossKind losses[2]) {
  char *end;
  *metric = (Metric){.kind = METRIC_TOP, .name = name};
  losses[0] = losses[1] = LOSS_CROSS_ENTROPY;
  if (strncmp(name, "top", 3) == 0) {
    metric->k = strtoll(name + 3, &end, 10);
    return metric->k > 0 && !*end;
  }
  for (int i = 0; i < N_TABLE; i++)
    if (strcmp(table[i].name, name) == 0) {
      metric->kind = table[i].kind;
      losses[0] = table[i].losses[0];
      losses[1] = table[i].losses[1];
      return true;
    }
  return false;
}

static Status add_metric(Arena *arena, Measures *m, const char *name) {
  LossKind losses[2];
  Metric metric;
  if (!parse(name, &metric, losses))
    return fail(E_USAGE,
                "--metric: there is no '%s', only accuracy, topK (top5), f1, dice, auc, relative-l2, perplexity", name);
  if (m->loss.kind != losses[0] && m->loss.kind != losses[1])
    return fail(E_USAGE, "--metric %s is not for a loss of %s", name, loss_name(m->loss.kind));
  if (metric.kind == METRIC_AUC && m->loss.kind == LOSS_CROSS_ENTROPY && m->classes != 2)
    return fail(E_USAGE, "--metric auc is for two classes, there are %lld", (long long)m->classes);
  for (int i = 0; i < m->n_metrics; i++)
    if (strcmp(m->metrics[i].name, name) == 0)
      return OK;
  if (m->n_metrics == MOST_METRICS)
    return fail(E_USAGE, "--metric: more than %d", MOST_METRICS);
  metric.name = arena_string(arena, name);
  m->metrics[m->n_metrics++] = metric;
  return metric.name ? OK : status_code();
}

static Status add_usual(Arena *arena, int64_t all_samples, Measures *m) {
  bool few = m->samples && m->positions / m->samples * all_samples <= FEW_SCORES;
  if (m->loss.kind == LOSS_MSE)
    return add_metric(arena, m, "relative-l2");
  if (m->loss.kind == LOSS_BCE_WITH_LOGITS) {
    TRY(add_metric(arena, m, "accuracy"));
    TRY(add_metric(arena, m, "f1"));
    return few ? add_metric(arena, m, "auc") : OK;
  }
  if (m->loss.kind != LOSS_CROSS_ENTROPY)
    return OK;
  TRY(add_metric(arena, m, "accuracy"));
  if (m->classes > 5)
    TRY(add_metric(arena, m, "top5"));
  if (m->classes <= FEW_CLASSES)
    TRY(add_metric(arena, m, "f1"));
  if (m->classes == 2 && few)
    TRY(add_metric(arena, m, "auc"));
  return add_metric(arena, m, "perplexity");
}

Status measures_choose(Arena *arena, const TextList *names, int64_t all_samples, Measures *m) {
  bool has_classes = m->loss.kind == LOSS_CROSS_ENTROPY;
  m->n_metrics = 0;
  m->classes = has_classes ? m->shape.dim[m->loss.class_axis] : 2;
  m->positions = shape_elements(m->shape) / (has_classes && m->classes ? m->classes : 1);
  for (size_t i = 0; i < names->n; i++)
    TRY(add_metric(arena, m, names->items[i]));
  return names->n ? OK : add_usual(arena, all_samples, m);
}

static bool has(const Measures *m, MetricKind kind) {
  for (int i = 0; i < m->n_metrics; i++)
    if (m->metrics[i].kind == kind)
      return true;
  return false;
}

Status tally_create(Arena *arena, const Measures *m, int64_t all_samples, Tally *tally) {
  *tally = (Tally){.measures = m};
  TRY(ARENA_NEW(arena, tally->predictions, shape_elements(m->shape)));
  TRY(ARENA_NEW(arena, tally->hits, m->classes));
  TRY(ARENA_NEW(arena, tally->predicted, m->classes));
  TRY(ARENA_NEW(arena, tally->actual, m->classes));
  TRY(ARENA_NEW(arena, tally->errors, m->samples));
  TRY(ARENA_NEW(arena, tally->norms, m->samples));
  if (has(m, METRIC_AUC)) {
    tally->scores_capacity = (size_t)(m->positions / m->samples * all_samples);
    TRY(ARENA_NEW(arena, tally->scores, tally->scores_capacity));
  }
  return OK;
}

void tally_begin(Tally *tally) {
  size_t bytes = (size_t)tally->measures->classes * sizeof(int64_t);
  memset(tally->hits, 0, bytes);
  memset(tally->predicted, 0, bytes);
  memset(tally->actual, 0, bytes);
  memset(tally->within, 0, sizeof tally->within);
  tally->loss = tally->relative = 0;
  tally->counted = tally->relative_counted = 0;
  tally->n_scores = 0;
}

/* Of a microbatch, whose number of the prediction this is. */
static int64_t sample_of(const Measures *m, int64_t element) {
  if (m->batch.kind != BATCH_AXIS)
    return 0;
  for (int i = m->batch.axis + 1; i < m->shape.rank; i++)
    element /= m->shape.dim[i];
  return element % m->shape.dim[m->batch.axis] / m->batch.inner % m->samples;
}

static void add_score(Tally *tally, double score, bool actual) {
  if (tally->n_scores < tally->scores_capacity)
    tally->scores[tally->n_scores++] = (Score){score, actual};
}

/* x: the first of the position's classes, `stride` apart. */
static void add_classes(Tally *tally, const double *x, int64_t stride, int64_t target) {
  const Measures *m = tally->measures;
  double most = x[0], sum = 0, own = x[target * stride];
  int64_t best = 0, before = 0; /* how many are larger than the target's, or equal and come first */
  for (int64_t c = 1; c < m->classes; c++)
    if (x[c * stride] > most || isnan(x[c * stride])) {
      most = x[c * stride];
      best = c;
    }
  for (int64_t c = 0; c < m->classes; c++) {
    double other = x[c * stride];
    sum += exp(other - most);
    before += !(other < own) && (other != own || c < target);
  }
  before -= isnan(own); /* itself */
  tally->loss += most + log(sum) - own;
  tally->counted++;
  tally->predicted[best]++;
  tally->actual[target]++;
  tally->hits[target] += best == target;
  for (int i = 0; i < m->n_metrics; i++)
    tally->within[i] += m->metrics[i].kind == METRIC_TOP ? before < m->metrics[i].k : best == target;
  if (m->classes == 2)
    add_score(tally, x[stride] - x[0], target == 1);
}

static Status add_cross_entropy(Tally *tally, const int64_t *targets, int64_t count) {
  const Measures *m = tally->measures;
  int64_t inner = 1;
  for (int i = m->loss.class_axis + 1; i < m->shape.rank; i++)
    inner *= m->shape.dim[i];
  for (int64_t p = 0; p < m->positions; p++) {
    int64_t first = p / inner * m->classes * inner + p % inner;
    if (sample_of(m, first) >= count || targets[p] == m->loss.ignore_index)
      continue;
    if (targets[p] < 0 || targets[p] >= m->classes)
      return fail(E_MODEL, "target %lld is outside the %lld classes (0 to %lld)", (long long)targets[p],
                  (long long)m->classes, (long long)m->classes - 1);
    add_classes(tally, tally->predictions + first, inner, targets[p]);
  }
  return OK;
}

static void add_logits(Tally *tally, const double *targets, int64_t count) {
  const Measures *m = tally->measures;
  for (int64_t p = 0; p < m->positions; p++) {
    double x = tally->predictions[p], t = targets[p];
    bool predicted = x > 0, actual = t >= 0.5;
    if (sample_of(m, p) >= count)
      continue;
    tally->loss += fmax(x, 0) - x * t + log1p(exp(-fabs(x))) + (isnan(x) ? x : 0);
    tally->counted++;
    tally->predicted[predicted]++;
    tally->actual[actual]++;
    tally->hits[actual] += predicted == actual;
    for (int i = 0; i < m->n_metrics; i++)
      tally->within[i] += predicted == actual;
    add_score(tally, x, actual);
  }
}

static void add_squares(Tally *tally, const double *targets, int64_t count) {
  const Measures *m = tally->measures;
  for (int64_t i = 0; i < m->samples; i++)
    tally->errors[i] = tally->norms[i] = 0;
  for (int64_t p = 0; p < m->positions; p++) {
    int64_t sample = sample_of(m, p);
    double error = tally->predictions[p] - targets[p];
    if (sample >= count)
      continue;
    tally->loss += error * error;
    tally->counted++;
    tally->errors[sample] += error * error;
    tally->norms[sample] += targets[p] * targets[p];
  }
  for (int64_t i = 0; i < count; i++)
    if (tally->norms[i] > 0) {
      tally->relative += sqrt(tally->errors[i]) / sqrt(tally->norms[i]);
      tally->relative_counted++;
    }
}

Status tally_add(Tally *tally, const void *prediction, const void *targets, int64_t count) {
  const Measures *m = tally->measures;
  Array array = {.name = "prediction", .dtype = m->dtype, .shape = m->shape, .data = prediction};
  TRY(array_convert(&array, 0, shape_elements(m->shape), F64, tally->predictions));
  if (m->loss.kind == LOSS_CROSS_ENTROPY)
    return add_cross_entropy(tally, targets, count);
  if (m->loss.kind == LOSS_BCE_WITH_LOGITS)
    add_logits(tally, targets, count);
  else
    add_squares(tally, targets, count);
  return OK;
}

/* 2 TP / (2 TP + FP + FN) of one class; negative where it is neither predicted nor a target. */
static double overlap(const Tally *tally, int64_t class) {
  int64_t both = tally->predicted[class] + tally->actual[class];
  return both ? 2 * (double)tally->hits[class] / (double)both : -1;
}

/* Of elements that are or are not, class 1's; else the mean over classes from `first` on. */
static double mean_overlap(const Tally *tally, int64_t first) {
  double sum = 0;
  int64_t n = 0;
  if (tally->measures->loss.kind == LOSS_BCE_WITH_LOGITS)
    first = 1;
  for (int64_t c = first; c < tally->measures->classes; c++)
    if (overlap(tally, c) >= 0) {
      sum += overlap(tally, c);
      n++;
    }
  return n ? sum / (double)n : NAN;
}

static int by_score(const void *a, const void *b) {
  const Score *x = a, *y = b;
  return (x->score > y->score) - (x->score < y->score);
}

/* How many pairs of one that is and one that is not are in order, of all such pairs. */
static double area(Tally *tally) {
  double pairs = 0; /* halves: exact up to 2^53 */
  int64_t below = 0, positive = 0;
  for (size_t i = 0; i < tally->n_scores; i++)
    if (isnan(tally->scores[i].score))
      return NAN;
  qsort(tally->scores, tally->n_scores, sizeof *tally->scores, by_score);
  for (size_t i = 0, end; i < tally->n_scores; i = end) {
    int64_t here[2] = {0, 0};
    for (end = i; end < tally->n_scores && tally->scores[end].score == tally->scores[i].score; end++)
      here[tally->scores[end].actual]++;
    pairs += (double)here[1] * ((double)below + 0.5 * (double)here[0]);
    below += here[0];
    positive += here[1];
  }
  return below && positive ? pairs / ((double)below * (double)positive) : NAN;
}

static double value_of(Tally *tally, int i, double loss) {
  switch (tally->measures->metrics[i].kind) {
  case METRIC_ACCURACY:
  case METRIC_TOP:
    return (double)tally->within[i] / (double)tally->counted;
  case METRIC_F1:
    return mean_overlap(tally, 0);
  case METRIC_DICE:
    return mean_overlap(tally, 1);
  case METRIC_AUC:
    return area(tally);
  case METRIC_RELATIVE_L2:
    return tally->relative_counted ? tally->relative / (double)tally->relative_counted : NAN;
  case METRIC_PERPLEXITY:
    return exp(loss);
  }
  return NAN;
}

Status tally_end(Tally *tally, double *loss, double *values) {
  if (!tally->counted)
    return fail(E_MODEL, "every target is ignored (--ignore-index %lld)",
                (long long)tally->measures->loss.ignore_index);
  *loss = tally->loss / (double)tally->counted;
  for (int i = 0; i < tally->measures->n_metrics; i++)
    values[i] = value_of(tally, i, *loss);
  return OK;
}
