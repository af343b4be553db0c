/* Opening files: what is refused and how, and what an opened file says. */
#include <fcntl.h>
#include <sys/stat.h>

#include "graph/narrow.h"
#include "tests/onnx/build.h"

/* y = Relu(x · W), with whatever a test adds. */
static Bytes small_graph(void) {
  Bytes graph = {0};
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 3}));
  put_message(&graph, 12, value_info("y", 2, (int64_t[]){-1, 2}));
  put_message(&graph, 5, weight("W", 3, 2, 0, 0.5f));
  put_message(&graph, 1, node("a", "MatMul", "x,W", "t"));
  put_message(&graph, 1, node("b", "Relu", "t", "y"));
  return graph;
}

/* Opening these bytes fails so: `message` after the path. */
static void refuses(Status code, const char *message, Bytes bytes) {
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  char expected[1024];
  Model *model;
  save_bytes(path, bytes);
  Status status = model_open(path, NULL, &model);
  remove_folder(folder);
  snprintf(expected, sizeof expected, "%s: %s", path, message);
  if (status == OK)
    FAIL_TEST("opened, instead of: %s", message);
  assert_string_equal(status_message(), expected);
  assert_int_equal(status, code);
  assert_null(model);
}

/* Writes, opens and removes. The mapping outlives the file. */
static Model *opened(Bytes bytes) {
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  Model *model;
  save_bytes(path, bytes);
  ASSERT_OK(model_open(path, NULL, &model));
  remove_folder(folder);
  return model;
}

static Bytes literal(const char *text) {
  Bytes bytes = {0};
  put_raw(&bytes, text, strlen(text));
  return bytes;
}

static void files_that_are_no_models(void **state) {
  (void)state;
  Model *model;
  ASSERT_FAILS(E_IO, "/nowhere/m.onnx: cannot be opened: No such file or directory",
               model_open("/nowhere/m.onnx", NULL, &model));
  ASSERT_FAILS(E_IO, "/tmp: is a directory", model_open("/tmp", NULL, &model));
  ASSERT_FAILS(E_IO, "/dev/null: is not a regular file", model_open("/dev/null", NULL, &model));
  refuses(E_MODEL, "the file is empty", (Bytes){0});
  refuses(E_MODEL, "a text file, not an ONNX model", literal("<html>\n<body>not found</body>\n"));
  refuses(E_MODEL, "a pointer of Git LFS, not the model itself (git lfs pull fetches it)",
          literal("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"));
  const char *folder = make_folder(), *path = in_folder(folder, "pipe");
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(model_open(path, NULL, &model), E_IO);
  assert_non_null(strstr(status_message(), "is not a regular file"));
  remove_folder(folder);
}

static void versions_are_named(void **state) {
  (void)state;
  refuses(E_UNSUPPORTED, "IR version 2; 3 to 14 are supported", model_of(2, 18, small_graph()));
  refuses(E_UNSUPPORTED, "IR version 15; 3 to 14 are supported", model_of(15, 18, small_graph()));
  refuses(E_UNSUPPORTED, "opset 29; at most 28 is supported", model_of(8, 29, small_graph()));
  refuses(E_MODEL, "imports opset 0", model_of(8, 0, small_graph()));
  Bytes bare = {0}, twice = model_of(8, 18, small_graph()), import = {0};
  put_int(&bare, 1, 8);
  refuses(E_MODEL, "has no graph", bare);
  put_int(&import, 2, 17);
  put_message(&twice, 8, import);
  refuses(E_MODEL, "imports the default opset twice: 18 and 17", twice);
  Bytes none = {0};
  put_int(&none, 1, 8);
  put_message(&none, 7, small_graph());
  refuses(E_MODEL, "imports no version of the default opset", none);
  Bytes no_ir = {0};
  put_message(&no_ir, 7, small_graph());
  refuses(E_MODEL, "says no IR version: the file is damaged or no ONNX model", no_ir);
  for (int ir = 3; ir <= 14; ir++)
    model_close(opened(model_of(ir, 18, small_graph())));
}

/* A model with these two nodes in front of the others. */
static Bytes with_nodes(Bytes first, Bytes second) {
  Bytes graph = {0}, rest = small_graph();
  put_message(&graph, 1, first);
  put_message(&graph, 1, second);
  put_raw(&graph, rest.data, rest.bytes);
  free(rest.data);
  return model_of(8, 18, graph);
}

static void names_are_checked(void **state) {
  (void)state;
  refuses(E_MODEL, "node 'p' (Relu): input 'nope' is not defined by any input, initializer or node",
          with_nodes(node("p", "Relu", "nope", "u"), node("q", "Relu", "x", "v")));
  refuses(E_MODEL, "node #0 (Relu): input 'nope' is not defined by any input, initializer or node",
          with_nodes(node("", "Relu", "nope", "u"), node("q", "Relu", "x", "v")));
  refuses(E_MODEL, "node 'q' (Relu): the nodes form a cycle: 'q' -> 'p' -> 'q'",
          with_nodes(node("p", "Relu", "v", "u"), node("q", "Relu", "u", "v")));
  refuses(E_MODEL, "node 'p' (Relu): the nodes form a cycle: 'p' -> 'p'",
          with_nodes(node("p", "Relu", "u", "u"), node("q", "Relu", "u", "v")));
  refuses(E_MODEL, "node 'q' (Relu): output 'u': another value has that name already",
          with_nodes(node("p", "Relu", "x", "u"), node("q", "Relu", "x", "u")));
  refuses(E_MODEL, "node 'q' (Relu): output 'W': another value has that name already",
          with_nodes(node("p", "Relu", "x", "u"), node("q", "Relu", "x", "W")));
  refuses(E_MODEL, "node 'p' (): it names no operator",
          with_nodes(node("p", "", "x", "u"), node("q", "Relu", "x", "v")));
  Bytes graph = small_graph();
  put_message(&graph, 12, value_info("z", 1, (int64_t[]){-1}));
  refuses(E_MODEL, "output 'z' is not made by any node", model_of(8, 18, graph));
  graph = small_graph();
  put_message(&graph, 5, weight("W", 3, 2, 0, 1));
  refuses(E_MODEL, "two initializers are called 'W'", model_of(8, 18, graph));
  graph = small_graph();
  put_message(&graph, 11, value_info("x", 1, (int64_t[]){-1}));
  refuses(E_MODEL, "graph input 'x': another value has that name already", model_of(8, 18, graph));
  graph = small_graph();
  put_message(&graph, 5, weight("", 3, 2, 0, 1));
  refuses(E_MODEL, "initializer #1 has no name", model_of(8, 18, graph));
}

/* Each node behind the makers of what it reads, branches included; else as they stand. */
static void nodes_are_sorted(void **state) {
  (void)state;
  Bytes graph = {0}, rest = small_graph(), branch = {0}, conditional = node("if", "If", "s", "r"), a = {0};
  put_message(&branch, 1, node("inner", "Neg", "late", "i"));
  put_message(&branch, 12, value_info("i", 0, NULL));
  put_text(&a, 1, "then_branch");
  put_message(&a, 6, branch);
  put_message(&conditional, 5, a);
  put_message(&graph, 1, node("sum", "Add", "d,c", "e"));
  put_message(&graph, 1, conditional);
  put_message(&graph, 1, node("early", "Relu", "c", "d"));
  put_message(&graph, 1, node("first", "Relu", "x", "c"));
  put_message(&graph, 1, node("second", "Relu", "x", "s"));
  put_message(&graph, 1, node("last", "Neg", "x", "late"));
  put_message(&graph, 1, node("end", "Neg", "late", "z"));
  put_raw(&graph, rest.data, rest.bytes);
  free(rest.data);
  Model *model = opened(model_of(8, 18, graph));
  static const char *const order[] = {"first", "early", "sum", "second", "last", "if", "end"};
  for (size_t i = 0; i < sizeof order / sizeof *order; i++)
    assert_string_equal(model->proto->graph->node[i]->name, order[i]);
  assert_string_equal(model->file_nodes[0]->name, "sum");
  model_close(model);
}

/* If(c) with a body each; the first makes `name` from `input`. */
static Bytes with_subgraph(const char *input, const char *name) {
  Bytes branch = {0}, attribute = {0}, conditional = node("if", "If", "x", "r");
  put_message(&branch, 1, node("inner", "Neg", input, name));
  put_message(&branch, 12, value_info(name, 0, NULL));
  put_text(&attribute, 1, "then_branch");
  put_message(&attribute, 6, branch);
  put_message(&conditional, 5, attribute);
  return with_nodes(node("p", "Relu", "x", "u"), conditional);
}

static void subgraphs_see_what_is_around(void **state) {
  (void)state;
  model_close(opened(with_subgraph("u", "inside")));
  model_close(opened(with_subgraph("W", "inside")));
  model_close(opened(with_subgraph("t", "inside"))); /* made later */
  refuses(E_MODEL, "node 'if' (If): node 'inner' (Neg): input 'nope' is not defined by any input, initializer or node",
          with_subgraph("nope", "inside"));
  refuses(E_MODEL, "node 'if' (If): node 'inner' (Neg): output 'u': another value has that name already",
          with_subgraph("x", "u"));
}

static Bytes function(const char *name, Bytes first, Bytes second) {
  Bytes f = {0};
  put_text(&f, 1, name);
  put_text(&f, 10, "local");
  put_text(&f, 4, "a");
  put_text(&f, 5, "b");
  put_message(&f, 7, first);
  put_message(&f, 7, second);
  return f;
}

static Bytes call(const char *op, const char *inputs, const char *outputs) {
  Bytes n = node("call", op, inputs, outputs);
  put_text(&n, 7, "local");
  return n;
}

static void functions_are_checked(void **state) {
  (void)state;
  Bytes m = model_of(8, 18, small_graph());
  put_message(&m, 25, function("f", call("g", "a", "m"), node("n", "Neg", "m", "b")));
  put_message(&m, 25, function("g", call("f", "a", "m"), node("n", "Neg", "m", "b")));
  refuses(E_MODEL, "function 'f' calls itself", m);
  m = model_of(8, 18, small_graph());
  put_message(&m, 25, function("f", node("n", "Neg", "W", "m"), node("n", "Neg", "m", "b")));
  refuses(E_MODEL, "function 'f': node 'n' (Neg): input 'W' is not defined by any input, initializer or node", m);
  m = model_of(8, 18, small_graph());
  put_message(&m, 25, function("f", node("n", "Neg", "a", "m"), node("n", "Neg", "m", "b")));
  put_message(&m, 25, function("f", node("n", "Neg", "a", "m"), node("n", "Neg", "m", "b")));
  refuses(E_MODEL, "two functions are called 'f' in domain 'local'", m);
  /* each calls the next twice: 2^40 nodes */
  m = model_of(8, 18, small_graph());
  for (int i = 0; i < 40; i++) {
    char name[8], next[8];
    snprintf(name, sizeof name, "f%d", i);
    snprintf(next, sizeof next, "f%d", i + 1);
    put_message(&m, 25, function(name, call(next, "a", "m"), call(next, "m", "b")));
  }
  refuses(E_LIMIT, "inlining its functions would make more than 9504 nodes, of 82 in the file", m);
}

static Bytes with_tensor(Bytes t) {
  Bytes graph = small_graph();
  put_message(&graph, 5, t);
  return model_of(8, 18, graph);
}

static Bytes with_contents(Bytes t, int field, const char *bytes, size_t n) {
  put_bytes(&t, field, bytes, n);
  return with_tensor(t);
}

static void tensors_are_checked(void **state) {
  (void)state;
  int64_t three[] = {3}, negative[] = {2, -1}, huge[] = {1ll << 40, 1ll << 40}, many[9] = {1};
  refuses(E_MODEL, "tensor 'q': float32 [3] takes 12 bytes, 8 are stored",
          with_contents(tensor("q", 1, 1, three), TENSOR_RAW_DATA, "12345678", 8));
  refuses(E_MODEL, "tensor 'q': float32 [3] takes 12 bytes, 0 are stored", with_tensor(tensor("q", 1, 1, three)));
  refuses(E_MODEL, "tensor 'q': float32 [3] takes 3 numbers, 2 are stored",
          with_contents(tensor("q", 1, 1, three), TENSOR_FLOAT_DATA, "12345678", 8));
  refuses(E_MODEL, "tensor 'q' of int64 has its contents in a field of another type",
          with_contents(tensor("q", 7, 1, three), TENSOR_FLOAT_DATA, "12345678", 8));
  refuses(E_MODEL, "tensor 'q': shape [2,-1] has a negative dimension", with_tensor(tensor("q", 1, 2, negative)));
  refuses(E_MODEL, "tensor 'q': shape [1099511627776,1099511627776] of float32 is too large to address",
          with_tensor(tensor("q", 1, 2, huge)));
  refuses(E_UNSUPPORTED, "tensor 'q' has 9 dimensions; at most 8 are supported", with_tensor(tensor("q", 1, 9, many)));
  refuses(E_UNSUPPORTED, "tensor 'q': data type 8 (STRING) is not supported", with_tensor(tensor("q", 8, 1, three)));
  refuses(E_UNSUPPORTED, "tensor 'q': data type 99 (unknown) is not supported", with_tensor(tensor("q", 99, 1, three)));
  refuses(E_MODEL, "tensor 'q' says no data type", with_tensor(tensor("q", 0, 1, three)));
  Bytes both = tensor("q", 1, 1, three);
  put_bytes(&both, TENSOR_RAW_DATA, "123456789012", 12);
  refuses(E_MODEL, "tensor 'q' has contents in more than one field",
          with_contents(both, TENSOR_FLOAT_DATA, "123456789012", 12));
}

/* Numbers of every type, in every field that may hold them, small ones and cut ones. */
static void every_encoding_reads(void **state) {
  (void)state;
  static const struct {
    int type, field;
    DType dtype;
    int64_t value;
  } cases[] = {
      {2, TENSOR_INT32_DATA, U8, 200},           {3, TENSOR_INT32_DATA, I8, -100},
      {4, TENSOR_INT32_DATA, U16, 60000},        {5, TENSOR_INT32_DATA, I16, -30000},
      {6, TENSOR_INT32_DATA, I32, -70000},       {7, TENSOR_INT64_DATA, I64, -(1ll << 40)},
      {9, TENSOR_INT32_DATA, BOOL, 1},           {10, TENSOR_INT32_DATA, F16, 0xbc00},
      {12, TENSOR_UINT64_DATA, U32, 4000000000}, {13, TENSOR_UINT64_DATA, U64, 1ll << 50},
      {16, TENSOR_INT32_DATA, BF16, 0x3f80},     {17, TENSOR_INT32_DATA, F8E4M3FN, 0x38},
      {18, TENSOR_INT32_DATA, F8E4M3FNUZ, 0x40}, {19, TENSOR_INT32_DATA, F8E5M2, 0x3c},
      {20, TENSOR_INT32_DATA, F8E5M2FNUZ, 0x40},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    for (int64_t n = 2; n <= 2000; n += 1998) {
      Bytes t = tensor("q", cases[c].type, 1, &n), raw = tensor("r", cases[c].type, 1, &n), numbers = {0}, words = {0};
      for (int64_t i = 0; i < n; i++) {
        put_number(&numbers, (uint64_t)(i ? cases[c].value : 0));
        int64_t value = i ? cases[c].value : 0;
        put_raw(&words, &value, dtype_bytes(cases[c].dtype));
      }
      put_message(&t, cases[c].field, numbers);
      put_bytes(&raw, TENSOR_RAW_DATA, words.data, words.bytes);
      Bytes graph = small_graph();
      put_message(&graph, 5, t);
      put_message(&graph, 5, raw);
      Model *model = opened(model_of(8, 18, graph));
      Arena *arena = arena_create();
      Bytes read = {0}; /* as it is computed: narrow floats, which are all ones here but the first, as float32 */
      for (int64_t i = 0; i < n && dtype_is_narrow(cases[c].dtype); i++)
        put_raw(&read, &(float){i ? (cases[c].value == 0xbc00 ? -1.0f : 1.0f) : 0.0f}, sizeof(float));
      if (!read.bytes)
        put_raw(&read, words.data, words.bytes);
      for (int i = 1; i <= 2; i++) {
        DType dtype;
        Shape shape;
        const void *data;
        assert_int_equal(model->initializers[i].stored, cases[c].dtype);
        ASSERT_OK(tensor_read(model, model->proto->graph->initializer[i], arena, &dtype, &shape, &data));
        assert_int_equal(dtype, dtype_computed(cases[c].dtype));
        assert_int_equal(shape.dim[0], n);
        assert_memory_equal(data, read.data, read.bytes);
        uint8_t *copy = malloc(read.bytes);
        ASSERT_OK(model_read_initializer(model, i, copy, read.bytes));
        assert_memory_equal(copy, read.data, read.bytes);
        assert_int_equal(model_read_initializer(model, i, copy, read.bytes - 1), E_SHAPE);
        free(copy);
      }
      free(read.data);
      free(words.data);
      arena_destroy(arena);
      model_close(model);
    }
}

static void numbers_that_do_not_fit_are_named(void **state) {
  (void)state;
  Bytes t = tensor("q", 2, 1, (int64_t[]){2}), graph = small_graph();
  put_bytes(&t, TENSOR_INT32_DATA, "\x01\xac\x02", 3); /* 1, 300 */
  put_message(&graph, 5, t);
  Model *model = opened(model_of(8, 18, graph));
  uint8_t data[2];
  assert_int_equal(model_read_initializer(model, 1, data, 2), E_MODEL);
  assert_non_null(strstr(status_message(), "m.onnx: tensor 'q': element 1 is 300, which no uint8 can be"));
  model_close(model);
}

static Bytes external(const char *location, const char *offset, const char *length) {
  Bytes t = tensor("q", 1, 1, (int64_t[]){3});
  put_int(&t, 14, 1);
  if (location)
    put_message(&t, 13, property("location", location));
  if (offset)
    put_message(&t, 13, property("offset", offset));
  if (length)
    put_message(&t, 13, property("length", length));
  return with_tensor(t);
}

static void external_data_stays_inside(void **state) {
  (void)state;
  static const char *const outside[] = {"/etc/passwd", "../w", "a/../../w", "a/..", ".", "w/.", "a//w", "w/", "..\\w"};
  for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
    char message[256];
    snprintf(message, sizeof message, "tensor 'q': external data '%s' would lie outside the model's folder",
             outside[i]);
    refuses(E_MODEL, message, external(outside[i], NULL, NULL));
  }
  refuses(E_MODEL, "tensor 'q' has external data without a location", external(NULL, NULL, NULL));
  refuses(E_MODEL, "tensor 'q': offset '-4' of its external data is no number", external("w", "-4", NULL));
  refuses(E_MODEL, "tensor 'q': length '99999999999999999999' of its external data is no number",
          external("w", NULL, "99999999999999999999"));
  refuses(E_MODEL, "tensor 'q': float32 [3] takes 12 bytes, 8 are stored", external("w", "0", "8"));
}

/* Opens beside a weight file of this kind and reads; the message behind the path, or "" for success. */
static void reads_external(const char *expected, Bytes bytes, void (*make)(const char *folder)) {
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  float data[3] = {0};
  char prefix[512];
  Model *model;
  save_bytes(path, bytes);
  make(folder);
  ASSERT_OK(model_open(path, NULL, &model));
  Status status = model_read_initializer(model, 1, data, sizeof data);
  snprintf(prefix, sizeof prefix, "%s: %s", path, expected);
  if (*expected) {
    assert_int_not_equal(status, OK);
    assert_string_equal(status_message(), prefix);
  } else {
    assert_int_equal(status, OK);
    assert_true(data[0] == 1 && data[1] == 2 && data[2] == 3);
  }
  model_close(model);
  remove_folder(folder);
}

static const float four[] = {0, 1, 2, 3};

static void make_nothing(const char *folder) {
  (void)folder;
}
static void make_file(const char *folder) {
  mkdir(in_folder(folder, "d"), 0700);
  write_file(in_folder(folder, "d/w"), four, sizeof four);
}
static void make_link(const char *folder) {
  mkdir(in_folder(folder, "d"), 0700);
  write_file(in_folder(folder, "w"), four, sizeof four);
  assert_int_equal(symlink("../w", in_folder(folder, "d/w")), 0);
}
static void make_linked_folder(const char *folder) {
  mkdir(in_folder(folder, "e"), 0700);
  write_file(in_folder(folder, "e/w"), four, sizeof four);
  assert_int_equal(symlink("e", in_folder(folder, "d")), 0);
}
static void make_fifo(const char *folder) {
  mkdir(in_folder(folder, "d"), 0700);
  assert_int_equal(mkfifo(in_folder(folder, "d/w"), 0600), 0);
}
static void make_folder_there(const char *folder) {
  mkdir(in_folder(folder, "d"), 0700);
  mkdir(in_folder(folder, "d/w"), 0700);
}

static void external_data_is_read_when_asked(void **state) {
  (void)state;
  reads_external("", external("d/w", "4", "12"), make_file);
  reads_external("", external("d/w", "4", NULL), make_file);
  reads_external("tensor 'q': external data 'd/w' cannot be opened: No such file or directory",
                 external("d/w", "4", "12"), make_nothing);
  reads_external("tensor 'q': external data 'd/w' has 16 bytes, offset 8 and length 12 do not fit",
                 external("d/w", "8", "12"), make_file);
  reads_external("tensor 'q': external data 'd/w' has 16 bytes, offset 18446744073709551615 and length 12 do not fit",
                 external("d/w", "18446744073709551615", "12"), make_file);
  reads_external("tensor 'q': external data 'd/w' cannot be opened: it is a symbolic link", external("d/w", "4", "12"),
                 make_link);
  reads_external("tensor 'q': external data 'd/w' cannot be opened: Not a directory", external("d/w", "4", "12"),
                 make_linked_folder);
  reads_external("tensor 'q': external data 'd/w' is not a regular file", external("d/w", "4", "12"), make_fifo);
  reads_external("tensor 'q': external data 'd/w' is not a regular file", external("d/w", "4", "12"),
                 make_folder_there);
}

/* Pages of files that this process has in memory. */
static long file_pages_kb(void) {
  char line[256];
  long kb = -1;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    sscanf(line, "RssFile: %ld", &kb);
  fclose(file);
  return kb;
}

/* Weights that were read do not stay in memory a second time, as pages of the file. */
static void reading_leaves_no_pages(void **state) {
  (void)state;
  enum { MEGABYTES = 24 };
  Bytes graph = small_graph();
  put_message(&graph, 5, weight("big", MEGABYTES << 10, 256, 1, 0.001f));
  put_message(&graph, 5, weight("12", MEGABYTES << 10, 256, 1, 0.001f));
  put_message(&graph, 1, node("m", "MatMul", "big,12", "u"));
  put_message(&graph, 1, node("t", "Gather", "big,u", "v"));
  Bytes bytes = model_of(8, 18, graph);
  long before = file_pages_kb();
  Model *model = opened(bytes);
  assert_int_equal(model->initializers[2].tied_to, 1); /* both were compared to the end */
  void *data = malloc(MEGABYTES << 20);
  ASSERT_OK(model_read_initializer(model, 1, data, MEGABYTES << 20));
  assert_in_range(file_pages_kb() - before + 4096, 0, 12 << 10);
  free(data);
  model_close(model);
}

static void inputs_and_batch(void **state) {
  (void)state;
  int n;
  Bytes graph = small_graph();
  put_message(&graph, 11, value_info("W", 2, (int64_t[]){3, 2})); /* an initializer that is an input as well */
  put_message(&graph, 11, value_info("mask", 2, (int64_t[]){5, 5}));
  Model *model = opened(model_of(8, 18, graph));
  const ModelInput *inputs = model_inputs(model, &n);
  assert_int_equal(n, 2);
  assert_string_equal(inputs[0].name, "x");
  assert_int_equal(inputs[0].dtype, F32);
  assert_int_equal(inputs[0].rank, 2);
  assert_int_equal(inputs[0].dim[0], -1);
  assert_string_equal(inputs[0].dim_name[0], "batch");
  assert_int_equal(inputs[0].dim[1], 3);
  assert_null(inputs[0].dim_name[1]);
  assert_int_equal(inputs[0].batch_axis, 0);
  assert_string_equal(inputs[1].name, "mask");
  assert_int_equal(inputs[1].batch_axis, -1);
  assert_int_equal(model_outputs(model, &n)[0].batch_axis, 0);
  assert_int_equal(n, 1);
  assert_int_equal(model_fixed_batch(model), 0);
  model_close(model);

  Bytes fixed = {0};
  put_message(&fixed, 11, value_info("x", 2, (int64_t[]){4, 3}));
  put_message(&fixed, 11, value_info("table", 1, (int64_t[]){7}));
  put_message(&fixed, 12, value_info("y", 2, (int64_t[]){4, 3}));
  put_message(&fixed, 1, node("a", "Add", "x,table", "y"));
  model = opened(model_of(8, 18, fixed));
  assert_int_equal(model_fixed_batch(model), 4);
  assert_int_equal(model_inputs(model, &n)[0].batch_axis, 0);
  assert_int_equal(model_inputs(model, &n)[1].batch_axis, -1);
  assert_int_equal(model_outputs(model, &n)[0].batch_axis, 0);
  model_close(model);

  graph = small_graph();
  put_message(&graph, 11, value_info("bad", 2, (int64_t[]){3, -5}));
  refuses(E_MODEL, "input 'bad': dimension 1 is -5", model_of(8, 18, graph));
}

/* The hash is of the structure: training does not change it, a renamed tensor does. */
static void hash_is_over_structure(void **state) {
  (void)state;
  Model *model = opened(model_of(8, 18, small_graph()));
  char first[17];
  snprintf(first, sizeof first, "%s", model_hash(model));
  assert_int_equal(strlen(first), 16);
  model_close(model);
  static const struct {
    const char *name;
    float start;
    bool same;
  } cases[] = {{"W", 9, true}, {"V", 0, false}};
  for (int i = 0; i < 2; i++) {
    Bytes graph = {0};
    char inputs[8];
    snprintf(inputs, sizeof inputs, "x,%s", cases[i].name);
    put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 3}));
    put_message(&graph, 12, value_info("y", 2, (int64_t[]){-1, 2}));
    put_message(&graph, 5, weight(cases[i].name, 3, 2, cases[i].start, 1));
    put_message(&graph, 1, node("a", "MatMul", inputs, "t"));
    put_message(&graph, 1, node("b", "Relu", "t", "y"));
    put_text(&graph, 10, "a doc_string does not count");
    model = opened(model_of(8, 18, graph));
    assert_int_equal(strcmp(model_hash(model), first) == 0, cases[i].same);
    model_close(model);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(files_that_are_no_models),
      cmocka_unit_test(versions_are_named),
      cmocka_unit_test(names_are_checked),
      cmocka_unit_test(nodes_are_sorted),
      cmocka_unit_test(subgraphs_see_what_is_around),
      cmocka_unit_test(functions_are_checked),
      cmocka_unit_test(tensors_are_checked),
      cmocka_unit_test(every_encoding_reads),
      cmocka_unit_test(numbers_that_do_not_fit_are_named),
      cmocka_unit_test(external_data_stays_inside),
      cmocka_unit_test(external_data_is_read_when_asked),
      cmocka_unit_test(reading_leaves_no_pages),
      cmocka_unit_test(inputs_and_batch),
      cmocka_unit_test(hash_is_over_structure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
