/* A span is a complete event ("X") on its rank's line, or on that of the rank's device; a message between ranks is a
 * flow from the span that posts its send to the action that needs it. Invariant: times are whole nanoseconds, taken
 * from begin and end apart, so that rounding keeps what lies in a span inside it. Process and thread numbers begin at
 * 1: 0 is idle, for Perfetto. */
#include "runtime/training/chrome.h"

#include <math.h>

#include "graph/op.h"

enum { HAS_STAGE = 1, HAS_MICROBATCH = 2, HAS_PEER = 4, HAS_SUM = 8, HAS_NODE = 16 };
enum { OF_ACTION = HAS_STAGE | HAS_MICROBATCH, OF_TRANSFER = OF_ACTION | HAS_PEER, OF_SUM = HAS_STAGE | HAS_PEER };

/* How a kind of span looks. cname: one of the colours that Chrome reserves; NULL: by name. */
static const struct {
  const char *name, *category, *colour; /* name NULL: the schedule's */
  unsigned has;
} kinds[] = {
    [ACTION_F] = {NULL, "forward", "thread_state_running", OF_ACTION},
    [ACTION_B] = {NULL, "backward", "rail_response", OF_ACTION},
    [ACTION_W] = {NULL, "weight_gradients", "yellow", OF_ACTION},
    [ACTION_BW] = {NULL, "backward,weight_gradients", "rail_animation", OF_ACTION},
    [ACTION_SEND_F] = {NULL, "transfer", "thread_state_iowait", OF_TRANSFER},
    [ACTION_RECV_F] = {NULL, "transfer", "thread_state_iowait", OF_TRANSFER},
    [ACTION_SEND_B] = {NULL, "transfer", "thread_state_iowait", OF_TRANSFER},
    [ACTION_RECV_B] = {NULL, "transfer", "thread_state_iowait", OF_TRANSFER},
    [TRACE_SEND_SUM] = {"SEND_SUM", "transfer", "thread_state_iowait", OF_SUM | HAS_SUM},
    [TRACE_RECV_SUM] = {"RECV_SUM", "transfer", "thread_state_iowait", OF_SUM | HAS_SUM},
    [TRACE_WAIT] = {"wait ", "waiting", "grey", 0},
    [TRACE_COPY] = {"copy ", "transfer", "thread_state_iowait", OF_ACTION},
    [TRACE_BATCH] = {"batch", "data", "startup", 0},
    [TRACE_FEED] = {"feed", "data", "startup", OF_ACTION},
    [TRACE_NORMS] = {"gradient norms", "update", "olive", 0},
    [TRACE_UPDATE] = {"update", "update", "olive", 0},
    [TRACE_STEP] = {"step", "step", "generic_work", 0},
    [TRACE_VALIDATION] = {"validation", "validation", "rail_idle", 0},
    [TRACE_CHECKPOINT] = {"checkpoint", "files", "rail_load", 0},
    [TRACE_SNAPSHOT] = {"snapshot", "files", "rail_load", 0},
    [TRACE_SAVE] = {"save", "files", "rail_load", 0},
    [TRACE_KERNEL] = {NULL, "kernel", NULL, HAS_NODE},
    [TRACE_DEVICE] = {"device", NULL, NULL, 0},
    [TRACE_RANKS] = {"ranks", NULL, NULL, 0},
    [TRACE_REPORTS] = {"reports", NULL, NULL, 0},
    [TRACE_WRITING] = {"checkpoint", NULL, NULL, 0},
    [TRACE_GLOBAL_NORM] = {"norm", NULL, NULL, 0},
};

/* What the steps of a plan look like. */
typedef struct {
  const Plan *plan;
  const Graph *graph;
  /* of the rank: */
  bool *receives[2];          /* [stages]: F, B */
  ActionKind *first_backward; /* [stages] */
} Look;

struct Chrome {
  FILE *stream;
  Look whole, rest;
  const Look *at;   /* of the span at hand */
  int64_t rest_due; /* steps from one rest to the next; 0: there is none */
  int64_t first;
  double origin;
  bool begun;                /* something stands in the list */
  int rank, process, thread; /* thread: from 0; a device's lies behind those of all ranks */
  ClockFit fit;
  size_t sums;   /* two of each group, of either plan, at most */
  bool *pending; /* [sums]: received by the rank, and not used yet */
};

static void put_string(FILE *stream, const char *text) {
  fputc('"', stream);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++)
    if (*c == '"' || *c == '\\')
      fprintf(stream, "\\%c", *c);
    else if (*c < 0x20)
      fprintf(stream, "\\u%04x", *c);
    else
      fputc(*c, stream);
  fputc('"', stream);
}

static void put_time(const Chrome *c, const char *name, int64_t nanoseconds) {
  int64_t whole = nanoseconds < 0 ? -nanoseconds : nanoseconds;
  fprintf(c->stream, "\"%s\":%s%lld.%03d", name, nanoseconds < 0 ? "-" : "", (long long)(whole / 1000),
          (int)(whole % 1000));
}

static int64_t nanoseconds(const Chrome *c, double time) {
  const ClockFit *f = &c->fit;
  double apart = f->at[1] - f->at[0], drift = apart > 0 ? (f->ahead[1] - f->ahead[0]) / apart : 0;
  return llround((time - f->ahead[0] - drift * (time - f->at[0]) - c->origin) * 1e9);
}

/* Up to where its own members begin. */
static void begin_event(Chrome *c, const char *phase) {
  fprintf(c->stream, "%s{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,", c->begun ? ",\n" : "\n", phase, c->process + 1,
          c->thread + 1);
  c->begun = true;
}

static void put_name(const Chrome *c, const TraceEvent *e, int kind) {
  char text[32];
  if (kind == TRACE_KERNEL)
    fputs(op_def(graph_node(c->at->graph, e->about)->op)->name, c->stream);
  else if (!kinds[kind].name)
    fputs(action_text((Action){.kind = (uint8_t)kind, .stage = e->stage, .microbatch = e->microbatch}, text),
          c->stream);
  else
    fputs(kinds[kind].name, c->stream);
  if (kind == TRACE_WAIT || kind == TRACE_COPY)
    put_name(c, e, e->of);
}

static size_t bytes_of(const Chrome *c, const TraceEvent *e, int kind) {
  if (kinds[kind].has & HAS_SUM) {
    const UseGroup *group = &c->at->graph->groups[e->about / 2];
    return graph_value_bytes(c->at->graph, e->about % 2 ? group->places : group->gradient);
  }
  bool above = kind == ACTION_SEND_F || kind == ACTION_RECV_B, forward = kind == ACTION_SEND_F || kind == ACTION_RECV_F;
  const Cut *cut = &c->at->plan->cuts.cuts[above ? e->stage : e->stage - 1];
  const ValueId *values = forward ? cut->forward : cut->backward;
  size_t bytes = 0;
  for (int i = 0; i < (forward ? cut->n_forward : cut->n_backward); i++)
    bytes += graph_value_bytes(c->at->graph, values[i]);
  return bytes;
}

static void put_arguments(const Chrome *c, const TraceEvent *e) {
  int kind = e->kind == TRACE_WAIT ? e->of : e->kind;
  unsigned has = kinds[kind].has;
  const Node *node = has & HAS_NODE ? graph_node(c->at->graph, e->about) : NULL;
  if (node && node->phase != PHASE_UPDATE)
    has |= OF_ACTION;
  fprintf(c->stream, "\"args\":{\"step\":%lld", (long long)e->step + 1);
  if (has & HAS_STAGE)
    fprintf(c->stream, ",\"stage\":%d", e->stage);
  if (has & HAS_MICROBATCH)
    fprintf(c->stream, ",\"microbatch\":%d", e->microbatch);
  if (has & HAS_PEER)
    fprintf(c->stream, ",\"peer\":%d,\"bytes\":%zu", e->peer, bytes_of(c, e, kind));
  if (has & HAS_SUM) {
    fputs(",\"parameter\":", c->stream);
    put_string(c->stream, graph_value(c->at->graph, c->at->graph->groups[e->about / 2].parameter)->name);
  }
  if (node && node->name) {
    fputs(",\"node\":", c->stream);
    put_string(c->stream, node->name);
  }
  fputs("}}", c->stream);
}

static void put_span(Chrome *c, const TraceEvent *e) {
  int64_t begin = nanoseconds(c, e->begin), end = nanoseconds(c, e->end);
  c->thread = e->on_device ? c->whole.plan->ranks + c->rank : c->rank;
  begin_event(c, "X");
  put_time(c, "ts", begin);
  fputc(',', c->stream);
  put_time(c, "dur", end - begin);
  fputs(",\"name\":\"", c->stream);
  put_name(c, e, e->kind);
  fprintf(c->stream, "\",\"cat\":\"%s\",", kinds[e->kind].category);
  if (kinds[e->kind].colour)
    fprintf(c->stream, "\"cname\":\"%s\",", kinds[e->kind].colour);
  put_arguments(c, e);
}

/* One end of a message; both have its number, which no other message of the file has. */
static void put_flow(Chrome *c, const TraceEvent *e, bool sent, uint64_t message) {
  uint64_t messages = (uint64_t)c->whole.plan->stages * 2 * (uint64_t)c->whole.plan->microbatches +
                      c->sums * (uint64_t)c->whole.plan->ranks;
  begin_event(c, sent ? "s" : "f");
  put_time(c, "ts", nanoseconds(c, e->begin));
  fprintf(c->stream, ",\"id\":%llu,\"name\":\"transfer\",\"cat\":\"transfer\"%s}",
          (unsigned long long)((uint64_t)e->step * messages + message), sent ? "" : ",\"bp\":\"e\"");
}

/* Of what crosses into `stage`, forward or backward, within a step. */
static uint64_t crossing(const Chrome *c, int stage, bool forward, int microbatch) {
  return ((uint64_t)stage * 2 + !forward) * (uint64_t)c->whole.plan->microbatches + (uint64_t)microbatch;
}

/* Of an accumulator on its way to a rank; sum: as a span is about it. */
static uint64_t sum_message(const Chrome *c, int sum, int rank) {
  return (uint64_t)c->whole.plan->stages * 2 * (uint64_t)c->whole.plan->microbatches +
         (uint64_t)sum * (uint64_t)c->whole.plan->ranks + (uint64_t)rank;
}

/* The ends of messages that the span stands for. */
static void put_flows(Chrome *c, const TraceEvent *e) {
  switch ((int)e->kind) {
  case ACTION_SEND_F:
  case ACTION_SEND_B:
    put_flow(
        c, e, true,
        crossing(c, e->kind == ACTION_SEND_F ? e->stage + 1 : e->stage - 1, e->kind == ACTION_SEND_F, e->microbatch));
    break;
  case TRACE_SEND_SUM:
    put_flow(c, e, true, sum_message(c, e->about, e->peer));
    break;
  case TRACE_RECV_SUM:
    c->pending[e->about] = true;
    break;
  case TRACE_NORMS: /* the first that needs accumulators */
    for (int k = 0; k < (int)c->sums; k++)
      if (c->pending[k]) {
        put_flow(c, e, false, sum_message(c, k, c->rank));
        c->pending[k] = false;
      }
    break;
  case ACTION_F:
    if (c->at->receives[0][e->stage])
      put_flow(c, e, false, crossing(c, e->stage, true, e->microbatch));
    break;
  default:
    if (e->kind <= ACTION_BW && e->kind == c->at->first_backward[e->stage] && c->at->receives[1][e->stage])
      put_flow(c, e, false, crossing(c, e->stage, false, e->microbatch));
  }
}

static Status look_at(Arena *arena, const Plan *plan, Look *look) {
  *look = (Look){.plan = plan, .graph = plan->graph};
  TRY(ARENA_NEW(arena, look->receives[0], plan->stages));
  TRY(ARENA_NEW(arena, look->receives[1], plan->stages));
  return ARENA_NEW(arena, look->first_backward, plan->stages);
}

Status chrome_begin(Arena *arena, const Plan *plan, const Plan *rest, int64_t epoch_steps, FILE *stream,
                    const ChromeHead *head, double origin, Chrome **chrome) {
  Chrome *c;
  TRY(ARENA_NEW(arena, c, 1));
  *c = (Chrome){.stream = stream, .rest_due = rest ? epoch_steps : 0, .first = head->first, .origin = origin};
  TRY(look_at(arena, plan, &c->whole));
  if (rest)
    TRY(look_at(arena, rest, &c->rest));
  c->sums = 2 * plan->graph->n_groups;
  if (rest && 2 * rest->graph->n_groups > c->sums)
    c->sums = 2 * rest->graph->n_groups;
  TRY(ARENA_NEW(arena, c->pending, c->sums));
  fprintf(stream,
          "{\"displayTimeUnit\":\"ms\",\n\"otherData\":{\"program\":\"onnxpipe\",\"ranks\":%d,\"stages\":%d,"
          "\"microbatches\":%d,\"first_step\":%lld,\"last_step\":%lld,\"dropped_steps\":%lld,\"complete\":%s,"
          "\"kernels\":%s,\"clock_error_us\":%.3f},\n\"traceEvents\":[",
          plan->ranks, plan->stages, plan->microbatches, (long long)head->first + 1, (long long)head->last + 1,
          (long long)head->dropped, head->complete ? "true" : "false", head->kernels ? "true" : "false",
          1e6 * head->clock_error_seconds);
  *chrome = c;
  return OK;
}

static void put_metadata(Chrome *c, const char *what, const char *argument) {
  begin_event(c, "M");
  fprintf(c->stream, "\"name\":\"%s\",\"args\":{%s}}", what, argument);
}

/* Which of the rank's actions need a message. */
static void look_at_list(Look *look, int rank) {
  const ActionList *list = &look->plan->schedule.lists[rank];
  for (int s = 0; s < look->plan->stages; s++) {
    look->receives[0][s] = look->receives[1][s] = false;
    look->first_backward[s] = ACTION_KINDS;
  }
  for (int i = 0; i < list->n_actions; i++) {
    Action a = list->actions[i];
    if (a.kind == ACTION_RECV_F || a.kind == ACTION_RECV_B)
      look->receives[a.kind == ACTION_RECV_B][a.stage] = true;
    if (a.kind == ACTION_B || a.kind == ACTION_BW ||
        (a.kind == ACTION_W && look->first_backward[a.stage] == ACTION_KINDS))
      look->first_backward[a.stage] = a.kind;
  }
}

/* A line, in order of their numbers. */
static void put_line(Chrome *c, const char *of, int thread) {
  char text[512], name[96];
  c->thread = thread;
  snprintf(text, sizeof text, "\"name\":\"%s%s\"", of, plan_rank_text(c->whole.plan, c->rank, name));
  put_metadata(c, "thread_name", text);
  snprintf(text, sizeof text, "\"sort_index\":%d", thread);
  put_metadata(c, "thread_sort_index", text);
}

void chrome_rank(Chrome *c, int rank, int process, const char *host, bool has_device, ClockFit fit) {
  char text[512];
  c->rank = c->thread = rank;
  c->process = process;
  c->fit = fit;
  look_at_list(&c->whole, rank);
  if (c->rest_due)
    look_at_list(&c->rest, rank);
  if (rank == process) {
    snprintf(text, sizeof text, "\"name\":\"onnxpipe on %.128s\"", host);
    put_metadata(c, "process_name", text);
    snprintf(text, sizeof text, "\"sort_index\":%d", process);
    put_metadata(c, "process_sort_index", text);
  }
  put_line(c, "", rank);
  if (has_device)
    put_line(c, "device of ", c->whole.plan->ranks + rank);
}

static bool is_of_rest(const Chrome *c, const TraceEvent *e) {
  return c->rest_due && (e->step + 1) % c->rest_due == 0;
}

void chrome_spans(Chrome *c, const TraceEvent *events, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (events[i].step >= c->first) {
      c->at = is_of_rest(c, &events[i]) ? &c->rest : &c->whole;
      put_span(c, &events[i]);
      if (!events[i].on_device)
        put_flows(c, &events[i]);
    }
}

void chrome_end(Chrome *c) {
  fputs("\n]}\n", c->stream);
}
