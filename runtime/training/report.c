/* What rank 0 learns of each step. Invariant: no rank waits for a step's report before it has done its own part of the
 * next one, unless the gradient norm is part of the step. */
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "runtime/training/trainer.h"

static size_t count_numbers(const Worker *w) {
  return REPORT_SQUARES + (size_t)w->n_updates + (size_t)w->training->job->decided.plan.stages;
}

Status report_create(Worker *w) {
  size_t count = count_numbers(w);
  int ranks = w->training->job->decided.ranks;
  TRY(ARENA_NEW(w->arena, w->squares, w->n_updates));
  TRY(ARENA_NEW(w->arena, w->word.tickets, 2 * ranks));
  TRY(ARENA_NEW(w->arena, w->busy, w->rank ? 0 : ranks));
  TRY(ARENA_NEW(w->arena, w->first_busy, w->rank ? 0 : ranks));
  for (int parity = 0; parity < 2; parity++) {
    StepReport *report = &w->reports[parity];
    TRY(ARENA_NEW(w->arena, report->numbers, count));
    TRY(ARENA_NEW(w->arena, report->tickets, ranks));
    TRY(ARENA_NEW(w->arena, report->from, ranks));
    for (int r = 1; w->rank == 0 && r < ranks; r++)
      TRY(ARENA_NEW(w->arena, report->from[r], count));
  }
  return w->rank ? OK : compare_create(w);
}

Status report_post(Worker *w, int64_t step, double loss, double learning_rate, double seconds) {
  StepReport *report = &w->reports[step & 1];
  int ranks = w->training->job->decided.ranks;
  size_t bytes = count_numbers(w) * sizeof(double);
  report->step = step;
  report->samples = w->stepper->decided->batch;
  report->learning_rate = learning_rate;
  report->seconds = seconds;
  report->numbers[REPORT_LOSS] = executor_has_loss(w->whole.executor) ? loss : NAN;
  report->numbers[REPORT_BUSY] = executor_busy_seconds(w->whole.executor);
  report->numbers[REPORT_ASKED] = word_asked(w);
  if (w->writer)
    writer_part(w->writer, report->numbers + REPORT_PART);
  if (w->n_updates)
    memcpy(report->numbers + REPORT_SQUARES, w->squares, (size_t)w->n_updates * sizeof(double));
  executor_stage_seconds(w->whole.executor, report->numbers + REPORT_SQUARES + w->n_updates);
  Endpoint *endpoint = w->link ? w->link->endpoints[CHANNEL_CONTROL] : NULL;
  if (w->rank) {
    Transfer send = {.peer = 0, .is_send = true, .data = report->numbers, .bytes = bytes};
    return w->link->transport->post(endpoint, &send, 1, report->tickets);
  }
  for (int r = 1; r < ranks; r++) {
    Transfer receive = {.peer = r, .data = report->from[r], .bytes = bytes};
    TRY(w->link->transport->post(endpoint, &receive, 1, &report->tickets[r]));
  }
  return OK;
}

static double sum_squares(const double *squares, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++)
    sum += squares[i] < 0 ? 0 : squares[i]; /* what is no number stays none */
  return sum;
}

/* Puts another rank's numbers where this one has none. */
static void merge(double *into, const double *from, int n) {
  for (int i = 0; i < n; i++)
    if (!(from[i] < 0))
      into[i] = from[i];
}

/* Where the file takes no more, the run goes on. */
static Status add_line(const Training *training, Text *line) {
  const char *text = text_whole(line);
  if (text && metrics_add(training->metrics, text))
    job_report(training->job, "%s; training goes on, and what is missing is tried again", status_message());
  text_free(line);
  return text ? OK : status_code();
}

/* `more`: fields behind the step's. */
static Status write_metrics(const Training *training, const OnnxpipeMetrics *m, const char *more) {
  char norm[32] = "null"; /* JSON has no infinity */
  Text line = {0};
  if (isfinite(m->gradient_norm))
    snprintf(norm, sizeof norm, "%.17g", m->gradient_norm);
  text_add(&line,
           "{\"step\": %lld, \"loss\": %.17g, \"lr\": %.17g, \"seconds\": %.6f, "
           "\"samples_per_second\": %.2f, \"gradient_norm\": %s%s}\n",
           (long long)m->step, m->loss, m->learning_rate, m->seconds, m->samples_per_second, norm, more);
  return add_line(training, &line);
}

static Status write_validation(const Worker *w, bool with_step, const char *fields) {
  const Training *training = w->training;
  if (with_step)
    return write_metrics(training, &w->last, fields);
  Text line = {0};
  text_add(&line, "{\"step\": %lld%s}\n", (long long)w->validated.step, fields);
  return add_line(training, &line);
}

Status report_validation(const Worker *w, bool with_step) {
  const Training *training = w->training;
  Text fields = {0}, line = {0};
  Status status = OK;
  validation_write(&w->validated, true, &fields);
  validation_write(&w->validated, false, &line);
  const char *json = text_whole(&fields), *text = text_whole(&line);
  if (!json || !text)
    status = status_code();
  else if (training->metrics)
    status = write_validation(w, with_step, json);
  if (status == OK && training->out) {
    uint64_t place = watch_leave(w->watch); /* as below */
    fprintf(training->out, "validation after step %lld: %s%s\n", (long long)w->validated.step, text,
            w->validated.is_best ? " (best)" : "");
    fflush(training->out);
    watch_return(w->watch, place);
  }
  text_free(&fields);
  text_free(&line);
  return status;
}

/* The first step has what comes once: it counts only while there is no other. An epoch's rest is no step as the plan
 * has it. */
static void take_times(Worker *w, const StepReport *report) {
  if (report->samples != w->training->job->decided.batch)
    return;
  for (int r = 0; r < w->training->job->decided.ranks; r++) {
    double busy = r ? report->from[r][REPORT_BUSY] : report->numbers[REPORT_BUSY];
    if (w->n_measured == 0)
      w->first_busy[r] = busy;
    w->busy[r] = busy;
  }
  w->measured_seconds = w->n_measured < 2 ? report->seconds : w->measured_seconds + report->seconds;
  w->n_measured++;
  compare_stages(w, report);
}

/* What lies on rank 0's device beside the arenas of the ranks that this process has there: context and code, libraries,
 * recordings, other programs' memory. Nobody misses it where the device does not say. */
static void add_taken(const Worker *w, Text *text) {
  const Job *job = w->training->job;
  const JobDecisions *decided = &job->decided;
  const RankDevice *own = &decided->devices[0];
  size_t taken = 0, arenas = 0;
  char all[24], beside[24];
  for (int r = 0; r < (job->asked.world->mpi ? 1 : decided->ranks); r++)
    if (decided->devices[r].backend == own->backend && decided->devices[r].device == own->device)
      arenas += decided->plan.rank_memory[r].total_bytes;
  if (!own->backend->taken || own->backend->taken(store_stream(w->store), &taken) != OK || taken < arenas)
    return;
  text_add(text, "; %s:%d: %s taken, %s of it beside arenas", own->backend->name, own->device,
           plan_bytes_text(taken, all), plan_bytes_text(taken - arenas, beside));
}

Status report_show(const Worker *w) {
  const Training *training = w->training;
  int64_t done = w->n_measured;
  if (w->rank || !training->out || !done)
    return OK;
  const JobDecisions *decided = &training->job->decided;
  int64_t steps = done > 1 ? done - 1 : 1;
  Text text = {0};
  text_add(&text, "measured: %.3g ms a step, predicted were %.3g", 1e3 * w->measured_seconds / (double)steps,
           1e3 * decided->plan.step_seconds);
  for (int r = 0; r < decided->ranks; r++) {
    double busy = w->busy[r] - (done > 1 ? w->first_busy[r] : 0);
    if (w->busy[r] >= 0)
      text_add(&text, "%s%d %.0f %%", r ? ", " : "; busy: rank ", r, 100 * fmin(1, busy / w->measured_seconds));
  }
  int recordings = executor_recordings(w->whole.executor);
  if (recordings)
    text_add(&text, "; rank 0 replays %d recording%s a step", recordings, recordings == 1 ? "" : "s");
  add_taken(w, &text);
  Text wrapped = {0};
  const char *whole = text_whole(&text);
  if (whole) {
    text_add_prose(&wrapped, whole, job_columns(), 0, 2);
    whole = text_whole(&wrapped);
  }
  uint64_t place = watch_leave(w->watch);
  if (whole)
    fputs(whole, training->out);
  watch_return(w->watch, place);
  text_free(&text);
  text_free(&wrapped);
  return whole ? OK : status_code();
}

Status report_collect(Worker *w, int64_t step) {
  const Training *training = w->training;
  StepReport *report = &w->reports[step & 1];
  Endpoint *endpoint = w->link ? w->link->endpoints[CHANNEL_CONTROL] : NULL;
  if (w->rank)
    return w->link->transport->wait(endpoint, report->tickets[0]);
  for (int r = 1; r < training->job->decided.ranks; r++) {
    TRY(w->link->transport->wait(endpoint, report->tickets[r]));
    if (!isnan(report->from[r][REPORT_LOSS]))
      report->numbers[REPORT_LOSS] = report->from[r][REPORT_LOSS];
    word_heard(w, (int)report->from[r][REPORT_ASKED]);
    merge(report->numbers + REPORT_SQUARES, report->from[r] + REPORT_SQUARES, w->n_updates);
    if (w->writer)
      writer_take(w->writer, r, report->from[r] + REPORT_PART);
  }
  OnnxpipeMetrics *metrics = &w->last;
  *metrics = (OnnxpipeMetrics){.step = step + 1,
                               .steps = training->steps,
                               .loss = report->numbers[REPORT_LOSS],
                               .learning_rate = report->learning_rate,
                               .seconds = report->seconds,
                               .samples_per_second = (double)report->samples / report->seconds,
                               .gradient_norm = sqrt(sum_squares(report->numbers + REPORT_SQUARES, w->n_updates))};
  take_times(w, report);
  if (training->metrics && !w->holds_line)
    TRY(write_metrics(training, metrics, ""));
  uint64_t place = watch_leave(w->watch); /* whoever reads what is printed may take their time */
  if (training->out && training->job->asked.options->verbose)
    fprintf(training->out, "step %lld loss %.17g\n", (long long)metrics->step, metrics->loss);
  if (training->progress)
    training->progress(training->progress_context, metrics);
  watch_return(w->watch, place);
  return OK;
}

Status report_metrics(Worker *w) {
  if (w->rank)
    return link_receive(w->link, 0, &w->last, sizeof w->last);
  for (int r = 1; r < w->training->job->decided.ranks; r++)
    TRY(link_send(w->link, r, &w->last, sizeof w->last));
  return OK;
}

Status report_norm(Worker *w, double *norm) {
  size_t bytes = (size_t)w->n_updates * sizeof(double);
  if (w->rank) {
    TRY(link_send(w->link, 0, w->squares, bytes));
    return link_receive(w->link, 0, norm, sizeof *norm);
  }
  double *all = w->reports[0].numbers + REPORT_SQUARES; /* both reports are free here: the step before was collected */
  int ranks = w->training->job->decided.ranks;
  if (bytes)
    memcpy(all, w->squares, bytes);
  for (int r = 1; r < ranks; r++) {
    double *from = w->reports[0].from[r] + REPORT_SQUARES;
    TRY(link_receive(w->link, r, from, bytes));
    merge(all, from, w->n_updates);
  }
  *norm = sqrt(sum_squares(all, w->n_updates));
  for (int r = 1; r < ranks; r++)
    TRY(link_send(w->link, r, norm, sizeof *norm));
  return OK;
}
