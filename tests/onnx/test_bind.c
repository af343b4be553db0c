/* Binding: what becomes of functions, branches, sequences and old opsets; which nodes are left; what is refused. */
#include "onnx/lower/lower.h"
#include "tests/onnx/build_net.h"

/* ---- functions ---- */

/* y = LeakyRelu(x - 3; alpha), alpha 0.5 unless the call says otherwise. */
static Bytes leaky_function(void) {
  Bytes f = function("Leaky", "a,b", "y", 20), n = node("", "LeakyRelu", "d", "y"), alpha = attribute("slope", 1);
  float half = 0.5f;
  put_message(&f, 7, node("minus", "Sub", "a,b", "d"));
  put_attribute_reference(&n, "alpha", 1, "slope");
  put_message(&f, 7, n);
  put_number(&alpha, 2 << 3 | 5);
  put_raw(&alpha, &half, sizeof half);
  put_message(&f, 11, alpha);
  return f;
}

static void functions_are_inlined(void **state) {
  (void)state;
  Net net = net_of(20);
  Bytes outer = function("Twice", "x,c", "y", 20), first = call("one", "Leaky", "x,c", "t");
  put_attribute_float(&first, "slope", 2);
  put_message(&outer, 7, first);
  put_message(&outer, 7, call("two", "Leaky", "t,c", "y"));
  net_function(&net, leaky_function());
  net_function(&net, outer);
  NET_INPUT(&net, "x", -1, 3);
  put_message(&net.graph, 5, weight("three", 1, 0, 3, 0));
  net_add(&net, call("f", "Twice", "x,three", "y"));
  Bound b = net_bind_ok(&net, "y", 2);
  assert_int_equal(b.graph->n_nodes, 4);
  assert_string_equal(b.graph->nodes[0]->name, "f/one/minus");
  assert_string_equal(b.graph->nodes[1]->name, "f/one/LeakyRelu_1");
  assert_string_equal(graph_value(b.graph, b.graph->nodes[0]->out[0])->name, "f/one/d");
  /* x - 3 = -3 … 2, negatives twice: -6 -4 -2 0 1 2; - 3: -9 -7 -5 -3 -2 -1, halved */
  GIVES(&b, 0, (2, 3), -4.5, -3.5, -2.5, -1.5, -1, -0.5);
  bound_end(&b);
}

static void function_with_absent_input(void **state) {
  (void)state;
  Net net = net_of(20);
  Bytes f = function("Limit", "x,low,high", "y", 20);
  put_message(&f, 7, node("", "Clip", "x,low,high", "y"));
  net_function(&net, f);
  NET_INPUT(&net, "x", -1, 4);
  put_message(&net.graph, 5, weight("one", 0, 0, 0, 0));
  Bytes c = node("c", "Constant", "", "two");
  put_attribute_float(&c, "value_float", 2);
  net_add(&net, c);
  net_add(&net, call("f", "Limit", "x,,two", "y"));
  Bound b = net_bind_ok(&net, "y", 1);
  GIVES(&b, 0, (1, 4), 0, 1, 2, 2);
  bound_end(&b);
}

static void function_of_another_opset(void **state) {
  (void)state;
  Net net = net_of(20);
  Bytes f = function("Drop", "x", "y", 11), n = node("", "Squeeze", "x", "y");
  PUT_INTS(&n, "axes", 1);
  put_message(&f, 7, n);
  net_function(&net, f);
  NET_INPUT(&net, "x", -1, 1, 2);
  net_add(&net, call("f", "Drop", "x", "y"));
  Bound b = net_bind_ok(&net, "y", 2);
  GIVES(&b, 0, (2, 2), 0, 1, 2, 3);
  bound_end(&b);
}

/* ---- branches ---- */

static Bytes branch(const char *op, const char *inputs) {
  Bytes g = {0};
  put_message(&g, 1, node("inner", op, inputs, "r"));
  net_outputs(&g, "r");
  return g;
}

static void what_is_in_the_branch_counts(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2);
  net_bool(&net, "condition", false);
  Bytes n = node("if", "If", "condition", "y");
  put_attribute_graph(&n, "then_branch", branch("Neg", "x"));
  put_attribute_graph(&n, "else_branch", branch("NotThere", "x"));
  net_add(&net, n);
  net_fails(&net, "y", 1, E_UNSUPPORTED, "not supported: node 'if/inner' (NotThere): no such operator here");
}

static void branch_sees_its_surroundings(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2);
  Bytes shape = node("s", "Shape", "x", "shape"), n = node("if", "If", "two_d", "y");
  net_add(&net, shape);
  net_node(&net, "size", "Size", "shape", "rank");
  NET_INT(&net, "two", 2);
  net_node(&net, "equal", "Equal", "rank,two", "two_d");
  put_attribute_graph(&n, "then_branch", branch("Neg", "x"));
  put_attribute_graph(&n, "else_branch", branch("NotThere", "x"));
  net_add(&net, n);
  net_node(&net, "again", "Neg", "y", "z");
  Bound b = net_bind_ok(&net, "y,z", 2);
  assert_int_equal(b.graph->n_nodes, 2);
  GIVES(&b, 0, (2, 2), 0, -1, -2, -3);
  GIVES(&b, 1, (2, 2), 0, 1, 2, 3);
  bound_end(&b);
}

static void branch_on_data_is_chosen(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 1, 1);
  Bytes n = node("if", "If", "condition", "y"), cast = node("c", "Cast", "x", "condition");
  put_attribute_int(&cast, "to", 9);
  net_add(&net, cast);
  put_attribute_graph(&n, "then_branch", branch("Neg", "x"));
  put_attribute_graph(&n, "else_branch", branch("Abs", "x"));
  net_add(&net, n);
  net_node(&net, "after", "Neg", "y", "z");
  Bound b = net_bind_ok(&net, "z", 0);
  assert_int_equal(count_nodes(b.graph, OP_Where), 1);
  GIVES(&b, 0, (1, 1), 0);
  bound_end(&b);
}

/* ---- sequences ---- */

static void sequences_become_splits(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 5);
  NET_INT(&net, "two", 2);
  NET_INT(&net, "last", -1);
  NET_INT(&net, "zero", 0);
  Bytes split = node("split", "SplitToSequence", "x,two", "parts"), join = node("j", "ConcatFromSequence", "more", "y");
  put_attribute_int(&split, "axis", 1);
  put_attribute_int(&join, "axis", -1);
  net_add(&net, split);
  net_node(&net, "at", "SequenceAt", "parts,last", "tail");
  net_node(&net, "insert", "SequenceInsert", "parts,tail,zero", "some");
  net_node(&net, "erase", "SequenceErase", "some", "more");
  net_node(&net, "length", "SequenceLength", "more", "n");
  Bytes cast = node("cast", "Cast", "n", "count");
  put_attribute_int(&cast, "to", 1);
  net_add(&net, cast);
  net_add(&net, join);
  Bound b = net_bind_ok(&net, "y,tail,count", 1);
  assert_int_equal(count_nodes(b.graph, OP_Split), 1);
  assert_int_equal(count_nodes(b.graph, OP_Concat), 1);
  GIVES(&b, 0, (1, 5), 4, 0, 1, 2, 3);
  GIVES(&b, 1, (1, 1), 4);
  float three = 3;
  bound_gives(&b, 2, 0, NULL, &three);
  bound_end(&b);
}

static void unused_parts_are_dropped(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", -1, 4);
  Bytes split = node("split", "Split", "x", "a,b,c");
  put_attribute_int(&split, "axis", 1);
  put_attribute_int(&split, "num_outputs", 3);
  net_add(&net, split);
  net_node(&net, "neg", "Neg", "b", "y");
  Bound b = net_bind_ok(&net, "y", 2);
  assert_int_equal(b.graph->nodes[0]->out[0], NO_VALUE);
  assert_int_equal(b.graph->nodes[0]->out[2], NO_VALUE);
  GIVES(&b, 0, (2, 2), -2, -3, -6, -7);
  bound_end(&b);
}

/* ---- opsets ---- */

static void old_opsets(void **state) {
  (void)state;
  Net net = net_of(9);
  NET_INPUT(&net, "x", -1, 4);
  Bytes slice = node("slice", "Slice", "x", "s"), widen = node("u", "Unsqueeze", "s", "u"),
        sum = node("sum", "ReduceSum", "u", "r"), soft = node("soft", "Softmax", "u", "p"),
        clip = node("clip", "Clip", "s", "c"), drop = node("drop", "Dropout", "c", "d");
  PUT_INTS(&slice, "starts", 1);
  PUT_INTS(&slice, "ends", 1000000);
  PUT_INTS(&slice, "axes", 1);
  PUT_INTS(&widen, "axes", 1);
  PUT_INTS(&sum, "axes", -1, 1);
  put_attribute_int(&sum, "keepdims", 0);
  put_attribute_float(&clip, "max", 2);
  put_attribute_float(&drop, "ratio", 0.5f);
  net_add(&net, slice);
  net_add(&net, widen);
  net_add(&net, sum);
  net_add(&net, soft);
  net_add(&net, clip);
  net_add(&net, drop);
  Bound b = net_bind_ok(&net, "r,p,d", 1);
  GIVES(&b, 0, (1), 6);
  GIVES(&b, 1, (1, 1, 3), 0.09003057f, 0.24472847f, 0.66524096f);
  GIVES(&b, 2, (1, 3), 1, 2, 2);
  bound_end(&b);
}

static void flat_softmax_before_13(void **state) {
  (void)state;
  Net net = net_of(11);
  NET_INPUT(&net, "x", -1, 2, 2);
  net_node(&net, "soft", "Softmax", "x", "y");
  Bound b = net_bind_ok(&net, "y", 1);
  GIVES(&b, 0, (1, 2, 2), 0.0320586f, 0.08714432f, 0.23688282f, 0.64391426f);
  bound_end(&b);
}

/* ---- what is left ---- */

static void shape_arithmetic_disappears(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2, 3);
  NET_INT(&net, "zero", 0);
  NET_INTS(&net, "axes", 0);
  NET_INTS(&net, "rest", -1);
  net_node(&net, "", "Shape", "x", "shape");
  net_node(&net, "", "Gather", "shape,zero", "n");
  net_node(&net, "", "Unsqueeze", "n,axes", "n1");
  Bytes concat = node("", "Concat", "n1,rest", "to");
  put_attribute_int(&concat, "axis", 0);
  net_add(&net, concat);
  net_node(&net, "flat", "Reshape", "x,to", "f");
  net_node(&net, "same", "Identity", "f", "g");
  net_node(&net, "back", "Reshape", "g,shape", "h");
  net_node(&net, "minus", "Neg", "h", "y");
  net_node(&net, "unused", "Abs", "f", "nobody");
  Bound b = net_bind_ok(&net, "y", 4);
  assert_int_equal(b.graph->n_nodes, 1); /* a reshape and its inverse are nothing */
  assert_string_equal(b.graph->nodes[0]->name, "minus");
  assert_int_equal(graph_value(b.graph, b.graph->outputs[0])->batch.axis, 0);
  bound_end(&b);
}

static void weights_are_read_transposed(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2);
  put_message(&net.graph, 5, weight("w", 3, 2, 0, 1));
  Bytes t = node("t", "Transpose", "w", "wt");
  PUT_INTS(&t, "perm", 1, 0);
  net_add(&net, t);
  net_node(&net, "product", "MatMul", "x,wt", "y");
  Bound b = net_bind_ok(&net, "y", 2);
  assert_int_equal(b.graph->n_nodes, 1);
  assert_int_equal(node_int(b.graph->nodes[0], "transB", 0), 1);
  const Value *w = graph_value(b.graph, b.graph->nodes[0]->in[1]);
  assert_int_equal(w->role, ROLE_PARAMETER);
  assert_int_equal(w->initializer, 0);
  GIVES(&b, 0, (2, 3), 1, 3, 5, 3, 13, 23);
  bound_end(&b);
}

/* A mask of [batch,1,n,n] is one of [1,1,n,n], whatever the batch, and one value for all its users. */
static void masks_are_small(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 1, 3, 3);
  net_node(&net, "", "Shape", "x", "shape");
  Bytes fill = node("", "ConstantOfShape", "shape", "ones"), one = tensor("", 1, 1, (int64_t[]){1});
  float f = 1;
  put_bytes(&one, TENSOR_RAW_DATA, &f, sizeof f);
  Bytes a = attribute("value", 4), lower = node("", "Trilu", "ones", "mask");
  put_message(&a, 5, one);
  put_message(&fill, 5, a);
  put_attribute_int(&lower, "upper", 0);
  net_add(&net, fill);
  net_add(&net, lower);
  net_node(&net, "first", "Mul", "x,mask", "a");
  net_node(&net, "second", "Mul", "a,mask", "y");
  Bound b = net_bind_ok(&net, "y", 7);
  assert_int_equal(b.graph->n_nodes, 2);
  const Value *mask = graph_value(b.graph, b.graph->nodes[0]->in[1]);
  assert_int_equal(shape_elements(mask->shape), 9);
  assert_int_equal(b.graph->nodes[0]->in[1], b.graph->nodes[1]->in[1]);
  bound_end(&b);
}

/* Sizes that a file made up do not become memory. */
static void huge_fills_are_not_written_out(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 1);
  NET_INTS(&net, "huge", 1 << 13, 1 << 13);
  NET_INTS(&net, "axes", 0, 1);
  net_node(&net, "fill", "ConstantOfShape", "huge", "zeros");
  net_node(&net, "sum", "ReduceSum", "zeros,axes", "total");
  net_node(&net, "add", "Add", "x,total", "y");
  Bound b = net_bind_ok(&net, "y", 1);
  assert_int_equal(count_nodes(b.graph, OP_Expand), 1);
  assert_int_equal(count_nodes(b.graph, OP_ReduceSum), 1);
  bound_end(&b);
}

/* Nor do they when the model runs: what no input reaches has a budget. */
static void what_no_input_reaches_is_bounded(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 1);
  NET_INTS(&net, "huge", 1 << 20, 1 << 20);
  NET_INTS(&net, "axes", 0, 1);
  net_node(&net, "fill", "ConstantOfShape", "huge", "zeros");
  net_node(&net, "sum", "ReduceSum", "zeros,axes", "total");
  net_node(&net, "add", "Add", "x,total", "y");
  net_fails(&net, "y", 1, E_LIMIT,
            "node 'sum' (ReduceSum): no input of the model reaches it, and it takes 4398046511104 bytes and 0 steps: a "
            "file with such weights may take 268435712 and 2e+09 more for this");
}

static void what_must_be_computed_is_bounded(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 1);
  NET_INTS(&net, "huge", 1 << 20, 1 << 20);
  net_node(&net, "fill", "ConstantOfShape", "huge", "zeros");
  net_node(&net, "places", "NonZero", "zeros", "y");
  net_fails(&net, "y", 1, E_LIMIT,
            "node 'places' (NonZero): computing it takes 4398046511104 bytes and 1.1e+12 steps: the import of this "
            "file may take 83886418 and 2e+08 more");
  net = net_of(17);
  NET_INPUT(&net, "x", -1, 1);
  NET_INTS(&net, "huge", 33000000);
  net_node(&net, "fill", "ConstantOfShape", "huge", "zeros");
  net_node(&net, "view", "Reshape", "x,zeros", "y");
  net_fails(
      &net, "y", 1, E_LIMIT,
      "node 'view' (Reshape): input 1 ('zeros') has 33000000 numbers, and no operator takes more than 65536 there");
}

/* Nor does a batch that a file claims, in contents that it repeats for every sample. */
static void repeats_for_a_huge_batch_are_not_written_out(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 1000000, 1);
  NET_INTS(&net, "sizes", 1000000, 1000);
  net_node(&net, "fill", "ConstantOfShape", "sizes", "zeros");
  Bytes join = node("join", "Concat", "x,zeros", "y");
  put_attribute_int(&join, "axis", 1);
  net_add(&net, join);
  net_fails(&net, "y", 0, E_LIMIT,
            "node 'join' (Concat): constant [] repeated to [1000000,1000], 4000000000 bytes: too much to write out; "
            "fewer samples need less");
}

static void outputs_that_no_node_makes(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2);
  put_message(&net.graph, 5, weight("w", 2, 0, 5, 1));
  Bytes c = node("c", "Constant", "", "seven");
  put_attribute_float(&c, "value_float", 7);
  net_add(&net, c);
  net_node(&net, "i", "Identity", "x", "same");
  net_node(&net, "n", "Neg", "x", "a");
  net_node(&net, "j", "Identity", "a", "b");
  Bound b = net_bind_ok(&net, "x,same,seven,a,b,w", 1);
  static const char *const names[] = {"x", "same", "seven", "a", "b", "w"};
  for (size_t i = 0; i < 6; i++)
    assert_string_equal(graph_value(b.graph, b.graph->outputs[i])->name, names[i]);
  GIVES(&b, 0, (1, 2), 0, 1);
  GIVES(&b, 1, (1, 2), 0, 1);
  float seven = 7;
  bound_gives(&b, 2, 0, NULL, &seven);
  GIVES(&b, 3, (1, 2), 0, -1);
  GIVES(&b, 4, (1, 2), 0, -1);
  bound_end(&b);
}

/* ---- what is refused ---- */

static void everything_unsupported_is_named(void **state) {
  (void)state;
  Net net = net_of(13);
  NET_INPUT(&net, "x", -1, 2);
  net_node(&net, "one", "Bessel", "x", "a");
  Bytes g = node("two", "Gemm", "x,x", "b"), e = node("four", "Elu", "b", "c");
  put_attribute_int(&g, "alphabet", 3);
  net_add(&net, g);
  net_node(&net, "three", "LayerNormalization", "x,x", "d");
  put_attribute_int(&e, "alpha", 1);
  net_add(&net, e);
  net_add(&net, call("five", "Missing", "x", "f"));
  net_node(&net, "fine", "Neg", "a", "y");
  net_fails(&net, "y", 1, E_UNSUPPORTED,
            "5 nodes are not supported: node 'one' (Bessel): no such operator here; node 'two' (Gemm): attribute "
            "'alphabet'; node 'three' (LayerNormalization): opset 13; it is there from 17 to 28; node 'four' (Elu): "
            "attribute 'alpha' is of another kind than ONNX says; node 'five' (Missing): no operator or function of "
            "domain 'test'");
}

/* Where there are too many to list, each operator still is. */
static void many_unsupported_are_counted(void **state) {
  (void)state;
  Net net = net_of(13);
  char name[300], tensor[8], before[8] = "x";
  NET_INPUT(&net, "x", -1, 2);
  for (int i = 0; i < 400; i++) {
    snprintf(name, sizeof name, "n%d", i);
    snprintf(tensor, sizeof tensor, "t%d", i);
    net_node(&net, name, i == 399 ? "Hankel" : i % 2 ? "Airy" : "Bessel", before, tensor);
    memcpy(before, tensor, sizeof before);
  }
  net_fails(
      &net, "t399", 1, E_UNSUPPORTED,
      "400 nodes are not supported: node 'n0' and 199 more (Bessel): no such operator here; node 'n1' and 198 more "
      "(Airy): no such operator here; node 'n399' (Hankel): no such operator here");
  net = net_of(13);
  NET_INPUT(&net, "x", -1, 2);
  memset(name, 'q', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  net_node(&net, name, "Bessel", "x", "y");
  memset(name + 160, 0, sizeof name - 160);
  char expected[512];
  snprintf(expected, sizeof expected, "not supported: node '%s' (Bessel): no such operator here", name);
  net_fails(&net, "y", 1, E_UNSUPPORTED, expected);
}

static void findings_without_binding(void **state) {
  (void)state;
  Net net = net_of(17);
  Bytes f = function("F", "x", "y", 20);
  put_message(&f, 7, node("in", "Bessel", "x", "y"));
  net_function(&net, f);
  NET_INPUT(&net, "x", -1, 2);
  net_add(&net, call("f", "F", "x", "a"));
  net_add(&net, call("g", "F", "a", "b"));
  Bound b = net_bind(&net, "b", 1);
  json_t *found = json_array();
  assert_int_equal(b.status, E_UNSUPPORTED);
  ASSERT_OK(model_unsupported(b.model, found));
  assert_int_equal(json_array_size(found), 1);
  assert_string_equal(json_string_value(json_object_get(json_array_get(found, 0), "node")), "F/in");
  assert_string_equal(json_string_value(json_object_get(json_array_get(found, 0), "operator")), "Bessel");
  json_decref(found);
  bound_end(&b);
}

static void dimensions_must_be_bound(void **state) {
  (void)state;
  Net open = net_of(17), fixed = net_of(17);
  NET_INPUT(&open, "x", -1, 2);
  net_node(&open, "n", "Neg", "x", "y");
  net_fails(&open, "y", 0, E_USAGE, "dimension 'batch' (axis 0 of input 'x') is open: give --dim batch=N");
  NET_INPUT(&fixed, "x", 4, 2);
  net_node(&fixed, "n", "Neg", "x", "y");
  net_fails(&fixed, "y", 3, E_USAGE, "the file was exported for 4 samples, a microbatch has 3");
}

static void dimensions_by_name(void **state) {
  (void)state;
  const DimBinding dims[] = {{"batch", 5}, {"length", 7}};
  BindOptions options = {.dims = dims, .n_dims = 2, .evaluate = backend_evaluate};
  Arena *arena = arena_create();
  Model *model;
  Graph *graph;
  ASSERT_OK(model_open(SOURCE_DIR "/models/nanogpt/model.onnx", NULL, &model));
  ASSERT_OK(model_bind(model, &options, arena, &graph));
  assert_int_equal(graph_value(graph, graph->inputs[0])->shape.dim[0], 5);
  options.batch = 4;
  assert_int_equal(model_bind(model, &options, arena, &graph), E_USAGE);
  assert_non_null(strstr(status_message(), "dimension 'batch' counts the 4 samples of a microbatch, --dim says 5"));
  model_close(model);
  arena_destroy(arena);
}

static const Lowering *const tables[] = {
#define TABLE(name) lowerings_##name,
#include "onnx/lower/tables.def"
#undef TABLE
};
enum { TABLES = sizeof tables / sizeof *tables };

static bool has_word(const char *text, const char *name) {
  char word[64];
  snprintf(word, sizeof word, " %s ", name);
  return strstr(text, word);
}

static char *read_text(const char *path) {
  size_t bytes;
  char *text = (char *)read_file(path, &bytes);
  text[bytes] = 0;
  return text;
}

/* docs/onnx.md names every operator of the tables; docs/operators.md those of the graph that have another meaning or
 * name than ONNX's. */
static void operators_are_documented(void **state) {
  (void)state;
  char *onnx = read_text(SOURCE_DIR "/docs/onnx.md"), *canonical = read_text(SOURCE_DIR "/docs/operators.md");
  for (size_t t = 0; t < TABLES; t++)
    for (const Lowering *row = tables[t]; row->op; row++)
      if (!has_word(onnx, row->op))
        FAIL_TEST("docs/onnx.md lacks %s", row->op);
  for (int op = 0; op < OP_COUNT; op++) {
    const OpDef *def = op_def((OpKind)op);
    bool as_onnx = def->traits & OP_ELEMENTWISE && has_word(onnx, def->name);
    if (!as_onnx && !has_word(canonical, def->name))
      FAIL_TEST("docs/%s.md lacks %s", def->traits & OP_ELEMENTWISE ? "onnx" : "operators", def->name);
  }
  free(onnx);
  free(canonical);
}

/* What is computed element by element has ONNX's name. */
static void elementwise_operators_are_read(void **state) {
  (void)state;
  for (int op = 0; op < OP_COUNT; op++) {
    const char *name = op_def((OpKind)op)->name;
    bool found = !(op_def((OpKind)op)->traits & OP_ELEMENTWISE) || op == OP_Narrow; /* what a Cast does */
    for (size_t t = 0; t < TABLES; t++)
      for (const Lowering *row = tables[t]; row->op; row++)
        found |= strcmp(row->op, name) == 0;
    if (!found)
      FAIL_TEST("operator %s has no row in onnx/lower/math.c", name);
  }
}

static void shapes_are_checked(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2);
  put_message(&net.graph, 5, weight("w", 3, 2, 0, 1));
  net_node(&net, "h3/attn", "MatMul", "x,w", "y");
  net_fails(&net, "y", 8, E_SHAPE, "node 'h3/attn' (MatMul): inner dimensions differ: A [8,2], B [3,2]");
}

static void structure_from_data_is_refused(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", -1, 2);
  Bytes cast = node("c", "Cast", "x", "to");
  put_attribute_int(&cast, "to", 7);
  net_add(&net, cast);
  net_node(&net, "r", "Reshape", "x,to", "y");
  net_fails(&net, "y", 8, E_UNSUPPORTED,
            "not supported: node 'r' (Reshape): input 1 ('to') is not known before the model runs");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(functions_are_inlined),
      cmocka_unit_test(function_with_absent_input),
      cmocka_unit_test(function_of_another_opset),
      cmocka_unit_test(what_is_in_the_branch_counts),
      cmocka_unit_test(branch_sees_its_surroundings),
      cmocka_unit_test(branch_on_data_is_chosen),
      cmocka_unit_test(sequences_become_splits),
      cmocka_unit_test(unused_parts_are_dropped),
      cmocka_unit_test(old_opsets),
      cmocka_unit_test(flat_softmax_before_13),
      cmocka_unit_test(shape_arithmetic_disappears),
      cmocka_unit_test(weights_are_read_transposed),
      cmocka_unit_test(masks_are_small),
      cmocka_unit_test(huge_fills_are_not_written_out),
      cmocka_unit_test(repeats_for_a_huge_batch_are_not_written_out),
      cmocka_unit_test(what_no_input_reaches_is_bounded),
      cmocka_unit_test(what_must_be_computed_is_bounded),
      cmocka_unit_test(outputs_that_no_node_makes),
      cmocka_unit_test(everything_unsupported_is_named),
      cmocka_unit_test(many_unsupported_are_counted),
      cmocka_unit_test(findings_without_binding),
      cmocka_unit_test(dimensions_must_be_bound),
      cmocka_unit_test(dimensions_by_name),
      cmocka_unit_test(operators_are_documented),
      cmocka_unit_test(elementwise_operators_are_read),
      cmocka_unit_test(shapes_are_checked),
      cmocka_unit_test(structure_from_data_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
