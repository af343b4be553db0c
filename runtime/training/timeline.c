/* The measured timeline: its options, clocks that are compared, and the ranks' spans on their way into one file.
 * Invariant: rank 0 never holds more of another rank's than one message; a file that cannot be written keeps no rank
 * waiting. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/training/trainer.h"

enum {
  SPAN_BYTES = 16 << 20, /* a rank's spans */
  KERNEL_BYTES = 64 << 20,
  ROUNDS = 16,   /* trips of a comparison */
  MESSAGE = 1024 /* spans */
};

/* What a rank says of its spans before they come. */
struct RankPart {
  int64_t began, ended, first_whole;
  uint64_t n;
  double device_error_seconds;
  int32_t has_device;
  char host[64];
};

/* "10:20", "10:", ":20" */
static Status parse_steps(const char *text, int64_t *first, int64_t *last) {
  char *end;
  const char *colon = strchr(text, ':');
  *first = 1;
  *last = INT64_MAX;
  errno = 0;
  if (colon && colon > text)
    *first = strtoll(text, &end, 10);
  bool good = colon && (colon == text || end == colon);
  if (good && colon[1])
    *last = strtoll(colon + 1, &end, 10);
  good = good && (!colon[1] || !*end) && !errno && *first >= 1 && *first <= *last;
  return good ? OK : fail(E_USAGE, "--trace-steps: '%s' is no FIRST:LAST of steps from 1", text);
}

Status timeline_settle(Training *training) {
  const Options *o = training->job->asked.options;
  int64_t first = 1, last = INT64_MAX;
  if (!o->trace && (o->trace_steps || o->trace_kernels))
    return fail(E_USAGE, "--trace-%s needs --trace FILE.json", o->trace_steps ? "steps" : "kernels");
  if (o->trace_steps)
    TRY(parse_steps(o->trace_steps, &first, &last));
  if (first > training->steps)
    return fail(E_USAGE, "--trace-steps: step %" PRId64 " is past the run's %" PRId64, first, training->steps);
  training->trace_first = first - 1;
  training->trace_last = last - 1;
  return OK;
}

Status timeline_create(Worker *w) {
  const Training *training = w->training;
  const Options *o = training->job->asked.options;
  Timeline *t = &w->timeline;
  int ranks = training->job->decided.ranks;
  if (!o->trace || o->dry_run)
    return OK;
  TRY(ARENA_NEW(w->arena, t->parts, w->rank ? 1 : ranks));
  TRY(ARENA_NEW(w->arena, t->fits, w->rank ? 0 : ranks));
  return trace_create(w->arena, o->trace_kernels ? KERNEL_BYTES : SPAN_BYTES, training->trace_first,
                      training->trace_last, o->trace_kernels, &t->trace);
}

/* Whether every rank has a clock of its own. */
static bool compares_clocks(const Worker *w) {
  return w->link && w->training->job->asked.world->mpi;
}

/* Rank 0: how far the peer's clock is ahead, by the shortest of some round trips, which bounds the error. */
static Status measure_clock(const Worker *w, int peer, double *at, double *ahead, double *error) {
  *error = INFINITY;
  for (int i = 0; i < ROUNDS; i++) {
    double theirs, sent = clock_seconds();
    TRY(link_send(w->link, peer, &(char){0}, 1));
    TRY(link_receive(w->link, peer, &theirs, sizeof theirs));
    double back = clock_seconds();
    if ((back - sent) / 2 >= *error)
      continue;
    *error = (back - sent) / 2;
    *at = theirs;
    *ahead = theirs - (sent + back) / 2;
  }
  return OK;
}

static Status answer_clock(const Worker *w) {
  for (int i = 0; i < ROUNDS; i++) {
    char asked;
    TRY(link_receive(w->link, 0, &asked, 1));
    double own = clock_seconds();
    TRY(link_send(w->link, 0, &own, sizeof own));
  }
  return OK;
}

/* One that is not apart by more than the error is the same. */
static Status compare_clocks(Worker *w, int end) {
  Timeline *t = &w->timeline;
  if (!compares_clocks(w))
    return OK;
  if (w->rank)
    return answer_clock(w);
  for (int r = 1; r < w->training->job->decided.ranks; r++) {
    double error;
    TRY(measure_clock(w, r, &t->fits[r].at[end], &t->fits[r].ahead[end], &error));
    if (fabs(t->fits[r].ahead[end]) <= error)
      t->fits[r].ahead[end] = 0;
    t->clock_error_seconds = fmax(t->clock_error_seconds, error);
  }
  return OK;
}

Status timeline_connect(Worker *w) {
  Timeline *t = &w->timeline;
  if (!t->trace)
    return OK;
  t->origin = clock_seconds();
  TRY(compare_clocks(w, 0));
  for (int r = 0; !w->rank && r < w->training->job->decided.ranks; r++) { /* until the end is known */
    t->fits[r].at[1] = t->fits[r].at[0];
    t->fits[r].ahead[1] = t->fits[r].ahead[0];
  }
  return OK;
}

static RankPart part_of(const Worker *w, size_t n) {
  const Trace *trace = w->timeline.trace;
  RankPart part = {.began = trace->began,
                   .ended = trace->ended,
                   .first_whole = trace->first_whole,
                   .n = n,
                   .device_error_seconds = trace->device_error_seconds,
                   .has_device = !w->training->job->decided.devices[w->rank].backend->is_host};
  if (gethostname(part.host, sizeof part.host - 1) != 0)
    strcpy(part.host, "host");
  return part;
}

/* The file while it is written. */
typedef struct {
  FileReplace file;
  Chrome *chrome;
  ChromeHead head;
} TimelineFile;

/* Steps of which a rank lost a span are left out, but for the last one. */
static ChromeHead head_of(const Worker *w, const RankPart *parts, int n) {
  ChromeHead head = {.first = parts[0].began,
                     .last = parts[0].ended,
                     .complete = true,
                     .kernels = w->timeline.trace->kernels,
                     .clock_error_seconds = w->timeline.clock_error_seconds};
  double device_error = 0;
  for (int i = 0; i < n; i++) {
    device_error = fmax(device_error, parts[i].device_error_seconds);
    head.first = parts[i].first_whole > head.first ? parts[i].first_whole : head.first;
    head.last = parts[i].ended > head.last ? parts[i].ended : head.last;
  }
  head.clock_error_seconds += device_error;
  if (head.first > head.last && head.last >= 0) {
    head.first = head.last;
    head.complete = false;
  }
  head.dropped = head.first - parts[0].began;
  return head;
}

static Status begin_file(Worker *w, TimelineFile *file) {
  TRY(file_replace_begin(w->training->job->asked.options->trace, &file->file));
  const Training *training = w->training;
  return chrome_begin(w->arena, &training->job->decided.plan, training->rest ? &training->rest->job.decided.plan : NULL,
                      training->epoch_steps, file->file.stream, &file->head, w->timeline.origin, &file->chrome);
}

static Status end_file(Worker *w, TimelineFile *file, Status status) {
  const Training *training = w->training;
  if (status != OK) {
    file_replace_abandon(&file->file);
    return status;
  }
  chrome_end(file->chrome);
  TRY(file_replace_commit(&file->file));
  if (!training->out)
    return OK;
  const ChromeHead *head = &file->head;
  const char *path = training->job->asked.options->trace;
  if (head->last < head->first)
    fprintf(training->out, "trace: %s has no step\n", path);
  else if (head->first == head->last)
    fprintf(training->out, "trace: %s has step %" PRId64, path, head->first + 1);
  else
    fprintf(training->out, "trace: %s has steps %" PRId64 " to %" PRId64, path, head->first + 1, head->last + 1);
  if (head->last >= head->first)
    fprintf(training->out, "%s%s\n", head->dropped ? "; those before had no room" : "",
            head->complete ? "" : ", not whole");
  return OK;
}

/* Another rank's part: rank 0 asks for it by receiving. */
static Status send_part(Worker *w) {
  size_t n;
  const TraceEvent *events = trace_sorted(w->timeline.trace, &n);
  RankPart part = part_of(w, n);
  TRY(link_send(w->link, 0, &part, sizeof part));
  for (size_t at = 0; at < n; at += MESSAGE)
    TRY(link_send(w->link, 0, &events[at], (n - at < MESSAGE ? n - at : MESSAGE) * sizeof *events));
  return OK;
}

/* Rank r's spans into the file, where there is one. */
static Status receive_part(Worker *w, int r, Chrome *chrome) {
  TraceEvent events[MESSAGE];
  const RankPart *part = &w->timeline.parts[r];
  if (chrome)
    chrome_rank(chrome, r, w->training->job->asked.world->mpi ? r : 0, part->host, part->has_device,
                w->timeline.fits[r]);
  for (uint64_t left = part->n; left;) {
    size_t n = left < MESSAGE ? (size_t)left : MESSAGE;
    TRY(link_receive(w->link, r, events, n * sizeof *events));
    if (chrome)
      chrome_spans(chrome, events, n);
    left -= n;
  }
  return OK;
}

Status timeline_write(Worker *w, Status *written) {
  Timeline *t = &w->timeline;
  TimelineFile file = {0};
  int ranks = w->training->job->decided.ranks;
  *written = OK;
  if (!t->trace)
    return OK;
  TRY(compare_clocks(w, 1));
  if (w->rank)
    return send_part(w);
  size_t n;
  const TraceEvent *events = trace_sorted(t->trace, &n);
  t->parts[0] = part_of(w, n);
  for (int r = 1; r < ranks; r++)
    TRY(link_receive(w->link, r, &t->parts[r], sizeof t->parts[r]));
  file.head = head_of(w, t->parts, ranks);
  *written = begin_file(w, &file);
  Chrome *chrome = *written == OK ? file.chrome : NULL;
  if (chrome) {
    chrome_rank(chrome, 0, 0, t->parts[0].host, t->parts[0].has_device, t->fits[0]);
    chrome_spans(chrome, events, n);
  }
  Status status = OK;
  for (int r = 1; r < ranks && status == OK; r++)
    status = receive_part(w, r, chrome);
  if (status != OK) {
    file_replace_abandon(&file.file);
    return status;
  }
  *written = end_file(w, &file, *written);
  return OK;
}

Status timeline_write_rest(Worker *const *workers, int n) {
  Worker *first = workers[0];
  TimelineFile file = {0};
  size_t spans, all = 0;
  if (first->rank || !first->timeline.trace)
    return OK;
  RankPart *parts = first->timeline.parts;
  for (int i = 0; i < n && workers[i]->timeline.trace; i++) {
    trace_sorted(workers[i]->timeline.trace, &spans);
    parts[i] = part_of(workers[i], spans);
    all += spans;
  }
  if (!all)
    return OK;
  file.head = head_of(first, parts, n);
  file.head.complete = false;
  Status status = begin_file(first, &file);
  for (int i = 0; i < n && status == OK; i++) {
    const Trace *trace = workers[i]->timeline.trace;
    chrome_rank(file.chrome, i, 0, parts[i].host, parts[i].has_device, (ClockFit){0});
    chrome_spans(file.chrome, trace ? trace->events : NULL, (size_t)parts[i].n);
  }
  return end_file(first, &file, status);
}
