/* What the exporter merged. Invariant: a tensor is separated only where the file tells whose its uses are, or where all
 * its elements are equal, as they are when a layer is made; one that is really shared stays one. */
#include "onnx/file/separate.h"

#include <string.h>

enum { MOST_ARGUMENTS = 16, MOST_HOPS = 3 };

/* The last part of a dotted name. */
static const char *leaf(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot ? dot + 1 : name;
}

/* Whether all elements are equal; false where they are not there. */
static Status is_constant(const Model *model, int initializer, bool *constant) {
  const Initializer *what = &model->initializers[initializer];
  size_t width = dtype_bytes(what->stored);
  int64_t n = shape_elements(what->shape);
  TensorView view;
  *constant = false;
  if (n < 1)
    return OK;
  Status status = tensor_map(model, &model->sources[initializer], &view);
  if (status != OK)
    return status == E_MEMORY ? status : OK;
  *constant = view.data;
  for (int64_t i = 1; i < n && *constant; i++)
    *constant = memcmp(view.data, (const char *)view.data + (size_t)i * width, width) == 0;
  tensor_unmap(&view);
  return OK;
}

static bool is_vector(Shape shape) {
  int long_axes = 0;
  for (int i = 0; i < shape.rank; i++)
    long_axes += shape.dim[i] != 1;
  return shape.rank > 0 && long_axes <= 1;
}

static int kinds_of_use(const Separation *s, Use use) {
  return reached_by_use(s->edit.model, s->reach, s->edit.model->file_nodes[use.node], (size_t)use.input) &
         (REACHES_TABLE | REACHES_PRODUCT);
}

/* Statistics have a turn of their own. */
static bool is_statistic(const Separation *s, Use use) {
  const Onnx__NodeProto *node = use.node < 0 ? NULL : s->edit.model->file_nodes[use.node];
  return node && use.input >= 3 && strcmp(node->op_type, "BatchNormalization") == 0;
}

/* is_constant, asked once: uses may be many. */
static Status is_known_constant(const Separation *s, int initializer, bool *constant) {
  uint8_t *known = &s->constants[initializer];
  if (!*known) {
    TRY(is_constant(s->edit.model, initializer, constant));
    *known = *constant ? 2 : 1;
  }
  *constant = *known == 2;
  return OK;
}

/* Matrices that are a table here and a head there are one parameter, though it has two names. */
static Status stay_tied(const Separation *s, int initializer, int kinds, int other_kinds, bool *tied) {
  bool constant;
  *tied = kinds && other_kinds && kinds != other_kinds && s->edit.model->initializers[initializer].shape.rank >= 2;
  if (!*tied)
    return OK;
  TRY(is_known_constant(s, initializer, &constant));
  *tied = !constant;
  return OK;
}

/* ---- the dynamo exporter: the program lists every parameter, a node's call or module says which are its own ---- */

/* PARAMETERs of the module that a node is from: where its call is not recorded. */
static Status of_module(const Separation *s, const Onnx__NodeProto *node, int *parameters, int most, int *n) {
  const char *module;
  TRY(exported_module(s->exported, node, &module));
  for (int p = module ? names_find(&s->modules, module) : -1; p >= 0 && *n < most; p = s->before[p])
    parameters[(*n)++] = p;
  return OK;
}

static Status list_modules(Separation *s) {
  TRY(names_create(s->edit.arena, &s->modules));
  TRY(ARENA_NEW(s->edit.arena, s->before, s->exported->n));
  for (int p = 0; p < s->exported->n; p++) {
    const char *name = s->exported->names[p], *dot = strrchr(name, '.');
    char *module = arena_format(s->edit.arena, "%.*s", dot ? (int)(dot - name) : 0, name);
    if (!module)
      return status_code();
    s->before[p] = names_find(&s->modules, module);
    TRY(names_put(&s->modules, module, p));
  }
  return OK;
}

Status separate_candidates(const Separation *s, const Onnx__NodeProto *node, int *parameters, int most, int *n) {
  *n = exported_arguments(s->exported, node, parameters, most);
  return *n || exported_is_call(node) ? OK : of_module(s, node, parameters, most, n);
}

static bool has_tensor(const Separation *s, int p) {
  return (s->holder[p] >= 0 && s->holder[p] < s->edit.model->n_file_initializers) || s->folded[p];
}

/* Of what a node's call reads, the one that has no tensor of its own and fits what `own` was: its name ends so, or it
 * is alone, or both are what is added. */
static int choose(const Separation *s, const int *candidates, int n, int own, bool is_added) {
  int found = -1, count = 0;
  for (int i = 0; i < n; i++) {
    int p = candidates[i];
    if (has_tensor(s, p) || p == found)
      continue;
    if (strcmp(leaf(s->exported->names[p]), leaf(s->exported->names[own])) == 0)
      return p;
    bool is_bias = strstr(leaf(s->exported->names[p]), "bias");
    if (!count++ || is_bias == is_added)
      found = p;
  }
  return found;
}

/* The tensor that is PARAMETER p in what was `like`. A folded one keeps a made-up name: it may lie otherwise than the
 * parameter does. */
static Status own_tensor(Separation *s, int p, int like, bool folded, int *tensor) {
  Model *model = s->edit.model;
  const char *name = s->exported->names[p];
  *tensor = s->holder[p];
  if (*tensor >= 0)
    return OK;
  if (folded && !(name = arena_format(s->edit.arena, "%s.%s", model->initializers[like].name, name)))
    return status_code();
  TRY(edit_split(&s->edit, name, like, tensor));
  s->holder[p] = *tensor;
  return OK;
}

static bool is_product(const Onnx__NodeProto *node) {
  return strcmp(node->op_type, "MatMul") == 0 || strcmp(node->op_type, "Gemm") == 0 ||
         strcmp(node->op_type, "Conv") == 0 || strcmp(node->op_type, "ConvTranspose") == 0;
}

/* Whether a node still is the product of its call: a normalisation that was folded into it is none. */
static bool is_own_product(const Onnx__NodeProto *node) {
  return !is_product(node) || !exported_is_call(node) ||
         exported_calls(node,
                        "linear addmm mm bmm baddbmm matmul einsum conv1d conv2d conv3d convolution conv_transpose1d "
                        "conv_transpose2d conv_transpose3d");
}

static bool contains(const int *list, int n, int p) {
  for (int i = 0; i < n; i++)
    if (list[i] == p)
      return true;
  return false;
}

/* Whether a node's call reads no PARAMETER, nor what could come from one beside what the node computes with: what else
 * it reads is a constant. */
static Status reads_constants(const Separation *s, const Onnx__NodeProto *node, bool *constants) {
  int candidates[MOST_ARGUMENTS], n, computed = 0;
  TRY(separate_candidates(s, node, candidates, MOST_ARGUMENTS, &n));
  for (size_t i = 0; i < node->n_input; i++)
    computed += *node->input[i] && model_find_initializer(s->edit.model, node->input[i]) < 0;
  *constants = !n && exported_is_call(node) && is_own_product(node) && exported_computed(s->exported, node) <= computed;
  return OK;
}

/* A constant that the exporter merged with a PARAMETER of the same contents gets a tensor that does not train. */
static Status separate_constant(Separation *s, int initializer, Uses *uses, int u) {
  Model *model = s->edit.model;
  int *tensor = &s->constant_twins[initializer];
  if (!*tensor) {
    char *name = arena_format(s->edit.arena, "%s.constant", model->initializers[initializer].name);
    if (!name)
      return status_code();
    TRY(edit_split(&s->edit, name, initializer, tensor));
    model->initializers[*tensor].constant = true;
  }
  return edit_redirect(&s->edit, uses, u, *tensor);
}

/* Whether all that a node's call reads has tensors of its own elsewhere: equal elements are the exporter's then, as the
 * ones and zeros of the InstanceNormalization in a GroupNorm. */
static Status reads_made_up(const Separation *s, int initializer, const Onnx__NodeProto *node, bool *made_up) {
  int candidates[MOST_ARGUMENTS], n;
  TRY(separate_candidates(s, node, candidates, MOST_ARGUMENTS, &n));
  *made_up = n && n < MOST_ARGUMENTS && exported_is_call(node);
  for (int i = 0; i < n; i++)
    *made_up &= has_tensor(s, candidates[i]) && s->holder[candidates[i]] != initializer;
  return *made_up ? is_known_constant(s, initializer, made_up) : OK;
}

/* One use of a tensor that is, or was folded from, PARAMETER `own`. */
static Status separate_use(Separation *s, int initializer, int own, bool folded, Uses *uses, int u, int own_kinds) {
  const Onnx__NodeProto *node = s->edit.model->file_nodes[uses->list[u].node];
  int candidates[MOST_ARGUMENTS], n, tensor;
  bool constants;
  if (is_statistic(s, uses->list[u]))
    return OK;
  TRY(separate_candidates(s, node, candidates, MOST_ARGUMENTS, &n));
  TRY(reads_constants(s, node, &constants));
  if (n && !constants && !contains(candidates, n, own) && is_own_product(node))
    TRY(reads_made_up(s, initializer, node, &constants));
  if (constants)
    return separate_constant(s, initializer, uses, u);
  if (!n || contains(candidates, n, own) || !is_own_product(node))
    return OK;
  bool is_added = strcmp(node->op_type, "Add") == 0 || uses->list[u].input == 2;
  int p = choose(s, candidates, n, own, is_added);
  bool tied;
  if (p < 0)
    return OK;
  TRY(stay_tied(s, initializer, kinds_of_use(s, uses->list[u]), own_kinds, &tied));
  if (tied)
    return OK;
  TRY(own_tensor(s, p, initializer, folded, &tensor));
  if (!shape_equal(s->edit.model->initializers[tensor].shape, s->edit.model->initializers[initializer].shape))
    return OK;
  return edit_redirect(&s->edit, uses, u, tensor);
}

/* What slots a tensor fills where it is itself. */
static Status find_own_kinds(const Separation *s, int own, const Uses *uses, int *kinds) {
  *kinds = 0;
  for (int u = 0; u < uses->n; u++) {
    int candidates[MOST_ARGUMENTS], n;
    TRY(separate_candidates(s, s->edit.model->file_nodes[uses->list[u].node], candidates, MOST_ARGUMENTS, &n));
    if (contains(candidates, n, own))
      *kinds |= kinds_of_use(s, uses->list[u]);
  }
  return OK;
}

/* Whose an initializer is: its own name's or what it was folded from, where that is one. */
static Status find_own(const Separation *s, int initializer, int *own, bool *folded) {
  const char *name = s->edit.model->initializers[initializer].name;
  int count;
  TRY(exported_sources(s->exported, name, folded, &count, own));
  if (!*folded)
    *own = exported_parameter(s->exported, name);
  else if (count != 1)
    *own = -1;
  return OK;
}

/* A tensor of no name in the program that calls read as a constant alone, or made up, is one. */
static Status tell_constant(Separation *s, int initializer, const Uses *uses) {
  Initializer *what = &s->edit.model->initializers[initializer];
  bool constants = uses && uses->n > 0;
  if (!what->trains || exported_kind(s->exported, what->name))
    return OK;
  for (int u = 0; constants && u < uses->n; u++) {
    const Onnx__NodeProto *node = s->edit.model->file_nodes[uses->list[u].node];
    TRY(reads_constants(s, node, &constants));
    if (!constants && is_own_product(node))
      TRY(reads_made_up(s, (int)(what - s->edit.model->initializers), node, &constants));
  }
  what->constant = constants;
  s->edit.changed |= constants;
  return OK;
}

static Status separate_told(Separation *s) {
  Model *model = s->edit.model;
  for (int i = 0; i < model->n_file_initializers; i++) {
    Uses *uses = edit_uses(&s->edit, model->initializers[i].name);
    int own, kinds;
    bool folded;
    TRY(find_own(s, i, &own, &folded));
    if (own < 0 && !folded)
      TRY(tell_constant(s, i, uses));
    if (own < 0 || !dtype_is_float(model->initializers[i].dtype))
      continue;
    TRY(find_own_kinds(s, own, uses, &kinds));
    for (int u = 0; u < uses->n; u++)
      TRY(separate_use(s, i, own, folded, uses, u, kinds));
  }
  return OK;
}

/* ---- the older exporter: what it merged are outputs of Identity, under the names that they had ---- */

static bool share_module(const Separation *s, const Uses *a, const Uses *b, bool *shared) {
  *shared = false;
  for (int i = 0; i < a->n && i < MOST_ARGUMENTS; i++)
    for (int j = 0; j < b->n && j < MOST_ARGUMENTS; j++) {
      const char *one = NULL, *other = NULL;
      if (a->list[i].node < 0 || b->list[j].node < 0)
        continue;
      if (exported_module(s->exported, s->edit.model->file_nodes[a->list[i].node], &one) != OK ||
          exported_module(s->exported, s->edit.model->file_nodes[b->list[j].node], &other) != OK)
        return false;
      *shared |= one && other && strcmp(one, other) == 0;
    }
  return true;
}

/* What folding made for each call of one module is one parameter; so are a table and a head. */
static Status is_shared(const Separation *s, int initializer, const Uses *uses, const Uses *merged, const char *name,
                        bool *shared) {
  const Model *model = s->edit.model;
  int kinds = 0, merged_kinds = 0;
  *shared = false;
  for (int u = 0; !s->kinds[initializer] && u < uses->n; u++) /* once: its uses may be many */
    if (uses->list[u].node >= 0)
      kinds |= kinds_of_use(s, uses->list[u]);
  kinds = s->kinds[initializer] ? s->kinds[initializer] - 1 : kinds;
  s->kinds[initializer] = 1 + kinds;
  for (int u = 0; u < merged->n; u++)
    merged_kinds |= kinds_of_use(s, merged->list[u]);
  if (!name_is_given(model, name) && !name_is_given(model, model->initializers[initializer].name) &&
      !share_module(s, uses, merged, shared))
    return status_code();
  return *shared ? OK : stay_tied(s, initializer, kinds, merged_kinds, shared);
}

static Status separate_named(Separation *s) {
  Model *model = s->edit.model;
  for (size_t n = 0; n < model->n_file_nodes && !model->is_dynamo; n++) {
    const Onnx__NodeProto *node = model->file_nodes[n];
    if (strcmp(node->op_type, "Identity") != 0 || node->n_input != 1 || node->n_output != 1)
      continue;
    const char *name = node->output[0];
    int from = model_find_initializer(model, node->input[0]), tensor;
    bool is_name = name_is_given(model, name) || strncmp(name, "onnx::", 6) == 0, shared;
    if (from < 0 || !is_name || edit_uses(&s->edit, node->input[0])->live < 2 ||
        !dtype_is_float(model->initializers[from].dtype) || names_find(&s->edit.outputs, name) >= 0)
      continue;
    TRY(is_shared(s, from, edit_uses(&s->edit, node->input[0]), edit_uses(&s->edit, name), name, &shared));
    if (!shared)
      TRY(edit_replace(&s->edit, (int)n, &tensor));
  }
  return OK;
}

/* ---- no one tells: vectors as layers are born with, a use at a time ---- */

static const Onnx__NodeProto *maker(const Separation *s, const char *name) {
  int n = names_find(&s->makers, name);
  return n < 0 ? NULL : s->edit.model->file_nodes[n];
}

/* The matrix that an input is, perhaps turned, or that made it as a product; -1: none. */
static int matrix_of(const Separation *s, const char *name, int hops) {
  const Model *model = s->edit.model;
  int i = model_find_initializer(model, name);
  if (i >= 0)
    return dtype_is_float(model->initializers[i].dtype) && model->initializers[i].shape.rank >= 2 ? i : -1;
  const Onnx__NodeProto *node = maker(s, name);
  bool moves = node && (strcmp(node->op_type, "Transpose") == 0 || strcmp(node->op_type, "Reshape") == 0);
  if (!node || !hops || !(moves || is_product(node)))
    return -1;
  for (size_t k = node->n_input; k-- > 0;) {
    int found = matrix_of(s, node->input[k], hops - 1);
    if (found >= 0)
      return found;
  }
  return -1;
}

/* The weight of the layer whose vector a use reads: of the product itself, or of what the vector is added to. */
static int matrix_beside(const Separation *s, Use use) {
  const Onnx__NodeProto *node = s->edit.model->file_nodes[use.node];
  bool is_sum = strcmp(node->op_type, "Add") == 0;
  for (size_t k = 0; k < node->n_input && (is_sum || is_product(node)); k++) {
    int found = k == (size_t)use.input || (!is_sum && k == 0) ? -1 : matrix_of(s, node->input[k], MOST_HOPS);
    if (found >= 0)
      return found;
  }
  return -1;
}

/* "/layer.1/norm/norm.0" of nodes' names becomes "layer.1.norm.0". */
static const char *dotted(Arena *arena, const char *module) {
  char *text = arena_string(arena, module), *to = text, *last = text;
  for (const char *at = module; text && *at;) {
    size_t n = strcspn(at += *at == '/', "/"), before = (size_t)(to - last);
    if (before && n > before && at[before] == '.' && strncmp(at, last, before) == 0) {
      to = last; /* the part says its parent again */
    } else if (to > text) {
      *to++ = '.';
    }
    last = to;
    memcpy(to, at, n);
    to += n;
    at += n;
  }
  if (text)
    *to = '\0';
  return text;
}

/* The tensor for one use: that of an earlier use of the same layer, else a new one, but for the first. */
static Status use_tensor(Separation *s, int initializer, Use use, NameMap *layers, int *tensor) {
  Model *model = s->edit.model;
  const char *module, *name = model->initializers[initializer].name;
  TRY(exported_module(s->exported, model->file_nodes[use.node], &module));
  if (module && !*module) /* the model itself is no layer */
    module = NULL;
  int beside = matrix_beside(s, use);
  const char *matrix =
      arena_format(s->edit.arena, "%s %d", beside >= 0 ? "matrix" : "use", beside >= 0 ? beside : use.node);
  if (!matrix)
    return status_code();
  *tensor = names_find(layers, matrix);
  if (*tensor < 0 && module)
    *tensor = names_find(layers, module);
  if (*tensor < 0 && names_find(layers, "") < 0) {
    *tensor = initializer;
    TRY(names_put(layers, "", 0));
  }
  if (*tensor < 0 && module) {
    const char *path = dotted(s->edit.arena, module);
    name = path ? arena_format(s->edit.arena, "%s.%s", path, leaf(name)) : NULL;
    if (!name)
      return status_code();
  }
  if (*tensor < 0)
    TRY(edit_split(&s->edit, name, initializer, tensor));
  TRY(names_put(layers, matrix, *tensor));
  return module ? names_put(layers, module, *tensor) : OK;
}

static Status separate_by_use(Separation *s, int initializer, Uses *uses) {
  NameMap layers;
  int n = uses->n;
  TRY(names_create(s->edit.arena, &layers));
  for (int u = 0; u < n; u++) {
    int tensor = initializer;
    if (uses->list[u].node >= 0 && !is_statistic(s, uses->list[u]))
      TRY(use_tensor(s, initializer, uses->list[u], &layers, &tensor));
    if (tensor != initializer)
      TRY(edit_redirect(&s->edit, uses, u, tensor));
  }
  return OK;
}

static Status separate_vectors(Separation *s) {
  Model *model = s->edit.model;
  for (int i = 0; i < model->n_file_initializers; i++) {
    const Initializer *what = &model->initializers[i];
    Uses *uses = edit_uses(&s->edit, what->name);
    int bits = reached(s->reach, what->name);
    bool merged = what->trains || (bits & REACHES_STATISTICS && bits & REACHES_SLOT), constant;
    if (!merged || uses->live < 2 || !is_vector(what->shape))
      continue;
    TRY(is_constant(model, i, &constant));
    if (constant)
      TRY(separate_by_use(s, i, uses));
  }
  return OK;
}

/* ---- running statistics: each normalisation has its own, unless it is called twice ---- */

/* Beside the scale "layer.weight" it is "layer.running_mean". */
static const char *statistic_name(Separation *s, int initializer, Use use) {
  const char *scale = s->edit.model->file_nodes[use.node]->input[1], *dot = strrchr(scale, '.');
  if (!dot || model_find_initializer(s->edit.model, scale) < 0)
    return s->edit.model->initializers[initializer].name;
  return arena_format(s->edit.arena, "%.*s.running_%s", (int)(dot - scale), scale, use.input == 3 ? "mean" : "var");
}

static Status separate_statistic(Separation *s, int initializer, Uses *uses) {
  NameMap layers; /* of scale and input: the tensor */
  int n = uses->n;
  bool taken = false;
  TRY(names_create(s->edit.arena, &layers));
  for (int u = 0; u < n; u++)
    taken |= uses->list[u].node >= 0 && !is_statistic(s, uses->list[u]);
  for (int u = 0; u < n; u++) {
    Use use = uses->list[u];
    if (!is_statistic(s, use))
      continue;
    const char *layer = arena_format(s->edit.arena, "%d %s", use.input, s->edit.model->file_nodes[use.node]->input[1]);
    const char *name = layer ? statistic_name(s, initializer, use) : NULL;
    if (!name)
      return status_code();
    int tensor = names_find(&layers, layer);
    if (tensor < 0 && !taken)
      tensor = initializer;
    if (tensor < 0)
      TRY(edit_split(&s->edit, name, initializer, &tensor));
    taken = true;
    TRY(names_put(&layers, layer, tensor));
    if (tensor != initializer)
      TRY(edit_redirect(&s->edit, uses, u, tensor));
  }
  return OK;
}

static Status separate_statistics(Separation *s) {
  Model *model = s->edit.model;
  for (int i = 0; i < model->n_file_initializers; i++) {
    Uses *uses = edit_uses(&s->edit, model->initializers[i].name);
    if (dtype_is_float(model->initializers[i].dtype) && uses && uses->live > 1)
      TRY(separate_statistic(s, i, uses));
  }
  return OK;
}

/* Whether the file has the older exporter's names: then what has several uses under one name is shared. */
static bool tells_names(const Separation *s) {
  const Model *model = s->edit.model;
  for (size_t n = 0; n < model->n_file_nodes; n++)
    if (model->changes[n] == NODE_GONE)
      return true;
  return false;
}

static Status begin(Separation *s, Model *model, Arena *arena, const Exported *exported, const Reach *reach) {
  *s = (Separation){.exported = exported, .reach = reach};
  TRY(edit_begin(model, arena, &s->edit));
  TRY(ARENA_NEW(arena, s->holder, exported->n));
  TRY(ARENA_NEW(arena, s->folded, exported->n));
  TRY(ARENA_NEW(arena, s->restored, exported->n));
  TRY(ARENA_NEW(arena, s->constants, model->n_file_initializers));
  TRY(ARENA_NEW(arena, s->kinds, model->n_file_initializers));
  TRY(ARENA_NEW(arena, s->constant_twins, model->n_file_initializers));
  TRY(list_modules(s));
  TRY(names_create(arena, &s->makers));
  TRY(names_create(arena, &s->called));
  for (size_t n = 0; n < model->n_file_nodes; n++)
    for (size_t k = 0; k < model->file_nodes[n]->n_output; k++)
      TRY(names_put(&s->makers, model->file_nodes[n]->output[k], (int)n));
  for (int p = 0; p < exported->n; p++)
    s->holder[p] = model_find_initializer(model, exported->names[p]);
  for (int i = 0; i < model->n_initializers; i++)
    TRY(exported_mark_sources(exported, model->initializers[i].name, s->folded));
  return OK;
}

Status separate(Model *model, Arena *arena, const Exported *exported, const Reach *reach, bool *changed) {
  Separation s;
  TRY(begin(&s, model, arena, exported, reach));
  if (exported->n) {
    TRY(separate_told(&s));
    TRY(restore_dropped(&s));
    TRY(list_absent(&s));
  } else {
    TRY(separate_named(&s));
    if (!tells_names(&s))
      TRY(separate_vectors(&s));
  }
  TRY(separate_statistics(&s));
  *changed = s.edit.changed;
  return OK;
}
