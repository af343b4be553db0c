"""Writes onnx/lower/bodies.onnx: the functions by which ONNX's specification defines operators of the default domain, as
the onnx package 1.23.2 has them (https://github.com/onnx/onnx, Apache License 2.0; NOTICE says so).

usage: make_bodies.py OUT

A function is named after its operator; `overload` is the opset from which it holds. Attributes have the operator's own
defaults. Left out are functions that depend on the types or shapes of a call."""
import sys

import onnx
from onnx import defs

model = onnx.ModelProto(ir_version=onnx.IR_VERSION)
for schema in sorted(defs.get_all_schemas_with_history(), key=lambda s: (s.name, s.since_version)):
    if schema.domain or not schema.has_function or schema.deprecated:
        continue
    made = model.functions.add()
    made.CopyFrom(schema.function_body)
    made.name, made.domain, made.overload = schema.name, "", str(schema.since_version)
    made.doc_string = ""
    del made.attribute[:], made.attribute_proto[:], made.input[:], made.output[:], made.value_info[:]
    made.input.extend(i.name for i in schema.inputs)
    made.output.extend(o.name for o in schema.outputs)
    for name, attribute in sorted(schema.attributes.items()):
        if attribute.default_value.name:
            made.attribute_proto.add().CopyFrom(attribute.default_value)
        else:
            made.attribute.append(name)
    for node in made.node:
        node.doc_string = ""
        node.ClearField("metadata_props")
with open(sys.argv[1], "wb") as file:
    file.write(model.SerializeToString(deterministic=True))
print(len(model.functions), "functions")
