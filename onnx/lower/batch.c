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
  Graph *proved, *other;
  const char *doubt; /* NULL: proved */
} BatchProof;

void batch_proofs_destroy(BatchProof *proofs) {
  while (proofs) {
    BatchProof *next = proofs->next;
    arena_destroy(proofs->arena);
    proofs = next;
  }
}

static BatchProof *find_proof(const Model *model, const BindOptions *options) {
  BatchProof *proof = model->proofs;
  for (; proof; proof = proof->next) {
    bool same = proof->n_dims == options->n_dims;
    for (int i = 0; i < options->n_dims && same; i++)
      same = proof->dims[i].value == options->dims[i].value && strcmp(proof->dims[i].name, options->dims[i].name) == 0;
    if (same)
      break;
  }
  return proof;
}

/* The model at one count; *why says where it does not bind. What fails for the machine's sake fails. */
static Status bind_at(Model *model, BindOptions options, int64_t samples, Arena *arena, Graph **graph,
                      const char **why) {
  Lower lower;
  options.batch = samples;
  Status status = bind_lower(model, &options, arena, &lower);
  *graph = lower.graph;
  if (status == OK || status == E_MEMORY || status == E_IO)
    return status;
  *why = arena_format(arena, "%s with %lld samples", status_message(), (long long)samples);
  return *why ? OK : status_code();
}

static Status prove(Model *model, const BindOptions *options, BatchProof *proof) {
  TRY(ARENA_NEW(proof->arena, proof->dims, options->n_dims));
  for (; proof->n_dims < options->n_dims; proof->n_dims++) {
    DimBinding dim = options->dims[proof->n_dims];
    if (!(dim.name = arena_string(proof->arena, dim.name)))
      return status_code();
    proof->dims[proof->n_dims] = dim;
  }
  TRY(bind_at(model, *options, COUNT_A, proof->arena, &proof->proved, &proof->doubt));
  if (!proof->doubt)
    TRY(bind_at(model, *options, COUNT_B, proof->arena, &proof->other, &proof->doubt));
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

Status bind_batches(Lower *lower) {
  Model *model = lower->model;
  if (!lower->graph->samples)
    return OK;
  if (model->fixed_batch)
    return batch_prove(lower->graph, NULL);
  BatchProof *proof = find_proof(model, lower->options);
  if (!proof)
    TRY(make_proof(model, lower->options, &proof));
  return proof->doubt ? batch_doubt(lower->graph, proof->doubt)
                      : batch_transfer(proof->proved, proof->other, lower->graph);
}
