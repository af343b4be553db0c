/* The rows. Invariant: every operator has one, and every input that a gradient rule serves is a float input that is not
 * fixed in one of its operator's rows (both are tested). */
#include "tests/ops/cases.h"

/* A row ends where it has said all: the rest is zeros. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define DIMS(...)                                                                                                      \
  {                                                                                                                    \
    .rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .dim = { __VA_ARGS__ }                          \
  }

/* Inputs: of the case's type, and of types of their own. */
#define X(...)                                                                                                         \
  { .present = true, .shape = DIMS(__VA_ARGS__) }
#define ANY(...) X(__VA_ARGS__)
#define POSITIVE(...)                                                                                                  \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_POSITIVE }
#define UNIT(...)                                                                                                      \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_UNIT }
#define BEYOND(...)                                                                                                    \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_BEYOND }
#define DISTINCT(...)                                                                                                  \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_DISTINCT }
#define TIED(...)                                                                                                      \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_TIED, .fixed = true }
#define TRUTH(...)                                                                                                     \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_TRUTH, .fixed = true }
#define FIXED(...)                                                                                                     \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fixed = true }
#define NUMBER(x, ...)                                                                                                 \
  { .present = true, .shape = DIMS(__VA_ARGS__), .fill = FILL_LIMIT, .limit = x, .fixed = true }
#define NUMBER_OF(type, x)                                                                                             \
  { .present = true, .dtype = type, .fill = FILL_LIMIT, .limit = x, .fixed = true }
#define ABSENT                                                                                                         \
  { .present = true, .absent = true }
#define OF(type, ...)                                                                                                  \
  { .present = true, .dtype = type, .shape = DIMS(__VA_ARGS__), .fixed = true }
#define INDEX(type, n, ...)                                                                                            \
  { .present = true, .dtype = type, .shape = DIMS(__VA_ARGS__), .fill = FILL_INDEX, .limit = n }
#define CLASSES(type, n, ...)                                                                                          \
  { .present = true, .dtype = type, .shape = DIMS(__VA_ARGS__), .fill = FILL_CLASS, .limit = n }
#define SCALE                                                                                                          \
  { .present = true, .dtype = F64, .fill = FILL_POSITIVE }
#define SCALARS(first)                                                                                                 \
  { .present = true, .dtype = F64, .shape = DIMS(5), .fill = FILL_SCALARS, .limit = first, .fixed = true }

#define Y(...)                                                                                                         \
  { true, DIMS(__VA_ARGS__) }

#define INT(label, x)                                                                                                  \
  { .name = label, .kind = ATTR_INT, .i = x }
#define REAL(label, x)                                                                                                 \
  { .name = label, .kind = ATTR_FLOAT, .f = x }
#define WORD(label, x)                                                                                                 \
  { .name = label, .kind = ATTR_STRING, .s = x }
#define INTS(label, ...)                                                                                               \
  {                                                                                                                    \
    .name = label, .kind = ATTR_INTS, .ints = (const int64_t[]){__VA_ARGS__},                                          \
    .n = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))                                                     \
  }

#define FLOATS TYPES_FLOAT
#define NUMBERS TYPES_NUMBERS
#define ALL TYPES_ALL

/* What every broadcasting operator meets. */
#define BROADCASTS(op, types, IN)                                                                                      \
  {op, types, {IN(3, 4), IN(3, 4)}, {Y(3, 4)}}, {op, types, {IN(2, 3, 4), IN(4)}, {Y(2, 3, 4)}},                       \
      {op, types, {IN(3, 1), IN(2, 1, 5)}, {Y(2, 3, 5)}}, {op, types, {IN(), IN(7)}, {Y(7)}},                          \
      {op, types, {IN(2, 1, 3, 1), IN(1, 4, 1, 5)}, {Y(2, 4, 3, 5)}}, {op, types, {IN(), IN()}, {Y()}},                \
      {op, types, {IN(0, 3), IN(3)}, {Y(0, 3)}}, {                                                                     \
    op, types, {IN(33), IN(33)}, {                                                                                     \
      Y(33)                                                                                                            \
    }                                                                                                                  \
  }

#define ONE_INPUT(op, types, IN)                                                                                       \
  {op, types, {IN(3, 5)}, {Y(3, 5)}}, {op, types, {IN()}, {Y()}}, {op, types, {IN(0)}, {Y(0)}}, {                      \
    op, types, {IN(67)}, {                                                                                             \
      Y(67)                                                                                                            \
    }                                                                                                                  \
  }

#define BINARY_FLOATS(op)                                                                                              \
  {op, FLOATS, {X(3, 5), X(3, 5)}, {Y(3, 5)}}, {op, FLOATS, {X(), X()}, {Y()}}, {                                      \
    op, FLOATS, {X(71), X(71)}, {                                                                                      \
      Y(71)                                                                                                            \
    }                                                                                                                  \
  }

#define COMPARES(op)                                                                                                   \
  BROADCASTS(op, NUMBERS, TIED), {                                                                                     \
    op, TYPES_BOOL, {X(5), X(5)}, {                                                                                    \
      Y(5)                                                                                                             \
    }                                                                                                                  \
  }

#define SLICE(axis, start, end, step)                                                                                  \
  { INTS("axes", axis), INTS("starts", start), INTS("ends", end), INTS("steps", step) }
#define REDUCE(keep, ...)                                                                                              \
  { INTS("axes", __VA_ARGS__), INT("keepdims", keep) }
#define TRANSPOSED(a, b)                                                                                               \
  { INT("transA", a), INT("transB", b) }
#define AXIS(a)                                                                                                        \
  { INT("axis", a) }
#define ADAM(decay, is_decoupled)                                                                                      \
  {                                                                                                                    \
    REAL("beta1", 0.9), REAL("beta2", 0.999), REAL("epsilon", 1e-8), REAL("weight_decay", decay),                      \
        INT("decoupled", is_decoupled), INT("states", 2)                                                               \
  }
#define PLACES(n, ...)                                                                                                 \
  { .present = true, .dtype = I64, .shape = DIMS(__VA_ARGS__), .fill = FILL_CLASS, .limit = n + 1 }
#define NUMBER_PLACES(x, ...)                                                                                          \
  { .present = true, .dtype = I64, .shape = DIMS(__VA_ARGS__), .fill = FILL_LIMIT, .limit = x }
#define SPARSE_ADAM                                                                                                    \
  { REAL("beta1", 0.9), REAL("beta2", 0.999), REAL("epsilon", 1e-8), INT("states", 2) }
#define SGD(mu, is_nesterov, decay, n_states)                                                                          \
  { REAL("momentum", mu), INT("nesterov", is_nesterov), REAL("weight_decay", decay), INT("states", n_states) }

const OpCase op_cases[] = {
#include "tests/ops/rows/recurrent.inc"
    BROADCASTS(OP_Add, NUMBERS, X),
    BROADCASTS(OP_Sub, NUMBERS, X),
    BROADCASTS(OP_Mul, NUMBERS, X),
    BROADCASTS(OP_Div, NUMBERS, X),
    BROADCASTS(OP_Pow, FLOATS, POSITIVE),
    {OP_Pow, FLOATS, {X(3, 5), NUMBER(2)}, {Y(3, 5)}},
    {OP_Pow, FLOATS, {X(3, 5), NUMBER(1, 1)}, {Y(3, 5)}},
    {OP_Pow, FLOATS, {X(4), NUMBER(3, 1)}, {Y(4)}},
    {OP_Pow, FLOATS, {X(4), NUMBER(0)}, {Y(4)}},
    {OP_Pow, FLOATS, {POSITIVE(4, 5), OF(I64, 5)}, {Y(4, 5)}},
    {OP_Pow, FLOATS, {POSITIVE(4, 5), OF(I32, 5)}, {Y(4, 5)}},
    {OP_Pow, NUMBERS, {X(6), NUMBER(3)}, {Y(6)}},
    {OP_Pow, NUMBERS, {X(6), NUMBER_OF(F32, 2)}, {Y(6)}},
    {OP_Pow, NUMBERS, {X(6), NUMBER_OF(F64, 4)}, {Y(6)}},
    {OP_Pow, FLOATS, {TIED(6), NUMBER(2, 6)}, {Y(6)}},
    BROADCASTS(OP_Max, NUMBERS, DISTINCT),
    {OP_Max, FLOATS, {TIED(3, 5), TIED(5)}, {Y(3, 5)}},
    BROADCASTS(OP_Min, NUMBERS, DISTINCT),
    BROADCASTS(OP_Mod, NUMBERS, FIXED),
    {OP_Mod, NUMBERS, {FIXED(40), FIXED(40)}, {Y(40)}, {INT("fmod", 1)}},
    {OP_Mod, FLOATS, {X(40), X(40)}, {Y(40)}, {INT("fmod", 1)}},
    COMPARES(OP_Equal),
    COMPARES(OP_Greater),
    COMPARES(OP_GreaterOrEqual),
    COMPARES(OP_Less),
    COMPARES(OP_LessOrEqual),
    BROADCASTS(OP_And, TYPES_BOOL, X),
    BROADCASTS(OP_Or, TYPES_BOOL, X),
    ONE_INPUT(OP_Not, TYPES_BOOL, X),
    {OP_Where, ALL, {OF(BOOL, 3, 4), X(3, 4), X(3, 4)}, {Y(3, 4)}},
    {OP_Where, ALL, {OF(BOOL, 4, 1), X(3), X(2, 1, 1)}, {Y(2, 4, 3)}},
    {OP_Where, ALL, {OF(BOOL), X(3, 4), X()}, {Y(3, 4)}},
    {OP_Where, ALL, {OF(BOOL, 0), X(1), X(0)}, {Y(0)}},
#define UNARY(op_name, types, fill, x) ONE_INPUT(OP_##op_name, TYPES_##types, fill),
#include "tests/ops/unary.def"
#undef UNARY
    ONE_INPUT(OP_LeakyRelu, FLOATS, X),
    {OP_LeakyRelu, FLOATS, {X(9)}, {Y(9)}, {REAL("alpha", 0.25)}},
    ONE_INPUT(OP_Gelu, FLOATS, X),
    {OP_Gelu, FLOATS, {X(35)}, {Y(35)}, {WORD("approximate", "tanh")}},
    ONE_INPUT(OP_Swish, FLOATS, X),
    {OP_Swish, FLOATS, {X(35)}, {Y(35)}, {REAL("alpha", 1.702)}},
    BINARY_FLOATS(OP_SwiGLU),
    {OP_SwiGLU, FLOATS, {X(35), X(35)}, {Y(35)}, {REAL("alpha", 1.702)}},
    ONE_INPUT(OP_Clip, FLOATS, X),
    {OP_Clip, FLOATS, {X(35)}, {Y(35)}, {REAL("min", -0.5), REAL("max", 0.25)}},
    {OP_Clip, FLOATS, {X(35)}, {Y(35)}, {REAL("min", 0.25)}},
#include "tests/ops/rows/narrow.inc"
    {OP_Cast, NUMBERS, {X(3, 5)}, {Y(3, 5)}, {INT("to", F32)}},
    {OP_Cast, NUMBERS, {X(300)}, {Y(300)}, {INT("to", F64)}},
    {OP_Cast, NUMBERS, {X(3, 0)}, {Y(3, 0)}, {INT("to", I64)}},
    {OP_Cast, NUMBERS, {X(9)}, {Y(9)}, {INT("to", I32)}},
    {OP_Cast, NUMBERS, {X()}, {Y()}, {INT("to", I16)}},
    {OP_Cast, NUMBERS, {X(9)}, {Y(9)}, {INT("to", I8)}},
    {OP_Cast, NUMBERS, {POSITIVE(9)}, {Y(9)}, {INT("to", U8)}},
    {OP_Cast, NUMBERS, {POSITIVE(9)}, {Y(9)}, {INT("to", U16)}},
    {OP_Cast, NUMBERS, {POSITIVE(9)}, {Y(9)}, {INT("to", U32)}},
    {OP_Cast, NUMBERS, {POSITIVE(9)}, {Y(9)}, {INT("to", U64)}},
    {OP_Cast, NUMBERS, {TIED(9)}, {Y(9)}, {INT("to", BOOL)}},
    {OP_Reshape, ALL, {X(3, 4)}, {Y(2, 6)}, {INTS("shape", 2, 6)}},
    {OP_Reshape, ALL, {X(1, 1)}, {Y()}, {INTS("shape", )}},
    {OP_Reshape, ALL, {X(0, 3)}, {Y(5, 0)}, {INTS("shape", 5, 0)}},
    {OP_Transpose, ALL, {X(3, 5)}, {Y(5, 3)}, {INTS("perm", 1, 0)}},
    {OP_Transpose, ALL, {X(2, 3, 4)}, {Y(2, 3, 4)}, {INTS("perm", 0, 1, 2)}},
    {OP_Transpose, ALL, {X(2, 3, 4, 5)}, {Y(2, 4, 3, 5)}, {INTS("perm", 0, 2, 1, 3)}},
    {OP_Transpose, ALL, {X(2, 3, 4, 5)}, {Y(5, 3, 2, 4)}, {INTS("perm", 3, 1, 0, 2)}},
    {OP_Transpose, ALL, {X(37, 70)}, {Y(70, 37)}, {INTS("perm", 1, 0)}},
    {OP_Transpose, ALL, {X(3, 0)}, {Y(0, 3)}, {INTS("perm", 1, 0)}},
    {OP_Transpose, ALL, {X()}, {Y()}, {INTS("perm", )}},
    {OP_Transpose, ALL, {X(1, 2, 1, 3, 1)}, {Y(3, 1, 1, 2, 1)}, {INTS("perm", 3, 0, 4, 1, 2)}},
    {OP_Concat, ALL, {X(2, 3), X(2, 1), X(2, 4)}, {Y(2, 8)}, AXIS(1)},
    {OP_Concat, ALL, {X(2, 3), X(1, 3)}, {Y(3, 3)}, AXIS(0)},
    {OP_Concat, ALL, {X(2, 0, 2), X(2, 3, 2)}, {Y(2, 3, 2)}, AXIS(1)},
    {OP_Concat, ALL, {X(5)}, {Y(5)}, AXIS(0)},
    {OP_Split, ALL, {X(2, 6)}, {Y(2, 1), Y(2, 2), Y(2, 3)}, {INT("axis", 1), INTS("split", 1, 2, 3)}},
    {OP_Split, ALL, {X(4, 3, 2)}, {Y(3, 3, 2), Y(0, 3, 2), Y(1, 3, 2)}, {INT("axis", 0), INTS("split", 3, 0, 1)}},
    {OP_Slice, ALL, {X(5, 6)}, {Y(5, 3)}, SLICE(1, 2, 5, 1)},
    {OP_Slice, ALL, {X(7)}, {Y(3)}, SLICE(0, 1, 7, 2)},
    {OP_Slice, ALL, {X(7, 2)}, {Y(7, 2)}, SLICE(0, 6, -1, -1)},
    {OP_Slice, ALL, {X(7)}, {Y(3)}, SLICE(0, 6, 0, -2)},
    {OP_Slice, ALL, {X(7)}, {Y(1)}, SLICE(0, 3, 7, INT64_MAX)},
    {OP_Slice, ALL, {X(7)}, {Y(1)}, SLICE(0, 3, -1, INT64_MIN)},
    {OP_Slice, ALL, {X(7)}, {Y(0)}, SLICE(0, 7, 7, 1)},
    {OP_Slice,
     ALL,
     {X(4, 5, 6)},
     {Y(2, 5, 2)},
     {INTS("axes", 2, 0), INTS("starts", 1, 3), INTS("ends", 6, 0), INTS("steps", 3, -2)}},
    {OP_Slice, ALL, {X(3)}, {Y(3)}, {INTS("axes", ), INTS("starts", ), INTS("ends", ), INTS("steps", )}},
    {OP_Expand, ALL, {X(3, 1)}, {Y(2, 3, 4)}, {INTS("shape", 2, 3, 4)}},
    {OP_Expand, ALL, {X()}, {Y(2, 3)}, {INTS("shape", 2, 3)}},
    {OP_Expand, ALL, {X(1, 5)}, {Y(0, 5)}, {INTS("shape", 0, 5)}},
    {OP_Expand, ALL, {X(2, 5)}, {Y(2, 5)}, {INTS("shape", 2, 5)}},
    {OP_Gather, ALL, {X(5, 3), INDEX(I64, 5, 2, 4)}, {Y(2, 4, 3)}, AXIS(0)},
    {OP_Gather, ALL, {X(5, 3), INDEX(I32, 3, 4)}, {Y(5, 4)}, AXIS(1)},
    {OP_Gather, ALL, {X(2, 3, 4), INDEX(I64, 3)}, {Y(2, 4)}, AXIS(1)},
    {OP_Gather, ALL, {X(3, 2), INDEX(I64, 3, 0)}, {Y(0, 2)}, AXIS(0)},
    {OP_Gather, ALL, {X(4, 0), INDEX(I64, 4, 3)}, {Y(3, 0)}, AXIS(0)},
    {OP_GatherND, ALL, {X(3, 4), INDEX(I64, 3, 5, 2)}, {Y(5)}},
    {OP_GatherND, ALL, {X(3, 4), INDEX(I32, 3, 2, 2, 1)}, {Y(2, 2, 4)}},
    {OP_GatherND, ALL, {X(2, 3, 4), INDEX(I64, 3, 2, 5, 1)}, {Y(2, 5, 4)}, {INT("batch_dims", 1)}},
    {OP_GatherND, ALL, {X(2, 3, 4), INDEX(I64, 4, 2, 3, 1)}, {Y(2, 3)}, {INT("batch_dims", 2)}},
    {OP_GatherND, ALL, {X(3, 4), INDEX(I64, 3, 2)}, {Y()}},
#include "tests/ops/rows/index.inc"
    {OP_Trilu, ALL, {X(4, 5)}, {Y(4, 5)}},
    {OP_Trilu, ALL, {X(2, 4, 3)}, {Y(2, 4, 3)}, {INT("upper", 0)}},
    {OP_Trilu, ALL, {X(4, 5)}, {Y(4, 5)}, {INT("upper", 1), INT("k", 2)}},
    {OP_Trilu, ALL, {X(4, 5)}, {Y(4, 5)}, {INT("upper", 0), INT("k", -2)}},
    {OP_Trilu, ALL, {X(4, 5)}, {Y(4, 5)}, {INT("upper", 0), INT("k", INT64_MAX)}},
    {OP_Trilu, ALL, {X(4, 5)}, {Y(4, 5)}, {INT("upper", 1), INT("k", INT64_MIN)}},
    {OP_Trilu, ALL, {X(3, 0)}, {Y(3, 0)}},
    {OP_Range, NUMBERS, {NUMBER(3), FIXED(), NUMBER(2)}, {Y(5)}, {INT("count", 5)}},
    {OP_Range, NUMBERS, {NUMBER(3, 1), FIXED(1), NUMBER(-4, 1)}, {Y(3)}, {INT("count", 3)}},
    {OP_Range, NUMBERS, {FIXED(), FIXED(), FIXED()}, {Y(0)}, {INT("count", 0)}},
    {OP_CumSum, NUMBERS, {X(3, 5)}, {Y(3, 5)}, AXIS(1)},
    {OP_CumSum, NUMBERS, {X(3, 5)}, {Y(3, 5)}, AXIS(0)},
    {OP_CumSum, NUMBERS, {X(2, 5, 3)}, {Y(2, 5, 3)}, {INT("axis", 1), INT("exclusive", 1)}},
    {OP_CumSum, NUMBERS, {X(6)}, {Y(6)}, {INT("axis", 0), INT("reverse", 1)}},
    {OP_CumSum, NUMBERS, {X(6)}, {Y(6)}, {INT("axis", 0), INT("exclusive", 1), INT("reverse", 1)}},
    {OP_CumSum, NUMBERS, {X(0, 3)}, {Y(0, 3)}, AXIS(0)},
    {OP_ReduceSum, NUMBERS, {X(3, 5)}, {Y(3, 1)}, REDUCE(1, 1)},
    {OP_ReduceSum, NUMBERS, {X(3, 5)}, {Y(5)}, REDUCE(0, 0)},
    {OP_ReduceSum, NUMBERS, {X(2, 3, 4, 5)}, {Y(3, 5)}, REDUCE(0, 0, 2)},
    {OP_ReduceSum, NUMBERS, {X(2, 3, 4, 5)}, {Y(2, 1, 4, 1)}, REDUCE(1, 1, 3)},
    {OP_ReduceSum, NUMBERS, {X(2, 3, 4)}, {Y()}, REDUCE(0, 0, 1, 2)},
    {OP_ReduceSum, NUMBERS, {X(3, 150)}, {Y(150)}, REDUCE(0, 0)},
    {OP_ReduceSum, NUMBERS, {X(0, 3)}, {Y(3)}, REDUCE(0, 0)},
    {OP_ReduceSum, NUMBERS, {X(3, 0)}, {Y(0)}, REDUCE(0, 0)},
    {OP_ReduceSum, NUMBERS, {X(1, 7, 1)}, {Y(1, 7)}, REDUCE(0, 2)},
    {OP_ReduceMean, FLOATS, {X(3, 5)}, {Y(3)}, REDUCE(0, 1)},
    {OP_ReduceMean, FLOATS, {X(2, 3, 4)}, {Y(1, 3, 1)}, REDUCE(1, 0, 2)},
    {OP_ReduceMean, FLOATS, {X(4, 50)}, {Y()}, REDUCE(0, 0, 1)},
    {OP_ReduceMean, FLOATS, {X(0, 3)}, {Y(3)}, REDUCE(0, 0)},
    {OP_ReduceMax, NUMBERS, {DISTINCT(3, 5)}, {Y(3)}, REDUCE(0, 1)},
    {OP_ReduceMax, NUMBERS, {DISTINCT(2, 3, 4)}, {Y(1, 3, 1)}, REDUCE(1, 0, 2)},
    {OP_ReduceMax, NUMBERS, {DISTINCT(3, 20)}, {Y(20)}, REDUCE(0, 0)},
    {OP_ReduceMax, FLOATS, {DISTINCT(0, 3)}, {Y(3)}, REDUCE(0, 0)},
    {OP_MatMul, FLOATS, {X(32, 1100), X(1100, 8)}, {Y(32, 8)}},
    {OP_MatMul, FLOATS, {X(3, 4), X(4, 5)}, {Y(3, 5)}},
    {OP_MatMul, FLOATS, {X(4, 3), X(4, 5)}, {Y(3, 5)}, TRANSPOSED(1, 0)},
    {OP_MatMul, FLOATS, {X(3, 4), X(5, 4)}, {Y(3, 5)}, TRANSPOSED(0, 1)},
    {OP_MatMul, FLOATS, {X(4, 3), X(5, 4)}, {Y(3, 5)}, TRANSPOSED(1, 1)},
    {OP_MatMul, FLOATS, {X(4), X(4)}, {Y()}},
    {OP_MatMul, FLOATS, {X(4), X(4, 5)}, {Y(5)}},
    {OP_MatMul, FLOATS, {X(3, 4), X(4)}, {Y(3)}},
    {OP_MatMul, FLOATS, {X(4), X(2, 4, 5)}, {Y(2, 5)}},
    {OP_MatMul, FLOATS, {X(2, 3, 4), X(4)}, {Y(2, 3)}},
    {OP_MatMul, FLOATS, {X(4), X(5, 4)}, {Y(5)}, TRANSPOSED(0, 1)},
    {OP_MatMul, FLOATS, {X(2, 3, 4), X(4, 5)}, {Y(2, 3, 5)}},
    {OP_MatMul, FLOATS, {X(2, 3, 4), X(5, 4)}, {Y(2, 3, 5)}, TRANSPOSED(0, 1)},
    {OP_MatMul, FLOATS, {X(2, 4, 3), X(4, 5)}, {Y(2, 3, 5)}, TRANSPOSED(1, 0)},
    {OP_MatMul, FLOATS, {X(3, 4), X(2, 4, 5)}, {Y(2, 3, 5)}},
    {OP_MatMul, FLOATS, {X(2, 1, 3, 4), X(5, 4, 2)}, {Y(2, 5, 3, 2)}},
    {OP_MatMul, FLOATS, {X(2, 3, 2, 4), X(2, 3, 5, 4)}, {Y(2, 3, 2, 5)}, TRANSPOSED(0, 1)},
    {OP_MatMul, FLOATS, {X(1, 3, 4), X(2, 4, 5)}, {Y(2, 3, 5)}},
    {OP_MatMul, FLOATS, {X(3, 0), X(0, 5)}, {Y(3, 5)}},
    {OP_MatMul, FLOATS, {X(0, 4), X(4, 5)}, {Y(0, 5)}},
    {OP_MatMul, FLOATS, {X(97, 300), X(300, 33)}, {Y(97, 33)}},
    {OP_Gemm, FLOATS, {X(3, 4), X(4, 5)}, {Y(3, 5)}},
    {OP_Gemm, FLOATS, {X(3, 4), X(4, 5), X(5)}, {Y(3, 5)}},
    {OP_Gemm, FLOATS, {X(3, 4), X(5, 4), X(3, 5)}, {Y(3, 5)}, {INT("transB", 1), REAL("alpha", 0.5), REAL("beta", 2)}},
    {OP_Gemm, FLOATS, {X(4, 3), X(4, 5), X(3, 1)}, {Y(3, 5)}, {INT("transA", 1), REAL("alpha", -1.5)}},
    {OP_Gemm, FLOATS, {X(4, 3), X(5, 4), X()}, {Y(3, 5)}, {INT("transA", 1), INT("transB", 1), REAL("beta", 0.25)}},
    {OP_Gemm, FLOATS, {X(1, 4), X(4, 1), ABSENT}, {Y(1, 1)}},
    {OP_Gemm, FLOATS, {X(3, 0), X(0, 5), X(1, 5)}, {Y(3, 5)}},
    {OP_ProductGelu, FLOATS, {X(3, 4), X(4, 5), X(5)}, {Y(3, 5), Y(3, 5)}},
    {OP_ProductGelu, FLOATS, {X(2, 3, 4), X(5, 4)}, {Y(2, 3, 5)}, {INT("transB", 1), WORD("approximate", "tanh")}},
    {OP_ProductGelu, FLOATS, {X(3, 0), X(0, 5), X(1, 5)}, {Y(3, 5), Y(3, 5)}},
    {OP_ProductGelu, FLOATS, {X(3, 0), X(0, 5)}, {Y(3, 5)}},
    {OP_ProductGelu, FLOATS, {X(0, 4), X(4, 5), X(5)}, {Y(0, 5), Y(0, 5)}},
    {OP_ProductGelu, FLOATS, {X(2, 4), X(4, 1), X(1)}, {Y(2, 1), Y(2, 1)}, {WORD("approximate", "tanh")}},
    {OP_ProductGelu, FLOATS, {X(97, 300), X(300, 40), X(40)}, {Y(97, 40), Y(97, 40)}, {WORD("approximate", "tanh")}},
    {OP_ProductGeluGrad, FLOATS, {X(3, 4), X(4, 5), X(3, 5)}, {Y(3, 5)}},
    {OP_ProductGeluGrad, FLOATS, {X(2, 3, 4), X(5, 4), X(2, 3, 5)}, {Y(2, 3, 5)}, {INT("transB", 1)}},
    {OP_ProductGeluGrad, FLOATS, {X(3, 0), X(0, 5), X(3, 5)}, {Y(3, 5)}, {WORD("approximate", "tanh")}},
    {OP_ProductGeluGrad, FLOATS, {X(0, 4), X(4, 5), X(0, 5)}, {Y(0, 5)}},
    {OP_ProductGeluGrad, FLOATS, {X(97, 300), X(300, 40), X(97, 40)}, {Y(97, 40)}, {WORD("approximate", "tanh")}},
    {OP_ProductAdd, FLOATS, {X(3, 4), X(4, 5), X(3, 5)}, {Y(3, 5)}},
    {OP_ProductAdd, FLOATS, {X(2, 3, 4), X(5, 4), X(2, 3, 5), X(5)}, {Y(2, 3, 5)}, {INT("transB", 1)}},
    {OP_ProductAdd, FLOATS, {X(3, 0), X(0, 5), X(3, 5), X(1, 5)}, {Y(3, 5)}},
    {OP_ProductAdd, FLOATS, {X(0, 4), X(4, 5), X(0, 5)}, {Y(0, 5)}},
    {OP_ProductAdd, FLOATS, {X(2, 4), X(4, 1), X(2, 1), X(1)}, {Y(2, 1)}},
    {OP_ProductAdd, FLOATS, {X(97, 300), X(300, 40), X(97, 40), X(40)}, {Y(97, 40)}},
#include "tests/ops/rows/convolution.inc"
#include "tests/ops/rows/points.inc"
    {OP_Softmax, FLOATS, {X(3, 5)}, {Y(3, 5)}, AXIS(1)},
    {OP_Softmax, FLOATS, {X(3, 5, 2)}, {Y(3, 5, 2)}, AXIS(1)},
    {OP_Softmax, FLOATS, {X(4, 3)}, {Y(4, 3)}, AXIS(0)},
    {OP_Softmax, FLOATS, {X(3, 0)}, {Y(3, 0)}, AXIS(1)},
    {OP_Softmax, FLOATS, {X(2, 77)}, {Y(2, 77)}, AXIS(1)},
    {OP_LogSoftmax, FLOATS, {X(3, 5)}, {Y(3, 5)}, AXIS(1)},
    {OP_LogSoftmax, FLOATS, {X(3, 5, 2)}, {Y(3, 5, 2)}, AXIS(1)},
    {OP_LogSoftmax, FLOATS, {X(2, 77)}, {Y(2, 77)}, AXIS(1)},
    {OP_LayerNormalization, FLOATS, {X(3, 5), X(5), X(5)}, {Y(3, 5), Y(3, 1), Y(3, 1)}, AXIS(1)},
    {OP_LayerNormalization,
     FLOATS,
     {X(2, 3, 4), X(3, 4), X(3, 4)},
     {Y(2, 3, 4), Y(2, 1, 1), Y(2, 1, 1)},
     {INT("axis", 1), REAL("epsilon", 0.01)}},
    {OP_LayerNormalization, FLOATS, {X(2, 3, 70), X(70)}, {Y(2, 3, 70), Y(2, 3, 1), Y(2, 3, 1)}, AXIS(2)},
    {OP_LayerNormalization, FLOATS, {X(0, 4), X(4), X(4)}, {Y(0, 4), Y(0, 1), Y(0, 1)}, AXIS(1)},
    {OP_LayerNormalization, FLOATS, {X(6), X(6), X(6)}, {Y(6), Y(1), Y(1)}, AXIS(0)},
    {OP_RMSNormalization, FLOATS, {X(3, 5), X(5)}, {Y(3, 5), Y(3, 1)}, AXIS(1)},
    {OP_RMSNormalization,
     FLOATS,
     {X(2, 3, 4), X(3, 4)},
     {Y(2, 3, 4), Y(2, 1, 1)},
     {INT("axis", 1), REAL("epsilon", 0.1)}},
    {OP_RMSNormalization, FLOATS, {X(2, 3, 70), X(70)}, {Y(2, 3, 70), Y(2, 3, 1)}, AXIS(2)},
    BINARY_FLOATS(OP_TanhGrad),
    BINARY_FLOATS(OP_SigmoidGrad),
    BINARY_FLOATS(OP_ReluGrad),
    BINARY_FLOATS(OP_LeakyReluGrad),
    {OP_LeakyReluGrad, FLOATS, {X(9), X(9)}, {Y(9)}, {REAL("alpha", 0.25)}},
    BINARY_FLOATS(OP_GeluGrad),
    {OP_GeluGrad, FLOATS, {X(35), X(35)}, {Y(35)}, {WORD("approximate", "tanh")}},
    BINARY_FLOATS(OP_SwishGrad),
    {OP_SwishGrad, FLOATS, {X(35), X(35)}, {Y(35)}, {REAL("alpha", 1.702)}},
    {OP_SwiGLUGrad, FLOATS, {X(3, 5), X(3, 5), X(3, 5)}, {Y(3, 5), Y(3, 5)}, {{0}}},
    {OP_SwiGLUGrad, FLOATS, {X(), X(), X()}, {Y(), Y()}, {{0}}},
    {OP_SwiGLUGrad, FLOATS, {X(0), X(0), X(0)}, {Y(0), Y(0)}, {{0}}},
    {OP_SwiGLUGrad, FLOATS, {X(571), X(571), X(571)}, {Y(571), Y(571)}, {REAL("alpha", 1.702)}},
    BINARY_FLOATS(OP_ClipGrad),
    {OP_ClipGrad, FLOATS, {X(35), X(35)}, {Y(35)}, {REAL("min", -0.5), REAL("max", 0.25)}},
    {OP_SliceGrad,
     ALL,
     {X(5, 3)},
     {Y(5, 6)},
     {INTS("axes", 1), INTS("starts", 2), INTS("ends", 5), INTS("steps", 1), INTS("shape", 5, 6)}},
    {OP_SliceGrad,
     ALL,
     {X(2, 5, 2)},
     {Y(4, 5, 6)},
     {INTS("axes", 2, 0), INTS("starts", 1, 3), INTS("ends", 6, 0), INTS("steps", 3, -2), INTS("shape", 4, 5, 6)}},
    {OP_SliceGrad,
     ALL,
     {X(0)},
     {Y(4)},
     {INTS("axes", 0), INTS("starts", 4), INTS("ends", 4), INTS("steps", 1), INTS("shape", 4)}},
    {OP_GatherGrad, FLOATS, {X(2, 4, 3), INDEX(I64, 5, 2, 4)}, {Y(5, 3)}, {INT("axis", 0), INTS("shape", 5, 3)}},
    {OP_GatherGrad, FLOATS, {X(5, 4), INDEX(I32, 3, 4)}, {Y(5, 3)}, {INT("axis", 1), INTS("shape", 5, 3)}},
    {OP_GatherGrad, FLOATS, {X(0, 2), INDEX(I64, 3, 0)}, {Y(3, 2)}, {INT("axis", 0), INTS("shape", 3, 2)}},
    {OP_GatherNDGrad, FLOATS, {X(5), INDEX(I64, 3, 5, 2)}, {Y(3, 4)}, {INTS("shape", 3, 4)}},
    {OP_GatherNDGrad,
     FLOATS,
     {X(2, 5, 4), INDEX(I64, 3, 2, 5, 1)},
     {Y(2, 3, 4)},
     {INT("batch_dims", 1), INTS("shape", 2, 3, 4)}},
    {OP_SoftmaxGrad, FLOATS, {X(3, 5), X(3, 5)}, {Y(3, 5)}, AXIS(1)},
    {OP_SoftmaxGrad, FLOATS, {X(3, 5, 2), X(3, 5, 2)}, {Y(3, 5, 2)}, AXIS(1)},
    {OP_SoftmaxGrad, FLOATS, {X(2, 77), X(2, 77)}, {Y(2, 77)}, AXIS(1)},
    {OP_LogSoftmaxGrad, FLOATS, {X(3, 5), X(3, 5)}, {Y(3, 5)}, AXIS(1)},
    {OP_LogSoftmaxGrad, FLOATS, {X(3, 5, 2), X(3, 5, 2)}, {Y(3, 5, 2)}, AXIS(1)},
    {OP_LayerNormalizationGradInput, FLOATS, {X(3, 5), X(3, 5), X(5), X(3, 1), POSITIVE(3, 1)}, {Y(3, 5)}, AXIS(1)},
    {OP_LayerNormalizationGradInput,
     FLOATS,
     {X(3, 48), X(3, 48), X(48), X(3, 1), POSITIVE(3, 1), X(3, 48)},
     {Y(3, 48)},
     AXIS(1)},
    {OP_LayerNormalizationGradInput,
     FLOATS,
     {X(2, 3, 40), X(2, 3, 40), X(3, 40), X(2, 1, 1), POSITIVE(2, 1, 1)},
     {Y(2, 3, 40)},
     AXIS(1)},
    {OP_LayerNormalizationGradScale, FLOATS, {X(3, 5), X(3, 5), X(3, 1), POSITIVE(3, 1)}, {Y(5)}, AXIS(1)},
    {OP_LayerNormalizationGradScale,
     FLOATS,
     {X(4, 3, 70), X(4, 3, 70), X(4, 1, 1), POSITIVE(4, 1, 1)},
     {Y(3, 70)},
     AXIS(1)},
    {OP_LayerNormalizationGradScale, FLOATS, {X(0, 5), X(0, 5), X(0, 1), X(0, 1)}, {Y(5)}, AXIS(1)},
    {OP_RMSNormalizationGradInput, FLOATS, {X(3, 5), X(3, 5), X(5), POSITIVE(3, 1)}, {Y(3, 5)}, AXIS(1)},
    {OP_RMSNormalizationGradInput, FLOATS, {X(3, 5), X(3, 5), X(5), POSITIVE(3, 1), X(3, 5)}, {Y(3, 5)}, AXIS(1)},
    {OP_RMSNormalizationGradInput, FLOATS, {X(2, 70), X(2, 70), X(70), POSITIVE(2, 1)}, {Y(2, 70)}, AXIS(1)},
    {OP_RMSNormalizationGradScale, FLOATS, {X(3, 5), X(3, 5), POSITIVE(3, 1)}, {Y(5)}, AXIS(1)},
    {OP_RMSNormalizationGradScale, FLOATS, {X(3, 170), X(3, 170), POSITIVE(3, 1)}, {Y(170)}, AXIS(1)},
    {OP_CrossEntropy, FLOATS, {X(4, 5), CLASSES(I64, 5, 4)}, {Y(), Y(4)}, {INT("class_axis", 1)}},
    {OP_CrossEntropy, FLOATS, {X(2, 5, 3), CLASSES(I32, 5, 2, 3)}, {Y(), Y(2, 3)}, {INT("class_axis", 1)}},
    {OP_CrossEntropy,
     FLOATS,
     {X(3, 4, 35), {.present = true, .dtype = I64, .shape = DIMS(3, 4), .fill = FILL_TIED}},
     {Y(), Y(3, 4)},
     {INT("class_axis", 2), INT("ignore_index", -1)}},
    {OP_CrossEntropy, FLOATS, {X(0, 5), CLASSES(I64, 5, 0)}, {Y(), Y(0)}, {INT("class_axis", 1)}},
    {OP_CrossEntropyGrad, FLOATS, {X(4, 5), CLASSES(I64, 5, 4), X(4), SCALE}, {Y(4, 5)}, {INT("class_axis", 1)}},
    {OP_CrossEntropyGrad,
     FLOATS,
     {X(2, 5, 3), CLASSES(I32, 5, 2, 3), X(2, 3), SCALE},
     {Y(2, 5, 3)},
     {INT("class_axis", 1)}},
    {OP_Rotary, FLOATS, {X(3, 5, 4), X(5, 4), X(3, 1, 4)}, {Y(3, 5, 4)}},
    {OP_Rotary, FLOATS, {X(6), X(6), X(6)}, {Y(6)}, {INT("inverse", 1)}},
    {OP_Rotary, FLOATS, {X(2, 70, 3, 80), FIXED(70, 1, 80), FIXED(80)}, {Y(2, 70, 3, 80)}, {INT("inverse", 1)}},
    {OP_Rotary, FLOATS, {X(0, 4), FIXED(4), FIXED(1, 4)}, {Y(0, 4)}},
    {OP_ProductCrossEntropy,
     FLOATS,
     {X(5, 4), X(3, 4), X(5, 4), CLASSES(I64, 5, 3), SCALE},
     {Y(3, 4), Y()},
     {INT("transB", 1), INT("rows", 2)}},
    {OP_ProductCrossEntropy,
     FLOATS,
     {X(4, 5), X(2, 3, 4), X(4, 5), CLASSES(I32, 5, 6), SCALE, X(5)},
     {Y(2, 3, 4), Y(), Y(5)},
     {INT("rows", 4), INT("begins", 1)}},
    {OP_ProductCrossEntropy,
     FLOATS,
     {X(4, 5), X(7, 4), X(4, 5), {.present = true, .dtype = I64, .shape = DIMS(7), .fill = FILL_TIED}, SCALE},
     {Y(7, 4), Y()},
     {INT("rows", 3), INT("ignore_index", -1)}},
    {OP_ProductCrossEntropy,
     FLOATS,
     {X(70, 9), X(40, 9), X(70, 9), CLASSES(I64, 70, 40), SCALE, X(70)},
     {Y(40, 9), Y(), Y(70)},
     {INT("transB", 1), INT("rows", 16)}},
    {OP_ProductCrossEntropy,
     FLOATS,
     {X(4, 5), X(0, 4), X(4, 5), CLASSES(I64, 5, 0), SCALE, X(5)},
     {Y(0, 4), Y(), Y(5)},
     {INT("rows", 4), INT("begins", 1)}},
    {OP_CountTargets, FLOATS, {CLASSES(I64, 5, 4)}, {Y()}, {INT("ignore_index", 2)}},
    {OP_CountTargets, FLOATS, {CLASSES(I32, 5, 2, 3)}, {Y()}},
    {OP_CountTargets, FLOATS, {CLASSES(I64, 5, 0)}, {Y()}},
    {OP_MeanSquaredError, FLOATS, {X(3, 5), FIXED(3, 5)}, {Y()}},
    {OP_MeanSquaredError, FLOATS, {X(0), FIXED(0)}, {Y()}},
    {OP_MeanSquaredErrorGrad, FLOATS, {X(3, 15), FIXED(3, 15), SCALE}, {Y(3, 15)}},
    {OP_BinaryCrossEntropy, FLOATS, {X(3, 5), TRUTH(3, 5)}, {Y()}},
    {OP_BinaryCrossEntropy, FLOATS, {X(40), TRUTH(40)}, {Y()}},
    {OP_BinaryCrossEntropyGrad, FLOATS, {X(3, 15), TRUTH(3, 15), SCALE}, {Y(3, 15)}},
    {OP_Accumulate, FLOATS, {X(3, 15), X(3, 15)}},
    {OP_Accumulate, FLOATS, {X(0), X(0)}},
    {OP_AccumulateMatMul, FLOATS, {X(3, 5), X(3, 4), X(4, 5)}},
    {OP_AccumulateMatMul, FLOATS, {X(3, 5), X(4, 3), X(4, 5)}, .attrs = TRANSPOSED(1, 0)},
    {OP_AccumulateMatMul, FLOATS, {X(3, 5), X(4, 3), X(5, 4)}, .attrs = TRANSPOSED(1, 1)},
    {OP_AccumulateMatMul, FLOATS, {X(2, 3, 5), X(2, 3, 4), X(4, 5)}},
    {OP_AccumulateMatMul, FLOATS, {X(2, 3, 5), X(1, 3, 4), X(2, 5, 4)}, .attrs = TRANSPOSED(0, 1)},
    {OP_AccumulateMatMul, FLOATS, {X(3, 5), X(3, 0), X(0, 5)}},
    {OP_AccumulateMatMul, FLOATS, {X(0, 5), X(0, 4), X(4, 5)}},
    {OP_AccumulateMatMul, FLOATS, {X(97, 33), X(300, 97), X(300, 33)}, .attrs = TRANSPOSED(1, 0)},
    {OP_SquaredNorm, FLOATS, {X(3, 15)}, {Y()}},
    {OP_SquaredNorm, FLOATS, {X(1100), X(1100), X(1100), X(1100)}, {Y()}},
    {OP_SquaredNorm, FLOATS, {X(0)}, {Y()}},
    {OP_SgdUpdate, FLOATS, {X(3, 15), SCALARS(1), X(3, 15)}},
    {OP_SgdUpdate, FLOATS, {X(1100), SCALARS(0), X(1100), X(1100), X(1100)}, {}, SGD(0, 0, 0.1, 0)},
    {OP_SgdUpdate, FLOATS, {X(33), SCALARS(1), X(33), X(33)}, {}, SGD(0.9, 0, 0, 1)},
    {OP_SgdUpdate, FLOATS, {X(33), SCALARS(0), X(33), X(33)}, {}, SGD(0.9, 0, 0.01, 1)},
    {OP_SgdUpdate, FLOATS, {X(33), SCALARS(0), X(33), X(33), X(33)}, {}, SGD(0.9, 1, 0, 1)},
    {OP_AdamUpdate, FLOATS, {X(33), SCALARS(0), X(33), POSITIVE(33), X(33)}, {}, ADAM(0, 0)},
    {OP_AdamUpdate, FLOATS, {X(33), SCALARS(1), X(33), POSITIVE(33), X(33), X(33)}, {}, ADAM(0.1, 0)},
    {OP_AdamUpdate, FLOATS, {X(1100), SCALARS(0), X(1100), POSITIVE(1100), X(1100)}, {}, ADAM(0.1, 1)},
#include "tests/ops/rows/determinant.inc"
#include "tests/ops/rows/fourier.inc"
#include "tests/ops/rows/functions.inc"
#include "tests/ops/rows/norm.inc"
#include "tests/ops/rows/pool.inc"
#include "tests/ops/rows/rows.inc"
#include "tests/ops/rows/sample.inc"

#include "tests/ops/rows/attention.inc"
    {OP_LeakyRelu, FLOATS, {X(9)}, {Y(9)}, {REAL("alpha", -0.5)}},
    {OP_AccumulateMatMul, FLOATS, {X(3, 5), X(3, 0), X(0, 5)}, .attrs = {INT("begins", 1)}},
    {OP_AccumulateMatMul, FLOATS, {X(97, 33), X(97, 600), X(600, 33)}, .attrs = {INT("begins", 1)}},
};

const size_t n_op_cases = sizeof op_cases / sizeof *op_cases;
