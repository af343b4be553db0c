/* Builds, fills, runs and compares cases. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "graph/optimizer.h"
#include "tests/ops/cases.h"

uint64_t random_next(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

int64_t random_below(uint64_t *state, int64_t n) {
  return (int64_t)(random_next(state) >> 1) % n;
}

const char *case_text(const OpCase *c) {
  static _Thread_local char text[512];
  size_t at = (size_t)snprintf(text, sizeof text, "%s", op_def(c->op)->name);
  for (int i = 0; i < CASE_INPUTS && c->in[i].present && at < sizeof text; i++)
    at += (size_t)snprintf(text + at, sizeof text - at, " %s", c->in[i].absent ? "-" : SHAPE_STR(c->in[i].shape));
  for (int i = 0; i < CASE_ATTRS && c->attrs[i].name && at < sizeof text; i++) {
    const Attr *a = &c->attrs[i];
    at += (size_t)snprintf(text + at, sizeof text - at, " %s=", a->name);
    if (a->kind == ATTR_INT && at < sizeof text)
      at += (size_t)snprintf(text + at, sizeof text - at, "%lld", (long long)a->i);
    for (int k = 0; a->kind == ATTR_INTS && k < a->n && at < sizeof text; k++)
      at += (size_t)snprintf(text + at, sizeof text - at, "%s%lld", k ? "," : "", (long long)a->ints[k]);
  }
  return text;
}

int case_types(const OpCase *c, DType types[DTYPE_COUNT]) {
  static const DType all[] = {F32, F64, I64, I32, BOOL, U8, F16, I16};
  int n = c->types == TYPES_FLOAT ? 2 : c->types == TYPES_NUMBERS ? 4 : c->types == TYPES_ALL ? 8 : 1;
  for (int i = 0; i < n; i++)
    types[i] = c->types == TYPES_BOOL ? BOOL : all[i];
  return n;
}

#define ELEMENTS(VISIT)                                                                                                \
  VISIT(F32, float)                                                                                                    \
  VISIT(F64, double)                                                                                                   \
  VISIT(F16, uint16_t)                                                                                                 \
  VISIT(BF16, uint16_t)                                                                                                \
  VISIT(I64, int64_t)                                                                                                  \
  VISIT(I32, int32_t)                                                                                                  \
  VISIT(I16, int16_t)                                                                                                  \
  VISIT(I8, int8_t)                                                                                                    \
  VISIT(U8, uint8_t)                                                                                                   \
  VISIT(U16, uint16_t)                                                                                                 \
  VISIT(U32, uint32_t)                                                                                                 \
  VISIT(U64, uint64_t)                                                                                                 \
  VISIT(BOOL, uint8_t)

double tensor_get(const Tensor *tensor, int64_t i) {
  switch (tensor->dtype) {
#define GET(DTYPE, T)                                                                                                  \
  case DTYPE:                                                                                                          \
    return (double)((const T *)tensor->data)[i];
    ELEMENTS(GET)
  default:
    return NAN;
  }
}

void tensor_set(const Tensor *tensor, int64_t i, double value) {
  switch (tensor->dtype) {
#define SET(DTYPE, T)                                                                                                  \
  case DTYPE:                                                                                                          \
    ((T *)tensor->data)[i] = (T)value;                                                                                 \
    break;
    ELEMENTS(SET)
  default:
    break;
  }
}

static double any_value(DType dtype, uint64_t *random) {
  if (dtype == BOOL)
    return (double)random_below(random, 2);
  if (dtype == F32 || dtype == F64) {
    double magnitude = 0.0625 + (double)random_below(random, 1 << 16) / (1 << 16) * 1.9375;
    return random_below(random, 2) ? magnitude : -magnitude;
  }
  if (dtype != I64 && dtype != I32 && dtype != I16 && dtype != I8)
    return (double)random_below(random, 10);
  int64_t i = random_below(random, 12) - 6;
  return (double)(i < 0 ? i : i + 1);
}

static double step_scalar(int64_t i, bool first) {
  static const double later[STEP_SCALARS] = {0.125, 0.271, 0.00299700, 0.75, 0};
  static const double once[STEP_SCALARS] = {0.125, 0.1, 0.001, 0.75, 1};
  return first ? once[i] : later[i];
}

/* `salt` keeps the inputs of a case apart. */
static void fill(const CaseInput *in, const Tensor *tensor, int salt, uint64_t seed) {
  uint64_t random = seed * 1000003 + (uint64_t)salt;
  int64_t n = shape_elements(tensor->shape);
  for (int64_t i = 0; i < n; i++) {
    double x = any_value(tensor->dtype, &random);
    if (in->fill == FILL_POSITIVE)
      x = 0.3 + (double)(float)(random_below(&random, 1 << 16) / 32768.0);
    else if (in->fill == FILL_UNIT)
      x = (double)(float)((double)random_below(&random, 1 << 16) / 65536 * 1.8 - 0.9);
    else if (in->fill == FILL_BEYOND)
      x = 1.1 + (double)(float)(random_below(&random, 1 << 16) / 32768.0);
    else if (in->fill == FILL_DISTINCT)
      x = (double)(i * 7919 % (n | 1) * 4 + salt % 4) / 64 - 1; /* 7919 is prime: a permutation */
    else if (in->fill == FILL_TIED)
      x = (double)(random_below(&random, 3) - 1);
    else if (in->fill == FILL_INDEX)
      x = (double)(random_below(&random, 2 * in->limit) - in->limit);
    else if (in->fill == FILL_CLASS)
      x = random_below(&random, 4) ? (double)random_below(&random, in->limit) : -100;
    else if (in->fill == FILL_TRUTH)
      x = (double)random_below(&random, 2);
    else if (in->fill == FILL_SCALARS)
      x = step_scalar(i, in->limit);
    else if (in->fill == FILL_LIMIT)
      x = (double)in->limit;
    tensor_set(tensor, i, in->fill == FILL_SCALARS ? x : (double)(float)x);
  }
}

Status case_extend(CaseGraph *built) {
  Graph *g = built->graph;
  Tensor *tensor = realloc(built->tensor, g->n_values * sizeof *tensor);
  if (!tensor)
    return fail(E_MEMORY, "out of memory");
  built->tensor = tensor;
  for (; built->n_tensors < g->n_values; built->n_tensors++) {
    const Value *v = graph_value(g, (ValueId)built->n_tensors);
    size_t bytes = graph_value_bytes(g, (ValueId)built->n_tensors);
    Tensor t = {.dtype = v->dtype, .shape = v->shape};
    if (posix_memalign(&t.data, 64, bytes ? bytes : 1)) /* exact, so that a sanitizer sees what leaves it */
      return fail(E_MEMORY, "out of memory");
    if (v->data)
      memcpy(t.data, v->data, bytes);
    else
      memset(t.data, 0, bytes);
    tensor[built->n_tensors] = t;
  }
  return OK;
}

static Status add_input(const CaseInput *in, int i, DType type, uint64_t seed, Graph *g, ValueId *id) {
  DType dtype = in->dtype ? in->dtype : type;
  size_t bytes;
  TRY(shape_bytes(in->shape, dtype, &bytes));
  Tensor t = {.dtype = dtype, .shape = in->shape, .data = arena_alloc(g->arena, bytes, 1)};
  if (!t.data)
    return status_code();
  fill(in, &t, i, seed);
  const char *name = arena_format(g->arena, "in%d", i);
  TRY(graph_add_constant(g, name, dtype, in->shape, t.data, id));
  if ((dtype == F32 || dtype == F64) && !in->fixed) {
    graph_value(g, *id)->role = ROLE_PARAMETER;
    graph_value(g, *id)->data = NULL;
  }
  TRY(graph_add_input(g, *id));
  return OK;
}

Status case_build(const OpCase *c, DType type, uint64_t seed, Arena *arena, CaseGraph *built) {
  ValueId in[CASE_INPUTS];
  int n_in = 0, n_out = 0, n_attrs = 0;
  NodeId node;
  *built = (CaseGraph){0};
  TRY(graph_create(arena, "case", &built->graph));
  for (; n_in < CASE_INPUTS && c->in[n_in].present; n_in++) {
    in[n_in] = NO_VALUE;
    if (!c->in[n_in].absent)
      TRY(add_input(&c->in[n_in], n_in, type, seed, built->graph, &in[n_in]));
  }
  while (n_out < CASE_OUTPUTS && c->out[n_out].present)
    n_out++;
  while (n_attrs < CASE_ATTRS && c->attrs[n_attrs].name)
    n_attrs++;
  TRY(graph_add_node(built->graph, c->op, "case", in, n_in, c->attrs, n_attrs, NULL, n_out, &node));
  built->node = graph_node(built->graph, node);
  TRY(case_extend(built));
  for (int i = 0; i < n_in; i++) /* parameters carry no data */
    if (in[i] != NO_VALUE)
      fill(&c->in[i], &built->tensor[in[i]], i, seed);
  return OK;
}

/* tensor: where the backend has them, by ValueId. */
static Status run_node(const Graph *g, const Tensor *tensor, const Backend *backend, Stream *stream, const Node *node) {
  Tensor in[64] = {{0}}, out[16] = {{0}};
  if (node->n_in > 64 || node->n_out > 16)
    return fail(E_UNSUPPORTED, "%d inputs, %d outputs", node->n_in, node->n_out);
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE)
      in[i] = tensor[node->in[i]];
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE)
      out[i] = tensor[node->out[i]];
  size_t bytes = backend_workspace_bytes(backend, g, node);
  void *workspace = NULL;
  NodeKernel kernel;
  if (bytes && !backend->is_host)
    TRY(backend->alloc(stream, bytes, &workspace));
  else if (bytes && posix_memalign(&workspace, 64, bytes))
    return fail(E_MEMORY, "out of memory");
  Status status = backend_prepare(backend, stream, node, in, out, bytes, &kernel);
  if (status == OK)
    status = kernel.run(stream, node, in, out, workspace, kernel.state);
  if (status == OK && !backend->is_host)
    status = backend->stream_wait(stream); /* it uses the workspace still */
  backend_forget(&kernel);
  if (backend->is_host)
    free(workspace);
  else if (workspace)
    backend->release(stream, workspace);
  return status;
}

static Status run_nodes(const CaseGraph *built, const Tensor *tensor, const Backend *backend, Stream *stream,
                        NodeId first, NodeId last) {
  for (NodeId i = first; i < last; i++)
    TRY(run_node(built->graph, tensor, backend, stream, graph_node(built->graph, i)));
  return backend->stream_wait(stream);
}

/* What the output lies over: the first over input built->over - 1, the others over those behind it. NO_VALUE: nothing.
 */
static ValueId lies_over(const CaseGraph *built, int o) {
  return built->node->in[(built->over - 1 + o) % built->node->n_in];
}

/* How many outputs are to lie over inputs; without any a graph may have no one node to speak of. */
static int n_over(const CaseGraph *built) {
  return built->over ? built->node->n_out : 0;
}

static bool is_over(const CaseGraph *built, ValueId v) {
  bool over = false;
  for (int o = 0; o < n_over(built); o++)
    over |= built->node->out[o] == v && lies_over(built, o) != NO_VALUE;
  return over;
}

/* Where outputs are to lie over inputs, their tensors do. */
static void lay_over(const CaseGraph *built, Tensor *tensor) {
  for (int o = 0; o < n_over(built); o++)
    if (lies_over(built, o) != NO_VALUE)
      tensor[built->node->out[o]].data = tensor[lies_over(built, o)].data;
}

/* On the host: in the graph's own tensors. */
static Status run_here(const CaseGraph *built, Tensor *here, const Backend *backend, Stream *stream, NodeId first,
                       NodeId last) {
  memcpy(here, built->tensor, built->n_tensors * sizeof *here);
  lay_over(built, here);
  TRY(run_nodes(built, here, backend, stream, first, last));
  for (size_t v = 0; v < built->n_tensors; v++)
    if (is_over(built, (ValueId)v))
      memcpy(built->tensor[v].data, here[v].data, graph_value_bytes(built->graph, (ValueId)v));
  return OK;
}

/* To a device of its own memory, each tensor in an allocation of its size, and back. */
static Status run_away(const CaseGraph *built, Tensor *away, const Backend *backend, Stream *stream, NodeId first,
                       NodeId last) {
  for (size_t v = 0; v < built->n_tensors; v++) {
    size_t bytes = graph_value_bytes(built->graph, (ValueId)v);
    away[v] = built->tensor[v];
    away[v].data = NULL;
    if (is_over(built, (ValueId)v))
      continue;
    TRY(backend->alloc(stream, bytes, &away[v].data));
    TRY(backend->copy(stream, away[v].data, built->tensor[v].data, bytes, COPY_HOST_TO_DEVICE));
  }
  lay_over(built, away);
  TRY(run_nodes(built, away, backend, stream, first, last));
  for (size_t v = 0; v < built->n_tensors; v++)
    TRY(backend->copy(stream, built->tensor[v].data, away[v].data, graph_value_bytes(built->graph, (ValueId)v),
                      COPY_DEVICE_TO_HOST));
  return backend->stream_wait(stream);
}

Status case_run(const CaseGraph *built, const Backend *backend, int threads, NodeId first, NodeId last) {
  Stream *stream;
  TRY(backend->stream_open(0, threads, &stream));
  Tensor *tensor = calloc(built->n_tensors, sizeof *tensor);
  Status status = !tensor            ? fail(E_MEMORY, "out of memory")
                  : backend->is_host ? run_here(built, tensor, backend, stream, first, last)
                                     : run_away(built, tensor, backend, stream, first, last);
  for (size_t v = 0; tensor && !backend->is_host && v < built->n_tensors; v++)
    if (!is_over(built, (ValueId)v))
      backend->release(stream, tensor[v].data);
  free(tensor);
  backend->stream_close(stream);
  return status;
}

/* Run with the first output over input k; `beside` is the same case's, not so. */
static bool same_over(const OpCase *c, DType type, uint64_t seed, const Backend *backend, int threads,
                      const CaseGraph *beside, int k, char where[256]) {
  Arena *arena = arena_create();
  CaseGraph over = {0};
  bool same = arena && case_build(c, type, seed, arena, &over) == OK;
  over.over = k + 1;
  same = same && case_run(&over, backend, threads, 0, 1) == OK;
  if (!same)
    snprintf(where, 256, "over input %d: %.200s", k, status_message());
  for (int o = 0; same && o < beside->node->n_out; o++) {
    ValueId v = beside->node->out[o];
    same = !memcmp(over.tensor[v].data, beside->tensor[v].data, graph_value_bytes(beside->graph, v));
    if (!same)
      snprintf(where, 256, "over input %d other bits come out than beside it", k);
  }
  case_release(&over);
  arena_destroy(arena);
  return same;
}

/* Whether each output may lie where it does with the first over input k. */
static bool fits_over(const CaseGraph *built, int k) {
  bool fits = true;
  for (int o = 0; o < built->node->n_out; o++) {
    ValueId in = built->node->in[(k + o) % built->node->n_in], out = built->node->out[o];
    fits &= in != NO_VALUE && built->tensor[in].dtype == built->tensor[out].dtype &&
            shape_equal(built->tensor[in].shape, built->tensor[out].shape);
  }
  return fits;
}

bool case_in_place(const OpCase *c, DType type, uint64_t seed, const Backend *backend, int threads, char where[256]) {
  if (!(op_def(c->op)->traits & OP_IN_PLACE))
    return true;
  Arena *arena = arena_create();
  CaseGraph beside = {0};
  bool same =
      arena && case_build(c, type, seed, arena, &beside) == OK && case_run(&beside, backend, threads, 0, 1) == OK;
  if (!same)
    snprintf(where, 256, "%.200s", status_message());
  for (int k = 0; same && k < beside.node->n_in; k++)
    if (fits_over(&beside, k))
      same = same_over(c, type, seed, backend, threads, &beside, k, where);
  case_release(&beside);
  arena_destroy(arena);
  return same;
}

void case_release(CaseGraph *built) {
  for (size_t i = 0; i < built->n_tensors; i++)
    free(built->tensor[i].data);
  free(built->tensor);
  *built = (CaseGraph){0};
}

/* Whether result i of the node is an input; *k: which one, or which output. */
static bool writes_input(const Node *node, int i, int *k) {
  bool all = op_def(node->op)->traits & OP_UPDATE || node->n_out == 0,
       first = op_def(node->op)->traits & OP_MUTATES_FIRST;
  *k = i - (first && !all && i > 0);
  return all || (first && i == 0);
}

static int count_results(const Node *node) {
  bool updates = op_def(node->op)->traits & OP_UPDATE, first = op_def(node->op)->traits & OP_MUTATES_FIRST;
  return updates || node->n_out == 0 ? node->n_in : node->n_out + first;
}

int case_results(const Node *node, ValueId value[CASE_INPUTS]) {
  int n = count_results(node), k;
  for (int i = 0; i < n; i++)
    value[i] = writes_input(node, i, &k) ? node->in[k] : node->out[k];
  return n;
}

static double *as_doubles(const Tensor *t, Arena *arena) {
  double *copy = arena_alloc(arena, (size_t)shape_elements(t->shape), sizeof *copy);
  for (int64_t i = 0; i < shape_elements(t->shape); i++)
    copy[i] = tensor_get(t, i);
  return copy;
}

int case_oracle(const CaseGraph *built, Arena *arena, double *result[CASE_INPUTS]) {
  const Node *node = built->node;
  OracleCall call = {.node = node, .dtype = built->tensor[node->in[0]].dtype, .n_in = node->n_in, .n_out = node->n_out};
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE) {
      call.in_dtype[i] = built->tensor[node->in[i]].dtype;
      call.in_shape[i] = built->tensor[node->in[i]].shape;
      call.in[i] = as_doubles(&built->tensor[node->in[i]], arena);
    }
  for (int i = 0; i < node->n_out; i++) {
    call.out_shape[i] = built->tensor[node->out[i]].shape;
    call.out[i] = as_doubles(&built->tensor[node->out[i]], arena);
  }
  oracles[node->op](&call);
  int n = count_results(node), k;
  for (int i = 0; i < n; i++)
    result[i] = writes_input(node, i, &k) ? call.in[k] : call.out[k];
  return n;
}

static bool close_enough(double got, double expected, double tolerance) {
  if (isnan(expected) || isinf(expected))
    return isnan(expected) ? isnan(got) : got == expected;
  return fabs(got - expected) <= tolerance * fmax(1, fabs(expected));
}

double case_tolerance(const CaseGraph *built) {
  const Node *node = built->node;
  double product = 0;
  if (built->tensor[node->in[0]].dtype == F64)
    return 1e-11;
  bool has_products = node->op == OP_RecurrentSteps || node->op == OP_RecurrentStepsGrad || node->op == OP_Attention ||
                      node->op == OP_AttentionGrad;
  if (op_def(node->op)->traits & OP_PRODUCT || has_products) {
    int64_t results = shape_elements(built->tensor[node->n_out ? node->out[0] : node->in[0]].shape);
    product = op_cost(built->graph, node).flops / 2 / (double)(results ? results : 1);
  }
  return 2e-5 + 2e-6 * product;
}

bool case_close(const Tensor *got, const double *expected, double tolerance, char where[256]) {
  bool exact = got->dtype != F32 && got->dtype != F64;
  for (int64_t i = 0; i < shape_elements(got->shape); i++) {
    double x = tensor_get(got, i);
    if (close_enough(x, expected[i], exact ? 0 : tolerance))
      continue;
    snprintf(where, 256, "%s: element %lld of %s is %.17g, expected %.17g", dtype_name(got->dtype), (long long)i,
             SHAPE_STR(got->shape), x, expected[i]);
    return false;
  }
  return true;
}
