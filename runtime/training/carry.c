/* Parameters, buffers and the optimizer's states between the ranks that hold them and those that will. Invariant: every
 * rank walks the same tensors in the same order, so that what one sends is what another awaits; nothing is computed, so
 * that not a bit changes. */
#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint/replaced.h"
#include "runtime/training/replan.h"

/* A tensor as the store knows it, of any of the job's graphs. */
typedef struct {
  int initializer, state;
  int next; /* of the initializer's; -1: none */
  size_t bytes;
  bool *had, *has; /* [ranks]: under the plan that was; under the next one */
  char *data;      /* where this rank will have it */
} Item;

struct Carried {
  Arena *arena;
  Item *items;
  size_t n, capacity;
  int *first; /* [initializers]; -1: none */
  char *memory;
};

/* What the store has of a value that is no constant of the model's file. */
static bool is_carried(const Job *job, const Value *value) {
  return value->role == ROLE_PARAMETER || value->role == ROLE_BUFFER || value->role == ROLE_STATE ||
         replaced_is_stored(job, value);
}

static int initializer_of(const Graph *g, const Value *value) {
  return value->role == ROLE_STATE ? graph_value(g, value->parameter)->initializer : value->initializer;
}

static Item *find(const Carried *c, int initializer, int state) {
  int k = initializer >= 0 ? c->first[initializer] : -1;
  while (k >= 0 && c->items[k].state != state)
    k = c->items[k].next;
  return k >= 0 ? &c->items[k] : NULL;
}

static Status append(Carried *c, int ranks, int initializer, int state, size_t bytes, Item **piece) {
  TRY(ARENA_RESERVE(c->arena, c->items, c->n, c->capacity, c->n + 1));
  Item *p = *piece = &c->items[c->n];
  *p = (Item){.initializer = initializer, .state = state, .next = c->first[initializer], .bytes = bytes};
  TRY(ARENA_NEW(c->arena, p->had, ranks));
  TRY(ARENA_NEW(c->arena, p->has, ranks));
  c->first[initializer] = (int)c->n++;
  return OK;
}

/* Which ranks hold what of the job's graph, now or next. */
static Status add_graph(Carried *c, const Job *job, bool next) {
  const Graph *g = job->decided.graph;
  const Plan *plan = &job->decided.plan;
  int *states;
  TRY(ARENA_NEW(c->arena, states, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    int state = value->role == ROLE_STATE ? ++states[value->parameter] : 0, initializer = initializer_of(g, value);
    if (!is_carried(job, value) || initializer < 0)
      continue;
    Item *p = find(c, initializer, state);
    if (!p)
      TRY(append(c, plan->ranks, initializer, state, graph_value_bytes(g, v), &p));
    for (int r = 0; r < plan->ranks; r++)
      if (memory_holds(&plan->rank_memory[r], v))
        (next ? p->has : p->had)[r] = true;
  }
  return OK;
}

static Status list(Carried *c, const Training *training, const NextPlan *next) {
  int n;
  model_initializers(training->job->given.model, &n);
  TRY(ARENA_NEW(c->arena, c->first, n));
  for (int i = 0; i < n; i++)
    c->first[i] = -1;
  TRY(add_graph(c, training->job, false));
  TRY(add_graph(c, &next->job, true));
  if (training->rest) {
    TRY(add_graph(c, &training->rest->job, false));
    TRY(add_graph(c, &next->rest->job, true));
  }
  if (training->validation) {
    TRY(add_graph(c, &training->validation->job, false));
    TRY(add_graph(c, &next->validation.job, true));
  }
  return OK;
}

/* One piece of memory for what this rank will have. */
static Status give_memory(Carried *c, int rank) {
  size_t bytes = 0;
  for (size_t i = 0; i < c->n; i++)
    bytes += c->items[i].has[rank] ? memory_units(c->items[i].bytes) : 0;
  if (!(c->memory = malloc(bytes ? bytes : 1)))
    return fail(E_MEMORY, "out of memory: %zu bytes to take another plan", bytes);
  bytes = 0;
  for (size_t i = 0; i < c->n; i++)
    if (c->items[i].has[rank]) {
      c->items[i].data = c->memory + bytes;
      bytes += memory_units(c->items[i].bytes);
    }
  return OK;
}

/* The lowest rank that has it to every rank that has it not and will. */
static Status send(Worker *w, const Item *p, void *data) {
  TRY(store_read_state(w->store, p->initializer, p->state, data, p->bytes));
  for (int r = 0; r < w->training->job->decided.ranks; r++)
    if (p->has[r] && !p->had[r])
      TRY(link_send(w->link, r, data, p->bytes));
  return OK;
}

static Status move(Worker *w, Item *p) {
  int owner = 0;
  while (owner + 1 < w->training->job->decided.ranks && !p->had[owner])
    owner++;
  if (p->has[w->rank] && !p->had[w->rank])
    return link_receive(w->link, owner, p->data, p->bytes);
  if (owner != w->rank)
    return p->has[w->rank] ? store_read_state(w->store, p->initializer, p->state, p->data, p->bytes) : OK;
  void *data = p->data ? p->data : malloc(p->bytes ? p->bytes : 1);
  Status status = data ? send(w, p, data) : fail(E_MEMORY, "out of memory: %zu bytes", p->bytes);
  if (data != p->data)
    free(data);
  return status;
}

static Status carry_all(Worker *w, Carried *c) {
  TRY(list(c, w->training, w->next));
  TRY(give_memory(c, w->rank));
  for (size_t i = 0; i < c->n; i++)
    TRY(move(w, &c->items[i]));
  return OK;
}

Status carry(Worker *w, Carried **carried) {
  Arena *arena = arena_create();
  Carried *c = arena ? arena_alloc(arena, 1, sizeof *c) : NULL;
  if (!c) {
    arena_destroy(arena);
    return link_withdraw(w->link, status_code());
  }
  *c = (Carried){.arena = arena};
  *carried = c;
  Status status = carry_all(w, c);
  return status == OK ? OK : link_withdraw(w->link, status);
}

void carried_destroy(Carried *c) {
  if (!c)
    return;
  free(c->memory);
  arena_destroy(c->arena);
}

/* Which of its parameter's states the value is, from 1; 0: none. */
static int state_of(const Graph *g, ValueId v) {
  int k = 0;
  for (ValueId u = 0; u <= v && graph_value(g, v)->role == ROLE_STATE; u++)
    k += graph_value(g, u)->role == ROLE_STATE && graph_value(g, u)->parameter == graph_value(g, v)->parameter;
  return k;
}

Status carried_load(void *context, ValueId v, void *data, size_t bytes) {
  const CarriedOf *of = context;
  const Graph *g = of->job->decided.graph;
  const Value *value = graph_value(g, v);
  if (!is_carried(of->job, value))
    return weights_load((void *)of->job, v, data, bytes);
  const Item *p = find(of->carried, initializer_of(g, value), state_of(g, v));
  if (!p || !p->data || p->bytes != bytes)
    return fail(E_USAGE, "'%s' was not carried over", value->name);
  memcpy(data, p->data, bytes);
  return OK;
}
