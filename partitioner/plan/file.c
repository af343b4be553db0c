/* The plan file. Invariant: what is read was checked against the graph before anything relies on it; every refusal
 * names the place in the file and both numbers. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "partitioner/plan/again.h"
#include "partitioner/plan/internal.h"

static const char format_name[] = "onnxpipe plan 1";
static const char *const objective_names[] = {[OBJECTIVE_SPAN] = "span", [OBJECTIVE_MAKESPAN] = "makespan"};

/* ---- writing ---- */

/* Names of nodes and tensors are bytes; JSON wants UTF-8. Other bytes are written as question marks. */
static json_t *name_json(const char *name) {
  errno = 0;
  json_t *json = json_string(name);
  if (json || errno == ENOMEM)
    return json;
  char *copy = strdup(name);
  for (char *c = copy; copy && *c; c++)
    if (*c & 0x80)
      *c = '?';
  json = copy ? json_string(copy) : NULL;
  free(copy);
  return json;
}

/* The list with one more; NULL, and nothing is kept, where memory is out for either. */
static json_t *with(json_t *list, json_t *item) {
  if (list && json_array_append_new(list, item) == 0)
    return list;
  json_decref(list ? list : item);
  return NULL;
}

static json_t *tensors_json(const Graph *g, const ValueId *values, int n) {
  json_t *list = json_array();
  for (int i = 0; i < n && list; i++)
    list = with(list, json_pack("{s:o, s:I}", "tensor", name_json(graph_value(g, values[i])->name), "bytes",
                                (json_int_t)graph_value_bytes(g, values[i])));
  return list;
}

/* The stage's nodes among the forward nodes, as ranges: first, last, first, last, … */
static json_t *nodes_json(const Plan *plan, int s) {
  json_t *list = json_array();
  bool inside = false;
  int item = 0;
  for (size_t i = 0; i < plan->graph->n_nodes && list; i++) {
    if (plan->graph->nodes[i]->phase != PHASE_F)
      continue;
    bool here = plan->graph->nodes[i]->stage == s;
    if (here != inside)
      list = with(list, json_integer(here ? item : item - 1));
    inside = here;
    item++;
  }
  return inside && list ? with(list, json_integer(item - 1)) : list;
}

static json_t *stage_json(const Plan *plan, int s) {
  const StageReport *r = &plan->reports[s];
  json_t *stage =
      json_pack("{s:i, s:i, s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:I, s:I}", "stage", s, "rank",
                plan->schedule.rank_of_stage[s], "nodes", nodes_json(plan, s), "first_node", name_json(r->first_node),
                "last_node", name_json(r->last_node), "again", plan_again_json(plan, s), "forward_seconds",
                r->forward_seconds, "backward_input_seconds", r->backward_input_seconds, "backward_weight_seconds",
                r->backward_weight_seconds, "again_seconds", r->again_seconds, "parameter_bytes",
                (json_int_t)r->parameter_bytes, "constant_bytes", (json_int_t)r->constant_bytes);
  if (s == plan->stages - 1)
    return stage;
  const Cut *cut = &plan->cuts.cuts[s];
  json_t *crossing =
      json_pack("{s:I, s:I, s:f, s:o, s:o}", "forward_bytes", (json_int_t)cut->forward_bytes, "backward_bytes",
                (json_int_t)cut->backward_bytes, "bytes_per_second", r->cut_bytes_per_second, "forward",
                tensors_json(plan->graph, cut->forward, cut->n_forward), "backward",
                tensors_json(plan->graph, cut->backward, cut->n_backward));
  if (stage && json_object_set_new(stage, "cut_after", crossing) == 0)
    return stage;
  json_decref(stage ? stage : crossing);
  return NULL;
}

static json_t *rank_json(const Plan *plan, int rank) {
  const RankMemory *m = &plan->rank_memory[rank];
  size_t limit = plan->memory_limits[rank];
  return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "rank", rank, "parameter_bytes",
                   (json_int_t)m->parameter_bytes, "gradient_bytes", (json_int_t)m->gradient_bytes, "state_bytes",
                   (json_int_t)m->state_bytes, "host_bytes", (json_int_t)m->host_bytes, "window_bytes",
                   (json_int_t)m->window_bytes, "constant_bytes", (json_int_t)m->constant_bytes, "activation_bytes",
                   (json_int_t)m->activation_bytes, "scratch_bytes", (json_int_t)m->scratch_bytes, "total_bytes",
                   (json_int_t)m->total_bytes, "bound_bytes", (json_int_t)m->bound_bytes, "spared_bytes",
                   (json_int_t)(plan->spared_bytes ? plan->spared_bytes[rank] : 0), "limit_bytes",
                   limit == SIZE_MAX ? json_null() : json_integer((json_int_t)limit));
}

/* The text form, a line of it a string. */
static json_t *schedule_json(const Schedule *schedule) {
  Text text = {0};
  schedule_write(schedule, &text);
  const char *line = text_whole(&text);
  json_t *lines = line ? json_array() : NULL;
  for (const char *end; lines && (end = strchr(line, '\n')); line = end + 1)
    lines = with(lines, json_stringn(line, (size_t)(end - line)));
  text_free(&text);
  return lines;
}

static json_t *ties_json(Ties ties) {
  if (!ties.known)
    return json_string("unknown");
  json_t *list = json_array();
  for (int i = 0; i < ties.n_pairs && list; i++)
    list = with(list, name_json(ties.pairs[i]));
  return list;
}

static json_t *plan_json(const Plan *plan) {
  json_t *stages = json_array(), *ranks = json_array();
  for (int s = 0; s < plan->stages && stages; s++)
    stages = with(stages, stage_json(plan, s));
  for (int r = 0; r < plan->ranks && ranks; r++)
    ranks = with(ranks, rank_json(plan, r));
  return json_pack(
      "{s:s, s:s, s:s?, s:s?, s:s?, s:s?, s:s?, s:i, s:i, s:i, s:I, s:s, s:s, s:s, s:{s:f, s:f, s:f, s:f}, s:{s:f, "
      "s:f}, s:f, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I}, s:o}",
      "format", format_name, "model", plan->model_hash, "loss", plan->loss, "optimizer", plan->optimizer, "device",
      plan->device, "precision", plan->precision, "offload", plan->offload, "ranks", plan->ranks, "chunks",
      plan->chunks, "microbatches", plan->microbatches, "microbatch_size", (json_int_t)plan->microbatch_size,
      "schedule", plan->schedule.name, "recompute", plan_recompute_names[plan->recompute], "objective",
      objective_names[plan->objective], "predicted", "step_seconds", plan->step_seconds, "update_seconds",
      plan->update_seconds, "bubble", plan->bubble, "lower_bound_seconds", plan->lower_bound_seconds, "link",
      "latency_seconds", plan->link.latency_seconds, "bytes_per_second", plan->link.bytes_per_second, "capacity",
      plan->capacity, "ties", ties_json(plan->ties), "stages", stages, "memory", ranks, "process", "beside_bytes",
      (json_int_t)plan->process.beside_bytes, "mpi_bytes", (json_int_t)plan->process.mpi_bytes, "device_bytes",
      (json_int_t)plan->process.device_bytes, "nccl_bytes", (json_int_t)plan->process.nccl_bytes, "actions",
      schedule_json(&plan->schedule));
}

Status plan_to_text(Arena *arena, const Plan *plan, const char **text) {
  json_t *json = plan_json(plan);
  Text written = {0};
  text_add_json(&written, json, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
  json_decref(json);
  const char *whole = text_whole(&written);
  *text = whole ? arena_string(arena, whole) : NULL;
  text_free(&written);
  return *text ? OK : status_code();
}

static Status write_text(const char *path, const char *text) {
  FileReplace file;
  TRY(file_replace_begin(path, &file));
  fputs(text, file.stream);
  fputc('\n', file.stream);
  return file_replace_commit(&file);
}

Status plan_write(const Plan *plan, const char *path) {
  Arena *arena = arena_create();
  const char *text;
  if (!arena)
    return status_code();
  Status status = plan_to_text(arena, plan, &text);
  if (status == OK)
    status = write_text(path, text);
  arena_destroy(arena);
  return status;
}

/* ---- reading ---- */

static Status get_integer(const json_t *object, const char *key, json_int_t least, json_int_t most, json_int_t *out) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_integer(value))
    return fail(E_MODEL, "'%s' is %s", key, value ? "not an integer" : "missing");
  *out = json_integer_value(value);
  if (*out < least || *out > most)
    return fail(E_MODEL, "'%s' is %lld, not from %lld to %lld", key, (long long)*out, (long long)least,
                (long long)most);
  return OK;
}

static Status get_int(const json_t *object, const char *key, int least, int most, int *out) {
  json_int_t value = 0;
  TRY(get_integer(object, key, least, most, &value));
  *out = (int)value;
  return OK;
}

/* Seconds and rates: finite and not negative. */
static Status get_number(const json_t *object, const char *key, double *out) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_number(value))
    return fail(E_MODEL, "'%s' is %s", key, value ? "not a number" : "missing");
  *out = json_number_value(value);
  if (!(*out >= 0))
    return fail(E_MODEL, "'%s' is %g, below 0", key, *out);
  return OK;
}

static Status get_string(Arena *arena, const json_t *object, const char *key, const char **out) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_string(value))
    return fail(E_MODEL, "'%s' is %s", key, value ? "not a string" : "missing");
  *out = arena_string(arena, json_string_value(value));
  return *out ? OK : status_code();
}

/* A string, or null. */
static Status get_name(Arena *arena, const json_t *object, const char *key, const char **out) {
  *out = NULL;
  return json_is_null(json_object_get(object, key)) ? OK : get_string(arena, object, key, out);
}

static Status get_array(const json_t *object, const char *key, size_t n, const json_t **out) {
  *out = json_object_get(object, key);
  if (!json_is_array(*out))
    return fail(E_MODEL, "'%s' is %s", key, *out ? "not an array" : "missing");
  if (n != SIZE_MAX && json_array_size(*out) != n)
    return fail(E_MODEL, "'%s' has %zu elements, not %zu", key, json_array_size(*out), n);
  return OK;
}

static Status get_ties(Arena *arena, const json_t *root, Ties *ties) {
  const json_t *value = json_object_get(root, "ties");
  *ties = (Ties){0};
  if (json_is_string(value) && strcmp(json_string_value(value), "unknown") == 0)
    return OK;
  TRY(get_array(root, "ties", SIZE_MAX, &value));
  const char **pairs;
  TRY(ARENA_NEW(arena, pairs, json_array_size(value)));
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *pair = json_array_get(value, i);
    if (!json_is_string(pair))
      return fail(E_MODEL, "'ties' holds something that is no string");
    if (!(pairs[i] = arena_string(arena, json_string_value(pair))))
      return status_code();
  }
  *ties = (Ties){.known = true, .pairs = pairs, .n_pairs = (int)json_array_size(value)};
  return OK;
}

static Status get_objective(Arena *arena, const json_t *root, Objective *objective) {
  const char *name;
  TRY(get_string(arena, root, "objective", &name));
  *objective = strcmp(name, "span") == 0 ? OBJECTIVE_SPAN : OBJECTIVE_MAKESPAN;
  if (strcmp(name, objective_names[*objective]) != 0)
    return fail(E_MODEL, "'objective' is '%s', neither span nor makespan", name);
  return OK;
}

/* The fields before the stages. */
static Status get_head(Arena *arena, const json_t *root, PlanRequest *head) {
  const json_t *link = json_object_get(root, "link");
  const char *format, *recompute;
  json_int_t size = 0;
  TRY(get_string(arena, root, "format", &format));
  if (strcmp(format, format_name) != 0)
    return fail(E_MODEL, "the format is '%s', not '%s'", format, format_name);
  TRY(get_string(arena, root, "model", &head->model_hash));
  TRY(get_name(arena, root, "loss", &head->loss));
  TRY(get_name(arena, root, "optimizer", &head->optimizer));
  TRY(get_name(arena, root, "device", &head->device));
  TRY(get_name(arena, root, "precision", &head->precision));
  head->offload = "none";
  if (json_object_get(root, "offload")) /* files of before have none */
    TRY(get_name(arena, root, "offload", &head->offload));
  TRY(get_string(arena, root, "schedule", &head->schedule));
  TRY(get_string(arena, root, "recompute", &recompute));
  TRY(plan_recompute_find(recompute, &head->recompute));
  TRY(get_objective(arena, root, &head->objective));
  TRY(get_int(root, "ranks", 1, SCHEDULE_LIMIT, &head->ranks));
  TRY(get_int(root, "chunks", 1, SCHEDULE_LIMIT / head->ranks, &head->chunks));
  TRY(get_int(root, "microbatches", 1, SCHEDULE_LIMIT, &head->microbatches));
  TRY(get_integer(root, "microbatch_size", 1, INT32_MAX, &size));
  head->microbatch_size = size;
  TRY(get_number(link, "latency_seconds", &head->link.latency_seconds));
  TRY(get_number(link, "bytes_per_second", &head->link.bytes_per_second));
  head->capacity = 0;
  if (json_object_get(root, "capacity")) /* files of before have none */
    TRY(get_number(root, "capacity", &head->capacity));
  return get_ties(arena, root, &head->ties);
}

static Status differ(const char *what, long long file, long long asked) {
  return fail(E_USAGE, "the plan has %s %lld, asked for is %lld", what, file, asked);
}

static bool same_text(const char *one, const char *other) {
  return strcmp(one, other) == 0;
}

/* The same backend on every rank. Which of its devices a rank has is nothing to the plan. */
static bool same_device(const char *one, const char *other) {
  for (bool more = true; more;) {
    size_t length = strcspn(one, ":,"), other_length = strcspn(other, ":,");
    if (length != other_length || strncmp(one, other, length) != 0)
      return false;
    const char *next = strchr(one, ','), *other_next = strchr(other, ',');
    more = next || other_next;
    one = next ? next + 1 : one; /* a last one is for all ranks that follow */
    other = other_next ? other_next + 1 : other;
  }
  return true;
}

static Status check_made_with(const char *option, const char *file, const char *asked,
                              bool same(const char *, const char *), const char *advice) {
  if (!asked || (file && same(asked, file)))
    return OK;
  return fail(E_USAGE, "the plan was made with %s %s, not %s%s", option, file ? file : "none", asked, advice);
}

static Status check_request(const PlanRequest *head, const PlanRequest *asked) {
  if (asked->model_hash && strcmp(asked->model_hash, head->model_hash) != 0)
    return fail(E_USAGE, "the plan is for the model with hash %s, this one has %s", head->model_hash,
                asked->model_hash);
  TRY(check_made_with("--loss", head->loss, asked->loss, same_text,
                      ": make one that fits with `plan --data` or `plan --loss`"));
  TRY(check_made_with("--optimizer", head->optimizer, asked->optimizer, same_text, ""));
  TRY(check_made_with("--device", head->device, asked->device, same_device, ""));
  TRY(check_made_with("--precision", head->precision, asked->precision, same_text, ""));
  TRY(check_made_with("--offload", head->offload, asked->offload, same_text, ""));
  if (asked->recompute_given && asked->recompute != RECOMPUTE_AUTO && asked->recompute != head->recompute)
    return fail(E_USAGE, "the plan has --recompute %s, asked for is %s", plan_recompute_names[head->recompute],
                plan_recompute_names[asked->recompute]);
  if (asked->ranks && asked->ranks != head->ranks)
    return differ("--ranks", head->ranks, asked->ranks);
  if (asked->chunks && asked->chunks != head->chunks)
    return differ("--chunks", head->chunks, asked->chunks);
  if (asked->microbatches && asked->microbatches != head->microbatches)
    return differ("--microbatches", head->microbatches, asked->microbatches);
  if (asked->microbatch_size && asked->microbatch_size != head->microbatch_size)
    return differ("a microbatch size of", head->microbatch_size, asked->microbatch_size);
  if (asked->schedule && strcmp(asked->schedule, "auto") != 0 && strcmp(asked->schedule, head->schedule) != 0)
    return fail(E_USAGE, "the plan has --schedule %s, asked for is %s", head->schedule, asked->schedule);
  return OK;
}

static Status check_name(const json_t *object, const char *key, const char *name) {
  const json_t *value = json_object_get(object, key);
  json_t *expected = name_json(name);
  if (!expected)
    return fail(E_MEMORY, "out of memory");
  bool same = json_is_string(value) && strcmp(json_string_value(value), json_string_value(expected)) == 0;
  json_decref(expected);
  if (same)
    return OK;
  return fail(E_MODEL, "'%s' is '%s', the model has '%s' there", key,
              json_is_string(value) ? json_string_value(value) : "no string", name);
}

/* A schedule that does not run is wrong on the command line elsewhere; here the file is. */
static Status as_file(Status status) {
  return status == E_USAGE ? status_adopt(E_MODEL, status_message()) : status;
}

/* The nodes of one stage, in ranges. */
static Status get_ranges(const json_t *nodes, int s, Plan *plan, const NodeId *forward, int n_forward) {
  size_t n = json_array_size(nodes);
  if (n == 0 || n % 2)
    return fail(E_MODEL, "'nodes' is no list of first and last nodes");
  for (size_t k = 0; k < n; k += 2) {
    json_int_t first = json_integer_value(json_array_get(nodes, k)),
               last = json_integer_value(json_array_get(nodes, k + 1));
    if (first < 0 || last < first || last >= n_forward)
      return fail(E_MODEL, "nodes %lld to %lld are no range of the %d", (long long)first, (long long)last, n_forward);
    for (json_int_t i = first; i <= last; i++) {
      int *stage = &plan->stage_of[forward[i]];
      if (*stage >= 0)
        return fail(E_MODEL, "nodes %lld to %lld: node %lld lies in stage %d", (long long)first, (long long)last,
                    (long long)i, *stage);
      *stage = s;
    }
  }
  return OK;
}

/* Stages of nodes: every forward node lies in one. */
static Status get_nodes(const json_t *stages, Plan *plan, const NodeId *forward, int n_forward) {
  for (int i = 0; i < n_forward; i++)
    plan->stage_of[forward[i]] = -1;
  for (int s = 0; s < plan->stages; s++) {
    const json_t *stage = json_array_get(stages, (size_t)s), *nodes = json_object_get(stage, "nodes");
    Status status = get_ranges(nodes, s, plan, forward, n_forward);
    for (int end = 0; end < 2 && status == OK; end++) {
      json_int_t node = json_integer_value(json_array_get(nodes, end ? json_array_size(nodes) - 1 : 0));
      status = check_name(stage, end ? "last_node" : "first_node", graph_node(plan->graph, forward[node])->name);
    }
    if (status != OK) {
      status_context("stage %d: ", s);
      return status;
    }
  }
  for (int i = 0; i < n_forward; i++)
    if (plan->stage_of[forward[i]] < 0)
      return fail(E_MODEL, "node %d of %d lies in no stage", i, n_forward);
  return OK;
}

static Status get_schedule(Arena *arena, const json_t *root, const char *name, Plan *plan) {
  const json_t *lines;
  Text text = {0};
  TRY(get_array(root, "actions", SIZE_MAX, &lines));
  for (size_t i = 0; i < json_array_size(lines); i++) {
    const char *line = json_string_value(json_array_get(lines, i));
    text_add(&text, "%s\n", line ? line : "");
  }
  const char *whole = text_whole(&text);
  Status status = whole ? schedule_read(arena, whole, &plan->schedule) : status_code();
  text_free(&text);
  if (status != OK)
    status_context("'actions': ");
  TRY(status);
  const Schedule *s = &plan->schedule;
  if (s->ranks != plan->ranks || s->stages != plan->stages || s->microbatches != plan->microbatches)
    return fail(E_MODEL, "'actions' are of %d ranks, %d stages, %d microbatches; the plan has %d, %d, %d", s->ranks,
                s->stages, s->microbatches, plan->ranks, plan->stages, plan->microbatches);
  if (strcmp(s->name, name) != 0)
    return fail(E_MODEL, "'actions' are schedule %s, 'schedule' is %s", s->name, name);
  if (s->forward_only != (plan->graph->loss_sum == NO_VALUE))
    return fail(E_MODEL, "'actions' are %s, the graph is %s",
                s->forward_only ? "forward alone" : "forward and backward",
                s->forward_only ? "for training" : "without a loss");
  return OK;
}

static Status check_bytes(const json_t *object, const char *key, size_t found) {
  json_int_t stated = 0;
  TRY(get_integer(object, key, 0, INT64_MAX, &stated));
  if ((size_t)stated != found)
    return fail(E_MODEL, "'%s' is %lld, from the model it is %zu", key, (long long)stated, found);
  return OK;
}

static Status check_tensors(const Graph *g, const json_t *cut, const char *key, const ValueId *values, int n) {
  const json_t *list;
  TRY(get_array(cut, key, (size_t)n, &list));
  for (int i = 0; i < n; i++) {
    TRY(check_name(json_array_get(list, (size_t)i), "tensor", graph_value(g, values[i])->name));
    TRY(check_bytes(json_array_get(list, (size_t)i), "bytes", graph_value_bytes(g, values[i])));
  }
  return OK;
}

/* Takes a stage's times, compares its bytes. */
static Status get_stage(const json_t *stage, Plan *plan, int s) {
  StageReport *r = &plan->reports[s];
  int number, rank;
  TRY(get_int(stage, "stage", s, s, &number));
  TRY(get_int(stage, "rank", 0, plan->ranks - 1, &rank));
  if (rank != plan->schedule.rank_of_stage[s])
    return fail(E_MODEL, "'rank' is %d, its actions stand on rank %d", rank, plan->schedule.rank_of_stage[s]);
  TRY(get_number(stage, "forward_seconds", &r->forward_seconds));
  TRY(get_number(stage, "backward_input_seconds", &r->backward_input_seconds));
  TRY(get_number(stage, "backward_weight_seconds", &r->backward_weight_seconds));
  TRY(get_number(stage, "again_seconds", &r->again_seconds));
  TRY(check_bytes(stage, "parameter_bytes", r->parameter_bytes));
  TRY(check_bytes(stage, "constant_bytes", r->constant_bytes));
  if (s == plan->stages - 1)
    return OK;
  const json_t *json = json_object_get(stage, "cut_after");
  const Cut *cut = &plan->cuts.cuts[s];
  TRY(check_bytes(json, "forward_bytes", cut->forward_bytes));
  TRY(check_bytes(json, "backward_bytes", cut->backward_bytes));
  TRY(get_number(json, "bytes_per_second", &r->cut_bytes_per_second));
  TRY(check_tensors(plan->graph, json, "forward", cut->forward, cut->n_forward));
  return check_tensors(plan->graph, json, "backward", cut->backward, cut->n_backward);
}

/* Compares a rank's memory with what was laid out, and that with the limit asked for, else with the file's. */
static Status get_rank(const json_t *json, const PlanRequest *asked, Plan *plan, int rank) {
  const RankMemory *m = &plan->rank_memory[rank];
  const json_t *limit = json_object_get(json, "limit_bytes");
  json_int_t stated = INT64_MAX, spared = 0;
  TRY(get_integer(json, "spared_bytes", 0, INT64_MAX, &spared));
  plan->spared_bytes[rank] = (size_t)spared;
  TRY(check_bytes(json, "parameter_bytes", m->parameter_bytes));
  TRY(check_bytes(json, "gradient_bytes", m->gradient_bytes));
  TRY(check_bytes(json, "state_bytes", m->state_bytes));
  if (m->offloads) { /* files of before have none */
    TRY(check_bytes(json, "host_bytes", m->host_bytes));
    TRY(check_bytes(json, "window_bytes", m->window_bytes));
  }
  TRY(check_bytes(json, "constant_bytes", m->constant_bytes));
  TRY(check_bytes(json, "activation_bytes", m->activation_bytes));
  TRY(check_bytes(json, "scratch_bytes", m->scratch_bytes));
  TRY(check_bytes(json, "total_bytes", m->total_bytes));
  TRY(check_bytes(json, "bound_bytes", m->bound_bytes));
  if (!json_is_null(limit))
    TRY(get_integer(json, "limit_bytes", 0, INT64_MAX, &stated));
  bool given = asked->ranks && asked->memory_limits && asked->memory_limits[rank];
  if (!given && !json_is_null(limit) && (size_t)stated < plan->memory_limits[rank])
    plan->memory_limits[rank] = (size_t)stated;
  if (m->total_bytes <= plan->memory_limits[rank])
    return OK;
  char needs[24], text[24];
  return fail(E_LIMIT, "it needs %s (%zu bytes), the limit is %s (%zu)", plan_bytes_text(m->total_bytes, needs),
              m->total_bytes, plan_bytes_text(plan->memory_limits[rank], text), plan->memory_limits[rank]);
}

static Status read_body(Arena *arena, const json_t *root, const PlanRequest *asked, const PlanRequest *head,
                        Plan *plan) {
  Graph *g = plan->graph;
  const json_t *stages, *memory;
  NodeId *forward;
  int n_forward = 0;
  TRY(ARENA_NEW(arena, forward, g->n_nodes));
  TRY(ARENA_NEW(arena, plan->stage_of, g->n_nodes));
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->phase == PHASE_F)
      forward[n_forward++] = (NodeId)i;
  TRY(get_array(root, "stages", (size_t)plan->stages, &stages));
  TRY(get_array(root, "memory", (size_t)plan->ranks, &memory));
  TRY(get_nodes(stages, plan, forward, n_forward));
  TRY(plan_again_read(arena, stages, forward, n_forward, plan));
  TRY(plan_cut(arena, plan));
  TRY(as_file(get_schedule(arena, root, head->schedule, plan)));
  TRY(as_file(plan_finish(arena, plan)));
  TRY(plan_limits(arena, asked, plan->ranks, &plan->memory_limits));
  TRY(ARENA_NEW(arena, plan->spared_bytes, plan->ranks));
  Status status = OK;
  for (int s = 0; s < plan->stages && status == OK; s++)
    if ((status = get_stage(json_array_get(stages, (size_t)s), plan, s)) != OK)
      status_context("stage %d: ", s);
  for (int r = 0; r < plan->ranks && status == OK; r++)
    if ((status = get_rank(json_array_get(memory, (size_t)r), asked, plan, r)) != OK)
      status_context("%s: ", plan_rank_text(plan, r, (char[96]){0}));
  TRY(status);
  const json_t *process = json_object_get(root, "process"), *predicted = json_object_get(root, "predicted");
  plan->process = (ProcessMemory){.beside_bytes = (size_t)json_integer_value(json_object_get(process, "beside_bytes")),
                                  .mpi_bytes = (size_t)json_integer_value(json_object_get(process, "mpi_bytes")),
                                  .device_bytes = (size_t)json_integer_value(json_object_get(process, "device_bytes")),
                                  .nccl_bytes = (size_t)json_integer_value(json_object_get(process, "nccl_bytes"))};
  TRY(get_number(predicted, "update_seconds", &plan->update_seconds));
  TRY(get_number(predicted, "lower_bound_seconds", &plan->lower_bound_seconds));
  return plan_predict(plan);
}

static Status read_plan(Arena *arena, const json_t *root, Graph *graph, const PlanRequest *asked, Plan *plan) {
  PlanRequest head = {0};
  TRY(get_head(arena, root, &head));
  TRY(check_request(&head, asked));
  *plan = (Plan){.graph = graph,
                 .model_hash = head.model_hash,
                 .loss = head.loss,
                 .optimizer = head.optimizer,
                 .device = head.device,
                 .precision = head.precision,
                 .offload = head.offload,
                 .ranks = head.ranks,
                 .chunks = head.chunks,
                 .stages = head.ranks * head.chunks,
                 .microbatches = head.microbatches,
                 .microbatch_size = head.microbatch_size,
                 .ties = head.ties,
                 .objective = head.objective,
                 .link = head.link,
                 .capacity = head.capacity,
                 .recompute = head.recompute};
  return read_body(arena, root, asked, &head, plan);
}

static Status refuse_json(const char *origin, const json_error_t *error) {
  if (json_error_code(error) == json_error_out_of_memory || errno == ENOMEM || !*error->text)
    return fail(E_MEMORY, "%s: out of memory", origin);
  if (error->line < 1 || error->column < 0) /* of the whole text, not of a place in it */
    return fail(E_MODEL, "%s: %s", origin, error->text);
  return fail(E_MODEL, "%s: line %d, column %d: %s", origin, error->line, error->column, error->text);
}

Status plan_from_text(Arena *arena, const char *text, const char *origin, Graph *graph, const PlanRequest *request,
                      Plan *plan) {
  json_error_t error;
  errno = 0;
  json_t *root;
  Status status = json_read(text, &root, &error);
  if (status == OK && !root)
    return refuse_json(origin, &error);
  if (status == OK)
    status = read_plan(arena, root, graph, request, plan);
  json_decref(root);
  if (status != OK)
    status_context("%s: ", origin);
  return status;
}

static Status load(const char *path, json_t **root) {
  json_error_t error;
  int descriptor;
  size_t bytes;
  if (file_open(path, &descriptor, &bytes) != OK) {
    status_context("%s: ", path);
    return status_code();
  }
  errno = 0;
  Status status = json_read_file(descriptor, root, &error);
  close(descriptor);
  if (status != OK)
    status_context("%s: ", path);
  return status != OK || *root ? status : refuse_json(path, &error);
}

Status plan_read(Arena *arena, const char *path, Graph *graph, const PlanRequest *request, Plan *plan) {
  json_t *root;
  TRY(load(path, &root));
  Status status = read_plan(arena, root, graph, request, plan);
  json_decref(root);
  if (status != OK)
    status_context("%s: ", path);
  return status;
}

Status plan_peek(Arena *arena, const char *path, PlanRequest *request) {
  json_t *root;
  PlanRequest head = *request;
  TRY(load(path, &root));
  Status status = get_head(arena, root, &head);
  json_decref(root);
  if (status != OK)
    status_context("%s: ", path);
  else
    *request = head;
  return status;
}
