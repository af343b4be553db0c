/* Puts items of a partition's graph together. Invariant: group[i] leads to the smallest item of i's group. */
#include "partitioner/plan/reduce.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  Arena *arena; /* of the nodes that were made last */
  const PartitionGraph *problem;
  int *group; /* [n_items] */
} Groups;

static int find(int *group, int item) {
  while (group[item] != item)
    item = group[item] = group[group[item]];
  return item;
}

static bool join(int *group, int a, int b) {
  a = find(group, a);
  b = find(group, b);
  if (a != b)
    group[a > b ? a : b] = a < b ? a : b;
  return a != b;
}

/* Lists of `n` from pairs; a pair that is there twice is listed twice. */
static Status list_pairs(Arena *arena, int n, int n_pairs, const int *of, const int *at, Lists *lists) {
  int *fill;
  TRY(ARENA_NEW(arena, lists->first, n + 1));
  TRY(ARENA_NEW(arena, lists->at, n_pairs));
  TRY(ARENA_NEW(arena, fill, n));
  for (int i = 0; i < n_pairs; i++)
    lists->first[of[i] + 1]++;
  for (int i = 0; i < n; i++)
    lists->first[i + 1] += lists->first[i];
  memcpy(fill, lists->first, (size_t)n * sizeof *fill);
  for (int i = 0; i < n_pairs; i++)
    lists->at[fill[of[i]]++] = at[i];
  return OK;
}

/* Strongly connected components (Tarjan), without recursion. A component is numbered when all behind it are. */
typedef struct {
  const Lists *after;
  int *index, *low, *next, *open, *path, *component;
  bool *is_open;
  int n_open, n_path, n_indexed, n_components;
} Search;

static void enter(Search *s, int v) {
  s->index[v] = s->low[v] = ++s->n_indexed;
  s->next[v] = s->after->first[v];
  s->open[s->n_open++] = v;
  s->is_open[v] = true;
  s->path[s->n_path++] = v;
}

static void leave(Search *s, int v) {
  s->n_path--;
  if (s->n_path > 0 && s->low[v] < s->low[s->path[s->n_path - 1]])
    s->low[s->path[s->n_path - 1]] = s->low[v];
  if (s->low[v] != s->index[v])
    return;
  int w;
  do {
    w = s->open[--s->n_open];
    s->is_open[w] = false;
    s->component[w] = s->n_components;
  } while (w != v);
  s->n_components++;
}

static Status components(Arena *arena, int n, const Lists *after, int *component, int *count) {
  Search s = {.after = after, .component = component};
  TRY(ARENA_NEW(arena, s.index, n));
  TRY(ARENA_NEW(arena, s.low, n));
  TRY(ARENA_NEW(arena, s.next, n));
  TRY(ARENA_NEW(arena, s.open, n));
  TRY(ARENA_NEW(arena, s.path, n));
  TRY(ARENA_NEW(arena, s.is_open, n));
  for (int root = n - 1; root >= 0; root--) {
    if (s.index[root])
      continue;
    enter(&s, root);
    while (s.n_path > 0) {
      int v = s.path[s.n_path - 1];
      if (s.next[v] == after->first[v + 1]) {
        leave(&s, v);
        continue;
      }
      int w = after->at[s.next[v]++];
      if (!s.index[w])
        enter(&s, w);
      else if (s.is_open[w] && s.index[w] < s.low[v])
        s.low[v] = s.index[w];
    }
  }
  *count = s.n_components;
  return OK;
}

/* Numbers the groups in topological order, those on a cycle as one. */
static Status number_nodes(const Groups *g, Reduced *r) {
  const PartitionGraph *p = g->problem;
  int *of, *at, n = 0, *number, *component;
  Lists after;
  TRY(ARENA_NEW(g->arena, of, p->n_edges));
  TRY(ARENA_NEW(g->arena, at, p->n_edges));
  TRY(ARENA_NEW(g->arena, number, p->n_items));
  TRY(ARENA_NEW(g->arena, component, p->n_items));
  TRY(ARENA_NEW(g->arena, r->node_of, p->n_items));
  for (int i = 0; i < p->n_items; i++) {
    int root = find(g->group, i);
    number[i] = root == i ? n++ : number[root];
  }
  for (int e = 0; e < p->n_edges; e++) {
    of[e] = number[p->from[e]];
    at[e] = number[p->to[e]];
  }
  TRY(list_pairs(g->arena, n, p->n_edges, of, at, &after));
  TRY(components(g->arena, n, &after, component, &r->n));
  for (int i = 0; i < p->n_items; i++)
    r->node_of[i] = r->n - 1 - component[number[i]];
  return OK;
}

/* Edges between unlike nodes, each once. */
static Status list_edges(const Groups *g, Reduced *r) {
  const PartitionGraph *p = g->problem;
  int *of, *at, n = 0, *seen;
  Lists all;
  TRY(ARENA_NEW(g->arena, of, p->n_edges));
  TRY(ARENA_NEW(g->arena, at, p->n_edges));
  TRY(ARENA_NEW(g->arena, seen, r->n));
  for (int e = 0; e < p->n_edges; e++) {
    of[e] = r->node_of[p->from[e]];
    at[e] = r->node_of[p->to[e]];
  }
  TRY(list_pairs(g->arena, r->n, p->n_edges, of, at, &all));
  for (int v = 0; v < r->n; v++)
    for (int k = all.first[v]; k < all.first[v + 1]; k++) {
      int w = all.at[k];
      if (w == v || seen[w] == v + 1)
        continue;
      seen[w] = v + 1;
      of[n] = v;
      at[n++] = w;
    }
  TRY(list_pairs(g->arena, r->n, n, of, at, &r->after));
  return list_pairs(g->arena, r->n, n, at, of, &r->before);
}

static int compare_ints(const void *a, const void *b) {
  int x = *(const int *)a, y = *(const int *)b;
  return x < y ? -1 : x > y;
}

typedef struct {
  const int *member;
  int n, number;
  double seconds;
} Draft;

static int compare_members(const Draft *a, const Draft *b) {
  if (a->n != b->n)
    return a->n < b->n ? -1 : 1;
  for (int i = 0; i < a->n; i++)
    if (a->member[i] != b->member[i])
      return a->member[i] < b->member[i] ? -1 : 1;
  return 0;
}

static int compare_drafts(const void *a, const void *b) {
  const Draft *x = a, *y = b;
  int order = compare_members(x, y);
  return order ? order : x->number - y->number;
}

/* Tensors of several nodes; those of the same nodes are one. */
static Status list_tensors(const Groups *g, Reduced *r) {
  const PartitionGraph *p = g->problem;
  int uses = p->tensor_first[p->n_tensors], n = 0, *member, *of, *at, n_pairs = 0;
  Draft *draft;
  TRY(ARENA_NEW(g->arena, member, uses));
  TRY(ARENA_NEW(g->arena, draft, p->n_tensors));
  for (int t = 0; t < p->n_tensors; t++) {
    int first = p->tensor_first[t], count = p->tensor_first[t + 1] - first, kept = 0;
    for (int k = 0; k < count; k++)
      member[first + k] = r->node_of[p->tensor_item[first + k]];
    qsort(member + first, (size_t)count, sizeof *member, compare_ints);
    for (int k = 0; k < count; k++)
      if (kept == 0 || member[first + k] != member[first + kept - 1])
        member[first + kept++] = member[first + k];
    if (kept > 1 && p->tensor_seconds[t] > 0)
      draft[n++] = (Draft){member + first, kept, t, p->tensor_seconds[t]};
  }
  qsort(draft, (size_t)n, sizeof *draft, compare_drafts);
  for (int i = 0; i < n; i++)
    if (r->n_tensors > 0 && compare_members(&draft[i], &draft[r->n_tensors - 1]) == 0)
      draft[r->n_tensors - 1].seconds += draft[i].seconds;
    else
      draft[r->n_tensors++] = draft[i];
  TRY(ARENA_NEW(g->arena, r->tensor_seconds, r->n_tensors));
  TRY(ARENA_NEW(g->arena, of, uses));
  TRY(ARENA_NEW(g->arena, at, uses));
  for (int t = 0; t < r->n_tensors; t++) {
    r->tensor_seconds[t] = draft[t].seconds;
    for (int k = 0; k < draft[t].n; k++) {
      of[n_pairs] = t;
      at[n_pairs++] = draft[t].member[k];
    }
  }
  TRY(list_pairs(g->arena, r->n_tensors, n_pairs, of, at, &r->members));
  return list_pairs(g->arena, r->n, n_pairs, at, of, &r->tensors);
}

/* The nodes that the groups make, in place of those before. */
static Status build(Groups *g, Reduced *r) {
  const PartitionGraph *p = g->problem;
  reduced_free(r);
  r->arena = g->arena = arena_create();
  if (!g->arena)
    return status_code();
  TRY(number_nodes(g, r));
  TRY(list_edges(g, r));
  TRY(list_tensors(g, r));
  TRY(ARENA_NEW(g->arena, r->seconds, p->n_kinds));
  TRY(ARENA_NEW(g->arena, r->bytes, r->n));
  for (int k = 0; k < p->n_kinds; k++) {
    TRY(ARENA_NEW(g->arena, r->seconds[k], r->n));
    for (int i = 0; i < p->n_items; i++)
      r->seconds[k][r->node_of[i]] += p->kinds[k].seconds[i];
  }
  for (int i = 0; i < p->n_items && p->bytes; i++)
    r->bytes[r->node_of[i]] += p->bytes[i];
  return OK;
}

/* What the node's tensors take; *only_with: no other nodes than this one touch them. */
static double exchanges(const Reduced *r, int node, int other, bool *only_with) {
  double sum = 0;
  *only_with = true;
  for (int k = r->tensors.first[node]; k < r->tensors.first[node + 1]; k++) {
    int t = r->tensors.at[k];
    bool with = false;
    for (int m = r->members.first[t]; m < r->members.first[t + 1]; m++) {
      with |= r->members.at[m] == other;
      *only_with &= r->members.at[m] == other || r->members.at[m] == node;
    }
    sum += with ? r->tensor_seconds[t] : 0;
  }
  return sum;
}

/* Whether everything fits one device of any kind. */
static bool all_fits(const PartitionGraph *p, const Reduced *r) {
  double bytes = 0, least = INFINITY;
  for (int v = 0; v < r->n; v++)
    bytes += r->bytes[v];
  for (int k = 0; k < p->n_kinds; k++)
    least = fmin(least, p->kinds[k].capacity_bytes);
  return bytes <= least;
}

/* All seconds of a node are none. */
static bool is_free(const PartitionGraph *p, const Reduced *r, int node) {
  for (int k = 0; k < p->n_kinds; k++)
    if (r->seconds[k][node] != 0)
      return false;
  return true;
}

/* The neighbour to which it costs nothing to move a node that takes no time: the only one that it has, or of the two
 * that it has the one with which it exchanges more. -1: none. */
static int free_neighbour(const Reduced *r, int node) {
  int before = r->before.first[node + 1] - r->before.first[node];
  int after = r->after.first[node + 1] - r->after.first[node];
  bool only[2];
  if (before + after == 1) {
    int other = before ? r->before.at[r->before.first[node]] : r->after.at[r->after.first[node]];
    exchanges(r, node, other, only);
    return only[0] ? other : -1;
  }
  if (before != 1 || after != 1)
    return -1;
  int behind = r->before.at[r->before.first[node]], ahead = r->after.at[r->after.first[node]];
  double with[2] = {exchanges(r, node, behind, &only[0]), exchanges(r, node, ahead, &only[1])};
  for (int k = r->tensors.first[node]; k < r->tensors.first[node + 1]; k++) {
    int t = r->tensors.at[k];
    if (r->members.first[t + 1] - r->members.first[t] != 2)
      return -1; /* with a third node, or with both */
  }
  for (int k = r->tensors.first[node]; k < r->tensors.first[node + 1]; k++)
    for (int m = r->members.first[r->tensors.at[k]]; m < r->members.first[r->tensors.at[k] + 1]; m++) {
      int other = r->members.at[m];
      if (other != node && other != behind && other != ahead)
        return -1;
    }
  return with[0] >= with[1] ? behind : ahead;
}

/* An item of every node. */
static Status name_items(const Groups *g, const Reduced *r, int **item) {
  TRY(ARENA_NEW(g->arena, *item, r->n));
  for (int i = g->problem->n_items - 1; i >= 0; i--)
    (*item)[r->node_of[i]] = i;
  return OK;
}

/* The groups as the nodes are: those on a cycle are one now. */
static void adopt(const Groups *g, const Reduced *r, const int *item) {
  for (int i = 0; i < g->problem->n_items; i++)
    join(g->group, i, item[r->node_of[i]]);
}

void reduced_free(Reduced *reduced) {
  arena_destroy(reduced->arena);
  *reduced = (Reduced){0};
}

static Status begin(Arena *arena, const PartitionGraph *problem, Groups *g) {
  *g = (Groups){.problem = problem};
  TRY(ARENA_NEW(arena, g->group, problem->n_items));
  for (int i = 0; i < problem->n_items; i++)
    g->group[i] = i;
  return OK;
}

/* Rounds of moves of which none touches another's nodes. `freely`: not only of cycles. */
static Status reduce_groups(Groups *g, bool freely, Reduced *r) {
  for (bool changed = true; changed;) {
    int *item;
    bool *touched;
    changed = false;
    TRY(build(g, r));
    TRY(name_items(g, r, &item));
    TRY(ARENA_NEW(g->arena, touched, r->n));
    adopt(g, r, item);
    bool all = all_fits(g->problem, r);
    for (int v = 0; v < r->n && freely; v++) {
      bool is_light = is_free(g->problem, r, v) && (all || r->bytes[v] == 0);
      int other = is_light ? free_neighbour(r, v) : -1;
      if (other < 0 || touched[v] || touched[other])
        continue;
      touched[v] = touched[other] = changed = true;
      join(g->group, item[v], item[other]);
    }
  }
  return OK;
}

static Status exactly(Arena *arena, const PartitionGraph *problem, Reduced *reduced) {
  Groups g;
  TRY(begin(arena, problem, &g));
  return reduce_groups(&g, !problem->relay, reduced); /* no device may be left without a node there */
}

Status reduce_exactly(const PartitionGraph *problem, Reduced *reduced) {
  Arena *arena = arena_create();
  *reduced = (Reduced){0};
  Status status = arena ? exactly(arena, problem, reduced) : status_code();
  arena_destroy(arena);
  return status;
}

typedef struct {
  double seconds;
  int node, other;
} Bond;

static int compare_bonds(const void *a, const void *b) {
  const Bond *x = a, *y = b;
  if (x->seconds != y->seconds)
    return x->seconds < y->seconds ? -1 : 1;
  return x->node - y->node;
}

/* What a node takes less what it saves to have it with the neighbour with which it exchanges most. */
static Bond find_bond(const Reduced *r, int node) {
  Bond bond = {.node = node, .other = -1};
  double most = -1;
  for (int side = 0; side < 2; side++) {
    const Lists *next = side ? &r->after : &r->before;
    for (int k = next->first[node]; k < next->first[node + 1]; k++) {
      bool only;
      double with = exchanges(r, node, next->at[k], &only);
      if (with > most) {
        most = with;
        bond.other = next->at[k];
      }
    }
  }
  bond.seconds = r->seconds[0][node] - most;
  return bond;
}

/* A node of so many neighbours is a hub. What touches but two of these would be put to them one after the other, until
 * they are all: branches are put to each other first. */
enum { HUB = 8 };

static int count_of(const Lists *lists, int node) {
  return lists->first[node + 1] - lists->first[node];
}

/* Whether the node lies alone between two hubs. */
static bool is_branch(const Reduced *r, int node) {
  if (count_of(&r->before, node) != 1 || count_of(&r->after, node) != 1)
    return false;
  return count_of(&r->after, r->before.at[r->before.first[node]]) > HUB &&
         count_of(&r->before, r->after.at[r->after.first[node]]) > HUB;
}

/* Pairs of branches between the same hubs, those first that take least; returns how many. `bonds` [n] and `pending` [n]
 * are room. */
static int join_branches(const Groups *g, const Reduced *r, const int *item, bool *touched, Bond *bonds, int *pending,
                         int most) {
  int n = 0, joined = 0;
  for (int v = 0; v < r->n; v++) {
    pending[v] = -1;
    if (is_branch(r, v))
      bonds[n++] = (Bond){r->seconds[0][v], v, -1};
  }
  qsort(bonds, (size_t)n, sizeof *bonds, compare_bonds);
  for (int i = 0; i < n && joined < most; i++) {
    int v = bonds[i].node, *other = &pending[r->before.at[r->before.first[v]]];
    if (*other < 0 || r->after.at[r->after.first[*other]] != r->after.at[r->after.first[v]]) {
      *other = v;
      continue;
    }
    touched[v] = touched[*other] = true;
    joined += join(g->group, item[*other], item[v]);
    *other = -1;
  }
  return joined;
}

static Status put_together(Arena *arena, const PartitionGraph *problem, int most, Reduced *r) {
  Groups g;
  TRY(begin(arena, problem, &g));
  TRY(reduce_groups(&g, true, r));
  while (r->n > most) {
    int *item, *pending, n = 0, joined = 0, wanted = (r->n - most + 1) / 2 + 1;
    bool *touched;
    Bond *bonds;
    TRY(name_items(&g, r, &item));
    TRY(ARENA_NEW(g.arena, pending, r->n));
    TRY(ARENA_NEW(g.arena, touched, r->n));
    TRY(ARENA_NEW(g.arena, bonds, r->n));
    joined += join_branches(&g, r, item, touched, bonds, pending, wanted);
    for (int v = 0; v < r->n; v++) {
      bonds[n] = find_bond(r, v);
      n += bonds[n].other >= 0;
    }
    qsort(bonds, (size_t)n, sizeof *bonds, compare_bonds);
    for (int i = 0; i < n && joined < wanted; i++) {
      if (touched[bonds[i].node] || touched[bonds[i].other])
        continue;
      touched[bonds[i].node] = touched[bonds[i].other] = true;
      joined += join(g.group, item[bonds[i].node], item[bonds[i].other]);
    }
    if (!joined) /* nodes without edges */
      for (int v = 0; v + 1 < r->n && r->n - joined > most; v += 2)
        joined += join(g.group, item[v], item[v + 1]);
    TRY(reduce_groups(&g, true, r));
  }
  return OK;
}

Status reduce_to(const PartitionGraph *problem, int most, Reduced *reduced) {
  Arena *arena = arena_create();
  *reduced = (Reduced){0};
  Status status = arena ? put_together(arena, problem, most, reduced) : status_code();
  arena_destroy(arena);
  return status;
}
