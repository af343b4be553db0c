/* Where the samples lie in bound models, in the cases that random ones (tests/batch) found hard. */
#include "graph/loss.h"
#include "tests/onnx/build_net.h"

static const Batch *output_batch(const Bound *b, size_t i) {
  return &graph_value(b->graph, b->graph->outputs[i])->batch;
}

/* [N] to [1,N] to [N,1]: with one sample all three look alike. */
static Net turned(void) {
  Net net = net_of(18);
  NET_INPUT(&net, "x", -1);
  NET_INTS(&net, "axis", 0);
  Bytes turn = node("turn", "Transpose", "row", "y");
  net_node(&net, "lift", "Unsqueeze", "x,axis", "row");
  PUT_INTS(&turn, "perm", 1, 0);
  net_add(&net, turn);
  return net;
}

static void one_sample_lies_where_many_do(void **state) {
  (void)state;
  for (int64_t samples = 1; samples < 4; samples++) {
    Net net = turned();
    Bound b = net_bind_ok(&net, "y", samples);
    assert_int_equal(output_batch(&b, 0)->kind, BATCH_AXIS);
    assert_int_equal(output_batch(&b, 0)->axis, 0);
    bound_end(&b);
  }
}

/* Another function with few samples than with many. */
static Net with_many(void) {
  Net net = net_of(18);
  NET_INPUT(&net, "x", -1, 2);
  NET_INT(&net, "first", 0);
  NET_INT(&net, "few", 3);
  net_node(&net, "shape", "Shape", "x", "s");
  net_node(&net, "samples", "Gather", "s,first", "n");
  net_node(&net, "many", "Greater", "n,few", "yes");
  Bytes choice = node("choice", "If", "yes", "y");
  for (int k = 0; k < 2; k++) {
    Bytes branch = {0}, info = {0};
    put_message(&branch, 1, node("", k ? "Identity" : "Tanh", "x", k ? "b" : "a"));
    put_text(&branch, 2, "branch");
    put_text(&info, 1, k ? "b" : "a");
    put_message(&branch, 12, info);
    put_attribute_graph(&choice, k ? "else_branch" : "then_branch", branch);
  }
  net_add(&net, choice);
  return net;
}

static void what_was_proved_holds_at_the_number_at_hand(void **state) {
  (void)state;
  for (int64_t samples = 2; samples < 10; samples += 6) {
    Net net = with_many();
    Bound b = net_bind_ok(&net, "y", samples);
    assert_int_equal(output_batch(&b, 0)->kind, samples > 3 ? BATCH_AXIS : BATCH_MIXED);
    bound_end(&b);
  }
}

/* Scores from which the samples' mean was taken: a mean over what counts is no mean of the microbatches'. */
static void mixed_scores_have_no_mean_loss(void **state) {
  (void)state;
  for (int microbatches = 1; microbatches < 3; microbatches++) {
    Net net = net_of(17);
    Bytes mean = node("mean", "ReduceMean", "x", "m"), loss = node("loss", "SoftmaxCrossEntropyLoss", "h,labels", "l");
    NET_INPUT(&net, "x", -1, 4);
    NET_INPUT(&net, "z", -1);
    PUT_INTS(&mean, "axes", 0);
    put_attribute_int(&loss, "ignore_index", 1);
    net_add(&net, mean);
    net_node(&net, "centre", "Sub", "x,m", "h");
    Bytes cast = node("cast", "Cast", "z", "labels");
    put_attribute_int(&cast, "to", 7);
    net_add(&net, cast);
    net_add(&net, loss);
    Bound b = net_bind_ok(&net, "l", 6);
    LossSpec spec = {.kind = LOSS_MODEL, .output = b.graph->outputs[0], .microbatches = microbatches, .class_axis = -1};
    Status status = loss_append(b.graph, &spec);
    assert_int_equal(status, microbatches > 1 ? E_UNSUPPORTED : OK);
    if (microbatches > 1)
      assert_non_null(strstr(status_message(), "node 'mean' (ReduceMean)"));
    else
      assert_non_null(spec.coupled);
    bound_end(&b);
  }
}

static Status loss_of(const Bound *b, int microbatches) {
  LossSpec spec = {.kind = LOSS_MODEL, .output = b->graph->outputs[0], .microbatches = microbatches, .class_axis = -1};
  return loss_append(b->graph, &spec);
}

/* A sum over samples by how many there are is their mean; by another number, or of something else beside it, not. */
static void a_mean_may_be_written_by_hand(void **state) {
  (void)state;
  for (int k = 0; k < 3; k++) {
    Net net = net_of(18);
    NET_INPUT(&net, "x", -1, 2);
    NET_INT(&net, "first", k == 1);
    Bytes sum = node("sum", "ReduceSum", k == 2 ? "xx" : "x", "s"), cast = node("cast", "Cast", "n", "m");
    net_node(&net, "shape", "Shape", "x", "sizes");
    net_node(&net, "count", "Gather", "sizes,first", "n");
    net_node(&net, "twice", "Mul", "x,x", "xx");
    put_attribute_int(&cast, "to", 1);
    put_attribute_int(&sum, "keepdims", 0);
    net_add(&net, cast);
    net_add(&net, sum);
    net_node(&net, "mean", "Div", "s,m", "y");
    Bound b = net_bind_ok(&net, "y", 4);
    assert_int_equal(loss_of(&b, 2), k == 1 ? E_UNSUPPORTED : OK);
    bound_end(&b);
  }
}

/* One behind the other along the samples' axis: there are two places for each sample. */
static void samples_lie_twice_along_an_axis(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", -1, 2);
  Bytes twice = node("twice", "Concat", "x,x", "y");
  put_attribute_int(&twice, "axis", 0);
  net_add(&net, twice);
  Bound b = net_bind_ok(&net, "y", 3);
  const Batch *batch = output_batch(&b, 0);
  assert_int_equal(batch->kind, BATCH_AXIS);
  assert_int_equal(batch->axis, 0);
  assert_int_equal(batch->outer, 2);
  assert_int_equal(batch->inner, 1);
  bound_end(&b);
}

/* [N,2] seen as [2,N]: whose an element is cannot be told by its place, but a mean of all does not ask. */
static void a_mean_of_all_does_not_ask_for_the_order(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    Net net = net_of(17);
    NET_INPUT(&net, "x", -1, 2);
    NET_INTS(&net, "shape", 2, -1);
    Bytes mean = node("mean", "ReduceMean", k ? "c" : "q", "y"), sums = node("sums", "CumSum", "q,first", "c");
    NET_INT(&net, "first", 1);
    put_attribute_int(&mean, "keepdims", 0);
    net_node(&net, "scramble", "Reshape", "x,shape", "r");
    net_node(&net, "square", "Mul", "r,r", "q");
    net_add(&net, sums);
    net_add(&net, mean);
    Bound b = net_bind_ok(&net, "y", 4);
    assert_int_equal(output_batch(&b, 0)->kind, BATCH_MIXED);
    assert_int_equal(loss_of(&b, 2), k ? E_UNSUPPORTED : OK);
    bound_end(&b);
  }
}

/* A sample's own number is another in a microbatch: the order counts. A mean by operator, and one written by hand. */
static void a_mean_asks_which_sample_it_is(void **state) {
  (void)state;
  for (int k = 0; k < 3; k++) {
    Net net = net_of(18);
    NET_INPUT(&net, "x", -1);
    NET_INT(&net, "zero", 0);
    NET_INT(&net, "one", 1);
    Bytes whole = node("whole", "Cast", "x", "i"),
          back = node("back", "Cast",
                      k == 2 ? "t"
                      : k    ? "p"
                             : "i",
                      "f"),
          mean = node("mean", "ReduceMean", "f", "y"), total = node("total", "ReduceSum", "p", "t"),
          count = node("float", "Cast", "n", "m");
    put_attribute_int(&whole, "to", 7);
    put_attribute_int(&back, "to", 1);
    put_attribute_int(&mean, "keepdims", 0);
    net_node(&net, "shape", "Shape", "x", "sizes");
    net_node(&net, "count", "Gather", "sizes,zero", "n");
    net_node(&net, "own", "Range", "zero,n,one", "numbers");
    net_add(&net, whole);
    net_node(&net, "place", "Add", "i,numbers", "p");
    put_attribute_int(&total, "keepdims", 0);
    put_attribute_int(&count, "to", 1);
    net_add(&net, total);
    net_add(&net, count);
    net_add(&net, back);
    if (k < 2) {
      net_add(&net, mean);
    } else {
      free(mean.data);
      net_node(&net, "ratio", "Div", "f,m", "y");
    }
    Bound b = net_bind_ok(&net, "y", 4);
    assert_int_equal(loss_of(&b, 2), k ? E_UNSUPPORTED : OK);
    bound_end(&b);
  }
}

/* Each element once for each sample: a mean of all is one, but a sum grows with the square of their number. */
static void a_sum_asks_how_often_elements_are_there(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    Net net = net_of(18);
    NET_INPUT(&net, "x", -1, 1);
    NET_INT(&net, "zero", 0);
    NET_INTS(&net, "first", 0);
    NET_INTS(&net, "three", 3);
    Bytes cast = node("cast", "Cast", "n", "m"), sum = node("sum", "ReduceSum", "e", "s"),
          sizes = node("sizes", "Concat", k ? "rows,rows" : "rows,three", "square");
    put_attribute_int(&cast, "to", 1);
    put_attribute_int(&sum, "keepdims", 0);
    put_attribute_int(&sizes, "axis", 0);
    net_node(&net, "shape", "Shape", "x", "given");
    net_node(&net, "count", "Gather", "given,zero", "n");
    net_node(&net, "counts", "Gather", "given,first", "rows");
    net_add(&net, cast);
    net_add(&net, sizes);
    net_node(&net, "repeat", "Expand", "x,square", "e");
    net_add(&net, sum);
    net_node(&net, "mean", "Div", "s,m", "y");
    Bound b = net_bind_ok(&net, "y", 4);
    assert_int_equal(loss_of(&b, 2), k ? E_UNSUPPORTED : OK);
    bound_end(&b);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_sample_lies_where_many_do),   cmocka_unit_test(what_was_proved_holds_at_the_number_at_hand),
      cmocka_unit_test(mixed_scores_have_no_mean_loss),  cmocka_unit_test(a_mean_may_be_written_by_hand),
      cmocka_unit_test(samples_lie_twice_along_an_axis), cmocka_unit_test(a_mean_of_all_does_not_ask_for_the_order),
      cmocka_unit_test(a_mean_asks_which_sample_it_is),  cmocka_unit_test(a_sum_asks_how_often_elements_are_there),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
