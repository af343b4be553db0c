/* Scatters, the k largest, and what is as large as known contents say. Inputs are 0, 1, 2, …; expected numbers from
 * the specification's definitions, by hand. */
#include "tests/onnx/build_net.h"

/* The outputs of one node with float inputs and known integers, bound. */
static Bound one_node(Net *net, Bytes n, const char *outputs) {
  net_add(net, n);
  return net_bind_ok(net, outputs, 0);
}

static void elements_are_put(void **state) {
  (void)state;
  Net net = net_of(18);
  NET_INPUT(&net, "x", 1, 4);
  NET_INPUT(&net, "u", 1, 3);
  NET_INTS(&net, "at", 1, -1, 1);
  NET_INTS(&net, "flat", 1, 3);
  net_node(&net, "r", "Reshape", "at,flat", "to");
  Bytes n = node("s", "ScatterElements", "x,to,u", "y"), m = node("t", "ScatterElements", "x,to,u", "z");
  put_attribute_int(&n, "axis", -1);
  put_attribute_int(&m, "axis", 1);
  put_attribute_text(&m, "reduction", "add");
  net_add(&net, m);
  Bound b = one_node(&net, n, "y,z");
  GIVES(&b, 0, (1, 4), 0, 2, 2, 1); /* the last update stays */
  GIVES(&b, 1, (1, 4), 0, 3, 2, 4);
  bound_end(&b);
}

static void slices_are_put(void **state) {
  (void)state;
  Net net = net_of(16);
  NET_INPUT(&net, "x", 3, 2);
  NET_INPUT(&net, "u", 2, 2);
  NET_INTS(&net, "at", 2, 0);
  NET_INTS(&net, "column", 2, 1);
  net_node(&net, "r", "Reshape", "at,column", "to");
  Bytes n = node("s", "ScatterND", "x,to,u", "y");
  put_attribute_text(&n, "reduction", "mul");
  Bound b = one_node(&net, n, "y");
  GIVES(&b, 0, (3, 2), 0, 3, 2, 3, 0, 5);
  bound_end(&b);
}

/* Behind the last place of a circular cache comes the first. */
static void a_cache_is_written(void **state) {
  (void)state;
  Net net = net_of(24);
  NET_INPUT(&net, "cache", 2, 3, 1);
  NET_INPUT(&net, "u", 2, 2, 1);
  NET_INTS(&net, "at", 2, 0);
  Bytes n = node("s", "TensorScatter", "cache,u,at", "y");
  put_attribute_text(&n, "mode", "circular");
  net_node(&net, "t", "TensorScatter", "cache,u", "z");
  Bound b = one_node(&net, n, "y,z");
  GIVES(&b, 0, (2, 3, 1), 1, 1, 0, 2, 3, 5);
  GIVES(&b, 1, (2, 3, 1), 0, 1, 2, 2, 3, 5);
  bound_end(&b);
}

static void the_largest_are_found(void **state) {
  (void)state;
  Net net = net_of(13);
  NET_INPUT(&net, "x", 2, 3);
  NET_INTS(&net, "two", 2);
  Bytes n = node("k", "TopK", "x,two", "y,at"), cast = node("c", "Cast", "at", "where");
  Bytes last = node("a", "ArgMin", "zero", "last"), to = node("d", "Cast", "last", "end");
  put_attribute_int(&n, "largest", 0);
  put_attribute_int(&cast, "to", 1);
  put_attribute_int(&to, "to", 1);
  put_attribute_int(&last, "axis", 1);
  put_attribute_int(&last, "keepdims", 0);
  put_attribute_int(&last, "select_last_index", 1);
  net_add(&net, n);
  net_add(&net, cast);
  net_node(&net, "s", "Sub", "x,x", "zero");
  net_add(&net, last);
  Bound b = one_node(&net, to, "y,where,end");
  GIVES(&b, 0, (2, 2), 0, 1, 3, 4);
  GIVES(&b, 1, (2, 2), 0, 1, 0, 1);
  GIVES(&b, 2, (2), 2, 2);
  bound_end(&b);
}

static void sequences_are_reversed(void **state) {
  (void)state;
  Net net = net_of(13);
  NET_INPUT(&net, "x", 3, 2);
  NET_INTS(&net, "lengths", 2, 3);
  Bound b = one_node(&net, node("r", "ReverseSequence", "x,lengths", "y"), "y");
  GIVES(&b, 0, (3, 2), 2, 5, 0, 3, 4, 1);
  bound_end(&b);
}

static void known_contents_decide_how_much(void **state) {
  (void)state;
  Net net = net_of(13);
  NET_INPUT(&net, "x", 3);
  NET_INTS(&net, "numbers", 7, -2, 7, 0);
  NET_INTS(&net, "zero", 0, 0, 1);
  net_node(&net, "g", "Greater", "x2,zero", "more");
  net_node(&net, "i", "Identity", "zero", "x2");
  Bytes kept = node("c", "Compress", "x,known", "few"), u = node("u", "Unique", "numbers", "kinds,first,into,count");
  Bytes cast[4];
  const char *outputs[] = {"kinds", "first", "into", "count"}, *floats[] = {"a", "b", "c", "d"};
  put_attribute_int(&kept, "axis", 0);
  put_attribute_int(&u, "sorted", 0);
  net_node(&net, "n", "Not", "more", "known");
  net_add(&net, u);
  for (int i = 0; i < 4; i++) {
    cast[i] = node(floats[i], "Cast", outputs[i], floats[i]);
    put_attribute_int(&cast[i], "to", 1);
    net_add(&net, cast[i]);
  }
  Bound b = one_node(&net, kept, "few,a,b,c,d");
  GIVES(&b, 0, (3), 0, 1, 2);
  GIVES(&b, 1, (3), 7, -2, 0);
  GIVES(&b, 2, (3), 0, 1, 3);
  GIVES(&b, 3, (4), 0, 1, 0, 2);
  GIVES(&b, 4, (3), 2, 1, 1);
  bound_end(&b);
  Net unknown = net_of(13);
  NET_INPUT(&unknown, "x", 3);
  net_node(&unknown, "u", "Unique", "x", "y");
  net_fails(&unknown, "y", 0, E_UNSUPPORTED,
            "not supported: node 'u' (Unique): the shape of the result depends on data");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(elements_are_put),       cmocka_unit_test(slices_are_put),
      cmocka_unit_test(a_cache_is_written),     cmocka_unit_test(the_largest_are_found),
      cmocka_unit_test(sequences_are_reversed), cmocka_unit_test(known_contents_decide_how_much),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
