/* LSTM, GRU and RNN. A direction whose activations are the usual ones is one RecurrentSteps behind one product X W' of
 * all steps; any other is a row of plain nodes for each step (recurrent_unrolled.c). Invariant: inside, the steps come
 * first whatever the layout, and blocks of gates are in ONNX's order. */
#include "onnx/lower/recurrent.h"

#include <string.h>
#include <strings.h>

/* Whether all of a term is known to be 0. */
static Status is_zero(Op *op, Term *term, bool *zero) {
  *zero = term->kind == TERM_ABSENT;
  if (*zero)
    return OK;
  TRY(term_known(op->lower, term, zero));
  const char *bytes = *zero ? term->constant->data : NULL;
  size_t n = bytes ? (size_t)shape_elements(term->constant->stored) * dtype_bytes(term->dtype) : 0;
  for (size_t i = 0; i < n && *zero; i++)
    *zero = bytes[i] == 0;
  return OK;
}

/* Part d of an axis of directions, without the axis. */
static Status part_of(Op *op, Term *t, int axis, int d, Term **out) {
  Shape s = t->shape;
  if (t->kind == TERM_ABSENT) {
    *out = t;
    return OK;
  }
  TRY(op_slice(op, t, axis, d, d + 1, &t));
  s.rank--;
  memmove(s.dim + axis, s.dim + axis + 1, (size_t)(s.rank - axis) * sizeof *s.dim);
  return op_reshape(op, t, s, out);
}

/* ---- what the node says ---- */

static Status check(const Op *op, int i, int rank, const int64_t *dims) {
  if (op_has(op, i) && !shape_equal(op_in(op, i)->shape, shape_of(rank, dims)))
    return fail(E_SHAPE, "'%s' is %s, not %s", op->proto->input[i], SHAPE_STR(op_in(op, i)->shape),
                SHAPE_STR(shape_of(rank, dims)));
  return OK;
}
#define CHECK(op, i, ...)                                                                                              \
  check((op), (i), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

static Status check_shapes(const Op *op, const Layer *l) {
  Shape x = op->in[0]->shape;
  int64_t D = l->directions, H = l->units, G = l->gates, N = l->samples;
  TRY(CHECK(op, 1, D, G * H, x.dim[2]));
  TRY(CHECK(op, 2, D, G * H, H));
  TRY(CHECK(op, 3, D, 2 * G * H));
  TRY(CHECK(op, 4, N));
  for (int i = 5; i < 7; i++)
    TRY(l->batch_first ? CHECK(op, i, N, D, H) : CHECK(op, i, D, N, H));
  return CHECK(op, 7, D, 3 * H);
}

static Status read_direction(Op *op, Layer *l) {
  const char *direction;
  TRY(op_string(op, "direction", "forward", &direction));
  l->directions = strcmp(direction, "bidirectional") == 0 ? 2 : 1;
  l->reverse = strcmp(direction, "reverse") == 0;
  if (l->directions == 1 && !l->reverse && strcmp(direction, "forward") != 0)
    return fail(E_MODEL, "direction is '%s'", direction);
  return OK;
}

/* Names of `count` activations a direction; a function with parameters takes the next of the lists. */
static Status read_activations(Op *op, Layer *l) {
  static const char *const usual[] = {"Sigmoid", "Tanh", "Tanh"};
  const Onnx__AttributeProto *names = op_attribute(op, "activations"), *alpha = op_attribute(op, "activation_alpha"),
                             *beta = op_attribute(op, "activation_beta");
  size_t n_alpha = 0, n_beta = 0, wanted = (size_t)(l->activations * l->directions);
  if (names && names->n_strings != wanted && names->n_strings)
    return fail(E_MODEL, "%zu activations, not %zu", names->n_strings, wanted);
  for (size_t i = 0; i < wanted; i++) {
    Activation *a = &l->activation[i / (size_t)l->activations][i % (size_t)l->activations];
    const char *name = usual[l->activations == 1 ? 1 : i % (size_t)l->activations];
    bool given = names && names->n_strings;
    TRY(activation_find(given ? (const char *)names->strings[i].data : name,
                        given ? names->strings[i].len : strlen(name), a));
    if (a->takes_alpha && alpha && n_alpha < alpha->n_floats)
      a->alpha = (double)alpha->floats[n_alpha++];
    if (a->takes_beta && beta && n_beta < beta->n_floats)
      a->beta = (double)beta->floats[n_beta++];
  }
  return OK;
}

static Status read_layer(Op *op, int gates, int activations, Layer *l) {
  Shape x = op->in[0]->shape, r = op->in[2]->shape;
  *l = (Layer){.gates = gates, .activations = activations, .batch_first = op_int(op, "layout", 0)};
  if (x.rank != 3 || r.rank != 3)
    return fail(E_SHAPE, "X is %s, R is %s", SHAPE_STR(x), SHAPE_STR(r));
  l->steps = x.dim[l->batch_first];
  l->samples = x.dim[!l->batch_first];
  l->units = r.dim[2];
  l->input_forget = op_int(op, "input_forget", 0);
  l->reset_after = op_int(op, "linear_before_reset", 0);
  l->clip = op_attribute(op, "clip") ? op_float(op, "clip", 0) : 0;
  if (l->units < 1 || l->units > 1 << 24 || op_int(op, "hidden_size", l->units) != l->units)
    return fail(E_SHAPE, "hidden_size is %lld, R %s", (long long)op_int(op, "hidden_size", l->units), SHAPE_STR(r));
  TRY(read_direction(op, l));
  TRY(check_shapes(op, l));
  return read_activations(op, l);
}

/* ---- one direction ---- */

static bool is_usual(const Layer *l, const Direction *d) {
  static const char *const usual[] = {"Sigmoid", "Tanh", "Tanh"};
  const Activation *a = l->activation[d->number];
  bool as_usual = true;
  if (l->gates == 1)
    return l->clip == 0 && (strcmp(a[0].name, "Tanh") == 0 || strcmp(a[0].name, "Relu") == 0);
  for (int i = 0; i < l->activations; i++)
    as_usual &= strcmp(a[i].name, usual[i]) == 0;
  return as_usual && l->clip == 0 && !l->input_forget && d->peephole->kind == TERM_ABSENT;
}

/* Of ONNX's [Wb, Rb] the bias that RecurrentSteps takes. */
static Status steps_bias(Op *op, const Layer *l, Term *both, Term **bias) {
  int64_t H = l->units, halves[] = {l->gates * H, l->gates * H}, parts[] = {2 * H, H, 2 * H, H};
  Term *t[4], *sum;
  *bias = both;
  if (both->kind == TERM_ABSENT)
    return OK;
  if (l->gates != 3 || !l->reset_after) {
    TRY(op_split(op, both, 0, halves, 2, t));
    return op_emit2(op, OP_Add, t[0], t[1], bias);
  }
  TRY(op_split(op, both, 0, parts, 4, t));
  TRY(op_emit2(op, OP_Add, t[0], t[2], &sum));
  return op_concat(op, (Term *[]){sum, t[3], t[1]}, 3, 0, bias);
}

static const char *cell_name(const Layer *l, const Direction *d) {
  if (l->gates == 4)
    return "lstm";
  if (l->gates == 3)
    return l->reset_after ? "gru_reset_after" : "gru";
  return strcmp(l->activation[d->number][0].name, "Relu") == 0 ? "relu" : "tanh";
}

static Status as_steps(Op *op, const Layer *l, Direction *d) {
  Term *bias, *in[6], *out[5];
  bool lstm = l->gates == 4;
  TRY(steps_bias(op, l, d->bias, &bias));
  Attr attrs[] = {attr_string("cell", cell_name(l, d)), attr_int("reverse", d->reverse)};
  Term *all[] = {d->products, d->matrix, bias, d->h, d->c, d->lengths};
  memcpy(in, all, sizeof in);
  TRY(op_emit(op, OP_RecurrentSteps, in, 6, attrs, 2, out, lstm ? 5 : l->gates == 3 ? 4 : 3));
  d->y = out[0];
  d->h = out[1];
  if (lstm)
    d->c = out[2];
  return OK;
}

/* A first state: absent where it is 0. */
static Status first_state(Op *op, const Layer *l, int i, int number, Term **state) {
  bool zero;
  *state = op_in(op, i);
  TRY(is_zero(op, *state, &zero));
  if (!zero)
    return part_of(op, *state, l->batch_first ? 1 : 0, number, state);
  TRY(ARENA_NEW(op->lower->arena, *state, 1));
  **state = (Term){.kind = TERM_ABSENT, .initializer = -1, .value = NO_VALUE};
  return OK;
}

static Status run_direction(Op *op, const Layer *l, Term *x, int number, Direction *d) {
  Term *weights;
  *d = (Direction){.number = number, .reverse = number || l->reverse, .lengths = op_in(op, 4)};
  TRY(part_of(op, op->in[1], 0, number, &weights));
  TRY(part_of(op, op->in[2], 0, number, &d->matrix));
  TRY(part_of(op, op_in(op, 3), 0, number, &d->bias));
  TRY(first_state(op, l, 5, number, &d->h));
  TRY(first_state(op, l, 6, number, &d->c));
  TRY(part_of(op, op_in(op, 7), 0, number, &d->peephole));
  TRY(op_matmul(op, x, false, weights, true, &d->products));
  return is_usual(l, d) ? as_steps(op, l, d) : as_nodes(op, l, d);
}

/* ---- the layer ---- */

/* Y [T,D,N,H], or [N,T,D,H] of the parts [T,N,H]. */
static Status join_steps(Op *op, const Layer *l, Term *const *parts, Term **y) {
  Term *apart[2];
  int64_t first[] = {2, 0, 1, 3};
  for (int d = 0; d < l->directions; d++)
    TRY(op_reshape(op, parts[d], (Shape){4, {l->steps, 1, l->samples, l->units}}, &apart[d]));
  TRY(op_concat(op, apart, l->directions, 1, y));
  return l->batch_first ? op_transpose(op, *y, first, y) : OK;
}

/* [D,N,H], or [N,D,H] of the parts [N,H]. */
static Status join_states(Op *op, const Layer *l, Term *const *parts, Term **state) {
  Term *apart[2];
  Shape wide = {3, {1, l->samples, l->units}}, first = {3, {l->samples, 1, l->units}};
  for (int d = 0; d < l->directions; d++)
    TRY(op_reshape(op, parts[d], l->batch_first ? first : wide, &apart[d]));
  return op_concat(op, apart, l->directions, l->batch_first ? 1 : 0, state);
}

static Status layer(Op *op, int gates, int activations) {
  Layer l;
  Direction d[2];
  Term *x = op->in[0], *y[2], *h[2], *c[2];
  int64_t steps_first[] = {1, 0, 2};
  TRY(read_layer(op, gates, activations, &l));
  if (l.batch_first)
    TRY(op_transpose(op, x, steps_first, &x));
  for (int i = 0; i < l.directions; i++) {
    TRY(run_direction(op, &l, x, i, &d[i]));
    y[i] = d[i].y, h[i] = d[i].h, c[i] = d[i].c;
  }
  if (op_wants(op, 0))
    TRY(join_steps(op, &l, y, &op->out[0]));
  if (op_wants(op, 1))
    TRY(join_states(op, &l, h, &op->out[1]));
  return op_wants(op, 2) ? join_states(op, &l, c, &op->out[2]) : OK;
}

static Status lstm(Op *op) {
  return layer(op, 4, 3);
}

static Status gru(Op *op) {
  return layer(op, 3, 2);
}

static Status rnn(Op *op) {
  return layer(op, 1, 1);
}

#define ATTRIBUTES "activation_alpha:F activation_beta:F activations:S clip:f direction:s hidden_size:i"

const Lowering lowerings_recurrent[] = {
    {"LSTM", 7, 13, 3, 8, 3, lstm, ATTRIBUTES " input_forget:b"},
    {"LSTM", 14, OPSET_LAST, 3, 8, 3, lstm, ATTRIBUTES " input_forget:b layout:b"},
    {"GRU", 7, 13, 3, 6, 2, gru, ATTRIBUTES " linear_before_reset:b"},
    {"GRU", 14, OPSET_LAST, 3, 6, 2, gru, ATTRIBUTES " linear_before_reset:b layout:b"},
    {"RNN", 7, 13, 3, 6, 2, rnn, ATTRIBUTES},
    {"RNN", 14, OPSET_LAST, 3, 6, 2, rnn, ATTRIBUTES " layout:b"},
    {0},
};
