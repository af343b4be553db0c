/* Gradients of LSTM, GRU and RNN towards everything that they read, in both directions, with sequences of two lengths,
 * as PyTorch 2.15.0 gives them in float64 for packed sequences. */
#include "tests/onnx/gradient.h"

enum { STEPS = 3, SAMPLES = 2, UNITS = 2, MOST = 128 };

/* The input cut into x, w, r, b, h0 and c0, as the node takes them. */
static int64_t add_parts(Net *net, int64_t gates, bool lstm) {
  static const char *const names[] = {"x", "w", "r", "b", "h0", "c0"};
  const int64_t shapes[][3] = {{STEPS, SAMPLES, 1},    {2, gates * UNITS, 1}, {2, gates * UNITS, UNITS},
                               {2, 2 * gates * UNITS}, {2, SAMPLES, UNITS},   {2, SAMPLES, UNITS}};
  int64_t sizes[6], all = 0;
  char cut[64] = "", from[32], shape[8];
  int n = lstm ? 6 : 5;
  for (int i = 0; i < n; i++) {
    sizes[i] = shape_elements(shape_of(i == 3 ? 2 : 3, shapes[i]));
    all += sizes[i];
    snprintf(cut + strlen(cut), 8, "%s%s_", i ? "," : "", names[i]);
  }
  NET_INPUT(net, "all", all);
  net_ints(net, "sizes", 1, n, sizes);
  net_node(net, "cut", "Split", "all,sizes", cut);
  for (int i = 0; i < n; i++) {
    snprintf(shape, sizeof shape, "shape%d", i);
    snprintf(from, sizeof from, "%s_,%s", names[i], shape);
    net_ints(net, shape, 1, i == 3 ? 2 : 3, shapes[i]);
    net_node(net, shape, "Reshape", from, names[i]);
  }
  return all;
}

/* Its outputs one behind the other, by the numbers (5 i mod 11 - 5) / 10; step by step where it is `unrolled`. */
static void gives(const char *op, int64_t gates, bool unrolled, const float *y, int64_t n_y, const float *dx,
                  int64_t n_x) {
  Net net = net_of(14);
  bool lstm = strcmp(op, "LSTM") == 0;
  Bytes n = node("layer", op, lstm ? "x,w,r,b,lengths,h0,c0" : "x,w,r,b,lengths,h0", lstm ? "y,h,c" : "y,h");
  Bytes lengths = tensor("lengths", 6, 1, (int64_t[]){SAMPLES}),
        join = node("j", "Concat", lstm ? "fy,fh,fc" : "fy,fh", "out");
  float numbers[MOST];
  put_bytes(&lengths, TENSOR_RAW_DATA, (int32_t[]){3, 2}, 8);
  put_message(&net.graph, 5, lengths);
  assert_int_equal(add_parts(&net, gates, lstm), n_x);
  put_attribute_text(&n, "direction", "bidirectional");
  put_attribute_int(&n, "hidden_size", UNITS);
  if (strcmp(op, "GRU") == 0)
    put_attribute_int(&n, "linear_before_reset", 1);
  if (unrolled)
    put_attribute_float(&n, "clip", 1e6f);
  net_add(&net, n);
  NET_INTS(&net, "flat", -1);
  net_node(&net, "fy", "Reshape", "y,flat", "fy");
  net_node(&net, "fh", "Reshape", "h,flat", "fh");
  if (lstm)
    net_node(&net, "fc", "Reshape", "c,flat", "fc");
  put_attribute_int(&join, "axis", 0);
  net_add(&net, join);
  for (int64_t i = 0; i < n_x; i++)
    numbers[i] = (float)(i * 5 % 11 - 5) / 10;
  Bound b = net_bind_ok(&net, "out", 0);
  assert_int_equal(count_nodes(b.graph, OP_RecurrentSteps), unrolled ? 0 : 2);
  bound_trains(&b, numbers, y, n_y, dx, n_x);
  bound_end(&b);
}

static void trains(const char *op, int64_t gates, const float *y, int64_t n_y, const float *dx, int64_t n_x) {
  gives(op, gates, false, y, n_y, dx, n_x);
  gives(op, gates, true, y, n_y, dx, n_x);
}

static void lstm(void **state) {
  (void)state;
  trains("LSTM", 4,
         NUMBERS(0.08252766, -0.1161169, 0.07525448, -0.08795125, -0.06201475, -0.1399089, -0.06977213, -0.0521038,
                 0.09034632, 0.03196202, 0.07542963, -0.02850271, -0.1126844, -0.1588188, 0.005783313, 0.08409056,
                 0.09244037, 0.1116684, 0, 0, -0.02182675, -0.162701, 0, 0, 0.09244037, 0.1116684, 0.07542963,
                 -0.02850271, -0.06201475, -0.1399089, -0.06977213, -0.0521038, 0.2194687, 0.1844002, 0.1870349,
                 -0.04284002, -0.1070416, -0.2865249, -0.1272317, -0.09971498),
         NUMBERS(-4.188467, -0.09564365, 1.184595, 6.198309, 1.917638, 0, 1.465036, 3.968216, 0.9022486, 1.157099,
                 1.058097, 0.6405941, 9.37764, 6.542249, -2.457103, 1.447802, -0.4417689, 1.168361, 1.576982,
                 0.03603121, -1.20068, -4.67614, -0.2445695, -0.2213661, -0.6044986, -0.4343365, 0.3574698, -0.1243161,
                 0.7508198, 0.006300854, -0.1007018, -0.2299859, 3.164993, 0.21046, -1.287215, -1.844871, -9.208162,
                 -2.177631, -0.6033233, 0.3906166, -0.1152534, 0.5979057, -0.009423962, 0.2834886, -0.2857177,
                 0.3807948, 0.7606321, 0.4796349, 0.7739791, 0.6930468, 15.46327, -12.92856, 5.823182, -6.573945,
                 9.852596, 14.31838, 4.15104, 0.4840075, 7.297994, -10.67551, 61.18861, 94.10171, 9.852596, 14.31838,
                 4.15104, 0.4840075, 7.297994, -10.67551, 61.18861, 94.10171, -7.599964, -10.69669, -3.62188, -4.00891,
                 -2.451565, -1.650655, 131.3953, 87.50926, -7.599964, -10.69669, -3.62188, -4.00891, -2.451565,
                 -1.650655, 131.3953, 87.50926, -1.867879, 8.267308, -1.529185, 13.25858, 7.616801, -8.85539, 11.78541,
                 -13.304, 2.585059, 21.38611, 5.75459, 30.10466, 17.8432, 7.717213, 25.89355, 12.13694));
}

static void gru(void **state) {
  (void)state;
  trains("GRU", 3,
         NUMBERS(-0.0390505, -0.03380277, 0.5437763, -0.1604922, -0.1466503, 0.3583343, -0.1301238, 0.2513251,
                 0.2401169, -0.2733393, 0.5632325, -0.1513814, -0.1722786, 0.329197, 0.01816167, 0.02414181, 0.4210666,
                 -0.3376635, 0, 0, 0.02524323, 0.1003093, 0, 0, 0.4210666, -0.3376635, 0.5632325, -0.1513814,
                 -0.1466503, 0.3583343, -0.1301238, 0.2513251),
         NUMBERS(0.3048856, -3.261529, -5.904347, -8.74548, -10.79443, 0, -1.505894, 1.556614, 0.5439169, -0.6262497,
                 4.698408, 9.362289, 2.763184, -3.496532, -0.258684, -0.4080975, -0.902122, -0.2395172, 1.266381,
                 1.24445, 0.2119374, -0.4000818, 1.412138, -0.6251662, -0.8077292, 0.5821009, 3.437252, -2.828955,
                 9.177139, -4.688676, 3.344329, -2.04032, -4.349805, 2.437861, -0.8698469, 0.218038, -0.2853127,
                 0.4390117, 1.853454, 1.176977, 5.388144, -0.02503803, -13.8879, 3.84858, 3.797741, -4.103868, 52.56805,
                 63.84952, -13.8879, 3.84858, 3.797741, -4.103868, 22.72258, 28.83306, 12.96897, -19.7098, -6.701136,
                 1.152831, 67.53346, 78.05748, 12.96897, -19.7098, -6.701136, 1.152831, 28.9753, 51.87907, 13.29165,
                 2.41224, 11.96813, 4.465616, 10.16398, 24.64978, 9.744593, 21.72678));
}

static void rnn(void **state) {
  (void)state;
  trains("RNN", 1,
         NUMBERS(-0.6106768, 0.3363755, -0.4777, 0.148885, -0.241918, -0.004011929, -0.06770477, -0.1219922, -0.6522791,
                 0.3078674, -0.6922236, 0.3837437, -0.04876666, -0.3792176, -0.2260284, -0.2260284, -0.6635678,
                 0.3220509, 0, 0, -0.09966799, -0.3969304, 0, 0, -0.6635678, 0.3220509, -0.6922236, 0.3837437,
                 -0.241918, -0.004011929, -0.06770477, -0.1219922),
         NUMBERS(-8.949574, -9.792389, -14.3871, -18.93711, -12.27708, 0, 9.836665, 16.8668, -8.806933, 4.663647,
                 -26.10693, 10.69155, -44.36188, 17.60364, -6.786636, -27.22422, -4.067304, -63.0022, 50.37892,
                 99.66272, 50.37892, 99.66272, 84.53327, 166.1619, 84.53327, 166.1619, 0.03688741, 2.292062, 0.2990717,
                 3.309322, -6.571814, 13.25996, -7.976384, 12.65956));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lstm),
      cmocka_unit_test(gru),
      cmocka_unit_test(rnn),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
