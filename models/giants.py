#!/usr/bin/env python3
"""Graphs of large language models, without their weights (pip install onnx numpy).

  python3 models/giants.py DIR [MODEL…]      writes DIR/MODEL.onnx, some hundred kilobytes each, for `onnxpipe plan`
  python3 models/giants.py --list            what there is, and where its figures are published

Every tensor is declared as external data of a file MODEL.weights that is not there: a plan reads no weights. The nodes are those
that PyTorch's exporter writes for opset 23, attention as one node; --spelled writes it as products and a softmax, as it did
before. The batch is open, the sequence the published one (--sequence T: another).
"""
import argparse
import os

import numpy
import onnx
from onnx import TensorProto, helper

# layers, width, heads, heads of keys and values, hidden width, vocabulary, sequence, parameters as published
MODELS = {
    "gpt3_175b": dict(layers=96, width=12288, heads=96, kv=96, hidden=4 * 12288, tokens=50257, sequence=2048, published=174.6e9,
                      tied=True, source="Brown et al. 2020, Language Models are Few-Shot Learners, arXiv 2005.14165, tables 2.1 and D.1"),
    "llama3_405b": dict(layers=126, width=16384, heads=128, kv=8, hidden=53248, tokens=128256, sequence=8192, published=405e9, llama=True,
                        source="Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv 2407.21783, table 3"),
    "mt_nlg_530b": dict(layers=105, width=20480, heads=128, kv=128, hidden=4 * 20480, tokens=51200, sequence=2048, published=530e9,
                        tied=True, source="Smith et al. 2022, Using DeepSpeed and Megatron to Train Megatron-Turing NLG 530B, arXiv "
                        "2201.11990, section 3.2; 50,257 tokens (section 3.1), padded to 51,200 as in arXiv 2104.04473"),
    "gpt_1t": dict(layers=128, width=25600, heads=160, kv=160, hidden=4 * 25600, tokens=51200, sequence=2048, published=1008e9, tied=True,
                   source="Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, arXiv "
                   "2104.04473, table 1"),
}


class Writer:
    """A graph as it grows. What a method returns is the name of the tensor that its node makes."""

    def __init__(self, name, spelled):
        self.name, self.spelled = name, spelled
        self.nodes, self.tensors, self.kinds, self.counts, self.scope, self.elements = [], [], [], {}, "", 0

    def add(self, op, inputs, outputs=1, **attributes):
        number = self.counts[op] = self.counts.get(op, -1) + 1
        stem = op.lower() + (f"_{number}" if number else "")
        names = [stem] if outputs == 1 else [f"{stem}_split_{i}" for i in range(outputs)]
        node = helper.make_node(op, inputs, names, "node_" + stem, **attributes)
        if self.scope:
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", *self.scopes()]))
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def scopes(self):
        parts = self.scope.split(".")
        return [".".join(parts[:i + 1]) for i in range(len(parts))]

    def weight(self, name, *shape):
        tensor = TensorProto(name=f"{self.scope}.{name}", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        count = int(numpy.prod(shape, dtype=object))
        for key, value in (("location", self.name + ".weights"), ("offset", 4 * self.elements), ("length", 4 * count)):
            tensor.external_data.add(key=key, value=str(value))
        self.elements += count
        kind = helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
        kind.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value="PARAMETER")
        self.kinds.append(kind)
        self.tensors.append(tensor)
        return tensor.name

    def constant(self, name, array):
        if all(tensor.name != name for tensor in self.tensors):
            self.tensors.append(onnx.numpy_helper.from_array(array, name))
        return name

    def ints(self, *values):
        return self.constant("val_" + "_".join(map(str, values)).replace("-", "m"), numpy.array(values, numpy.int64))

    def number(self, value):
        return self.constant(f"val_{value}".replace(".", "_").replace("-", "m"), numpy.array(value, numpy.float32))

    def inside(self, scope):
        self.scope = scope
        return self

    def linear(self, x, scope, wide, narrow, bias=True):
        outer, self.scope = self.scope, f"{self.scope}.{scope}"
        y = self.add("MatMul", [x, self.weight("weight", wide, narrow)])
        if bias:
            y = self.add("Add", [y, self.weight("bias", narrow)])
        self.scope = outer
        return y

    def heads(self, x, count, each):
        return self.add("Transpose", [self.add("Reshape", [x, self.ints(0, 0, count, each)])], perm=[0, 2, 1, 3])

    def attention(self, q, k, v, heads, kv, sequence, width):
        """Causal, of q (N, heads, T, width / heads) and k, v (N, kv, T, width / heads); the result is (N, T, width)."""
        if self.spelled:
            for _ in range(heads != kv):
                k, v = (self.repeat(x, heads // kv, kv, sequence, width // heads) for x in (k, v))
            scores = self.add("MatMul", [q, self.add("Transpose", [k], perm=[0, 1, 3, 2])])
            scores = self.add("Mul", [scores, self.number(float((width // heads) ** -0.5))])
            ones = self.add("ConstantOfShape", [self.ints(sequence, sequence)], value=helper.make_tensor("", TensorProto.BOOL, [1], [True]))
            seen = self.add("Where", [self.add("Trilu", [ones], upper=0), self.number(0.0), self.number(float("-inf"))])
            y = self.add("MatMul", [self.add("Softmax", [self.add("Add", [scores, seen])], axis=-1), v])
        else:
            y = self.add("Attention", [q, k, v], is_causal=1, scale=float((width // heads) ** -0.5))
        return self.add("Reshape", [self.add("Transpose", [y], perm=[0, 2, 1, 3]), self.ints(0, 0, width)])

    def repeat(self, x, times, kv, sequence, each):
        x = self.add("Unsqueeze", [x, self.ints(2)])
        x = self.add("Expand", [x, self.ints(1, kv, times, sequence, each)])
        return self.add("Reshape", [x, self.ints(0, kv * times, sequence, each)])


def gpt(w, m):
    def norm(x, scope):
        outer, w.scope = w.scope, f"{w.scope}.{scope}"
        y = w.add("LayerNormalization", [x, w.weight("weight", width), w.weight("bias", width)], axis=-1, epsilon=1e-5)
        w.scope = outer
        return y

    width, sequence = m["width"], m["sequence"]
    table = w.inside("transformer.wte").weight("weight", m["tokens"], width)
    x = w.add("Gather", [table, "input_ids"])
    places = w.inside("transformer.wpe").weight("weight", sequence, width)
    x = w.inside("transformer").add("Add", [x, places])
    for layer in range(m["layers"]):
        w.inside(f"transformer.h.{layer}")
        qkv = w.linear(norm(x, "ln_1"), "attn.c_attn", width, 3 * width)
        parts = w.add("Split", [qkv], outputs=3, axis=-1, num_outputs=3)
        q, k, v = (w.heads(part, m["heads"], width // m["heads"]) for part in parts)
        seen = w.attention(q, k, v, m["heads"], m["kv"], sequence, width)
        x = w.add("Add", [x, w.linear(seen, "attn.c_proj", width, width)])
        wide = w.linear(norm(x, "ln_2"), "mlp.c_fc", width, m["hidden"])
        x = w.add("Add", [x, w.linear(w.add("Gelu", [wide], approximate="tanh"), "mlp.c_proj", m["hidden"], width)])
    x = norm(x, "ln_f") if w.inside("transformer") else x
    return w.inside("lm_head").add("MatMul", [x, w.add("Transpose", [table], perm=[1, 0])])


def rotate(w, x, cos, sin, each):
    low = w.add("Slice", [x, w.ints(0), w.ints(each // 2), w.ints(3), w.ints(1)])
    high = w.add("Slice", [x, w.ints(each // 2), w.ints(each), w.ints(3), w.ints(1)])
    turned = w.add("Concat", [w.add("Neg", [high]), low], axis=-1)
    return w.add("Add", [w.add("Mul", [x, cos]), w.add("Mul", [turned, sin])])


def llama(w, m):
    def norm(x, scope):
        outer, w.scope = w.scope, f"{w.scope}.{scope}"
        y = w.add("RMSNormalization", [x, w.weight("weight", width)], axis=-1, epsilon=1e-5)
        w.scope = outer
        return y

    width, sequence, each = m["width"], m["sequence"], m["width"] // m["heads"]
    angles = numpy.outer(numpy.arange(sequence), 500000.0 ** (-numpy.arange(0, each, 2) / each))
    angles = numpy.concatenate([angles, angles], 1).astype(numpy.float32)
    cos, sin = w.constant("cos", numpy.cos(angles)), w.constant("sin", numpy.sin(angles))
    x = w.inside("model.embed_tokens").add("Gather", [w.weight("weight", m["tokens"], width), "input_ids"])
    for layer in range(m["layers"]):
        w.inside(f"model.layers.{layer}")
        y = norm(x, "input_layernorm")
        q = w.heads(w.linear(y, "self_attn.q_proj", width, width, False), m["heads"], each)
        k = w.heads(w.linear(y, "self_attn.k_proj", width, m["kv"] * each, False), m["kv"], each)
        v = w.heads(w.linear(y, "self_attn.v_proj", width, m["kv"] * each, False), m["kv"], each)
        q, k = (rotate(w, part, cos, sin, each) for part in (q, k))
        seen = w.attention(q, k, v, m["heads"], m["kv"], sequence, width)
        x = w.add("Add", [x, w.linear(seen, "self_attn.o_proj", width, width, False)])
        y = norm(x, "post_attention_layernorm")
        gate = w.linear(y, "mlp.gate_proj", width, m["hidden"], False)
        gate = w.add("Mul", [gate, w.add("Sigmoid", [gate])])
        wide = w.add("Mul", [gate, w.linear(y, "mlp.up_proj", width, m["hidden"], False)])
        x = w.add("Add", [x, w.linear(wide, "mlp.down_proj", m["hidden"], width, False)])
    x = norm(x, "norm") if w.inside("model") else x
    return w.inside("lm_head").linear(x, "proj", width, m["tokens"], False)


def write(name, folder, spelled, sequence):
    m = dict(MODELS[name])
    m["sequence"] = sequence or m["sequence"]
    w = Writer(name, spelled)
    y = (llama if m.get("llama") else gpt)(w, m)
    w.inside("")
    w.nodes.append(helper.make_node("Identity", [y], ["logits"], "node_logits"))
    graph = helper.make_graph(w.nodes, name, [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", m["sequence"]])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", m["sequence"], m["tokens"]])], w.tensors, value_info=w.kinds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11, producer_name="giants.py")
    path = os.path.join(folder, name + ".onnx")
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
    print(f"{path}: {len(w.nodes)} nodes, {w.elements / 1e9:.1f} billion parameters (published: {m['published'] / 1e9:.1f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--list", action="store_true", help="names, figures and sources")
    parser.add_argument("--spelled", action="store_true", help="attention as products and a softmax")
    parser.add_argument("--sequence", type=int, help="tokens of a sample, instead of the published number")
    arguments = parser.parse_intermixed_args()
    if arguments.list or not arguments.folder:
        for name, m in MODELS.items():
            print(f"{name}: {m['layers']} layers, width {m['width']}, {m['heads']} heads, {m['kv']} of keys and values, hidden "
                  f"{m['hidden']}, {m['tokens']} tokens, sequence {m['sequence']}; {m['source']}")
        return
    unknown = [name for name in arguments.models if name not in MODELS]
    if unknown:
        parser.error(f"no model '{unknown[0]}', only {', '.join(MODELS)}")
    os.makedirs(arguments.folder, exist_ok=True)
    for name in arguments.models or MODELS:
        write(name, arguments.folder, arguments.spelled, arguments.sequence)


if __name__ == "__main__":
    main()
