/* The tensors of a checkpoint. Invariant: names lead back to the same tensors in any plan of the model. */
#include "runtime/checkpoint/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/checkpoint/replaced.h"
#include "runtime/data/safetensors.h"

static bool is_kept(const Job *job, const Value *value) {
  return value->role == ROLE_PARAMETER || value->role == ROLE_BUFFER || value->role == ROLE_STATE ||
         replaced_is_stored(job, value);
}

/* Whether a tensor of the graph is in the list already: a constant may have several values. */
static bool is_listed(const KeptTensor *tensors, int n, int initializer) {
  while (n-- > 0)
    if (tensors[n].initializer == initializer && tensors[n].kind == TENSOR_MODEL)
      return true;
  return false;
}

/* What is in memory alone. */
static Status add_replaced(Arena *arena, const Job *job, int initializer, KeptTensor *t) {
  const Initializer *what = &model_initializers(job->given.model, &(int){0})[initializer];
  *t = (KeptTensor){.name = arena_string(arena, what->name),
                    .kind = TENSOR_MODEL,
                    .initializer = initializer,
                    .dtype = what->dtype,
                    .shape = what->shape,
                    .bytes = (size_t)shape_elements(what->shape) * dtype_bytes(what->dtype),
                    .contents = job->asked.replaced.contents[initializer]};
  return t->name ? safetensors_check_name(t->name) : status_code();
}

/* Of a parameter or buffer, or of the parameter whose state it is. */
static int initializer_of(const Graph *g, const Value *value) {
  return value->role == ROLE_STATE ? graph_value(g, value->parameter)->initializer : value->initializer;
}

/* What the optimizer calls a state: "m" of "wte.weight/m". "" of all else. */
static const char *state_name(const Graph *g, const Value *value) {
  return value->role == ROLE_STATE ? value->name + strlen(graph_value(g, value->parameter)->name) : "";
}

static int owner_of(const Job *job, ValueId v) {
  const JobDecisions *decided = &job->decided;
  int r = 0;
  while (r + 1 < decided->ranks && !memory_holds(&decided->plan.rank_memory[r], v))
    r++;
  return r;
}

Status tensors_list(Arena *arena, const Job *job, KeptTensor **tensors, int *n) {
  const Graph *g = job->decided.graph;
  int *states, n_initializers;
  const Initializer *table = model_initializers(job->given.model, &n_initializers);
  *n = 0;
  TRY(ARENA_NEW(arena, *tensors, g->n_values + (size_t)n_initializers));
  TRY(ARENA_NEW(arena, states, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    bool is_state = value->role == ROLE_STATE;
    int state = is_state ? ++states[value->parameter] : 0, initializer = initializer_of(g, value);
    if (!is_kept(job, value) || initializer < 0 ||
        (value->role == ROLE_CONSTANT && is_listed(*tensors, *n, initializer)))
      continue;
    KeptTensor *t = &(*tensors)[(*n)++];
    *t = (KeptTensor){arena_format(arena, "%s%s", table[initializer].name, state_name(g, value)),
                      is_state ? TENSOR_STATE : TENSOR_MODEL,
                      initializer,
                      state,
                      owner_of(job, v),
                      value->dtype,
                      value->shape,
                      graph_value_bytes(g, v),
                      NULL};
    TRY(t->name ? safetensors_check_name(t->name) : status_code());
  }
  for (int i = 0; i < n_initializers; i++)
    if (replaced_stays(job, i) && job->asked.replaced.contents[i])
      TRY(add_replaced(arena, job, i, &(*tensors)[(*n)++]));
  return OK;
}

char *tensors_file_name(TensorKind kind, int rank, int ranks, char text[SHARD_NAME]) {
  snprintf(text, SHARD_NAME, "%s-%05d-of-%05d.safetensors", checkpoint_kinds[kind], rank + 1, ranks);
  return text;
}

Status tensors_index(Arena *arena, const KeptTensor *tensors, int n, TensorKind kind, int ranks, const char **text) {
  json_t *map = json_object();
  long long total = 0;
  Status status = map ? OK : fail(E_MEMORY, "out of memory");
  for (int i = 0; i < n && status == OK; i++) {
    const KeptTensor *t = &tensors[i];
    if (t->kind != kind)
      continue;
    if (json_object_get(map, t->name))
      status = fail(E_MODEL, "two tensors are called '%s': no checkpoint can tell them apart", t->name);
    else if (json_object_set_new(map, t->name,
                                 json_string(tensors_file_name(kind, t->owner, ranks, (char[SHARD_NAME]){0}))))
      status = fail(E_MEMORY, "out of memory");
    total += (long long)t->bytes;
  }
  if (status != OK) {
    json_decref(map);
    return status;
  }
  json_t *index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
  Text written = {0};
  text_add_json(&written, index, JSON_INDENT(2));
  text_add_char(&written, '\n');
  json_decref(index);
  const char *whole = text_whole(&written);
  *text = whole ? arena_string(arena, whole) : NULL;
  text_free(&written);
  return *text ? OK : status_code();
}

Status tensors_load(const Job *job, const Checkpoint *c, ValueId v, void *data, size_t bytes, bool *found) {
  const Graph *g = job->decided.graph;
  const Value *value = graph_value(g, v);
  char *name;
  *found = is_kept(job, value);
  if (!*found)
    return OK;
  const Initializer *table = model_initializers(job->given.model, &(int){0});
  if (asprintf(&name, "%s%s", table[initializer_of(g, value)].name, state_name(g, value)) < 0)
    return fail(E_MEMORY, "out of memory");
  const Array *array = checkpoint_tensor(c, value->role == ROLE_STATE ? TENSOR_STATE : TENSOR_MODEL, name);
  Status status = OK;
  if (!array)
    status = fail(E_MODEL, "%s: has no tensor '%s'", c->path, name);
  else if (array->dtype != value->dtype || !shape_equal(array->shape, value->shape))
    status = fail(E_MODEL, "%s: tensor '%s' is %s %s, the model has %s %s", c->path, name, dtype_name(array->dtype),
                  SHAPE_STR(array->shape), dtype_name(value->dtype), SHAPE_STR(value->shape));
  else if (bytes)
    memcpy(data, array->data, bytes);
  free(name);
  return status;
}
