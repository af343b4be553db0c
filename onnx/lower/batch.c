/* Where the samples lie in what a model computes, proved at two sample counts (graph/batch.h). Invariant: what a bound
 * graph says of its samples follows from the model, the sizes of its other dimensions and nothing else: not from how
 * many samples the graph at hand has. */
#include <stdlib.h>
#include <string.h>

#include "graph/batch.h"
#include "onnx/lower/lower.h"

/* Neither is 1, which hides an axis, nor a usual size of anything. */
enum { COUNT_A = 7, COUNT_B = 11 };

typedef struct BatchProof {
  struct BatchProof *next;
  Arena *arena;
  DimBinding *dims; /* that it holds for */
  int n_dims;
  bool training, updates, live; /* and these */
  const void *const *replaced;
  Graph *proved, *other;
  Replay replay;     /* of `proved` */
  const char *doubt; /* NULL: proved */
} BatchProof;

void model_bound(Model *model) {
  while (model->proofs) {
    BatchProof *next = model->proofs->next;
    arena_destroy(model->proofs->arena);
    model->proofs = next;
  }
}

static BatchProof *find_proof(const Model *model, const BindOptions *options) {
  BatchProof *proof = model->proofs;
  for (; proof; proof = proof->next) {
    bool same = proof->n_dims == options->n_dims && proof->training == options->training &&
                proof->updates == options->updates && proof->live == options->live &&
                proof->replaced == options->replaced;
    for (int i = 0; i < options->n_dims && same; i++)
      same = proof->dims[i].value == options->dims[i].value && strcmp(proof->dims[i].name, options->dims[i].name) == 0;
    if (same)
      break;
  }
  return proof;
}

/* The model at one count; *why says where it does not bind. What fails for the machine's sake fails. */
static Status bind_at(Model *model, BindOptions options, int64_t samples, BatchProof *proof, Graph **graph) {
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  options.batch = samples;
  proof->replay.at = 0;
  Status status = bind_graph(model, &options, &proof->replay, scratch, proof->arena, graph);
  if (status == OK || status == E_MEMORY || status == E_IO) {
    arena_destroy(scratch);
    return status;
  }
  proof->doubt = arena_format(proof->arena, "%s with %lld samples", status_message(), (long long)samples);
  arena_destroy(scratch);
  return proof->doubt ? OK : status_code();
}

static Status prove(Model *model, const BindOptions *options, BatchProof *proof) {
  TRY(ARENA_NEW(proof->arena, proof->dims, options->n_dims));
  for (; proof->n_dims < options->n_dims; proof->n_dims++) {
    DimBinding dim = options->dims[proof->n_dims];
    if (!(dim.name = arena_string(proof->arena, dim.name)))
      return status_code();
    proof->dims[proof->n_dims] = dim;
  }
  proof->training = options->training;
  proof->updates = options->updates;
  proof->live = options->live;
  proof->replaced = options->replaced;
  proof->replay.arena = proof->arena;
  TRY(bind_at(model, *options, COUNT_A, proof, &proof->proved));
  proof->replay.replaying = true;
  if (!proof->doubt)
    TRY(bind_at(model, *options, COUNT_B, proof, &proof->other));
  return proof->doubt ? OK : batch_prove(proof->proved, proof->other);
}

static Status make_proof(Model *model, const BindOptions *options, BatchProof **proof) {
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Status status = ARENA_NEW(arena, *proof, 1);
  if (status == OK) {
    (*proof)->arena = arena;
    status = prove(model, options, *proof);
  }
  if (status != OK) {
    arena_destroy(arena);
    return status;
  }
  (*proof)->next = model->proofs;
  model->proofs = *proof;
  return OK;
}

static Status bind_and_prove(Model *model, const BindOptions *options, Arena *scratch, Arena *result, Graph **graph) {
  BatchProof *proof = NULL;
  int n;
  const ModelInput *inputs = model_inputs(model, &n);
  bool counts = false;
  for (int i = 0; i < n; i++)
    counts |= inputs[i].batch_axis >= 0;
  if (counts && !model->fixed_batch && !(proof = find_proof(model, options)))
    TRY(make_proof(model, options, &proof));
  if (proof)
    proof->replay.at = 0;
  TRY(bind_graph(model, options, proof ? &proof->replay : NULL, scratch, result, graph));
  if (!(*graph)->samples)
    return OK;
  if (!proof)
    return batch_prove(*graph, NULL);
  return proof->doubt ? batch_doubt(*graph, proof->doubt) : batch_transfer(proof->proved, proof->other, *graph);
}

Status bind_with_samples(Model *model, const BindOptions *options, Arena *scratch, Arena *result, Graph **graph) {
  TRY(bind_and_prove(model, options, scratch, result, graph));
  batch_place_draws(*graph);
  return OK;
}
