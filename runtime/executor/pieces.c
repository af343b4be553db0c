/* Cuts updates to the size of slots. */
#include "runtime/executor/pieces.h"

#include "graph/op.h"
#include "graph/optimizer.h"
#include "runtime/executor/internal.h"

/* Growing arrays, of which pieces are ranges. */
typedef struct {
  Executor *e;
  Update *updates;
  Span *spans;
  size_t n_updates, updates_capacity, n_spans, spans_capacity, n_pieces, pieces_capacity;
  size_t used; /* bytes of the last piece's slot */
} Cutter;

bool pieces_take(const Executor *e, const Node *node) {
  return e->memory->window_bytes && node_int(node, "states", 0) > 0 && optimizer_updates_parts(e->graph, node);
}

static int slot_of(size_t piece) {
  return (int)(piece % WINDOW_SLOTS);
}

static Status begin_piece(Cutter *c) {
  Executor *e = c->e;
  TRY(ARENA_RESERVE(e->arena, e->pieces, c->n_pieces, c->pieces_capacity, c->n_pieces + 1));
  e->pieces[c->n_pieces++] = (Piece){0};
  c->used = 0;
  return OK;
}

/* Bytes that come to the end of the slot: one copy with those before, where both lie side by side. */
static Status add_span(Cutter *c, char *host, size_t bytes) {
  Piece *piece = &c->e->pieces[c->n_pieces - 1];
  Span *last = piece->n_spans ? &c->spans[c->n_spans - 1] : NULL;
  if (last && last->host + last->bytes == host) {
    last->bytes += bytes;
  } else {
    TRY(ARENA_RESERVE(c->e->arena, c->spans, c->n_spans, c->spans_capacity, c->n_spans + 1));
    c->spans[c->n_spans++] = (Span){.host = host, .offset = c->used, .bytes = bytes};
    piece->n_spans++;
  }
  c->used += bytes;
  return OK;
}

/* So many elements of the node's parameter, from `first` on: a part of the last piece. */
static Status add_part(Cutter *c, const Node *node, int64_t first, int64_t count) {
  Executor *e = c->e;
  DType type = graph_value(e->graph, node->in[0])->dtype;
  size_t at = (size_t)first * dtype_bytes(type), bytes = memory_units((size_t)count * dtype_bytes(type));
  char *slot = shuttle_slot(store_shuttle(e->spec.store), slot_of(c->n_pieces - 1));
  int states = (int)node_int(node, "states", 0);
  Tensor *in;
  TRY(ARENA_NEW(e->arena, in, node->n_in));
  for (int i = 0; i < node->n_in; i++) {
    const Value *value = graph_value(e->graph, node->in[i]);
    char *data = executor_persistent(e, node->in[i]);
    if (i == 1) { /* scalars, for all */
      in[i] = tensor_at(value->dtype, value->shape, data);
      continue;
    }
    in[i] = tensor_at(type, shape_of(1, &count), data + at);
    if (i == 0 && e->rounded[node->in[0]] >= 0)
      in[i].rounded = store_at(e->spec.store, e->rounded[node->in[0]]) + (size_t)first * dtype_bytes(BF16);
    if (i < 2 || i >= 2 + states)
      continue;
    in[i].data = slot + c->used;
    TRY(add_span(c, data + at, bytes));
  }
  TRY(ARENA_RESERVE(e->arena, c->updates, c->n_updates, c->updates_capacity, c->n_updates + 1));
  e->pieces[c->n_pieces - 1].n++;
  return executor_make_update(e, node, in, &c->updates[c->n_updates++]);
}

static Status cut(Cutter *c, const Node *node) {
  const Value *parameter = graph_value(c->e->graph, node->in[0]);
  int64_t n = shape_elements(parameter->shape);
  size_t states = (size_t)node_int(node, "states", 0), slot = shuttle_slot_bytes(store_shuttle(c->e->spec.store));
  for (int64_t first = 0, count; first < n; first += count) {
    size_t room = (slot - c->used) / states / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
    if (!c->n_pieces || !room) {
      TRY(begin_piece(c));
      room = slot / states / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
    }
    count = (int64_t)(room / dtype_bytes(parameter->dtype));
    count = count < n - first ? count : n - first;
    TRY(add_part(c, node, first, count));
  }
  return OK;
}

Status pieces_make(Executor *e) {
  Cutter c = {.e = e};
  for (size_t i = 0; i < e->graph->n_nodes; i++) {
    const Node *node = e->graph->nodes[i];
    if (op_def(node->op)->traits & OP_UPDATE && memory_updates(e->memory, e->graph, node) && pieces_take(e, node))
      TRY(cut(&c, node));
  }
  e->n_pieces = (int)c.n_pieces;
  for (int k = 0; k < e->n_pieces; k++) {
    Piece *piece = &e->pieces[k];
    piece->updates = c.updates;
    piece->spans = c.spans;
    c.updates += piece->n;
    c.spans += piece->n_spans;
    TRY(executor_join(e, piece->updates, piece->n));
  }
  return OK;
}

static Status bring(Executor *e, int k) {
  return shuttle_bring(store_shuttle(e->spec.store), slot_of((size_t)k), e->pieces[k].spans, e->pieces[k].n_spans);
}

Status pieces_fetch(Executor *e) {
  for (int k = 0; k < e->n_pieces && k < WINDOW_SLOTS; k++)
    TRY(bring(e, k));
  return OK;
}

Status piece_call(Executor *e, const Piece *piece) {
  for (int i = 0; i < piece->n; i++)
    TRY(executor_call(e, &piece->updates[i].call, 0));
  return OK;
}

Status pieces_update(Executor *e) {
  Shuttle *shuttle = store_shuttle(e->spec.store);
  for (int k = 0; k < e->n_pieces; k++) {
    const Piece *piece = &e->pieces[k];
    TRY(shuttle_arrive(shuttle, slot_of((size_t)k)));
    TRY(piece_call(e, piece));
    TRY(shuttle_return(shuttle, slot_of((size_t)k), piece->spans, piece->n_spans));
    if (k + WINDOW_SLOTS < e->n_pieces)
      TRY(bring(e, k + WINDOW_SLOTS));
  }
  return OK;
}
