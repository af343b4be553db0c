/* Random ONNX models over all operators that the importer takes, for the question where the samples lie. Every size is
 * a polynomial in N, the number of samples, so that a model is sound for (nearly) any N.
 *
 * Invariant: one seed is one graph, whether its batch is open or a number; only where the file would hold a size that
 * depends on N does the second have the number. */
#ifndef TESTS_BATCH_DRAW_H
#define TESTS_BATCH_DRAW_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/onnx/build_net.h"

/* c + n·N + q·N²; `other` > 0: some size that is none of these, equal only to itself. */
typedef struct {
  int64_t c, n, q;
  int other;
} Dim;

typedef enum { REAL, INTEGER, TRUTH } Kind;

enum { MOST_AXES = 5, MOST_VALUES = 96, MOST_INPUTS = 5, MOST_NAMES = 512, MOST_TEXT = 16384 };

/* A tensor of the model that depends on its inputs or parameters. */
typedef struct {
  char name[16];
  Kind kind;
  int rank;
  Dim dim[MOST_AXES];
} Drawn;

typedef struct {
  char name[16];
  Kind kind;
  int rank;
  int64_t dim[MOST_AXES]; /* -1: N */
  int batch_axis;         /* -1: none, the same for all samples */
  int below;              /* of integers: 0 … below - 1 */
} DrawnInput;

typedef struct {
  uint64_t seed;   /* that is being drawn from */
  int64_t fixed;   /* the number of samples that the file was exported with; 0: open */
  bool calm;       /* axes that grow with N are not reduced, sorted, cut or multiplied away */
  int opset, real; /* real: ONNX's number of the type of all reals */
  Bytes graph;
  char text[MOST_TEXT]; /* a line a node */
  int n_text;
  Drawn values[MOST_VALUES];
  int n_values;
  DrawnInput inputs[MOST_INPUTS];
  int n_inputs;
  char names[MOST_NAMES][16]; /* "t12" is the 12th */
  bool reached[MOST_NAMES];   /* by a parameter */
  int n_names, n_others, n_nodes, n_trained, n_constants;
  char outputs[3][16]; /* names; the first is trained on */
  int n_outputs;
  Drawn first; /* the first output */
} Draw;

/* The whole model, in `d->graph` (to be freed with the model around it); false where these dice gave none. `fixed`: 0,
 * or the number of samples that the file is exported with. */
bool draw_model(Draw *d, uint64_t seed, int64_t fixed);
/* ModelProto around the graph. */
Bytes draw_finish(Draw *d);

/* ---- between draw.c and draw_nodes.c ---- */

unsigned below(Draw *d, unsigned n); /* 0 … n - 1 */
bool chance(Draw *d, unsigned percent);

Dim fixed_dim(int64_t c);
bool dim_equal(Dim a, Dim b);
bool dim_fixed(Dim a);
bool dim_is_n(Dim a);
bool dim_times(Dim a, Dim b, Dim *product);
bool dim_over(Dim a, int64_t by, Dim *quotient); /* false where it does not divide for every N */
int64_t dim_at(Dim a, int64_t n);

/* Adds a node; returns its first output's name, fresh unless `out` says more: "a,b". Attributes: "axis:i=1
 * perm:I=0,2,1 alpha:f=0.5 equation:s=ij->ji"; inputs by commas. */
const char *add_node(Draw *d, const char *op, const char *inputs, const char *attributes);
const char *add_node_to(Draw *d, const char *op, const char *inputs, const char *outputs, const char *attributes);
const char *fresh(Draw *d, char letter);
/* Whether a parameter is among those or behind them. */
bool is_reached(const Draw *d, const char *names);
void add_if(Draw *d, const char *condition, const char *in, const char *out, const char *yes, const char *no);
/* Initializers: integers [n], or a scalar; reals: `trained` or constant. */
const char *add_ints(Draw *d, int n, const int64_t *values);
const char *add_int(Draw *d, int64_t value);
const char *add_reals(Draw *d, bool trained, int rank, const int64_t *dims, double low, double high);
const char *add_real(Draw *d, double value);
/* Known integers that depend on N: a scalar, or a vector [n] with one of them -1 where `open` allows it. NULL where no
 * value has such a size. */
const char *add_number(Draw *d, Dim number);
const char *add_shape(Draw *d, int n, const Dim *dims, bool open);
Drawn *add_value(Draw *d, const char *name, Kind kind, int rank, const Dim *dims);
/* One more step: some nodes that end in a value. False where nothing was added. */
bool draw_step(Draw *d);
/* One with a parameter. */
bool draw_trained(Draw *d);
/* A step that puts or picks by index, see draw_index.c. */
bool draw_by_index(Draw *d);
/* One that convolves, see draw_convolution.c. */
bool draw_convolved(Draw *d);
/* One that normalises, see draw_norm.c. */
bool draw_norm(Draw *d);
/* What steps begin with: a value of the kind with at least so many axes, one of the last mostly, or NULL; an axis to
 * work along, one that does not grow where the model is calm, or -1. And end with: a value of these sizes, or of v's.
 */
Drawn *pick(Draw *d, Kind kind, int least);
int pick_axis(Draw *d, const Drawn *v);
bool result(Draw *d, const char *name, Kind kind, int rank, const Dim *dims);
bool like(Draw *d, const char *name, const Drawn *v);
/* Squeeze or Unsqueeze, as the opset has it. */
const char *with_axes(Draw *d, const char *op, const char *name, int n, const int64_t *axes);
/* Lives until the eighth call after it. */
const char *texts(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A loss of the model's own over a value, its name; NULL where none fits. */
const char *draw_loss(Draw *d, const Drawn *v);

#endif
