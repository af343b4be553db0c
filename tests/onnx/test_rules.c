/* What trains, by which rule, and what is tied: against PyTorch's counts, and rule by rule. */
#include <jansson.h>

#include "tests/onnx/build.h"

static const char *const KIND = "pkg.torch.export.graph_signature.InputSpec.kind";
static const char *const FOLDED = "pkg.onnxscript.optimizer.folded_from";
static const char *const SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature";

static Model *open_bytes(Bytes bytes, const TrainOptions *options) {
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  Model *model;
  save_bytes(path, bytes);
  ASSERT_OK(model_open(path, options, &model));
  remove_folder(folder);
  return model;
}

static const Initializer *initializer(const Model *model, const char *name) {
  int i = model_find_initializer(model, name);
  if (i < 0)
    FAIL_TEST("no initializer '%s'", name);
  return &model->initializers[i];
}

static void is_ruled(const Model *model, const char *name, const char *rule, bool trains) {
  const Initializer *i = initializer(model, name);
  if (strcmp(i->rule, rule) != 0 || i->trains != trains)
    FAIL_TEST("'%s' is ruled by %s and %s", name, i->rule, i->trains ? "trains" : "does not train");
}

static void counts_are_pytorchs(void **state) {
  (void)state;
  for (int c = 0; c < N_REFERENCE_CASES; c++) {
    Model *model;
    json_error_t error;
    ASSERT_OK(model_open(reference_path(c, "model.onnx"), NULL, &model));
    json_t *expected = json_load_file(reference_path(c, "case.json"), 0, &error);
    assert_non_null(expected);
    int64_t tensors = 0, elements = 0;
    for (int i = 0; i < model->n_initializers; i++)
      if (model->initializers[i].trains && model->initializers[i].tied_to < 0) {
        tensors++;
        elements += shape_elements(model->initializers[i].shape);
      }
    assert_int_equal(tensors, json_integer_value(json_object_get(expected, "named_parameters")));
    assert_int_equal(elements, json_integer_value(json_object_get(expected, "parameters")));
    size_t k;
    json_t *name;
    json_array_foreach(json_object_get(expected, "trainable"), k, name) {
      assert_true(initializer(model, json_string_value(name))->trains);
    }
    assert_int_equal(model_fixed_batch(model), strcmp(reference_cases[c], "gpt2_fixed_batch") == 0 ? 2 : 0);
    json_decref(expected);
    model_close(model);
  }
}

static void the_split_head_is_tied(void **state) {
  (void)state;
  Model *model;
  TrainOptions no_tie = {.no_tie = true};
  const char *path = SOURCE_DIR "/models/gpt2_default_export/model.onnx";
  ASSERT_OK(model_open(path, NULL, &model));
  const Initializer *copy = initializer(model, "val_381");
  assert_true(copy->trains && copy->tied_transposed);
  assert_string_equal(model->initializers[copy->tied_to].name, "m.lm_head.weight");
  is_ruled(model, "embedding_1", "1f", true);
  is_ruled(model, "zeros", "1f", false);
  model_close(model);
  ASSERT_OK(model_open(path, &no_tie, &model));
  assert_int_equal(initializer(model, "val_381")->tied_to, -1);
  model_close(model);
}

/* A graph in which each initializer is used in one way; the outputs are the nodes'. */
static void use(Bytes *graph, const char *name, Bytes t, const char *op, const char *inputs) {
  char output[64];
  snprintf(output, sizeof output, "%s_out", name);
  put_message(graph, 5, t);
  put_message(graph, 1, node(output, op, inputs, output));
}

static Bytes begin_graph(void) {
  Bytes graph = {0};
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 4}));
  put_message(&graph, 12, value_info("x", 2, (int64_t[]){-1, 4}));
  return graph;
}

/* FLOAT of rank 0. */
static Bytes tensor_of_one(const char *name, float value) {
  Bytes t = tensor(name, 1, 0, NULL);
  put_bytes(&t, TENSOR_RAW_DATA, &value, sizeof value);
  return t;
}

static void slots_and_names(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  use(&graph, "123", weight("123", 4, 4, 0, 1), "MatMul", "x,123");
  use(&graph, "onnx::Gemm_1", weight("onnx::Gemm_1", 4, 0, 0, 1), "Gemm", "x,x,onnx::Gemm_1");
  use(&graph, "scalar", weight("scalar", 1, 0, 0, 1), "Conv", "scalar,x"); /* an input of Conv is no weight */
  use(&graph, "mean", weight("mean", 4, 0, 0, 1), "BatchNormalization", "x,x,x,mean,x");
  use(&graph, "scale", weight("scale", 4, 0, 0, 1), "BatchNormalization", "x,scale,x,x,x");
  use(&graph, "table", weight("table", 4, 4, 0, 1), "Gather", "table,x");
  use(&graph, "index", weight("index", 4, 4, 0, 1), "Gather", "x,index");
  use(&graph, "gamma", weight("gamma", 4, 0, 0, 1), "Mul", "x,gamma");
  use(&graph, "temperature", tensor("temperature", 7, 1, (int64_t[]){0}), "Mul", "x,temperature");
  use(&graph, "/blocks/Constant", weight("/blocks/Constant", 4, 0, 0, 1), "Mul", "x,/blocks/Constant");
  use(&graph, "a_output_12", weight("a_output_12", 4, 0, 0, 1), "Add", "x,a_output_12");
  use(&graph, "a_output_x", weight("a_output_x", 4, 0, 0, 1), "Add", "x,a_output_x");
  use(&graph, "77", weight("77", 4, 0, 0, 1), "Add", "x,77");
  use(&graph, "onnx::Add_3", weight("onnx::Add_3", 4, 0, 0, 1), "Add", "x,onnx::Add_3");
  put_message(&graph, 5, weight("unused", 4, 0, 0, 1));
  use(&graph, "epsilon", tensor_of_one("epsilon", 0.5f), "Mul", "x,epsilon"); /* of rank 0 */
  Model *model = open_bytes(model_of(8, 18, graph), NULL);
  is_ruled(model, "123", "2", true);
  is_ruled(model, "onnx::Gemm_1", "2", true);
  is_ruled(model, "scalar", "3", false);
  is_ruled(model, "mean", "0", false);
  is_ruled(model, "scale", "2", true);
  is_ruled(model, "table", "2", true);
  is_ruled(model, "index", "3", false);
  is_ruled(model, "gamma", "3", true);
  is_ruled(model, "temperature", "not float", false);
  is_ruled(model, "/blocks/Constant", "3", false);
  is_ruled(model, "a_output_12", "3", false);
  is_ruled(model, "a_output_x", "3", true);
  is_ruled(model, "77", "3", false);
  is_ruled(model, "onnx::Add_3", "3", false);
  is_ruled(model, "unused", "3", false);
  is_ruled(model, "epsilon", "4", false);
  model_close(model);
}

static Bytes cast(const char *input, const char *output, int type) {
  Bytes n = node("cast", "Cast", input, output), to = {0};
  put_text(&to, 1, "to");
  put_int(&to, 3, type);
  put_int(&to, 20, 2);
  put_message(&n, 5, to);
  return n;
}

static void elements_are_followed(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("1", 4, 4, 0, 1));
  put_message(&graph, 1, node("", "Transpose", "1", "1t"));
  put_message(&graph, 1, node("", "Concat", "x,1t", "1c"));
  put_message(&graph, 1, cast("1c", "1d", 10));
  put_message(&graph, 1, node("", "MatMul", "x,1d", "1m"));
  put_message(&graph, 5, weight("2", 4, 4, 0, 1)); /* stops at a cast to integers */
  put_message(&graph, 1, cast("2", "2c", 7));
  put_message(&graph, 1, node("", "MatMul", "x,2c", "2m"));
  put_message(&graph, 5, weight("3", 4, 4, 0, 1)); /* stops at arithmetic, and has no given name */
  put_message(&graph, 1, node("", "Mul", "x,3", "3c"));
  put_message(&graph, 1, node("", "MatMul", "x,3c", "3m"));
  put_message(&graph, 5, weight("four", 4, 4, 0, 1));
  put_message(&graph, 1, node("", "Unsqueeze", "four", "4c"));
  put_message(&graph, 1, node("", "Div", "x,4c", "4m"));
  Model *model = open_bytes(model_of(8, 18, graph), NULL);
  is_ruled(model, "1", "2", true);
  is_ruled(model, "2", "3", false);
  is_ruled(model, "3", "3", false);
  is_ruled(model, "four", "3", true);
  model_close(model);
}

/* A weight with a given name trains behind what is differentiable and has nothing else in it. */
static void weights_train_behind_operators(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  use(&graph, "split", weight("split", 4, 4, 0, 1), "Split", "split");
  put_message(&graph, 1, node("", "MatMul", "x,split_out", "a"));
  use(&graph, "soft", weight("soft", 4, 0, 0, 1), "Softmax", "soft");
  put_message(&graph, 1, node("", "Clip", "soft_out,epsilon", "soft_clip"));
  put_message(&graph, 1, node("", "Mul", "x,soft_clip", "b"));
  use(&graph, "7", weight("7", 4, 4, 0, 1), "Softmax", "7"); /* no given name */
  put_message(&graph, 1, node("", "MatMul", "x,7_out", "c"));
  use(&graph, "sign", weight("sign", 4, 4, 0, 1), "Sign", "sign"); /* no gradient */
  put_message(&graph, 1, node("", "MatMul", "x,sign_out", "d"));
  use(&graph, "kernel", weight("kernel", 4, 4, 0, 1), "Conv", "picture,kernel"); /* the kernel trains, … */
  put_message(&graph, 5, weight("picture", 4, 4, 0, 1));                         /* … what it reads does not */
  put_message(&graph, 1, node("", "MatMul", "x,kernel_out", "e"));
  use(&graph, "normed", weight("normed", 4, 4, 0, 1), "LayerNormalization", "normed,scale,shift"); /* DeBERTa's table */
  put_message(&graph, 5, weight("scale", 4, 0, 1, 1));
  put_message(&graph, 5, weight("shift", 4, 0, 1, 1));
  put_message(&graph, 1, node("", "MatMul", "x,normed_out", "g"));
  use(&graph, "beside", weight("beside", 4, 4, 0, 1), "Tile", "beside"); /* reaches nothing */
  put_message(&graph, 5, tensor_of_one("epsilon", 0.5f));
  put_message(&graph, 1, node("", "QuantizeLinear", "rounded,steps", "rounded_q"));
  put_message(&graph, 5, weight("rounded", 4, 4, 0, 1)); /* trains as if it were not, … */
  put_message(&graph, 5, weight("steps", 4, 0, 1, 1));   /* … and by what steps is no weight */
  put_message(&graph, 1, node("", "DequantizeLinear", "rounded_q,steps", "rounded_d"));
  put_message(&graph, 1, node("", "MatMul", "x,rounded_d", "f"));
  Model *model = open_bytes(model_of(8, 18, graph), NULL);
  is_ruled(model, "rounded", "2", true);
  is_ruled(model, "steps", "3", false);
  is_ruled(model, "split", "4", true);
  is_ruled(model, "soft", "4", true);
  is_ruled(model, "normed", "4", true);
  is_ruled(model, "scale", "2", true);
  is_ruled(model, "7", "3", false);
  is_ruled(model, "sign", "3", false);
  is_ruled(model, "kernel", "2", true);
  is_ruled(model, "picture", "3", false);
  is_ruled(model, "beside", "3", false);
  model_close(model);
}

static Bytes call(const char *op, const char *inputs, const char *outputs) {
  Bytes n = node("call", op, inputs, outputs);
  put_text(&n, 7, "local");
  return n;
}

/* f(a, b) = Transpose(a), MatMul(b, b) ; the first output is used outside. */
static void functions_and_subgraphs_are_entered(void **state) {
  (void)state;
  Bytes graph = begin_graph(), f = {0}, body = {0}, attribute = {0};
  put_message(&graph, 5, weight("1", 4, 4, 0, 1));
  put_message(&graph, 5, weight("2", 4, 4, 0, 1));
  put_message(&graph, 5, weight("3", 4, 4, 0, 1));
  put_message(&graph, 5, weight("4", 4, 4, 0, 1));
  put_message(&graph, 5, weight("5", 4, 4, 0, 1));
  put_message(&graph, 1, call("f", "1,2", "p,q"));
  put_message(&graph, 1, node("", "MatMul", "x,p", "r"));
  put_message(&graph, 1, call("f", "3,x", "s,t")); /* here the first output is not used */
  Bytes loop = node("loop", "Loop", "x,x,4", "u");
  put_message(&body, 11, value_info("i", 0, NULL));
  put_message(&body, 11, value_info("go", 0, NULL));
  put_message(&body, 11, value_info("carried", 0, NULL));
  put_message(&body, 1, node("", "MatMul", "carried,5", "next"));
  put_message(&body, 12, value_info("go", 0, NULL));
  put_message(&body, 12, value_info("next", 0, NULL));
  put_text(&attribute, 1, "body");
  put_message(&attribute, 6, body);
  put_message(&loop, 5, attribute);
  put_message(&graph, 1, loop);
  Bytes model_bytes = model_of(8, 18, graph);
  put_text(&f, 1, "f");
  put_text(&f, 10, "local");
  put_names(&f, 4, "a,b");
  put_names(&f, 5, "at,bb");
  put_message(&f, 7, node("", "Transpose", "a", "at"));
  put_message(&f, 7, node("", "MatMul", "b,b", "bb"));
  put_message(&model_bytes, 25, f);
  Model *model = open_bytes(model_bytes, NULL);
  is_ruled(model, "1", "2", true);
  is_ruled(model, "2", "2", true);
  is_ruled(model, "3", "3", false);
  is_ruled(model, "4", "2", true);
  is_ruled(model, "5", "2", true);
  model_close(model);
}

static Bytes info_with(const char *name, const char *key, const char *value) {
  Bytes info = value_info(name, 1, (int64_t[]){4});
  put_message(&info, 4, property(key, value));
  return info;
}

static void what_the_exporter_recorded_counts(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  use(&graph, "p", weight("p", 4, 0, 0, 1), "Erf", "p"); /* in no slot, but recorded */
  use(&graph, "b.buffer", weight("b.buffer", 4, 4, 0, 1), "MatMul", "x,b.buffer");
  use(&graph, "val_7", weight("val_7", 4, 4, 0, 1), "Erf", "val_7");
  use(&graph, "val_8", weight("val_8", 4, 4, 0, 1), "MatMul", "x,val_8");
  use(&graph, "gamma", weight("gamma", 4, 0, 0, 1), "Mul", "x,gamma"); /* no dot: a dynamo name that is not given */
  use(&graph, "m.gamma", weight("m.gamma", 4, 0, 0, 1), "Mul", "x,m.gamma");
  use(&graph, "m.mean", weight("m.mean", 4, 0, 0, 1), "BatchNormalization", "x,x,x,m.mean,x");
  put_message(&graph, 13, info_with("p", KIND, "PARAMETER"));
  put_message(&graph, 13, info_with("m.mean", KIND, "PARAMETER"));
  put_message(&graph, 13, info_with("b.buffer", KIND, "BUFFER"));
  put_message(&graph, 13, info_with("val_7", FOLDED, "['val_1', 'm.w']"));
  put_message(&graph, 13, info_with("val_8", FOLDED, "['b_m_table', \"it's\"]"));
  put_message(&graph, 16,
              property(SIGNATURE, "\n# inputs\np_m_w: PARAMETER target='m.w'\nb_m_table: BUFFER target='m.table' "
                                  "persistent=True\nx: USER_INPUT\n\n# outputs\ny: USER_OUTPUT\n"));
  Model *model = open_bytes(model_of(10, 18, graph), NULL);
  is_ruled(model, "p", "1", true);
  is_ruled(model, "b.buffer", "1", false);
  is_ruled(model, "val_7", "1f", true);
  is_ruled(model, "val_8", "1f", false);
  is_ruled(model, "gamma", "3", false);
  is_ruled(model, "m.gamma", "3", true);
  is_ruled(model, "m.mean", "0", false);
  model_close(model);
}

static void globs_override(void **state) {
  (void)state;
  const char *train[] = {"b.*", "mean"}, *freeze[] = {"b.1*"}, *nothing[] = {"nope*"};
  TrainOptions options = {.train = train, .n_train = 2, .freeze = freeze, .n_freeze = 1};
  for (int round = 0; round < 2; round++) {
    Bytes graph = begin_graph();
    use(&graph, "b.0", weight("b.0", 4, 0, 0, 1), "Erf", "b.0");
    use(&graph, "b.1", weight("b.1", 4, 4, 0, 1), "MatMul", "x,b.1");
    use(&graph, "mean", weight("mean", 4, 0, 0, 1), "BatchNormalization", "x,x,x,mean,x");
    use(&graph, "b.i", tensor("b.i", 7, 1, (int64_t[]){0}), "Mul", "x,b.i");
    Bytes bytes = model_of(8, 18, graph);
    if (round == 0) {
      Model *model = open_bytes(bytes, &options);
      is_ruled(model, "b.0", "--train", true);
      is_ruled(model, "b.1", "--freeze", false);
      is_ruled(model, "mean", "0", false);
      is_ruled(model, "b.i", "not float", false);
      model_close(model);
      continue;
    }
    const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
    Model *model;
    TrainOptions missing = {.freeze = nothing, .n_freeze = 1};
    save_bytes(path, bytes);
    assert_int_equal(model_open(path, &missing, &model), E_USAGE);
    assert_non_null(strstr(status_message(), "--freeze 'nope*' matches no initializer of "));
    remove_folder(folder);
  }
}

/* [columns, rows] with the contents of weight(name, rows, columns, start, step) transposed. */
static Bytes transposed(const char *name, int64_t rows, int64_t columns, float start, float step) {
  Bytes t = tensor(name, 1, 2, (int64_t[]){columns, rows});
  float *values = calloc((size_t)(rows * columns), sizeof *values);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++)
      values[j * rows + i] = start + step * (float)(i * columns + j);
  put_bytes(&t, TENSOR_RAW_DATA, values, (size_t)(rows * columns) * sizeof *values);
  free(values);
  return t;
}

static void is_tied(const Model *model, const char *name, const char *owner, bool is_transposed) {
  const Initializer *i = initializer(model, name);
  const char *found = i->tied_to < 0 ? "nothing" : model->initializers[i->tied_to].name;
  if (strcmp(found, owner) != 0 || i->tied_transposed != is_transposed)
    FAIL_TEST("'%s' is tied to %s%s", name, found, i->tied_transposed ? ", transposed" : "");
}

static void equal_tensors_are_tied(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  use(&graph, "1", transposed("1", 40, 70, 3, 1), "MatMul", "x,1"); /* a head, before the table that owns it */
  use(&graph, "w.given", weight("w.given", 40, 70, 3, 1), "Gather", "w.given,x");
  use(&graph, "w.again", weight("w.again", 40, 70, 3, 1), "Gather", "w.again,x"); /* given too: another parameter */
  use(&graph, "2", weight("2", 40, 70, 3, 1), "MatMul", "x,2");
  use(&graph, "3", weight("3", 70, 40, 3, 1), "MatMul", "x,3"); /* the same bytes in another shape */
  use(&graph, "4", weight("4", 7, 9, 5, 1), "MatMul", "x,4");
  use(&graph, "5", weight("5", 7, 9, 5, 1), "Gather", "5,x");
  use(&graph, "6", weight("6", 5, 5, 0, 0), "MatMul", "x,6"); /* zeros */
  use(&graph, "7", weight("7", 5, 5, 0, 0), "Gather", "7,x");
  use(&graph, "8", weight("8", 16, 0, 1, 1), "MatMul", "x,8"); /* vectors */
  use(&graph, "9", weight("9", 16, 0, 1, 1), "Gather", "9,x");
  Model *model = open_bytes(model_of(8, 18, graph), NULL);
  is_tied(model, "w.given", "nothing", false);
  is_tied(model, "w.again", "nothing", false);
  is_tied(model, "1", "w.given", true);
  is_tied(model, "2", "w.given", false);
  is_tied(model, "3", "nothing", false);
  is_tied(model, "4", "nothing", false);
  is_tied(model, "5", "4", false);
  is_tied(model, "7", "nothing", false);
  is_tied(model, "9", "nothing", false);
  assert_false(model->ties_unknown);
  model_close(model);
}

static Bytes scoped(const char *op, const char *inputs, const char *output, const char *scopes) {
  Bytes n = node("", op, inputs, output);
  put_message(&n, 9, property("pkg.torch.onnx.name_scopes", scopes));
  return n;
}

/* Layers that were cloned are equal at birth. One that is called twice has its weight twice where that was folded. */
static void clones_are_not_tied(void **state) {
  (void)state;
  Bytes graph = begin_graph();
  put_message(&graph, 5, weight("onnx::MatMul_1", 6, 8, 2, 1));
  put_message(&graph, 5, weight("onnx::MatMul_2", 6, 8, 2, 1));
  put_message(&graph, 5, weight("onnx::MatMul_3", 6, 8, 2, 1));
  put_message(&graph, 5, weight("val_1", 7, 8, 2, 1));
  put_message(&graph, 5, weight("val_2", 7, 8, 2, 1));
  put_message(&graph, 5, weight("val_3", 7, 8, 2, 1));
  put_message(&graph, 5, weight("val_4", 3, 8, 0, 0)); /* zeros */
  put_message(&graph, 5, weight("val_5", 3, 8, 0, 0));
  put_message(&graph, 1, node("/layers.0/MatMul", "MatMul", "x,onnx::MatMul_1", "a"));
  put_message(&graph, 1, node("/layers.1/MatMul", "MatMul", "x,onnx::MatMul_2", "b"));
  put_message(&graph, 1, node("/layers.0/MatMul_1", "MatMul", "x,onnx::MatMul_3", "c"));
  put_message(&graph, 1, scoped("MatMul", "x,val_1", "d", "['', 'layers.0', 'linear']"));
  put_message(&graph, 1, scoped("MatMul", "x,val_2", "e", "['', 'layers.1', 'linear_1']"));
  put_message(&graph, 1, scoped("MatMul", "x,val_3", "f", "['', 'layers.0@1', 'linear_2']"));
  put_message(&graph, 1, node("", "MatMul", "x,val_4", "g"));
  put_message(&graph, 1, node("", "MatMul", "x,val_5", "h"));
  put_message(&graph, 13, info_with("val_4", FOLDED, "['m.w', 'val_9']"));
  put_message(&graph, 13, info_with("val_5", FOLDED, "['m.w', 'val_9']"));
  put_message(&graph, 16, property(SIGNATURE, "p_m_w: PARAMETER target='m.w'\n"));
  Model *model = open_bytes(model_of(10, 18, graph), NULL);
  is_tied(model, "onnx::MatMul_2", "nothing", false);
  is_tied(model, "onnx::MatMul_3", "onnx::MatMul_1", false);
  is_tied(model, "val_2", "nothing", false);
  is_tied(model, "val_3", "val_1", false);
  is_tied(model, "val_5", "val_4", false); /* zeros, but one parameter, as the exporter says */
  model_close(model);
}

static Bytes external(const char *name) {
  Bytes t = tensor(name, 1, 2, (int64_t[]){4, 4});
  put_int(&t, 14, 1);
  put_message(&t, 13, property("location", "absent"));
  return t;
}

static void absent_weights_leave_ties_unknown(void **state) {
  (void)state;
  for (int renamed = 0; renamed < 2; renamed++) {
    Bytes graph = begin_graph();
    use(&graph, "a.w", external("a.w"), "MatMul", "x,a.w");
    if (renamed)
      use(&graph, "12", external("12"), "MatMul", "x,12");
    else
      use(&graph, "b.w", external("b.w"), "MatMul", "x,b.w");
    Model *model = open_bytes(model_of(8, 18, graph), NULL);
    assert_int_equal(model->ties_unknown, renamed);
    model_close(model);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(counts_are_pytorchs),
      cmocka_unit_test(the_split_head_is_tied),
      cmocka_unit_test(slots_and_names),
      cmocka_unit_test(elements_are_followed),
      cmocka_unit_test(weights_train_behind_operators),
      cmocka_unit_test(functions_and_subgraphs_are_entered),
      cmocka_unit_test(what_the_exporter_recorded_counts),
      cmocka_unit_test(globs_override),
      cmocka_unit_test(equal_tensors_are_tied),
      cmocka_unit_test(clones_are_not_tied),
      cmocka_unit_test(absent_weights_leave_ties_unknown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
