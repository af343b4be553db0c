/* The arena of a rank, from the layouts of its stages. Invariant: stored values, other persistent ones, blocks and
 * scratch follow one another without overlap. */
#include <stdlib.h>

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
  for (size_t i = 0; i < m->n_updates && m->offloads; i++) {
    const Node *node = graph_node(g, m->updates[i]);
    if (!(op_def(node->op)->traits & OP_UPDATE) || !optimizer_updates_parts(g, node))
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
  for (size_t i = 0; i < m->n_persistent; i++) {
    ValueId v = m->persistent[i];
    if (!memory_is_persistent(g, v) || memory_is_stored(g, v) != stored)
      continue;
    if (memory_is_offloaded(m, g, v)) {
      m->persistent_offset[i] = m->host_bytes;
      TRY(add(&m->host_bytes, memory_units(graph_value_bytes(g, v))));
      continue;
    }
    Role role = graph_value(g, v)->role;
    size_t *part = role == ROLE_PARAMETER                      ? &m->parameter_bytes
                   : role == ROLE_GRADIENT                     ? &m->gradient_bytes
                   : role == ROLE_STATE || role == ROLE_BUFFER ? &m->state_bytes
                                                               : &m->constant_bytes;
    size_t bytes = memory_units(graph_value_bytes(g, v)) + (m->rounded[i] ? memory_rounded_bytes(g, v) : 0);
    m->persistent_offset[i] = m->persistent_bytes;
    TRY(add(part, bytes));
    TRY(add(&m->persistent_bytes, bytes));
  }
  return OK;
}

static size_t index_of(const RankMemory *m, ValueId v) {
  return stages_find(m->persistent, m->n_persistent, v);
}

size_t memory_persistent_offset(const RankMemory *memory, ValueId value) {
  size_t at = index_of(memory, value);
  return at < memory->n_persistent ? memory->persistent_offset[at] : SIZE_MAX;
}

bool memory_is_rounded(const RankMemory *memory, ValueId value) {
  size_t at = index_of(memory, value);
  return at < memory->n_persistent && memory->rounded[at];
}

static int by_id(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

/* In ascending order, each once; returns how many. */
static size_t sort_ids(uint32_t *ids, size_t n) {
  size_t kept = 0;
  if (n)
    qsort(ids, n, sizeof *ids, by_id);
  for (size_t i = 0; i < n; i++)
    if (kept == 0 || ids[i] != ids[kept - 1])
      ids[kept++] = ids[i];
  return kept;
}

/* What has a persistent place in one of the stages, without its offset yet. */
static Status list_persistent(Arena *arena, int n_stages, const StageMemory *stages, const bool *here, RankMemory *m) {
  size_t n = 0;
  for (int pass = 0; pass < 2; pass++) { /* counts, then fills */
    if (pass)
      TRY(ARENA_NEW(arena, m->persistent, n));
    n = 0;
    for (int s = 0; s < n_stages; s++)
      for (size_t i = 0; here[s] && i < stages[s].n_values; i++)
        if (stages[s].places[i].kind == PLACE_PERSISTENT) {
          if (pass)
            m->persistent[n] = stages[s].values[i];
          n++;
        }
  }
  m->n_persistent = sort_ids(m->persistent, n);
  TRY(ARENA_NEW(arena, m->persistent_offset, m->n_persistent));
  return ARENA_NEW(arena, m->rounded, m->n_persistent);
}

static Status list_updates(Arena *arena, const Graph *g, const Stages *s, RankMemory *m) {
  size_t n = 0;
  for (size_t i = 0; i < m->n_persistent; i++)
    n += s->first_update[m->persistent[i] + 1] - s->first_update[m->persistent[i]];
  TRY(ARENA_NEW(arena, m->updates, n));
  n = 0;
  for (size_t i = 0; i < m->n_persistent; i++)
    for (size_t k = s->first_update[m->persistent[i]]; k < s->first_update[m->persistent[i] + 1]; k++)
      if (memory_updates(m, g, graph_node(g, s->updates[k])))
        m->updates[n++] = s->updates[k];
  m->n_updates = sort_ids(m->updates, n);
  return OK;
}

/* What these products round, and the rank keeps: a view of it may have come from another stage. */
static void mark_rounded(const Graph *g, int own, const NodeId *nodes, int n, RankMemory *m) {
  for (int i = 0; i < n; i++) {
    const Node *node = graph_node(g, nodes[i]);
    for (int k = 0; k < node->n_in; k++) {
      if (!node_rounds(g, node, k) || !graph_is_rounded(g, node->in[k], own))
        continue;
      size_t at = index_of(m, graph_viewed(g, node->in[k]));
      if (at < m->n_persistent)
        m->rounded[at] = true;
    }
  }
}

static Status place_persistent(const Graph *g, const Stages *s, int own, const bool *here, RankMemory *m) {
  for (int i = 0; i < s->n_stages; i++) {
    if (!here[i])
      continue;
    mark_rounded(g, own, s->stages[i].nodes[PHASE_F], s->stages[i].n_nodes[PHASE_F], m);
    mark_rounded(g, own, s->stages[i].backward, s->stages[i].n_backward, m);
  }
  TRY(place_some(g, true, m));
  TRY(place_window(g, m));
  m->stored_bytes = m->persistent_bytes;
  return place_some(g, false, m);
}

/* Views of persistent values lie where these lie. */
static void place_views(const Graph *g, RankMemory *m) {
  for (size_t i = 0; i < m->n_persistent; i++)
    if (!memory_is_persistent(g, m->persistent[i]))
      m->persistent_offset[i] = memory_persistent_offset(m, graph_viewed(g, m->persistent[i]));
}

/* Updates run when no stage does: their workspace is all of scratch. */
static Status widen_for_updates(const Graph *g, int own, RankMemory *m) {
  for (size_t i = 0; i < m->n_updates; i++) {
    size_t bytes = node_workspace_bytes(g, graph_node(g, m->updates[i]), own);
    if (bytes <= m->scratch_bytes)
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
  TRY(ARENA_NEW(arena, memory->blocks, stages->n_stages));
  TRY(list_persistent(arena, stages->n_stages, stage_memory, here, memory));
  TRY(list_updates(arena, graph, stages, memory));
  TRY(place_persistent(graph, stages, own, here, memory));
  place_views(graph, memory);
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
  Place place = memory_place(&stage_memory[stage], value);
  if (place.kind == PLACE_PERSISTENT)
    return memory_persistent_offset(rank, value);
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
      return memory_holds(rank, parameter);
  }
  return false;
}
