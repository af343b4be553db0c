/* The arena of a rank, from the layouts of its stages. Invariant: stored values, other persistent ones, blocks and
 * scratch follow one another without overlap. */
#include "base/checked.h"
#include "graph/memory.h"
#include "graph/op.h"
#include "graph/optimizer.h"
#include "graph/rounded.h"

static Status add(size_t *sum, size_t bytes) {
  if (!checked_add(*sum, bytes, sum) || *sum > SIZE_MAX / 2)
    return fail(E_LIMIT, "the sizes of a rank's memory overflow");
  return OK;
}

bool memory_is_persistent(const Graph *graph, ValueId value) {
  const Value *v = graph_value(graph, value);
  if (v->producer != NO_NODE)
    return graph_node(graph, v->producer)->phase == PHASE_UPDATE;
  return v->role != ROLE_ACTIVATION && !memory_is_fed(graph, value);
}

bool memory_is_fed(const Graph *graph, ValueId value) {
  const Value *v = graph_value(graph, value);
  return v->producer == NO_NODE && (v->role == ROLE_INPUT || v->role == ROLE_COUNTER);
}

/* An accumulator has its parameter's shape; rows that were looked up (graph/rows.h) are as many as a graph's own step
 * has. */
static bool is_accumulator(const Graph *graph, const Value *v) {
  return v->role == ROLE_GRADIENT && shape_equal(v->shape, graph_value(graph, v->parameter)->shape) &&
         v->dtype == graph_value(graph, v->parameter)->dtype;
}

bool memory_is_stored(const Graph *graph, ValueId value) {
  const Value *v = graph_value(graph, value);
  return v->role == ROLE_PARAMETER || is_accumulator(graph, v) || v->role == ROLE_STATE || v->role == ROLE_BUFFER ||
         (v->role == ROLE_CONSTANT && !v->data);
}

bool memory_is_offloaded(const RankMemory *memory, const Graph *graph, ValueId value) {
  return memory->offloads && graph_value(graph, value)->role == ROLE_STATE;
}

/* A slot is large enough for the bus to be at its best, and small beside what passes through it. */
static const size_t most_slot_bytes = (size_t)32 << 20, least_slot_bytes = (size_t)4 << 10;
enum { SLOTS_OF_ALL = 128 };

static Status place_window(const Graph *g, RankMemory *m) {
  for (size_t i = 0; i < g->n_nodes && m->offloads; i++) {
    const Node *node = g->nodes[i];
    if (!(op_def(node->op)->traits & OP_UPDATE) || !memory_updates(m, g, node) || !optimizer_updates_parts(g, node))
      continue;
    for (int k = 0; k < (int)node_int(node, "states", 0); k++)
      m->passing_bytes += memory_units(graph_value_bytes(g, node->in[2 + k])); /* a part of host_bytes */
  }
  if (!m->passing_bytes)
    return OK;
  size_t slot = memory_units(m->passing_bytes / SLOTS_OF_ALL);
  slot = slot > most_slot_bytes ? most_slot_bytes : slot < least_slot_bytes ? least_slot_bytes : slot;
  m->window_bytes = WINDOW_SLOTS * slot;
  TRY(add(&m->state_bytes, m->window_bytes));
  return add(&m->persistent_bytes, m->window_bytes);
}

size_t memory_rounded_bytes(const Graph *graph, ValueId value) {
  return memory_units((size_t)shape_elements(graph_value(graph, value)->shape) * dtype_bytes(BF16));
}

/* The next persistent values: those that are stored, or the others. */
static Status place_some(const Graph *g, bool stored, RankMemory *m) {
  for (ValueId v = 0; v < g->n_values; v++) {
    if (m->persistent_offset[v] == SIZE_MAX || memory_is_stored(g, v) != stored)
      continue;
    if (memory_is_offloaded(m, g, v)) {
      m->persistent_offset[v] = m->host_bytes;
      TRY(add(&m->host_bytes, memory_units(graph_value_bytes(g, v))));
      continue;
    }
    Role role = graph_value(g, v)->role;
    size_t *part = role == ROLE_PARAMETER                      ? &m->parameter_bytes
                   : role == ROLE_GRADIENT                     ? &m->gradient_bytes
                   : role == ROLE_STATE || role == ROLE_BUFFER ? &m->state_bytes
                                                               : &m->constant_bytes;
    size_t bytes = memory_units(graph_value_bytes(g, v)) + (m->rounded[v] ? memory_rounded_bytes(g, v) : 0);
    m->persistent_offset[v] = m->persistent_bytes;
    TRY(add(part, bytes));
    TRY(add(&m->persistent_bytes, bytes));
  }
  return OK;
}

/* What products of these stages round, and the rank keeps. */
static void mark_rounded(const Graph *g, int own, const bool *here, RankMemory *m) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    for (int k = 0; node->phase != PHASE_UPDATE && here[node->stage] && k < node->n_in; k++)
      if (node_rounds(g, node, k) && graph_is_rounded(g, node->in[k], own))
        m->rounded[graph_viewed(g, node->in[k])] = true;
  }
}

static Status place_persistent(const Graph *g, const Stages *s, int own, const bool *here, RankMemory *m) {
  for (ValueId v = 0; v < g->n_values; v++)
    m->persistent_offset[v] = SIZE_MAX;
  for (int i = 0; i < s->n_stages; i++) /* what some stage uses, without its place yet */
    for (ValueId v = 0; here[i] && v < g->n_values; v++)
      if (s->stages[i].uses[v] && memory_is_persistent(g, v))
        m->persistent_offset[v] = 0;
  mark_rounded(g, own, here, m);
  for (ValueId v = 0; v < g->n_values; v++) /* a view of it may have come from another stage */
    m->rounded[v] &= m->persistent_offset[v] != SIZE_MAX;
  TRY(place_some(g, true, m));
  TRY(place_window(g, m));
  m->stored_bytes = m->persistent_bytes;
  return place_some(g, false, m);
}

/* Views of persistent values lie where these lie; a view comes after what it views. */
static void place_views(const Graph *g, const StageMemory *stage_memory, const bool *here, RankMemory *m) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->phase != PHASE_UPDATE && here[node->stage] && (op_def(node->op)->traits & OP_VIEW) &&
        stage_memory[node->stage].places[node->out[0]].kind == PLACE_PERSISTENT)
      m->persistent_offset[node->out[0]] = m->persistent_offset[node->in[0]];
  }
}

/* Updates run when no stage does: their workspace is all of scratch. */
static Status widen_for_updates(const Graph *g, int own, RankMemory *m) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    size_t bytes = node_workspace_bytes(g, node, own);
    if (node->phase != PHASE_UPDATE || bytes <= m->scratch_bytes || !memory_updates(m, g, node))
      continue;
    if (bytes > SIZE_MAX / 4)
      return fail(E_LIMIT, "the sizes of a rank's memory overflow");
    m->scratch_bytes = memory_units(bytes);
  }
  return OK;
}

Status memory_plan_rank(Arena *arena, const Graph *graph, const Stages *stages, const StageMemory *stage_memory,
                        int own, const bool *here, int (*slots)[MAX_BLOCKS], RankMemory *memory) {
  *memory = (RankMemory){.offloads = graph->offloads && graph->offloads[own]};
  TRY(ARENA_NEW(arena, memory->persistent_offset, graph->n_values));
  TRY(ARENA_NEW(arena, memory->rounded, graph->n_values));
  TRY(ARENA_NEW(arena, memory->blocks, stages->n_stages));
  TRY(place_persistent(graph, stages, own, here, memory));
  place_views(graph, stage_memory, here, memory);
  size_t at = memory->persistent_bytes, bound = 0;
  for (int s = 0; s < stages->n_stages; s++) {
    if (!here[s])
      continue;
    const StageMemory *stage = &stage_memory[s];
    for (int b = 0; b < stage->n_blocks; b++) {
      size_t bytes;
      memory->blocks[s][b] = (BlockPlace){.offset = at, .slots = slots[s][b]};
      if (!checked_mul(stage->blocks[b].bytes, (size_t)slots[s][b], &bytes))
        return fail(E_LIMIT, "the sizes of a rank's memory overflow");
      TRY(add(&at, bytes));
    }
    if (stage->scratch_bytes > memory->scratch_bytes)
      memory->scratch_bytes = stage->scratch_bytes;
    if (stage->scratch_bound > bound)
      bound = stage->scratch_bound;
  }
  size_t of_stages = memory->scratch_bytes;
  TRY(widen_for_updates(graph, own, memory));
  if (memory->scratch_bytes > of_stages) /* by what is no matter of layout */
    bound = memory->scratch_bytes;
  memory->activation_bytes = at - memory->persistent_bytes;
  memory->scratch_offset = at;
  memory->bound_bytes = at + bound;
  TRY(add(&at, memory->scratch_bytes));
  memory->total_bytes = at;
  return OK;
}

size_t memory_offset(const RankMemory *rank, const StageMemory *stage_memory, int stage, ValueId value,
                     int microbatch) {
  Place place = stage_memory[stage].places[value];
  if (place.kind == PLACE_PERSISTENT)
    return rank->persistent_offset[value];
  if (place.kind == PLACE_SCRATCH)
    return rank->scratch_offset + place.offset;
  if (place.kind == PLACE_NONE || !rank->blocks[stage][place.block].slots)
    return SIZE_MAX;
  const BlockPlace *block = &rank->blocks[stage][place.block];
  return block->offset + (size_t)(microbatch % block->slots) * stage_memory[stage].blocks[place.block].bytes +
         place.offset;
}

bool memory_updates(const RankMemory *rank, const Graph *graph, const Node *node) {
  for (int k = 0; k < node->n_in; k++) {
    if (node->in[k] == NO_VALUE)
      continue;
    const Value *v = graph_value(graph, node->in[k]);
    ValueId parameter = v->role == ROLE_PARAMETER ? node->in[k] : v->parameter;
    if (parameter != NO_VALUE)
      return rank->persistent_offset[parameter] != SIZE_MAX;
  }
  return false;
}
