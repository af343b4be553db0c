/* What a rank keeps from step to step, once, whichever graphs compute with it: parameters, their gradients'
 * accumulators and the optimizer's states of them, buffers, and the constants that lie in the model's file. Training,
 * an uneven last batch and inference are graphs of their own over one store; what is saved is read from the store,
 * without a graph.
 *
 * Invariant: a tensor of the store is known by its initializer, not by a graph's value; it is dense, of one type and
 * shape in every graph, and is filled once. */
#ifndef RUNTIME_EXECUTOR_STORE_H
#define RUNTIME_EXECUTOR_STORE_H

#include "backend/backend.h"
#include "graph/memory.h"
#include "runtime/executor/shuttle.h"

typedef struct Store Store;

/* First contents of a parameter or a state, or those of a constant that lies in the model file, dense, in host memory.
 * `value` is of the graph that is being opened. */
typedef Status Load(void *context, ValueId value, void *data, size_t bytes);

/* An empty store on a device; it owns the stream on which its graphs run. */
Status store_open(const Backend *backend, int device, int threads, Store **store);
void store_close(Store *store);

/* What the store was opened on, and its stream. */
const Backend *store_backend(const Store *store);
Stream *store_stream(const Store *store);
int store_device(const Store *store);
/* What brings offloaded states; NULL: nothing passes through a window. */
Shuttle *store_shuttle(const Store *store);

/* Places for what the store keeps of a graph (memory_is_stored) on the rank of this memory: entries [n_values], in the
 * arena, -1 elsewhere; and for what memory->rounded says of them: rounded [n_values]. What no graph had before gets
 * memory that holds zeros, in one piece; what is offloaded, pinned memory of the host, in the order of the graph,
 * unless the store is for a rehearsal, which has no use for it. Fails E_MEMORY; E_USAGE where type or shape are not
 * those that another graph has, or two parameters of the graph have one initializer. */
Status store_take(Store *store, Arena *arena, const Graph *graph, const RankMemory *memory, bool rehearses,
                  int **entries, int **rounded);
/* Fills those of a graph's entries that are not filled yet by `load`; accumulators with zeros, and the optimizer's
 * states, unless they are loaded, too. */
Status store_fill(Store *store, const Graph *graph, const int *entries, bool loads_states, Load *load, void *context);
/* Rounds anew, of these [n], what is not what the tensor rounds to: it was changed, or never rounded. */
Status store_round(Store *store, const int *entries, const int *rounded, size_t n);
/* A tensor's contents are others now, and what is kept rounded of it, if anything, was not. */
void store_changed(Store *store, int initializer);
/* Whether nothing is filled yet. */
bool store_is_fresh(const Store *store);
/* Where an entry lies, in the device's memory, or, offloaded, in the host's, where the device reaches it, too. */
char *store_at(const Store *store, int entry);
/* All of an entry, into host memory. */
Status store_read_entry(Store *store, int entry, void *data, size_t bytes);

/* The contents of an initializer's tensor, `bytes` of them (checked), into host memory. E_USAGE where the rank has it
 * not. */
Status store_read(Store *store, int initializer, void *data, size_t bytes);
/* The same of the optimizer's k-th state of it in the order of the graph, from 1; 0: the tensor itself. */
Status store_read_state(Store *store, int initializer, int state, void *data, size_t bytes);

#endif
