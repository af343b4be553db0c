/* Steps that normalise: by the statistics of a channel, of a group of channels or of what lies around. */
#include "tests/batch/draw.h"

/* A value [.., C, ..] of at least two numbers a channel. */
static const Drawn *with_channels(Draw *d, int least_rank, int64_t *channels) {
  const Drawn *v = pick(d, REAL, least_rank);
  int64_t rest = 1;
  if (!v || v->rank < least_rank || !dim_fixed(v->dim[1]) || v->dim[1].c < 1)
    return NULL;
  for (int i = 2; i < v->rank; i++)
    rest *= dim_fixed(v->dim[i]) ? v->dim[i].c : 2;
  *channels = v->dim[1].c;
  return least_rank < 3 || rest > 1 ? v : NULL;
}

static bool instance_norm(Draw *d) {
  int64_t channels;
  const Drawn *v = with_channels(d, 3, &channels);
  if (!v)
    return false;
  const char *inputs = texts("%s,%s,%s", v->name, add_reals(d, true, 1, &channels, 0.5, 1.5),
                             add_reals(d, true, 1, &channels, -0.5, 0.5));
  return like(d, add_node(d, "InstanceNormalization", inputs, texts("epsilon:f=0.01")), v);
}

static bool group_norm(Draw *d) {
  int64_t channels;
  const Drawn *v = with_channels(d, 3, &channels);
  if (!v || d->opset < 18)
    return false;
  int64_t groups = channels % 2 ? 1 : 2, scales = d->opset < 21 ? groups : channels;
  const char *inputs =
      texts("%s,%s,%s", v->name, add_reals(d, true, 1, &scales, 0.5, 1.5), add_reals(d, true, 1, &scales, -0.5, 0.5));
  return like(d, add_node(d, "GroupNormalization", inputs, texts("epsilon:f=0.01 num_groups:i=%d", (int)groups)), v);
}

static bool response_norm(Draw *d) {
  int64_t channels;
  const Drawn *v = with_channels(d, 2, &channels);
  return v && like(d, add_node(d, "LRN", v->name, texts("size:i=%u alpha:f=0.5", 1 + below(d, 4))), v);
}

static bool length_norm(Draw *d) {
  const Drawn *v = pick(d, REAL, 1);
  int axis = v ? pick_axis(d, v) : -1;
  return axis >= 0 &&
         like(d, add_node(d, "LpNormalization", v->name, texts("axis:i=%d p:i=%u", axis, 1 + below(d, 2))), v);
}

bool draw_norm(Draw *d) {
  static bool (*const steps[])(Draw *) = {instance_norm, group_norm, response_norm, length_norm};
  return steps[below(d, sizeof steps / sizeof *steps)](d);
}
