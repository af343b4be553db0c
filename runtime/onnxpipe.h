/* onnxpipe: trains a model that somebody exported to ONNX, cut into pipeline stages.
 *
 *   options   what the command line's flags say, under their names without the dashes: "lr", "memory-limit"
 *   model     an ONNX file, open; its weights are read when something needs them
 *   session   a model in training: planned once, then step after step
 *
 * Every function that can fail returns an OnnxpipeStatus; onnxpipe_error() then gives one line a person can act on.
 * The library prints nothing but where it is given a FILE, and never exits. An object is used by one thread at a time.
 * Under mpirun every rank makes the same calls in the same order; those marked collective wait for each other. */
#ifndef ONNXPIPE_H
#define ONNXPIPE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined __GNUC__
#define ONNXPIPE_API __attribute__((visibility("default")))
#else
#define ONNXPIPE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Also the exit status. */
typedef enum {
  ONNXPIPE_OK = 0,
  ONNXPIPE_FAILED = 1,
  ONNXPIPE_USAGE = 2,
  ONNXPIPE_UNSAVED = 3,       /* trained, but a file could not be written */
  ONNXPIPE_INTERRUPTED = 130, /* ended as onnxpipe_request asked, after saving */
  ONNXPIPE_TERMINATED = 143
} OnnxpipeStatus;

typedef struct OnnxpipeOptions OnnxpipeOptions;
typedef struct OnnxpipeModel OnnxpipeModel;
typedef struct OnnxpipeSession OnnxpipeSession;

/* Why the calling thread's last call of a function here failed, one line; "" if it did not. Closing what failed leaves
 * the line. Under mpirun it is also "" where another rank has the line:
 * whoever prints it when it is not empty prints it once. */
ONNXPIPE_API const char *onnxpipe_error(void);

/* "onnxpipe 0.1.0", then the libraries it runs with and its compiler, one a line. */
ONNXPIPE_API const char *onnxpipe_version(void);

/* An empty set of options; NULL when memory is out. */
ONNXPIPE_API OnnxpipeOptions *onnxpipe_options_create(void);
ONNXPIPE_API void onnxpipe_options_destroy(OnnxpipeOptions *options);
/* Sets one option from its text; flags take "" or "true". May be repeated for lists (train, freeze, dim).
 * ONNXPIPE_USAGE for an unknown name or a value that does not parse, naming both. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_options_set(OnnxpipeOptions *options, const char *name, const char *value);

/* One row of the table of options. */
typedef struct {
  const char *name;        /* "memory-limit" */
  const char *argument;    /* "BYTES"; NULL for a flag */
  const char *standard;    /* the default's text; NULL: none */
  const char *subcommands; /* " plan train ": those that take it */
  const char *values;      /* "constant linear cosine": the names it may have; NULL: no list */
  const char *help;        /* one line */
} OnnxpipeOption;
/* Describes option i of the table; ONNXPIPE_FAILED past the end. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_options_describe(int i, OnnxpipeOption *option);
/* Which of the names an unknown word was most likely meant to be; -1: none is near. */
ONNXPIPE_API int onnxpipe_nearest(const char *word, const char *const *names, int n);

/* Called with one line, on one rank: once, from a thread of its own, when another rank of the run has died, no rank
 * moves any more or SIGTERM ends this one; and by the training itself, of what went wrong and ends nothing. */
typedef void OnnxpipeReport(void *context, const char *message);

/* Starts what the process needs to train with others: MPI when it was started by mpirun, where SIGTERM is heeded from
 * then on as ONNXPIPE_TERMINATE; alone, nothing. Once, before anything else; *rank and *size tell its place (0 and 1
 * alone). `report` may be NULL. `onnxpipe_finish` ends it; when `failed`, the whole run: print the error before. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_start(OnnxpipeReport *report, void *context, int *rank, int *size);
ONNXPIPE_API void onnxpipe_finish(int failed);
/* Before onnxpipe_start, which may wait for ranks that do not come: what the option "timeout" says holds for it, too.
 */
ONNXPIPE_API void onnxpipe_start_timeout(const OnnxpipeOptions *options);

/* Has `end` called with one line, once, from a thread of its own, when all ranks of a training are threads of this
 * process and none has moved for as long as the option "timeout" says, while a function here was at work. A thread that
 * hangs cannot be taken back and may use its memory at any time: `end` ends the process, and nothing else. Before a
 * session is opened; without it nobody watches. Under mpirun (then before onnxpipe_start) the ranks fail by themselves,
 * and the line is its report; `end` is called with "" on those that do not, and with the line where MPI does not start.
 */
ONNXPIPE_API void onnxpipe_on_hang(OnnxpipeReport *end, void *context);

/* Opens a model without its weights. Collective. The options "train", "freeze", "no-tie" and "dim" say what trains and
 * which sizes open dimensions have; all others are read by the calls below. The model keeps the options: they outlive
 * it, and are not changed while a session is open. NULL may be closed. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_open(const char *path, const OnnxpipeOptions *options, OnnxpipeModel **model);
ONNXPIPE_API void onnxpipe_close(OnnxpipeModel *model);

/* What the file holds and what becomes of it, into `out`: text, or one JSON object with the option "json". */
ONNXPIPE_API OnnxpipeStatus onnxpipe_inspect(OnnxpipeModel *model, FILE *out);

/* Writes the model with the changes of the options "set-batch", "replace-head", "dropout", "unfold", "constants-train"
 * and "logits" to the file of the option "output-model", if what comes of them opens and binds; prints a line for each.
 */
ONNXPIPE_API OnnxpipeStatus onnxpipe_edit(OnnxpipeModel *model, FILE *out);

/* Plans without weights or devices, prints the plan to `out` and writes it where the option "output-plan" says; with
 * the option "what-if", a table of plans, of which the first is written. With "json" both are JSON. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_plan(OnnxpipeModel *model, FILE *out);

/* Of one step. */
typedef struct {
  int64_t step, steps; /* from 1; how many the options ask for */
  double loss;         /* mean over the whole batch */
  double learning_rate, seconds, samples_per_second;
  double gradient_norm; /* of all parameters together, before clipping */
} OnnxpipeMetrics;

/* Makes a model ready to train on the samples of the option "data": plans, prints plan and choices to `out` (NULL:
 * nothing) on rank 0, loads each rank's weights. Collective. On failure *session is NULL. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_open(OnnxpipeModel *model, FILE *out, OnnxpipeSession **session);
/* Trains on the next batch. Collective. Fails before the update when the loss is not finite. More steps than the
 * options ask for may be taken: the data goes on, the learning rate stays. After a failure only closing is left.
 */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_step(OnnxpipeSession *session);
/* What the last step was like, the same on every rank; before the first one all is 0 but `steps`. Collective. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_metrics(OnnxpipeSession *session, OnnxpipeMetrics *metrics);
enum { ONNXPIPE_MOST_METRICS = 16 };

/* Of one validation: means over all samples of the option "validate". */
typedef struct {
  int64_t step; /* after which it was, from 1 */
  double loss;
  int is_best;           /* no validation before had a smaller or equal loss */
  int64_t best_step;     /* of the smallest loss so far, */
  double best_loss;      /* and this */
  int64_t stalled;       /* validations since one was better, by the option "min-delta", than all before */
  double reference_loss; /* that one's */
  int n_metrics;
  const char *names[ONNXPIPE_MOST_METRICS]; /* while the session is open */
  double values[ONNXPIPE_MOST_METRICS];
} OnnxpipeValidation;

/* The samples of the option "validate" through the model as it evaluates, with its weights as they are now: the next
 * step is what it would have been without. The same result on every rank. ONNXPIPE_USAGE without the option.
 * Collective.
 */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_validate(OnnxpipeSession *session, OnnxpipeValidation *validation);
/* Writes the model with its weights as they are now; an existing file is whole at any moment. A file that cannot be
 * written leaves the session as it was. Collective. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_save(OnnxpipeSession *session, const char *path);
/* Writes a checkpoint of what the last step left into the folder of the option "checkpoint"; it is there when this
 * returns. One that cannot be written leaves the session good. Collective. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_checkpoint(OnnxpipeSession *session);
/* Ends the session and its files, and says what could not be written. Collective. It never fails for what a call before
 * failed for; the error's line stays. NULL may be closed. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_session_close(OnnxpipeSession *session);

/* Called on rank 0 after each step, from the thread that called onnxpipe_train. */
typedef void OnnxpipeProgress(void *context, const OnnxpipeMetrics *metrics);

/* What may be asked of onnxpipe_train while it is at its steps: to save now and go on, or to end after the step at hand
 * as after the last one. */
typedef enum { ONNXPIPE_CHECKPOINT = 1, ONNXPIPE_INTERRUPT = 2, ONNXPIPE_TERMINATE = 4 } OnnxpipeRequest;
/* Whether a training of this process will heed it. Under mpirun one rank's is every rank's; all end after the same
 * step, at most two later. May be called from any thread and from a signal's handler. */
ONNXPIPE_API int onnxpipe_request(OnnxpipeRequest request);
/* For a signal's handler that ends the process: removes the files that are being written aside. */
ONNXPIPE_API void onnxpipe_remove_unfinished(void);

/* A whole session: all steps, then the file of the option "save". With the option "dry-run" it stops before the first
 * step. `progress` may be NULL. Collective. ONNXPIPE_UNSAVED where all was trained and a file could not be written
 * (with the line), ONNXPIPE_INTERRUPTED or ONNXPIPE_TERMINATED (without) where a request ended it. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_train(OnnxpipeModel *model, FILE *out, OnnxpipeProgress *progress, void *context);

/* Inference: the samples of the option "data", in order, through the model; the outputs into the file of the option
 * "out", each under its name, joined along the batch axis. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_run(OnnxpipeModel *model, FILE *out);

/* What a checkpoint holds, or the newest whole one of a folder of them, into the file of the option "output-model":
 * with .onnx at its end the model (NULL: the one that the checkpoint names) with the checkpoint's weights, with
 * .safetensors or .npz what was trained alone. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_export(const char *checkpoint, const char *model, const OnnxpipeOptions *options,
                                            FILE *out);

/* Measures what the model's training nodes take on this machine and prints the costliest. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_profile(OnnxpipeModel *model, FILE *out);

/* Times a schedule from the options "ranks", "microbatches", "forward-ms", "backward-input-ms", "backward-weight-ms" …
 * and prints it to `out`: text, or one JSON object with the option "json"; a page where the option "report" says. Where
 * the schedule of a file is refused, `refusal` (NULL: nothing) gets the grid around the fault. */
ONNXPIPE_API OnnxpipeStatus onnxpipe_simulate(const OnnxpipeOptions *options, FILE *out, FILE *refusal);

#ifdef __cplusplus
}
#endif
#endif
