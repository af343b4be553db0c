/* Arrays over flat files. Invariant: sample s of a file is its tokens s · T … s · T + T − 1, its targets one further.
 */
#include "runtime/data/tokens.h"

#include <stdio.h>
#include <string.h>

#include "runtime/data/internal.h"

typedef enum { ROLE_OPEN, ROLE_TOKENS, ROLE_NEXT, ROLE_POSITIONS, ROLE_ONES, ROLE_ZEROS } TokenRole;

static const char *const role_names[] = {"", "tokens", "next", "positions", "ones", "zeros"};
enum { ROLES = sizeof role_names / sizeof *role_names };

/* What inputs of these names mean wherever transformers are exported. `labels` is none: some models shift them. */
static const struct {
  const char *name;
  TokenRole role;
} known[] = {{"position_ids", ROLE_POSITIONS}, {"attention_mask", ROLE_ONES}, {"token_type_ids", ROLE_ZEROS}};

typedef struct {
  const TokenSpec *spec;
  const ModelInput *inputs;
  int n_inputs;
  TokenRole *roles; /* [n_inputs] */
  int64_t sequence;
} Corpus;

static bool takes_integers(const ModelInput *input) {
  return !dtype_is_float(input->dtype) && input->dtype != BOOL;
}

/* "INPUT=ROLE" */
static Status read_role(Corpus *corpus, const char *text) {
  const char *equals = strrchr(text, '=');
  for (int i = 0; equals && i < corpus->n_inputs; i++) {
    const char *name = corpus->inputs[i].name;
    if (strlen(name) != (size_t)(equals - text) || strncmp(text, name, strlen(name)) != 0)
      continue;
    for (int r = 1; r < ROLES; r++)
      if (strcmp(equals + 1, role_names[r]) == 0)
        corpus->roles[i] = (TokenRole)r;
    if (corpus->roles[i])
      return OK;
    return fail(E_USAGE, "--token-input %s: not tokens, next, positions, ones or zeros", text);
  }
  return equals ? fail(E_USAGE, "--token-input %s: the model has no input '%.*s'", text, (int)(equals - text), text)
                : fail(E_USAGE, "--token-input %s: not INPUT=ROLE", text);
}

/* What every input gets. */
static Status assign_roles(Corpus *corpus) {
  int open = 0, last = -1;
  bool fed = false;
  for (int i = 0; i < corpus->spec->n_roles; i++)
    TRY(read_role(corpus, corpus->spec->roles[i]));
  for (int i = 0; i < corpus->n_inputs; i++) {
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
      if (!corpus->roles[i] && strcmp(corpus->inputs[i].name, known[k].name) == 0)
        corpus->roles[i] = known[k].role;
    fed |= corpus->roles[i] == ROLE_TOKENS;
    open += !corpus->roles[i];
    last = corpus->roles[i] ? last : i;
  }
  if (open == 1 && !fed && takes_integers(&corpus->inputs[last])) {
    corpus->roles[last] = ROLE_TOKENS;
    return OK;
  }
  if (open && !takes_integers(&corpus->inputs[last]))
    return fail(E_USAGE, "--tokens: the model's input '%s' is %s, no tokens (--token-input %s=ones or zeros feeds it)",
                corpus->inputs[last].name, dtype_name(corpus->inputs[last].stored), corpus->inputs[last].name);
  if (open)
    return fail(E_USAGE,
                "--tokens: what the model's input '%s' gets is open: --token-input %s=tokens, or next, positions, "
                "ones, zeros",
                corpus->inputs[last].name, corpus->inputs[last].name);
  return fed ? OK : fail(E_USAGE, "--tokens: no input of the model gets the tokens: --token-input INPUT=tokens");
}

/* Tokens a sample: as asked, or as the input takes. */
static Status settle_sequence(Corpus *corpus) {
  corpus->sequence = corpus->spec->sequence;
  for (int i = 0; i < corpus->n_inputs; i++) {
    const ModelInput *input = &corpus->inputs[i];
    if (corpus->roles[i] != ROLE_TOKENS)
      continue;
    if (input->rank != 2 || input->batch_axis != 0)
      return fail(E_SHAPE, "--tokens: the model's input '%s' is not samples by tokens, with samples first",
                  input->name);
    if (!corpus->sequence && input->dim[1] > 0)
      corpus->sequence = input->dim[1];
    if (!corpus->sequence)
      return fail(E_USAGE, "--tokens needs --sequence T: the model's input '%s' takes any number of tokens",
                  input->name);
    if (input->dim[1] >= 0 && input->dim[1] != corpus->sequence)
      return fail(E_USAGE, "--sequence %lld: the model's input '%s' takes %lld tokens", (long long)corpus->sequence,
                  input->name, (long long)input->dim[1]);
  }
  return OK;
}

/* A row of T numbers in the input's type, the same for all samples. */
static Status make_row(Arena *arena, const Corpus *corpus, const ModelInput *input, TokenRole role, int64_t samples,
                       Array *array) {
  int64_t *row, n = corpus->sequence;
  TRY(ARENA_NEW(arena, row, n));
  for (int64_t t = 0; t < n; t++)
    row[t] = role == ROLE_POSITIONS ? t : role == ROLE_ONES;
  array->dtype = I64;
  if (!takes_integers(input)) {
    array->dtype = input->dtype == BOOL ? BOOL : F32;
    for (int64_t t = 0; t < n; t++) { /* in place: these are narrower */
      float number = (float)row[t];
      bool truth = row[t] != 0;
      if (array->dtype == F32)
        memcpy((char *)row + (size_t)t * sizeof number, &number, sizeof number);
      else
        memcpy((char *)row + t, &truth, 1);
    }
  }
  array->data = row;
  array->shape = (Shape){2, {samples, n}};
  if (input->batch_axis > 0)
    return fail(E_UNSUPPORTED, "input '%s' has its samples along axis %d: of tokens they are along axis 0", input->name,
                input->batch_axis);
  if (input->batch_axis < 0) { /* given once, for all samples: [T] or [1,T] */
    array->shape = (Shape){.rank = input->rank > 0 ? input->rank : 1};
    for (int i = 0; i < array->shape.rank; i++)
      array->shape.dim[i] = i + 1 < array->shape.rank ? 1 : n;
  }
  return OK;
}

static Status refuse_few(const Corpus *corpus, int64_t tokens) {
  return fail(E_SHAPE, "%lld tokens make no sample of %lld, which takes %lld", (long long)tokens,
              (long long)corpus->sequence, (long long)corpus->sequence + 1);
}

/* The arrays over `tokens` tokens of this type. */
static Status add_arrays(const Corpus *corpus, ArrayFile *file, const uint8_t *bytes, DType dtype, int64_t tokens) {
  Arena *arena = file->arena;
  int64_t samples = (tokens - 1) / corpus->sequence;
  Shape shape = {2, {samples, corpus->sequence}};
  const uint8_t *next = bytes + dtype_bytes(dtype);
  bool has_next = false;
  if (samples < 1)
    return refuse_few(corpus, tokens);
  TRY(array_file_reserve(file, (size_t)corpus->n_inputs + 1));
  TRY(ARENA_NEW(arena, file->repeats, corpus->n_inputs + 1));
  file->n_arrays = 0;
  for (int i = 0; i < corpus->n_inputs; i++) {
    Array *array = &file->arrays[file->n_arrays];
    TokenRole role = corpus->roles[i];
    *array = (Array){corpus->inputs[i].name, dtype, shape, role == ROLE_NEXT ? next : bytes};
    has_next |= role == ROLE_NEXT;
    if (role != ROLE_TOKENS && role != ROLE_NEXT) {
      TRY(make_row(arena, corpus, &corpus->inputs[i], role, samples, array));
      file->repeats[file->n_arrays] = corpus->inputs[i].batch_axis >= 0;
    }
    file->n_arrays++;
  }
  if (!has_next)
    file->arrays[file->n_arrays++] = (Array){"target", dtype, shape, next};
  return OK;
}

/* What an .npy file holds is one array already; else the bytes are the tokens. */
static Status read_corpus(const Corpus *corpus, ArrayFile *file) {
  DType dtype = corpus->spec->dtype;
  size_t width = dtype_bytes(dtype);
  if (file->n_arrays) {
    const Array array = file->arrays[0];
    if (array.shape.rank != 1 || dtype_is_float(array.dtype) || array.dtype == BOOL)
      return fail(E_SHAPE, "is %s %s: tokens are one axis of whole numbers", dtype_name(array.dtype),
                  SHAPE_STR(array.shape));
    return add_arrays(corpus, file, array.data, array.dtype, array.shape.dim[0]);
  }
  if (file->map.bytes % width)
    return fail(E_MODEL, "%zu bytes are no whole number of %s tokens", file->map.bytes, dtype_name(dtype));
  return add_arrays(corpus, file, file->map.data, dtype, (int64_t)(file->map.bytes / width));
}

static Status read_files(const Corpus *corpus, Source *source) {
  for (int s = 0; s < source->n_shards; s++)
    for (int i = 0; i < source->shards[s].n_files; i++) {
      ArrayFile *file = &source->shards[s].files[i];
      Status status = read_corpus(corpus, file);
      if (status != OK) {
        status_context("%s: ", file->path);
        return status;
      }
    }
  return OK;
}

Status tokens_open(const TokenSpec *spec, const Model *model, Source *source) {
  Corpus corpus = {.spec = spec};
  Arena *arena = arena_create();
  corpus.inputs = model_inputs(model, &corpus.n_inputs);
  Status status = arena ? ARENA_NEW(arena, corpus.roles, corpus.n_inputs) : status_code();
  if (status == OK)
    status = assign_roles(&corpus);
  if (status == OK)
    status = settle_sequence(&corpus);
  if (status == OK)
    status = source_open_flat(spec->path, source);
  if (status == OK) {
    status = read_files(&corpus, source);
    if (status != OK)
      source_close(source);
  }
  arena_destroy(arena);
  return status;
}
