/* GridSample and its gradients, to the image and to the grid, as PyTorch 2.15.0 gives them
 * (torch.nn.functional.grid_sample on its CPU); MaxUnpool and regions, worked out by hand. */
#include "tests/onnx/gradient.h"

static const float image[] = {0, 0.25, 0.75, 1.25, 2, 2.75, 3.75, 4.5, 5.75, 6.75, 8, 9};
static const float places[] = {-1.3, -0.9, -0.35, 0.2, 0.4, 1.45, 0.95, -1.2, 0.1, 0.6, 2.3, 0.3};

/* y, and the gradients of image and places for the loss 0 y[0] + 1 y[1] + … */
typedef struct {
  const char *mode, *padding;
  int corners;
  float y[6], d_image[12], d_places[12];
} Sampled;

static const Sampled sampled[] = {
    {"bilinear",
     "zeros",
     0,
     {0, 3.785, 0, 0.1499999, 7.2075, 0},
     {0, 0, 0, 0.3599998, 0.14, 0.6799998, 0.2799998, 0, 0.06000003, 1.32, 2.52, 0},
     {0, 0, 1.65, 5.925, 0, 0, -1.5, 3.374999, 9.8, 25.05, 0, 0}},
    {"bilinear",
     "zeros",
     1,
     {0.11, 3.53, 4.454999, 0.97, 5.8975, 0},
     {0, 0, 0.1799995, 2.22, 0.02000003, 1.34, 1.04, 0, 0.005000008, 1.035, 2.55, 0.1099999},
     {0, 0, 1.2, 3.99375, 1.65, -16.2, 1.8, 3.6375, 6.9, 16.65, 0, 0}},
    {"bilinear",
     "border",
     0,
     {0, 3.785, 8.3, 1.25, 7.2075, 6.525},
     {0, 0, 0, 3, 0.14, 0.6799998, 0.2799998, 2.75, 0.06000003, 1.32, 3.920001, 2.849999},
     {0, 0, 1.65, 5.925, 4, -0, -0, 0, 9.8, 25.05, -0, 33.75}},
    {"bilinear",
     "border",
     1,
     {0.2, 3.53, 8.1, 1.2125, 5.8975, 5.849999},
     {0, 0, 0.2249994, 2.775001, 0.02000003, 1.34, 1.04, 3.5, 0.005000008, 1.035, 3.360001, 1.7},
     {0, 0, 1.2, 3.99375, 3, -0, 2.25, 0, 6.9, 16.65, -0, 22.5}},
    {"bilinear",
     "reflection",
     0,
     {0.02499998, 3.785, 7.543124, 1.25, 7.2075, 4.46375},
     {0, 0, 0, 3, 0.4149998, 3.155, 0.525, 0.1050001, 0.2849998, 3.345, 3.675, 0.4949998},
     {-0, 0, 1.65, 5.925, 3.825, -12.975, -0, 0, 9.8, 25.05, -8.625, 29.8125}},
    {"bilinear",
     "reflection",
     1,
     {0.335, 3.53, 6.17625, 1.85875, 5.8975, 4.00375},
     {0, 0, 0.1799995, 2.22, 0.02000003, 4.664999, 2.070001, 0.6450002, 0.005000008, 2.459999, 2.625, 0.1099999},
     {-0, 0, 1.2, 3.99375, 2.6625, -8.549999, 2.475, -9.69375, 6.9, 16.65, -8.0625, 20.0625}},
    {"bicubic",
     "zeros",
     0,
     {0.01347501, 4.269534, -0.7898802, 0.0957601, 7.727031, 0},
     {-0.02077419, -0.1102387, -0.07666028, 0.4349766, 0.1494763, 0.8805685, 0.2230694, -0.09097844, -0.1197338,
      1.597116, 3.07451, -0.489917},
     {0, 0, 0.9079507, 9.06237, -1.199953, -7.7962, -0.9900015, 1.743523, 9.522336, -1.584475, 0, 0}},
    {"bicubic",
     "zeros",
     1,
     {0.04604913, 3.820731, 5.011774, 0.7305972, 6.938596, -0.0116491},
     {0.01531096, -0.2197229, -0.04526323, 2.759447, -0.09178808, 1.65474, 1.196738, -0.5140994, -0.1680567, 1.250592,
      3.525571, -0.2054702},
     {0, 0, 1.998253, 5.957644, 4.656517, -19.67667, -0.4095203, 6.250667, 6.95186, 18.43314, 3.402334, -0.06404918}},
    {"bicubic",
     "reflection",
     0,
     {-0.3305443, 3.879656, 7.817238, 0.9445993, 7.266046, 4.635111},
     {-0.05998662, -0.6056825, -0.6171542, 3.957203, 0.3994211, 4.06444, 0.3635785, -0.3688065, 0.05756451, 3.439493,
      4.301326, 0.06860361},
     {0, 0, 2.272192, 6.467538, 4.375316, -10.79098, 0.4230015, -6.672378, 8.970121, 19.92823, -13.56167, 30.70764}},
    {"bicubic",
     "reflection",
     1,
     {0.06316026, 3.753754, 6.954595, 1.397853, 6.573699, 4.403789},
     {0.03396729, -0.7577643, -0.3631368, 2.744621, -0.1991291, 5.292886, 2.072186, 0.2205592, -0.2232643, 2.87311,
      3.582564, -0.276596},
     {0, 0, 2.160458, 5.384256, 4.551414, -9.513103, 0.4919235, -4.476355, 6.377768, 17.2168, -10.58181, 27.03283}},
    {"nearest",
     "zeros",
     0,
     {0, 2.75, 0, 0, 8, 0},
     {0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0},
     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"nearest",
     "border",
     1,
     {0, 2.75, 8, 1.25, 8, 4.5},
     {0, 0, 0, 3, 0, 1, 0, 5, 0, 0, 6, 0},
     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"nearest",
     "reflection",
     0,
     {0, 2.75, 8, 1.25, 8, 2.75},
     {0, 0, 0, 3, 0, 6, 0, 0, 0, 0, 6, 0},
     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
};

static void net_floats(Net *net, const char *name, int rank, const int64_t *dims, const float *values) {
  Bytes t = tensor(name, 1, rank, dims);
  put_bytes(&t, TENSOR_RAW_DATA, values, (size_t)shape_elements(shape_of(rank, dims)) * sizeof *values);
  put_message(&net->graph, 5, t);
}

static void grids_sample_as_in_pytorch(void **state) {
  (void)state;
  const int64_t image_dims[] = {1, 1, 3, 4}, place_dims[] = {1, 2, 3, 2};
  for (size_t i = 0; i < sizeof sampled / sizeof *sampled; i++)
    for (int towards_grid = 0; towards_grid < 2; towards_grid++) {
      const Sampled *s = &sampled[i];
      Net net = net_of(16);
      if (towards_grid) {
        net_floats(&net, "x", 4, image_dims, image);
        NET_INPUT(&net, "grid", 1, 2, 3, 2);
      } else {
        NET_INPUT(&net, "x", 1, 1, 3, 4);
        net_floats(&net, "grid", 4, place_dims, places);
      }
      Bytes n = node("g", "GridSample", "x,grid", "y");
      put_attribute_text(&n, "mode", s->mode);
      put_attribute_text(&n, "padding_mode", s->padding);
      put_attribute_int(&n, "align_corners", s->corners);
      net_add(&net, n);
      Bound b = net_bind_ok(&net, "y", 0);
      bound_trains(&b, towards_grid ? places : image, s->y, 6, towards_grid ? s->d_places : s->d_image, 12);
      bound_end(&b);
    }
}

/* A pair of MaxPool and MaxUnpool: maxima lie where they were, and so do their gradients. */
static void maxima_return_to_their_places(void **state) {
  (void)state;
  Net net = net_of(11);
  NET_INPUT(&net, "x", 1, 1, 4, 4);
  Bytes p = node("p", "MaxPool", "x", "m,i"), u = node("u", "MaxUnpool", "m,i", "y");
  for (int k = 0; k < 2; k++) {
    PUT_INTS(k ? &u : &p, "kernel_shape", 2, 2);
    PUT_INTS(k ? &u : &p, "strides", 2, 2);
  }
  net_add(&net, p);
  net_add(&net, u);
  Bound b = net_bind_ok(&net, "y", 0);
  bound_trains(&b, COUNTS, NUMBERS(0, 0, 0, 0, 0, 5, 0, 7, 0, 0, 0, 0, 0, 13, 0, 15),
               NUMBERS(0, 0, 0, 0, 0, 5, 0, 7, 0, 0, 0, 0, 0, 13, 0, 15));
  bound_end(&b);
}

/* Indices count on from sample to sample, and each sample is still alone. */
static void samples_are_unpooled_apart(void **state) {
  (void)state;
  Net net = net_of(11);
  NET_INPUT(&net, "x", -1, 2, 4);
  Bytes p = node("p", "MaxPool", "x", "m,i"), u = node("u", "MaxUnpool", "m,i", "y");
  PUT_INTS(&p, "kernel_shape", 2);
  PUT_INTS(&p, "strides", 2);
  PUT_INTS(&u, "kernel_shape", 2);
  PUT_INTS(&u, "strides", 2);
  net_add(&net, p);
  net_add(&net, u);
  Bound b = net_bind_ok(&net, "y", 3);
  const Batch *batch = &graph_value(b.graph, b.graph->outputs[0])->batch;
  assert_int_equal(batch->kind, BATCH_AXIS);
  assert_int_equal(batch->axis, 0);
  bound_end(&b);
}

/* Elements 1 … 4 of a line, whose region begins between two of them. */
static void regions_are_sampled(void **state) {
  (void)state;
  Net net = net_of(16);
  NET_INPUT(&net, "x", 1, 1, 1, 6);
  const float roi[] = {1.25F, 0, 5.25F, 1};
  net_floats(&net, "roi", 2, (int64_t[]){1, 4}, roi);
  NET_INTS(&net, "sample", 0);
  Bytes n = node("r", "RoiAlign", "x,roi,sample", "y");
  put_attribute_int(&n, "output_width", 2);
  put_attribute_int(&n, "sampling_ratio", 1);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  bound_trains(&b, COUNTS, NUMBERS(1.75, 3.75), NUMBERS(0, 0, 0, 0.25, 0.75, 0));
  bound_end(&b);
}

/* Of the last region one place holds elements 1 and 2, one 3 and 4. */
static void regions_are_pooled(void **state) {
  (void)state;
  Net net = net_of(16);
  NET_INPUT(&net, "x", 1, 1, 1, 6);
  const float roi[] = {0, 4, 0, 9, 0, 0, 1, 0, 4, 0};
  net_floats(&net, "roi", 2, (int64_t[]){2, 5}, roi);
  Bytes n = node("r", "MaxRoiPool", "x,roi", "y");
  PUT_INTS(&n, "pooled_shape", 1, 2);
  net_add(&net, n);
  Bound b = net_bind_ok(&net, "y", 0);
  bound_trains(&b, COUNTS, NUMBERS(5, 0, 2, 4), NUMBERS(0, 0, 2, 0, 3, 0));
  bound_end(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(grids_sample_as_in_pytorch), cmocka_unit_test(maxima_return_to_their_places),
      cmocka_unit_test(samples_are_unpooled_apart), cmocka_unit_test(regions_are_sampled),
      cmocka_unit_test(regions_are_pooled),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
