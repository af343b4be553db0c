/* GELU spelled out. Exporters write it as five to eight elementwise nodes, of which a backward pass keeps nearly every
 * result; one Gelu keeps x alone. */
#include <math.h>

#include "graph/passes/passes.h"

#define ROOT_2_PI 0.79788456080286536 /* √(2/π) */

#define GELU(form, ...)                                                                                                \
  {                                                                                                                    \
    .pattern = __VA_ARGS__, .op = OP_Gelu, .n_in = 1,                                                                  \
    .attrs = {{.name = "approximate", .kind = ATTR_STRING, .s = form}},                                                \
  }

static const Rewrite rewrites[] = {
    GELU("none", PRODUCT(0.5, X, SUM(1, FUNCTION(Erf, PRODUCT(M_SQRT1_2, X))))),
    GELU("tanh", PRODUCT(0.5, X, SUM(1, FUNCTION(Tanh, PRODUCT(ROOT_2_PI, SUM(0, X, PRODUCT(0.044715, X, X, X))))))),
    GELU("tanh", PRODUCT(0.5, X, SUM(1, FUNCTION(Tanh, PRODUCT(ROOT_2_PI, X, SUM(1, PRODUCT(0.044715, X, X))))))),
};

const Pass pass_gelu = {"gelu", rewrites, sizeof rewrites / sizeof *rewrites, NULL};
