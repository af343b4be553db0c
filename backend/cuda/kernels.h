/* The launches: what the host's half of the backend (C) asks of the device's half (CUDA C++). Each only enqueues on its
 * stream. Pointers are to device memory; nothing is launched where there is nothing to do. Reductions add in an order
 * that depends on shapes alone. */
#ifndef BACKEND_CUDA_KERNELS_H
#define BACKEND_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/reference/between.h"
#include "graph/convolution.h"
#include "graph/narrow.h"
#include "graph/ops/attention.h"
#include "graph/ops/recurrent.h"
#include "graph/window.h"

/* Loops over `n` elements, row-major; step[k][i]: elements of operand k from one index of loop i to the next. */
typedef struct {
  int rank;
  int64_t n, dim[MAX_RANK], step[3][MAX_RANK];
} Steps;

/* [outer, size, inner]: lines of `size` elements that are `inner` apart. */
typedef struct {
  int64_t outer, size, inner;
} Lines;

/* What a kernel found wrong, in pinned host memory that the device writes. The first one stays. */
typedef struct {
  int is_there;
  int axis; /* of `shape`, that an index leaves; or one of those below */
  int64_t position, value;
  double number[3];
  Shape shape;
  const Node *node;
} Fault;

enum {
  FAULT_TARGET = -1, /* `value` at `position` is none of shape.dim[0] classes */
  FAULT_BAG = -2,    /* bag `position` goes from row `value` to shape.dim[0] of shape.dim[1] */
  FAULT_REGION = -3, /* from number[0] to number[1], with number[2] samples in a place */
  FAULT_SAMPLE = -4, /* region `position` is of sample number[0] of shape.dim[0] */
};

/* Who reports what. */
typedef struct {
  int *claimed; /* on the device: 1 for all but the first who finds something wrong */
  Fault *fault;
  const Node *node;
} Reporter;

/* How inputs and result are stored: float32 and bfloat16 in any mix, or all in the first one's type. */
typedef struct {
  DType in[3], out;
} Types;

/* activations.cu, elementwise.cu. Steps: of the inputs over a dense output. What an element becomes is named by the
 * caller: the compiler misses a name without its case. */
typedef enum {
  UNARY_Neg,
  UNARY_Abs,
  UNARY_Sqrt,
  UNARY_Exp,
  UNARY_Log,
  UNARY_Erf,
  UNARY_Sin,
  UNARY_Cos,
  UNARY_Tan,
  UNARY_Asin,
  UNARY_Acos,
  UNARY_Atan,
  UNARY_Sinh,
  UNARY_Cosh,
  UNARY_Asinh,
  UNARY_Acosh,
  UNARY_Atanh,
  UNARY_Floor,
  UNARY_Ceil,
  UNARY_Round,
  UNARY_Reciprocal,
  UNARY_Tanh,
  UNARY_Sigmoid,
  UNARY_Relu,
  UNARY_LeakyRelu,
  UNARY_Gelu,
  UNARY_Swish
} UnaryFunction;
void launch_unary(cudaStream_t s, UnaryFunction function, Types types, double alpha, bool tanh_form, int64_t n,
                  const void *x, void *y);
void launch_not(cudaStream_t s, int64_t n, const void *x, void *y);
/* Gradients of activations: the cotangent d, and the activation's result or argument v. */
typedef enum {
  PAIR_TanhGrad,
  PAIR_SigmoidGrad,
  PAIR_ReluGrad,
  PAIR_LeakyReluGrad,
  PAIR_GeluGrad,
  PAIR_SwishGrad
} PairFunction;
void launch_pair(cudaStream_t s, PairFunction function, Types types, double alpha, bool tanh_form, int64_t n,
                 const void *d, const void *v, void *y);
/* swish(a) b, and both its gradients: a, b have one type, da, db one. Results may lie over operands. */
void launch_swiglu(cudaStream_t s, Types types, double alpha, int64_t n, const void *a, const void *b, void *y);
void launch_swiglu_grad(cudaStream_t s, Types types, double alpha, int64_t n, const void *d, const void *a,
                        const void *b, void *da, void *db);
/* x between two numbers; d where x is. */
void launch_clip(cudaStream_t s, Types types, double least, double most, int64_t n, const void *x, void *y);
void launch_clip_grad(cudaStream_t s, Types types, double least, double most, int64_t n, const void *d, const void *x,
                      void *dx);
typedef enum {
  ARITHMETIC_Add,
  ARITHMETIC_Sub,
  ARITHMETIC_Mul,
  ARITHMETIC_Div,
  ARITHMETIC_Max,
  ARITHMETIC_Min
} ArithmeticFunction;
void launch_arithmetic(cudaStream_t s, ArithmeticFunction function, Types types, const Steps *steps, const void *a,
                       const void *b, void *c);
void launch_modulo(cudaStream_t s, DType type, bool c_sign, const Steps *steps, const void *a, const void *b, void *c);
typedef enum {
  COMPARISON_Equal,
  COMPARISON_Greater,
  COMPARISON_GreaterOrEqual,
  COMPARISON_Less,
  COMPARISON_LessOrEqual,
  COMPARISON_And,
  COMPARISON_Or
} ComparisonFunction;
void launch_comparison(cudaStream_t s, ComparisonFunction function, Types types, const Steps *steps, const void *a,
                       const void *b, void *c);
/* The exponent may be of another type than the others. */
void launch_power(cudaStream_t s, Types types, const Steps *steps, const void *a, const void *b, void *c);
/* in[1] and in[2] are chosen from. */
void launch_where(cudaStream_t s, Types types, const Steps *steps, const void *condition, const void *a, const void *b,
                  void *c);
/* y = y + beta c, c broadcast by step[0]. */
void launch_add_scaled(cudaStream_t s, DType type, double beta, const Steps *steps, const void *c, void *y);
/* dX = scale (…) of a loss over n elements; `scale` is a float64 on the device. */
typedef enum { LOSS_SQUARES, LOSS_LOGITS } PairedLoss;
void launch_loss_grad(cudaStream_t s, PairedLoss loss, Types types, int64_t n, const void *x, const void *z,
                      const double *scale, void *dx);

/* bits.cu. Integers of one size are one kernel, of any sign; a shift to the right moves the sign in where `type` has
 * one. */
typedef enum { BITS_And, BITS_Or, BITS_Xor, BITS_ShiftLeft, BITS_ShiftRight } BitFunction;
void launch_bits(cudaStream_t s, BitFunction function, DType type, const Steps *steps, const void *a, const void *b,
                 void *c);
void launch_bit_not(cudaStream_t s, size_t size, int64_t n, const void *x, void *y);

/* cast.cu. */
void launch_cast(cudaStream_t s, DType from, DType to, int64_t n, const void *x, void *y);
/* The nearest numbers of a narrow type. */
void launch_narrow(cudaStream_t s, DType type, DType to, bool saturate, int64_t n, const void *x, void *y);
/* Between float32 and bfloat16; or float32 to float32, rounded to bfloat16 numbers. */
void launch_convert(cudaStream_t s, DType from, DType to, int64_t n, const void *x, void *y);
/* Float32 to bfloat16 twice in one launch: a matrix and a row, which has no more elements. All at multiples of 16
 * bytes.
 */
void launch_round_two(cudaStream_t s, int64_t n, const void *x, void *y, int64_t row, const void *u, void *v);

/* movement.cu. `size`: bytes of an element. Operand 0 of steps is `from`, 1 is `to`. */
void launch_copy(cudaStream_t s, size_t size, const Steps *steps, const void *from, void *to);
void launch_trilu(cudaStream_t s, size_t size, bool upper, int64_t k, int64_t rows, int64_t columns, int64_t n,
                  const void *x, void *y);
void launch_range(cudaStream_t s, DType type, int64_t n, const void *start, const void *delta, void *y);

/* running.cu. Sums, or products, of what comes before and of the element itself, which exclusive ones leave out. */
typedef enum { RUNNING_SUM, RUNNING_PRODUCT } Running;
void launch_running(cudaStream_t s, Running running, DType type, Lines lines, bool exclusive, bool reverse,
                    const void *x, void *y);
void launch_product_grad(cudaStream_t s, DType type, Lines lines, bool exclusive, bool reverse, const void *dy,
                         const void *x, void *dx);

/* gather.cu. Row i of `indices` [rows, depth] picks slice number i / rows_per_batch, index, index … of axes axis … of
 * `shape`, each slice `inner` elements; `outer` times over, `slices` apart. */
typedef struct {
  DType index_type;
  int axis, depth;
  int64_t rows, rows_per_batch, outer, slices, inner;
  Shape shape;
  Shape points; /* rank > 0: element i of indices of this shape picks the one that stands where i does, but for the axis
                 */
} Picks;
void launch_gather(cudaStream_t s, DType from, DType to, const Picks *picks, Reporter reporter, const void *data,
                   const void *indices, void *y);
/* Puts in index order, replacing what is there, onto zeros, or onto what is there. keys: workspace for 2 picks->rows
 * numbers. rows (slices + 1) is less than 2^63. */
typedef enum { PUT_LAST, PUT_SUM, PUT_ADD, PUT_MULTIPLY, PUT_MAX, PUT_MIN } PutFunction;
void launch_scatter(cudaStream_t s, PutFunction put, DType from, DType to, const Picks *picks, Reporter reporter,
                    const void *updates, const void *indices, uint64_t *keys, void *y);

/* topk.cu. lines: of X, along the axis; y, places [outer, k, inner]. keys: room for twice X's elements. */
void launch_top_k(cudaStream_t s, DType type, Lines lines, int64_t k, bool largest, const void *x, uint64_t *keys,
                  void *y, int64_t *places);

/* fourier.cu. Lines along an axis: number l begins at (l / inner · n · inner + l % inner) · parts and goes on by
 * inner · parts. workspace: fourier_table_bytes() and fourier_room_bytes() of `at_once` lines. */
typedef struct {
  int64_t outer, inner, n, parts;
} FourierLines;
typedef struct {
  int64_t length, inner_length, at_once;
  bool inverse, hermitian;
  double scale;
  FourierLines in, out;
  int n_radices, radix[64]; /* of inner_length */
} FourierWork;
void launch_fourier(cudaStream_t s, DType type, const FourierWork *work, const void *x, void *workspace, void *y);

/* determinant.cu. Matrices [n,n] one behind the other. room: determinant_room() bytes. */
size_t determinant_room(int64_t matrices, int64_t n, bool grad);
void launch_determinant(cudaStream_t s, DType type, int64_t matrices, int64_t n, const void *x, void *room, void *y);
void launch_determinant_grad(cudaStream_t s, DType type, int64_t matrices, int64_t n, const void *dy, const void *x,
                             void *room, void *dx);

/* sample.cu. For gradients towards X, which is zero: room: 24 bytes for each of samples · places · grid_taps() or
 * samples · points · 2^axes neighbours; their number by X's elements is less than 2^63. */
int64_t grid_taps(const Grid *g);
void launch_grid_sample(cudaStream_t s, DType type, const Grid *g, const void *x, const void *grid, void *y);
void launch_grid_sample_grad(cudaStream_t s, DType type, const Grid *g, const void *dy, const void *grid, void *room,
                             void *dx);
void launch_grid_grad(cudaStream_t s, DType type, const Grid *g, const void *dy, const void *x, const void *grid,
                      void *dgrid);
void launch_point_sample(cudaStream_t s, DType type, const Field *f, const void *x, const void *points, void *y);
void launch_point_sample_grad(cudaStream_t s, DType type, const Field *f, const void *dy, const void *points,
                              void *room, void *dx);
void launch_point_grad(cudaStream_t s, DType type, const Field *f, const void *dy, const void *x, const void *points,
                       void *dpoints);

/* region.cu. rois [regions, 4], indices [regions]: their samples; of MaxRoiPool: rois [regions, 5], indices NULL. dx is
 * zero. room: region_room() bytes. */
typedef struct {
  Regions r;
  DType index_type;
  const void *x, *rois, *indices;
} RegionWork;
size_t region_room(const Regions *r, bool align);
void launch_regions(cudaStream_t s, DType type, const RegionWork *w, Reporter reporter, void *y);
void launch_regions_grad(cudaStream_t s, DType type, const RegionWork *w, Reporter reporter, const void *dy, void *room,
                         void *dx);

/* segment.cu. Bag i of `bags` has rows offsets[i] … offsets[i+1]-1 of `rows`, the last one the rest; each row has
 * `inner` elements. */
typedef enum { BAG_SUM, BAG_MEAN, BAG_MAX } BagMode;
typedef struct {
  BagMode mode;
  DType offset_type;
  int64_t bags, rows, inner;
} Bags;
void launch_segments(cudaStream_t s, DType type, const Bags *bags, Reporter reporter, const void *rows,
                     const void *offsets, void *y);
/* rows: for maxima; drows is zero. */
void launch_segments_grad(cudaStream_t s, DType type, const Bags *bags, Reporter reporter, const void *dy,
                          const void *offsets, const void *rows, void *drows);

/* recurrent.cu: T steps of N samples with H units. lengths [N] or NULL, matrix [gates H, H], bias [biases H] or NULL;
 * p, dp, ds [T, N, gates H]; y, prev [T,N,H]; h, c [N,H] become the state behind the last step; saved [T, N, saved H];
 * sums [N, gates H] and work [N,H]: room. The gradient has no bias, p and sums; its y (or NULL), h and c are
 * cotangents, and the only cell with ds is GRU_AFTER. */
typedef struct {
  Recurrent r;
  int64_t steps, samples, units;
  DType length_type;
  const void *lengths, *matrix, *bias, *p;
  void *y, *h, *c, *prev, *saved, *dp, *ds, *sums, *work;
} RecurrentWork;
void launch_recurrent(cudaStream_t s, DType type, const RecurrentWork *work);
void launch_recurrent_grad(cudaStream_t s, DType type, const RecurrentWork *work);

/* fold.cu: sums (means, maxima) over `count` terms for each of `results` results, in chunks where that keeps the device
 * busy: partial has room for fold_partials() numbers of eight bytes. along: terms of one result lie side by side, else
 * neighbouring results do. */
int64_t fold_partials(int64_t results, int64_t count, bool along);
/* kept.step[0], reduced.step[0]: over x. */
typedef enum { REDUCTION_SUM, REDUCTION_MEAN, REDUCTION_MAX } Reduction;
void launch_reduce(cudaStream_t s, Reduction reduction, DType type, DType to, const Steps *kept, const Steps *reduced,
                   bool along, const void *x, void *y, void *partial);
/* dScale [columns] = sum over rows of dY (X - mean) inv; mean NULL for RMS. All but dY and X is float32 or float64. */
void launch_scale_grad(cudaStream_t s, DType dy_type, DType x_type, int64_t rows, int64_t columns, const void *dy,
                       const void *x, const void *mean, const void *inv, void *y, void *partial);
/* float64 sums: of squares of differences or of cross entropies with logits; of targets that count; of x as it is. */
void launch_loss(cudaStream_t s, PairedLoss loss, DType x_type, DType z_type, int64_t n, const void *x, const void *z,
                 double *y, void *partial);
void launch_count(cudaStream_t s, DType type, int64_t n, int64_t ignored, const void *target, double *y, void *partial);
void launch_sum(cudaStream_t s, int64_t n, const double *x, double *y, void *partial);

/* rows.cu. Parameters, statistics and log_sum_exp are float32 where what is beside them is bfloat16. */
void launch_softmax(cudaStream_t s, bool is_log, DType from, DType to, Lines lines, const void *x, void *y);
void launch_softmax_grad(cudaStream_t s, bool is_log, DType dy_type, DType y_type, DType dx_type, Lines lines,
                         const void *dy, const void *y, void *dx);
/* bias, mean, more NULL: none; mean NULL: RMS. more: as dx, which it is added to. */
void launch_norm(cudaStream_t s, DType from, DType to, int64_t rows, int64_t size, double epsilon, const void *x,
                 const void *scale, const void *bias, void *y, void *mean, void *inv);
void launch_norm_grad(cudaStream_t s, DType dy_type, DType x_type, DType dx_type, int64_t rows, int64_t size,
                      const void *dy, const void *x, const void *scale, const void *mean, const void *inv,
                      const void *more, void *dx);
typedef struct {
  DType target_type;
  int64_t ignored;
  Lines lines; /* of the logits, along the classes */
} Classes;
/* losses: float64, one a position, 0 where ignored. */
void launch_cross_entropy(cudaStream_t s, DType type, const Classes *classes, Reporter reporter, const void *logits,
                          const void *target, void *log_sum_exp, double *losses);
void launch_cross_entropy_grad(cudaStream_t s, DType type, DType to, const Classes *classes, Reporter reporter,
                               const void *logits, const void *target, const void *log_sum_exp, const double *scale,
                               void *dlogits);
/* head.cu. Reports a target that is no class. */
void launch_check_classes(cudaStream_t s, const Classes *classes, Reporter reporter, const void *target);

/* convolution.cu: a and b are the operator's two inputs. partial: room for convolution_partials() numbers of the type.
 */
typedef enum { CONVOLUTION_FORWARD, CONVOLUTION_TOWARDS_INPUT, CONVOLUTION_TOWARDS_WEIGHT } ConvolutionWay;
int64_t convolution_partials(const Convolution *c, ConvolutionWay way);
void launch_convolution(cudaStream_t s, DType type, const Convolution *c, ConvolutionWay way, const void *a,
                        const void *b, void *y, void *partial);

/* window.cu. Planes of `from` elements become planes of `to`. divisor: what an average divides by: 0 nothing, 1 the
 * elements in the window, 2 those of the padding, too. */
typedef struct {
  Window w;
  int64_t planes, from, to;
  int divisor;
  bool columns; /* indices count the first axis first */
} Pools;
/* indices: NULL, or the place of each maximum among all elements. */
void launch_max_pool(cudaStream_t s, DType type, const Pools *p, const void *x, void *y, int64_t *indices);
void launch_average_pool(cudaStream_t s, DType type, const Pools *p, const void *x, void *y);
/* x: of a maximum; NULL: of an average. */
void launch_pool_grad(cudaStream_t s, DType type, const Pools *p, const void *dy, const void *x, void *dx);
/* lines: of X, along the axis. indices, weights [places, taps]. */
void launch_resample(cudaStream_t s, DType type, Lines lines, int64_t places, int64_t taps, const int64_t *indices,
                     const double *weights, const void *x, void *y);
void launch_resample_grad(cudaStream_t s, DType type, Lines lines, int64_t places, int64_t taps, const int64_t *indices,
                          const double *weights, const void *dy, void *dx);

/* channels.cu. lines: [rows, channels, length]; channel c has scale c % scales. partial: room for
 * fold_partials(channels, rows length, length != 1) numbers of eight bytes. Parameters and statistics are float32 where
 * what is beside them is bfloat16. */
typedef struct {
  Lines lines;
  int64_t scales;
  double epsilon;
  bool unbiased; /* the variance that is told apart from the one that is divided by */
} ChannelWork;
void launch_batch_norm(cudaStream_t s, DType from, DType to, const ChannelWork *w, const void *x, const void *scale,
                       const void *bias, void *y, void *mean, void *inv, void *variance, void *partial);
void launch_batch_norm_sums(cudaStream_t s, DType dy_type, DType x_type, Lines lines, const void *dy, const void *x,
                            const void *mean, const void *inv, void *dscale, void *dbias, void *partial);
void launch_batch_norm_grad(cudaStream_t s, DType dy_type, DType x_type, DType dx_type, const ChannelWork *w,
                            const void *dy, const void *x, const void *scale, const void *mean, const void *inv,
                            const void *dscale, const void *dbias, void *dx);
void launch_update_statistics(cudaStream_t s, DType type, int64_t n, double momentum, const void *statistic,
                              void *running);

/* random.cu. Dropped is what has a word of 32 bits below the threshold. counter: on the device. */
typedef struct {
  int64_t samples, inner;
  bool per_sample;
  uint64_t seed, threshold;
  uint32_t node;
} Drawing;
void launch_dropout(cudaStream_t s, Types types, const Drawing *d, int64_t n, double factor, const void *x,
                    const int64_t *counter, void *y, uint8_t *mask);
void launch_dropout_grad(cudaStream_t s, Types types, int64_t n, double factor, const void *dy, const uint8_t *mask,
                         void *dx);
/* y = from + by times a number from 0 to 1, or a standard normal one. */
void launch_draw(cudaStream_t s, DType type, const Drawing *d, bool is_normal, int64_t n, double from, double by,
                 const int64_t *counter, void *y);

/* attention*.cu. Sizes of heads are at most ATTENTION_SIZE. Statistics, masks of numbers and `room` are of the type, of
 * bfloat16 float32. With a counter some weights are dropped, others multiplied by the factor. The narrow ones are of
 * bfloat16, drop none and have a scale above 0: they round what they multiply. */
enum { ATTENTION_SIZE = 256, ATTENTION_SUMS = 3 };
typedef struct {
  Attention a;
  bool aligned[4]; /* Q, K, V, Y: rows begin at multiples of 16 bytes and are as long */
  const void *operand[3], *mask;
  bool mask_is_bool;
  int64_t mask_step[4];
  const int64_t *counter;
  Drawing drawing;
  double factor;
  void *y, *most, *log_sum;
  /* of the gradient: */
  const void *dy;
  void *slope[3]; /* the tensors that operands' are in */
  void *room;     /* for ATTENTION_SUMS numbers a query and head */
} AttentionWork;
void launch_attention(cudaStream_t s, DType type, const AttentionWork *w);
void launch_attention_grad(cudaStream_t s, DType type, const AttentionWork *w);
void launch_attention_narrow(cudaStream_t s, const AttentionWork *w);
void launch_attention_narrow_grad(cudaStream_t s, const AttentionWork *w);

/* rotary.cu. Rows of `size` elements; rows.step[0], [1]: of cosines and sines, in rows, whose type is `angles`: X's, or
 * float32 where that is bfloat16. */
void launch_rotary(cudaStream_t s, DType type, DType angles, const Steps *rows, int64_t size, bool inverse,
                   const void *x, const void *cosine, const void *sine, void *y);

/* optimizer.cu. Norms and updates of parameters. A group of a parameter's gradient: its accumulator; or, where there
 * are places, rows in its stead (graph/rows.h), `lookups` a microbatch, the first of which is number `first` of all the
 * parameter's. */
enum { MOST_GROUPS = 4 };
typedef struct {
  const void *data;
  const int64_t *places;
  int64_t first, lookups;
} GradientGroup;
/* Those of rows go over the rows that were looked up alone. */
typedef enum {
  PARAMETER_NORM,
  PARAMETER_SGD,
  PARAMETER_MOMENTUM, /* SGD's */
  PARAMETER_ADAM,
  PARAMETER_SGD_ROWS,
  PARAMETER_SPARSE_ADAM_ROWS
} ParameterKind;
typedef struct {
  ParameterKind kind;
  DType type;
  int n_groups;
  bool has_whole; /* some of them are accumulators */
  GradientGroup groups[MOST_GROUPS];
  int64_t elements; /* of the parameter */
  /* Where a group has rows (parameter_sorts): of the table, elements of one, lookups of all groups; how many bits
   * number them; room for their keys, twice, and where they lie sorted. */
  int64_t rows, row, lookups;
  int64_t number_bits;
  uint64_t *keys;
  const uint64_t *sorted;
  /* Of a norm: */
  double *y, *partial; /* partial: room for parameter_parts(PARTS_OF_ELEMENTS, …) numbers */
  /* Of an update; the scalars (graph/optimizer.h) are on the device: */
  void *parameter, *momentum, *variance; /* Adam's m and v; SGD's momentum or NULL */
  void *rounded;                         /* the parameter in bfloat16; or NULL */
  const double *scalars;
  double momentum_factor, decay;
  double beta1, beta2, epsilon;
  int64_t nesterov, decoupled;
} ParameterWork;
/* What the blocks of a launch take: tiles of keys, runs of elements, or rows that were looked up. */
typedef enum { PARTS_OF_SORT, PARTS_OF_ELEMENTS, PARTS_OF_LOOKUPS, PARTS_COUNT } Parts;
typedef struct {
  int32_t work, part;
} Part;
int64_t parameter_parts(Parts parts, const ParameterWork *work);
/* rows, row and lookups are set. rows + 1 times lookups is less than 2^63. */
void parameter_sorts(ParameterWork *work, uint64_t *keys);
/* One parameter; or several, of one class, which lie on the device, too, with the parts of them all. */
typedef struct {
  const ParameterWork *works, *on_device;
  int n;
  const Part *parts[PARTS_COUNT];
  int64_t n_parts[PARTS_COUNT];
} Parameters;
int parameter_class(const ParameterWork *work);
void launch_parameters(cudaStream_t s, const Parameters *parameters);
void launch_accumulate(cudaStream_t s, DType type, DType term_type, int64_t n, const void *term, void *sum);

/* sparse.cu. Sorts the keys of parameters' lookups: the row of the table in the high bits, the number of the lookup in
 * the low ones; lookups of no row come last. */
void launch_sort_lookups(cudaStream_t s, const Parameters *parameters);
/* AccumulateRows: `inner` elements a row. finished: a 0 on the device, which it leaves there. */
typedef struct {
  DType index_type;
  int64_t rows, microbatches, lookups, inner;
} RowsWork;
void launch_accumulate_rows(cudaStream_t s, DType type, DType cotangent_type, const RowsWork *work, Reporter reporter,
                            int *finished, const void *cotangent, const void *indices, void *rows, int64_t *places);

#ifdef __cplusplus
}
#endif

#endif
