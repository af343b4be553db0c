/* Every option of the command line and of the library, in one table: it serves parsing, defaults, --help, completion
 * and the man page. A field below has its flag's name. */
#ifndef RUNTIME_OPTIONS_H
#define RUNTIME_OPTIONS_H

#include "base/arena.h"

#include <stdbool.h>
#include <stdint.h>

enum { OPTIONS_MOST_RANKS = 4096 }; /* threads of one process */

typedef struct {
  const char **items;
  size_t n, capacity;
} TextList;

typedef struct {
  double *items; /* one number, or one a rank */
  size_t n, capacity;
} NumberList;

typedef struct OnnxpipeOptions {
  Arena *arena;
  bool *given;     /* [entries of the table] */
  TextList *lists; /* [entries of the table]: see options_list */

  int64_t ranks, chunks, batch, microbatches, steps, epochs, threads, every; /* 0: chosen */
  const char *data, *schedule, *plan, *output_plan, *output_model, *set_batch, *replace_head, *loss, *output,
      *optimizer, *device, *precision, *lr_schedule, *init;
  const char *checkpoint, *resume, *last_batch;
  int64_t keep;
  const char *metrics, *save, *dump_gradients, *report, *out, *trace, *trace_steps;
  int64_t ignore_index, class_axis, seed, warmup_steps;
  double lr, momentum, beta1, beta2, eps, weight_decay, clip_norm;
  const char *validate;
  int64_t patience, timeout;
  double min_delta;
  bool shuffle, nesterov, no_tie, no_fuse, eval_mode, train_mode, quiet, verbose, dry_run, json, constants_train,
      logits, trace_kernels, what_if, no_measure, calibrate, replan;
  int64_t memory_limit; /* bytes */
  const char *tokens, *token_type;
  int64_t sequence; /* 0: as the model says */
  double validation_split;
  TextList token_input;
  TextList train, freeze, freeze_row, dim, batch_axis, dropout, unfold, metric;

  NumberList forward_ms, backward_input_ms, backward_weight_ms, memory_limit_microbatches;
  double p2p_ms, backward_input_frees;
  const char *schedule_file, *objective, *cluster, *recompute, *offload;

  const char *init_from;
  TextList init_names;
  TextList cut, pin, same_stage;
} Options;

typedef enum {
  OPTION_FLAG,
  OPTION_INTEGER,
  OPTION_NUMBER,
  OPTION_BYTES,
  OPTION_TEXT,
  OPTION_NAME, /* one of `values` */
  OPTION_TEXTS,
  OPTION_NUMBERS
} OptionKind;

typedef struct {
  const char *name;     /* "memory-limit" */
  const char *argument; /* "BYTES"; NULL for a flag */
  const char *standard; /* the default's text, which is parsed like any other; NULL: none */
  const char *commands; /* " plan train ": the subcommands that take it */
  const char *help;     /* one line */
  OptionKind kind;
  size_t offset;
  int64_t least, most; /* of a number; `least` greater than `most`: any */
  const char *values;  /* names that it may have, for completion, too; NULL: others */
} OptionEntry;

/* Entry i, NULL past the end. */
const OptionEntry *options_entry(int i);
/* The entry with this name, or NULL. */
const OptionEntry *options_find(const char *name);

/* All defaults. NULL when memory is out. */
Options *options_create(void);
void options_destroy(Options *options);
/* Fails E_USAGE for an unknown name or a value that does not parse, naming both. */
Status options_set(Options *options, const char *name, const char *value);
/* Whether it was set, by its name. */
bool options_given(const Options *options, const char *name);
/* The values of an option of `plan --what-if` where it was set to several, each as it parses: the field has the first.
 * n is 0 where there is one. */
const TextList *options_list(const Options *options, const char *name);
/* E_USAGE where an option was set to several: for all but `plan --what-if`. */
Status options_refuse_lists(const Options *options);

#endif
