/* Data of language models: flat files of tokens, as corpora are kept. A sample is `sequence` tokens that follow each
 * other in a file, its targets are the same ones shifted by one. Nothing is copied: inputs and targets are two arrays
 * over the same bytes. */
#ifndef RUNTIME_DATA_TOKENS_H
#define RUNTIME_DATA_TOKENS_H

#include "onnx/model.h"
#include "runtime/data/source.h"

typedef struct {
  const char *path;         /* a file or a pattern: as source_open has it, but of flat files */
  DType dtype;              /* of a file without a header: U16 or U32; an .npy array of one axis says its own */
  int64_t sequence;         /* tokens a sample; 0: as many as the model's input takes */
  const char *const *roles; /* [n_roles]: "INPUT=tokens", next, positions, ones or zeros */
  int n_roles;
} TokenSpec;

/* Opens the files as shards with an array for each of the model's inputs and, where none gets the next tokens,
 * `target`. The one input of whole numbers gets the tokens, position_ids, attention_mask and token_type_ids positions,
 * ones and zeros; roles say otherwise. What is left over at a file's end makes no sample. Fails E_IO, E_MODEL, E_SHAPE
 * with the file and the numbers in front, E_USAGE where it is open what an input gets, and for a role that is none. */
Status tokens_open(const TokenSpec *spec, const Model *model, Source *source);

#endif
