/* Patterns of nodes, written like the mathematics:
 *
 *   PRODUCT(0.5, X, SUM(1, FUNCTION(Erf, PRODUCT(0.70710678, X))))
 *
 * is x/2 (1 + erf(x/√2)), however the products and sums are nested, ordered and mixed with numbers. Numbers agree to
 * 1e-5: constants are float32, some with six digits. */
#ifndef GRAPH_PASSES_MATCH_H
#define GRAPH_PASSES_MATCH_H

#include "graph/graph.h"

enum { MOST_PARTS = 4, MOST_VARIABLES = 4, MOST_NUMBERS = 2 };

typedef enum { PATTERN_VARIABLE, PATTERN_FUNCTION, PATTERN_PRODUCT, PATTERN_SUM } PatternKind;

/* What a match found. */
typedef struct {
  ValueId variable[MOST_VARIABLES]; /* what the variables stand for; NO_VALUE: not known yet */
  double number[MOST_NUMBERS];      /* NAN: not known yet */
} Match;

typedef struct Pattern {
  PatternKind kind;
  int variable; /* which one: the same value wherever it stands */
  OpKind op;    /* of a function: the node's operator, its inputs the parts */
  bool (*fits)(const Graph *graph, const Node *node, Match *match); /* of a function: what its attributes have to be */
  double number;                          /* of a product or sum: the numbers in it, taken together */
  int takes;                              /* or any number, the match's number[takes - 1]; 0: not so */
  const struct Pattern *part[MOST_PARTS]; /* NULL after the last */
} Pattern;

#define VARIABLE(i) (&(const Pattern){.kind = PATTERN_VARIABLE, .variable = i})
#define FUNCTION(name, ...) (&(const Pattern){.kind = PATTERN_FUNCTION, .op = OP_##name, .part = {__VA_ARGS__}})
#define FUNCTION_IF(name, condition, ...)                                                                              \
  (&(const Pattern){.kind = PATTERN_FUNCTION, .op = OP_##name, .fits = condition, .part = {__VA_ARGS__}})
#define PRODUCT(c, ...) (&(const Pattern){.kind = PATTERN_PRODUCT, .number = c, .part = {__VA_ARGS__}})
#define SUM(c, ...) (&(const Pattern){.kind = PATTERN_SUM, .number = c, .part = {__VA_ARGS__}})
/* A sum with a number, whichever it is. */
#define SUM_WITH(i, ...) (&(const Pattern){.kind = PATTERN_SUM, .takes = (i) + 1, .part = {__VA_ARGS__}})
#define X VARIABLE(0)

/* A pattern and what stands for its root: an operator over its variables, in order. */
typedef struct {
  const Pattern *pattern;
  OpKind op;
  int n_in;
  Attr attrs[2]; /* up to one without a name */
} Rewrite;

/* Whether the value is what the pattern says, and what it found. */
bool graph_match(const Graph *graph, const Pattern *pattern, ValueId value, Match *match);

/* For conditions: takes a number that is not known yet; whether it is this one. */
bool match_number(Match *match, int i, double number);

#endif
