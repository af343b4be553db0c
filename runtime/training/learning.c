/* What is said about learning before the first step. Invariant: nothing is chosen here; what an option cannot do in
 * this run is said. */
#include <string.h>

#include "runtime/training/trainer.h"

/* "the rate is constant", "the rate rises over 10 steps, then falls to 0 as a cosine" */
static void describe_rate(const Options *o, char *text, size_t room) {
  bool falls = strcmp(o->lr_schedule, "constant") != 0;
  const char *how = strcmp(o->lr_schedule, "linear") == 0 ? "in a line" : "as a cosine";
  const char *plural = o->warmup_steps == 1 ? "" : "s";
  if (o->warmup_steps && falls)
    snprintf(text, room, "the rate rises over %lld step%s, then falls %s to 0 at the end", (long long)o->warmup_steps,
             plural, how);
  else if (o->warmup_steps)
    snprintf(text, room, "the rate rises over %lld step%s, then is constant", (long long)o->warmup_steps, plural);
  else if (falls)
    snprintf(text, room, "the rate falls %s to 0 at the end", how);
  else
    snprintf(text, room, "the rate is constant");
}

Status learning_decide(Job *job, int64_t steps) {
  const Options *o = job->asked.options;
  char rate[128], clip[64] = "gradients are not clipped";
  if (o->quiet && o->verbose)
    return fail(E_USAGE, "--quiet and --verbose: give one of them");
  describe_rate(o, rate, sizeof rate);
  if (o->clip_norm > 0)
    snprintf(clip, sizeof clip, "gradients are scaled down to a norm of %g", o->clip_norm);
  bool draws = o->shuffle || o->init;
  TRY(job_decide(job, "learning", "%s; %s; %s (seed %lld)", rate, clip,
                 o->shuffle && o->init ? "weights and the order of samples are drawn"
                 : o->shuffle          ? "the order of samples is drawn"
                 : o->init             ? "weights are drawn"
                                       : "nothing is drawn",
                 (long long)o->seed));
  if (!draws && options_given(o, "seed"))
    TRY(job_decide(job, "note", "--seed does nothing without --shuffle or --init"));
  if (o->warmup_steps > steps)
    TRY(job_decide(job, "note", "--warmup-steps %lld is more than the run's %lld: --lr is never reached",
                   (long long)o->warmup_steps, (long long)steps));
  if (o->dry_run && (o->save || o->metrics || o->dump_gradients || o->trace))
    TRY(job_decide(job, "note", "--dry-run: %s is not written",
                   o->save             ? o->save
                   : o->metrics        ? o->metrics
                   : o->dump_gradients ? o->dump_gradients
                                       : o->trace));
  return OK;
}
