/* The matcher. Invariant: it looks at no more than MOST_DEPTH nested products or sums and at most MOST_CANDIDATES
 * values for a variable, so that a node costs a bounded time whatever graph it stands in.
 *
 * How far a product is to be taken apart is not known before: a variable may stand for a product itself, and what it
 * stands for stays whole. So every value inside is tried for it, those next to the root first. */
#include "graph/passes/match.h"

#include <math.h>
#include <string.h>

#include "graph/ops/rule.h"

enum { MOST_DEPTH = 8, MOST_CANDIDATES = 16 };

/* A value as a number and other values, multiplied or added up. */
typedef struct {
  double number;
  ValueId part[MOST_PARTS];
  int n;
} Parts;

/* A match under way. */
typedef struct {
  const Graph *graph;
  Match found;
} Search;

static const Node *producer(const Graph *g, ValueId id) {
  NodeId node = graph_value(g, id)->producer;
  return node == NO_NODE ? NULL : graph_node(g, node);
}

static bool close_to(double number, double wanted) {
  return fabs(number - wanted) <= 1e-5 * fabs(wanted);
}

static bool is_float_number(const Graph *g, ValueId id, double *number) {
  return dtype_is_float(graph_value(g, id)->dtype) && rule_scalar(g, id, number);
}

static bool is_variable(const Search *m, ValueId id) {
  for (int i = 0; i < MOST_VARIABLES; i++)
    if (m->found.variable[i] == id)
      return true;
  return false;
}

/* What a value is the product or sum of, by the node that makes it. */
typedef struct {
  ValueId value[3];
  int n; /* 0: by no such node */
  double number;
} Split;

static Split split(const Search *m, PatternKind kind, ValueId id) {
  const Node *node = producer(m->graph, id);
  double number;
  if (node && node->op == (kind == PATTERN_PRODUCT ? OP_Mul : OP_Add))
    return (Split){{node->in[0], node->in[1]}, 2, kind == PATTERN_PRODUCT ? 1 : 0};
  if (node && kind == PATTERN_PRODUCT && node->op == OP_Neg)
    return (Split){{node->in[0]}, 1, -1};
  if (node && kind == PATTERN_PRODUCT && (node->op == OP_Div || node->op == OP_Pow) &&
      is_float_number(m->graph, node->in[1], &number)) {
    ValueId a = node->in[0];
    if (node->op == OP_Div)
      return (Split){{a}, 1, 1 / number};
    if (number == 2 || number == 3)
      return (Split){{a, a, a}, (int)number, 1};
  }
  return (Split){.n = 0};
}

static void take_number(PatternKind kind, double number, Parts *parts) {
  parts->number = kind == PATTERN_PRODUCT ? parts->number * number : parts->number + number;
}

/* Multiplies or adds the value to the parts. False where there are too many. */
static bool take_apart(const Search *m, PatternKind kind, ValueId id, int depth, Parts *parts) {
  double number;
  if (is_float_number(m->graph, id, &number)) {
    take_number(kind, number, parts);
    return true;
  }
  Split s = depth < MOST_DEPTH && !is_variable(m, id) ? split(m, kind, id) : (Split){.n = 0};
  if (s.n) {
    take_number(kind, s.number, parts);
    for (int i = 0; i < s.n; i++)
      if (!take_apart(m, kind, s.value[i], depth + 1, parts))
        return false;
    return true;
  }
  if (parts->n == MOST_PARTS)
    return false;
  parts->part[parts->n++] = id;
  return true;
}

/* All values inside a product or sum, from the root on; returns how many. */
static int list_candidates(const Search *m, PatternKind kind, ValueId id, ValueId candidate[MOST_CANDIDATES]) {
  int n = 0, end = 1;
  double number;
  candidate[0] = id;
  for (; n < end; n++) {
    Split s = split(m, kind, candidate[n]);
    for (int i = 0; i < s.n && end < MOST_CANDIDATES; i++)
      if ((i == 0 || s.value[i] != s.value[i - 1]) && !is_float_number(m->graph, s.value[i], &number))
        candidate[end++] = s.value[i];
  }
  return n;
}

static int count_parts(const Pattern *p) {
  int n = 0;
  while (n < MOST_PARTS && p->part[n])
    n++;
  return n;
}

static bool match(Search *m, const Pattern *p, ValueId id);

/* Whether the pattern's parts from `first` on are the values that are not used, in some order. */
static bool assign(Search *m, const Pattern *p, int first, const Parts *parts, unsigned used) {
  if (first == parts->n)
    return true;
  for (int i = 0; i < parts->n; i++) {
    Search before = *m;
    if (!(used & 1u << i) && match(m, p->part[first], parts->part[i]) && assign(m, p, first + 1, parts, used | 1u << i))
      return true;
    *m = before;
  }
  return false;
}

/* A variable among the pattern's parts that is not known yet, or -1. */
static int unknown_variable(const Search *m, const Pattern *p) {
  for (int i = 0; i < count_parts(p); i++)
    if (p->part[i]->kind == PATTERN_VARIABLE && m->found.variable[p->part[i]->variable] == NO_VALUE)
      return p->part[i]->variable;
  return -1;
}

static bool number_fits(Search *m, const Pattern *p, double number) {
  return p->takes ? match_number(&m->found, p->takes - 1, number) : close_to(number, p->number);
}

static bool match_parts(Search *m, const Pattern *p, ValueId id) {
  int unknown = unknown_variable(m, p);
  Parts parts = {.number = p->kind == PATTERN_PRODUCT ? 1 : 0};
  if (unknown < 0)
    return take_apart(m, p->kind, id, 0, &parts) && parts.n == count_parts(p) && number_fits(m, p, parts.number) &&
           assign(m, p, 0, &parts, 0);
  ValueId candidate[MOST_CANDIDATES];
  int n = list_candidates(m, p->kind, id, candidate);
  for (int i = 0; i < n; i++) {
    Search before = *m;
    m->found.variable[unknown] = candidate[i];
    if (match_parts(m, p, id))
      return true;
    *m = before;
  }
  return false;
}

static bool match_function(Search *m, const Pattern *p, ValueId id) {
  const Node *node = producer(m->graph, id);
  if (!node || node->op != p->op || node->out[0] != id || node->n_in != count_parts(p))
    return false;
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] == NO_VALUE || !match(m, p->part[i], node->in[i]))
      return false;
  return !p->fits || p->fits(m->graph, node, &m->found);
}

static bool match(Search *m, const Pattern *p, ValueId id) {
  switch (p->kind) {
  case PATTERN_VARIABLE:
    if (m->found.variable[p->variable] == NO_VALUE)
      m->found.variable[p->variable] = id;
    return m->found.variable[p->variable] == id;
  case PATTERN_FUNCTION:
    return match_function(m, p, id);
  case PATTERN_PRODUCT:
  case PATTERN_SUM:
    return match_parts(m, p, id);
  }
  return false;
}

bool match_number(Match *match, int i, double number) {
  if (isnan(match->number[i]))
    match->number[i] = number;
  return close_to(number, match->number[i]);
}

bool graph_match(const Graph *graph, const Pattern *pattern, ValueId value, Match *found) {
  Search m = {.graph = graph};
  for (int i = 0; i < MOST_VARIABLES; i++)
    m.found.variable[i] = NO_VALUE;
  for (int i = 0; i < MOST_NUMBERS; i++)
    m.found.number[i] = NAN;
  if (!match(&m, pattern, value))
    return false;
  *found = m.found;
  return true;
}
