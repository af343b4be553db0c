/* What exporters merged and dropped comes apart again, what is really shared does not, and the saved file says the
 * same. */
#include "onnx/file/exported.h"
#include "tests/onnx/build.h"

static const char *const KIND = "pkg.torch.export.graph_signature.InputSpec.kind";
static const char *const FOLDED = "pkg.onnxscript.optimizer.folded_from";
static const char *const SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature";

static Status give_eights(void *context, int i, void *data, size_t bytes) {
  (void)context;
  for (size_t k = 0; k < bytes / sizeof(float); k++)
    ((float *)data)[k] = 8 + (float)i + (float)k / 64;
  return OK;
}

static int find(const Model *model, const char *name) {
  int i = model_find_initializer(model, name);
  if (i < 0)
    FAIL_TEST("no initializer '%s'", name);
  return i;
}

/* Opens the file, its saved copy and that one's: `trained` names are all that trains in each, in any order. */
static Model *opened(Bytes bytes, const char *trained) {
  const char *folder = make_folder();
  char path[3][512];
  Model *model[3];
  for (int k = 0; k < 3; k++) {
    snprintf(path[k], sizeof path[k], "%s/%d.onnx", folder, k);
    if (k == 0)
      save_bytes(path[0], bytes);
    ASSERT_OK(model_open(path[k], NULL, &model[k]));
    int n = 0;
    for (int i = 0; i < model[k]->n_initializers; i++)
      n += model[k]->initializers[i].trains;
    char names[1024];
    snprintf(names, sizeof names, "%s", trained);
    for (char *rest = NULL, *name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest), n--)
      if (!model[k]->initializers[find(model[k], name)].trains)
        FAIL_TEST("copy %d: '%s' does not train", k, name);
    if (n)
      FAIL_TEST("copy %d: %d others train", k, n);
    assert_int_equal(k && model[k]->n_initializers != model[k]->n_file_initializers, 0); /* nothing to do again */
    if (k < 2) {
      snprintf(path[k + 1], sizeof path[k + 1], "%s/%d.onnx", folder, k + 1);
      ASSERT_OK(model_save(model[k], path[k + 1], NULL, give_eights, NULL));
    }
  }
  for (int i = 0; i < model[1]->n_initializers; i++) { /* by name: the order is the saved file's */
    float value[64];
    int64_t elements = shape_elements(model[1]->initializers[i].shape);
    if (elements > 64 || model[1]->initializers[i].dtype != F32)
      continue;
    ASSERT_OK(model_read_initializer(model[1], i, value, (size_t)elements * sizeof(float)));
    if (model[1]->initializers[i].trains)
      assert_true(value[0] == 8 + (float)find(model[0], model[1]->initializers[i].name));
  }
  model_close(model[1]);
  model_close(model[2]);
  remove_folder(folder);
  return model[0];
}

static void is_split(const Model *model, const char *name, const char *from) {
  int i = model->initializers[find(model, name)].split_from;
  const char *found = i < 0 ? "nothing" : model->initializers[i].name;
  if (strcmp(found, from) != 0)
    FAIL_TEST("'%s' is split from %s", name, found);
}

static void reads(const Model *model, int node, int input, const char *name) {
  assert_true((size_t)input < model->file_nodes[node]->n_input);
  assert_string_equal(model->file_nodes[node]->input[input], name);
}

static Bytes begin_graph(void) {
  Bytes graph = {0};
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 4}));
  put_message(&graph, 12, value_info("y", 2, (int64_t[]){-1, 4}));
  return graph;
}

/* The older exporter keeps names as outputs of Identity. */
static void identities_are_tensors(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("a.weight", 4, 0, 1, 0));
  put_message(&graph, 5, weight("a.bias", 4, 0, 0, 0));
  put_message(&graph, 5, weight("onnx::MatMul_1", 4, 4, 1, 1));
  put_message(&graph, 5, weight("table.weight", 4, 4, 5, 1));
  put_message(&graph, 1, node("Identity_0", "Identity", "a.bias", "b.bias"));
  put_message(&graph, 1, node("Identity_1", "Identity", "a.weight", "b.weight"));
  put_message(&graph, 1, node("Identity_2", "Identity", "onnx::MatMul_1", "onnx::MatMul_2")); /* another layer's */
  put_message(&graph, 1, node("Identity_3", "Identity", "onnx::MatMul_1", "onnx::MatMul_3")); /* the second call's */
  put_message(&graph, 1, node("Identity_4", "Identity", "table.weight", "head.weight"));      /* tied */
  put_message(&graph, 1, node("Identity_5", "Identity", "a.weight", "b.running_var"));        /* ones by chance */
  put_message(&graph, 1, node("Identity_6", "Identity", "a.bias", "b.running_mean"));
  put_message(&graph, 1, node("/e/Gather", "Gather", "table.weight,x", "t"));
  put_message(&graph, 1, node("/a/LayerNormalization", "LayerNormalization", "t,a.weight,a.bias", "p"));
  put_message(&graph, 1, node("/l.0/MatMul", "MatMul", "p,onnx::MatMul_1", "q"));
  put_message(&graph, 1, node("/l.1/MatMul", "MatMul", "q,onnx::MatMul_2", "r"));
  put_message(&graph, 1, node("/l.0_1/MatMul", "MatMul", "r,onnx::MatMul_3", "s"));
  put_message(
      &graph, 1,
      node("/b/BatchNormalization", "BatchNormalization", "s,b.weight,b.bias,b.running_mean,b.running_var", "u"));
  put_message(&graph, 1, node("/head/MatMul", "MatMul", "u,head.weight", "y"));
  Model *model =
      opened(model_of(8, 17, graph), "a.weight,a.bias,b.weight,b.bias,onnx::MatMul_1,onnx::MatMul_2,table.weight");
  is_split(model, "b.weight", "a.weight");
  is_split(model, "b.bias", "a.bias");
  is_split(model, "onnx::MatMul_2", "onnx::MatMul_1");
  is_split(model, "b.running_var", "a.weight");
  assert_int_equal(model_find_initializer(model, "onnx::MatMul_3"), -1);
  assert_int_equal(model_find_initializer(model, "head.weight"), -1);
  assert_int_equal(model->changes[0], NODE_GONE);
  assert_int_equal(model->changes[4], NODE_KEPT);
  model_close(model);
}

/* A node with a call of the exported program. */
static Bytes called(const char *op, const char *inputs, const char *output, const char *target, const char *arguments) {
  char text[256];
  Bytes n = node("", op, inputs, output);
  snprintf(text, sizeof text,
           "%%%s : [num_users=1] = call_function[target=torch.ops.aten.%s.default](args = (%s), kwargs = {})", output,
           target, arguments);
  put_message(&n, 9, property("pkg.torch.onnx.fx_node", text));
  return n;
}

static void put_kind(Bytes *graph, const char *name, const char *key, const char *value) {
  Bytes info = value_info(name, 1, (int64_t[]){4});
  put_message(&info, 4, property(key, value));
  put_message(graph, 13, info);
}

static const char program[] =
    "\n# inputs\np_n_weight: PARAMETER target='n.weight'\np_n_bias: PARAMETER target='n.bias'\n"
    "p_m_weight: PARAMETER target='m.weight'\np_m_bias: PARAMETER target='m.bias'\n"
    "p_l_weight: PARAMETER target='l.weight'\np_l_bias: PARAMETER target='l.bias'\n"
    "p_k_weight: PARAMETER target='k.weight'\np_k_bias: PARAMETER target='k.bias'\n"
    "p_gate: PARAMETER target='gate'\nx: USER_INPUT\n";

/* The dynamo exporter lists parameters, and calls with their arguments. */
static void calls_tell_parameters(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("n.weight", 4, 0, 1, 0));
  put_message(&graph, 5, weight("n.bias", 4, 0, 0, 0));
  put_message(&graph, 5, weight("l.weight", 4, 4, 1, 1));
  put_message(&graph, 5, weight("val_1", 4, 4, 3, 1)); /* k.weight, turned */
  put_message(
      &graph, 1,
      called("LayerNormalization", "x,n.weight,n.bias", "p", "layer_norm", "%x, [4], %p_n_weight, %p_n_bias, 1e-05"));
  put_message(&graph, 1,
              called("Gemm", "p,l.weight", "q", "addmm", "%p_l_bias, %p, %p_l_weight")); /* twice: one layer */
  put_message(&graph, 1, called("Gemm", "q,l.weight", "r", "linear", "%q, %p_l_weight, %p_l_bias"));
  put_message(
      &graph, 1,
      called("LayerNormalization", "r,n.weight,n.bias", "s", "layer_norm", "%r, [4], %p_m_weight, %p_m_bias, 1e-05"));
  put_message(
      &graph, 1,
      called("LayerNormalization", "s,n.weight,n.bias", "t", "layer_norm", "%s, [4], %p_m_weight, %p_m_bias, 1e-05"));
  put_message(&graph, 1, called("MatMul", "t,val_1", "u", "linear", "%t, %p_k_weight, %p_k_bias"));
  put_message(&graph, 1, called("Add", "u,n.bias", "v", "linear", "%t, %p_k_weight, %p_k_bias"));
  put_message(&graph, 1, called("Mul", "v,n.weight", "y", "mul", "%v, %p_gate"));
  put_kind(&graph, "n.weight", KIND, "PARAMETER");
  put_kind(&graph, "n.bias", KIND, "PARAMETER");
  put_kind(&graph, "l.weight", KIND, "PARAMETER");
  put_kind(&graph, "val_1", FOLDED, "['k.weight']");
  put_message(&graph, 16, property(SIGNATURE, program));
  Model *model = opened(model_of(10, 18, graph), "n.weight,n.bias,m.weight,m.bias,l.weight,l.bias,val_1,k.bias,gate");
  is_split(model, "m.weight", "n.weight");
  is_split(model, "m.bias", "n.bias");
  is_split(model, "k.bias", "n.bias");
  is_split(model, "gate", "n.weight");
  is_split(model, "l.bias", "nothing");
  assert_true(model->initializers[find(model, "l.bias")].restored);
  assert_string_equal(model->initializers[find(model, "l.bias")].rule, "6");
  reads(model, 0, 1, "n.weight");
  reads(model, 1, 2, "l.bias");
  reads(model, 2, 2, "l.bias");
  reads(model, 3, 1, "m.weight");
  reads(model, 4, 2, "m.bias");
  reads(model, 6, 1, "k.bias");
  reads(model, 7, 1, "gate");
  model_close(model);
}

/* Where calls are not recorded, modules are. */
static Bytes scoped(const char *op, const char *inputs, const char *output, const char *module) {
  char text[128];
  Bytes n = node("", op, inputs, output);
  snprintf(text, sizeof text, "['', '%s', '%s']", module, output);
  put_message(&n, 9, property("pkg.torch.onnx.name_scopes", text));
  return n;
}

/* What a call reads that is no PARAMETER nor could come from one does not train, whatever it was merged with. */
static void constants_are_no_parameters(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("n.weight", 4, 0, 1, 0));
  put_message(&graph, 5, weight("n.bias", 4, 0, 0, 0));
  put_message(&graph, 1,
              called("LayerNormalization", "x,n.weight,n.bias", "p", "layer_norm", "%x, [4], None, None, 1e-05"));
  put_message(
      &graph, 1,
      called("LayerNormalization", "p,n.weight,n.bias", "q", "layer_norm", "%p, [4], %p_n_weight, %p_n_bias, 1e-05"));
  put_message(&graph, 1, called("Mul", "q,n.weight", "r", "mul", "%q, %ones_1"));
  put_message(&graph, 1, called("Add", "r,n.bias", "s", "add", "%r, %b_shift"));
  put_message(&graph, 1, called("Mul", "s,n.weight", "y", "mul", "%s, %detach")); /* of a parameter, perhaps */
  put_kind(&graph, "n.weight", KIND, "PARAMETER");
  put_kind(&graph, "n.bias", KIND, "PARAMETER");
  put_message(&graph, 16,
              property(SIGNATURE, "p_n_weight: PARAMETER target='n.weight'\np_n_bias: PARAMETER target='n.bias'\n"
                                  "b_shift: BUFFER target='shift'\nx: USER_INPUT\n"));
  Model *model = opened(model_of(10, 18, graph), "n.weight,n.bias");
  reads(model, 0, 1, "n.weight.constant");
  reads(model, 0, 2, "n.bias.constant");
  reads(model, 1, 1, "n.weight");
  reads(model, 1, 2, "n.bias");
  reads(model, 2, 1, "n.weight.constant");
  reads(model, 3, 1, "n.bias.constant");
  reads(model, 4, 1, "n.weight");
  model_close(model);
}

/* Ones and zeros of a normalisation's statistics, and those that an exporter makes up inside a GroupNorm whose own
 * scale and shift it folded, are not the parameters that they equal. */
static void equals_are_not_always_parameters(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("n.weight", 4, 0, 1, 0));
  put_message(&graph, 5, weight("n.bias", 4, 0, 0, 0));
  put_message(&graph, 5, weight("val_1", 4, 1, 3, 1)); /* k.weight and k.bias, unsqueezed */
  put_message(&graph, 5, weight("val_2", 4, 1, 4, 1));
  put_message(
      &graph, 1,
      called("LayerNormalization", "x,n.weight,n.bias", "p", "layer_norm", "%x, [4], %p_n_weight, %p_n_bias, 1e-05"));
  put_message(&graph, 1,
              called("BatchNormalization", "p,n.weight,n.bias,n.bias,n.weight", "q", "batch_norm",
                     "%p, %p_m_weight, %p_m_bias, %b_m_mean, %b_m_var, 0.1, 1e-05"));
  put_message(&graph, 1,
              called("InstanceNormalization", "q,n.weight,n.bias", "r", "group_norm", "%q, 4, %p_k_weight, %p_k_bias"));
  put_message(&graph, 1, called("Mul", "r,val_1", "s", "group_norm", "%q, 4, %p_k_weight, %p_k_bias"));
  put_message(&graph, 1, called("Add", "s,val_2", "y", "group_norm", "%q, 4, %p_k_weight, %p_k_bias"));
  put_kind(&graph, "n.weight", KIND, "PARAMETER");
  put_kind(&graph, "n.bias", KIND, "PARAMETER");
  put_kind(&graph, "val_1", FOLDED, "['k.weight']");
  put_kind(&graph, "val_2", FOLDED, "['k.bias']");
  put_message(
      &graph, 16,
      property(SIGNATURE,
               "p_n_weight: PARAMETER target='n.weight'\np_n_bias: PARAMETER target='n.bias'\n"
               "p_m_weight: PARAMETER target='m.weight'\np_m_bias: PARAMETER target='m.bias'\n"
               "p_k_weight: PARAMETER target='k.weight'\np_k_bias: PARAMETER target='k.bias'\n"
               "b_m_mean: BUFFER target='m.running_mean'\nb_m_var: BUFFER target='m.running_var'\nx: USER_INPUT\n"));
  Model *model = opened(model_of(10, 18, graph), "n.weight,n.bias,m.weight,m.bias,val_1,val_2");
  reads(model, 1, 1, "m.weight");
  reads(model, 1, 2, "m.bias");
  reads(model, 1, 3, "m.running_mean");
  reads(model, 1, 4, "m.running_var");
  reads(model, 2, 1, "n.weight.constant");
  reads(model, 2, 2, "n.bias.constant");
  model_close(model);
}

static void modules_tell_parameters(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("n.weight", 4, 0, 1, 0));
  put_message(&graph, 5, weight("n.bias", 4, 0, 0, 0));
  put_message(&graph, 5, weight("l.weight", 4, 4, 1, 1));
  put_message(&graph, 1, scoped("LayerNormalization", "x,n.weight,n.bias", "p", "n"));
  put_message(&graph, 1, scoped("Gemm", "p,l.weight", "q", "l"));
  put_message(&graph, 1, scoped("LayerNormalization", "q,n.weight,n.bias", "r", "m"));
  put_message(&graph, 1, scoped("LayerNormalization", "r,n.weight,n.bias", "y", "m@1"));
  put_message(&graph, 16, property(SIGNATURE, program));
  Model *model = opened(model_of(10, 18, graph), "n.weight,n.bias,m.weight,m.bias,l.weight,l.bias");
  is_split(model, "m.weight", "n.weight");
  is_split(model, "m.bias", "n.bias");
  reads(model, 1, 2, "l.bias");
  reads(model, 3, 1, "m.weight");
  model_close(model);
}

/* A normalisation that was folded into a product is not its weight; a table that is the head is one. */
static void what_calls_do_not_tell(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("l.weight", 4, 4, 1, 1));
  put_message(&graph, 5, weight("k.weight", 4, 4, 2, 1));
  put_message(&graph, 1, called("Gather", "k.weight,x", "p", "embedding", "%p_m_weight, %x"));
  put_message(&graph, 1,
              called("Gemm", "p,l.weight", "q", "_native_batch_norm_legit_no_training", "%l, %p_n_weight, %p_n_bias"));
  put_message(&graph, 1, called("MatMul", "q,k.weight", "y", "linear", "%q, %p_k_weight"));
  put_message(&graph, 16, property(SIGNATURE, program));
  model_close(opened(model_of(10, 18, graph), "l.weight,k.weight"));
}

/* Nobody tells: a vector of equal elements is each use's own, but for uses of one layer. */
static void vectors_come_apart_by_use(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("zero.bias", 4, 0, 0, 0));
  put_message(&graph, 5, weight("same.bias", 4, 0, 1, 1)); /* trained: shared for a reason */
  put_message(&graph, 5, weight("l.weight", 4, 4, 1, 1));
  put_message(&graph, 5, weight("k.weight", 4, 4, 2, 1));
  put_message(&graph, 1, node("", "Gemm", "x,l.weight,zero.bias", "p"));
  put_message(&graph, 1, node("", "Gemm", "p,l.weight,zero.bias", "q")); /* the same layer */
  put_message(&graph, 1, node("", "MatMul", "q,k.weight", "r"));
  put_message(&graph, 1, node("", "Add", "r,zero.bias", "s"));
  put_message(&graph, 1, node("", "Add", "s,same.bias", "t"));
  put_message(&graph, 1, node("/n.1/LayerNormalization", "LayerNormalization", "t,same.bias,zero.bias", "u"));
  put_message(&graph, 1, node("/n.1_1/LayerNormalization", "LayerNormalization", "u,same.bias,zero.bias", "y"));
  Model *model = opened(model_of(3, 17, graph), "zero.bias,zero.bias.2,n.1.bias,same.bias,l.weight,k.weight");
  reads(model, 0, 2, "zero.bias");
  reads(model, 1, 2, "zero.bias");
  reads(model, 3, 1, "zero.bias.2");
  reads(model, 5, 2, "n.1.bias");
  reads(model, 6, 2, "n.1.bias");
  model_close(model);
}

/* Nodes of the model itself, "/Add", are of no layer: one use's vector is not another's, nor any other tensor. */
static void the_model_is_no_layer(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("l.weight", 4, 4, 1, 1));
  put_message(&graph, 5, weight("k.weight", 4, 4, 2, 1));
  put_message(&graph, 5, weight("zero.bias", 4, 0, 0, 0));
  put_message(&graph, 1, node("/MatMul", "MatMul", "x,l.weight", "p"));
  put_message(&graph, 1, node("/Add", "Add", "p,zero.bias", "q"));
  put_message(&graph, 1, node("/MatMul_1", "MatMul", "q,k.weight", "r"));
  put_message(&graph, 1, node("/Add_1", "Add", "r,zero.bias", "y"));
  Model *model = opened(model_of(3, 17, graph), "l.weight,k.weight,zero.bias,zero.bias.2");
  reads(model, 1, 1, "zero.bias");
  reads(model, 3, 1, "zero.bias.2");
  is_split(model, "zero.bias.2", "zero.bias");
  model_close(model);
}

/* The third argument of a lookup's call is the row that gets no gradient. */
static void padding_rows_are_told(void **state) {
  (void)state;
  static const struct {
    const char *target, *arguments;
    int64_t row; /* -1: none */
  } cases[] = {{"embedding", "%p_n_weight, %x, 0", 0},    {"embedding", "%p_n_weight, %x, 37, False", 37},
               {"embedding", "%p_n_weight, %x", -1},      {"embedding", "%p_n_weight, %x, -1", -1},
               {"index_select", "%p_n_weight, 0, 3", -1}, {"embedding", "%p_n_weight, %x, rows", -1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Bytes graph = begin_graph();
    put_message(&graph, 5, weight("n.weight", 40, 4, 1, 1));
    put_message(&graph, 1, called("Gather", "n.weight,x", "y", cases[i].target, cases[i].arguments));
    const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
    Model *model;
    int64_t row = -1;
    save_bytes(path, model_of(10, 18, graph));
    ASSERT_OK(model_open(path, NULL, &model));
    assert_int_equal(exported_padding(model->file_nodes[0], &row), cases[i].row >= 0);
    assert_int_equal(cases[i].row < 0 ? -1 : row, cases[i].row);
    model_close(model);
    remove_folder(folder);
  }
}

/* One row of a table, looked up for every sample and position of a fixed batch, is one row. */
static void a_row_looked_up_everywhere_is_one(void **state) {
  (void)state;
  enum { COPIES = 6 };
  float rows[COPIES][4];
  for (int i = 0; i < COPIES * 4; i++)
    rows[i / 4][i % 4] = (float)(i % 4);
  Bytes graph = begin_graph(), t = tensor("embedding_1", 1, 3, (int64_t[]){2, 3, 4});
  put_bytes(&t, TENSOR_RAW_DATA, rows, sizeof rows);
  put_message(&graph, 5, t);
  put_message(&graph, 1, node("", "Add", "x,embedding_1", "y"));
  put_kind(&graph, "embedding_1", FOLDED, "['n.weight', 'expand']");
  put_message(&graph, 16, property(SIGNATURE, program));
  Model *model = opened(model_of(10, 18, graph), "embedding_1");
  const Initializer *row = &model->initializers[find(model, "embedding_1")];
  assert_int_equal(row->copies, COPIES);
  assert_true(shape_equal(row->shape, shape_of(3, (int64_t[]){1, 1, 4})));
  assert_true(shape_equal(row->file_shape, shape_of(3, (int64_t[]){2, 3, 4})));
  model_close(model);
}

/* Constant with the tensor. */
static Bytes constant(const char *output, Bytes t) {
  Bytes n = node("", "Constant", "", output), value = {0};
  put_text(&value, 1, "value");
  put_message(&value, 5, t);
  put_int(&value, 20, 4);
  put_message(&n, 5, value);
  return n;
}

static Bytes truth(const char *output, uint8_t is_true) {
  Bytes t = tensor("", 9, 0, NULL);
  put_bytes(&t, TENSOR_RAW_DATA, &is_true, 1);
  return constant(output, t);
}

/* A file without a weight among its initializers has them in Constant nodes. */
static void constants_are_weights_where_no_initializer_is(void **state) {
  (void)state;
  for (int with = 0; with < 2; with++) {
    Bytes graph = begin_graph();
    if (with)
      put_message(&graph, 5, weight("k.weight", 4, 4, 1, 1));
    put_message(&graph, 1, constant("w.big", weight("", 20, 20, 1, 0.5f))); /* its contents are not in the skeleton */
    put_message(&graph, 1, constant("w.small", weight("", 4, 4, 1, 1)));
    put_message(&graph, 1, constant("one", weight("", 1, 0, 1, 1)));
    put_message(&graph, 1, node("", "MatMul", "x,w.small", "p"));
    put_message(&graph, 1, node("", "MatMul", "p,w.big", "q"));
    put_message(&graph, 1, node("", "ArgMax", "one", "r"));
    put_message(&graph, 1, with ? node("", "MatMul", "q,k.weight", "y") : node("", "Relu", "q", "y"));
    Model *model = opened(model_of(8, 17, graph), with ? "k.weight" : "w.big,w.small");
    if (!with)
      assert_string_equal(model->initializers[find(model, "w.big")].rule, "5");
    model_close(model);
  }
}

/* So has a branch its own; that of a constant condition which is never taken has none. */
static void branches_have_weights(void **state) {
  (void)state;
  Bytes graph = begin_graph(), branch = node("if", "If", "yes", "y");
  put_message(&graph, 1, truth("yes", 1));
  for (int k = 0; k < 2; k++) {
    Bytes body = {0}, attribute = {0};
    put_message(&body, 1, constant("c", weight("", 4, 4, 1, 1)));
    put_message(&body, 1, node("", "MatMul", "x,w", "p"));
    put_message(&body, 1, node("", "MatMul", "p,c", "q"));
    put_message(&body, 5, weight("w", 4, 4, 1, 1));
    put_message(&body, 12, value_info("q", 2, (int64_t[]){-1, 4}));
    put_text(&attribute, 1, k ? "then_branch" : "else_branch");
    put_message(&attribute, 6, body);
    put_int(&attribute, 20, 5);
    put_message(&branch, 5, attribute);
  }
  put_message(&graph, 1, branch);
  Model *model = opened(model_of(8, 17, graph), "w,c");
  assert_int_equal(model->n_initializers, 2);
  model_close(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(identities_are_tensors),      cmocka_unit_test(calls_tell_parameters),
      cmocka_unit_test(constants_are_no_parameters), cmocka_unit_test(equals_are_not_always_parameters),
      cmocka_unit_test(modules_tell_parameters),     cmocka_unit_test(what_calls_do_not_tell),
      cmocka_unit_test(vectors_come_apart_by_use),   cmocka_unit_test(the_model_is_no_layer),
      cmocka_unit_test(padding_rows_are_told),       cmocka_unit_test(constants_are_weights_where_no_initializer_is),
      cmocka_unit_test(branches_have_weights),       cmocka_unit_test(a_row_looked_up_everywhere_is_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
