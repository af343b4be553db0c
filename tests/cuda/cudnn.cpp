/* cuDNN's backend API as far as backend/cuda/dnn.c uses it, by plain loops. Invariant: what the library's documentation
 * does not allow ends the program: attributes of another type or count, descriptions that are not finished or are
 * changed after that, engines that were to be left out, addresses that are not aligned or not the device's.
 *
 * The engines stand in the way of who does not look: the heuristic puts first one that does not repeat, one of large
 * Winograd tiles, one that compiles, one that refuses when it is planned, one that wants all memory. Dilated
 * convolutions have only the fallback's engine, grouped ones of three axes none, and of kernels beyond 7 there is no
 * graph. Of activations in bfloat16 there are engines on tensor cores for two axes, not where the gradient of grouped
 * filters is float32; and none else. */
#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "backend/cuda/cudnn_api.h"
#include "emulation.h"
#include "linked.h"
#include "runtime.h"

enum Engine { VARYING, WINOGRAD, COMPILED, REFUSING, HUGE_ONE, TENSOR, PLAIN, FALLBACK_VARYING, SLOW, ENGINES };

static const struct {
  int numerical, behaviour; /* -1: none */
  int64_t workspace;
} engines[ENGINES] = {{CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, -1, 0},
                      {CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13, -1, 0},
                      {-1, CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION, 0},
                      {-1, -1, 0},
                      {-1, -1, (int64_t)1 << 40},
                      {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, -1, 4096},
                      {-1, -1, 1024},
                      {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, -1, 0},
                      {-1, -1, 0}};

struct cudnnContext {
  int device;
  cudaStream_t stream;
};

struct Value {
  int64_t count = 0;
  std::vector<char> bytes;
};

struct Description {
  cudnnBackendDescriptorType_t type;
  bool finished = false;
  std::map<int, Value> values;
  Engine engine = ENGINES; /* of engines and what is made of them */
  Description *graph = NULL;
};

static std::mutex lock;
static std::set<const void *> live;
static int executed, executed_narrow;

static void refuse(bool wrong, const char *what) {
  if (wrong) {
    fprintf(stderr, "emulated cuDNN: %s\n", what);
    abort();
  }
}

static Description *known(const void *descriptor) {
  std::lock_guard<std::mutex> locked(lock);
  refuse(!live.count(descriptor), "a description that is not there");
  return (Description *)descriptor;
}

static Description *finished(const void *descriptor, cudnnBackendDescriptorType_t type) {
  Description *d = known(descriptor);
  refuse(d->type != type, "a description of something else");
  refuse(!d->finished, "a description that is not finished");
  return d;
}

/* What may be set, and must be before a description is finished. most: 1, or up to so many and at least 2. */
struct Rule {
  cudnnBackendDescriptorType_t of;
  int attribute;
  cudnnBackendAttributeType_t type;
  int64_t most;
};

#define OPERATION(TYPE, PREFIX, A, B, C)                                                                               \
  {CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE, CUDNN_ATTR_OPERATION_CONVOLUTION_##PREFIX##_ALPHA, CUDNN_TYPE_FLOAT,    \
   1},                                                                                                                 \
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE, CUDNN_ATTR_OPERATION_CONVOLUTION_##PREFIX##_BETA, CUDNN_TYPE_FLOAT, \
       1},                                                                                                             \
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE, CUDNN_ATTR_OPERATION_CONVOLUTION_##PREFIX##_CONV_DESC,              \
       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1},                                                                              \
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE, CUDNN_ATTR_OPERATION_CONVOLUTION_##PREFIX##_##A,                    \
       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1},                                                                              \
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE, CUDNN_ATTR_OPERATION_CONVOLUTION_##PREFIX##_##B,                    \
       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1},                                                                              \
  {                                                                                                                    \
    CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE, CUDNN_ATTR_OPERATION_CONVOLUTION_##PREFIX##_##C,                       \
        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1                                                                               \
  }

static const Rule rules[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 5},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 5},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 3},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 3},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 3},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 3},
    OPERATION(FORWARD_DESCRIPTOR, FORWARD, X, W, Y),
    OPERATION(BACKWARD_DATA_DESCRIPTOR, BWD_DATA, DX, W, DY),
    OPERATION(BACKWARD_FILTER_DESCRIPTOR, BWD_FILTER, X, DW, DY),
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR,
     1},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1},
};

static size_t size_of(cudnnBackendAttributeType_t type) {
  return type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_HANDLE || type == CUDNN_TYPE_VOID_PTR ||
                 type == CUDNN_TYPE_BACKEND_DESCRIPTOR
             ? 8
             : 4;
}

template <class T> static std::vector<T> all(const Description *d, int attribute) {
  const Value &v = d->values.at(attribute);
  std::vector<T> list((size_t)v.count);
  refuse(list.size() * sizeof(T) != v.bytes.size(), "a value that is taken for another");
  memcpy(list.data(), v.bytes.data(), v.bytes.size());
  return list;
}

template <class T> static T one(const Description *d, int attribute) {
  return all<T>(d, attribute)[0];
}

static const Description *child(const Description *d, int attribute, cudnnBackendDescriptorType_t type) {
  return finished(one<void *>(d, attribute), type);
}

static cudnnStatus_t CreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out) {
  Description *d = new Description;
  d->type = type;
  std::lock_guard<std::mutex> locked(lock);
  live.insert(d);
  *out = d;
  return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t DestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  Description *d = known(descriptor);
  std::lock_guard<std::mutex> locked(lock);
  live.erase(d);
  delete d;
  return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t SetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                  cudnnBackendAttributeType_t type, int64_t count, const void *values) {
  Description *d = known(descriptor);
  refuse(d->finished, "an attribute is set of what is finished");
  for (const Rule &r : rules)
    if (r.of == d->type && r.attribute == (int)name) {
      refuse(r.type != type, "an attribute of another type");
      refuse(count < std::min<int64_t>(r.most, 2) || count > r.most || !values, "an attribute of another count");
      Value &v = d->values[name];
      v.count = count;
      v.bytes.assign((const char *)values, (const char *)values + (size_t)count * size_of(type));
      return CUDNN_STATUS_SUCCESS;
    }
  refuse(true, "an attribute that this description has not");
  return CUDNN_STATUS_BAD_PARAM;
}

/* Sizes with a leading axis of 1 where there are two. */
struct Problem {
  int way, axes; /* 0 forward, 1 towards the input, 2 towards the weight */
  int64_t x[5], w[5], y[5], stride[3], dilation[3], pad[3];
  int64_t ids[3], alignment[3];
  bool narrow[3]; /* X, W, Y */
};

static const struct {
  cudnnBackendDescriptorType_t type;
  int description, alpha, beta, operand[3];
} ways[] = {{CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, 702, 700, 701, {704, 703, 705}},
            {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, 708, 706, 707, {710, 709, 711}},
            {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, 714, 712, 713, {716, 715, 717}}};

static int way_of(const Description *operation) {
  for (int way = 0; way < 3; way++)
    if (operation->type == ways[way].type)
      return way;
  refuse(true, "an operation that is no convolution");
  return -1;
}

static void take_axes(int64_t to[3], int64_t absent, const std::vector<int64_t> &from) {
  to[0] = absent;
  std::copy(from.begin(), from.end(), to + 3 - from.size());
}

static Problem problem_of(const Description *operation) {
  Problem p = {};
  p.way = way_of(operation);
  const Description *c = child(operation, ways[p.way].description, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  p.axes = (int)one<int64_t>(c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS);
  take_axes(p.stride, 1, all<int64_t>(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES));
  take_axes(p.dilation, 1, all<int64_t>(c, CUDNN_ATTR_CONVOLUTION_DILATIONS));
  take_axes(p.pad, 0, all<int64_t>(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS));
  int64_t *sizes[] = {p.x, p.w, p.y};
  for (int i = 0; i < 3; i++) {
    const Description *t = child(operation, ways[p.way].operand[i], CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    std::vector<int64_t> dim = all<int64_t>(t, CUDNN_ATTR_TENSOR_DIMENSIONS);
    refuse((int)dim.size() != p.axes + 2, "a tensor of another rank than its convolution");
    p.ids[i] = one<int64_t>(t, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    p.alignment[i] = one<int64_t>(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    p.narrow[i] = one<int>(t, CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_BFLOAT16;
    std::copy(dim.begin(), dim.begin() + 2, sizes[i]);
    take_axes(sizes[i] + 2, 1, std::vector<int64_t>(dim.begin() + 2, dim.end()));
  }
  return p;
}

static void check_operation(const Description *d) {
  Problem p = problem_of(d);
  refuse(one<float>(d, ways[p.way].alpha) != 1 || one<float>(d, ways[p.way].beta) != 0, "a factor");
  refuse(p.ids[0] == p.ids[1] || p.ids[1] == p.ids[2] || p.ids[0] == p.ids[2], "tensors of one number");
  refuse(p.x[0] != p.y[0] || p.w[0] != p.y[1] || p.x[1] % p.w[1] || p.w[0] % (p.x[1] / p.w[1]),
         "samples, channels or filters that do not go together");
  refuse(p.narrow[0] != p.narrow[2] || (p.narrow[1] != p.narrow[0] && (p.way < 2 || p.narrow[1])),
         "operands of types that do not go together");
  for (int a = 0; a < 3; a++)
    refuse((p.x[a + 2] + 2 * p.pad[a] - (p.w[a + 2] - 1) * p.dilation[a] - 1) / p.stride[a] + 1 != p.y[a + 2],
           "places that do not go together");
}

static void check_convolution(const Description *d) {
  int64_t axes = one<int64_t>(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS);
  std::vector<int64_t> before = all<int64_t>(d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
  refuse(one<int>(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) != CUDNN_DATA_FLOAT, "sums of another type");
  refuse(one<int>(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE) != CUDNN_CROSS_CORRELATION, "a kernel turned round");
  for (int name : {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES})
    for (int64_t n : all<int64_t>(d, name))
      refuse(n < 1, "a stride or dilation below 1");
  for (int name : {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
                   CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS})
    refuse(d->values.at(name).count != axes, "not a number an axis");
  refuse(before != all<int64_t>(d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS), "pads that are not alike on both sides");
  refuse(*std::min_element(before.begin(), before.end()) < 0, "a pad below 0");
}

static void check_tensor(const Description *d) {
  std::vector<int64_t> dim = all<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
  std::vector<int64_t> stride = all<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES);
  int64_t dense = 1, alignment = one<int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
  refuse(dim.size() != stride.size() || dim.size() < 4, "a tensor of less than two axes besides samples and channels");
  for (size_t i = dim.size(); i-- > 0; dense *= dim[i])
    refuse(dim[i] < 1 || stride[i] != dense, "a tensor that is empty or not dense");
  int type = one<int>(d, CUDNN_ATTR_TENSOR_DATA_TYPE);
  refuse(type != CUDNN_DATA_FLOAT && type != CUDNN_DATA_BFLOAT16, "a tensor of another type");
  refuse(alignment < 4 || (alignment & (alignment - 1)), "an alignment that is none");
}

static const Description *operation_of(const Description *graph) {
  const Description *d = known(one<void *>(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS));
  way_of(d);
  return finished(d, d->type);
}

static void check_handle(const void *handle) {
  std::lock_guard<std::mutex> locked(lock);
  refuse(!live.count(handle), "a handle that is not there");
}

static cudnnStatus_t finish_graph(Description *d) {
  check_handle(one<void *>(d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE));
  Problem p = problem_of(operation_of(d));
  return *std::max_element(p.w + 2, p.w + 5) > 7 ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

static bool is_grouped(const Problem &p) {
  return p.x[1] != p.w[1];
}

static std::vector<Engine> engines_of(const Description *heuristic) {
  const Description *graph =
      child(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  Problem p = problem_of(operation_of(graph));
  if (one<int>(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_FALLBACK)
    return p.narrow[0] ? std::vector<Engine>{FALLBACK_VARYING} : std::vector<Engine>{FALLBACK_VARYING, SLOW};
  std::vector<Engine> list = {VARYING, WINOGRAD, COMPILED, REFUSING, HUGE_ONE};
  if (p.narrow[0] && p.axes == 2 && (p.narrow[1] || !is_grouped(p)))
    list.push_back(TENSOR);
  else if (!p.narrow[0] && *std::max_element(p.dilation, p.dilation + 3) == 1)
    list.insert(list.end(), {TENSOR, PLAIN});
  return list;
}

static cudnnStatus_t finish_heuristic(Description *d) {
  const Description *graph = child(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  Problem p = problem_of(operation_of(graph));
  return p.axes == 3 && is_grouped(p) ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finish_plan(Description *d) {
  check_handle(one<void *>(d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE));
  const Description *config = child(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  if (emulated_fails("cudnnBackendFinalize"))
    return CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
  refuse(config->engine == VARYING || config->engine == FALLBACK_VARYING, "an engine whose results do not repeat");
  refuse(config->engine == WINOGRAD || config->engine == COMPILED, "an engine that was to be left out");
  d->engine = config->engine;
  d->graph = config->graph;
  return config->engine == REFUSING ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t Finalize(cudnnBackendDescriptor_t descriptor) {
  Description *d = known(descriptor);
  cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
  refuse(d->finished, "finished twice");
  for (const Rule &r : rules)
    refuse(r.of == d->type && !d->values.count(r.attribute), "finished without an attribute");
  if (d->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR)
    check_tensor(d);
  else if (d->type == CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)
    check_convolution(d);
  else if (d->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)
    status = finish_graph(d);
  else if (d->type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)
    status = finish_heuristic(d);
  else if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
    status = finish_plan(d);
  else if (d->type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)
    check_operation(d);
  d->finished = status == CUDNN_STATUS_SUCCESS;
  return status;
}

static cudnnStatus_t give_engines(const Description *heuristic, int64_t wanted, int64_t *count, void *values) {
  std::vector<Engine> list = engines_of(heuristic);
  *count = (int64_t)list.size();
  for (int64_t i = 0; i < std::min(wanted, *count); i++) {
    Description *config = known(((void **)values)[i]);
    refuse(config->type != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR || config->finished, "room for something else");
    config->finished = true;
    config->engine = list[(size_t)i];
    config->graph = (Description *)one<void *>(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  }
  return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t give_note(int note, int64_t wanted, int64_t *count, void *values) {
  *count = note >= 0;
  if (*count && wanted)
    *(int *)values = note;
  return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t GetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                  cudnnBackendAttributeType_t type, int64_t wanted, int64_t *count, void *values) {
  Description *d = known(descriptor);
  refuse(!d->finished, "an attribute is asked for of what is not finished");
  refuse(wanted && !values, "no room for values");
  if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
    return give_engines(finished(d, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), wanted, count, values);
  if (name == CUDNN_ATTR_ENGINECFG_ENGINE && type == CUDNN_TYPE_BACKEND_DESCRIPTOR && wanted == 1) {
    Description *engine = known(*(void **)values);
    refuse(engine->type != CUDNN_BACKEND_ENGINE_DESCRIPTOR || engine->finished, "room for something else");
    engine->engine = finished(d, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)->engine;
    engine->finished = true;
    *count = 1;
    return CUDNN_STATUS_SUCCESS;
  }
  if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && type == CUDNN_TYPE_NUMERICAL_NOTE)
    return give_note(engines[finished(d, CUDNN_BACKEND_ENGINE_DESCRIPTOR)->engine].numerical, wanted, count, values);
  if (name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE && type == CUDNN_TYPE_BEHAVIOR_NOTE)
    return give_note(engines[finished(d, CUDNN_BACKEND_ENGINE_DESCRIPTOR)->engine].behaviour, wanted, count, values);
  refuse(name != CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE || type != CUDNN_TYPE_INT64 || wanted != 1,
         "an attribute that nobody has");
  *(int64_t *)values = engines[finished(d, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)->engine].workspace;
  *count = 1;
  return CUDNN_STATUS_SUCCESS;
}

static int64_t elements(const int64_t size[5]) {
  return size[0] * size[1] * size[2] * size[3] * size[4];
}

/* Rounded to 10 binary digits on tensor cores. */
static float rounded(float x, bool tensor) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (tensor)
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~(uint32_t)0x1fff;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

/* One tap of one filter and channel along a line of Y. Sums in double; the sanitizer has seen the ends of all tensors.
 */
__attribute__((no_sanitize("address", "undefined"), optimize("O3"))) static void
line(const Problem &p, const float *const in[3], double *out, int64_t x, int64_t w, int64_t y, int64_t tap) {
  for (int64_t o = 0; o < p.y[4]; o++) {
    int64_t i = o * p.stride[2] + tap * p.dilation[2] - p.pad[2];
    if (i < 0 || i >= p.x[4])
      continue;
    if (p.way == 0)
      out[y + o] += (double)in[1][w] * (double)in[0][x + i];
    else if (p.way == 1)
      out[x + i] += (double)in[1][w] * (double)in[2][y + o];
    else
      out[w] += (double)in[0][x + i] * (double)in[2][y + o];
  }
}

/* One filter and channel of one sample. xs, ys: where their planes begin; w: where the kernel does. */
static void plane(const Problem &p, const float *const in[3], double *out, int64_t xs, int64_t w, int64_t ys) {
  int64_t i[2];
  for (int64_t t = 0; t < p.w[2] * p.w[3] * p.w[4]; t++)
    for (int64_t o = 0; o < p.y[2] * p.y[3]; o++) {
      i[0] = o / p.y[3] * p.stride[0] + t / p.w[4] / p.w[3] * p.dilation[0] - p.pad[0];
      i[1] = o % p.y[3] * p.stride[1] + t / p.w[4] % p.w[3] * p.dilation[1] - p.pad[1];
      if (i[0] >= 0 && i[0] < p.x[2] && i[1] >= 0 && i[1] < p.x[3])
        line(p, in, out, xs + (i[0] * p.x[3] + i[1]) * p.x[4], w + t, ys + o * p.y[4], t % p.w[4]);
    }
}

static float widened(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

static uint16_t narrowed(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void convolve(const Problem &p, bool tensor, void *const at[3]) {
  const int64_t *sizes[] = {p.x, p.w, p.y};
  int result = p.way == 0 ? 2 : p.way == 1 ? 0 : 1;
  std::vector<float> operand[3];
  const float *in[3];
  for (int i = 0; i < 3; i++) {
    int64_t n = elements(sizes[i]);
    if (i != result && p.narrow[i])
      for (int64_t k = 0; k < n; k++)
        operand[i].push_back(widened(((const uint16_t *)at[i])[k]));
    else if (i != result)
      operand[i].assign((const float *)at[i], (const float *)at[i] + n);
    for (float &x : operand[i])
      x = rounded(x, tensor);
    in[i] = operand[i].data();
  }
  std::vector<double> sums((size_t)elements(sizes[result]));
  int64_t groups = p.x[1] / p.w[1], filters = p.w[0] / groups;
  int64_t x_plane = p.x[2] * p.x[3] * p.x[4], y_plane = p.y[2] * p.y[3] * p.y[4], taps = p.w[2] * p.w[3] * p.w[4];
  for (int64_t n = 0; n < p.x[0]; n++)
    for (int64_t f = 0; f < p.w[0]; f++)
      for (int64_t c = 0; c < p.w[1]; c++)
        plane(p, in, sums.data(), (n * p.x[1] + f / filters * p.w[1] + c) * x_plane, (f * p.w[1] + c) * taps,
              (n * p.w[0] + f) * y_plane);
  if (!p.narrow[result])
    std::copy(sums.begin(), sums.end(), (float *)at[result]);
  for (size_t k = 0; p.narrow[result] && k < sums.size(); k++)
    ((uint16_t *)at[result])[k] = narrowed((float)sums[k]);
}

static cudnnStatus_t Execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  const Description *p = finished(plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  const Description *v = finished(pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  Problem problem = problem_of(operation_of(finished(p->graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)));
  std::vector<int64_t> ids = all<int64_t>(v, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  std::vector<void *> places = all<void *>(v, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  void *workspace = one<void *>(v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  int64_t bytes = engines[p->engine].workspace;
  const int64_t *sizes[] = {problem.x, problem.w, problem.y};
  void *at[3];
  int device;
  check_handle(handle);
  refuse(one<void *>(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE) != handle, "a plan of another handle");
  refuse(!handle->stream, "no stream was set");
  cudaGetDevice(&device);
  refuse(device != handle->device || emulated_device_of(handle->stream) != device, "another device's handle or stream");
  refuse(ids.size() != 3 || places.size() != 3, "addresses that are not the graph's tensors");
  if (emulated_fails("cudnnBackendExecute"))
    return CUDNN_STATUS_BAD_PARAM;
  EmulatedLock held = emulated_lock();
  for (int i = 0; i < 3; i++) {
    size_t k = (size_t)(std::find(ids.begin(), ids.end(), problem.ids[i]) - ids.begin());
    refuse(k == 3, "a tensor without an address");
    refuse((uintptr_t)places[k] % (uintptr_t)problem.alignment[i], "a tensor that is not aligned as was said");
    size_t size = problem.narrow[i] ? sizeof(uint16_t) : sizeof(float);
    refuse(emulated_device_of_memory(places[k], (size_t)elements(sizes[i]) * size) != device,
           "a tensor that is not in the device's memory");
    at[i] = places[k];
  }
  refuse((uintptr_t)workspace % 256, "a workspace that is not aligned");
  refuse(bytes && emulated_device_of_memory(workspace, (size_t)bytes) != device,
         "a workspace that is not in the device's memory");
  bool tensor = p->engine == TENSOR;
  void *x = at[0], *w = at[1], *y = at[2];
  executed++;
  executed_narrow += problem.narrow[0];
  emulated_enqueue(handle->stream, [=] {
    void *const all_of_them[] = {x, w, y};
    memset(workspace, 0xa5, (size_t)bytes);
    convolve(problem, tensor, all_of_them);
  });
  return CUDNN_STATUS_SUCCESS;
}

int emulation_convolutions(void) {
  EmulatedLock held = emulated_lock();
  return executed;
}

int emulation_narrow_convolutions(void) {
  EmulatedLock held = emulated_lock();
  return executed_narrow;
}

static cudnnStatus_t Create(cudnnHandle_t *out) {
  if (emulated_fails("cudnnCreate"))
    return CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
  cudnnContext *handle = new cudnnContext{0, NULL};
  cudaGetDevice(&handle->device);
  std::lock_guard<std::mutex> locked(lock);
  live.insert(handle);
  *out = handle;
  return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t Destroy(cudnnHandle_t handle) {
  check_handle(handle);
  std::lock_guard<std::mutex> locked(lock);
  live.erase(handle);
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t SetStream(cudnnHandle_t handle, cudaStream_t stream) {
  check_handle(handle);
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

static size_t GetVersion() {
  return 90000;
}

static const char *GetErrorString(cudnnStatus_t) {
  return "CUDNN_STATUS_OF_SOME_KIND";
}

void *emulated_cudnn(const char *name) {
  static const struct {
    const char *name;
    void *function;
  } functions[] = {{"cudnnGetVersion", (void *)&GetVersion},
                   {"cudnnGetErrorString", (void *)&GetErrorString},
                   {"cudnnCreate", (void *)&Create},
                   {"cudnnDestroy", (void *)&Destroy},
                   {"cudnnSetStream", (void *)&SetStream},
                   {"cudnnBackendCreateDescriptor", (void *)&CreateDescriptor},
                   {"cudnnBackendDestroyDescriptor", (void *)&DestroyDescriptor},
                   {"cudnnBackendFinalize", (void *)&Finalize},
                   {"cudnnBackendSetAttribute", (void *)&SetAttribute},
                   {"cudnnBackendGetAttribute", (void *)&GetAttribute},
                   {"cudnnBackendExecute", (void *)&Execute}};
  for (const auto &f : functions)
    if (strcmp(f.name, name) == 0)
      return f.function;
  return NULL;
}
