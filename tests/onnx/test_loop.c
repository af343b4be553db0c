/* Loop, Scan, SequenceMap, optional values and an If whose condition comes from data: how often bodies run, what they
 * carry and stack, and what is too much. */
#include "tests/onnx/build_net.h"

/* A body with these inputs and outputs; nodes are added before. */
static Bytes body_of(Bytes nodes, const char *inputs, const char *outputs) {
  Bytes all = {0};
  put_raw(&all, nodes.data, nodes.bytes);
  free(nodes.data);
  while (*inputs) {
    char name[32] = "";
    size_t n = strcspn(inputs, ",");
    memcpy(name, inputs, n);
    Bytes info = {0};
    put_text(&info, 1, name);
    put_message(&all, 11, info);
    inputs += n + (inputs[n] == ',');
  }
  net_outputs(&all, outputs);
  return all;
}

static void body_node(Bytes *nodes, const char *name, const char *op, const char *inputs, const char *outputs) {
  put_message(nodes, 1, node(name, op, inputs, outputs));
}

static Bytes with_body(const char *op, const char *inputs, const char *outputs, Bytes body) {
  Bytes n = node("l", op, inputs, outputs);
  put_attribute_graph(&n, "body", body);
  return n;
}

/* a' = a + x, of an x around the loop, stacked; while `c`. */
static Bytes adding(const char *condition) {
  Bytes nodes = {0};
  body_node(&nodes, "add", "Add", "a,x", "b");
  return body_of(nodes, "i,c,a", condition);
}

static void loops_carry_and_stack(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 1, 2);
  NET_INT(&net, "three", 3);
  net_bool(&net, "yes", true);
  net_add(&net, with_body("Loop", "three,yes,x", "y,all", adding("c,b,b")));
  Bound b = net_bind_ok(&net, "y,all", 0);
  assert_int_equal(count_nodes(b.graph, OP_Add), 3);
  for (size_t i = 0; i < b.graph->n_nodes; i++)
    if (b.graph->nodes[i]->op == OP_Add)
      assert_int_equal(b.graph->nodes[i]->unrolled, 1);
  GIVES(&b, 0, (1, 2), 0, 4);
  GIVES(&b, 1, (3, 1, 2), 0, 2, 0, 3, 0, 4);
  bound_end(&b);
}

static void loops_end_by_their_condition(void **state) {
  (void)state;
  Net net = net_of(17);
  Bytes nodes = {0};
  NET_INPUT(&net, "x", 2);
  NET_INT(&net, "two", 2);
  body_node(&nodes, "less", "Less", "i,two", "go");
  body_node(&nodes, "add", "Add", "a,x", "b");
  net_add(&net, with_body("Loop", ",,x", "y", body_of(nodes, "i,c,a", "go,b")));
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (2), 0, 4); /* runs 0, 1 and 2 */
  bound_end(&b);
}

static void endless_loops_are_refused(void **state) {
  (void)state;
  Net net = net_of(17);
  NET_INPUT(&net, "x", 2);
  net_add(&net, with_body("Loop", ",,x", "y", adding("c,b")));
  Bound b = net_bind(&net, "y", 0);
  assert_int_equal(b.status, E_LIMIT);
  bound_end(&b);
}

static void conditions_from_data_are_named(void **state) {
  (void)state;
  Net net = net_of(17);
  Bytes nodes = {0};
  NET_INPUT(&net, "x", 1);
  body_node(&nodes, "less", "Less", "a,x", "go");
  body_node(&nodes, "add", "Add", "a,x", "b");
  net_add(&net, with_body("Loop", ",,x", "y", body_of(nodes, "i,c,a", "go,b")));
  net_fails(&net, "y", 0, E_UNSUPPORTED,
            "not supported: node 'l' (Loop): its condition after 1 runs is not known before the model runs");
}

static void what_a_body_lacks_is_named_once(void **state) {
  (void)state;
  Net net = net_of(17);
  Bytes nodes = {0};
  NET_INPUT(&net, "x", 1);
  NET_INT(&net, "many", 9);
  body_node(&nodes, "odd", "Mystery", "a", "b");
  net_add(&net, with_body("Loop", "many,,x", "y", body_of(nodes, "i,c,a", "c,b")));
  net_fails(&net, "y", 0, E_UNSUPPORTED, "not supported: node 'l/0/odd' (Mystery): no such operator here");
}

/* Sums of rows starts[i] … ends[i] - 1 of x. */
static void put_bags(Net *net, int n, const int64_t *starts, const int64_t *ends) {
  Bytes nodes = {0}, sum = node("r", "ReduceSum", "rows,zero", "sum");
  net_ints(net, "starts", 1, n + 1, starts);
  net_ints(net, "ends", 1, n, ends);
  NET_INTS(net, "zero", 0);
  NET_INT(net, "n", n);
  body_node(&nodes, "s", "Gather", "starts,i", "s0");
  body_node(&nodes, "e", "Gather", "ends,i", "e0");
  body_node(&nodes, "us", "Unsqueeze", "s0,zero", "s1");
  body_node(&nodes, "ue", "Unsqueeze", "e0,zero", "e1");
  body_node(&nodes, "cut", "Slice", "x,s1,e1,zero", "rows");
  put_attribute_int(&sum, "keepdims", 0);
  put_message(&nodes, 1, sum);
  net_add(net, with_body("Loop", "n,", "y", body_of(nodes, "i,c", "c,sum")));
}

static void bags_are_reduced_at_once(void **state) {
  (void)state;
  Net ragged = net_of(17), even = net_of(17), other = net_of(17);
  NET_INPUT(&ragged, "x", 5, 2);
  put_bags(&ragged, 3, (int64_t[]){0, 2, 2, 5}, (int64_t[]){2, 2, 5});
  Bound b = net_bind_ok(&ragged, "y", 0);
  assert_int_equal(count_nodes(b.graph, OP_SegmentReduce), 1);
  assert_int_equal(count_nodes(b.graph, OP_ReduceSum), 0);
  GIVES(&b, 0, (3, 2), 2, 4, 0, 0, 18, 21);
  bound_end(&b);
  NET_INPUT(&even, "x", 4, 2); /* bags of one size are a stack */
  put_bags(&even, 2, (int64_t[]){0, 2, 4}, (int64_t[]){2, 4});
  b = net_bind_ok(&even, "y", 0);
  assert_int_equal(count_nodes(b.graph, OP_SegmentReduce), 0);
  assert_int_equal(count_nodes(b.graph, OP_ReduceSum), 1);
  GIVES(&b, 0, (2, 2), 2, 4, 10, 12);
  bound_end(&b);
  NET_INPUT(&other, "x", 4, 2); /* bags that overlap are no bags */
  put_bags(&other, 2, (int64_t[]){0, 1, 4}, (int64_t[]){2, 4});
  b = net_bind_ok(&other, "y", 0);
  assert_int_equal(count_nodes(b.graph, OP_SegmentReduce), 0);
  assert_int_equal(count_nodes(b.graph, OP_ReduceSum), 2);
  GIVES(&b, 0, (2, 2), 2, 4, 12, 15);
  bound_end(&b);
}

static void scans_go_along_axes(void **state) {
  (void)state;
  Net net = net_of(17);
  Bytes nodes = {0};
  NET_INPUT(&net, "x", 2, 3);
  NET_INPUT(&net, "s", 2);
  body_node(&nodes, "add", "Add", "a,part", "b");
  Bytes n = with_body("Scan", "s,x", "last,all", body_of(nodes, "a,part", "b,b"));
  put_attribute_int(&n, "num_scan_inputs", 1);
  PUT_INTS(&n, "scan_input_axes", 1);
  PUT_INTS(&n, "scan_input_directions", 1);
  PUT_INTS(&n, "scan_output_axes", -1);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "last,all", 0);
  GIVES(&b, 0, (2), 3, 13);
  GIVES(&b, 1, (2, 3), 2, 3, 3, 6, 10, 13);
  bound_end(&b);
}

static void sequences_are_mapped(void **state) {
  (void)state;
  Net net = net_of(17);
  Bytes nodes = {0};
  NET_INPUT(&net, "x", 2);
  net_node(&net, "s", "SequenceConstruct", "x,x,x", "seq");
  body_node(&nodes, "add", "Add", "part,other", "sum");
  net_add(&net, with_body("SequenceMap", "seq,x", "sums", body_of(nodes, "part,other", "sum")));
  Bytes join = node("j", "ConcatFromSequence", "sums", "y");
  put_attribute_int(&join, "axis", 0);
  net_add(&net, join);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (6), 0, 2, 0, 2, 0, 2);
  bound_end(&b);
}

static void optional_values_are_known(void **state) {
  (void)state;
  Net net = net_of(18), empty = net_of(18);
  Bytes yes = {0}, no = {0}, n = node("i", "If", "has", "y");
  NET_INPUT(&net, "x", 2);
  net_node(&net, "o", "Optional", "x", "o");
  net_node(&net, "h", "OptionalHasElement", "o", "has");
  body_node(&yes, "g", "OptionalGetElement", "o", "v");
  body_node(&no, "n", "Neg", "x", "v");
  put_attribute_graph(&n, "then_branch", body_of(yes, "", "v"));
  put_attribute_graph(&n, "else_branch", body_of(no, "", "v"));
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (2), 0, 1);
  bound_end(&b);
  NET_INPUT(&empty, "x", 2);
  net_node(&empty, "o", "Optional", "", "o");
  net_node(&empty, "g", "OptionalGetElement", "o", "y");
  net_fails(&empty, "y", 0, E_MODEL, "node 'g' (OptionalGetElement): the optional value is empty");
}

/* max(x) > 1: doubled, else negated. */
static Net choosing(const char *then_op) {
  Net net = net_of(17);
  Bytes yes = {0}, no = {0}, n = node("i", "If", "large", "y"), r = node("r", "ReduceMax", "x", "m");
  NET_INPUT(&net, "x", 3);
  put_attribute_int(&r, "keepdims", 0);
  net_add(&net, r);
  Bytes one = tensor("one", 1, 0, NULL);
  put_bytes(&one, TENSOR_RAW_DATA, (float[]){1}, 4);
  put_message(&net.graph, 5, one);
  net_node(&net, "g", "Greater", "m,one", "large");
  body_node(&yes, "t", then_op, "x,x", "v");
  body_node(&no, "n", "Neg", "x", "v");
  put_attribute_graph(&n, "then_branch", body_of(yes, "", "v"));
  put_attribute_graph(&n, "else_branch", body_of(no, "", "v"));
  net_add(&net, n);
  return net;
}

static void conditions_from_data_take_one_branch(void **state) {
  (void)state;
  Net net = choosing("Add"), shapes = choosing("MatMul");
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (3), 0, 2, 4);
  bound_end(&b);
  net_fails(&shapes, "y", 0, E_UNSUPPORTED,
            "not supported: node 'i' (If): its condition is not known before the model runs, and the branches give "
            "float32 [] and float32 [3]");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(loops_carry_and_stack),
      cmocka_unit_test(loops_end_by_their_condition),
      cmocka_unit_test(endless_loops_are_refused),
      cmocka_unit_test(conditions_from_data_are_named),
      cmocka_unit_test(what_a_body_lacks_is_named_once),
      cmocka_unit_test(bags_are_reduced_at_once),
      cmocka_unit_test(scans_go_along_axes),
      cmocka_unit_test(sequences_are_mapped),
      cmocka_unit_test(optional_values_are_known),
      cmocka_unit_test(conditions_from_data_take_one_branch),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
