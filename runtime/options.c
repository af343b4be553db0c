/* The table of options. Invariant: a field's value is what parsing the default or the last given text gives. */
#include "runtime/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"

#define GRAPH " plan train profile " /* what makes the training graph */
#define MODEL " inspect plan train run profile "
#define AT(field) offsetof(Options, field)
/* Which values a row may have. */
#define ANY 1, 0, NULL
#define RANGE(least, most) least, most, NULL
#define NAMES(list) 1, 0, list

#ifdef ONNXPIPE_CUDA
#define DEVICES "auto cpu reference cuda"
#define DEVICE_HELP "auto, cpu, reference, cuda or cuda:N; a list with commas: one a rank"
#else
#define DEVICES "auto cpu reference"
#define DEVICE_HELP "auto, cpu or reference; a list with commas: one a rank"
#endif

static const OptionEntry table[] = {
    /* what and where */
    {"data", "FILE", NULL, " plan train run profile ",
     "one array per model input, by name, and `target`: .npz, .safetensors, a folder, 'shards-*.npz'", OPTION_TEXT,
     AT(data), ANY},
    {"tokens", "FILE", NULL, " plan train run profile ",
     "instead of --data: a flat file of tokens, inputs and shifted targets in one; or 'shards-*.bin'", OPTION_TEXT,
     AT(tokens), ANY},
    {"sequence", "T", "auto", " plan train run profile ", "tokens a sample, where the model takes any number of them",
     OPTION_INTEGER, AT(sequence), RANGE(1, INT32_MAX)},
    {"token-type", "NAME", "uint16", " plan train run profile ", "of a file of tokens: uint16 or uint32", OPTION_NAME,
     AT(token_type), NAMES("uint16 uint32")},
    {"token-input", "INPUT=ROLE", NULL, " plan train run profile ",
     "what an input gets of them: tokens, next (the targets), positions, ones or zeros; may be repeated", OPTION_TEXTS,
     AT(token_input), ANY},
    {"validation-split", "F", "0", " plan train ",
     "the last fraction of the samples is for validation, not for training", OPTION_NUMBER, AT(validation_split), ANY},
    {"ranks", "N", "auto", " plan train profile simulate ", "workers: threads of this process, or the MPI world's size",
     OPTION_INTEGER, AT(ranks), RANGE(1, OPTIONS_MOST_RANKS)},
    {"chunks", "V", "auto", " plan train simulate ", "stages a rank", OPTION_INTEGER, AT(chunks), RANGE(1, 64)},
    {"device", "NAME", "auto", " plan train run profile ", DEVICE_HELP, OPTION_TEXT, AT(device), NAMES(DEVICES)},
    {"threads", "T", "auto", " plan train run profile ", "threads a rank", OPTION_INTEGER, AT(threads), RANGE(1, 1024)},
    {"cluster", "FILE.json", NULL, " plan ", "devices and links that are not here (docs/cluster.md)", OPTION_TEXT,
     AT(cluster), ANY},
    {"calibrate", NULL, NULL, " plan ", "plan by this machine's speed, which is measured in two seconds once, and kept",
     OPTION_FLAG, AT(calibrate), ANY},
    {"no-measure", NULL, NULL, " train ", "plan by the device's stated speed, and not by what its nodes take here",
     OPTION_FLAG, AT(no_measure), ANY},
    {"replan", NULL, NULL, " train ",
     "where stages take other times than planned, go on with the better cut from the next checkpoint or step on",
     OPTION_FLAG, AT(replan), ANY},
    {"precision", "NAME", "float32", " plan train run profile ",
     "float32, tf32 or bf16: operands of matrix products on GPUs; on CPUs bf16 stores activations, too; weights and "
     "sums stay float32",
     OPTION_NAME, AT(precision), NAMES("float32 tf32 bf16")},
    {"memory-limit", "BYTES", NULL, " plan train run ", "of a rank's arena: 64M, 2G", OPTION_BYTES, AT(memory_limit),
     RANGE(1, INT64_MAX)},
    {"offload", "NAME", "none", " plan train ",
     "optimizer: GPUs have its state in pinned memory of the host, and bring it for the update, piece by piece",
     OPTION_NAME, AT(offload), NAMES("none optimizer")},
    {"cut", "TENSOR[,…]", NULL, " plan train ", "a stage ends with the node that makes this tensor; may be repeated",
     OPTION_TEXTS, AT(cut), ANY},
    {"pin", "GLOB=RANK", NULL, " plan train ", "nodes of these names lie on this rank; may be repeated", OPTION_TEXTS,
     AT(pin), ANY},
    {"same-stage", "GLOB", NULL, " plan train ",
     "nodes of these names, and those between them, lie in one stage; may be repeated", OPTION_TEXTS, AT(same_stage),
     ANY},
    {"dim", "NAME=N", NULL, MODEL, "size of a symbolic dimension that the data does not give; may be repeated",
     OPTION_TEXTS, AT(dim), ANY},
    {"batch-axis", "INPUT=A", NULL, MODEL,
     "the axis of an input that counts samples (0), or `none`; also of the target; may be repeated", OPTION_TEXTS,
     AT(batch_axis), ANY},
    /* work */
    {"batch", "B", "auto", " inspect plan train run profile ", "samples a step", OPTION_INTEGER, AT(batch),
     RANGE(1, INT32_MAX)},
    {"microbatches", "M", "auto", " plan train profile simulate ",
     "parts of a batch that follow each other through the pipeline", OPTION_INTEGER, AT(microbatches), RANGE(1, 65536)},
    {"steps", "K", NULL, " train ", "steps; the data wraps", OPTION_INTEGER, AT(steps), RANGE(1, INT64_MAX)},
    {"epochs", "E", NULL, " train ", "passes over the data", OPTION_INTEGER, AT(epochs), RANGE(1, INT32_MAX)},
    {"last-batch", "NAME", "drop", " plan train ",
     "what of an epoch makes no whole batch: drop leaves it out, exact trains on it as a smaller batch", OPTION_NAME,
     AT(last_batch), NAMES("drop exact")},
    {"shuffle", NULL, NULL, " train ", "draw each epoch's order anew (by --seed)", OPTION_FLAG, AT(shuffle), ANY},
    {"seed", "S", "0", " train run edit ", "of everything that is drawn", OPTION_INTEGER, AT(seed),
     RANGE(0, INT64_MAX)},
    {"schedule", "NAME", "auto", " plan train simulate ",
     "auto, or a name that `onnxpipe simulate` knows: naive, gpipe, 1f1b …", OPTION_NAME, AT(schedule),
     NAMES("auto naive gpipe 1f1b interleaved-1f1b zb-h1 zb-h2 zb-v v-half v-min")},
    {"schedule-file", "FILE", NULL, " plan train simulate ", "a schedule in text form, instead of a name", OPTION_TEXT,
     AT(schedule_file), ANY},
    {"objective", "NAME", "span", " plan simulate ",
     "what auto makes small: span, or makespan (the default with --clip-norm or several GPUs: all ranks wait for all)",
     OPTION_NAME, AT(objective), NAMES("span makespan")},
    {"recompute", "NAME", "auto", " plan train ",
     "of what the backward pass needs: none is computed anew, as much as memory asks for (auto), or whatever makes it "
     "small (full)",
     OPTION_NAME, AT(recompute), NAMES("none auto full")},
    {"plan", "FILE", NULL, " plan train ",
     "a plan of `onnxpipe plan -o`: takes what is not given, refuses what contradicts it", OPTION_TEXT, AT(plan), ANY},
    /* learning */
    {"loss", "NAME", "auto", GRAPH,
     "cross_entropy, mse, bce_with_logits, model (the graph's own scalar output); auto: cross_entropy for integer "
     "targets, else mse",
     OPTION_NAME, AT(loss), NAMES("auto cross_entropy mse bce_with_logits model")},
    {"output", "NAME", NULL, GRAPH, "the model output that the loss takes (the first)", OPTION_TEXT, AT(output), ANY},
    {"ignore-index", "I", "-100", GRAPH, "targets of cross_entropy that do not count", OPTION_INTEGER, AT(ignore_index),
     ANY},
    {"class-axis", "A", NULL, GRAPH, "the axis of the output that the target lacks, where two would fit",
     OPTION_INTEGER, AT(class_axis), RANGE(-8, 7)},
    {"optimizer", "NAME", "adamw", GRAPH, "sgd, adam, adamw or sparse_adam, as PyTorch defines them", OPTION_NAME,
     AT(optimizer), NAMES("sgd adam adamw sparse_adam")},
    {"lr", "RATE", "0.001", " train ", "learning rate", OPTION_NUMBER, AT(lr), ANY},
    {"lr-schedule", "NAME", "constant", " train ", "constant, linear or cosine (down to 0 after the last step)",
     OPTION_NAME, AT(lr_schedule), NAMES("constant linear cosine")},
    {"warmup-steps", "K", "0", " train ", "steps over which the learning rate rises to --lr", OPTION_INTEGER,
     AT(warmup_steps), RANGE(0, INT64_MAX)},
    {"momentum", "X", "0", GRAPH, "of sgd", OPTION_NUMBER, AT(momentum), ANY},
    {"nesterov", NULL, NULL, GRAPH, "of sgd", OPTION_FLAG, AT(nesterov), ANY},
    {"beta1", "X", "0.9", GRAPH, "of adam, adamw and sparse_adam", OPTION_NUMBER, AT(beta1), ANY},
    {"beta2", "X", "0.999", GRAPH, "of adam, adamw and sparse_adam", OPTION_NUMBER, AT(beta2), ANY},
    {"eps", "X", "1e-8", GRAPH, "of adam, adamw and sparse_adam", OPTION_NUMBER, AT(eps), ANY},
    {"weight-decay", "X", NULL, GRAPH, "0; 0.01 for adamw, none for sparse_adam", OPTION_NUMBER, AT(weight_decay), ANY},
    {"clip-norm", "X", NULL, " plan train ", "scale gradients down to this global norm", OPTION_NUMBER, AT(clip_norm),
     ANY},
    {"init", "normal:S", NULL, " train ", "draw trained matrices anew with this deviation; vectors stay as in the file",
     OPTION_TEXT, AT(init), ANY},
    {"init-from", "FILE", NULL, " train ",
     "begin with the weights of another file, by name: .safetensors, .onnx, or a checkpoint", OPTION_TEXT,
     AT(init_from), ANY},
    {"init-names", "HERE=THERE", NULL, " train ",
     "what tensors are called in the file of --init-from: encoder.*=backbone.*; may be repeated", OPTION_TEXTS,
     AT(init_names), ANY},
    {"train", "GLOB", NULL, MODEL, "train these initializers, whatever the rules say; may be repeated", OPTION_TEXTS,
     AT(train), ANY},
    {"freeze", "GLOB", NULL, MODEL, "do not train these initializers; may be repeated", OPTION_TEXTS, AT(freeze), ANY},
    {"freeze-row", "TENSOR=ROW", NULL, MODEL, "this row of a trained table stays as it is; may be repeated",
     OPTION_TEXTS, AT(freeze_row), ANY},
    {"no-tie", NULL, NULL, MODEL, "equal weights stay apart", OPTION_FLAG, AT(no_tie), ANY},
    {"eval-mode", NULL, NULL, GRAPH,
     "train as the model evaluates: batch normalisation by the file's statistics, which stay, and no Dropout",
     OPTION_FLAG, AT(eval_mode), ANY},
    {"train-mode", NULL, NULL, " run ",
     "run as the model trains: batch normalisation by the statistics of the samples, and Dropout", OPTION_FLAG,
     AT(train_mode), ANY},
    {"no-fuse", NULL, NULL, " plan train run profile ", "compute each node as the file has it, none made of several",
     OPTION_FLAG, AT(no_fuse), ANY},
    /* validation */
    {"validate", "FILE.npz", NULL, " plan train ",
     "samples, as --data has them, for the loss and metrics of the model as it evaluates", OPTION_TEXT, AT(validate),
     ANY},
    {"metric", "NAME", NULL, " train ",
     "of --validate, instead of what fits the loss: accuracy, topK, f1, dice, auc, relative-l2, perplexity; may be "
     "repeated",
     OPTION_TEXTS, AT(metric), ANY},
    {"patience", "N", NULL, " train ", "stop after so many validations in a row without a better loss", OPTION_INTEGER,
     AT(patience), RANGE(1, INT32_MAX)},
    {"min-delta", "X", "0", " train ", "what a loss must be below the best one to count as better for --patience",
     OPTION_NUMBER, AT(min_delta), ANY},
    {"timeout", "SECONDS", "300", " train ",
     "end when no rank has moved for so long, and say which one waits for what from whom; 0: never", OPTION_INTEGER,
     AT(timeout), RANGE(0, INT32_MAX)},
    /* files and output */
    {"output-plan", "FILE.json", NULL, " plan ", "write the plan there (-o)", OPTION_TEXT, AT(output_plan), ANY},
    {"what-if", NULL, NULL, " plan ",
     "a table of plans, the fastest first: --ranks, --chunks, --microbatches, --schedule, --precision and --device may "
     "be lists with commas",
     OPTION_FLAG, AT(what_if), ANY},
    {"save", "FILE.onnx", NULL, " train ", "the model with its trained weights", OPTION_TEXT, AT(save), ANY},
    {"checkpoint", "DIR", NULL, " train ",
     "checkpoints, each in a folder of its own: after every --every steps and the last", OPTION_TEXT, AT(checkpoint),
     ANY},
    {"every", "N", NULL, " train ",
     "steps from one checkpoint or validation to the next (an epoch with --epochs, else 1000)", OPTION_INTEGER,
     AT(every), RANGE(1, INT64_MAX)},
    {"keep", "K", "2", " train ", "checkpoints that stay, the newest", OPTION_INTEGER, AT(keep), RANGE(1, INT32_MAX)},
    {"resume", "DIR", NULL, " train ", "go on from the newest whole checkpoint there, on any ranks", OPTION_TEXT,
     AT(resume), ANY},
    {"metrics", "FILE.jsonl", NULL, " train ", "one object a step", OPTION_TEXT, AT(metrics), ANY},
    {"dump-gradients", "FILE.npz", NULL, " train ", "gradients of the first step, by initializer", OPTION_TEXT,
     AT(dump_gradients), ANY},
    {"trace", "FILE.json", NULL, " train ", "what every rank did when, for chrome://tracing and Perfetto", OPTION_TEXT,
     AT(trace), ANY},
    {"trace-steps", "FIRST:LAST", NULL, " train ", "which steps the trace has; otherwise the last ones that fit",
     OPTION_TEXT, AT(trace_steps), ANY},
    {"trace-kernels", NULL, NULL, " train ", "every kernel in the trace, too", OPTION_FLAG, AT(trace_kernels), ANY},
    {"out", "FILE.npz", NULL, " run ", "every output of the model, by name", OPTION_TEXT, AT(out), ANY},
    {"report", "FILE.html", NULL, " plan train simulate ", "the schedule as a page to look at", OPTION_TEXT, AT(report),
     ANY},
    {"json", NULL, NULL, " inspect plan simulate ", "for programs", OPTION_FLAG, AT(json), ANY},
    {"dry-run", NULL, NULL, " train ", "stop before the first step", OPTION_FLAG, AT(dry_run), ANY},
    /* edit */
    {"output-model", "FILE.onnx", NULL, " edit export ",
     "write the model there (-o); export: or a .safetensors, a .npz", OPTION_TEXT, AT(output_model), ANY},
    {"set-batch", "N", NULL, " edit ", "samples of a batch: a number, or `dynamic` where the file has one", OPTION_TEXT,
     AT(set_batch), ANY},
    {"replace-head", "classes=N", NULL, " edit ", "new weights for the last layer, for N classes, drawn by --seed",
     OPTION_TEXT, AT(replace_head), ANY},
    {"dropout", "GLOB=RATIO", NULL, " edit ", "Dropout behind the nodes of these names; may be repeated", OPTION_TEXTS,
     AT(dropout), ANY},
    {"unfold", "TENSOR=C", NULL, " edit ", "the tensor is a parameter plus C: 1 for 1 + weight; may be repeated",
     OPTION_TEXTS, AT(unfold), ANY},
    {"constants-train", NULL, NULL, " edit ", "weights in Constant nodes become initializers", OPTION_FLAG,
     AT(constants_train), ANY},
    {"logits", NULL, NULL, " edit ", "outputs of a Softmax or Sigmoid become what these read", OPTION_FLAG, AT(logits),
     ANY},
    {"quiet", NULL, NULL, " plan train run profile edit export ", "errors only", OPTION_FLAG, AT(quiet), ANY},
    {"verbose", NULL, NULL, " train ", "what passes found, which kernels run, every step's loss in 17 digits",
     OPTION_FLAG, AT(verbose), ANY},
    /* simulate */
    {"forward-ms", "F[,F…]", NULL, " simulate ", "time of a forward, one number or one a rank", OPTION_NUMBERS,
     AT(forward_ms), ANY},
    {"backward-input-ms", "B[,B…]", NULL, " simulate ", "time of a backward towards the input", OPTION_NUMBERS,
     AT(backward_input_ms), ANY},
    {"backward-weight-ms", "W[,W…]", NULL, " simulate ", "time of a backward towards the weights", OPTION_NUMBERS,
     AT(backward_weight_ms), ANY},
    {"p2p-ms", "C", "0", " simulate ", "latency of every hop between ranks", OPTION_NUMBER, AT(p2p_ms), ANY},
    {"memory-limit-microbatches", "L[,L…]", NULL, " simulate ", "activations that a rank holds, in microbatches",
     OPTION_NUMBERS, AT(memory_limit_microbatches), ANY},
    {"backward-input-frees", "X", "0.5", " simulate ", "fraction of the activations that B frees already",
     OPTION_NUMBER, AT(backward_input_frees), ANY},
};
enum { ENTRIES = sizeof table / sizeof *table };

/* Which may have several values. A list of devices has a meaning of its own. */
static const char listed[] = " ranks chunks microbatches schedule precision ";

const OptionEntry *options_entry(int i) {
  return i >= 0 && i < ENTRIES ? &table[i] : NULL;
}

const OptionEntry *options_find(const char *name) {
  for (int i = 0; i < ENTRIES; i++)
    if (strcmp(table[i].name, name) == 0)
      return &table[i];
  return NULL;
}

static Status parse_integer(const OptionEntry *entry, const char *text, int64_t *value) {
  char *end;
  if (entry->standard && strcmp(entry->standard, "auto") == 0 && strcmp(text, "auto") == 0) {
    *value = 0;
    return OK;
  }
  errno = 0;
  *value = strtoll(text, &end, 10);
  if (end == text || *end || errno)
    return fail(E_USAGE, "--%s: '%s' is no whole number", entry->name, text);
  return OK;
}

/* "64M", "2G", "1.5G", "4096": powers of 1024. */
static Status parse_bytes(const OptionEntry *entry, const char *text, int64_t *value) {
  static const char units[] = "KMGT";
  char *end;
  double number = strtod(text, &end);
  const char *unit = *end ? strchr(units, *end) : NULL;
  if (unit) {
    number = ldexp(number, 10 * (int)(unit - units + 1));
    end++;
    if (*end == 'i')
      end++;
  }
  if (*end == 'B')
    end++;
  if (end == text || *end || !(number >= 1 && number < 0x1p62))
    return fail(E_USAGE, "--%s: '%s' is no size such as 64M or 2G", entry->name, text);
  *value = (int64_t)number;
  return OK;
}

static Status parse_number(const OptionEntry *entry, const char *text, double *value) {
  char *end;
  *value = strtod(text, &end);
  if (end == text || *end || !isfinite(*value))
    return fail(E_USAGE, "--%s: '%s' is no number", entry->name, text);
  return OK;
}

static Status parse_numbers(Arena *arena, const OptionEntry *entry, const char *text, NumberList *list) {
  char *copy = arena_string(arena, text), *rest = copy, *part;
  if (!copy)
    return status_code();
  list->n = 0;
  while ((part = strsep(&rest, ","))) {
    TRY(ARENA_RESERVE(arena, list->items, list->n, list->capacity, list->n + 1));
    TRY(parse_number(entry, part, &list->items[list->n++]));
  }
  return OK;
}

static Status parse_flag(const OptionEntry *entry, const char *text, bool *value) {
  *value = *text == '\0' || strcmp(text, "true") == 0;
  if (!*value && strcmp(text, "false") != 0)
    return fail(E_USAGE, "--%s is a flag: it takes no '%s'", entry->name, text);
  return OK;
}

static Status check_range(const OptionEntry *entry, int64_t value, const char *text) {
  bool chosen = value == 0 && entry->standard && strcmp(entry->standard, "auto") == 0 && strcmp(text, "0") != 0;
  if (entry->least > entry->most || chosen || (value >= entry->least && value <= entry->most))
    return OK;
  if (value < entry->least)
    return fail(E_USAGE, "--%s: %s is less than %lld", entry->name, text, (long long)entry->least);
  return fail(E_USAGE, "--%s: %s is more than %lld", entry->name, text, (long long)entry->most);
}

/* "sgd, adam, adamw" */
static void list_values(const char *values, char *text, size_t room) {
  size_t at = 0;
  for (const char *c = values; *c && at + 3 < room; c++) {
    if (*c == ' ')
      text[at++] = ',';
    text[at++] = *c;
  }
  text[at] = '\0';
}

static Status check_name(const OptionEntry *entry, const char *text) {
  size_t length = strlen(text);
  for (const char *name = entry->values; *name; name += strspn(name, " ")) {
    size_t letters = strcspn(name, " ");
    if (letters == length && strncmp(name, text, length) == 0)
      return OK;
    name += letters;
  }
  char list[512], hint[NEAREST_BYTES];
  list_values(entry->values, list, sizeof list);
  return fail(E_USAGE, "--%s: '%s' is none of %s%s", entry->name, text, list,
              nearest_hint_of(text, entry->values, hint));
}

static Status parse(Options *options, const OptionEntry *entry, const char *text) {
  void *field = (char *)options + entry->offset;
  switch (entry->kind) {
  case OPTION_FLAG:
    return parse_flag(entry, text, field);
  case OPTION_INTEGER:
    TRY(parse_integer(entry, text, field));
    return check_range(entry, *(int64_t *)field, text);
  case OPTION_BYTES:
    return parse_bytes(entry, text, field);
  case OPTION_NUMBER:
    return parse_number(entry, text, field);
  case OPTION_NUMBERS:
    return parse_numbers(options->arena, entry, text, field);
  case OPTION_TEXTS: {
    TextList *list = field;
    TRY(ARENA_RESERVE(options->arena, list->items, list->n, list->capacity, list->n + 1));
    return (list->items[list->n++] = arena_string(options->arena, text)) ? OK : status_code();
  }
  case OPTION_NAME:
    TRY(check_name(entry, text));
    break;
  case OPTION_TEXT:
    break;
  }
  if (!*text)
    return fail(E_USAGE, "--%s needs a value (%s)", entry->name, entry->argument);
  return (*(const char **)field = arena_string(options->arena, text)) ? OK : status_code();
}

Options *options_create(void) {
  Arena *arena = arena_create();
  Options *options = arena ? arena_alloc(arena, 1, sizeof *options) : NULL;
  if (options) {
    options->arena = arena;
    options->given = arena_alloc(arena, ENTRIES, sizeof *options->given);
    options->lists = arena_alloc(arena, ENTRIES, sizeof *options->lists);
  }
  bool good = options && options->given && options->lists;
  for (int i = 0; good && i < ENTRIES; i++)
    good = !table[i].standard || parse(options, &table[i], table[i].standard) == OK;
  if (!good) {
    arena_destroy(arena);
    return NULL;
  }
  options->class_axis = -1;
  return options;
}

void options_destroy(Options *options) {
  if (options)
    arena_destroy(options->arena);
}

static bool is_listed(const OptionEntry *entry) {
  const char *at = strstr(listed, entry->name);
  size_t length = strlen(entry->name);
  return at && at[-1] == ' ' && at[length] == ' ';
}

/* Several values, each of which parses; the field gets the first. */
static Status parse_list(Options *options, const OptionEntry *entry, const char *text) {
  TextList *list = &options->lists[entry - table];
  char *rest = arena_string(options->arena, text), *part;
  list->n = 0;
  if (!rest)
    return status_code();
  while ((part = strsep(&rest, ","))) {
    TRY(ARENA_RESERVE(options->arena, list->items, list->n, list->capacity, list->n + 1));
    list->items[list->n++] = part;
    TRY(parse(options, entry, part));
  }
  return parse(options, entry, list->items[0]);
}

Status options_set(Options *options, const char *name, const char *value) {
  const OptionEntry *entry = name ? options_find(name) : NULL;
  if (!entry)
    return name ? fail(E_USAGE, "--%s is no option", name) : fail(E_USAGE, "an option has a name");
  if (!value && entry->kind != OPTION_FLAG)
    return fail(E_USAGE, "--%s needs a value (%s)", entry->name, entry->argument);
  options->lists[entry - table].n = 0;
  if (value && strchr(value, ',') && is_listed(entry))
    TRY(parse_list(options, entry, value));
  else
    TRY(parse(options, entry, value ? value : ""));
  options->given[entry - table] = true;
  return OK;
}

bool options_given(const Options *options, const char *name) {
  const OptionEntry *entry = options_find(name);
  return entry && options->given[entry - table];
}

const TextList *options_list(const Options *options, const char *name) {
  return &options->lists[options_find(name) - table];
}

Status options_refuse_lists(const Options *options) {
  for (int i = 0; i < ENTRIES; i++)
    if (options->lists[i].n)
      return fail(E_USAGE, "--%s: several values are for `plan --what-if`", table[i].name);
  return OK;
}
