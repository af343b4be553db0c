/* Draws the blocks of a model as tiles in rows, each with its stages' colours by their part of the work. Invariant: a
 * tile's place follows from its number alone, so that a page of 12 layers and one of 100 read alike. */
#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "partitioner/report/blocks.h"
#include "partitioner/report/html.h"
#include "partitioner/report/plan_graph.h"

/* In units of the picture, which is as wide as the page. */
enum { WIDTH = 1200, GAP = 14, TILE = 44, PITCH = 84, TOP = 34, LETTER = 7, MOST_ARCS = 200 };

/* From one block to a later one. */
typedef struct {
  int from, to;
  size_t bytes;
  bool shared; /* a parameter that both use */
} Arc;

typedef struct {
  const Plan *plan;
  NodeBlocks blocks;
  int columns;
  Arc *arcs;
  size_t n_arcs, capacity;
  double *work; /* [blocks][stages] */
} Picture;

static double tile_width(const Picture *p) {
  return (WIDTH - GAP * (p->columns - 1.0)) / p->columns;
}

static double left_of(const Picture *p, int block) {
  return block % p->columns * (tile_width(p) + GAP);
}

static int top_of(const Picture *p, int block) {
  return TOP + block / p->columns * PITCH;
}

static Status add_arc(Arena *arena, Picture *p, Arc arc) {
  TRY(ARENA_RESERVE(arena, p->arcs, p->n_arcs, p->capacity, p->n_arcs + 1));
  p->arcs[p->n_arcs++] = arc;
  return OK;
}

/* What a block reads of another one counts once, however many nodes read it. */
static Status find_arcs(Arena *arena, Picture *p) {
  const Graph *g = p->plan->graph;
  int *seen, *user; /* [n_values]: the last block that read the value */
  TRY(ARENA_NEW(arena, seen, g->n_values));
  TRY(ARENA_NEW(arena, user, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++)
    seen[v] = user[v] = -1;
  for (int i = 0; i < p->blocks.n_nodes; i++) {
    const Node *node = p->blocks.nodes[i];
    int to = p->blocks.block_of[node->id];
    for (int k = 0; k < node->n_in; k++) {
      ValueId v = node->in[k];
      if (v == NO_VALUE || seen[v] == to)
        continue;
      const Value *value = graph_value(g, v);
      seen[v] = to;
      if (value->role == ROLE_PARAMETER) {
        if (user[v] >= 0)
          TRY(add_arc(arena, p, (Arc){user[v], to, graph_value_bytes(g, v), true}));
        user[v] = to;
      }
      int from = value->producer == NO_NODE ? to : p->blocks.block_of[value->producer];
      if (from >= 0 && to > from + 1)
        TRY(add_arc(arena, p, (Arc){from, to, graph_value_bytes(g, v), false}));
    }
  }
  return OK;
}

static int by_ends(const void *a, const void *b) {
  const Arc *x = a, *y = b;
  return x->from != y->from ? x->from - y->from : x->to != y->to ? x->to - y->to : x->shared - y->shared;
}

static int by_bytes(const void *a, const void *b) {
  const Arc *x = a, *y = b;
  return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : by_ends(a, b);
}

/* One for each pair of blocks, the largest first. */
static void merge_arcs(Picture *p) {
  size_t n = 0;
  if (!p->n_arcs)
    return;
  qsort(p->arcs, p->n_arcs, sizeof *p->arcs, by_ends);
  for (size_t i = 0; i < p->n_arcs; i++)
    if (n && by_ends(&p->arcs[n - 1], &p->arcs[i]) == 0)
      p->arcs[n - 1].bytes += p->arcs[i].bytes;
    else
      p->arcs[n++] = p->arcs[i];
  p->n_arcs = n;
  qsort(p->arcs, n, sizeof *p->arcs, by_bytes);
}

/* The part of each stage in a block: of operations and, as they take time too, bytes. */
static Status weigh(Arena *arena, Picture *p) {
  TRY(ARENA_NEW(arena, p->work, (size_t)p->blocks.n * (size_t)p->plan->stages));
  for (int i = 0; i < p->blocks.n_nodes; i++) {
    const Node *node = p->blocks.nodes[i];
    Cost cost = op_cost(p->plan->graph, node);
    int block = p->blocks.block_of[node->id];
    p->work[(size_t)block * (size_t)p->plan->stages + (size_t)p->plan->stage_of[node->id]] +=
        cost.flops + 8 * cost.bytes + 1;
  }
  return OK;
}

/* Colours that neighbours tell apart: steps of the golden angle. */
static int hue(int stage) {
  return (int)((long long)stage * 137508 / 1000 % 360);
}

/* A label in so many characters: leading components are left out, then the beginning. */
static void add_label(Text *text, const char *label, size_t room) {
  for (const char *rest = label; strlen(label) > room && (rest = strpbrk(rest, "./"));)
    label = ++rest;
  size_t length = strlen(label);
  if (length > room) {
    label += length - room + 1;
    while ((*label & 0xc0) == 0x80) /* a character begins here */
      label++;
    text_add_string(text, "…");
  }
  html_add(text, label);
}

static void stages_of(const Picture *p, int block, int *first, int *last) {
  const double *work = p->work + (size_t)block * (size_t)p->plan->stages;
  *first = p->plan->stages;
  *last = 0;
  for (int s = 0; s < p->plan->stages; s++)
    if (work[s] > 0) {
      *first = s < *first ? s : *first;
      *last = s;
    }
}

static void add_tile(const Picture *p, int block, Text *text) {
  const NodeBlock *b = &p->blocks.blocks[block];
  const double *work = p->work + (size_t)block * (size_t)p->plan->stages;
  double x = left_of(p, block), width = tile_width(p), all = 0;
  int y = top_of(p, block), first, last;
  stages_of(p, block, &first, &last);
  for (int s = first; s <= last; s++)
    all += work[s];
  text_add_string(text, "<g><title>");
  html_add(text, b->label);
  text_add(text, ": %d nodes, ", b->last - b->first + 1);
  html_add(text, p->blocks.nodes[b->first]->name);
  text_add_string(text, " … ");
  html_add(text, p->blocks.nodes[b->last]->name);
  for (int s = first; s <= last; s++)
    if (work[s] > 0)
      text_add(text, "; stage %d on rank %d", s, p->plan->schedule.rank_of_stage[s]);
  text_add_string(text, "</title>");
  for (int s = first; s <= last; s++) {
    double part = all > 0 ? work[s] / all * width : 0;
    if (work[s] > 0)
      text_add(text, "<rect class=\"s\" style=\"--h:%d\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", hue(s), x,
               y, part, TILE);
    x += part;
  }
  x = left_of(p, block);
  text_add(text, "<rect class=\"frame\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"4\"/>", x, y, width,
           TILE);
  text_add(text, "<text x=\"%.1f\" y=\"%d\">", x + width / 2, y + 18);
  add_label(text, b->label, (size_t)(width / LETTER));
  text_add(text, "</text><text class=\"of\" x=\"%.1f\" y=\"%d\">", x + width / 2, y + 34);
  if (first == last)
    text_add(text, "stage %d", first);
  else
    text_add(text, width < 90 ? "%d … %d" : "stages %d … %d", first, last);
  text_add_string(text, "</text></g>\n");
}

/* To the next tile: beside it, or at the beginning of the next row. */
static void add_step(const Picture *p, int block, Text *text) {
  double x = left_of(p, block) + tile_width(p), to = left_of(p, block + 1);
  int y = top_of(p, block) + TILE / 2, below = top_of(p, block + 1) - (PITCH - TILE) / 2;
  if (top_of(p, block) == top_of(p, block + 1))
    text_add(text, "<path class=\"step\" d=\"M%.1f %dH%.1f\"/>\n", x, y, to - 1);
  else
    text_add(text, "<path class=\"step\" d=\"M%.1f %dv%dH%.1fV%d\"/>\n", x - tile_width(p) / 2, y + TILE / 2,
             (PITCH - TILE) / 2, to + tile_width(p) / 2, below + (PITCH - TILE) / 2 - 1);
}

static void add_one_arc(const Picture *p, const Arc *arc, Text *text) {
  char bytes[24];
  double x = left_of(p, arc->from) + tile_width(p) / 2, to = left_of(p, arc->to) + tile_width(p) / 2;
  int y = top_of(p, arc->from), end = top_of(p, arc->to);
  text_add(text, "<path class=\"%s\" d=\"M%.1f %dC%.1f %d %.1f %d %.1f %d\"><title>", arc->shared ? "tie" : "arc", x, y,
           x, y - TOP + 4, to, end - TOP + 4, to, end);
  html_add(text, p->blocks.blocks[arc->from].label);
  text_add_string(text, " to ");
  html_add(text, p->blocks.blocks[arc->to].label);
  text_add(text, ": %s%s</title></path>\n", plan_bytes_text(arc->bytes, bytes),
           arc->shared ? ", one parameter in both" : " of a microbatch");
}

static void add_picture(const Picture *p, Text *text) {
  int n = p->blocks.n, rows = (n + p->columns - 1) / p->columns;
  text_add(text,
           "<h2>The model, coloured by stage</h2>\n<svg class=\"graph\" role=\"img\" viewBox=\"-2 0 %d %d\">"
           "<title>%d blocks of the model in order, in the colours of their "
           "stages</title>\n",
           WIDTH + 4, TOP + rows * PITCH - (PITCH - TILE) + 4, n);
  for (size_t i = 0; i < p->n_arcs && i < MOST_ARCS; i++)
    add_one_arc(p, &p->arcs[i], text);
  for (int i = 0; i + 1 < n; i++)
    add_step(p, i, text);
  for (int i = 0; i < n; i++)
    add_tile(p, i, text);
  text_add_string(text, "</svg>\n");
  if (p->n_arcs)
    text_add(text,
             "<p class=\"hint\">Curves: what is read farther on than by the next block%s; dashed: a parameter of "
             "several blocks.</p>\n",
             p->n_arcs > MOST_ARCS ? ", the largest ones" : "");
}

Status plan_graph_add(Arena *arena, const Plan *plan, Text *text) {
  Picture p = {.plan = plan};
  TRY(blocks_find(arena, plan->graph, &p.blocks));
  p.columns = p.blocks.n <= 16 ? 8 : p.blocks.n <= 40 ? 10 : 14;
  TRY(find_arcs(arena, &p));
  merge_arcs(&p);
  TRY(weigh(arena, &p));
  add_picture(&p, text);
  return OK;
}
