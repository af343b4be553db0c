/* Invariant: two nodes have one key if and only if (but for collisions of 128 bits) all that a kernel is told of them
 * is equal. */
#include "runtime/costs/kinds.h"

#include <string.h>

#include "graph/op.h"

/* FNV-1a (Fowler, Noll, Vo) twice, from two bases. */
static void mix(KindKey *key, const void *data, size_t bytes) {
  const unsigned char *at = data;
  for (size_t i = 0; i < bytes; i++) {
    key->high = (key->high ^ at[i]) * UINT64_C(0x100000001b3);
    key->low = (key->low ^ (unsigned char)(at[i] + 0x55)) * UINT64_C(0x100000001b3);
  }
}

static void mix_number(KindKey *key, int64_t number) {
  mix(key, &number, sizeof number);
}

static void mix_text(KindKey *key, const char *text) {
  mix(key, text ? text : "", (text ? strlen(text) : 0) + 1);
}

static void mix_value(KindKey *key, const Graph *g, ValueId id) {
  if (id == NO_VALUE) {
    mix_number(key, -1);
    return;
  }
  const Value *value = graph_value(g, id);
  mix_number(key, value->dtype);
  mix_number(key, value->shape.rank);
  mix(key, value->shape.dim, (size_t)value->shape.rank * sizeof *value->shape.dim);
}

static void mix_attr(KindKey *key, const Attr *attr) {
  mix_text(key, attr->name);
  mix_number(key, attr->kind);
  mix_number(key, attr->i);
  mix(key, &attr->f, sizeof attr->f);
  mix_text(key, attr->s);
  mix_number(key, attr->n);
  if (attr->kind == ATTR_INTS && attr->n)
    mix(key, attr->ints, (size_t)attr->n * sizeof *attr->ints);
  if (attr->kind == ATTR_FLOATS && attr->n)
    mix(key, attr->floats, (size_t)attr->n * sizeof *attr->floats);
}

static KindKey key_of(const Graph *g, const Node *node) {
  KindKey key = {UINT64_C(0xcbf29ce484222325), UINT64_C(0x84222325cbf29ce4)};
  mix_text(&key, op_def(node->op)->name);
  mix_number(&key, node->precision);
  mix_number(&key, node->n_in);
  mix_number(&key, node->n_out);
  for (int i = 0; i < node->n_in; i++)
    mix_value(&key, g, node->in[i]);
  for (int i = 0; i < node->n_out; i++)
    mix_value(&key, g, node->out[i]);
  for (int i = 0; i < node->n_attrs; i++)
    mix_attr(&key, &node->attrs[i]);
  return key;
}

Status kinds_find(Arena *arena, const Graph *g, Kinds *kinds) {
  int *next, last[OP_COUNT]; /* kinds of one operator are chained, the newest first */
  *kinds = (Kinds){0};
  TRY(ARENA_NEW(arena, kinds->of_node, g->n_nodes));
  TRY(ARENA_NEW(arena, kinds->keys, g->n_nodes));
  TRY(ARENA_NEW(arena, kinds->first, g->n_nodes));
  TRY(ARENA_NEW(arena, next, g->n_nodes));
  for (int op = 0; op < OP_COUNT; op++)
    last[op] = -1;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    kinds->of_node[i] = -1;
    if (op_def(node->op)->traits & OP_VIEW)
      continue;
    KindKey key = key_of(g, node);
    int k = last[node->op];
    while (k >= 0 && (kinds->keys[k].high != key.high || kinds->keys[k].low != key.low))
      k = next[k];
    if (k < 0) {
      k = kinds->n++;
      kinds->keys[k] = key;
      kinds->first[k] = node->id;
      next[k] = last[node->op];
      last[node->op] = k;
    }
    kinds->of_node[i] = k;
  }
  return OK;
}
