/* The table of cuts and their reasons. Invariant: the reason follows from the numbers beside it. */
#include <math.h>

#include "partitioner/report/html.h"
#include "partitioner/report/plan_graph.h"

static double heavier(const CutOption *o) {
  return fmax(o->below_seconds, o->above_seconds);
}

static void add_seconds(Text *text, double seconds) {
  if (seconds >= 1)
    text_add(text, seconds >= 100 ? "%.0f s" : "%.4g s", seconds);
  else
    text_add(text, "%.4g ms", 1e3 * seconds);
}

static void add_bytes(Text *text, size_t bytes) {
  char cell[24];
  text_add_string(text, plan_bytes_text(bytes, cell));
}

/* What moving the cut would do; `slowest`: of the plan's stages. */
static void add_option(Text *text, const CutOption *here, const CutOption *o, double slowest) {
  text_add_string(text, "<td>");
  if (!o->node) {
    text_add_string(text, "no place</td>");
    return;
  }
  double load = heavier(o), now = heavier(here);
  size_t sent = here->forward_bytes + here->backward_bytes, would_send = o->forward_bytes + o->backward_bytes;
  text_add(text, "%d node%s: ", o->nodes, o->nodes == 1 ? "" : "s");
  if (load > slowest * (1 + 1e-9))
    text_add(text, "slowest stage +%.2g %%", 100 * (load / slowest - 1));
  else if (load > now * (1 + 1e-9))
    text_add(text, "+%.2g %% here, the slowest is elsewhere", 100 * (load / now - 1));
  else
    text_add(text, "−%.2g %% here, the slowest is elsewhere", 100 * fmax(0, 1 - load / now));
  if (would_send != sent) {
    text_add_string(text, would_send > sent ? ", +" : ", −");
    add_bytes(text, would_send > sent ? would_send - sent : sent - would_send);
  }
  text_add_string(text, "</td>");
}

static void add_cut(const Plan *plan, int c, double slowest, Text *text) {
  const CutReport *r = &plan->cut_reports[c];
  text_add(text, "<tr><td>%d | %d</td><td>", c, c + 1);
  html_add(text, plan->reports[c].last_node);
  text_add_string(text, " | ");
  html_add(text, r->here.node);
  text_add_string(text, "</td><td>");
  add_bytes(text, r->here.forward_bytes);
  text_add_string(text, "</td><td>");
  add_bytes(text, r->here.backward_bytes);
  text_add_string(text, "</td><td>");
  add_seconds(text, r->here.below_seconds);
  text_add_string(text, "</td><td>");
  add_seconds(text, r->here.above_seconds);
  text_add_string(text, "</td>");
  add_option(text, &r->here, &r->earlier, slowest);
  add_option(text, &r->here, &r->later, slowest);
  text_add_string(text, "</tr>\n");
}

Status plan_cuts_add(const Plan *plan, Text *text) {
  double slowest = 0;
  if (plan->stages < 2 || !plan->cut_reports)
    return OK;
  for (int c = 0; c < plan->stages - 1; c++)
    slowest = fmax(slowest, heavier(&plan->cut_reports[c].here));
  text_add_string(text,
                  "<h2>Why the cuts are there</h2>\n<p class=\"hint\">The cuts make the slowest stage as fast as the "
                  "order, the places where a cut may be and the memory allow, then what is sent little. Of a "
                  "microbatch: a stage's forward and backward passes, with what it sends and receives. Slowest: ");
  add_seconds(text, slowest);
  text_add_string(
      text,
      ".</p>\n<div class=\"wide\"><table class=\"reasons\">\n<tr><th>stages<th>between<th>up<th>down<th>before it<th>"
      "behind it<th>one place earlier<th>one place later</tr>\n");
  for (int c = 0; c < plan->stages - 1; c++)
    add_cut(plan, c, slowest, text);
  text_add_string(text, "</table></div>\n");
  return OK;
}
