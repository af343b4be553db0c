/* What a drawn model gives for any of its samples, in float64: the graph bound for just those samples and evaluated
 * node by node. And whether its parts, put together along the samples, are the whole. */
#ifndef TESTS_BATCH_ORACLE_H
#define TESTS_BATCH_ORACLE_H

#include "tests/batch/draw.h"

enum { MOST_SAMPLES = 16, MOST_OUTPUTS = 3 };

/* One set of random data: reals for `samples` samples of every input, integers too (as double). */
typedef struct {
  int64_t samples;
  double *inputs[MOST_INPUTS];
} DrawnData;

typedef struct {
  DType dtype;
  Shape shape;
  double *data;
} Answer;

/* An open model: its graphs for every number of samples that was asked for. */
typedef struct {
  Arena *arena;
  const Draw *draw;
  Model *model;
  int64_t fixed; /* of a file that was exported for so many; 0: open */
  Graph *graphs[MOST_SAMPLES + 1];
} Oracle;

Status oracle_open(Oracle *oracle, const Draw *draw, const char *path, int64_t fixed);
void oracle_close(Oracle *oracle);

void data_draw(DrawnData *data, const Draw *draw, int64_t samples, uint64_t seed);
void data_free(DrawnData *data);
/* The same samples in another order, or others of them. */
void data_pick(DrawnData *data, const Draw *draw, const DrawnData *from, const int64_t *samples, int64_t n);
/* Elements of an input for samples [first, first + count) into `to`; returns their shape. */
Shape data_take(const DrawnData *data, const DrawnInput *in, const double *from, int64_t first, int64_t count,
                double *to);

/* All outputs for samples [first, first + count) of the data, in the oracle's arena. */
Status oracle_run(Oracle *oracle, const DrawnData *data, int64_t first, int64_t count, Answer *answers);
/* The greatest difference relative to the greatest number; NaNs are equal, a number and a NaN are not. */
double answers_differ(const Answer *a, const Answer *b);
/* Whether output i of the data's samples is what its parts give, for several ways to part them. */
Status oracle_separable(Oracle *oracle, const DrawnData *data, int output, bool *separable);

/* Whether `got` is what a file of a fixed batch gives for the data's samples at output i, each in some run of the file:
 * where it does not matter which others it has beside it. *alone: so it is for some layout. */
Status oracle_accepts(Oracle *oracle, const DrawnData *data, int output, const Answer *got, bool *alone,
                      double *differs);

#endif
