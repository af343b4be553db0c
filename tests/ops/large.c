/* Cases of large tensors: of several tasks, blocks or chunks, wherever a backend cuts its work. */
#include "tests/ops/cases.h"

#define F(...)                                                                                                         \
  {                                                                                                                    \
    .present = true, .shape = { __VA_ARGS__ }                                                                          \
  }
#define P(...)                                                                                                         \
  { .present = true, .shape = {__VA_ARGS__}, .fill = FILL_POSITIVE }
#define ALL(x, ...)                                                                                                    \
  { .present = true, .shape = {__VA_ARGS__}, .fill = FILL_LIMIT, .limit = x }
#define B(...)                                                                                                         \
  {                                                                                                                    \
    .present = true, .dtype = BOOL, .shape = { __VA_ARGS__ }                                                           \
  }
#define C(n, ...)                                                                                                      \
  { .present = true, .dtype = I64, .shape = {__VA_ARGS__}, .fill = FILL_CLASS, .limit = n }
#define I(n, ...)                                                                                                      \
  { .present = true, .dtype = I64, .shape = {__VA_ARGS__}, .fill = FILL_INDEX, .limit = n }
#define N(x)                                                                                                           \
  { .present = true, .fill = FILL_LIMIT, .limit = x }
#define SCALE                                                                                                          \
  { .present = true, .dtype = F64, .fill = FILL_POSITIVE }
#define SCALARS                                                                                                        \
  { .present = true, .dtype = F64, .shape = {1, {5}}, .fill = FILL_SCALARS }
#define Y(...)                                                                                                         \
  {                                                                                                                    \
    {                                                                                                                  \
      true, {                                                                                                          \
        __VA_ARGS__                                                                                                    \
      }                                                                                                                \
    }                                                                                                                  \
  }
#define INT(label, x)                                                                                                  \
  { .name = label, .kind = ATTR_INT, .i = x }
#define REAL(label, x)                                                                                                 \
  { .name = label, .kind = ATTR_FLOAT, .f = x }
#define WORD(label, x)                                                                                                 \
  { .name = label, .kind = ATTR_STRING, .s = x }
#define INTS(label, count, ...)                                                                                        \
  { .name = label, .kind = ATTR_INTS, .ints = (const int64_t[]){__VA_ARGS__}, .n = count }

const OpCase large_op_cases[] = {
    {OP_Add, TYPES_NUMBERS, {F(2, {50, 1000}), F(2, {50, 1000})}, Y(2, {50, 1000}), {{0}}},
    {OP_Add, TYPES_FLOAT, {F(3, {7, 100, 100}), F(1, {100})}, Y(3, {7, 100, 100}), {{0}}},
    {OP_Mul, TYPES_FLOAT, {F(4, {1, 300, 1, 20}), F(3, {1, 11, 20})}, Y(4, {1, 300, 11, 20}), {{0}}},
    {OP_Sub, TYPES_FLOAT, {F(1, {3}), F(5, {2, 3, 4, 999, 3})}, Y(5, {2, 3, 4, 999, 3}), {{0}}},
    {OP_Div, TYPES_FLOAT, {F(2, {70001, 1}), F(0)}, Y(2, {70001, 1}), {{0}}},
    {OP_Where, TYPES_ALL, {B(2, {200, 200}), F(3, {2, 200, 200}), F(0)}, Y(3, {2, 200, 200}), {{0}}},
    {OP_Cast, TYPES_FLOAT, {F(1, {50001})}, Y(1, {50001}), {INT("to", I64)}},
    {OP_Exp, TYPES_FLOAT, {F(1, {50001})}, Y(1, {50001}), {{0}}},
    {OP_Tanh, TYPES_FLOAT, {F(3, {40, 40, 41})}, Y(3, {40, 40, 41}), {{0}}},
    {OP_Gelu, TYPES_FLOAT, {F(2, {300, 301})}, Y(2, {300, 301}), {{0}}},
    {OP_Gelu,
     TYPES_FLOAT,
     {F(2, {300, 301})},
     Y(2, {300, 301}),
     {{.name = "approximate", .kind = ATTR_STRING, .s = "tanh"}}},
    {OP_GeluGrad, TYPES_FLOAT, {F(2, {300, 301}), F(2, {300, 301})}, Y(2, {300, 301}), {{0}}},
    {OP_Swish, TYPES_FLOAT, {F(2, {300, 301})}, Y(2, {300, 301}), {{0}}},
    {OP_SwishGrad, TYPES_FLOAT, {F(2, {300, 301}), F(2, {300, 301})}, Y(2, {300, 301}), {{0}}},
    {OP_Pow, TYPES_FLOAT, {F(2, {300, 301}), N(3)}, Y(2, {300, 301}), {{0}}},
    {OP_Pow, TYPES_FLOAT, {F(2, {300, 301}), N(2)}, Y(2, {300, 301}), {{0}}},
    {OP_Transpose, TYPES_ALL, {F(2, {190, 301})}, Y(2, {301, 190}), {INTS("perm", 2, 1, 0)}},
    {OP_Transpose, TYPES_FLOAT, {F(4, {4, 33, 6, 70})}, Y(4, {4, 6, 33, 70}), {INTS("perm", 4, 0, 2, 1, 3)}},
    {OP_Transpose, TYPES_FLOAT, {F(4, {4, 33, 6, 70})}, Y(4, {4, 6, 70, 33}), {INTS("perm", 4, 0, 2, 3, 1)}},
    {OP_Transpose, TYPES_FLOAT, {F(3, {40, 41, 42})}, Y(3, {42, 41, 40}), {INTS("perm", 3, 2, 1, 0)}},
    {OP_Expand, TYPES_FLOAT, {F(3, {30, 1, 50})}, Y(3, {30, 40, 50}), {INTS("shape", 3, 30, 40, 50)}},
    {OP_Concat, TYPES_FLOAT, {F(3, {50, 3, 200}), F(3, {50, 2, 200})}, Y(3, {50, 5, 200}), {INT("axis", 1)}},
    {OP_Slice,
     TYPES_FLOAT,
     {F(2, {300, 301})},
     Y(2, {300, 150}),
     {INTS("axes", 1, 1), INTS("starts", 1, 1), INTS("ends", 1, 301), INTS("steps", 1, 2)}},
    {OP_SliceGrad,
     TYPES_FLOAT,
     {F(2, {300, 150})},
     Y(2, {300, 301}),
     {INTS("axes", 1, 1), INTS("starts", 1, 1), INTS("ends", 1, 301), INTS("steps", 1, 2), INTS("shape", 2, 300, 301)}},
    {OP_Gather, TYPES_FLOAT, {F(2, {90, 70}), I(90, 2, {30, 31})}, Y(3, {30, 31, 70}), {INT("axis", 0)}},
    {OP_GatherGrad,
     TYPES_FLOAT,
     {F(3, {30, 31, 70}), I(90, 2, {30, 31})},
     Y(2, {90, 70}),
     {INT("axis", 0), INTS("shape", 2, 90, 70)}},
    {OP_GatherElements,
     TYPES_FLOAT,
     {F(3, {40, 30, 50}), I(30, 3, {40, 20, 45})},
     Y(3, {40, 20, 45}),
     {INT("axis", 1)}},
    {OP_ScatterElements,
     TYPES_FLOAT,
     {F(3, {35, 60, 30}), I(40, 3, {35, 60, 30}), F(3, {40, 40, 30})},
     Y(3, {40, 40, 30}),
     {INT("axis", 1), WORD("reduction", "add")}},
    {OP_ScatterElements,
     TYPES_FLOAT,
     {F(2, {300, 200}), I(40, 2, {300, 200})},
     Y(2, {300, 40}),
     {INT("axis", 1), WORD("reduction", "add"), INTS("shape", 2, 300, 40)}},
    {OP_TopK,
     TYPES_FLOAT,
     {F(3, {12, 300, 11})},
     {{true, {3, {12, 5, 11}}}, {true, {3, {12, 5, 11}}}},
     {INT("axis", 1), INT("k", 5)}},
#include "tests/ops/rows/convolution_large.inc"
    {OP_SquaredNormRows, TYPES_FLOAT, {F(3, {3, 500, 301}), C(3001, 2, {3, 500})}, Y(0), {INTS("shape", 2, 3000, 301)}},
    {OP_SgdUpdateRows,
     TYPES_FLOAT,
     {F(2, {1000, 301}), SCALARS, F(3, {3, 500, 301}), C(1001, 2, {3, 500})},
     {{0}},
     {{0}}},
    {OP_AdamUpdateRows,
     TYPES_FLOAT,
     {F(2, {1000, 301}), SCALARS, F(2, {1000, 301}), P(2, {1000, 301}), F(3, {3, 50, 301}), C(1001, 2, {3, 50})},
     {{0}},
     {REAL("beta1", 0.9), REAL("beta2", 0.999), REAL("epsilon", 1e-8), INT("states", 2)}},
    {OP_SparseAdamUpdate,
     TYPES_FLOAT,
     {F(2, {1000, 31}), SCALARS, F(2, {1000, 31}), P(2, {1000, 31}), F(3, {3, 500, 31}), C(1001, 2, {3, 500})},
     {{0}},
     {REAL("beta1", 0.9), REAL("beta2", 0.999), REAL("epsilon", 1e-8), INT("states", 2)}},
    {OP_ReduceSum, TYPES_NUMBERS, {F(2, {300, 301})}, Y(1, {301}), {INTS("axes", 1, 0), INT("keepdims", 0)}},
    {OP_ReduceMean, TYPES_FLOAT, {F(2, {300, 301})}, Y(2, {300, 1}), {INTS("axes", 1, 1)}},
    {OP_ReduceSum, TYPES_NUMBERS, {F(2, {300, 264})}, Y(1, {264}), {INTS("axes", 1, 0), INT("keepdims", 0)}},
    {OP_ReduceSum, TYPES_FLOAT, {F(3, {20, 90, 16})}, Y(2, {20, 16}), {INTS("axes", 1, 1), INT("keepdims", 0)}},
    {OP_ReduceSum, TYPES_FLOAT, {F(3, {20, 16, 90})}, Y(2, {20, 90}), {INTS("axes", 1, 1), INT("keepdims", 0)}},
    {OP_ReduceMean, TYPES_FLOAT, {F(4, {20, 6, 10, 30})}, Y(2, {6, 30}), {INTS("axes", 2, 0, 2), INT("keepdims", 0)}},
    {OP_ReduceMax, TYPES_NUMBERS, {F(2, {3, 20000})}, Y(1, {3}), {INTS("axes", 1, 1), INT("keepdims", 0)}},
    {OP_ReduceMean, TYPES_FLOAT, {F(3, {20, 3, 1000})}, Y(2, {20, 3}), {INTS("axes", 1, 2), INT("keepdims", 0)}},
    {OP_BatchNormalization,
     TYPES_FLOAT,
     {F(4, {40, 3, 8, 16}), F(1, {3}), F(1, {3})},
     {{true, {4, {40, 3, 8, 16}}}, {true, {1, {3}}}, {true, {1, {3}}}, {true, {1, {3}}}},
     {{0}}},
    {OP_BatchNormalizationGradScale,
     TYPES_FLOAT,
     {F(2, {300, 24}), F(2, {300, 24}), F(1, {24}), P(1, {24})},
     {{true, {1, {24}}}, {true, {1, {24}}}},
     {{0}}},
    {OP_BatchNormalizationGradScale,
     TYPES_FLOAT,
     {F(3, {40, 3, 128}), F(3, {40, 3, 128}), F(1, {3}), P(1, {3})},
     {{true, {1, {3}}}, {true, {1, {3}}}},
     {{0}}},
    {OP_BatchNormalizationGradInput,
     TYPES_FLOAT,
     {F(3, {40, 3, 128}), F(3, {40, 3, 128}), F(1, {3}), F(1, {3}), P(1, {3}), F(1, {3}), F(1, {3})},
     Y(3, {40, 3, 128}),
     {{0}}},
    {OP_BatchNormalizationGradInput,
     TYPES_FLOAT,
     {F(2, {300, 24}), F(2, {300, 24}), F(1, {24}), F(1, {24}), P(1, {24}), F(1, {24}), F(1, {24})},
     Y(2, {300, 24}),
     {{0}}},
    {OP_RecurrentSteps,
     TYPES_FLOAT,
     {F(3, {2, 130, 280}), F(2, {280, 70}), F(1, {280}), F(2, {130, 70}), F(2, {130, 70}), I(3, 1, {130})},
     {{true, {3, {2, 130, 70}}},
      {true, {2, {130, 70}}},
      {true, {2, {130, 70}}},
      {true, {3, {2, 130, 70}}},
      {true, {3, {2, 130, 350}}}},
     {{.name = "cell", .kind = ATTR_STRING, .s = "lstm"}, INT("reverse", 1)}},
    {OP_RecurrentSteps,
     TYPES_FLOAT,
     {F(3, {3, 7, 900}), F(2, {900, 300}), F(1, {1200})},
     {{true, {3, {3, 7, 300}}}, {true, {2, {7, 300}}}, {true, {3, {3, 7, 300}}}, {true, {3, {3, 7, 1200}}}},
     {{.name = "cell", .kind = ATTR_STRING, .s = "gru_reset_after"}, INT("reverse", 0)}},
    {OP_RecurrentStepsGrad,
     TYPES_FLOAT,
     {F(2, {280, 70}), F(3, {1, 130, 70}), F(3, {1, 130, 350}), F(3, {1, 130, 70}), F(2, {130, 70}), F(2, {130, 70})},
     {{true, {3, {1, 130, 280}}}, {true, {2, {130, 70}}}, {true, {2, {130, 70}}}},
     {{.name = "cell", .kind = ATTR_STRING, .s = "lstm"}, INT("reverse", 0)}},
    {OP_RecurrentStepsGrad,
     TYPES_FLOAT,
     {F(2, {297, 99}), F(3, {1, 125, 99}), F(3, {1, 125, 396}), F(3, {1, 125, 99})},
     {{true, {3, {1, 125, 297}}}, {true, {2, {125, 99}}}, {true, {3, {1, 125, 297}}}},
     {{.name = "cell", .kind = ATTR_STRING, .s = "gru_reset_after"}, INT("reverse", 1)}},
    {OP_Softmax, TYPES_FLOAT, {F(3, {20, 40, 100})}, Y(3, {20, 40, 100}), {INT("axis", 2)}},
    {OP_Softmax, TYPES_FLOAT, {F(3, {20, 40, 100})}, Y(3, {20, 40, 100}), {INT("axis", 1)}},
    {OP_SoftmaxGrad, TYPES_FLOAT, {F(2, {2000, 20}), F(2, {2000, 20})}, Y(2, {2000, 20}), {INT("axis", 1)}},
    {OP_LayerNormalization,
     TYPES_FLOAT,
     {F(3, {8, 100, 100}), F(1, {100}), F(1, {100})},
     {{true, {3, {8, 100, 100}}}, {true, {3, {8, 100, 1}}}, {true, {3, {8, 100, 1}}}},
     {INT("axis", 2)}},
    {OP_LayerNormalizationGradInput,
     TYPES_FLOAT,
     {F(2, {1000, 40}), F(2, {1000, 40}), F(1, {40}), F(2, {1000, 1}), P(2, {1000, 1})},
     Y(2, {1000, 40}),
     {INT("axis", 1)}},
/* lines that a warp has, a block has, and neither */
#define LAYER_NORM(rows, n)                                                                                            \
  {                                                                                                                    \
    OP_LayerNormalization, TYPES_FLOAT, {F(2, {rows, n}), F(1, {n}), F(1, {n})},                                       \
        {{true, {2, {rows, n}}}, {true, {2, {rows, 1}}}, {true, {2, {rows, 1}}}}, {                                    \
      INT("axis", 1)                                                                                                   \
    }                                                                                                                  \
  }
#define LAYER_NORM_GRAD(rows, n)                                                                                       \
  {                                                                                                                    \
    OP_LayerNormalizationGradInput, TYPES_FLOAT,                                                                       \
        {F(2, {rows, n}), F(2, {rows, n}), F(1, {n}), F(2, {rows, 1}), P(2, {rows, 1})}, Y(2, {rows, n}), {            \
      INT("axis", 1)                                                                                                   \
    }                                                                                                                  \
  }
#define SOFTMAX(rows, n)                                                                                               \
  {                                                                                                                    \
    OP_Softmax, TYPES_FLOAT, {F(2, {rows, n})}, Y(2, {rows, n}), {                                                     \
      INT("axis", 1)                                                                                                   \
    }                                                                                                                  \
  }
    LAYER_NORM(9, 48),
    LAYER_NORM(3, 768),
    LAYER_NORM(2, 2048),
    LAYER_NORM(2, 8184),
    LAYER_NORM(2, 8200),
    LAYER_NORM_GRAD(9, 136),
    LAYER_NORM_GRAD(3, 768),
    LAYER_NORM_GRAD(2, 3000),
    LAYER_NORM_GRAD(2, 8192),
    LAYER_NORM_GRAD(2, 8200),
    SOFTMAX(3, 1000),
    SOFTMAX(2, 2056),
    SOFTMAX(2, 8200),
    SOFTMAX(2, 2057),
    {OP_LogSoftmaxGrad, TYPES_FLOAT, {F(2, {2, 768}), F(2, {2, 768})}, Y(2, {2, 768}), {INT("axis", 1)}},
    {OP_LayerNormalizationGradScale,
     TYPES_FLOAT,
     {F(2, {300, 264}), F(2, {300, 264}), F(2, {300, 1}), P(2, {300, 1})},
     Y(1, {264}),
     {INT("axis", 1)}},
    {OP_RMSNormalizationGradScale,
     TYPES_FLOAT,
     {F(2, {100, 400}), F(2, {100, 400}), P(2, {100, 1})},
     Y(1, {400}),
     {INT("axis", 1)}},
#define QKV(b, h, groups, t, s, d, dv) F(4, {b, h, t, d}), F(4, {b, groups, s, d}), F(4, {b, groups, s, dv})
#define GRAD_QKV(b, h, groups, t, s, d, dv)                                                                            \
  F(4, {b, h, t, d}), F(4, {b, groups, s, d}), F(4, {b, groups, s, dv}), F(4, {b, h, t, dv}), ALL(3, 3, {b, h, t}),    \
      ALL(3, 3, {b, h, t}), F(4, {b, h, t, dv})
    {OP_Attention,
     TYPES_FLOAT,
     {QKV(1, 2, 1, 150, 260, 20, 17), F(2, {150, 260})},
     {{true, {4, {1, 2, 150, 17}}}, {true, {3, {1, 2, 150}}}, {true, {3, {1, 2, 150}}}},
     {REAL("scale", 0.25)}},
    {OP_Attention,
     TYPES_FLOAT,
     {QKV(1, 4, 2, 270, 270, 8, 9)},
     {{true, {4, {1, 4, 270, 9}}}, {true, {3, {1, 4, 270}}}, {true, {3, {1, 4, 270}}}},
     {REAL("scale", 0.25), INT("right", 0)}},
    {OP_Attention,
     TYPES_FLOAT,
     {QKV(35, 2, 2, 2, 5, 4, 3), B(4, {35, 1, 1, 5})},
     {{true, {4, {35, 2, 2, 3}}}, {true, {3, {35, 2, 2}}}, {true, {3, {35, 2, 2}}}},
     {{0}}},
    {OP_Attention,
     TYPES_FLOAT,
     {QKV(1, 1, 1, 300, 320, 6, 6)},
     {{true, {4, {1, 1, 300, 6}}}, {true, {3, {1, 1, 300}}}, {true, {3, {1, 1, 300}}}},
     {INT("right", 20), INT("left", 31)}},
    {OP_AttentionGrad,
     TYPES_FLOAT,
     {GRAD_QKV(1, 2, 1, 150, 260, 20, 37), F(2, {150, 260})},
     {{true, {4, {1, 2, 150, 20}}}, {true, {4, {1, 1, 260, 20}}}, {true, {4, {1, 1, 260, 37}}}},
     {REAL("scale", 0.125)}},
    {OP_AttentionGrad, /* in rows, wider than what is put at once */
     TYPES_FLOAT,
     {F(3, {1, 140, 1200}),
      {.present = true, .absent = true},
      {.present = true, .absent = true},
      F(3, {1, 140, 400}),
      ALL(3, 3, {1, 2, 140}),
      ALL(3, 3, {1, 2, 140}),
      F(3, {1, 140, 400})},
     {{true, {3, {1, 140, 1200}}}},
     {REAL("scale", 0.0625), INT("right", 0), INT("heads", 2), INT("groups", 2), INT("size", 200),
      INT("value_size", 200), INTS("q_rows", 2, 0, 200), INTS("k_rows", 2, 400, 200), INTS("v_rows", 2, 800, 200),
      INT("y_rows", 1)}},
    {OP_Attention,
     TYPES_FLOAT,
     {F(3, {1, 140, 1200}), {.present = true, .absent = true}, {.present = true, .absent = true}},
     {{true, {3, {1, 140, 400}}}, {true, {3, {1, 2, 140}}}, {true, {3, {1, 2, 140}}}},
     {REAL("scale", 0.0625), INT("right", 0), INT("heads", 2), INT("groups", 2), INT("size", 200),
      INT("value_size", 200), INTS("q_rows", 2, 0, 200), INTS("k_rows", 2, 400, 200), INTS("v_rows", 2, 800, 200),
      INT("y_rows", 1)}},
    {OP_AttentionGrad,
     TYPES_FLOAT,
     {GRAD_QKV(1, 4, 2, 270, 270, 8, 9)},
     {{true, {4, {1, 4, 270, 8}}}, {true, {4, {1, 2, 270, 8}}}, {true, {4, {1, 2, 270, 9}}}},
     {REAL("scale", 0.25), INT("right", 0)}},
    {OP_AttentionGrad,
     TYPES_FLOAT,
     {GRAD_QKV(35, 2, 2, 2, 5, 4, 3), B(4, {35, 1, 2, 1})},
     {{true, {4, {35, 2, 2, 4}}}, {true, {4, {35, 2, 5, 4}}}, {true, {4, {35, 2, 5, 3}}}},
     {{0}}},
    {OP_AttentionGrad,
     TYPES_FLOAT,
     {GRAD_QKV(1, 1, 1, 300, 320, 6, 6)},
     {{true, {4, {1, 1, 300, 6}}}, {true, {4, {1, 1, 320, 6}}}, {true, {4, {1, 1, 320, 6}}}},
     {REAL("scale", 0.5), INT("right", 20), INT("left", 31)}},
    /* rows of which all is as good as forbidden weigh all alike */
    {OP_Attention,
     TYPES_FLOAT,
     {QKV(1, 1, 1, 3, 5, 4, 4), N(-9000000000000000000)},
     {{true, {4, {1, 1, 3, 4}}}, {true, {3, {1, 1, 3}}}, {true, {3, {1, 1, 3}}}},
     {{0}}},
    {OP_AttentionGrad,
     TYPES_FLOAT,
     {QKV(1, 1, 1, 3, 5, 4, 4), F(4, {1, 1, 3, 4}), ALL(-9000000000000000000, 3, {1, 1, 3}), P(3, {1, 1, 3}),
      F(4, {1, 1, 3, 4}), N(-9000000000000000000)},
     {{true, {4, {1, 1, 3, 4}}}, {true, {4, {1, 1, 5, 4}}}, {true, {4, {1, 1, 5, 4}}}},
     {{0}}},
#undef GRAD_QKV
#undef QKV
    {OP_CrossEntropy,
     TYPES_FLOAT,
     {F(2, {200, 1000}), C(1000, 1, {200})},
     {{true, {0}}, {true, {1, {200}}}},
     {INT("class_axis", 1)}},
    {OP_CrossEntropy,
     TYPES_FLOAT,
     {F(2, {3, 5000}), C(5000, 1, {3})},
     {{true, {0}}, {true, {1, {3}}}},
     {INT("class_axis", 1)}},
    {OP_CrossEntropyGrad,
     TYPES_FLOAT,
     {F(2, {3, 5000}), C(5000, 1, {3}), F(1, {3}), SCALE},
     Y(2, {3, 5000}),
     {INT("class_axis", 1)}},
    {OP_CrossEntropyGrad,
     TYPES_FLOAT,
     {F(2, {200, 300}), C(300, 1, {200}), F(1, {200}), SCALE},
     Y(2, {200, 300}),
     {INT("class_axis", 1)}},
    {OP_ProductCrossEntropy,
     TYPES_FLOAT,
     {F(2, {70, 9}), F(2, {150, 9}), F(2, {70, 9}), C(70, 1, {150}), SCALE, F(1, {70})},
     {{true, {2, {150, 9}}}, {true, {0}}, {true, {1, {70}}}},
     {INT("transB", 1), INT("rows", 8)}},
    {OP_Accumulate, TYPES_FLOAT, {F(2, {300, 301}), F(2, {300, 301})}, {{0}}, {{0}}},
    {OP_SquaredNorm, TYPES_FLOAT, {F(2, {600, 301}), F(2, {600, 301})}, Y(0), {{0}}},
    {OP_SgdUpdate, TYPES_FLOAT, {F(2, {300, 301}), SCALARS, F(2, {300, 301})}, {{0}}, {{0}}},
    {OP_AdamUpdate,
     TYPES_FLOAT,
     {F(1, {50001}), SCALARS, F(1, {50001}), P(1, {50001}), F(1, {50001})},
     {{0}},
     {REAL("beta1", 0.9), REAL("beta2", 0.999), REAL("epsilon", 1e-8), INT("states", 2)}},
    {OP_ReduceSum, TYPES_NUMBERS, {F(2, {300, 301})}, Y(0), {INTS("axes", 2, 0, 1), INT("keepdims", 0)}},
    {OP_ReduceMax, TYPES_NUMBERS, {F(2, {3000, 31})}, Y(1, {31}), {INTS("axes", 1, 0), INT("keepdims", 0)}},
    {OP_ReduceMean, TYPES_FLOAT, {F(3, {20, 3, 1000})}, Y(1, {3}), {INTS("axes", 2, 0, 2), INT("keepdims", 0)}},
    {OP_CountTargets, TYPES_FLOAT, {C(1000, 1, {9000})}, Y(0), {{0}}},
    {OP_MeanSquaredError, TYPES_FLOAT, {F(2, {300, 301}), F(2, {300, 301})}, Y(0), {{0}}},
    {OP_Gather, TYPES_FLOAT, {F(2, {300, 70}), I(70, 1, {131})}, Y(2, {300, 131}), {INT("axis", 1)}},
    {OP_Gather, TYPES_FLOAT, {F(3, {90, 30, 7}), I(30, 2, {10, 13})}, Y(4, {90, 10, 13, 7}), {INT("axis", 1)}},
    {OP_GatherGrad,
     TYPES_FLOAT,
     {F(2, {300, 131}), I(70, 1, {131})},
     Y(2, {300, 70}),
     {INT("axis", 1), INTS("shape", 2, 300, 70)}},
    {OP_GatherGrad,
     TYPES_FLOAT,
     {F(4, {90, 10, 13, 7}), I(30, 2, {10, 13})},
     Y(3, {90, 30, 7}),
     {INT("axis", 1), INTS("shape", 3, 90, 30, 7)}},
    {OP_AccumulateRows,
     TYPES_FLOAT,
     {F(3, {1, 500, 301}), {.present = true, .dtype = I64, .shape = {2, {1, 500}}}, F(2, {500, 301}), I(90, 1, {500})},
     {{0}},
     {INT("rows", 90)}},
};
const size_t n_large_op_cases = sizeof large_op_cases / sizeof *large_op_cases;
