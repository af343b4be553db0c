/* How near the planner's partitions come to the best: `partition_bench FILE…` prints for each its name, the largest
 * load and seconds. A file is a problem in the format of "Efficient Algorithms for Device Placement of DNN Graph
 * Operators" (NeurIPS 2020): nodes with times on an accelerator and on a CPU, colour classes that lie together, edges
 * with the time to move their source's output between a device and memory. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "bench/each_file.h"
#include "partitioner/plan/partition_graph.h"

/* So many take a second at most, the published problems a tenth; where nothing is found by then, the next of these. */
static const struct {
  size_t ideals;
  double pairs;
} efforts[] = {{100000, 1e7}, {10000, 5e6}, {1000, INFINITY}};
enum { EFFORTS = sizeof efforts / sizeof *efforts };

typedef struct {
  int64_t id, colour;
  int item; /* of its colour */
  bool backward, on_accelerator;
  double accelerator_seconds, cpu_seconds, bytes;
  double output_seconds;
  int *users, n_users;
  size_t room;
} BenchNode;

typedef struct {
  int from, to; /* nodes */
} Edge;

typedef struct {
  Arena *arena;
  BenchNode *nodes;
  int n_nodes, n_items, n_edges;
  int *by_id; /* [n_nodes] nodes by id */
  Edge *edges;
  double capacity_bytes;
  int accelerators, cpus;
} Problem;

static const BenchNode *sorted_nodes; /* of compare_ids */

static int compare_ids(const void *a, const void *b) {
  int64_t x = sorted_nodes[*(const int *)a].id, y = sorted_nodes[*(const int *)b].id;
  return x < y ? -1 : x > y;
}

static int compare_colours(const void *a, const void *b) {
  int64_t x = sorted_nodes[*(const int *)a].colour, y = sorted_nodes[*(const int *)b].colour;
  return x != y ? x < y ? -1 : 1 : *(const int *)a - *(const int *)b;
}

/* Numbers may be written as booleans. */
static Status number(const json_t *object, const char *key, double *value) {
  const json_t *field = json_object_get(object, key);
  if (!json_is_number(field) && !json_is_boolean(field))
    return fail(E_USAGE, "no number '%s' in a node, an edge or the problem", key);
  *value = json_is_boolean(field) ? json_is_true(field) : json_number_value(field);
  return isfinite(*value) && *value >= 0 ? OK : fail(E_USAGE, "'%s' is %g", key, *value);
}

static Status read_node(const json_t *json, int index, BenchNode *node) {
  double id, backward, on_accelerator;
  TRY(number(json, "id", &id));
  TRY(number(json, "isBackwardNode", &backward));
  TRY(number(json, "supportedOnFpga", &on_accelerator));
  TRY(number(json, "fpgaLatency", &node->accelerator_seconds));
  TRY(number(json, "cpuLatency", &node->cpu_seconds));
  if (json_object_get(json, "size"))
    TRY(number(json, "size", &node->bytes));
  node->id = (int64_t)id;
  node->backward = backward != 0;
  node->on_accelerator = on_accelerator != 0;
  const json_t *colour = json_object_get(json, "colorClass");
  node->colour = json_is_integer(colour) ? json_integer_value(colour) : INT64_MAX - index; /* its own */
  return OK;
}

static int find_node(const Problem *p, double id) {
  int low = 0, high = p->n_nodes;
  while (low < high) {
    int middle = (low + high) / 2;
    if ((double)p->nodes[p->by_id[middle]].id < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < p->n_nodes && (double)p->nodes[p->by_id[low]].id == id ? p->by_id[low] : -1;
}

static Status read_edge(Problem *p, const json_t *json, Edge *edge) {
  double from, to, cost;
  TRY(number(json, "sourceId", &from));
  TRY(number(json, "destId", &to));
  TRY(number(json, "cost", &cost));
  *edge = (Edge){find_node(p, from), find_node(p, to)};
  if (edge->from < 0 || edge->to < 0)
    return fail(E_USAGE, "an edge from %.0f to %.0f, of which one is no node", from, to);
  BenchNode *source = &p->nodes[edge->from];
  source->output_seconds = fmax(source->output_seconds, cost);
  TRY(ARENA_RESERVE(p->arena, source->users, source->n_users, source->room, source->n_users + 1));
  source->users[source->n_users++] = edge->to;
  return OK;
}

static Status number_items(Problem *p) {
  int *by_colour;
  TRY(ARENA_NEW(p->arena, by_colour, p->n_nodes));
  for (int i = 0; i < p->n_nodes; i++)
    by_colour[i] = p->by_id[i] = i;
  sorted_nodes = p->nodes;
  qsort(p->by_id, (size_t)p->n_nodes, sizeof *p->by_id, compare_ids);
  qsort(by_colour, (size_t)p->n_nodes, sizeof *by_colour, compare_colours);
  for (int i = 0; i < p->n_nodes; i++) {
    p->n_items += i == 0 || p->nodes[by_colour[i]].colour != p->nodes[by_colour[i - 1]].colour;
    p->nodes[by_colour[i]].item = p->n_items - 1;
  }
  return OK;
}

static Status read_problem(Problem *p, const json_t *root) {
  const json_t *nodes = json_object_get(root, "nodes"), *edges = json_object_get(root, "edges");
  double accelerators, cpus;
  TRY(number(root, "maxSizePerFPGA", &p->capacity_bytes));
  TRY(number(root, "maxFPGAs", &accelerators));
  TRY(number(root, "maxCPUs", &cpus));
  if (!json_is_array(nodes) || !json_is_array(edges) || json_array_size(nodes) == 0)
    return fail(E_USAGE, "it has no lists of nodes and edges");
  if (accelerators > 1024 || cpus > 1024)
    return fail(E_USAGE, "%.0f accelerators and %.0f CPUs, where at most 1,024 of each are allowed", accelerators,
                cpus);
  p->accelerators = (int)accelerators;
  p->cpus = (int)cpus;
  p->n_nodes = (int)json_array_size(nodes);
  p->n_edges = (int)json_array_size(edges);
  TRY(ARENA_NEW(p->arena, p->nodes, p->n_nodes));
  TRY(ARENA_NEW(p->arena, p->by_id, p->n_nodes));
  TRY(ARENA_NEW(p->arena, p->edges, p->n_edges));
  for (int i = 0; i < p->n_nodes; i++)
    TRY(read_node(json_array_get(nodes, (size_t)i), i, &p->nodes[i]));
  TRY(number_items(p));
  for (int i = 0; i < p->n_edges; i++)
    TRY(read_edge(p, json_array_get(edges, (size_t)i), &p->edges[i]));
  return OK;
}

/* Forward edges order the items; where an item has backward nodes alone, those of its backward nodes do, mirrored. */
static Status order_items(const Problem *p, PartitionGraph *graph) {
  bool *has_forward;
  int *from, *to;
  TRY(ARENA_NEW(p->arena, has_forward, p->n_items));
  TRY(ARENA_NEW(p->arena, from, p->n_edges));
  TRY(ARENA_NEW(p->arena, to, p->n_edges));
  for (int i = 0; i < p->n_nodes; i++)
    has_forward[p->nodes[i].item] |= !p->nodes[i].backward;
  for (int e = 0; e < p->n_edges; e++) {
    const BenchNode *a = &p->nodes[p->edges[e].from], *b = &p->nodes[p->edges[e].to];
    bool orphan = !has_forward[a->item] || !has_forward[b->item];
    if (a->backward != b->backward || (a->backward && !orphan))
      continue;
    from[graph->n_edges] = a->backward ? b->item : a->item;
    to[graph->n_edges++] = a->backward ? a->item : b->item;
  }
  graph->from = from;
  graph->to = to;
  return OK;
}

/* Every node's output, and who touches it. */
static Status list_tensors(const Problem *p, PartitionGraph *graph) {
  int *first, *item, n = 0;
  double *seconds;
  TRY(ARENA_NEW(p->arena, first, p->n_nodes + 1));
  TRY(ARENA_NEW(p->arena, item, p->n_nodes + p->n_edges));
  TRY(ARENA_NEW(p->arena, seconds, p->n_nodes));
  for (int i = 0; i < p->n_nodes; i++) {
    item[n++] = p->nodes[i].item;
    for (int k = 0; k < p->nodes[i].n_users; k++)
      item[n++] = p->nodes[p->nodes[i].users[k]].item;
    first[i + 1] = n;
    seconds[i] = p->nodes[i].output_seconds;
  }
  graph->n_tensors = p->n_nodes;
  graph->tensor_first = first;
  graph->tensor_item = item;
  graph->tensor_seconds = seconds;
  return OK;
}

static Status make_graph(const Problem *p, DeviceKind kinds[2], PartitionGraph *graph) {
  double *seconds[2], *bytes;
  for (int k = 0; k < 2; k++)
    TRY(ARENA_NEW(p->arena, seconds[k], p->n_items));
  TRY(ARENA_NEW(p->arena, bytes, p->n_items));
  for (int i = 0; i < p->n_nodes; i++) {
    const BenchNode *node = &p->nodes[i];
    seconds[0][node->item] += node->on_accelerator ? node->accelerator_seconds : INFINITY;
    seconds[1][node->item] += node->cpu_seconds;
    bytes[node->item] += node->bytes;
  }
  kinds[0] = (DeviceKind){.count = p->accelerators, .seconds = seconds[0], .capacity_bytes = p->capacity_bytes};
  kinds[1] = (DeviceKind){.count = p->cpus, .seconds = seconds[1], .capacity_bytes = INFINITY, .exchanges_free = true};
  *graph = (PartitionGraph){.n_items = p->n_items, .n_kinds = 2, .kinds = kinds, .bytes = bytes};
  TRY(order_items(p, graph));
  return list_tensors(p, graph);
}

/* The largest load of the devices, from the file's nodes. E_USAGE where items of one device are more than it holds. */
static Status weigh(const Problem *p, const int *device, double *largest) {
  int n = p->accelerators + p->cpus;
  double *load, *bytes;
  int *paid;
  TRY(ARENA_NEW(p->arena, load, n));
  TRY(ARENA_NEW(p->arena, bytes, n));
  TRY(ARENA_NEW(p->arena, paid, n));
  for (int i = 0; i < p->n_nodes; i++) {
    const BenchNode *node = &p->nodes[i];
    int own = device[node->item];
    load[own] += own < p->accelerators ? node->accelerator_seconds : node->cpu_seconds;
    bytes[own] += node->bytes;
    for (int k = 0; k < node->n_users; k++) {
      int other = device[p->nodes[node->users[k]].item];
      int pays[2] = {own, other};
      for (int e = 0; e < 2 && own != other; e++)
        if (pays[e] < p->accelerators && paid[pays[e]] != i + 1) {
          paid[pays[e]] = i + 1;
          load[pays[e]] += node->output_seconds;
        }
    }
  }
  *largest = 0;
  for (int d = 0; d < n; d++) {
    *largest = fmax(*largest, load[d]);
    if (d < p->accelerators && bytes[d] > p->capacity_bytes)
      return fail(E_USAGE, "an accelerator has %g bytes of %g", bytes[d], p->capacity_bytes);
  }
  return OK;
}

static Status read_file(Arena *arena, const char *name, Problem *p) {
  json_error_t error;
  json_t *root = json_load_file(name, 0, &error);
  if (!root)
    return fail(E_IO, "%s", error.text);
  *p = (Problem){.arena = arena};
  Status status = read_problem(p, root);
  json_decref(root);
  return status;
}

static Status measure(Arena *arena, const char *name) {
  Problem p;
  PartitionGraph graph;
  DeviceKind kinds[2];
  GraphPartition partition;
  double load;
  TRY(read_file(arena, name, &p));
  double begun = clock_seconds();
  TRY(make_graph(&p, kinds, &graph));
  TRY(ARENA_NEW(arena, partition.device, p.n_items));
  Status status = E_LIMIT;
  for (int i = 0; i < EFFORTS && status == E_LIMIT; i++)
    status = partition_graph(&graph, efforts[i].ideals, efforts[i].pairs, &partition);
  TRY(status);
  double seconds = clock_seconds() - begun;
  TRY(weigh(&p, partition.device, &load));
  printf("%s %.6g %.3f%s\n", name, load, seconds, partition.exact ? "" : " not proved");
  return OK;
}

int main(int n, char **names) {
  return each_file("partition_bench", n, names, measure);
}
