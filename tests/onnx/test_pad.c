/* Padding, grids and what is known of boxes: numbers as PyTorch 2.15.0 gives them, or worked out by hand. */
#include "tests/onnx/gradient.h"

#define TRAINS(net, x, y, dx)                                                                                          \
  do {                                                                                                                 \
    Bound bound_ = net_bind_ok(&(net), "y", 0);                                                                        \
    bound_trains(&bound_, x, y, dx);                                                                                   \
    bound_end(&bound_);                                                                                                \
  } while (0)

static Net padded(const char *mode) {
  Net net = net_of(19);
  NET_INPUT(&net, "x", 1, 2, 3);
  NET_INTS(&net, "pads", 0, 0, 2, 0, 0, 1);
  Bytes n = node("p", "Pad", "x,pads", "y");
  put_attribute_text(&n, "mode", mode);
  net_add(&net, n);
  return net;
}

/* torch.nn.functional.pad(x, (2, 1), mode="reflect", "replicate", "circular") */
static void repeated_elements_gather_gradients(void **state) {
  (void)state;
  Net reflect = padded("reflect"), edge = padded("edge"), wrap = padded("wrap");
  TRAINS(reflect, COUNTS, NUMBERS(2, 1, 0, 1, 2, 1, 5, 4, 3, 4, 5, 4), NUMBERS(2, 9, 4, 8, 27, 16));
  TRAINS(edge, COUNTS, NUMBERS(0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 5, 5), NUMBERS(3, 3, 9, 21, 9, 21));
  TRAINS(wrap, COUNTS, NUMBERS(1, 2, 0, 1, 2, 0, 4, 5, 3, 4, 5, 3), NUMBERS(7, 3, 5, 19, 15, 17));
}

/* numpy.pad: what is reflected is reflected again, and one element is all there is. */
static void reflections_go_on(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", 1, 3);
  NET_INTS(&net, "pads", 1, 5, 0, -1);
  Bytes n = node("p", "Pad", "x,pads", "y");
  put_attribute_text(&n, "mode", "reflect");
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (2, 7), 1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1);
  bound_end(&b);
}

static void modes_have_an_opset(void **state) {
  (void)state;
  Net net = net_of(13);
  NET_INPUT(&net, "x", 1, 2, 3);
  NET_INTS(&net, "pads", 0, 0, 2, 0, 0, 1);
  Bytes n = node("p", "Pad", "x,pads", "y");
  put_attribute_text(&n, "mode", "wrap");
  net_add(&net, n);
  net_fails(&net, "y", 0, E_UNSUPPORTED, "not supported: node 'p' (Pad): mode is 'wrap'");
}

static void crops_and_pads_around_the_center(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", 1, 4, 2);
  NET_INTS(&net, "size", 1, 5);
  Bytes n = node("c", "CenterCropPad", "x,size", "y");
  PUT_INTS(&n, "axes", 1, -1);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (1, 1, 5), 0, 2, 3, 0, 0);
  bound_end(&b);
}

/* affine_grid(theta, (1, 1, 2, 3), align_corners=…) of theta 0 … 5, and its gradient */
static void grids_are_affine(void **state) {
  (void)state;
  for (int corners = 0; corners < 2; corners++) {
    Net net = net_of(20);
    NET_INPUT(&net, "x", 1, 2, 3);
    NET_INTS(&net, "size", 1, 1, 2, 3);
    Bytes n = node("g", "AffineGrid", "x,size", "y");
    put_attribute_int(&n, "align_corners", corners);
    net_add(&net, n);
    if (corners)
      TRAINS(net, COUNTS, NUMBERS(1, -2, 1, 1, 1, 4, 3, 6, 3, 9, 3, 12), NUMBERS(8, 18, 30, 8, 18, 36));
    else
      TRAINS(net, COUNTS, NUMBERS(1.5, 1, 1.5, 3, 1.5, 5, 2.5, 5, 2.5, 7, 2.5, 9),
             NUMBERS(5.333333, 9, 30, 5.333333, 9, 36));
  }
}

static void net_floats(Net *net, const char *name, int rank, const int64_t *dims, const float *values) {
  Bytes t = tensor(name, 1, rank, dims);
  put_bytes(&t, TENSOR_RAW_DATA, values, (size_t)shape_elements(shape_of(rank, dims)) * sizeof *values);
  put_message(&net->graph, 5, t);
}

/* Box 1 covers box 0 but for a tenth, box 2 lies apart with its corners exchanged; box 3 scores too little. */
static void known_boxes_are_suppressed(void **state) {
  (void)state;
  Net net = net_of(11);
  NET_INPUT(&net, "x", 1, 1);
  const float boxes[] = {0, 0, 1, 1, 0, 0.1F, 1, 1.1F, 1, 11, 0, 10, 0, 20, 1, 21}, scores[] = {0.8F, 0.9F, 0.7F, 0.1F};
  const float half[] = {0.5F}, least[] = {0.2F};
  net_floats(&net, "boxes", 3, (int64_t[]){1, 4, 4}, boxes);
  net_floats(&net, "scores", 3, (int64_t[]){1, 1, 4}, scores);
  net_floats(&net, "half", 0, NULL, half);
  net_floats(&net, "least", 1, (int64_t[]){1}, least);
  NET_INT(&net, "most", 3);
  net_node(&net, "n", "NonMaxSuppression", "boxes,scores,most,half,least", "kept");
  Bytes cast = node("c", "Cast", "kept", "y");
  put_attribute_int(&cast, "to", 1);
  net_add(&net, cast);
  Bound b = net_bind_ok(&net, "y", 0);
  GIVES(&b, 0, (2, 3), 0, 0, 1, 0, 0, 2);
  bound_end(&b);
}

static void unknown_boxes_are_refused(void **state) {
  (void)state;
  Net net = net_of(11);
  NET_INPUT(&net, "boxes", 1, 4, 4);
  NET_INPUT(&net, "scores", 1, 1, 4);
  net_node(&net, "n", "NonMaxSuppression", "boxes,scores", "y");
  net_fails(&net, "y", 0, E_UNSUPPORTED,
            "not supported: node 'n' (NonMaxSuppression): the shape of the result depends on data");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(repeated_elements_gather_gradients),
      cmocka_unit_test(reflections_go_on),
      cmocka_unit_test(modes_have_an_opset),
      cmocka_unit_test(crops_and_pads_around_the_center),
      cmocka_unit_test(grids_are_affine),
      cmocka_unit_test(known_boxes_are_suppressed),
      cmocka_unit_test(unknown_boxes_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
