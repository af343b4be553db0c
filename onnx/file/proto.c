/* Reading messages of the skeleton: texts that may be absent, domains, properties. */
#include <string.h>

#include "onnx/file/internal.h"

const char *proto_domain(const char *domain) {
  return !domain || strcmp(domain, "ai.onnx") == 0 ? "" : domain;
}

const char *proto_property(Onnx__StringStringEntryProto *const *properties, size_t n, const char *key) {
  for (size_t i = 0; i < n; i++)
    if (properties[i]->key && strcmp(properties[i]->key, key) == 0)
      return proto_text(properties[i]->value);
  return NULL;
}

void proto_node_context(const Onnx__NodeProto *node, size_t index) {
  if (*proto_text(node->name))
    status_context("node '%s' (%s): ", node->name, proto_text(node->op_type));
  else
    status_context("node #%zu (%s): ", index, proto_text(node->op_type));
}
