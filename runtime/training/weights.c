/* Parameters and gradients between the ranks that hold them and rank 0, which reads and writes files. Invariant: every
 * rank walks the initializers in table order, so that what one sends is what rank 0 awaits. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "graph/autodiff.h"
#include "runtime/checkpoint/origin.h"
#include "runtime/checkpoint/replaced.h"
#include "runtime/training/trainer.h"

Status weights_load(void *context, ValueId value, void *data, size_t bytes) {
  const Job *job = context;
  const Value *what = graph_value(job->decided.graph, value);
  const void *replaced = job->asked.replaced.is && what->role == ROLE_CONSTANT && what->initializer >= 0
                             ? job->asked.replaced.contents[what->initializer]
                             : NULL;
  if (replaced) {
    memcpy(data, replaced, bytes);
    return OK;
  }
  if (job->asked.resumed) {
    bool found;
    TRY(tensors_load(job, job->asked.resumed, value, data, bytes, &found));
    if (found)
      return OK;
  }
  if (job->asked.origin) {
    bool found;
    TRY(origin_load(job->asked.origin, job, value, data, bytes, &found));
    if (found)
      return OK;
  }
  if (job->asked.options->init && graph_value(job->decided.graph, value)->role == ROLE_PARAMETER)
    return init_load(job, value, data, bytes);
  return model_read_initializer(job->given.model, graph_value(job->decided.graph, value)->initializer, data, bytes);
}

/* Where an initializer's trained contents are: a parameter of the graph, as it is or transposed, on a rank. */
typedef struct {
  ValueId parameter; /* or buffer; NO_VALUE: not in the graph */
  bool transposed;
  int owner; /* the lowest rank that holds the parameter; -1: none */
} Holding;

static Holding find_holding(const Job *job, int initializer) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n), *this = &table[initializer];
  int root = this->tied_to >= 0 ? this->tied_to : initializer;
  Holding holding = {.parameter = NO_VALUE, .transposed = this->tied_to >= 0 && this->tied_transposed, .owner = -1};
  bool is_written = this->trains || this->is_buffer || replaced_stays(job, initializer);
  for (size_t v = 0; is_written && v < job->decided.graph->n_values && holding.parameter == NO_VALUE; v++) {
    const Value *value = job->decided.graph->values[v];
    if ((value->role == ROLE_PARAMETER || value->role == ROLE_BUFFER || replaced_is_stored(job, value)) &&
        value->initializer == root)
      holding.parameter = (ValueId)v;
  }
  if (holding.parameter == NO_VALUE)
    return holding;
  for (int r = job->decided.ranks - 1; r >= 0; r--)
    if (memory_holds(&job->decided.plan.rank_memory[r], holding.parameter))
      holding.owner = r;
  return holding;
}

/* data [rows, columns] of elements of `size` bytes becomes [columns, rows]. */
static Status transpose(void *data, int64_t rows, int64_t columns, size_t size) {
  size_t bytes = (size_t)(rows * columns) * size;
  char *copy = malloc(bytes ? bytes : 1), *to = data;
  if (!copy)
    return fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  memcpy(copy, data, bytes);
  for (int64_t c = 0; c < columns; c++)
    for (int64_t r = 0; r < rows; r++)
      memcpy(to + (size_t)(c * rows + r) * size, copy + (size_t)(r * columns + c) * size, size);
  free(copy);
  return OK;
}

/* The parameter's own orientation into that of the initializer. */
static Status orient(const Job *job, Holding holding, void *data) {
  const Value *parameter = graph_value(job->decided.graph, holding.parameter);
  return holding.transposed
             ? transpose(data, parameter->shape.dim[0], parameter->shape.dim[1], dtype_bytes(parameter->dtype))
             : OK;
}

/* Reads what `holding` is about on its owner. */
typedef Status Reader(Worker *worker, ValueId parameter, void *data, size_t bytes);

static Status read_parameter(Worker *w, ValueId parameter, void *data, size_t bytes) {
  return store_read(w->store, graph_value(w->training->job->decided.graph, parameter)->initializer, data, bytes);
}

static Status read_input(Worker *w, ValueId value, Arena *arena, Tensor *tensor) {
  const Graph *graph = w->stepper->decided->graph;
  size_t bytes = graph_value_bytes(graph, value);
  *tensor = tensor_at(graph_value(graph, value)->dtype, graph_value(graph, value)->shape, arena_alloc(arena, bytes, 1));
  return tensor->data ? executor_read(w->stepper->executor, value, tensor->data, bytes) : status_code();
}

/* A gradient of which rows are kept, in full: what an update of zeros at rate 1 takes from them when the gradient
 * counts -1 times. */
static Status spread_rows(Worker *w, Arena *arena, const UseGroup *const *groups, int n, void *data, size_t bytes) {
  const Value *parameter = graph_value(w->stepper->decided->graph, groups[0]->parameter);
  double scalars[STEP_SCALARS] = {[SCALAR_LEARNING_RATE] = 1, [SCALAR_GRADIENT_FACTOR] = -1};
  int64_t count = STEP_SCALARS;
  ValueId ids[2 + 2 * MAX_GROUPS] = {0};
  Tensor in[2 + 2 * MAX_GROUPS] = {tensor_at(parameter->dtype, parameter->shape, data),
                                   tensor_at(F64, shape_of(1, &count), scalars)};
  Node update = {.op = OP_SgdUpdateRows, .name = parameter->name, .in = ids, .n_in = 2};
  for (int k = 0; k < n; k++) {
    TRY(read_input(w, groups[k]->gradient, arena, &in[update.n_in++]));
    if (groups[k]->places != NO_VALUE)
      TRY(read_input(w, groups[k]->places, arena, &in[update.n_in++]));
  }
  memset(data, 0, bytes);
  return backend_evaluate(NULL, &update, in, NULL);
}

static Status read_rows(Worker *w, const UseGroup *const *groups, int n, void *data, size_t bytes) {
  Arena *arena = arena_create();
  Status status = arena ? spread_rows(w, arena, groups, n, data, bytes) : status_code();
  arena_destroy(arena);
  return status;
}

/* What the training graph's parameter is in that of the step at hand. */
static ValueId parameter_of_step(const Worker *w, ValueId parameter) {
  int initializer = graph_value(w->training->job->decided.graph, parameter)->initializer;
  const Graph *graph = w->stepper->decided->graph;
  for (ValueId v = 0; v < graph->n_values; v++)
    if (graph_value(graph, v)->role == ROLE_PARAMETER && graph_value(graph, v)->initializer == initializer)
      return v;
  return NO_VALUE;
}

/* The sum of a parameter's accumulators in group order, as its update will see it. */
static Status read_gradient(Worker *w, ValueId parameter, void *data, size_t bytes) {
  const Graph *graph = w->stepper->decided->graph;
  const UseGroup *groups[MAX_GROUPS];
  parameter = parameter_of_step(w, parameter);
  int n = autodiff_groups(graph, parameter, groups);
  if (!n) { /* the step does not reach it */
    memset(data, 0, bytes);
    return OK;
  }
  bool has_rows = false;
  for (int k = 0; k < n; k++)
    has_rows |= groups[k]->places != NO_VALUE;
  if (has_rows)
    return read_rows(w, groups, n, data, bytes);
  TRY(executor_read(w->stepper->executor, groups[0]->gradient, data, bytes));
  if (n == 1)
    return OK;
  void *more = malloc(bytes ? bytes : 1);
  if (!more)
    return fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  Status status = OK;
  for (int k = 1; k < n && status == OK; k++) {
    status = executor_read(w->stepper->executor, groups[k]->gradient, more, bytes);
    if (graph_value(graph, parameter)->dtype == F64)
      for (size_t i = 0; i < bytes / sizeof(double); i++)
        ((double *)data)[i] += ((double *)more)[i];
    else
      for (size_t i = 0; i < bytes / sizeof(float); i++)
        ((float *)data)[i] += ((float *)more)[i];
  }
  free(more);
  return status;
}

/* Rank 0: what the owner has. */
static Status fetch(Worker *w, Holding holding, Reader *reader, void *data, size_t bytes) {
  TRY(holding.owner == 0 ? reader(w, holding.parameter, data, bytes)
                         : link_receive(w->link, holding.owner, data, bytes));
  return orient(w->training->job, holding, data);
}

/* Another rank: sends it, where it is the owner. */
static Status serve(Worker *w, Holding holding, Reader *reader) {
  if (holding.parameter == NO_VALUE || holding.owner != w->rank)
    return OK;
  size_t bytes = graph_value_bytes(w->training->job->decided.graph, holding.parameter);
  void *data = malloc(bytes ? bytes : 1);
  if (!data)
    return fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  Status status = reader(w, holding.parameter, data, bytes);
  if (status == OK)
    status = link_send(w->link, 0, data, bytes);
  free(data);
  return status;
}

/* Which tensors are collected; on every rank the same. */
typedef bool Wanted(const Job *job, const Initializer *what, Holding holding);

static bool has_gradient(const Job *job, const Initializer *what, Holding holding) {
  ValueId gradients[MAX_GROUPS];
  (void)what;
  return holding.owner >= 0 && autodiff_gradients(job->decided.graph, holding.parameter, gradients) > 0;
}

/* What model_save asks for: a tied tensor is its owner's. */
static bool is_saved(const Job *job, const Initializer *what, Holding holding) {
  (void)job;
  return what->tied_to < 0 && holding.owner >= 0;
}

/* Rank 0: what the reader has of every tensor that is written, where there is any, in the arena. *next: the first
 * initializer that was not asked for. */
static Status collect(Worker *w, Arena *arena, Wanted *wanted, Reader *reader, int *next, Array **all, int *n_all) {
  const Job *job = w->training->job;
  int n, count = 0;
  const Initializer *table = model_initializers(job->given.model, &n);
  Array *arrays;
  TRY(ARENA_NEW(arena, arrays, n));
  for (int i = 0; i < n; i++) {
    Holding holding = find_holding(job, i);
    if (!wanted(job, &table[i], holding))
      continue;
    size_t bytes = graph_value_bytes(job->decided.graph, holding.parameter);
    void *data = arena_alloc(arena, bytes, 1);
    if (!data)
      return status_code();
    *next = i + 1;
    TRY(fetch(w, holding, reader, data, bytes));
    arrays[count++] = (Array){table[i].name, table[i].dtype, table[i].shape, data};
  }
  *all = arrays;
  *n_all = count;
  return OK;
}

/* Another rank: sends what it has of that, in the order in which rank 0 asks. */
static Status serve_all(Worker *w, Wanted *wanted, Reader *reader) {
  const Job *job = w->training->job;
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  for (int i = 0; i < n; i++) {
    Holding holding = find_holding(job, i);
    if (wanted(job, &table[i], holding))
      TRY(serve(w, holding, reader));
  }
  return OK;
}

/* model_save's source. */
typedef struct {
  Worker *worker;
  int next; /* after the last initializer that was asked for, where other ranks have begun to send */
} Saving;

static Status trained_contents(void *context, int initializer, void *data, size_t bytes) {
  Saving *saving = context;
  const Job *job = saving->worker->training->job;
  Holding holding = find_holding(job, initializer);
  saving->next = initializer + 1;
  if (holding.owner < 0 && replaced_stays(job, initializer) && job->asked.replaced.contents[initializer]) {
    memcpy(data, job->asked.replaced.contents[initializer], bytes);
    return OK;
  }
  if (holding.owner < 0)
    return model_read_initializer(job->given.model, initializer, data, bytes);
  return fetch(saving->worker, holding, read_parameter, data, bytes);
}

/* The model cannot be written again, for it is not what it was: what was trained is, by itself. Fails with both. */
static Status save_apart(Worker *w, const char *path, int *next) {
  Arena *arena = arena_create();
  char *why = arena ? arena_string(arena, status_message()) : NULL;
  char *apart = why ? arena_format(arena, "%s.npz", path) : NULL;
  Array *arrays;
  int n;
  Status status = apart ? collect(w, arena, is_saved, read_parameter, next, &arrays, &n) : status_code();
  if (status == OK)
    status = array_file_write(apart, arrays, n);
  if (status == OK)
    status = fail(E_IO, "%s; the trained tensors are in %s, by name", why, apart);
  arena_destroy(arena);
  return status;
}

/* Rank 0: takes what other ranks send from there on, for nobody. */
static Status drain(Worker *w, int next) {
  const Job *job = w->training->job;
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  for (int i = next; i < n; i++) {
    Holding holding = find_holding(job, i);
    if (holding.owner <= 0 || !is_saved(job, &table[i], holding))
      continue;
    size_t bytes = graph_value_bytes(job->decided.graph, holding.parameter);
    void *data = malloc(bytes ? bytes : 1);
    if (!data)
      return link_withdraw(w->link, fail(E_COMM, "out of memory: %zu bytes", bytes));
    Status status = link_receive(w->link, holding.owner, data, bytes);
    free(data);
    TRY(status);
  }
  return OK;
}

/* What the file will take at least; what is short of it is not begun. */
static Status check_space(const Job *job, const char *path) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  uint64_t bytes = 0;
  for (int i = 0; i < n; i++)
    if (table[i].trains || table[i].is_buffer ||
        replaced_stays(job, i)) /* others may stay where the model's file says that they are */
      bytes += (uint64_t)shape_elements(table[i].shape) * dtype_bytes(table[i].dtype);
  return file_check_space(path, bytes);
}

static Status write_model(Worker *w, const char *path, Saving *saving) {
  const Job *job = w->training->job;
  TRY(check_space(job, path));
  Status status = model_save(job->given.model, path, job->asked.replaced.is, trained_contents, saving);
  if (status == OK || saving->next)
    return status;
  char message[1024];
  snprintf(message, sizeof message, "%s", status_message());
  return model_unchanged(job->given.model) == OK ? status_adopt(status, message) : save_apart(w, path, &saving->next);
}

Status weights_save(Worker *w, const char *path) {
  Saving saving = {.worker = w};
  if (w->rank)
    return serve_all(w, is_saved, read_parameter);
  Status status = write_model(w, path, &saving);
  if (status == OK || status == E_COMM || status == E_DEVICE)
    return status;
  char message[2048];
  snprintf(message, sizeof message, "%s", status_message());
  TRY(drain(w, saving.next));
  return status_adopt(status, message);
}

Status weights_dump_gradients(Worker *w, const char *path) {
  if (w->rank)
    return serve_all(w, has_gradient, read_gradient);
  Arena *arena = arena_create();
  Array *arrays;
  int n, next = 0;
  Status status = arena ? collect(w, arena, has_gradient, read_gradient, &next, &arrays, &n) : status_code();
  if (status == OK && array_file_write(path, arrays, n) != OK) {
    snprintf(w->lost_gradients, sizeof w->lost_gradients, "%s", status_message());
    job_report(w->training->job, "%s; training goes on", status_message());
  }
  arena_destroy(arena);
  return status;
}
