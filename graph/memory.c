/* Lays out stages and ranks. Invariant: two values of a stage that live at the same time share no byte, unless one is
 * a view of the other; where a node reads the one for the last time and makes the other, it may lie in its place. */
#include "graph/memory.h"

#include <assert.h>
#include <stdlib.h>

#include "base/checked.h"
#include "graph/op.h"
#include "graph/pack.h"

/* When a root lives, with all its views and what takes its place. Within an action time counts nodes; `end` of an
 * action is behind them all. */
typedef struct {
  bool present;
  Point born, dies;
  int first, last; /* node of the action in which it is born or dies, counted in that action */
  bool sent_forward, sent_backward;
} Life;

typedef struct {
  const Graph *graph;
  const Stages *stages;
  const StageSetting *setting;
  StageMemory *memory;
  uint32_t *number; /* [graph->n_values]: of values that have a place here, in memory->values */
  ValueId *root;    /* [memory->n_values] */
  Life *lives;      /* [memory->n_values], of roots */
  ValueId *present; /* those that live here, in ascending order */
  size_t n_present;
} Layout;

enum { ACTIONS = 3 }; /* F, B, W; a joined backward counts as B's */

/* Of packing an action, some 20 ms: plans are compared by their memory, and each asks for its own. */
enum { STEPS = 20000000 };

static Status align(size_t bytes, size_t *out) {
  if (bytes > SIZE_MAX / 4)
    return fail(E_LIMIT, "sizes overflow");
  *out = memory_units(bytes);
  return OK;
}

static Status add(size_t *sum, size_t bytes) {
  if (!checked_add(*sum, bytes, sum) || *sum > SIZE_MAX / 2)
    return fail(E_LIMIT, "sizes overflow");
  return OK;
}

static Life *life_of(const Layout *w, ValueId v) {
  return &w->lives[w->number[v]];
}

static ValueId *root_at(const Layout *w, ValueId v) {
  return &w->root[w->number[v]];
}

static Place *place_of(const Layout *w, ValueId v) {
  return &w->memory->places[w->number[v]];
}

static void be_born(Layout *w, ValueId v, Point point, int at) {
  Life *life = life_of(w, v);
  if (life->present)
    return;
  *life = (Life){.present = true, .born = point, .dies = point, .first = at, .last = at};
}

static void touch(Layout *w, ValueId v, Point point, int at) {
  Life *life = life_of(w, *root_at(w, v));
  if (point > life->dies || (point == life->dies && at > life->last)) {
    life->dies = point;
    life->last = at;
  }
}

static ValueId root_of(const Layout *w, ValueId v) {
  while (*root_at(w, v) != v)
    v = *root_at(w, v);
  return v;
}

/* Whether output o of node number `at` of an action may lie over its input k: nobody reads that afterwards, be it a
 * transfer of B's under way while W runs, no other output lies there, and the place does not change its block by it, in
 * which it would lie for longer, or be sent. */
static bool may_take(const Layout *w, const Node *node, int o, int k, Point born, Point point, int at) {
  const Graph *g = w->graph;
  ValueId v = node->out[o], u = node->in[k], root = u == NO_VALUE ? NO_VALUE : root_of(w, u);
  if (root == NO_VALUE || memory_is_persistent(g, root) || memory_is_fed(g, root))
    return false;
  for (int i = 0; i < o; i++)
    if (node->out[i] != NO_VALUE && *root_at(w, node->out[i]) == root)
      return false;
  const Value *from = graph_value(g, u), *to = graph_value(g, v);
  const Life *old = life_of(w, root), *fresh = life_of(w, v);
  if (from->dtype != to->dtype || !shape_equal(from->shape, to->shape) || old->dies != point || old->last != at ||
      (old->sent_backward && point == POINT_W))
    return false;
  for (int i = 0; i < node->n_in; i++) /* another view of it would be read elsewhere */
    if (node->in[i] != NO_VALUE && root_of(w, node->in[i]) == root &&
        !shape_equal(graph_value(g, node->in[i])->shape, to->shape))
      return false;
  return old->born == born || (fresh->dies == point && !fresh->sent_forward && !fresh->sent_backward);
}

/* Outputs take the places of inputs that die (OP_IN_PLACE). */
static void unite(Layout *w, const NodeId *nodes, int n, Point born, Point point) {
  for (int at = 0; at < n; at++) {
    const Node *node = graph_node(w->graph, nodes[at]);
    for (int o = 0; o < node->n_out && op_def(node->op)->traits & OP_IN_PLACE; o++) {
      ValueId v = node->out[o];
      int k = 0;
      if (v == NO_VALUE || !life_of(w, v)->present)
        continue;
      while (k < node->n_in && !may_take(w, node, o, k, born, point, at))
        k++;
      if (k == node->n_in)
        continue;
      Life *old = life_of(w, root_of(w, node->in[k])), *fresh = life_of(w, v);
      *root_at(w, v) = root_of(w, node->in[k]);
      fresh->born = old->born;
      fresh->first = old->first;
      *old = *fresh;
      fresh->present = false;
    }
  }
}

/* The nodes of one action, in order. `point` is where its values are touched. */
static void walk_action(Layout *w, const NodeId *nodes, int n, Point born, Point point) {
  const Graph *g = w->graph;
  for (int at = 0; at < n; at++) {
    const Node *node = graph_node(g, nodes[at]);
    for (int k = 0; k < node->n_in; k++) {
      ValueId v = node->in[k];
      if (v == NO_VALUE || memory_is_persistent(g, *root_at(w, v)))
        continue;
      if (memory_is_fed(g, v))
        be_born(w, v, POINT_F, 0);
      touch(w, v, point, at);
    }
    for (int k = 0; k < node->n_out; k++) {
      if (node->out[k] == NO_VALUE)
        continue;
      if (op_def(node->op)->traits & OP_VIEW)
        *root_at(w, node->out[k]) = *root_at(w, node->in[0]);
      else
        be_born(w, node->out[k], born, at);
      if (!memory_is_persistent(g, *root_at(w, node->out[k])))
        touch(w, node->out[k], point, at);
    }
  }
}

static Point backward_point(const Layout *w, Point point) {
  return w->setting->joined && point == POINT_B ? POINT_W : point;
}

/* Behind the last node of the action that this point belongs to. */
static int end_of(const Layout *w, Point point) {
  const StageNodes *s = &w->stages->stages[w->setting->stage];
  return point == POINT_F ? s->n_nodes[PHASE_F] : w->setting->joined ? s->n_backward : s->n_nodes[PHASE_B];
}

static void receive(Layout *w) {
  int stage = w->setting->stage;
  const Cut *below = stage ? &w->stages->cuts[stage - 1] : NULL;
  const Cut *above = stage < w->stages->n_stages - 1 ? &w->stages->cuts[stage] : NULL;
  for (int i = 0; below && i < below->n_forward; i++) {
    be_born(w, below->forward[i], POINT_RECV_F, 0);
    touch(w, below->forward[i], POINT_F, 0);
  }
  for (int i = 0; above && i < above->n_backward; i++)
    be_born(w, above->backward[i], POINT_RECV_B, 0);
}

static void leave(Layout *w, ValueId v, Point point, bool stays_here) {
  if (memory_is_persistent(w->graph, *root_at(w, v)))
    return;
  Life *life = life_of(w, *root_at(w, v));
  touch(w, v, backward_point(w, point), end_of(w, point));
  if (!stays_here && point == POINT_F)
    life->sent_forward = true;
  if (!stays_here && point == POINT_B)
    life->sent_backward = true;
}

/* What the stage sends on or the executor reads at the end of an action. */
static void send(Layout *w) {
  const Graph *g = w->graph;
  int stage = w->setting->stage, last = w->stages->n_stages - 1;
  for (int i = 0; stage < last && i < w->stages->cuts[stage].n_forward; i++)
    leave(w, w->stages->cuts[stage].forward[i], POINT_F, w->setting->next_here);
  for (int i = 0; stage > 0 && i < w->stages->cuts[stage - 1].n_backward; i++)
    leave(w, w->stages->cuts[stage - 1].backward[i], POINT_B, w->setting->previous_here);
  if (g->loss_sum != NO_VALUE) {
    if (stage == last)
      leave(w, g->loss_sum, POINT_F, true);
    return;
  }
  for (size_t i = 0; i < g->n_outputs; i++) {
    ValueId v = g->outputs[i];
    NodeId producer = graph_value(g, v)->producer;
    if (producer == NO_NODE && stage == last && !memory_is_persistent(g, v))
      be_born(w, v, POINT_F, 0);
    if (producer == NO_NODE ? stage == last : graph_node(g, producer)->stage == stage)
      leave(w, v, POINT_F, true);
  }
}

static Status find_lives(Layout *w, Arena *arena) {
  const StageNodes *s = &w->stages->stages[w->setting->stage];
  size_t n = w->memory->n_values;
  TRY(ARENA_NEW(arena, w->root, n));
  TRY(ARENA_NEW(arena, w->lives, n));
  TRY(ARENA_NEW(arena, w->present, n));
  for (size_t i = 0; i < n; i++)
    w->root[i] = w->memory->values[i];
  receive(w);
  walk_action(w, s->nodes[PHASE_F], s->n_nodes[PHASE_F], POINT_F, POINT_F);
  if (w->setting->joined) {
    walk_action(w, s->backward, s->n_backward, POINT_B, POINT_W);
  } else {
    walk_action(w, s->nodes[PHASE_B], s->n_nodes[PHASE_B], POINT_B, POINT_B);
    walk_action(w, s->nodes[PHASE_W], s->n_nodes[PHASE_W], POINT_W, POINT_W);
  }
  send(w);
  unite(w, s->nodes[PHASE_F], s->n_nodes[PHASE_F], POINT_F, POINT_F);
  if (w->setting->joined) {
    unite(w, s->backward, s->n_backward, POINT_B, POINT_W);
  } else {
    unite(w, s->nodes[PHASE_B], s->n_nodes[PHASE_B], POINT_B, POINT_B);
    unite(w, s->nodes[PHASE_W], s->n_nodes[PHASE_W], POINT_W, POINT_W);
  }
  for (size_t i = 0; i < n; i++)
    w->root[i] = root_of(w, w->memory->values[i]);
  return OK;
}

/* The action that a value lives within entirely, or -1. */
static int only_action(const Layout *w, const Life *life) {
  if (life->born == POINT_RECV_F || life->born == POINT_RECV_B || life->sent_backward)
    return -1;
  if (life->dies == POINT_F)
    return life->sent_forward ? -1 : 0;
  if (w->setting->joined)
    return life->born == POINT_B ? 1 : -1;
  return life->born != life->dies ? -1 : life->dies == POINT_B ? 1 : 2;
}

static Status put_in_block(StageMemory *m, const Life *life, size_t bytes, Place *place) {
  bool sent = life->sent_backward || (life->sent_forward && life->dies == POINT_F);
  int b = 0;
  while (b < m->n_blocks &&
         (m->blocks[b].born != life->born || m->blocks[b].dies != life->dies || m->blocks[b].sent != sent))
    b++;
  if (b == m->n_blocks) {
    assert(b < MAX_BLOCKS); /* four births, three deaths, sent or not: 18 at most have meaning */
    m->blocks[m->n_blocks++] = (Block){.born = life->born, .dies = life->dies, .sent = sent};
  }
  *place = (Place){.kind = PLACE_BLOCK, .block = (uint8_t)b, .offset = m->blocks[b].bytes};
  return add(&m->blocks[b].bytes, bytes);
}

/* What shares the scratch region during one action. */
typedef struct {
  Piece *pieces;
  size_t n, capacity;
} Pieces;

static Status add_piece(Arena *arena, Pieces *list, Piece piece) {
  TRY(align(piece.bytes, &piece.bytes));
  if (!piece.bytes)
    return OK;
  TRY(ARENA_RESERVE(arena, list->pieces, list->n, list->capacity, list->n + 1));
  list->pieces[list->n++] = piece;
  return OK;
}

/* The nodes that run as one action. */
static const NodeId *nodes_of(const Layout *w, int action, int *n) {
  const StageNodes *s = &w->stages->stages[w->setting->stage];
  bool both = w->setting->joined && action == 1;
  *n = both ? s->n_backward : w->setting->joined && action == 2 ? 0 : s->n_nodes[action];
  return both ? s->backward : s->nodes[action];
}

static Status add_workspaces(Layout *w, Arena *arena, int action, Pieces *list) {
  int n;
  const NodeId *nodes = nodes_of(w, action, &n);
  for (int at = 0; at < n; at++)
    TRY(add_piece(arena, list,
                  (Piece){.bytes = node_workspace_bytes(w->graph, graph_node(w->graph, nodes[at]), w->setting->rank),
                          .first = at,
                          .last = at,
                          .value = NO_VALUE,
                          .node = nodes[at]}));
  return OK;
}

static Status place_roots(Layout *w, Arena *arena, StageMemory *m, Pieces lists[ACTIONS]) {
  const Graph *g = w->graph;
  for (size_t i = 0; i < m->n_values; i++) {
    ValueId v = m->values[i];
    const Life *life = &w->lives[i];
    if (memory_is_persistent(g, v))
      m->places[i].kind = PLACE_PERSISTENT;
    if (!life->present)
      continue;
    w->present[w->n_present++] = v;
    size_t bytes = 0;
    TRY(align(graph_value_bytes(g, v), &bytes));
    int action = only_action(w, life);
    if (action < 0) {
      TRY(put_in_block(m, life, bytes, &m->places[i]));
      continue;
    }
    m->places[i].kind = PLACE_SCRATCH;
    TRY(add_piece(arena, &lists[action],
                  (Piece){.bytes = bytes, .first = life->first, .last = life->last, .value = v, .node = NO_NODE}));
  }
  return OK;
}

/* What lives in a block of the action's own microbatch while it runs: from its birth, to its death. */
static Status list_tenants(const Layout *w, Arena *arena, const StageMemory *m, int action, int block, Pieces *list) {
  static const Point births[] = {POINT_F, POINT_B, POINT_W}, deaths[] = {POINT_F, POINT_B, POINT_W};
  Point birth = births[action], death = backward_point(w, deaths[action]);
  const Block *b = &m->blocks[block];
  bool dies = b->dies == death && !b->sent;
  int n;
  nodes_of(w, action, &n);
  for (size_t i = 0; (b->born == birth || dies) && i < w->n_present; i++) {
    ValueId v = w->present[i];
    const Life *life = life_of(w, v);
    Place place = *place_of(w, v);
    if (only_action(w, life) < 0 && place.kind == PLACE_BLOCK && place.block == block)
      TRY(add_piece(arena, list,
                    (Piece){.bytes = graph_value_bytes(w->graph, v),
                            .offset = place.offset,
                            .first = b->born == birth ? life->first : 0,
                            .last = dies ? life->last : n,
                            .value = v,
                            .node = NO_NODE}));
  }
  return OK;
}

static Status append(Arena *arena, Pieces *list, const Piece *pieces, size_t n) {
  TRY(ARENA_RESERVE(arena, list->pieces, list->n, list->capacity, list->n + n));
  for (size_t i = 0; i < n; i++)
    list->pieces[list->n++] = pieces[i];
  return OK;
}

/* Moves what has room in a block from the action's list there; *all gets what lives in the block. */
static Status fill_block(Layout *w, Arena *arena, StageMemory *m, int block, Pieces *tenants, Pieces *list,
                         Pieces *all) {
  size_t kept = 0;
  TRY(pack_within(tenants->pieces, (int)tenants->n, m->blocks[block].bytes, list->pieces, (int)list->n));
  TRY(append(arena, all, tenants->pieces, tenants->n));
  for (size_t i = 0; i < list->n; i++) {
    Piece piece = list->pieces[i];
    if (piece.offset == SIZE_MAX) {
      list->pieces[kept++] = piece;
      continue;
    }
    *place_of(w, piece.value) = (Place){.kind = PLACE_BLOCK, .block = (uint8_t)block, .offset = piece.offset};
    TRY(append(arena, all, &piece, 1));
  }
  list->n = kept;
  return OK;
}

/* Values that live within the action: in blocks, and beside workspaces in scratch. */
static Status lay_action(Layout *w, Arena *arena, int action, Pieces *list, StageMemory *m) {
  Pieces all = {0};
  size_t room = 0, bound;
  for (int b = 0; b < m->n_blocks; b++) {
    Pieces tenants = {0};
    TRY(list_tenants(w, arena, m, action, b, &tenants));
    room += tenants.n ? m->blocks[b].bytes : 0;
    if (tenants.n)
      TRY(fill_block(w, arena, m, b, &tenants, list, &all));
  }
  TRY(add_workspaces(w, arena, action, list));
  TRY(append(arena, &all, list->pieces, list->n));
  TRY(pack_bound(all.pieces, (int)all.n, &bound));
  if (bound > room && bound - room > m->scratch_bound)
    m->scratch_bound = bound - room;
  TRY(pack(list->pieces, (int)list->n, STEPS, &m->scratch_bytes));
  for (size_t i = 0; i < list->n; i++) {
    const Piece *piece = &list->pieces[i];
    if (piece->value != NO_VALUE)
      place_of(w, piece->value)->offset = piece->offset;
    else
      m->workspaces[m->n_workspaces++] = (Workspace){piece->node, piece->offset};
  }
  return OK;
}

/* What a stage uses, and what passes through it. */
static Status list_values(Layout *w, Arena *arena, Arena *scratch, StageMemory *m) {
  int stage = w->setting->stage;
  const StageNodes *s = &w->stages->stages[stage];
  const Cut *below = stage ? &w->stages->cuts[stage - 1] : &(Cut){0};
  const Cut *above = stage < w->stages->n_stages - 1 ? &w->stages->cuts[stage] : &(Cut){0};
  size_t at[3] = {0}, n[3] = {s->n_uses, (size_t)below->n_forward, (size_t)above->n_backward};
  const ValueId *lists[3] = {s->uses, below->forward, above->backward};
  ValueId *all;
  TRY(ARENA_NEW(scratch, all, n[0] + n[1] + n[2]));
  for (;;) { /* they lie by id */
    ValueId next = NO_VALUE;
    for (int k = 0; k < 3; k++)
      if (at[k] < n[k] && lists[k][at[k]] < next)
        next = lists[k][at[k]];
    if (next == NO_VALUE)
      break;
    for (int k = 0; k < 3; k++)
      at[k] += at[k] < n[k] && lists[k][at[k]] == next;
    w->number[next] = (uint32_t)m->n_values;
    all[m->n_values++] = next;
  }
  size_t nodes = (size_t)(s->n_nodes[PHASE_F] + s->n_backward);
  TRY(ARENA_NEW(arena, m->places, m->n_values));
  TRY(ARENA_NEW(scratch, m->workspaces, nodes));
  return (m->values = arena_copy(arena, all, m->n_values * sizeof *all)) ? OK : status_code();
}

static int by_node(const void *a, const void *b) {
  const Workspace *x = a, *y = b;
  return x->node < y->node ? -1 : x->node > y->node;
}

static Status keep_workspaces(Arena *arena, StageMemory *m) {
  if (m->n_workspaces)
    qsort(m->workspaces, m->n_workspaces, sizeof *m->workspaces, by_node);
  m->workspaces = arena_copy(arena, m->workspaces, m->n_workspaces * sizeof *m->workspaces);
  return m->workspaces ? OK : status_code();
}

Place memory_place(const StageMemory *memory, ValueId value) {
  size_t at = stages_find(memory->values, memory->n_values, value);
  return at < memory->n_values ? memory->places[at] : (Place){.kind = PLACE_NONE};
}

size_t memory_workspace(const StageMemory *memory, NodeId node) {
  const Workspace key = {.node = node};
  const Workspace *found =
      memory->n_workspaces ? bsearch(&key, memory->workspaces, memory->n_workspaces, sizeof key, by_node) : NULL;
  return found ? found->offset : 0;
}

static Status plan(Layout *w, Arena *arena, Arena *scratch, StageMemory *m) {
  Pieces lists[ACTIONS] = {{0}};
  TRY(list_values(w, arena, scratch, m));
  TRY(find_lives(w, scratch));
  TRY(place_roots(w, scratch, m, lists));
  for (int action = 0; action < ACTIONS; action++)
    TRY(lay_action(w, scratch, action, &lists[action], m));
  for (size_t i = 0; i < m->n_values; i++)
    if (w->root[i] != m->values[i])
      m->places[i] = *place_of(w, w->root[i]);
  return keep_workspaces(arena, m);
}

Status memory_plan_stage(Arena *arena, const Graph *graph, const Stages *stages, const StageSetting *setting,
                         StageMemory *memory) {
  Layout w = {.graph = graph, .stages = stages, .setting = setting, .memory = memory};
  *memory = (StageMemory){0};
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  w.number = calloc(graph->n_values + 1, sizeof *w.number); /* of which a stage touches a small part */
  Status status = w.number ? plan(&w, arena, scratch, memory) : fail(E_MEMORY, "out of memory");
  free(w.number);
  arena_destroy(scratch);
  if (status != OK)
    status_context("memory of stage %d: ", setting->stage);
  return status;
}
