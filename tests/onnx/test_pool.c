/* Pooling and resizing: results and gradients as PyTorch 2.15.0 gives them (torch.nn.functional, on its CPU). */
#include "tests/onnx/gradient.h"

/* A model of one node that reads `x` of a shape. */
#define ONE_NODE(net, n, ...)                                                                                          \
  Net net = net_of(22);                                                                                                \
  NET_INPUT(&net, "x", __VA_ARGS__);                                                                                   \
  Bytes n

static Bound bound_one(Net *net, Bytes n) {
  net_add(net, n);
  return net_bind_ok(net, "y", 0);
}

#define TRAINS(net, n, x, y, dx)                                                                                       \
  do {                                                                                                                 \
    Bound bound_ = bound_one(&(net), (n));                                                                             \
    bound_trains(&bound_, x, y, dx);                                                                                   \
    bound_end(&bound_);                                                                                                \
  } while (0)

static const float tied[] = {2, 2, 1, 2, 0, 2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 1};

/* max_pool2d(x, 3, 2, 1) */
static void first_maximum_gets_the_gradient(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 4, 4) = node("p", "MaxPool", "x", "y");
  PUT_INTS(&n, "kernel_shape", 3, 3);
  PUT_INTS(&n, "strides", 2, 2);
  PUT_INTS(&n, "pads", 1, 1, 1, 1);
  TRAINS(net, n, tied, NUMBERS(2, 2, 2, 2), NUMBERS(0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
}

/* adaptive_max_pool2d(x, 1), with the loss 3 y */
static void first_maximum_of_all_gets_the_gradient(void **state) {
  (void)state;
  Net net = net_of(22);
  NET_INPUT(&net, "x", 1, 1, 4, 4);
  net_node(&net, "p", "GlobalMaxPool", "x", "m");
  Bytes n = node("c", "Concat", "m,m,m", "y");
  put_attribute_int(&n, "axis", 1);
  TRAINS(net, n, tied, NUMBERS(2, 2, 2), NUMBERS(3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
}

/* max_pool2d(x, 2, 2, 0, 2, ceil_mode=True): a window may leave X, but begins in it */
static void windows_leave_with_ceil_mode(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 5, 5) = node("p", "MaxPool", "x", "y");
  PUT_INTS(&n, "kernel_shape", 2, 2);
  PUT_INTS(&n, "strides", 2, 2);
  PUT_INTS(&n, "dilations", 2, 2);
  put_attribute_int(&n, "ceil_mode", 1);
  TRAINS(net, n, COUNTS, NUMBERS(12, 14, 22, 24),
         NUMBERS(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3));
}

/* avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=…) */
static void means_count_what_they_are_told(void **state) {
  (void)state;
  for (int include = 0; include < 2; include++) {
    ONE_NODE(net, n, 1, 1, 4, 4) = node("p", "AveragePool", "x", "y");
    PUT_INTS(&n, "kernel_shape", 3, 3);
    PUT_INTS(&n, "strides", 2, 2);
    PUT_INTS(&n, "pads", 1, 1, 1, 1);
    put_attribute_int(&n, "ceil_mode", 1);
    put_attribute_int(&n, "count_include_pad", include);
    if (include)
      TRAINS(net, n, COUNTS, NUMBERS(1.111111, 2.666667, 1.666667, 5.666667, 10, 5.5, 4.166667, 7, 3.75),
             NUMBERS(0, 0.1111111, 0.1111111, 0.4444444, 0.3333333, 0.8888889, 0.5555556, 1.722222, 0.3333333,
                     0.7777778, 0.4444444, 1.277778, 1.333333, 2.944444, 1.611111, 4.444445));
    else
      TRAINS(net, n, COUNTS, NUMBERS(2.5, 4, 5, 8.5, 10, 11, 12.5, 14, 15),
             NUMBERS(0, 0.1666667, 0.1666667, 1.166667, 0.5, 1.111111, 0.6111111, 3.277778, 0.5, 0.9444444, 0.4444444,
                     2.111111, 3.5, 6.277778, 2.777778, 12.44444));
  }
}

/* lp_pool2d(x, p, 2) */
static void norms_of_windows(void **state) {
  (void)state;
  for (int p = 2; p <= 3; p++) {
    ONE_NODE(net, n, 1, 1, 4, 4) = node("p", "LpPool", "x", "y");
    PUT_INTS(&n, "kernel_shape", 2, 2);
    PUT_INTS(&n, "strides", 2, 2);
    put_attribute_int(&n, "p", p);
    if (p == 2)
      TRAINS(net, n, COUNTS, NUMBERS(6.480741, 9.899495, 21.40093, 25.33772),
             NUMBERS(0, 0, 0.2020305, 0.3030457, 0, 0, 0.6060915, 0.7071068, 0.7476309, 0.8410848, 1.184005, 1.302406,
                     1.121446, 1.2149, 1.657608, 1.776008));
    else
      TRAINS(net, n, COUNTS, NUMBERS(5.748897, 8.406118, 17.28694, 20.36818),
             NUMBERS(0, 0, 0.05660686, 0.1273654, 0, 0, 0.5094618, 0.693434, 0.4283253, 0.5420992, 0.7231307, 0.8749881,
                     0.9637318, 1.131046, 1.417336, 1.627044));
  }
}

/* Of nothing but zeros a norm's slope is 0. */
static void norms_at_zero_have_no_slope(void **state) {
  (void)state;
  for (int p = 1; p <= 3; p++) {
    ONE_NODE(net, n, 1, 2, 1, 2) = node("p", "GlobalLpPool", "x", "y");
    put_attribute_int(&n, "p", p);
    TRAINS(net, n, ((const float[]){1, 0, 0, 0}), NUMBERS(1, 0), NUMBERS(0, 0, 0, 0));
    ONE_NODE(windows, w, 1, 1, 4) = node("p", "LpPool", "x", "y");
    put_attribute_ints(&w, "kernel_shape", 1, (const int64_t[]){2});
    put_attribute_ints(&w, "strides", 1, (const int64_t[]){2});
    put_attribute_int(&w, "p", p);
    TRAINS(windows, w, ((const float[]){2, 0, 0, 0}), NUMBERS(2, 0), NUMBERS(0, 0, 0, 0));
  }
}

/* Resize of x to `sizes` with these modes. */
static Bytes resize(Net *net, int rank, const int64_t *sizes, const char *mode, const char *coordinates) {
  net_ints(net, "sizes", 1, rank, sizes);
  Bytes n = node("r", "Resize", "x,,,sizes", "y");
  put_attribute_text(&n, "mode", mode);
  put_attribute_text(&n, "coordinate_transformation_mode", coordinates);
  return n;
}
#define SIZES(...)                                                                                                     \
  sizeof((int64_t[]){__VA_ARGS__}) / 8, (const int64_t[]) {                                                            \
    __VA_ARGS__                                                                                                        \
  }

/* interpolate(x, (5, 6), mode="bilinear", align_corners=…) */
static void linear_resizes(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 3, 4) = resize(&net, SIZES(1, 1, 5, 6), "linear", "half_pixel");
  TRAINS(net, n, COUNTS,
         NUMBERS(0, 0.5, 1.166667, 1.833333, 2.5, 3, 1.6, 2.1, 2.766667, 3.433333, 4.1, 4.6, 4, 4.5, 5.166667, 5.833333,
                 6.5, 7, 6.4, 6.9, 7.566667, 8.233333, 8.9, 9.4, 8, 8.5, 9.166667, 9.833334, 10.5, 11),
         NUMBERS(6.2, 9.666665, 13.13333, 16.6, 33.3, 37.2, 41.1, 45, 53, 56.46667, 59.93334, 63.4));
  ONE_NODE(other, m, 1, 1, 3, 4) = resize(&other, SIZES(1, 1, 5, 6), "linear", "align_corners");
  TRAINS(other, m, COUNTS,
         NUMBERS(0, 0.6, 1.2, 1.8, 2.4, 3, 2, 2.6, 3.2, 3.8, 4.4, 5, 4, 4.6, 5.2, 5.8, 6.4, 7, 6, 6.6, 7.2, 7.8, 8.4, 9,
                 8, 8.6, 9.2, 9.8, 10.4, 11),
         NUMBERS(4.8, 9, 12.6, 14.1, 34.4, 44, 48.8, 46.8, 46.8, 57, 60.6, 56.1));
}

/* interpolate(x, 5, mode="linear", align_corners=True); (1, 3, 3) with mode="trilinear", by opset 11's rules */
static void one_axis_and_three(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 2, 3) = resize(&net, SIZES(1, 2, 5), "linear", "align_corners");
  TRAINS(net, n, COUNTS, NUMBERS(0, 0.5, 1, 1.5, 2, 3, 3.5, 4, 4.5, 5), NUMBERS(0.5, 4, 5.5, 8, 14, 13));
  ONE_NODE(other, m, 1, 1, 2, 3, 2) = resize(&other, SIZES(1, 1, 1, 3, 3), "linear", "half_pixel");
  TRAINS(other, m, COUNTS, NUMBERS(3, 3.5, 4, 5, 5.5, 6, 7, 7.5, 8),
         NUMBERS(0.25, 1.25, 2.5, 3.5, 4.75, 5.75, 0.25, 1.25, 2.5, 3.5, 4.75, 5.75));
}

/* interpolate(x, (2, 6), mode="bicubic", align_corners=…) */
static void cubic_resizes(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 3, 4) = resize(&net, SIZES(1, 1, 2, 6), "cubic", "half_pixel");
  TRAINS(net, n, COUNTS,
         NUMBERS(0.6788196, 1.171875, 1.978588, 2.552662, 3.359375, 3.852431, 7.147572, 7.640625, 8.447338, 9.021413,
                 9.828125, 10.32118),
         NUMBERS(-0.1102285, 1.590576, 3.370485, 4.957764, 2.471791, 3.737367, 4.999313, 6.064968, 7.082892, 8.952147,
                 10.73206, 12.15088));
  ONE_NODE(other, m, 1, 1, 3, 4) = resize(&other, SIZES(1, 1, 2, 6), "cubic", "align_corners");
  TRAINS(other, m, COUNTS, NUMBERS(0, 0.504, 1.248, 1.752, 2.496, 3, 8, 8.504, 9.248, 9.752, 10.496, 11),
         NUMBERS(0.124, 2.728, 5.932, 6.216, 0, 0, 0, 0, 7.732, 13.12, 16.324, 13.824));
}

/* interpolate(x, (2, 2), mode=…, antialias=True): PyTorch leaves out what lies outside, and its cubic has a = -0.5 */
static void narrowing_counts_all_elements(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 3, 4) = resize(&net, SIZES(1, 1, 2, 2), "linear", "half_pixel");
  put_attribute_int(&n, "antialias", 1);
  put_attribute_int(&n, "exclude_outside", 1);
  TRAINS(net, n, COUNTS, NUMBERS(2.214286, 3.785715, 7.214286, 8.785714),
         NUMBERS(0, 0.08928572, 0.2678571, 0.2678571, 0.3214286, 0.5357143, 0.75, 0.6428572, 0.5357143, 0.8035714,
                 0.9821428, 0.8035714));
  ONE_NODE(other, m, 1, 1, 3, 4) = resize(&other, SIZES(1, 1, 2, 2), "cubic", "half_pixel");
  put_attribute_int(&m, "antialias", 1);
  put_attribute_int(&m, "exclude_outside", 1);
  put_attribute_float(&m, "cubic_coeff_a", -0.5F);
  TRAINS(other, m, COUNTS, NUMBERS(1.825942, 3.652388, 7.347611, 9.174057),
         NUMBERS(-0.05651146, 0.02666377, 0.2333416, 0.245944, 0.2997891, 0.544778, 0.8091081, 0.6866137, 0.5253174,
                 0.8252524, 1.03193, 0.8277728));
}

/* interpolate(x, (2, 7), mode="nearest" and "nearest-exact") */
static void nearest_resizes(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 3, 4) = resize(&net, SIZES(1, 1, 2, 7), "nearest", "asymmetric");
  put_attribute_text(&n, "nearest_mode", "floor");
  TRAINS(net, n, COUNTS, NUMBERS(0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7),
         NUMBERS(1, 5, 9, 6, 15, 19, 23, 13, 0, 0, 0, 0));
  ONE_NODE(other, m, 1, 1, 3, 4) = resize(&other, SIZES(1, 1, 2, 7), "nearest", "half_pixel");
  put_attribute_text(&m, "nearest_mode", "round_prefer_ceil");
  TRAINS(other, m, COUNTS, NUMBERS(0, 0, 1, 2, 2, 3, 3, 8, 8, 9, 10, 10, 11, 11),
         NUMBERS(1, 2, 7, 11, 0, 0, 0, 0, 15, 9, 21, 25));
}

/* Elements that are repeated are a copy by strides; the scale 4/3, as float32, still reads element 3 at place 4. */
static void upsampling_repeats(void **state) {
  (void)state;
  Net net = net_of(9), odd = net_of(9);
  NET_INPUT(&net, "x", 1, 1, 2, 2);
  NET_INPUT(&odd, "x", 1, 6);
  const float twice[] = {1, 1, 2, 3}, third[] = {1, 4.0F / 3};
  Bytes t = tensor("s", 1, 1, (int64_t[]){4}), u = tensor("s", 1, 1, (int64_t[]){2});
  put_bytes(&t, TENSOR_RAW_DATA, twice, sizeof twice);
  put_bytes(&u, TENSOR_RAW_DATA, third, sizeof third);
  put_message(&net.graph, 5, t);
  put_message(&odd.graph, 5, u);
  Bound b = bound_one(&net, node("u", "Upsample", "x,s", "y"));
  assert_int_equal(count_nodes(b.graph, OP_Expand), 1);
  assert_int_equal(count_nodes(b.graph, OP_Gather), 0);
  GIVES(&b, 0, (1, 1, 4, 6), 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 2, 2, 2, 3, 3, 3);
  bound_end(&b);
  b = bound_one(&odd, node("u", "Upsample", "x,s", "y"));
  GIVES(&b, 0, (1, 8), 0, 0, 1, 2, 3, 3, 4, 5);
  bound_end(&b);
}

static void sizes_must_fit(void **state) {
  (void)state;
  ONE_NODE(net, n, 1, 1, 4) = node("p", "MaxPool", "x", "y");
  PUT_INTS(&n, "kernel_shape", INT64_MAX);
  net_add(&net, n);
  net_fails(&net, "y", 0, E_SHAPE,
            "node 'p' (MaxPool): a window spans 9223372036854775807, the axis 4 with its padding");
  ONE_NODE(none, p, 1, 1, 4) = node("p", "MaxPool", "x", "y");
  PUT_INTS(&p, "kernel_shape", INT64_MIN);
  put_attribute_text(&p, "auto_pad", "SAME_UPPER");
  net_add(&none, p);
  net_fails(&none, "y", 0, E_SHAPE, "node 'p' (MaxPool): windows of -9223372036854775808 by 1 in [1,1,4]");
  ONE_NODE(back, u, 1, 1, 4) = node("u", "MaxUnpool", "x,i", "y");
  net_ints(&back, "i", 1, 4, (const int64_t[]){0, 1, 2, 3});
  PUT_INTS(&u, "kernel_shape", 9);
  PUT_INTS(&u, "strides", -1);
  net_add(&back, u);
  net_fails(&back, "y", 0, E_SHAPE, "node 'u' (MaxUnpool): axis 2 of [1,1,4] was not pooled by 9 at steps of -1");
  ONE_NODE(wide, w, 1, 1, 4) = resize(&wide, SIZES(1, 1, 1 << 30), "linear", "half_pixel");
  net_add(&wide, w);
  Bound b = net_bind(&wide, "y", 0);
  assert_int_equal(b.status, E_LIMIT);
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_maximum_gets_the_gradient),
      cmocka_unit_test(first_maximum_of_all_gets_the_gradient),
      cmocka_unit_test(windows_leave_with_ceil_mode),
      cmocka_unit_test(means_count_what_they_are_told),
      cmocka_unit_test(norms_of_windows),
      cmocka_unit_test(norms_at_zero_have_no_slope),
      cmocka_unit_test(linear_resizes),
      cmocka_unit_test(one_axis_and_three),
      cmocka_unit_test(cubic_resizes),
      cmocka_unit_test(narrowing_counts_all_elements),
      cmocka_unit_test(nearest_resizes),
      cmocka_unit_test(upsampling_repeats),
      cmocka_unit_test(sizes_must_fit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
