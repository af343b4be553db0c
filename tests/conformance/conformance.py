"""The official node cases of the onnx package on the backends `reference` and `cpu`.

usage: conformance.py PROGRAM [-v] [--only WORD]

Those in the standard domain whose tensors are of the types below. A case passes where every backend gives type, shape
and numbers; it is skipped where the model is refused as unsupported, as `inspect` says it. Prints a table by operator,
with -v also why, compares the gradients of the cases that passed with differences, and ends with "N passed, N failed, N skipped"; exit 1 where one failed."""
import argparse
import collections
import os
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

BACKENDS = ("reference", "cpu")
WORKERS = os.cpu_count() or 1
SCOPE = {
    getattr(TensorProto, name)
    for name in "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 BOOL INT4 UINT4 INT2 "
    "UINT2 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ".split()
}
# Steps of the last digit: what is computed in float32 and rounded once differs from what rounds at every operator.
EPSILON = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7}
EPSILON.update({t: 2.0**-2 for t in SCOPE if TensorProto.DataType.Name(t).startswith("FLOAT8")})
NARROWER = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# NumPy has no such types: outputs are float32, rounded.
UNSAVED = {t for t in SCOPE if TensorProto.DataType.Name(t).startswith(("BFLOAT", "FLOAT8"))}
# What they draw is nobody else's to know: type and shape are compared.
RANDOM = ("test_bernoulli", "test_training_dropout")


def types(model):
    """Of the graph's ends; None where one is no tensor."""
    found = set()
    for value in list(model.graph.input) + list(model.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            return None
        found.add(value.type.tensor_type.elem_type)
    return found


def cases(only):
    for case in collect_testcases(None):
        standard = all(i.domain in ("", "ai.onnx") for i in case.model.opset_import)
        inside = types(case.model)
        if standard and inside and inside <= SCOPE and (not only or only in case.name):
            yield case


def as_proto(value, info):
    if isinstance(value, TensorProto):  # whose contents may be in another field than raw_data
        return numpy_helper.from_array(numpy_helper.to_array(value), info.name)
    kind = info.type.tensor_type.elem_type
    array = np.asarray(value)
    if array.dtype != helper.tensor_dtype_to_np_dtype(kind):
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), info.name)


def write_tensors(path, protos):
    with open(path, "wb") as file:
        file.write(struct.pack("<q", len(protos)))
        for proto in protos:
            raw = proto.raw_data
            file.write(struct.pack(f"<{3 + len(proto.dims)}q", proto.data_type, len(proto.dims), *proto.dims, len(raw)))
            file.write(raw)


def read_tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    at, tensors = 8, []
    for _ in range(struct.unpack_from("<q", data)[0]):
        kind, rank = struct.unpack_from("<2q", data, at)
        *dims, size = struct.unpack_from(f"<{rank + 1}q", data, at + 16)
        at += 24 + 8 * rank
        proto = TensorProto(data_type=kind, dims=dims, raw_data=data[at : at + size])
        at += size
        tensors.append((kind, numpy_helper.to_array(proto)))
    return tensors


def prepare(folder, only):
    made = []
    for number, case in enumerate(cases(only)):
        with open(f"{folder}/{number}.onnx", "wb") as file:
            file.write(case.model.SerializeToString())
        inputs, outputs = case.data_sets[0]
        write_tensors(f"{folder}/{number}.in", [as_proto(v, i) for v, i in zip(inputs, case.model.graph.input)])
        expected = [as_proto(v, i) for v, i in zip(outputs, case.model.graph.output)]
        made.append((case, expected))
    return made


def run_worker(program, folder, first, step, count, mode):
    """Lines of the cases first, first + step, …; a case that ends the program is marked, and the next ones follow."""
    lines = collections.defaultdict(list)
    while first < count:
        done = subprocess.run([program, folder, str(first), str(step), *mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, errors="replace", check=False)
        last = first - step
        for line in done.stdout.splitlines():
            number, backend, what, why = line.split(" ", 3)
            lines[int(number)].append((backend, what, why))
            last = int(number)
        if done.returncode == 0:
            break
        end = done.stderr.strip().splitlines()[-1:]
        crashed = last if last >= first and lines[last][-1][0] == BACKENDS[0] else last + step
        lines[crashed].append(("", "failed", f"the program ended with {done.returncode}: {' '.join(end)}"))
        first = crashed + step
    return lines


def run_all(program, folder, count, *mode):
    lines = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for some in pool.map(lambda w: run_worker(program, folder, w, WORKERS, count, mode), range(WORKERS)):
            lines.update(some)
    return lines


def differs(case, expected, got):
    """What is wrong with one output, or None."""
    kind, array = got
    want = numpy_helper.to_array(expected)
    if expected.data_type in UNSAVED and kind == TensorProto.FLOAT:
        kind = expected.data_type
    if kind != expected.data_type:
        return f"type {TensorProto.DataType.Name(kind)}, not {TensorProto.DataType.Name(expected.data_type)}"
    if array.shape != want.shape:
        return f"shape {array.shape}, not {want.shape}"
    if case.name.startswith(RANDOM):
        return None
    if want.dtype.kind in "biu" or kind in (TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2):
        wrong = array != want
    else:
        array, want = array.astype(np.float64), want.astype(np.float64)
        rtol = max(case.rtol, EPSILON.get(kind, 0))
        # what cancels leaves the noise of float32 on either side
        noise = 2.0**-22 * max((abs(x) for x in want[np.isfinite(want)].flat), default=0)
        with np.errstate(invalid="ignore"):
            wrong = ~np.isclose(array, want, rtol=rtol, atol=max(case.atol, noise, EPSILON.get(kind, 0)), equal_nan=True)
    if not wrong.any():
        return None
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{wrong.sum()} of {want.size} numbers, first {list(place)}: {array[place]}, not {want[place]}"


def judge(folder, number, case, expected, lines):
    """("passed" | "failed" | "skipped", why)"""
    for backend, what, why in lines:
        if what == "unsupported" and backend == "bind":
            return "skipped", why
        if what != "ok":
            return "failed", f"{backend}: {why}"
    if [line[0] for line in lines] != list(BACKENDS):
        return "failed", "it did not run"
    for backend in BACKENDS:
        outputs = read_tensors(f"{folder}/{number}.{backend}")
        if len(outputs) != len(expected):
            return "failed", f"{backend}: {len(outputs)} outputs, not {len(expected)}"
        for proto, got in zip(expected, outputs):
            wrong = differs(case, proto, got)
            if wrong:
                return "failed", f"{backend}: output '{proto.name}': {wrong}"
    return "passed", ""


def widen_tensor(tensor):
    if tensor.data_type in NARROWER:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def widen_graph(graph):
    """Floats become float64: ends, constants, casts, and the types in which statistics are taken."""
    for value in list(graph.input) + list(graph.output) + list(graph.value_info):
        if value.type.tensor_type.elem_type in NARROWER:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        widen_tensor(tensor)
    for node in graph.node:
        has_stash = any(a.name == "stash_type" for a in node.attribute)
        if node.op_type in ("LayerNormalization", "RMSNormalization", "GroupNormalization") and not has_stash:
            node.attribute.append(helper.make_attribute("stash_type", TensorProto.DOUBLE))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                widen_graph(a.g)
            elif a.type == onnx.AttributeProto.TENSOR:
                widen_tensor(a.t)
            elif a.name in ("to", "dtype", "stash_type", "softmax_precision", "output_datatype") and a.i in NARROWER:
                a.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
                values = np.array(a.f if a.name == "value_float" else list(a.floats), np.float64)
                a.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def check_gradients(program, folder, made):
    """How many cases have gradients that differences confirm, and what is wrong of the others."""
    confirmed, wrong = 0, []
    for number, (case, inputs) in enumerate(made):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        widen_graph(model.graph)
        with open(f"{folder}/{number}.onnx", "wb") as file:
            file.write(model.SerializeToString())
        for tensor in inputs:
            widen_tensor(tensor)
        write_tensors(f"{folder}/{number}.in", inputs)
    lines = run_all(program, folder, len(made), "gradients")
    for number, (case, _) in enumerate(made):
        _, what, why = lines[number][-1] if number in lines else ("", "failed", "it did not run")
        confirmed += what == "ok"
        if what == "failed":
            wrong.append(f"{case.name}: {why}")
    return confirmed, wrong


def operator(case):
    """The one that the case is for: that of its node, or of the function that was expanded."""
    if case.name.endswith("_expanded") or "_expanded_" in case.name:
        return "expanded functions"
    return case.model.graph.node[-1].op_type


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("-v", action="store_true")
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    table = collections.defaultdict(collections.Counter)
    total = collections.Counter()
    passed = []
    with tempfile.TemporaryDirectory(prefix="conformance") as folder:
        made = prepare(folder, asked.only)
        lines = run_all(asked.program, folder, len(made))
        for number, (case, expected) in enumerate(made):
            what, why = judge(folder, number, case, expected, lines.get(number, []))
            table[operator(case)][what] += 1
            total[what] += 1
            keeps_bits = any(n.op_type == "BitCast" for n in case.model.graph.node)  # no wider type has them
            if what == "passed" and not keeps_bits and not case.name.startswith(RANDOM):
                inputs, _ = case.data_sets[0]
                passed.append((case, [as_proto(v, i) for v, i in zip(inputs, case.model.graph.input)]))
            if what == "failed" or asked.v and what == "skipped":
                print(f"{what} {case.name}: {why.replace(folder + '/', '')}")
    with tempfile.TemporaryDirectory(prefix="conformance") as folder:
        confirmed, wrong = check_gradients(asked.program, folder, passed)
    for line in wrong:
        print(f"gradient {line}")
    print(f"{'operator':30} passed failed skipped")
    for name in sorted(table):
        print(f"{name:30} {table[name]['passed']:6} {table[name]['failed']:6} {table[name]['skipped']:7}")
    print(f"gradients of {confirmed} cases are confirmed by differences in float64, of {len(wrong)} not")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] or wrong or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
