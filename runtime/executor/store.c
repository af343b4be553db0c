/* Tensors by initializer. Invariant: the entries of one initializer form a chain, which begins with itself. */
#include "runtime/executor/store.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDED = INT_MAX };

/* The tensor of an initializer, what it rounds to in bfloat16, or one of the optimizer's states or a gradient's
 * accumulator of it. */
typedef struct {
  int state; /* 0: the tensor itself; k: its k-th state in the order of the graph; -k: its k-th accumulator; ROUNDED */
  int next;  /* of the initializer's chain; -1 at its end */
  DType dtype;
  Shape shape;
  char *data;   /* NULL: nobody needs its contents */
  bool filled;  /* of a ROUNDED one: it is what the tensor rounds to */
  bool on_host; /* a state that is offloaded */
  int turn;     /* in which it was taken last */
} Entry;

/* Memory of what one graph brought. */
typedef struct Slab {
  struct Slab *next;
  void *memory;
  bool on_host; /* pinned */
} Slab;

struct Store {
  Arena *arena;
  const Backend *backend;
  Stream *stream;
  int device;
  Slab *slabs;
  Shuttle *shuttle; /* NULL: no graph so far has states that pass through a window */
  Entry *entries;
  size_t n_entries, entries_capacity;
  int *chains; /* [n_chains]: the first entry of an initializer; -1: none */
  size_t n_chains, chains_capacity;
  int turn; /* counts store_take */
};

Status store_open(const Backend *backend, int device, int threads, Store **out) {
  Arena *arena = arena_create();
  Store *store = arena ? arena_alloc(arena, 1, sizeof *store) : NULL;
  *out = NULL;
  if (!store) {
    arena_destroy(arena);
    return status_code();
  }
  *store = (Store){.arena = arena, .backend = backend, .device = device};
  Status status = backend->stream_open(device, threads, &store->stream);
  if (status != OK) {
    arena_destroy(arena);
    return status;
  }
  *out = store;
  return OK;
}

void store_close(Store *store) {
  if (!store)
    return;
  shuttle_close(store->shuttle);
  for (Slab *slab = store->slabs; slab; slab = slab->next)
    (slab->on_host ? store->backend->unpin : store->backend->release)(store->stream, slab->memory);
  store->backend->stream_close(store->stream);
  arena_destroy(store->arena);
}

const Backend *store_backend(const Store *store) {
  return store->backend;
}

Stream *store_stream(const Store *store) {
  return store->stream;
}

Shuttle *store_shuttle(const Store *store) {
  return store->shuttle;
}

int store_device(const Store *store) {
  return store->device;
}

char *store_at(const Store *store, int entry) {
  return store->entries[entry].data;
}

static size_t entry_bytes(const Entry *entry) {
  return (size_t)shape_elements(entry->shape) * dtype_bytes(entry->dtype); /* as the graph's, which does not overflow */
}

static int find(const Store *store, int initializer, int state) {
  int k = (size_t)initializer < store->n_chains ? store->chains[initializer] : -1;
  while (k >= 0 && store->entries[k].state != state)
    k = store->entries[k].next;
  return k;
}

/* A new entry, without memory, at the end of its chain. */
static Status append(Store *store, int initializer, int state, const Value *value, int *entry) {
  size_t chains = (size_t)initializer + 1;
  TRY(ARENA_RESERVE(store->arena, store->chains, store->n_chains, store->chains_capacity, chains));
  while (store->n_chains < chains)
    store->chains[store->n_chains++] = -1;
  TRY(ARENA_RESERVE(store->arena, store->entries, store->n_entries, store->entries_capacity, store->n_entries + 1));
  *entry = (int)store->n_entries++;
  store->entries[*entry] = (Entry){.state = state, .next = -1, .dtype = value->dtype, .shape = value->shape};
  int *link = &store->chains[initializer];
  while (*link >= 0)
    link = &store->entries[*link].next;
  *link = *entry;
  return OK;
}

static Status find_or_append(Store *store, int initializer, int state, const Value *value, int *entry) {
  *entry = find(store, initializer, state);
  if (*entry < 0)
    return append(store, initializer, state, value, entry);
  const Entry *has = &store->entries[*entry];
  if (has->dtype != value->dtype || !shape_equal(has->shape, value->shape))
    return fail(E_USAGE, "'%s' is %s %s in this graph, %s %s in one that ran before", value->name,
                dtype_name(value->dtype), SHAPE_STR(value->shape), dtype_name(has->dtype), SHAPE_STR(has->shape));
  return OK;
}

/* One piece of memory for the entries from `first` on that lie on the host, or do not. */
static Status give_memory(Store *store, size_t first, bool on_host) {
  const Backend *backend = store->backend;
  size_t bytes = 0;
  Slab *slab;
  for (size_t i = first; i < store->n_entries; i++)
    if (store->entries[i].on_host == on_host)
      bytes += memory_units(entry_bytes(&store->entries[i])); /* a part of the rank's memory, which does not overflow */
  if (!bytes)
    return OK;
  TRY(ARENA_NEW(store->arena, slab, 1));
  TRY((on_host ? backend->pin : backend->alloc)(store->stream, bytes, &slab->memory));
  slab->next = store->slabs;
  slab->on_host = on_host;
  store->slabs = slab;
  char *at = slab->memory;
  for (size_t i = first; i < store->n_entries; i++) {
    Entry *entry = &store->entries[i];
    if (entry->on_host != on_host)
      continue;
    entry->data = at;
    at += memory_units(entry_bytes(entry));
  }
  return backend->is_host || on_host ? OK : backend->zero(store->stream, slab->memory, bytes);
}

static Status take(Store *store, const Graph *g, const RankMemory *memory, int *entries, int *rounded, int *states) {
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    bool is_gradient = value->role == ROLE_GRADIENT, is_state = value->role == ROLE_STATE;
    int state = is_gradient ? -1 - value->group : is_state ? ++states[value->parameter] : 0;
    entries[v] = rounded[v] = -1;
    if (!memory_is_stored(g, v) || !memory_holds(memory, v))
      continue;
    int initializer = is_gradient || is_state ? graph_value(g, value->parameter)->initializer : value->initializer;
    assert(initializer >= 0);
    TRY(find_or_append(store, initializer, state, value, &entries[v]));
    Entry *entry = &store->entries[entries[v]];
    if (entry->turn == store->turn && value->role != ROLE_CONSTANT) /* it would be updated twice */
      return fail(E_USAGE, "'%s' is not the only parameter of the graph that has initializer %d", value->name,
                  initializer);
    entry->turn = store->turn;
    entry->on_host = memory_is_offloaded(memory, g, v);
    if (memory_is_rounded(memory, v)) {
      Value narrow = {.name = value->name, .dtype = BF16, .shape = value->shape};
      TRY(find_or_append(store, initializer, ROUNDED, &narrow, &rounded[v]));
    }
  }
  return OK;
}

Status store_take(Store *store, Arena *arena, const Graph *graph, const RankMemory *memory, bool rehearses,
                  int **entries, int **rounded) {
  int *states; /* of each parameter so far */
  size_t first = store->n_entries;
  TRY(ARENA_NEW(arena, *entries, graph->n_values));
  TRY(ARENA_NEW(arena, *rounded, graph->n_values));
  TRY(ARENA_NEW(arena, states, graph->n_values));
  store->turn++;
  TRY(take(store, graph, memory, *entries, *rounded, states));
  TRY(give_memory(store, first, false));
  if (rehearses)
    return OK;
  TRY(give_memory(store, first, true));
  return memory->window_bytes && !store->shuttle
             ? shuttle_open(store->backend, store->stream, store->device, memory->window_bytes, &store->shuttle)
             : OK;
}

/* Through host memory where the device has its own. */
static Status load_entry(Store *store, Entry *entry, const Graph *graph, ValueId value, Load *load, void *context) {
  size_t bytes = entry_bytes(entry);
  if (store->backend->is_host || entry->on_host)
    return load(context, value, entry->data, bytes);
  void *staging = malloc(bytes ? bytes : 1);
  if (!staging)
    return fail(E_MEMORY, "out of memory: %zu bytes to load '%s'", bytes, graph_value(graph, value)->name);
  Status status = load(context, value, staging, bytes);
  if (status == OK)
    status = store->backend->copy(store->stream, entry->data, staging, bytes, COPY_HOST_TO_DEVICE);
  if (status == OK)
    status = store->backend->stream_wait(store->stream);
  free(staging);
  return status;
}

Status store_fill(Store *store, const Graph *graph, const int *entries, bool loads_states, Load *load, void *context) {
  for (ValueId v = 0; v < graph->n_values; v++) {
    Entry *entry = entries[v] >= 0 ? &store->entries[entries[v]] : NULL;
    if (!entry || entry->filled)
      continue;
    bool is_zero = entry->state < 0 || (entry->state && !loads_states);
    if (entry->on_host && !entry->data)
      continue;
    if (!is_zero)
      TRY(load_entry(store, entry, graph, v, load, context));
    else if (entry->on_host)
      memset(entry->data, 0, entry_bytes(entry));
    else if (!store->backend->is_host) /* warming up has written there */
      TRY(store->backend->zero(store->stream, entry->data, entry_bytes(entry)));
    entry->filled = true;
  }
  return OK;
}

Status store_round(Store *store, const int *entries, const int *rounded, size_t n) {
  for (size_t i = 0; i < n; i++) {
    Entry *to = rounded[i] >= 0 ? &store->entries[rounded[i]] : NULL;
    if (!to || to->filled)
      continue;
    const Entry *from = &store->entries[entries[i]];
    TRY(store->backend->convert(store->stream, to->data, BF16, from->data, F32, shape_elements(from->shape)));
    to->filled = true;
  }
  return OK;
}

void store_changed(Store *store, int initializer) {
  int k = find(store, initializer, ROUNDED);
  if (k >= 0)
    store->entries[k].filled = false;
}

bool store_is_fresh(const Store *store) {
  for (size_t i = 0; i < store->n_entries; i++)
    if (store->entries[i].filled)
      return false;
  return true;
}

Status store_read_entry(Store *store, int k, void *data, size_t bytes) {
  const Entry *entry = &store->entries[k];
  if (!entry->on_host)
    TRY(store->backend->copy(store->stream, data, entry->data, bytes, COPY_DEVICE_TO_HOST));
  TRY(store->backend->stream_wait(store->stream));
  if (!entry->on_host)
    return OK;
  TRY(shuttle_wait(store->shuttle));
  memcpy(data, entry->data, bytes);
  return OK;
}

Status store_read(Store *store, int initializer, void *data, size_t bytes) {
  return store_read_state(store, initializer, 0, data, bytes);
}

Status store_read_state(Store *store, int initializer, int state, void *data, size_t bytes) {
  int k = find(store, initializer, state);
  if (k < 0 || !store->entries[k].filled)
    return fail(E_USAGE, "the rank does not hold initializer %d", initializer);
  const Entry *entry = &store->entries[k];
  if (bytes != entry_bytes(entry))
    return fail(E_USAGE, "initializer %d has %zu bytes, not %zu", initializer, entry_bytes(entry), bytes);
  return store_read_entry(store, k, data, bytes);
}
