/* Attention as exporters spell it: softmax(Q K' + mask) V, of which a backward pass keeps the matrix of weights,
 * becomes one Attention, which does not.
 *
 * From the product with V upwards: reshapes that leave rows whole, what replaces rows that see nothing, Softmax, then
 * numbers that scale, masks that are added or chosen by, down to the product of Q and K. Heads and samples are the
 * rows' leading axes, whatever they are called. Masks that say no more than where a key stands become left and right. A
 * mask that trains stays, with all the rest; and so do weights that something else reads. Dropout of weights goes in.
 */
#include "graph/passes/attention.h"

#include <math.h>
#include <string.h>

#include "graph/autodiff.h"
#include "graph/ops/rule.h"

enum { MOST_STEPS = 12 };

typedef struct {
  const Graph *graph;
  const bool *wants; /* [n_values] a gradient, were there a loss */
  int *uses;         /* [n_values] */
  MaskRead *last_mask;
} Finder;

static const Node *producer(const Finder *f, ValueId id, OpKind op) {
  NodeId made = graph_value(f->graph, id)->producer;
  const Node *node = made == NO_NODE ? NULL : graph_node(f->graph, made);
  return node && node->op == op ? node : NULL;
}

static Shape shape_at(const Finder *f, ValueId id) {
  return graph_value(f->graph, id)->shape;
}

static int64_t leading(Shape s, int n) {
  return shape_elements(shape_of(n, s.dim));
}

static bool number(const Finder *f, ValueId id, double *x) {
  return dtype_is_float(graph_value(f->graph, id)->dtype) && rule_scalar(f->graph, id, x);
}

/* Whether a node is `*rest` times a number, without another shape. */
static bool scales(const Finder *f, ValueId id, ValueId *rest, double *factor) {
  const Node *mul = producer(f, id, OP_Mul), *div = producer(f, id, OP_Div);
  const Node *node = mul ? mul : div;
  for (int i = 0; node && i < (mul ? 2 : 1); i++)
    if (number(f, node->in[1 - i], factor) && shape_equal(shape_at(f, node->in[i]), shape_at(f, id))) {
      *rest = node->in[i];
      *factor = mul ? *factor : 1 / *factor;
      return true;
    }
  return false;
}

/* What an operand of a product is: a value, or one whose axes are reordered before. */
static void take_operand(const Finder *f, ValueId id, bool swaps, AttentionFound *found, int i) {
  double factor;
  ValueId rest;
  for (int n = 0; n < MOST_STEPS && i < 2 && scales(f, id, &rest, &factor); n++, id = rest)
    found->scale *= factor;
  found->in[i] = id;
  found->n_perm[i] = 0;
  if (!swaps)
    return;
  int rank = shape_at(f, id).rank, given;
  const Node *turn = producer(f, id, OP_Transpose);
  const int64_t *perm = turn ? node_ints(turn, "perm", &given) : NULL;
  bool moves = false;
  for (int k = 0; k < rank; k++) {
    int from = k < rank - 2 ? k : 2 * rank - 3 - k; /* the last two change places */
    found->perm[i][k] = perm ? perm[from] : from;
    moves |= found->perm[i][k] != k;
  }
  found->in[i] = turn ? turn->in[0] : id;
  found->n_perm[i] = moves ? rank : 0;
}

/* The shape of an operand. */
static Shape operand_shape(const Finder *f, const AttentionFound *found, int i) {
  Shape from = shape_at(f, found->in[i]), s = from;
  for (int k = 0; k < found->n_perm[i]; k++)
    s.dim[k] = from.dim[found->perm[i][k]];
  return s;
}

static bool take_mask(const Finder *f, AttentionFound *found, ValueId level, ValueId id, MaskKind kind, double fill) {
  Shape scores = shape_at(f, level), both;
  if (found->n_masks == MOST_MASKS || f->wants[id] || !shape_broadcast(shape_at(f, id), scores, &both) ||
      !shape_equal(both, scores))
    return false;
  found->mask[found->n_masks++] = (FoundMask){kind, id, fill, scores};
  return true;
}

/* From scores up to the product of Q and K. What is multiplied below a mask that is added would scale it, too. */
static bool find_product(const Finder *f, ValueId id, int steps, AttentionFound *found) {
  ValueId rest;
  double factor;
  const Node *node;
  AttentionFound before = *found;
  if (steps == MOST_STEPS)
    return false;
  if ((node = producer(f, id, OP_MatMul)) && shape_at(f, node->in[0]).rank >= 2 && shape_at(f, node->in[1]).rank >= 2) {
    found->product = shape_at(f, id);
    take_operand(f, node->in[0], node_int(node, "transA", 0), found, 0);
    take_operand(f, node->in[1], !node_int(node, "transB", 0), found, 1);
    return true;
  }
  if (scales(f, id, &rest, &factor)) {
    found->scale *= factor;
    if (find_product(f, rest, steps + 1, found) && (factor == 1 || found->n_masks == before.n_masks))
      return true;
    *found = before;
    return false;
  }
  if ((node = producer(f, id, OP_Reshape))) {
    Shape to = shape_at(f, id), from = shape_at(f, node->in[0]);
    return to.rank >= 2 && from.rank >= 2 && to.dim[to.rank - 1] == from.dim[from.rank - 1] &&
           find_product(f, node->in[0], steps + 1, found);
  }
  if ((node = producer(f, id, OP_Where)))
    for (int i = 1; i < 3; i++) {
      if (number(f, node->in[3 - i], &factor) && factor <= ATTENTION_BLOCKED &&
          take_mask(f, found, id, node->in[0], i == 1 ? MASK_ALLOWED : MASK_FORBIDDEN, factor) &&
          shape_equal(shape_at(f, node->in[i]), shape_at(f, id)) && find_product(f, node->in[i], steps + 1, found))
        return true;
      *found = before;
    }
  bool adds = (node = producer(f, id, OP_Add)) != NULL;
  if (!adds)
    node = producer(f, id, OP_Sub);
  for (int i = 0; node && i < (adds ? 2 : 1); i++) {
    if (shape_equal(shape_at(f, node->in[i]), shape_at(f, id)) &&
        take_mask(f, found, id, node->in[1 - i], adds ? MASK_ADDED : MASK_SUBTRACTED, 0) &&
        find_product(f, node->in[i], steps + 1, found))
      return true;
    *found = before;
  }
  return false;
}

/* Whether the condition says which of the weights are no numbers: rows that see nothing, where Attention gives 0. */
static bool asks_for_nan(const Finder *f, ValueId condition, ValueId weights) {
  const Node *not_node = producer(f, condition, OP_Not);
  const Node *equal = not_node ? producer(f, not_node->in[0], OP_Equal) : NULL;
  return equal && equal->in[0] == weights && equal->in[1] == weights;
}

/* A Dropout of which only what it keeps is read. */
static const Node *find_dropout(const Finder *f, ValueId id) {
  const Node *node = producer(f, id, OP_Dropout);
  return node && node->out[0] == id && !f->uses[node->out[1]] ? node : NULL;
}

/* From weights up to Softmax; *softmax is what it makes. */
static bool find_softmax(const Finder *f, ValueId id, AttentionFound *found, ValueId *softmax) {
  double zero;
  for (int steps = 0; steps < MOST_STEPS; steps++) {
    const Node *node;
    int users = f->uses[id];
    if ((node = producer(f, id, OP_Softmax))) {
      *softmax = id;
      return node_int(node, "axis", 0) == shape_at(f, id).rank - 1;
    }
    if (users != 1)
      return false;
    if ((node = producer(f, id, OP_Reshape))) {
      Shape to = shape_at(f, id), from = shape_at(f, node->in[0]);
      if (to.rank < 2 || from.rank < 2 || to.dim[to.rank - 1] != from.dim[from.rank - 1])
        return false;
      id = node->in[0];
    } else if (!found->drop && (node = find_dropout(f, id))) {
      found->drop = node;
      id = node->in[0];
    } else if ((node = producer(f, id, OP_Where)) && number(f, node->in[1], &zero) && zero == 0 &&
               shape_equal(shape_at(f, node->in[2]), shape_at(f, id))) {
      Shape rows = shape_at(f, node->in[0]);
      if (asks_for_nan(f, node->in[0], node->in[2])) {
        found->nan_uses = 2;
      } else if (found->blind == NO_VALUE && (rows.rank == 0 || rows.dim[rows.rank - 1] == 1)) {
        found->blind = node->in[0];
        found->blind_level = shape_at(f, id);
      } else {
        return false;
      }
      id = node->in[2];
    } else {
      return false;
    }
  }
  return false;
}

/* The scores [B,Hq,T,S] by which masks are laid: the shape that four axes have where one is applied. */
static bool find_axes(const Finder *f, ValueId softmax, AttentionFound *found) {
  Shape s = found->n_masks ? found->mask[0].level : shape_at(f, softmax);
  for (int i = 1; i < found->n_masks; i++)
    if (found->mask[i].level.rank == 4)
      s = found->mask[i].level;
  if (s.rank > 4 || s.rank < 2)
    return false;
  int64_t batch = s.rank > 2 ? s.dim[0] : 1, heads = s.rank == 4 ? s.dim[1] : 1;
  found->scores = (Shape){4, {batch, heads, s.dim[s.rank - 2], s.dim[s.rank - 1]}};
  for (int i = 0; i < found->n_masks; i++) {
    Shape level = found->mask[i].level;
    if (level.rank > 4 || level.dim[level.rank - 2] != found->scores.dim[2])
      return false;
  }
  return found->blind == NO_VALUE || shape_equal(found->blind_level, found->scores);
}

/* Operands as [B,heads or groups,T or S,D]: rows of scores keep their order, and those of one matrix of keys share it.
 * Fails where K or V broadcast, but over heads. */
static bool fit_operands(const Finder *f, AttentionFound *found) {
  Shape all = found->scores, q = operand_shape(f, found, 0), k = operand_shape(f, found, 1);
  Shape v = operand_shape(f, found, 2);
  int64_t T = all.dim[2], S = all.dim[3];
  if (k.rank != found->product.rank || v.rank != found->weights.rank || q.rank != found->product.rank || T < 1 ||
      S < 1 || all.dim[0] < 1 || all.dim[1] < 1)
    return false;
  int64_t each = found->product.dim[found->product.rank - 2] / T;
  if (each < 1 || all.dim[1] % each || found->product.dim[found->product.rank - 2] != each * T ||
      found->weights.dim[found->weights.rank - 2] != each * T || leading(q, q.rank - 1) != leading(all, 3) ||
      leading(found->weights, found->weights.rank - 1) != leading(all, 3))
    return false;
  bool broadcasts = q.rank == 4 && each == 1 && all.dim[1] > 1 && k.dim[1] == 1 && v.rank == 4 && v.dim[1] == 1 &&
                    k.dim[0] == all.dim[0] && v.dim[0] == all.dim[0];
  each = broadcasts ? all.dim[1] : each;
  int64_t groups = all.dim[1] / each;
  if (leading(k, k.rank - 2) != all.dim[0] * groups || leading(v, v.rank - 2) != all.dim[0] * groups ||
      k.dim[k.rank - 2] != S || v.dim[v.rank - 2] != S || k.dim[k.rank - 1] != q.dim[q.rank - 1])
    return false;
  found->shape[0] = (Shape){4, {all.dim[0], all.dim[1], T, q.dim[q.rank - 1]}};
  found->shape[1] = (Shape){4, {all.dim[0], groups, S, k.dim[k.rank - 1]}};
  found->shape[2] = (Shape){4, {all.dim[0], groups, S, v.dim[v.rank - 1]}};
  return true;
}

/* How often a value repeats each of [B·groups] matrices behind one another; *from is what it repeats. */
static int64_t repeats(const Finder *f, const AttentionFound *found, int i, ValueId *from) {
  const Node *node;
  ValueId id = found->in[i];
  Shape s = found->shape[i];
  if (found->n_perm[i])
    return 1;
  for (int steps = 0; steps < MOST_STEPS && (node = producer(f, id, OP_Reshape)); steps++)
    id = node->in[0];
  if (!(node = producer(f, id, OP_Expand)))
    return 1;
  Shape few = shape_at(f, node->in[0]), many = shape_at(f, id);
  int axis = -1;
  for (int k = 0; k < many.rank && few.rank == many.rank; k++)
    if (few.dim[k] != many.dim[k]) {
      if (axis >= 0)
        return 1;
      axis = k;
    }
  if (axis < 0 || leading(many, axis + 1) != s.dim[0] * s.dim[1] || s.dim[1] % many.dim[axis])
    return 1;
  *from = node->in[0];
  return many.dim[axis];
}

/* Keys and values that are repeated for the heads that share them are taken as they were before. */
static void undo_repeats(const Finder *f, AttentionFound *found) {
  ValueId k, v;
  if (found->shape[0].dim[1] != found->shape[1].dim[1])
    return;
  int64_t each = repeats(f, found, 1, &k);
  if (each == 1 || repeats(f, found, 2, &v) != each)
    return;
  found->in[1] = k;
  found->in[2] = v;
  found->shape[1].dim[1] /= each;
  found->shape[2].dim[1] /= each;
}

static Status find_at(const Finder *f, const Node *node, const Instead **instead) {
  const Graph *g = f->graph;
  AttentionFound found = {.scale = 1, .blind = NO_VALUE, .left = INT64_MAX, .right = INT64_MAX}, *kept;
  ValueId softmax;
  if (node->op != OP_MatMul || node_int(node, "transA", 0) || shape_at(f, node->in[0]).rank < 2 ||
      shape_at(f, node->in[1]).rank < 2 || !find_softmax(f, node->in[0], &found, &softmax))
    return OK;
  found.weights = shape_at(f, node->in[0]);
  found.result = shape_at(f, node->out[0]);
  const Node *made = producer(f, softmax, OP_Softmax);
  if (f->uses[softmax] != 1 + found.nan_uses || !find_product(f, made->in[0], 0, &found))
    return OK;
  take_operand(f, node->in[1], node_int(node, "transB", 0), &found, 2);
  if (!find_axes(f, softmax, &found) || !fit_operands(f, &found))
    return OK;
  undo_repeats(f, &found);
  attention_read_masks(g, &found, f->last_mask);
  TRY(ARENA_NEW(g->arena, kept, 1));
  *kept = found;
  TRY(attention_instead(g, kept));
  *instead = &kept->instead;
  return OK;
}

static Status find_attention(const Graph *g, const Instead **instead) {
  MaskRead last_mask = {.value = NO_VALUE};
  Finder f = {.graph = g, .last_mask = &last_mask};
  bool *wants;
  TRY(ARENA_NEW(g->arena, wants, g->n_values));
  TRY(ARENA_NEW(g->arena, f.uses, g->n_values));
  autodiff_wants(g, wants);
  f.wants = wants;
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < g->nodes[i]->n_in; k++)
      if (g->nodes[i]->in[k] != NO_VALUE)
        f.uses[g->nodes[i]->in[k]]++;
  for (size_t i = 0; i < g->n_outputs; i++)
    f.uses[g->outputs[i]]++;
  for (size_t i = 0; i < g->n_nodes; i++)
    TRY(find_at(&f, g->nodes[i], &instead[i]));
  return OK;
}

const Pass pass_attention = {"attention", .find = find_attention};
