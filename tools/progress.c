/* The progress line. Invariant: nothing here goes to standard output but the last line. */
#include "tools/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

Progress progress_start(int quiet) {
  const char *kind = getenv("TERM"); /* a dumb one draws no line anew */
  int terminal = isatty(STDERR_FILENO) && !(kind && strcmp(kind, "dumb") == 0);
  return (Progress){.quiet = quiet, .terminal = terminal, .begun = now()};
}

static int terminal_columns(void) {
  struct winsize window;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col >= 20 ? window.ws_col : 80;
}

/* "1:02:03", "2:03" */
static void format_seconds(double seconds, char text[32]) {
  long s = (long)(seconds + 0.5);
  if (s >= 3600)
    snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else
    snprintf(text, 32, "%ld:%02ld", s / 60, s % 60);
}

static void draw(const Progress *progress, double time) {
  const OnnxpipeMetrics *m = &progress->last;
  double passed = time - progress->begun, done = (double)m->step / (double)m->steps;
  char left[32], text[256], bar[64] = "";
  format_seconds(passed / (double)(m->step - progress->first.step + 1) * (double)(m->steps - m->step), left);
  snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  %.1f samples/s  %s left", (long long)m->step,
           (long long)m->steps, m->loss, m->samples_per_second, left);
  int room = progress->terminal ? terminal_columns() - (int)strlen(text) - 5 : 0;
  room = room > 40 ? 40 : room;
  for (int i = 0; i < room; i++)
    bar[i] = i < (int)(done * room) ? '#' : '.';
  if (!progress->terminal)
    fprintf(stderr, "%s\n", text);
  else if (room > 4)
    fprintf(stderr, "\r[%s] %s\033[K", bar, text);
  else
    fprintf(stderr, "\r%.*s\033[K", terminal_columns() - 1, text);
  if (progress->terminal && m->step == m->steps)
    fprintf(stderr, "\n");
  fflush(stderr);
}

void progress_step(void *context, const OnnxpipeMetrics *m) {
  Progress *progress = context;
  double time = now();
  if (!progress->first.step) {
    progress->first = *m;
    progress->begun = time - m->seconds;
  }
  progress->last = *m;
  if (progress->quiet)
    return;
  int landmark = m->step == m->steps || (!progress->terminal && (m->step & (m->step - 1)) == 0);
  if (landmark || time - progress->shown > (progress->terminal ? 0.1 : 10)) {
    draw(progress, time);
    progress->shown = time;
  }
}

void progress_end(Progress *progress, FILE *out, int good) {
  const OnnxpipeMetrics *first = &progress->first, *last = &progress->last;
  if (progress->quiet || !last->step)
    return;
  if (progress->terminal && last->step < last->steps)
    fprintf(stderr, "\n");
  if (good)
    fprintf(out, "%lld steps in %.1f s: loss %.6g at step %lld, %.6g at step %lld\n",
            (long long)(last->step - first->step + 1), now() - progress->begun, first->loss, (long long)first->step,
            last->loss, (long long)last->step);
}
