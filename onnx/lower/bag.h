/* A Loop that reduces bags of rows. */
#ifndef ONNX_LOWER_BAG_H
#define ONNX_LOWER_BAG_H

#include "onnx/lower/lower.h"

/* *out: what `trips` runs of the body stack where it is such a Loop, else NULL; what was lowered then is not used.
 * goes_on: the condition before the first run, which is true. */
Status bags_lower(Op *op, const Body *body, int64_t trips, Term *goes_on, Term **out);

#endif
