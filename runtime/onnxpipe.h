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

/* The calling thread's last error, one line; "" if none. */
const char *onnxpipe_error(void);

/* "0.1.0", then the versions of the libraries it was built with, one a line. */
const char *onnxpipe_version(void);

/* An empty set of options; NULL when memory is out. */
OnnxpipeOptions *onnxpipe_options_create(void);
void onnxpipe_options_destroy(OnnxpipeOptions *options);
/* Sets one option from its text; flags take "" or "true". May be repeated for lists (train, freeze, dim).
 * ONNXPIPE_USAGE for an unknown name or a value that does not parse, naming both. */
OnnxpipeStatus onnxpipe_options_set(OnnxpipeOptions *options, const char *name, const char *value);
/* Describes option i of the table: its name, its argument ("BYTES", NULL for a flag), one line of help and the
 * subcommands it belongs to ("train plan run"); ONNXPIPE_FAILED past the end. */
OnnxpipeStatus onnxpipe_options_describe(int i, const char **name, const char **argument, const char **help,
                                         const char **subcommands);

/* Starts what the process needs to work with others: MPI when it was started by mpirun. Once, before anything else;
 * *rank and *size tell its place (0 and 1 alone). `onnxpipe_finish` ends it; when `failed`, the whole run. */
OnnxpipeStatus onnxpipe_start(int *argc, char ***argv, int *rank, int *size);
void onnxpipe_finish(int failed);

/* Opens a model without its weights. */
OnnxpipeStatus onnxpipe_open(const char *path, const OnnxpipeOptions *options, OnnxpipeModel **model);
void onnxpipe_close(OnnxpipeModel *model);

/* What the file holds and what becomes of it: JSON or text into `out`. */
OnnxpipeStatus onnxpipe_inspect(OnnxpipeModel *model, const OnnxpipeOptions *options, int as_json, FILE *out);

/* Plans without weights or devices, prints the plan to `out` and writes it where option "output-plan" says. */
OnnxpipeStatus onnxpipe_plan(OnnxpipeModel *model, const OnnxpipeOptions *options, FILE *out);

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
OnnxpipeStatus onnxpipe_train(OnnxpipeModel *model, const OnnxpipeOptions *options, FILE *out,
                              OnnxpipeProgress *progress, void *context);

#ifdef __cplusplus
}
#endif
#endif
