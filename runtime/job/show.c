/* What a job decided, for people. Invariant: nothing is decided here. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "partitioner/report/plan_report.h"
#include "runtime/job/job.h"

char *job_count(int64_t n, char text[32]) {
  char digits[32];
  int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
  for (int i = 0; i < length; i++) {
    if (i && digits[i - 1] != '-' && (length - i) % 3 == 0)
      text[at++] = ',';
    text[at++] = digits[i];
  }
  text[at] = '\0';
  return text;
}

void job_report(const Job *job, const char *format, ...) {
  const World *world = job->asked.world;
  char line[4096];
  va_list arguments;
  if (!world->report)
    return;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  world->report(world->report_context, line);
}

int job_columns(void) {
  struct winsize window;
  const char *columns = getenv("COLUMNS");
  int n = columns ? atoi(columns) : 0;
  if (n <= 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0)
    n = window.ws_col;
  return n >= 40 ? n : 100;
}

/* mpirun gives its ranks a terminal wherever their output really goes. */
bool job_colours(FILE *out) {
  const char *kind = getenv("TERM");
  bool dumb = kind && strcmp(kind, "dumb") == 0;
  return isatty(fileno(out)) && !dumb && !getenv("NO_COLOR") && !getenv("OMPI_COMM_WORLD_RANK");
}

Status job_decide(Job *job, const char *what, const char *format, ...) {
  JobDecisions *decided = &job->decided;
  va_list args;
  va_start(args, format);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  size_t bytes = length < 0 ? 1 : (size_t)length + 1;
  char *text = arena_alloc(job->arena, bytes, 1);
  if (!text)
    return status_code();
  va_start(args, format);
  vsnprintf(text, bytes, format, args);
  va_end(args);
  TRY(ARENA_RESERVE(job->arena, decided->lines, decided->n_lines, decided->lines_capacity, decided->n_lines + 1));
  decided->lines[decided->n_lines++] = (Decision){what, text};
  return OK;
}

enum { LABEL = 14 };

/* Lines are broken where somebody reads them: in a window. Programs find a decision in one. */
Status job_print(const Job *job, FILE *out) {
  int columns = isatty(fileno(out)) || getenv("COLUMNS") ? job_columns() : INT_MAX;
  Text text = {0};
  for (size_t i = 0; i < job->decided.n_lines; i++) {
    const Decision *line = &job->decided.lines[i];
    text_add(&text, "%-*s ", LABEL - 1, line->what);
    text_add_prose(&text, line->text, columns, LABEL, LABEL);
  }
  const char *whole = text_whole(&text);
  if (whole)
    fputs(whole, out);
  text_free(&text);
  return whole ? OK : status_code();
}

static Status write_report(const Job *job) {
  FileReplace file;
  TRY(file_replace_begin(job->asked.options->report, &file));
  Status status = plan_report_html(&job->decided.plan, file.stream);
  if (status == OK)
    return file_replace_commit(&file);
  status_context("%s: ", job->asked.options->report);
  file_replace_abandon(&file);
  return status;
}

Status job_show(const Job *job, FILE *out) {
  if (out) {
    TRY(job_print(job, out));
    TRY(plan_print(&job->decided.plan, out, job_columns(), job_colours(out)));
    fflush(out);
  }
  return job->asked.options->report ? write_report(job) : OK;
}
