/* x sigmoid(alpha x), spelled out: SiLU, and the quick GELU with its 1.702. One node keeps x alone. */
#include "graph/passes/passes.h"

#define SWISH(slope, ...)                                                                                              \
  { .pattern = __VA_ARGS__, .op = OP_Swish, .n_in = 1, .attrs = {{.name = "alpha", .kind = ATTR_FLOAT, .f = slope}}, }

static const Rewrite rewrites[] = {
    SWISH(1, PRODUCT(1, X, FUNCTION(Sigmoid, X))),
    SWISH(1.702, PRODUCT(1, X, FUNCTION(Sigmoid, PRODUCT(1.702, X)))),
};

const Pass pass_swish = {"swish", rewrites, sizeof rewrites / sizeof *rewrites, NULL};
