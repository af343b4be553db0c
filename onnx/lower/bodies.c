/* The functions by which ONNX's specification defines operators: what has no row in the tables is lowered through its
 * own. Invariant: within one, names are the specification's, whatever functions a file defines. */
#include <stdlib.h>
#include <string.h>

#include "onnx/lower/lower.h"

/* onnx/lower/bodies.onnx, which cmake puts into the program: one function for each meaning that an operator has had;
 * its overload is the opset from which it holds. */
extern const unsigned char operator_bodies[];
extern const size_t operator_bodies_bytes;

static Status unpack(Model *model) {
  if (!model->bodies)
    model->bodies = onnx__model_proto__unpack(NULL, operator_bodies_bytes, operator_bodies);
  return model->bodies ? OK : fail(E_MEMORY, "out of memory: the functions of the specification");
}

Status body_find(Model *model, const Onnx__NodeProto *node, int64_t opset, const Onnx__FunctionProto **body) {
  int64_t newest = 0;
  *body = NULL;
  if (*proto_domain(node->domain) || opset < OPSET_FIRST || opset > OPSET_LAST || operator_has_row(node, opset))
    return OK;
  TRY(unpack(model));
  for (size_t i = 0; i < model->bodies->n_functions; i++) {
    const Onnx__FunctionProto *f = model->bodies->functions[i];
    int64_t from = strtoll(f->overload, NULL, 10);
    if (strcmp(f->name, proto_text(node->op_type)) == 0 && from <= opset && from > newest) {
      newest = from;
      *body = f;
    }
  }
  return OK;
}

const char *body_refuses(Arena *arena, const Onnx__FunctionProto *body, const Onnx__NodeProto *node) {
  if (node->n_input > body->n_input || node->n_output > body->n_output)
    return arena_format(arena, "%zu inputs, %zu outputs", node->n_input, node->n_output);
  for (size_t i = 0; i < node->n_attribute; i++) {
    const char *name = proto_text(node->attribute[i]->name);
    bool known = false;
    for (size_t k = 0; k < body->n_attribute && !known; k++)
      known = strcmp(body->attribute[k], name) == 0;
    for (size_t k = 0; k < body->n_attribute_proto && !known; k++)
      known = strcmp(proto_text(body->attribute_proto[k]->name), name) == 0;
    if (!known)
      return arena_format(arena, "attribute '%s'", name);
  }
  return NULL;
}
