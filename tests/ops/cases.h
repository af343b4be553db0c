/* The table of operator cases. One row is an operator on inputs of given shapes with given attributes, and the shapes
 * that it must give. The rows and the random ones (case_random) yield the tests of shapes, of kernels against naive
 * oracles, of gradients against finite differences, and of one backend against another.
 *
 *   for (size_t i = 0; i < n_op_cases; i++)
 *     for each type of case_types(&op_cases[i], types)
 *       case_build, case_run on a backend, compare with case_oracle or with another backend's run, case_release
 */
#ifndef TESTS_OPS_CASES_H
#define TESTS_OPS_CASES_H

#include "backend/backend.h"
#include "graph/graph.h"

typedef enum {
  FILL_ANY,      /* floats in -2 … 2 away from 0, integers -6 … 6 but 0, natural numbers 0 … 9, booleans */
  FILL_POSITIVE, /* 0.3 … 2.3 */
  FILL_UNIT,     /* -0.9 … 0.9 */
  FILL_BEYOND,   /* 1.1 … 3.1 */
  FILL_DISTINCT, /* no two alike, over all inputs of the case, and at least 1/64 apart */
  FILL_TIED,     /* few values, many alike; 0 among them */
  FILL_INDEX,    /* -limit … limit-1 */
  FILL_CLASS,    /* 0 … limit-1, and now and then -100 */
  FILL_TRUTH,    /* 0 or 1 */
  FILL_SCALARS,  /* graph/optimizer.h, step 1 (limit 1) or a later one (limit 0) */
  FILL_LIMIT     /* all are `limit` */
} Fill;

typedef struct {
  bool present, absent; /* absent: NO_VALUE */
  DType dtype;          /* DTYPE_NONE: the type that the case runs in */
  Shape shape;
  Fill fill;
  int64_t limit;
  bool fixed; /* a known constant: no gradient towards it */
} CaseInput;

typedef enum { TYPES_FLOAT, TYPES_NUMBERS, TYPES_ALL, TYPES_BOOL } CaseTypes;

enum { CASE_INPUTS = 9, CASE_OUTPUTS = 5, CASE_ATTRS = 11 };

typedef struct {
  OpKind op;
  CaseTypes types;
  CaseInput in[CASE_INPUTS];
  struct {
    bool present;
    Shape shape;
  } out[CASE_OUTPUTS];
  Attr attrs[CASE_ATTRS]; /* up to the first without a name */
} OpCase;

extern const OpCase op_cases[];
extern const size_t n_op_cases;

/* Cases of large tensors, for backends that cut their work. */
extern const OpCase large_op_cases[];
extern const size_t n_large_op_cases;

/* "MatMul [2,3] [3,4] transA=1" for messages; lives until the next call of the thread. */
const char *case_text(const OpCase *op_case);

/* The types that the case runs in; returns how many. */
int case_types(const OpCase *op_case, DType types[DTYPE_COUNT]);

/* A random case of this operator, ever the same for a seed; false for an operator without a generator. Integers that
 * attributes point to live in `arena`. */
bool case_random(OpKind op, uint64_t seed, Arena *arena, OpCase *op_case);

/* A graph and a tensor in host memory for each of its values. */
typedef struct {
  Graph *graph;
  Node *node;     /* the case's */
  Tensor *tensor; /* [n_tensors], by ValueId */
  size_t n_tensors;
  int over; /* 1 + k: case_run lays the output over input k, a second one over the next; their contents are lost */
} CaseGraph;

/* The graph of one node in this type: float inputs that are not fixed are parameters, fixed ones constants. Inputs
 * are filled; the fill depends on case and seed alone and is a float32 number also in float64. */
Status case_build(const OpCase *op_case, DType type, uint64_t seed, Arena *arena, CaseGraph *built);

/* Makes zeroed tensors for values that were added to the graph since; constants get their contents. */
Status case_extend(CaseGraph *built);

/* Runs nodes first … last-1 on a backend, on its first device. */
Status case_run(const CaseGraph *built, const Backend *backend, int threads, NodeId first, NodeId last);

/* Whether the case's results lie over each input that the planner may put them over, and are the same bits as beside
 * them. If not, `where` says what. True for what is not done in place. */
bool case_in_place(const OpCase *op_case, DType type, uint64_t seed, const Backend *backend, int threads,
                   char where[256]);

void case_release(CaseGraph *built);

/* Elements as doubles; halves count as their bits. */
double tensor_get(const Tensor *tensor, int64_t i);
void tensor_set(const Tensor *tensor, int64_t i, double value);

/* Tensors as doubles, for oracles. */
typedef struct {
  const Node *node;
  DType dtype, in_dtype[CASE_INPUTS]; /* dtype: of input 0 */
  int n_in, n_out;
  Shape in_shape[CASE_INPUTS], out_shape[CASE_OUTPUTS];
  double *in[CASE_INPUTS], *out[CASE_OUTPUTS]; /* NULL where absent */
} OracleCall;

/* Naive definitions in double: outputs from inputs; operators that write inputs write them. */
typedef void Oracle(const OracleCall *call);
extern Oracle *const oracles[OP_COUNT];

/* Computes the case's node by its oracle. What it gives (outputs; of operators that write inputs, the inputs; of one
 * that does both, the first input and the outputs) lies in arena memory: result[i] of elements[i] doubles. Returns how
 * many results there are. Call before case_run where the operator writes inputs. */
int case_oracle(const CaseGraph *built, Arena *arena, double *result[CASE_INPUTS]);

/* The values that case_oracle's results belong to. */
int case_results(const Node *node, ValueId value[CASE_INPUTS]);

/* How far a kernel may be from the oracle, for case_close. Sums of float32 are kept in double or are short: rounding of
 * the result and of functions is left. Products sum in their type, terms of up to 4. */
double case_tolerance(const CaseGraph *built);

/* Whether got is expected: bit for bit in integers; within `tolerance` absolutely for numbers below 1 and relatively
 * above; NaN and infinities must be the same. If not, `where` says what. */
bool case_close(const Tensor *got, const double *expected, double tolerance, char where[256]);

/* A small generator of numbers, the same on every machine. */
uint64_t random_next(uint64_t *state);
int64_t random_below(uint64_t *state, int64_t n); /* 0 … n-1 */

#endif
