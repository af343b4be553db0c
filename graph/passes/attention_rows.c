/* Attention that reads its operands where products wrote them, and writes its result as the next product reads it:
 * transposes, splits and slices before and after it vanish, and so do those of its gradient.
 *
 * An operand [B,heads,rows,D] is followed up through what only moves elements, as strides in the value that it comes
 * from. Where these say that a row holds all heads of a sample's row, the operand is read there: all three in one
 * value, K and V in one, or each in its own, such that what lies in a value is one operand's, each element. */
#include "graph/ops/attention.h"
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

enum { AXES = 4, MOST_UP = 12, MOST_OWN_ATTRS = 12 };

/* Elements (i, j, k, l) of an operand lie at offset + i step[0] + … of a value. */
typedef struct {
  ValueId value;
  int64_t count[AXES], step[AXES], offset;
} View;

/* How an output's axes lie in its input: elements from one to the next, and to the first. */
typedef struct {
  Shape shape; /* of the output */
  int64_t step[MAX_RANK], first;
} Moves;

static void dense_steps(Shape s, int64_t step[MAX_RANK]) {
  for (int64_t i = s.rank - 1, n = 1; i >= 0; n *= s.dim[i--])
    step[i] = n;
}

static bool moves_of_slice(const Graph *g, const Node *n, Moves *m) {
  int count, others;
  const int64_t *axes = node_ints(n, "axes", &count), *starts = node_ints(n, "starts", &others);
  const int64_t *steps = node_ints(n, "steps", &others);
  int64_t from[MAX_RANK];
  dense_steps(rule_in(g, n, 0)->shape, from);
  dense_steps(rule_in(g, n, 0)->shape, m->step);
  for (int i = 0; i < count; i++) {
    m->first += starts[i] * from[axes[i]];
    m->step[axes[i]] *= steps[i];
  }
  return true;
}

static bool moves_of_split(const Graph *g, const Node *n, ValueId part, Moves *m) {
  int count, axis = (int)node_int(n, "axis", 0);
  const int64_t *sizes = node_ints(n, "split", &count);
  dense_steps(rule_in(g, n, 0)->shape, m->step);
  for (int i = 0; n->out[i] != part; i++)
    m->first += sizes[i] * m->step[axis];
  return true;
}

/* What the node does to the elements of its output; false: it does not just move them. */
static bool moves_of(const Graph *g, const Node *n, ValueId out, Moves *m) {
  int64_t from[MAX_RANK];
  int count;
  *m = (Moves){.shape = graph_value(g, out)->shape};
  switch (n->op) {
  case OP_Reshape:
    dense_steps(m->shape, m->step);
    return true;
  case OP_Transpose:
    dense_steps(rule_in(g, n, 0)->shape, from);
    for (int i = 0; i < m->shape.rank; i++)
      m->step[i] = from[node_ints(n, "perm", &count)[i]];
    return true;
  case OP_Slice:
    return moves_of_slice(g, n, m);
  case OP_Split:
    return moves_of_split(g, n, out, m);
  default:
    return false;
  }
}

/* The step in the input of `count` elements `step` apart in the output; false: they do not lie so there. reach: how far
 * along each axis the view goes in all. */
static bool step_through(const Moves *m, int64_t count, int64_t step, int64_t reach[MAX_RANK], int64_t *to) {
  int64_t dense[MAX_RANK];
  int axis = m->shape.rank - 1;
  dense_steps(m->shape, dense);
  *to = 0;
  if (count == 1)
    return true;
  while (axis >= 0 && (m->shape.dim[axis] == 1 || dense[axis] * m->shape.dim[axis] <= step))
    axis--;
  if (axis < 0 || step % dense[axis])
    return false;
  int64_t each = step / dense[axis];
  *to = each * m->step[axis];
  if ((count - 1) * each < m->shape.dim[axis]) {
    reach[axis] += (count - 1) * each;
    return true;
  }
  for (int64_t next = m->step[axis]; count > 1; axis--) { /* whole axes that lie behind one another there, too */
    int64_t n = axis < 0 ? 0 : m->shape.dim[axis];
    if (n == 1)
      continue;
    if (axis < 0 || each != 1 || m->step[axis] != next || (count > n && count % n))
      return false;
    reach[axis] += (count < n ? count : n) - 1;
    next *= n;
    count = count < n ? 1 : count / n;
  }
  return true;
}

/* The view in the input of the node that makes its value; false: there is none. */
static bool view_up(const Graph *g, View *v) {
  NodeId made = graph_value(g, v->value)->producer;
  const Node *n = made == NO_NODE ? NULL : graph_node(g, made);
  int64_t reach[MAX_RANK] = {0}, dense[MAX_RANK];
  View up = *v;
  Moves m;
  if (!n || !moves_of(g, n, v->value, &m))
    return false;
  up.value = n->in[0];
  for (int i = 0; i < AXES && n->op != OP_Reshape; i++)
    if (!step_through(&m, v->count[i], v->step[i], reach, &up.step[i]))
      return false;
  dense_steps(m.shape, dense);
  up.offset = n->op == OP_Reshape ? v->offset : m.first;
  for (int i = 0; i < m.shape.rank && n->op != OP_Reshape; i++) {
    int64_t at = v->offset / dense[i] % m.shape.dim[i];
    if (at + reach[i] >= m.shape.dim[i])
      return false;
    up.offset += at * m.step[i];
  }
  *v = up;
  return true;
}

static View dense_view(ValueId value, Shape as) {
  View v = {.value = value};
  for (int64_t i = AXES - 1, n = 1; i >= 0; n *= as.dim[i--]) {
    v.count[i] = as.dim[i];
    v.step[i] = n;
  }
  return v;
}

/* Whether samples, where there are any, are the value's outermost places, also where there is but one. */
static bool samples_first(const Value *v) {
  return v->batch.kind != BATCH_AXIS || (v->batch.axis == 0 && v->batch.outer == 1);
}

/* A row of the value that holds all heads of a row of the operand: W; 0: there is none. */
static int64_t row_of(const Graph *g, const View *v) {
  int64_t all = shape_elements(graph_value(g, v->value)->shape), rows = v->count[0] * v->count[2], wide;
  if (rows < 1 || all % rows || !samples_first(graph_value(g, v->value)))
    return 0;
  wide = all / rows;
  bool fits = (v->count[3] == 1 || v->step[3] == 1) && (v->count[2] == 1 || v->step[2] == wide) &&
              (v->count[0] == 1 || v->step[0] == v->count[2] * wide) &&
              (v->count[1] == 1 || v->step[1] >= v->count[3]) && v->offset + v->count[3] <= wide &&
              (v->count[1] == 1 || v->offset + (v->count[1] - 1) * v->step[1] + v->count[3] <= wide);
  return fits ? wide : 0;
}

/* Where an operand can be read in rows, its own value first. */
typedef struct {
  View view[MOST_UP];
  int n;
} Places;

static Places places_of(const Graph *g, ValueId operand, Shape shape) {
  Places p = {.n = 0};
  View v = dense_view(operand, shape);
  for (int i = 0; i < MOST_UP && view_up(g, &v); i++)
    if (row_of(g, &v))
      p.view[p.n++] = v;
  return p;
}

/* Whether each element of a row is one of these views'. */
static bool covers(const Graph *g, const View *const *views, int n) {
  int64_t wide = row_of(g, views[0]), sum = 0;
  for (int i = 0; i < n; i++)
    sum += views[i]->count[1] * views[i]->count[3];
  for (int64_t c = 0; c < wide && sum == wide; c++) {
    bool owned = false;
    for (int i = 0; i < n && !owned; i++) {
      int64_t at = c - views[i]->offset, step = views[i]->count[1] == 1 ? wide : views[i]->step[1];
      owned = at >= 0 && at / step < views[i]->count[1] && at % step < views[i]->count[3];
    }
    if (!owned)
      return false;
  }
  return sum == wide;
}

/* Finds operands first … end - 1 in one value, the farthest up that they cover; false: there is none. */
static bool find_together(const Graph *g, const Places *places, int first, int end, View *chosen) {
  const View *views[3];
  for (int i = places[first].n - 1; i >= 0; i--) {
    int n = 0;
    views[n++] = &places[first].view[i];
    for (int k = first + 1; k < end; k++)
      for (int j = 0; j < places[k].n && n == k - first; j++)
        if (places[k].view[j].value == views[0]->value && row_of(g, &places[k].view[j]) == row_of(g, views[0]))
          views[n++] = &places[k].view[j];
    if (n < end - first || !covers(g, views, n))
      continue;
    for (int k = first; k < end; k++)
      chosen[k] = *views[k - first];
    return true;
  }
  return false;
}

/* What stands for attention. */
typedef struct {
  Instead instead;
  const Node *node;
  Attention a;
  View view[3]; /* of operands in rows; .value NO_VALUE: of others */
  bool y_rows;
  int slot[3];      /* which of `in` an operand reads */
  Shape operand[3]; /* what that is to be: [B,rows,W] or as it is */
  Shape result;
} Found;

/* in: what the operands read, one behind the other, then the mask. */
static Status emit_rows(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  static const char *const names[] = {"q_rows", "k_rows", "v_rows"};
  const Found *f = (const Found *)instead;
  const Node *n = f->node;
  Attr attrs[MOST_OWN_ATTRS + 8];
  int64_t at[3][2];
  int n_attrs = 0, n_in = f->slot[2] + 1;
  ValueId to[5] = {NO_VALUE, NO_VALUE, NO_VALUE, NO_VALUE, NO_VALUE};
  NodeId id;
  for (int i = ATTENTION_MASK; i < n->n_in; i++) /* mask and counter */
    to[i] = n->in[i] == NO_VALUE ? NO_VALUE : in[n_in++];
  for (int i = 0; i < n->n_attrs && n_attrs < MOST_OWN_ATTRS; i++)
    attrs[n_attrs++] = n->attrs[i];
  attrs[n_attrs++] = attr_int("heads", f->a.heads);
  attrs[n_attrs++] = attr_int("groups", f->a.groups);
  attrs[n_attrs++] = attr_int("size", f->a.size);
  attrs[n_attrs++] = attr_int("value_size", f->a.value_size);
  if (f->y_rows)
    attrs[n_attrs++] = attr_int("y_rows", 1);
  for (int i = 0; i < 3; i++) {
    if (i == 0 || f->slot[i] != f->slot[i - 1])
      TRY(emit_reshape(g, in[f->slot[i]], f->operand[i], &to[i]));
    if (f->view[i].value == NO_VALUE)
      continue;
    at[i][0] = f->view[i].offset;
    at[i][1] = f->view[i].count[1] == 1 ? f->view[i].count[3] : f->view[i].step[1];
    attrs[n_attrs++] = attr_ints(names[i], at[i], 2);
  }
  TRY(graph_add_node(g, OP_Attention, n->name, to, n->n_in, attrs, n_attrs, NULL, 3, &id));
  return emit_reshape(g, graph_node(g, id)->out[0], f->result, out);
}

static void choose(const Graph *g, Found *f) {
  const Attention *a = &f->a;
  const Shape shapes[3] = {{4, {a->batch, a->heads, a->queries, a->size}},
                           {4, {a->batch, a->groups, a->keys, a->size}},
                           {4, {a->batch, a->groups, a->keys, a->value_size}}};
  Places places[3];
  for (int i = 0; i < 3; i++) {
    places[i] = places_of(g, f->node->in[i], shapes[i]);
    f->view[i].value = NO_VALUE;
    f->slot[i] = i;
  }
  if (a->queries == a->keys && find_together(g, places, 0, 3, f->view)) {
    f->slot[1] = f->slot[2] = 0;
  } else {
    find_together(g, places, 0, 1, f->view);
    if (find_together(g, places, 1, 3, f->view))
      f->slot[2] = 1;
    for (int i = 1; i < 3 && f->slot[2] == 2; i++)
      find_together(g, places, i, i + 1, f->view);
  }
  for (int i = 0; i < 3; i++)
    f->operand[i] = f->view[i].value == NO_VALUE
                        ? shapes[i]
                        : (Shape){3, {shapes[i].dim[0], shapes[i].dim[2], row_of(g, &f->view[i])}};
}

/* The transpose to rows that alone reads what the node makes, perhaps reshaped; NULL: there is none. */
static const Node *find_result(const Graph *g, const Found *f, const Node *const *user) {
  const Attention *a = &f->a;
  ValueId y = f->node->out[0];
  const Node *n = user[y];
  while (n && n->op == OP_Reshape)
    n = user[n->out[0]];
  if (!n || n->op != OP_Transpose || !samples_first(rule_out(g, n, 0)))
    return NULL;
  View v = dense_view(n->out[0], (Shape){4, {a->batch, a->queries, a->heads, a->value_size}});
  int64_t D = a->value_size, head = a->queries * D;
  while (v.value != y)
    if (!view_up(g, &v))
      return NULL;
  bool turns = (v.count[0] == 1 || v.step[0] == a->heads * head) && (v.count[1] == 1 || v.step[1] == D) &&
               (v.count[2] == 1 || v.step[2] == head) && (v.count[3] == 1 || v.step[3] == 1) && !v.offset;
  return turns ? n : NULL;
}

/* The one node that reads each value; NULL where there are none, several, or it is an output. */
static Status find_users(const Graph *g, const Node ***user) {
  int *uses;
  TRY(graph_uses(g, &uses));
  TRY(ARENA_NEW(g->arena, *user, g->n_values));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < g->nodes[i]->n_in; k++)
      if (g->nodes[i]->in[k] != NO_VALUE && uses[g->nodes[i]->in[k]] == 1)
        (*user)[g->nodes[i]->in[k]] = g->nodes[i];
  return OK;
}

static Status find_at(const Graph *g, const Node *node, const Node *const *user, const Instead **instead) {
  Found *f;
  ValueId in[5];
  TRY(ARENA_NEW(g->arena, f, 1));
  *f = (Found){.node = node, .a = attention_in(g, node)};
  choose(g, f);
  const Node *root = find_result(g, f, user);
  f->y_rows = root != NULL;
  root = root ? root : node;
  f->result = rule_out(g, root, 0)->shape;
  bool any = f->y_rows;
  for (int i = 0; i < 3; i++) {
    bool rows = f->view[i].value != NO_VALUE;
    in[f->slot[i]] = rows ? f->view[i].value : node->in[i];
    any |= rows;
  }
  if (!any)
    return OK;
  f->instead = (Instead){.n_in = f->slot[2] + 1, .emit = emit_rows};
  for (int i = ATTENTION_MASK; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE)
      in[f->instead.n_in++] = node->in[i];
  f->instead.in = arena_copy(g->arena, in, (size_t)f->instead.n_in * sizeof *in);
  instead[root->id] = &f->instead;
  return f->instead.in ? OK : status_code();
}

static Status find(const Graph *g, const Instead **instead) {
  const Node **user;
  TRY(find_users(g, &user));
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    bool apart = n->op == OP_Attention && !node_attr(n, "heads");
    for (int k = 0; k < ATTENTION_MASK && apart; k++)
      apart = shape_elements(rule_in(g, n, k)->shape) > 0;
    if (apart)
      TRY(find_at(g, n, user, instead));
  }
  return OK;
}

const Pass pass_attention_rows = {"attention-rows", NULL, 0, find};
