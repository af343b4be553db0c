/* cuDNN's backend API: an operation graph of one convolution, an engine for it, a pack of addresses at each run.
 * Invariant: which engine runs is what cuDNN's heuristic puts first among those that are allowed. */
#include "backend/cuda/dnn.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cudnn_api.h"

typedef cudnnBackendDescriptor_t Descriptor;
enum { X, W, Y, OPERANDS };

struct Dnn {
  const CudnnLibrary *lib;
  cudnnHandle_t handle;
};

struct DnnPlan {
  const CudnnLibrary *lib;
  DnnConvolution convolution;
  Descriptor tensor[OPERANDS], description, operation, graph; /* what is asked for */
  Descriptor engine, execution;                               /* what does it */
  Descriptor pack;                                            /* of the addresses that the last run had; NULL: none */
  const void *at[OPERANDS], *workspace;
};

/* The thousands of a status. */
static int kind_of(cudnnStatus_t status) {
  return (int)status / 1000 * 1000;
}

static Status check(const CudnnLibrary *lib, cudnnStatus_t status, const char *what) {
  return status == CUDNN_STATUS_SUCCESS
             ? OK
             : fail(E_DEVICE, "cuDNN: %s: %s (status %d); with ONNXPIPE_CUDNN=off own kernels run", what,
                    lib->GetErrorString(status), (int)status);
}

const char *dnn_name(void) {
  static _Thread_local char name[600];
  const CudnnLibrary *lib = cudnn_library();
  if (lib) {
    size_t version = lib->GetVersion();
    snprintf(name, sizeof name, "cuDNN %zu.%zu.%zu, own kernels where it has none that repeats", version / 10000,
             version / 100 % 100, version % 100);
  } else {
    snprintf(name, sizeof name, "own kernels: cuDNN cannot be loaded: %s", cudnn_missing());
  }
  return name;
}

Status dnn_open(cudaStream_t stream, Dnn **out) {
  const CudnnLibrary *lib = cudnn_library();
  *out = NULL;
  if (!lib)
    return OK;
  Dnn *dnn = calloc(1, sizeof *dnn);
  if (!dnn)
    return fail(E_MEMORY, "out of memory");
  dnn->lib = lib;
  Status status = check(lib, lib->Create(&dnn->handle), "opening the library");
  if (status == OK)
    status = check(lib, lib->SetStream(dnn->handle, stream), "taking a stream");
  if (status != OK)
    dnn_close(dnn);
  else
    *out = dnn;
  return status;
}

void dnn_close(Dnn *dnn) {
  if (!dnn)
    return;
  if (dnn->handle)
    dnn->lib->Destroy(dnn->handle);
  free(dnn);
}

static int64_t samples_of(const Convolution *c, int64_t channels, int64_t plane) {
  return c->samples * c->groups * channels * plane;
}

size_t dnn_workspace_bytes(const Convolution *c) {
  int64_t operands = samples_of(c, c->channels, c->x_plane) + samples_of(c, c->filters, c->y_plane) +
                     c->groups * c->filters * c->channels * c->k_plane;
  return (size_t)operands * sizeof(float) + ((size_t)1 << 20);
}

/* Whether cuDNN is asked: pads are alike on both sides of an axis, as its older engines take them, and places are
 * counted in 32 bits. */
static bool is_asked(const Convolution *c) {
  int64_t x = samples_of(c, c->channels, c->x_plane), y = samples_of(c, c->filters, c->y_plane);
  int64_t w = c->groups * c->filters * c->channels * c->k_plane;
  if (!x || !y || !w || x > INT32_MAX || y > INT32_MAX || w > INT32_MAX)
    return false;
  for (int a = 0; a < CONVOLUTION_AXES; a++) {
    int64_t room = c->x[a] + 2 * c->pad[a] - (c->k[a] - 1) * c->dilation[a] - 1;
    if (c->pad[a] < 0 || room < 0 || room / c->stride[a] + 1 != c->y[a])
      return false;
  }
  return true;
}

/* The axes that cuDNN sees: the last two, or all three. */
static int first_axis(const Convolution *c) {
  return c->x[0] == 1 && c->k[0] == 1 && c->y[0] == 1 && c->pad[0] == 0;
}

static Status make(const CudnnLibrary *lib, cudnnBackendDescriptorType_t type, Descriptor *made) {
  return check(lib, lib->BackendCreateDescriptor(type, made), "making a description");
}

static void drop(const CudnnLibrary *lib, Descriptor *made) {
  if (*made)
    lib->BackendDestroyDescriptor(*made);
  *made = NULL;
}

static Status set(const CudnnLibrary *lib, Descriptor d, cudnnBackendAttributeName_t name,
                  cudnnBackendAttributeType_t type, int64_t count, const void *values) {
  return check(lib, lib->BackendSetAttribute(d, name, type, count, values), "describing a convolution");
}

static Status finish(const CudnnLibrary *lib, Descriptor d) {
  return check(lib, lib->BackendFinalize(d), "describing a convolution");
}

/* A dense tensor [outer, inner, size…] of the axes from `first` on. */
static Status describe_tensor(DnnPlan *p, int which, int64_t outer, int64_t inner, const int64_t *size) {
  const CudnnLibrary *lib = p->lib;
  int first = first_axis(&p->convolution.shape), rank = 2;
  int64_t dim[2 + CONVOLUTION_AXES] = {outer, inner}, stride[2 + CONVOLUTION_AXES], id = which + 1, alignment = 16;
  DType own = which == W ? p->convolution.weight : p->convolution.activation;
  cudnnDataType_t type = own == BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
  for (int a = first; a < CONVOLUTION_AXES; a++)
    dim[rank++] = size[a];
  stride[rank - 1] = 1;
  for (int i = rank - 1; i > 0; i--)
    stride[i - 1] = stride[i] * dim[i];
  Descriptor *d = &p->tensor[which];
  TRY(make(lib, CUDNN_BACKEND_TENSOR_DESCRIPTOR, d));
  TRY(set(lib, *d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
  TRY(set(lib, *d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, rank, dim));
  TRY(set(lib, *d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, rank, stride));
  TRY(set(lib, *d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id));
  TRY(set(lib, *d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment));
  return finish(lib, *d);
}

static Status describe_convolution(DnnPlan *p) {
  const CudnnLibrary *lib = p->lib;
  const Convolution *c = &p->convolution.shape;
  int first = first_axis(c);
  int64_t axes = CONVOLUTION_AXES - first;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  Descriptor *d = &p->description;
  TRY(make(lib, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, d));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &axes));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, axes, c->dilation + first));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, axes, c->stride + first));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, axes, c->pad + first));
  TRY(set(lib, *d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, axes, c->pad + first));
  return finish(lib, *d);
}

/* How each of the three is called in cuDNN. */
static const struct {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t alpha, beta, description, operand[OPERANDS];
} operations[] = {
    [CONVOLUTION_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                             {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y}},
    [CONVOLUTION_TOWARDS_INPUT] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                                   {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY}},
    [CONVOLUTION_TOWARDS_WEIGHT] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                                    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}},
};

/* *taken: whether cuDNN has such a graph at all. */
static Status describe(Dnn *dnn, DnnPlan *p, bool *taken) {
  const CudnnLibrary *lib = p->lib;
  const Convolution *c = &p->convolution.shape;
  ConvolutionWay way = p->convolution.way;
  float one = 1, zero = 0;
  TRY(describe_tensor(p, X, c->samples, c->groups * c->channels, c->x));
  TRY(describe_tensor(p, W, c->groups * c->filters, c->channels, c->k));
  TRY(describe_tensor(p, Y, c->samples, c->groups * c->filters, c->y));
  TRY(describe_convolution(p));
  TRY(make(lib, operations[way].type, &p->operation));
  TRY(set(lib, p->operation, operations[way].alpha, CUDNN_TYPE_FLOAT, 1, &one));
  TRY(set(lib, p->operation, operations[way].beta, CUDNN_TYPE_FLOAT, 1, &zero));
  TRY(set(lib, p->operation, operations[way].description, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p->description));
  for (int i = 0; i < OPERANDS; i++)
    TRY(set(lib, p->operation, operations[way].operand[i], CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p->tensor[i]));
  TRY(finish(lib, p->operation));
  TRY(make(lib, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &p->graph));
  TRY(set(lib, p->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn->handle));
  TRY(set(lib, p->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p->operation));
  cudnnStatus_t status = lib->BackendFinalize(p->graph);
  *taken = kind_of(status) != CUDNN_STATUS_NOT_SUPPORTED;
  return *taken ? check(lib, status, "describing a convolution") : OK;
}

/* Numbers of notes that an engine must not have. */
static unsigned refused_notes(const DnnPlan *p) {
  unsigned always = 1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC | 1u << CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS |
                    1u << CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION | 1u << CUDNN_NUMERICAL_NOTE_FFT |
                    1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 | 1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13;
  return p->convolution.on_tensor_cores ? always : always | 1u << CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
}

/* The notes of one kind, as bits. */
static Status notes_of(const CudnnLibrary *lib, Descriptor engine, cudnnBackendAttributeName_t name,
                       cudnnBackendAttributeType_t type, unsigned *bits) {
  enum { MOST = 32 };
  int notes[MOST];
  int64_t count = 0;
  TRY(check(lib, lib->BackendGetAttribute(engine, name, type, MOST, &count, notes), "asking about an engine"));
  *bits = 0;
  for (int64_t i = 0; i < count && i < MOST; i++)
    *bits |= notes[i] >= 0 && notes[i] < MOST ? 1u << notes[i] : 0;
  return OK;
}

/* Engines that are compiled now are left out: what they need besides is not there everywhere. */
static Status is_allowed(const DnnPlan *p, Descriptor config, bool *allowed) {
  const CudnnLibrary *lib = p->lib;
  Descriptor engine;
  int64_t count;
  unsigned numerical = 0, behaviour = 0;
  TRY(make(lib, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine));
  Status status = check(
      lib,
      lib->BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine),
      "asking for an engine");
  if (status == OK)
    status = notes_of(lib, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, &numerical);
  if (status == OK)
    status = notes_of(lib, engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, &behaviour);
  *allowed = !(numerical & refused_notes(p)) && !(behaviour & 1u << CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION);
  drop(lib, &engine);
  return status;
}

/* Not this engine's refusal of the convolution, but what would stop others, too, or would be there another time. */
static bool is_grave(cudnnStatus_t status) {
  return status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
         status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
         (status != CUDNN_STATUS_SUCCESS && (int)status < CUDNN_STATUS_BAD_PARAM);
}

/* p->execution stays NULL where this engine does not have it, or not within the workspace. */
static Status try_engine(Dnn *dnn, DnnPlan *p, Descriptor config) {
  const CudnnLibrary *lib = p->lib;
  int64_t bytes = 0, count;
  bool allowed;
  TRY(is_allowed(p, config, &allowed));
  if (!allowed)
    return OK;
  TRY(make(lib, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p->execution));
  TRY(set(lib, p->execution, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &dnn->handle));
  TRY(set(lib, p->execution, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config));
  cudnnStatus_t status = lib->BackendFinalize(p->execution);
  if (is_grave(status))
    return check(lib, status, "planning a convolution");
  if (status == CUDNN_STATUS_SUCCESS)
    TRY(check(lib,
              lib->BackendGetAttribute(p->execution, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                       &count, &bytes),
              "asking for a workspace's size"));
  if (status != CUDNN_STATUS_SUCCESS || bytes < 0 || (size_t)bytes > p->convolution.workspace_bytes)
    drop(lib, &p->execution);
  return OK;
}

/* The first of these that will do stays p->engine; the others go. */
static Status take_first(Dnn *dnn, DnnPlan *p, Descriptor *config, int64_t count) {
  Status status = OK;
  for (int64_t i = 0; i < count; i++) {
    if (status == OK && !p->execution)
      status = try_engine(dnn, p, config[i]);
    if (status == OK && p->execution && !p->engine)
      p->engine = config[i];
    else
      drop(p->lib, &config[i]);
  }
  return status;
}

static Status list_engines(const CudnnLibrary *lib, Descriptor heuristic, Descriptor *config, int64_t *count) {
  int64_t wanted = *count;
  for (int64_t i = 0; i < wanted; i++)
    TRY(make(lib, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]));
  return check(lib,
               lib->BackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, wanted,
                                        count, config),
               "asking for engines");
}

static Status ask(Dnn *dnn, DnnPlan *p, Descriptor heuristic) {
  const CudnnLibrary *lib = p->lib;
  int64_t wanted = 0, count;
  TRY(check(lib,
            lib->BackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
                                     &wanted, NULL),
            "asking for engines"));
  if (wanted <= 0)
    return OK;
  Descriptor *config = calloc((size_t)wanted, sizeof *config);
  if (!config)
    return fail(E_MEMORY, "out of memory");
  count = wanted;
  Status status = list_engines(lib, heuristic, config, &count);
  if (status == OK)
    status = take_first(dnn, p, config, count < wanted ? count : wanted);
  for (int64_t i = 0; i < wanted; i++)
    if (config[i] != p->engine)
      drop(lib, &config[i]);
  free(config);
  return status;
}

static Status choose(Dnn *dnn, DnnPlan *p, cudnnBackendHeurMode_t mode) {
  const CudnnLibrary *lib = p->lib;
  Descriptor heuristic;
  TRY(make(lib, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristic));
  Status status =
      set(lib, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p->graph);
  if (status == OK)
    status = set(lib, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (status == OK) {
    cudnnStatus_t done = lib->BackendFinalize(heuristic);
    if (done == CUDNN_STATUS_SUCCESS)
      status = ask(dnn, p, heuristic);
    else if (kind_of(done) != CUDNN_STATUS_NOT_SUPPORTED)
      status = check(lib, done, "choosing an engine");
  }
  drop(lib, &heuristic);
  return status;
}

Status dnn_prepare(Dnn *dnn, const DnnConvolution *convolution, DnnPlan **out) {
  bool taken;
  *out = NULL;
  if (!is_asked(&convolution->shape))
    return OK;
  DnnPlan *plan = calloc(1, sizeof *plan);
  if (!plan)
    return fail(E_MEMORY, "out of memory");
  plan->lib = dnn->lib;
  plan->convolution = *convolution;
  Status status = describe(dnn, plan, &taken);
  if (status == OK && taken)
    status = choose(dnn, plan, CUDNN_HEUR_MODE_A);
  if (status == OK && taken && !plan->execution)
    status = choose(dnn, plan, CUDNN_HEUR_MODE_FALLBACK);
  if (status != OK || !plan->execution)
    dnn_release(plan);
  else
    *out = plan;
  return status;
}

void dnn_release(DnnPlan *p) {
  if (!p)
    return;
  drop(p->lib, &p->pack);
  drop(p->lib, &p->execution);
  drop(p->lib, &p->engine);
  drop(p->lib, &p->graph);
  drop(p->lib, &p->operation);
  drop(p->lib, &p->description);
  for (int i = 0; i < OPERANDS; i++)
    drop(p->lib, &p->tensor[i]);
  free(p);
}

/* A pack lasts as long as the addresses stay. */
static Status pack(DnnPlan *p, const void *const at[OPERANDS], const void *workspace) {
  static const int64_t ids[OPERANDS] = {X + 1, W + 1, Y + 1};
  const CudnnLibrary *lib = p->lib;
  bool same = p->pack && p->workspace == workspace;
  for (int i = 0; i < OPERANDS; i++)
    same &= p->at[i] == at[i];
  if (same)
    return OK;
  drop(lib, &p->pack);
  TRY(make(lib, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &p->pack));
  Status status = set(lib, p->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, OPERANDS, ids);
  if (status == OK)
    status = set(lib, p->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, OPERANDS, at);
  if (status == OK)
    status = set(lib, p->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  if (status == OK)
    status = finish(lib, p->pack);
  if (status != OK)
    drop(lib, &p->pack);
  for (int i = 0; i < OPERANDS; i++)
    p->at[i] = at[i];
  p->workspace = workspace;
  return status;
}

Status dnn_run(Dnn *dnn, DnnPlan *p, const void *a, const void *b, void *y, void *workspace) {
  const void *at[OPERANDS] = {a, b, y}; /* X, W, Y */
  if (p->convolution.way == CONVOLUTION_TOWARDS_INPUT) {
    at[X] = y;
    at[Y] = a;
  } else if (p->convolution.way == CONVOLUTION_TOWARDS_WEIGHT) {
    at[X] = b;
    at[W] = y;
    at[Y] = a;
  }
  TRY(pack(p, at, workspace));
  return check(p->lib, p->lib->BackendExecute(dnn->handle, p->execution, p->pack), "a convolution");
}
