#include "runtime/checkpoint/replaced.h"

#include <string.h>

static size_t bytes_of(const Initializer *what) {
  return (size_t)shape_elements(what->shape) * dtype_bytes(what->dtype);
}

Status replaced_add(Job *job, int initializer, void **contents) {
  Replaced *replaced = &job->asked.replaced;
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  size_t bytes = bytes_of(&table[initializer]);
  *contents = NULL;
  if (!replaced->is) {
    TRY(ARENA_NEW(job->arena, replaced->contents, n));
    TRY(ARENA_NEW(job->arena, replaced->is, n));
  }
  if (bytes <= BIND_READ_BYTES && !(*contents = arena_alloc(job->arena, bytes ? bytes : 1, 1)))
    return status_code();
  replaced->contents[initializer] = *contents;
  replaced->is[initializer] = true;
  return OK;
}

/* -1: none of this name that does not train. */
static int find(const Job *job, const char *name) {
  int n, i = 0;
  const Initializer *table = model_initializers(job->given.model, &n);
  while (i < n && (table[i].trains || strcmp(table[i].name, name) != 0))
    i++;
  return i < n ? i : -1;
}

Status replaced_resume(Job *job, const Checkpoint *c) {
  const Initializer *table = model_initializers(job->given.model, &(int){0});
  size_t k;
  json_t *name;
  json_array_foreach(c->replaced, k, name) {
    int i = json_is_string(name) ? find(job, json_string_value(name)) : -1;
    const Array *array = i >= 0 ? checkpoint_tensor(c, TENSOR_MODEL, json_string_value(name)) : NULL;
    void *contents;
    if (!array || array->dtype != table[i].dtype || !shape_equal(array->shape, table[i].shape))
      continue; /* of another model, which is refused */
    TRY(replaced_add(job, i, &contents));
    if (contents)
      memcpy(contents, array->data, bytes_of(&table[i]));
  }
  return OK;
}

bool replaced_stays(const Job *job, int initializer) {
  const Graph *g = job->decided.graph;
  if (!job->asked.replaced.is || !job->asked.replaced.is[initializer])
    return false;
  for (ValueId v = 0; v < g->n_values; v++)
    if (graph_value(g, v)->role == ROLE_BUFFER && graph_value(g, v)->initializer == initializer)
      return false;
  return true;
}

bool replaced_is_stored(const Job *job, const Value *value) {
  const Replaced *replaced = &job->asked.replaced;
  return replaced->is && value->role == ROLE_CONSTANT && !value->data && value->initializer >= 0 &&
         replaced->is[value->initializer] && !replaced->contents[value->initializer];
}
