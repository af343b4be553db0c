/* From options to changes of a file. */
#include "runtime/edit.h"

#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "runtime/job/job.h"

/* "classes=N". */
static Status read_head(const char *text, int64_t *classes) {
  static const char key[] = "classes=";
  char *end = NULL;
  *classes = 0;
  if (!text)
    return OK;
  if (strncmp(text, key, sizeof key - 1) == 0)
    *classes = strtoll(text + sizeof key - 1, &end, 10);
  return end && !*end && *classes > 0 && *classes <= INT32_MAX
             ? OK
             : fail(E_USAGE, "--replace-head takes classes=N, a number of classes, not '%s'", text);
}

Status edit_run(Model *model, const Options *o, FILE *out) {
  RewriteOptions rewrite = {.set_batch = o->set_batch,
                            .dropout = o->dropout.items,
                            .n_dropout = (int)o->dropout.n,
                            .unfold = o->unfold.items,
                            .n_unfold = (int)o->unfold.n,
                            .constants_train = o->constants_train,
                            .logits = o->logits,
                            .seed = (uint64_t)o->seed};
  BindOptions bind = {.evaluate = backend_evaluate};
  Text said = {0};
  Arena *arena = arena_create();
  Status status = !arena            ? status_code()
                  : o->output_model ? read_head(o->replace_head, &rewrite.classes)
                                    : fail(E_USAGE, "where to? give -o FILE.onnx");
  if (status == OK)
    status = job_dims(arena, o, model, NULL, &bind);
  if (status == OK)
    status = model_rewrite(model, &rewrite, &bind, o->output_model, &said);
  const char *whole = status == OK ? text_whole(&said) : "";
  if (!whole)
    status = status_code();
  else if (status == OK && !o->quiet && (fputs(whole, out) == EOF || fprintf(out, "%s\n", o->output_model) < 0))
    status = fail(E_IO, "standard output cannot be written");
  text_free(&said);
  arena_destroy(arena);
  return status;
}
