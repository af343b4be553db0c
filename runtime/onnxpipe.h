/* onnxpipe: trains a model that somebody exported to ONNX, cut into pipeline stages.
 *
 * Every function that can fail returns an OnnxpipeStatus; onnxpipe_error() then gives one line a person can act on.
 * Options carry the names of the command line's flags, without the dashes: "lr", "memory-limit". Objects are used by
 * one thread at a time. */
#ifndef ONNXPIPE_H
#define ONNXPIPE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { ONNXPIPE_OK = 0, ONNXPIPE_FAILED = 1, ONNXPIPE_USAGE = 2 } OnnxpipeStatus; /* also the exit status */

typedef struct OnnxpipeOptions OnnxpipeOptions;
typedef struct OnnxpipeModel OnnxpipeModel;

/* The calling thread's last error, one line; "" if none. Under mpirun it is also "" where another rank has the line:
 * whoever prints it when it is not empty prints it once. */
const char *onnxpipe_error(void);

/* "onnxpipe 0.1.0", then the libraries it runs with, one a line. */
const char *onnxpipe_version(void);

/* An empty set of options; NULL when memory is out. */
OnnxpipeOptions *onnxpipe_options_create(void);
void onnxpipe_options_destroy(OnnxpipeOptions *options);
/* Sets one option from its text; flags take "" or "true". May be repeated for lists (train, freeze, dim).
 * ONNXPIPE_USAGE for an unknown name or a value that does not parse, naming both. */
OnnxpipeStatus onnxpipe_options_set(OnnxpipeOptions *options, const char *name, const char *value);

/* One row of the table of options. */
typedef struct {
  const char *name;        /* "memory-limit" */
  const char *argument;    /* "BYTES"; NULL for a flag */
  const char *standard;    /* the default's text; NULL: none */
  const char *subcommands; /* " plan train ": those that take it */
  const char *help;        /* one line */
} OnnxpipeOption;
/* Describes option i of the table; ONNXPIPE_FAILED past the end. */
OnnxpipeStatus onnxpipe_options_describe(int i, OnnxpipeOption *option);

/* Called once, on one rank, from a thread of its own, when another rank of the run has died: `message` is one line. */
typedef void OnnxpipeReport(void *context, const char *message);

/* Starts what the process needs to train with others: MPI when it was started by mpirun. Once, before anything else;
 * *rank and *size tell its place (0 and 1 alone). From then on onnxpipe_open and onnxpipe_train are collective.
 * `onnxpipe_finish` ends it; when `failed`, the whole run: print the error before. */
OnnxpipeStatus onnxpipe_start(OnnxpipeReport *report, void *context, int *rank, int *size);
void onnxpipe_finish(int failed);

/* Opens a model without its weights. The options "train", "freeze", "no-tie" and "dim" say what trains and which sizes
 * open dimensions have; they are kept, so the options outlive the model. */
OnnxpipeStatus onnxpipe_open(const char *path, const OnnxpipeOptions *options, OnnxpipeModel **model);
void onnxpipe_close(OnnxpipeModel *model);

/* What the file holds and what becomes of it, into `out`: text, or one JSON object with the option "json". */
OnnxpipeStatus onnxpipe_inspect(OnnxpipeModel *model, FILE *out);

/* Plans without weights or devices, prints the plan to `out` and writes it where the option "output-plan" says. */
OnnxpipeStatus onnxpipe_plan(OnnxpipeModel *model, FILE *out);

typedef struct {
  int64_t step, steps; /* from 1 */
  double loss;         /* mean over the whole batch */
  double learning_rate, seconds, samples_per_second;
  double gradient_norm;
} OnnxpipeMetrics;

/* Called on rank 0 after each step, from the thread that called onnxpipe_train. */
typedef void OnnxpipeProgress(void *context, const OnnxpipeMetrics *metrics);

/* Trains as the options say: plans (and prints plan and choices to `out` on rank 0 unless "quiet"), loads each
 * rank's weights, runs, saves. Collective under mpirun. */
OnnxpipeStatus onnxpipe_train(OnnxpipeModel *model, FILE *out, OnnxpipeProgress *progress, void *context);

/* Inference: the samples of the option "data", in order, through the model; the outputs into the file of the option
 * "out", each under its name, joined along the batch axis. */
OnnxpipeStatus onnxpipe_run(OnnxpipeModel *model, FILE *out);

/* Measures what the model's training nodes take on this machine and prints the costliest. */
OnnxpipeStatus onnxpipe_profile(OnnxpipeModel *model, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
