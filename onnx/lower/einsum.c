/* Einsum as one product of matrices, or of elements, for each further operand. Invariant: a Labeled term's letters name
 * its axes in order, each once when its diagonals were taken; those of "..." are numbers counted from its end, so that
 * they broadcast. */
#include <ctype.h>
#include <string.h>

#include "onnx/lower/lower.h"

typedef struct {
  Term *term;
  char labels[MAX_RANK];
  int n;
} Labeled;

static bool has(const Labeled *l, char label) {
  return memchr(l->labels, label, (size_t)l->n) != NULL;
}

static int64_t size_of(const Labeled *l, char label) {
  const char *at = memchr(l->labels, label, (size_t)l->n);
  return at ? l->term->shape.dim[at - l->labels] : 1;
}

/* The letters of one operand up to a comma, an arrow or the end. `dots`: how many axes "..." stands for; -1: as many
 * as `rank` leaves. */
static Status parse(const char **text, int rank, int dots, Labeled *l) {
  int letters = 0;
  const char *end = *text + strcspn(*text, ",-");
  for (const char *c = *text; c < end; c++)
    letters += isalpha((unsigned char)*c) != 0;
  if (dots < 0)
    dots = rank - letters;
  l->n = 0;
  for (const char *c = *text; c < end; c++) {
    if (*c == ' ')
      continue;
    bool ellipsis = strncmp(c, "...", 3) == 0;
    if (!ellipsis && !isalpha((unsigned char)*c))
      return fail(E_MODEL, "no equation: '%s'", *text);
    for (int i = 0; i < (ellipsis ? dots : 1); i++) {
      char label = ellipsis ? (char)(1 + dots - i) : *c;
      if (l->n == MAX_RANK)
        return fail(E_UNSUPPORTED, "more than %d axes", MAX_RANK);
      if (has(l, label) && (rank < 0 || ellipsis))
        return fail(E_MODEL, "no equation: a letter twice in the result, or two ellipses in one operand");
      l->labels[l->n++] = label;
    }
    c += ellipsis ? 2 : 0;
  }
  *text = end;
  if (rank >= 0 && l->n != rank)
    return fail(E_SHAPE, "an operand has %d axes, its letters name %d", rank, l->n);
  return OK;
}

/* Without "->": the dots, then the letters that appear once in all, by alphabet. */
static void implicit_output(const Labeled *in, int n_in, int dots, Labeled *out) {
  out->n = 0;
  for (int i = 0; i < dots && out->n < MAX_RANK; i++)
    out->labels[out->n++] = (char)(1 + dots - i);
  for (int c = 'A'; c <= 'z' && out->n < MAX_RANK; c++) {
    int uses = 0;
    for (int i = 0; i < n_in; i++)
      for (int k = 0; k < in[i].n; k++)
        uses += isalpha(c) && in[i].labels[k] == c;
    if (uses == 1)
      out->labels[out->n++] = (char)c;
  }
}

/* Axes i and k, which have one letter, become their diagonal, the last axis: with both as one axis of n², every n + 1st
 * place. */
static Status diagonal(Op *op, Labeled *l, int i, int k) {
  int64_t perm[MAX_RANK], n = l->term->shape.dim[i], axis = l->n - 2, start = 0, step = n + 1;
  char letter = l->labels[i];
  Shape merged = {.rank = l->n - 1};
  int at = 0;
  for (int from = 0; from < l->n; from++)
    if (from != i && from != k) {
      merged.dim[at] = l->term->shape.dim[from];
      l->labels[at] = l->labels[from];
      perm[at++] = from;
    }
  perm[at] = i;
  perm[at + 1] = k;
  if (l->term->shape.dim[k] != n || __builtin_mul_overflow(n, n, &merged.dim[at]))
    return fail(E_SHAPE, "letter '%c' is %lld and %lld in one operand", letter, (long long)n,
                (long long)l->term->shape.dim[k]);
  l->labels[at] = letter;
  l->n--;
  Attr attrs[] = {attr_ints("axes", &axis, 1), attr_ints("starts", &start, 1), attr_ints("ends", &merged.dim[at], 1),
                  attr_ints("steps", &step, 1)};
  TRY(op_transpose(op, l->term, perm, &l->term));
  TRY(op_reshape(op, l->term, merged, &l->term));
  return op_emit(op, OP_Slice, &l->term, 1, attrs, 4, &l->term, 1);
}

static Status take_diagonals(Op *op, Labeled *l) {
  for (int i = 0; i < l->n; i++)
    for (int k = i + 1; k < l->n; k++)
      if (l->labels[i] == l->labels[k]) {
        TRY(diagonal(op, l, i, k));
        i = -1; /* the axes are others now */
        break;
      }
  return OK;
}

/* Sums over the letters that nobody else wants. */
static Status drop_private(Op *op, Labeled *l, const Labeled *others, int n_others, const Labeled *out) {
  int64_t axes[MAX_RANK];
  int n = 0, kept = 0;
  for (int i = 0; i < l->n; i++) {
    bool wanted = has(out, l->labels[i]);
    for (int k = 0; k < n_others; k++)
      wanted |= has(&others[k], l->labels[i]);
    if (wanted)
      l->labels[kept++] = l->labels[i];
    else
      axes[n++] = i;
  }
  l->n = kept;
  return op_reduce(op, OP_ReduceSum, l->term, axes, n, false, &l->term);
}

/* Axes in the order of `labels`; a letter that is missing becomes an axis of size 1. */
static Status arrange(Op *op, const Labeled *l, const char *labels, int n, Term **out) {
  int64_t perm[MAX_RANK];
  int at = 0;
  Shape shape = {.rank = n};
  for (int i = 0; i < n; i++) {
    const char *found = memchr(l->labels, labels[i], (size_t)l->n);
    shape.dim[i] = size_of(l, labels[i]);
    if (found)
      perm[at++] = found - l->labels;
  }
  TRY(op_transpose(op, l->term, perm, out));
  return op_reshape(op, *out, shape, out);
}

static void append(Labeled *l, char label) {
  if (l->n < MAX_RANK)
    l->labels[l->n++] = label;
}

/* [batch.., rows, columns] with the letters of each group as one axis; `swapped`: columns come first in memory. */
static Status as_matrix(Op *op, const Labeled *l, const Labeled *batch, const Labeled *rows, const Labeled *columns,
                        bool *swapped, Term **out) {
  const Labeled *groups[2] = {rows, columns};
  Labeled order = *batch;
  *swapped = rows->n && columns->n && l->n && l->labels[l->n - 1] == rows->labels[rows->n - 1];
  for (int g = 0; g < 2; g++)
    for (int i = 0; i < groups[g != *swapped]->n; i++)
      append(&order, groups[g != *swapped]->labels[i]);
  Shape shape = {.rank = batch->n + 2};
  TRY(arrange(op, l, order.labels, order.n, out));
  if (shape.rank > MAX_RANK)
    return fail(E_UNSUPPORTED, "rank %d is above %d", shape.rank, MAX_RANK);
  memcpy(shape.dim, (*out)->shape.dim, (size_t)batch->n * sizeof *shape.dim);
  for (int g = 0; g < 2; g++) {
    int64_t size = 1;
    for (int i = 0; i < groups[g != *swapped]->n; i++)
      size *= size_of(l, groups[g != *swapped]->labels[i]);
    shape.dim[batch->n + g] = size;
  }
  return op_reshape(op, *out, shape, out);
}

/* Letters of a and b: in both and wanted, in both and summed, in one only. */
typedef struct {
  Labeled batch, summed, left, right;
} Groups;

static bool wanted_later(char label, const Labeled *rest, int n_rest, const Labeled *out) {
  bool wanted = has(out, label);
  for (int i = 0; i < n_rest; i++)
    wanted |= has(&rest[i], label);
  return wanted;
}

static Groups group(const Labeled *a, const Labeled *b, const Labeled *rest, int n_rest, const Labeled *out) {
  Groups g = {0};
  for (int i = 0; i < a->n; i++) {
    char label = a->labels[i];
    append(!has(b, label) ? &g.left : wanted_later(label, rest, n_rest, out) ? &g.batch : &g.summed, label);
  }
  for (int i = 0; i < b->n; i++)
    if (!has(a, b->labels[i]))
      append(&g.right, b->labels[i]);
  return g;
}

static Status check_sizes(const Labeled *a, const Labeled *b, const Groups *g) {
  for (int i = 0; i < g->summed.n; i++)
    if (size_of(a, g->summed.labels[i]) != size_of(b, g->summed.labels[i]))
      return fail(E_SHAPE, "a summed axis is %lld in one operand, %lld in the other",
                  (long long)size_of(a, g->summed.labels[i]), (long long)size_of(b, g->summed.labels[i]));
  return OK;
}

/* a and b as one. */
static Status join(Op *op, const Labeled *a, const Labeled *b, const Labeled *rest, int n_rest, const Labeled *out,
                   Labeled *joined) {
  Groups g = group(a, b, rest, n_rest, out);
  Term *x, *y;
  bool trans_a, trans_b;
  *joined = g.batch;
  for (int i = 0; i < g.left.n; i++)
    append(joined, g.left.labels[i]);
  for (int i = 0; i < g.right.n; i++)
    append(joined, g.right.labels[i]);
  if (g.batch.n + g.left.n + g.right.n > MAX_RANK)
    return fail(E_UNSUPPORTED, "more than %d axes", MAX_RANK);
  if (g.summed.n == 0) {
    TRY(arrange(op, a, joined->labels, joined->n, &x));
    TRY(arrange(op, b, joined->labels, joined->n, &y));
    return op_emit2(op, OP_Mul, x, y, &joined->term);
  }
  TRY(check_sizes(a, b, &g));
  TRY(as_matrix(op, a, &g.batch, &g.left, &g.summed, &trans_a, &x));
  TRY(as_matrix(op, b, &g.batch, &g.summed, &g.right, &trans_b, &y));
  TRY(op_matmul(op, x, trans_a, y, trans_b, &joined->term));
  Shape shape = shape_of(g.batch.n, joined->term->shape.dim);
  for (int i = 0; i < g.left.n; i++)
    shape.dim[shape.rank++] = size_of(a, g.left.labels[i]);
  for (int i = 0; i < g.right.n; i++)
    shape.dim[shape.rank++] = size_of(b, g.right.labels[i]);
  return op_reshape(op, joined->term, shape, &joined->term);
}

static Status parse_all(Op *op, const char *text, Labeled *in, Labeled *out) {
  int most_dots = 0;
  for (int i = 0; i < op->n_in; i++) {
    in[i].term = op->in[i];
    TRY(parse(&text, op->in[i]->shape.rank, -1, &in[i]));
    int dots = 0;
    for (int k = 0; k < in[i].n; k++)
      dots += !isalpha((unsigned char)in[i].labels[k]);
    most_dots = dots > most_dots ? dots : most_dots;
    if (i + 1 < op->n_in && *text++ != ',')
      return fail(E_MODEL, "the equation has fewer operands than the node's %d", op->n_in);
  }
  if (strncmp(text, "->", 2) == 0) {
    text += 2;
    TRY(parse(&text, -1, most_dots, out));
  } else {
    implicit_output(in, op->n_in, most_dots, out);
  }
  return *text ? fail(E_MODEL, "the equation has more operands than the node's %d", op->n_in) : OK;
}

static Status einsum(Op *op) {
  const char *equation;
  Labeled *in, out = {0};
  TRY(op_string(op, "equation", "", &equation));
  TRY(ARENA_NEW(op->lower->arena, in, op->n_in));
  TRY(parse_all(op, equation, in, &out));
  for (int i = 0; i < op->n_in; i++)
    TRY(take_diagonals(op, &in[i]));
  for (int i = 0; i < out.n; i++) {
    bool found = false;
    for (int k = 0; k < op->n_in; k++)
      found |= has(&in[k], out.labels[i]);
    if (!found)
      return fail(E_MODEL, "letter '%c' of the result is in no operand", out.labels[i]);
  }
  for (int i = 0; i < op->n_in; i++) {
    Labeled *others;
    TRY(ARENA_NEW(op->lower->arena, others, op->n_in));
    int n = 0;
    for (int k = 0; k < op->n_in; k++)
      if (k != i)
        others[n++] = in[k];
    TRY(drop_private(op, &in[i], others, n, &out));
  }
  Labeled all = in[0];
  for (int i = 1; i < op->n_in; i++) {
    Labeled joined;
    TRY(join(op, &all, &in[i], in + i + 1, op->n_in - i - 1, &out, &joined));
    all = joined;
  }
  return arrange(op, &all, out.labels, out.n, &op->out[0]);
}

const Lowering lowerings_einsum[] = {
    {"Einsum", 12, OPSET_LAST, 1, MANY, 1, einsum, "equation:s!"},
    {0},
};
