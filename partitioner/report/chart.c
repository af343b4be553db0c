/* Writes the page of a schedule: partitioner/report/chart.html with numbers in place of its marks. Invariant: no text
 * of a model or file reaches the page unescaped, and nothing on the page comes from elsewhere. */
#include "partitioner/report/chart.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/report/html.h"

/* chart.html, zero-terminated; the build makes it. */
extern const char chart_page[];

enum { TICKS = 100000000 }; /* of the whole time */

typedef struct {
  const Chart *chart;
  FILE *file;
  double ticks_per_second;
  double until_seconds; /* what begins later is left out */
} Page;

static void write_numbers(const Page *page) {
  for (int i = 0; i < page->chart->n_numbers; i++) {
    fputs("<div><b>", page->file);
    html_write(page->chart->numbers[i].value, page->file);
    fputs("</b><span>", page->file);
    html_write(page->chart->numbers[i].name, page->file);
    fputs("</span></div>", page->file);
  }
}

static void write_table(const Page *page) {
  const Chart *chart = page->chart;
  if (!chart->table)
    return;
  fputs("<h2>", page->file);
  html_write(chart->table_title, page->file);
  fputs("</h2>\n<div class=\"wide\"><table>\n", page->file);
  for (int row = 0; row <= chart->rows; row++) {
    fputs("<tr>", page->file);
    for (int column = 0; column < chart->columns; column++) {
      fputs(row ? "<td>" : "<th>", page->file);
      html_write(chart->table[row * chart->columns + column], page->file);
    }
    fputs("\n", page->file);
  }
  fputs("</table></div>\n", page->file);
}

static void write_doubles(const Page *page, const char *name, const double *values, int n) {
  fprintf(page->file, "\"%s\": ", name);
  if (!values) {
    fputs("null,\n", page->file);
    return;
  }
  for (int i = 0; i < n; i++)
    if (isfinite(values[i]))
      fprintf(page->file, "%s%.12g", i ? ", " : "[", values[i]);
    else
      fprintf(page->file, "%snull", i ? ", " : "[");
  fputs("],\n", page->file);
}

/* kind, stage, microbatch, ticks idle before it, ticks it takes, ticks until its result is on another rank or -1. */
static void write_list(const Page *page, int rank) {
  const Schedule *schedule = page->chart->schedule;
  const Simulation *s = page->chart->simulation;
  long long at = 0;
  bool first = true;
  for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
    Action action = schedule->lists[rank].actions[i];
    if (!action_is_compute(action) || s->begin[rank][i] > page->until_seconds)
      continue;
    long long begin = llround(s->begin[rank][i] * page->ticks_per_second);
    long long end = llround(s->end[rank][i] * page->ticks_per_second);
    int next = action.kind == ACTION_F ? action.stage + 1 : action.kind == ACTION_W ? -1 : action.stage - 1;
    bool sends = next >= 0 && next < schedule->stages && schedule->rank_of_stage[next] != rank &&
                 !(schedule->forward_only && action.kind != ACTION_F);
    long long travel = sends ? llround((s->arrival[rank][i] - s->end[rank][i]) * page->ticks_per_second) : -1;
    fprintf(page->file, "%s%d,%d,%d,%lld,%lld,%lld", first ? "" : ",", action.kind, action.stage, action.microbatch,
            begin - at, end - begin, travel);
    at = end;
    first = false;
  }
}

/* Ticks since the step before, and what changes, step by step. */
static void write_held(const Page *page) {
  const Chart *chart = page->chart;
  if (!chart->held)
    return;
  fputs("\"held\": [\n", page->file);
  for (int rank = 0; rank < chart->schedule->ranks; rank++) {
    long long at = 0;
    fputc('[', page->file);
    for (int i = 0; i < chart->n_held[rank] && chart->held[rank][i].seconds <= page->until_seconds; i++) {
      long long tick = llround(chart->held[rank][i].seconds * page->ticks_per_second);
      fprintf(page->file, "%s%lld,%.0f", i ? "," : "", tick - at, chart->held[rank][i].change);
      at = tick;
    }
    fputs(rank + 1 < chart->schedule->ranks ? "],\n" : "]\n", page->file);
  }
  fputs("],\n", page->file);
}

static void write_data(const Page *page) {
  const Chart *chart = page->chart;
  const Schedule *schedule = chart->schedule;
  double last = 0;
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++)
      if (chart->simulation->begin[rank][i] <= page->until_seconds)
        last = fmax(last, chart->simulation->end[rank][i]);
  fprintf(page->file, "{\"ranks\": %d, \"milliseconds_per_tick\": %.17g, \"last_tick\": %lld, \"bytes\": %s,\n",
          schedule->ranks, 1e3 / page->ticks_per_second, llround(last * page->ticks_per_second),
          chart->memory_bytes ? "true" : "false");
  fputs("\"rank_of_stage\": ", page->file);
  for (int stage = 0; stage < schedule->stages; stage++)
    fprintf(page->file, "%s%d", stage ? "," : "[", schedule->rank_of_stage[stage]);
  fprintf(page->file, "], \"frees\": %.12g,\n", chart->timing->backward_input_frees);
  write_doubles(page, "activation", chart->timing->activation, schedule->stages);
  write_doubles(page, "base", chart->memory_base, schedule->ranks);
  write_doubles(page, "room", chart->memory_room, schedule->ranks);
  write_doubles(page, "limit", chart->memory_limit, schedule->ranks);
  write_held(page);
  fputs("\"actions\": [\n", page->file);
  for (int rank = 0; rank < schedule->ranks; rank++) {
    fputc('[', page->file);
    write_list(page, rank);
    fputs(rank + 1 < schedule->ranks ? "],\n" : "]\n", page->file);
  }
  fputs("]}", page->file);
}

static void write_mark(const Page *page, const char *mark) {
  const Chart *chart = page->chart;
  if (strcmp(mark, "TITLE") == 0) {
    html_write(chart->title, page->file);
  } else if (strcmp(mark, "SUBTITLE") == 0) {
    html_write(chart->subtitle, page->file);
    if (isfinite(page->until_seconds))
      fprintf(page->file, " The charts show the first %.6g ms.", page->until_seconds * 1e3);
  } else if (strcmp(mark, "NUMBERS") == 0) {
    write_numbers(page);
  } else if (strcmp(mark, "MEMORY") == 0) {
    fputs(chart->memory_bytes ? "memory" : "activations, in microbatches", page->file);
  } else if (strcmp(mark, "PICTURES") == 0) {
    fputs(chart->pictures ? chart->pictures : "", page->file);
  } else if (strcmp(mark, "TABLE") == 0) {
    write_table(page);
  } else if (strcmp(mark, "DATA") == 0) {
    write_data(page);
  }
}

/* A mark is capitals between two @. */
static void write_page(const Page *page) {
  for (const char *at = chart_page; *at;) {
    char mark[16];
    size_t length = *at == '@' ? strspn(at + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") : 0;
    if (length > 0 && length < sizeof mark && at[1 + length] == '@') {
      memcpy(mark, at + 1, length);
      mark[length] = '\0';
      write_mark(page, mark);
      at += length + 2;
    } else {
      fputc(*at++, page->file);
    }
  }
}

static int compare(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return a < b ? -1 : a > b;
}

/* Until when there are CHART_ACTIONS; infinite: there are no more. */
static Status find_end(Arena *arena, const Chart *chart, double *last, double *until) {
  const Schedule *schedule = chart->schedule;
  size_t n = 0, count = 0;
  double *begins;
  *last = 0;
  for (int rank = 0; rank < schedule->ranks; rank++)
    n += (size_t)schedule->lists[rank].n_actions;
  TRY(ARENA_NEW(arena, begins, n));
  for (int rank = 0; rank < schedule->ranks; rank++)
    for (int i = 0; i < schedule->lists[rank].n_actions; i++) {
      *last = fmax(*last, chart->simulation->end[rank][i]);
      if (action_is_compute(schedule->lists[rank].actions[i]))
        begins[count++] = chart->simulation->begin[rank][i];
    }
  *until = INFINITY;
  if (count > CHART_ACTIONS) {
    qsort(begins, count, sizeof *begins, compare);
    *until = begins[CHART_ACTIONS];
  }
  return OK;
}

Status chart_html(const Chart *chart, FILE *file) {
  double last = 0, until = 0;
  Arena *arena = arena_create();
  Status status = arena ? find_end(arena, chart, &last, &until) : status_code();
  arena_destroy(arena);
  TRY(status);
  Page page = {chart, file, last > 0 ? TICKS / fmin(last, until) : 1, until};
  write_page(&page);
  return ferror(file) ? fail(E_IO, "the page cannot be written: %s", strerror(errno)) : OK;
}
