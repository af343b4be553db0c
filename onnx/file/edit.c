/* Tensors that an exporter merged or dropped, made anew. Invariant: the skeleton stays a valid model, every node of the
 * main graph that differs from the file's is marked in model->changes, and a new tensor stands behind all of the file's
 * in the table. */
#include "onnx/file/edit.h"

#include <stdlib.h>
#include <string.h>

enum { RESTORED_BYTES = 160 << 20 };

static Status take_names(NameMap *taken, const Onnx__GraphProto *graph) {
  for (size_t i = 0; i < graph->n_input; i++)
    TRY(names_put(taken, proto_text(graph->input[i]->name), 0));
  for (size_t i = 0; i < graph->n_initializer; i++)
    TRY(names_put(taken, proto_text(graph->initializer[i]->name), 0));
  for (size_t i = 0; i < graph->n_node; i++) {
    const Onnx__NodeProto *node = graph->node[i];
    for (size_t k = 0; k < node->n_output; k++)
      TRY(names_put(taken, node->output[k], 0));
    for (size_t a = 0; a < node->n_attribute; a++) {
      if (node->attribute[a]->g)
        TRY(take_names(taken, node->attribute[a]->g));
      for (size_t g = 0; g < node->attribute[a]->n_graphs; g++)
        TRY(take_names(taken, node->attribute[a]->graphs[g]));
    }
  }
  return OK;
}

static Status add_use(Edit *edit, const char *name, Use use) {
  Uses *uses = map_find(edit->readers, name, strlen(name));
  if (!uses) {
    TRY(ARENA_NEW(edit->arena, uses, 1));
    TRY(map_put(edit->readers, name, strlen(name), uses));
  }
  TRY(ARENA_RESERVE(edit->arena, uses->list, uses->n, uses->capacity, uses->n + 1));
  uses->list[uses->n++] = use;
  uses->live++;
  return OK;
}

Uses *edit_uses(const Edit *edit, const char *name) {
  static Uses none;
  Uses *uses = map_find(edit->readers, name, strlen(name));
  return uses ? uses : &none;
}

Status edit_begin(Model *model, Arena *arena, Edit *edit) {
  const Onnx__GraphProto *graph = model->proto->graph;
  *edit = (Edit){.model = model, .arena = arena};
  TRY(names_create(arena, &edit->taken));
  TRY(names_create(arena, &edit->outputs));
  TRY(names_create(arena, &edit->numbers));
  TRY(take_names(&edit->taken, graph));
  for (size_t i = 0; i < graph->n_output; i++)
    TRY(names_put(&edit->outputs, proto_text(graph->output[i]->name), 0));
  TRY(map_create(arena, &edit->readers));
  for (size_t node = 0; node < model->n_file_nodes; node++)
    for (size_t k = 0; k < model->file_nodes[node]->n_input; k++)
      TRY(add_use(edit, model->file_nodes[node]->input[k], (Use){(int)node, (int)k}));
  edit->capacity = (size_t)model->n_initializers;
  return OK;
}

/* Room in the table for one more. */
static Status reserve(Edit *edit) {
  Model *model = edit->model;
  size_t n = (size_t)model->n_initializers, capacity = edit->capacity;
  TRY(ARENA_RESERVE(model->arena, model->initializers, n, capacity, n + 1));
  TRY(ARENA_RESERVE(model->arena, model->sources, n, edit->capacity, capacity));
  edit->capacity = capacity;
  return OK;
}

static Status add(Edit *edit, const char *name, bool is_free, int split_from, Initializer what, TensorSource source,
                  int *index) {
  Model *model = edit->model;
  TRY(reserve(edit));
  what.name = arena_string(model->arena, name);
  int number = names_find(&edit->numbers, name);
  while (!is_free && what.name && names_find(&edit->taken, what.name) >= 0) {
    number = number < 2 ? 2 : number + 1;
    what.name = arena_format(model->arena, "%s.%d", name, number);
  }
  if (number > 0)
    TRY(names_put(&edit->numbers, name, number));
  if (!what.name)
    return status_code();
  what.split_from = split_from;
  what.in_node = false; /* it is written among the graph's */
  *index = model->n_initializers++;
  model->initializers[*index] = what;
  model->sources[*index] = source;
  edit->changed = true;
  TRY(names_put(&edit->taken, what.name, 0));
  return names_put(&model->initializer_names, what.name, *index);
}

Status edit_split(Edit *edit, const char *name, int like, int *initializer) {
  return add(edit, name, false, like, edit->model->initializers[like], edit->model->sources[like], initializer);
}

Status edit_restore(Edit *edit, const char *name, Shape shape, int like, int *initializer) {
  Model *model = edit->model;
  Initializer what = model->initializers[like];
  Onnx__TensorProto *zeros;
  size_t bytes;
  TensorSource source;
  TRY(shape_bytes(shape, what.stored, &bytes));
  if (bytes > RESTORED_BYTES - edit->restored_bytes)
    return fail(E_LIMIT, "the zeros that the exporter dropped for '%s' %s take %zu bytes: those of a file may take %d",
                name, SHAPE_STR(shape), bytes, RESTORED_BYTES);
  edit->restored_bytes += bytes;
  TRY(ARENA_NEW(model->arena, zeros, 1));
  onnx__tensor_proto__init(zeros);
  zeros->name = arena_string(model->arena, name);
  zeros->data_type = model->sources[like].proto->data_type;
  zeros->has_raw_data = true;
  zeros->raw_data.len = bytes;
  zeros->raw_data.data = arena_alloc(model->arena, bytes, 1);
  zeros->n_dims = (size_t)shape.rank;
  TRY(ARENA_NEW(model->arena, zeros->dims, shape.rank));
  if (!zeros->name || !zeros->raw_data.data)
    return status_code();
  memcpy(zeros->dims, shape.dim, (size_t)shape.rank * sizeof *shape.dim);
  TRY(tensor_locate(model, zeros, model->arena, &source));
  what.shape = shape;
  what.restored = true;
  return add(edit, name, false, -1, what, source, initializer);
}

/* The skeleton belongs to protobuf-c, which frees it. */
static Status set_text(char **text, const char *name) {
  char *copy = strdup(name);
  if (!copy)
    return fail(E_MEMORY, "out of memory: %zu bytes", strlen(name) + 1);
  free(*text);
  *text = copy;
  return OK;
}

Status edit_redirect(Edit *edit, Uses *uses, int use, int initializer) {
  Model *model = edit->model;
  Use this = uses->list[use];
  const char *name = model->initializers[initializer].name;
  TRY(set_text(&model->file_nodes[this.node]->input[this.input], name));
  uses->list[use].node = -1;
  uses->live--;
  model->changes[this.node] = NODE_INPUTS;
  edit->changed = true;
  return add_use(edit, name, this);
}

Status edit_append(Edit *edit, Use use, int initializer) {
  Model *model = edit->model;
  Onnx__NodeProto *node = model->file_nodes[use.node];
  while (node->n_input <= (size_t)use.input) {
    char **grown = realloc(node->input, (node->n_input + 1) * sizeof *grown);
    if (!grown)
      return fail(E_MEMORY, "out of memory: %zu bytes", (node->n_input + 1) * sizeof *grown);
    node->input = grown;
    node->input[node->n_input] = NULL;
    TRY(set_text(&node->input[node->n_input], ""));
    node->n_input++;
  }
  TRY(set_text(&node->input[use.input], model->initializers[initializer].name));
  model->changes[use.node] = NODE_INPUTS;
  edit->changed = true;
  return add_use(edit, model->initializers[initializer].name, use);
}

Status edit_replace(Edit *edit, int node, int *initializer) {
  Model *model = edit->model;
  Onnx__NodeProto *identity = model->file_nodes[node];
  const char *name = arena_string(edit->arena, identity->output[0]);
  int like = model_find_initializer(model, identity->input[0]);
  if (!name)
    return status_code();
  TRY(set_text(&identity->output[0], "")); /* the name is the initializer's now */
  model->changes[node] = NODE_GONE;
  Uses *uses = edit_uses(edit, identity->input[0]);
  for (int i = 0; i < uses->n; i++)
    if (uses->list[i].node == node) {
      uses->list[i].node = -1;
      uses->live--;
    }
  return add(edit, name, true, like, model->initializers[like], model->sources[like], initializer);
}
