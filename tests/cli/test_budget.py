"""Small files that would be large: whatever a file says, its import ends soon, in little memory, in one line or done."""
import os
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
import common
from common import ONNXPIPE, CommandLineTest
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
with open(ONNXPIPE, "rb") as program:
    SANITIZED = b"__asan_init" in program.read()
SECONDS, BYTES = (60, None) if SANITIZED else (5, 512 << 20)
SEEDS = int(os.environ.get("ONNXPIPE_BUDGET_SEEDS", 40))
HUGE = [1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 33_000_000, 1 << 27, 1 << 31, 1 << 33, 1 << 40, 1 << 62]


class File:
    """A model of one input x [N,4] and one output, whose other nodes read constants alone."""

    def __init__(self, opset=17):
        self.nodes, self.constants, self.functions, self.opset, self.made = [], [], [], opset, 0

    def name(self):
        self.made += 1
        return f"v{self.made}"

    def constant(self, values, dtype=np.int64):
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op, *inputs, outputs=1, **attributes):
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{self.made}", **attributes))
        return names[0] if outputs == 1 else names

    def fill(self, shape, value=1.0, dtype=np.float32):
        return self.add("ConstantOfShape", self.constant(shape), value=numpy_helper.from_array(np.asarray([value], dtype)))

    def counts(self, *values):
        """The output: x and the sums of these."""
        y = "x"
        for value in values:
            total = self.add("ReduceSum", self.add("Cast", value, to=FLOAT), keepdims=0)
            y = self.add("Add", y, total)
        return y

    def write(self, path, y):
        self.nodes.append(helper.make_node("Mul", [y, "w"], ["y"], "last"))
        graph = helper.make_graph(self.nodes, "g", [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
                                  [helper.make_tensor_value_info("y", FLOAT, None)],
                                  [numpy_helper.from_array(np.ones(4, np.float32), "w"), *self.constants])
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("local", 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=self.functions)
        with open(path, "wb") as file:
            file.write(model.SerializeToString())


def reduce_prod(file, k=1, elements=10**12):
    return file.counts(*[file.add("ReduceProd", file.fill([elements // 10**6, 10**6], 1 + i)) for i in range(k)])


def reshapes(file, k=24, elements=33_000_000):
    t = file.fill([elements], 1, np.int64)
    return file.counts(*[file.add("Reshape", file.constant([1.0 + i], np.float32), t) for i in range(k)])


def sequences(file, k=24, parts=1 << 20):
    t = file.fill([parts], 1)
    made = [file.add("SplitToSequence", t, keepdims=i % 2) for i in range(k)]
    return file.counts(*[file.add("SequenceAt", s, file.constant(i)) for i, s in enumerate(made)])


def nonzeros(file, k=12, elements=8_000_000):
    return file.counts(*[file.add("NonZero", file.fill([elements - i, 1, 1, 1], 1, np.bool_)) for i in range(k)])


def doubling_functions(file, k=40, op="Relu"):
    for i in range(k):
        inner = [op, op] if i == 0 else [f"f{i - 1}"] * 2
        domain = "" if i == 0 else "local"
        nodes = [helper.make_node(inner[0], ["a"], ["t"], domain=domain), helper.make_node(inner[1], ["t"], ["b"], domain=domain)]
        imports = [helper.make_opsetid("", file.opset), helper.make_opsetid("local", 1)]
        file.functions.append(helper.make_function("local", f"f{i}", ["a"], ["b"], nodes, imports))
    name = file.name()
    file.nodes.append(helper.make_node(f"f{k - 1}", ["x"], [name], "call", domain="local"))
    return name


def long_names(file, k=12, length=1 << 16):
    """Prefixes grow with the depth of the calls, and each node inside has one."""
    for i in range(k):
        inner = ["Relu"] * 200 if i == 0 else [f"f{i - 1}"]
        values = ["a", *[f"t{j}" for j in range(len(inner))]]
        nodes = [helper.make_node(op, [values[j]], [values[j + 1]], chr(97 + i) * length if j == 0 else "s",
                                  domain="" if i == 0 else "local") for j, op in enumerate(inner)]
        imports = [helper.make_opsetid("", file.opset), helper.make_opsetid("local", 1)]
        file.functions.append(helper.make_function("local", f"f{i}", ["a"], [values[-1]], nodes, imports))
    y = "x"
    for i in range(20):
        name = file.name()
        file.nodes.append(helper.make_node(f"f{k - 1}", [y], [name], str(i) * length, domain="local"))
        y = name
    return y


def nested_ifs(file, k=20):
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["deepest"])], "b", [],
                               [helper.make_tensor_value_info("deepest", FLOAT, None)])
    for i in range(k):
        node = helper.make_node("If", ["yes"], [f"d{i}"], "n" * 1000, then_branch=branch, else_branch=branch)
        branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info(f"d{i}", FLOAT, None)])
        if branch.ByteSize() > 1 << 20:
            break
    file.constants.append(numpy_helper.from_array(np.asarray(True), "yes"))
    node = branch.node[0]
    file.nodes.append(node)
    return node.output[0]


def doubling_concats(file, k=50):
    t = file.constant([1.0, 2.0, 3.0], np.float32)
    for _ in range(k):
        t = file.add("Concat", t, t, axis=0)
    return file.counts(t)


def doubling_sequences(file, k=30):
    """A sequence of the parts of what the last one joined."""
    t = file.constant([1.0, 2.0], np.float32)
    for _ in range(k):
        s = file.add("SequenceConstruct", t, t)
        t = file.add("ConcatFromSequence", s, axis=0)
    return file.counts(t)


def functions_with_constants(file, k=4000, elements=100_000):
    value = numpy_helper.from_array(np.random.default_rng(1).normal(size=elements).astype(np.float32))
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("ReduceSum", ["c"], ["s"], keepdims=0),
             helper.make_node("Add", ["a", "s"], ["b"])]
    file.functions.append(helper.make_function("local", "f", ["a"], ["b"], nodes, [helper.make_opsetid("", file.opset)]))
    y = "x"
    for _ in range(k):
        name = file.name()
        file.nodes.append(helper.make_node("f", [y], [name], domain="local"))
        y = name
    return y


def many_unsupported(file, k=30_000):
    y = "x"
    for _ in range(k):
        y = file.add("Frobnicate", y)
    return y


def many_outputs(file, k=200, parts=2000):
    """Splits of the input: every part is a value, and none folds."""
    parts_of = [file.add("Split", file.add("Tile", "x", file.constant([1, parts])), outputs=parts, axis=1) for _ in range(k)]
    return parts_of[-1][0] if k else "x"


def costly_products(file, k=40, n=2000):
    t = file.add("MatMul", file.fill([n, n], 1), file.fill([n, n], 2))
    for _ in range(k):
        t = file.add("MatMul", t, file.fill([n, n], 2))
    return file.counts(t)


def wide_einsum(file, k=50):
    letters = "abcdefgh"
    t = [file.fill([9] * 8, 1 + i) for i in range(k)]
    return file.counts(file.add("Einsum", *t, equation=",".join([letters] * k) + "->" + letters))


def weights_spread_out(file, k=4, elements=1 << 32):
    """What a trained weight is repeated to."""
    return file.counts(*[file.add("Expand", "w", file.constant([elements, 4])) for _ in range(k)])


FILES = [reduce_prod, reshapes, sequences, nonzeros, doubling_functions, long_names, nested_ifs, doubling_concats,
         doubling_sequences, functions_with_constants, many_unsupported, many_outputs, costly_products, wide_einsum,
         weights_spread_out]


def drawn(file, rng):
    """A few nodes over constants, of any operator, most of them possible, with sizes drawn large and k copies of some."""
    def size():
        return rng.choice(HUGE[:rng.choice([2, 4, 8, len(HUGE)])] + [1, 2, 3])

    whole = [size() if rng.random() < 0.6 else rng.randint(1, 4) for _ in range(rng.randint(1, 4))]
    rank = len(whole)
    same, ends = [], []  # values of that shape; and of any other

    def value():
        return rng.choice(same) if same and rng.random() < 0.8 else file.fill(whole, rng.randint(0, 3))

    def line(n=None):
        return file.add("Cast", file.add("Range", file.constant(0), file.constant(n or size()), file.constant(1)), to=FLOAT)

    def elementwise():
        same.append(rng.choice([
            lambda: file.add(rng.choice(["Exp", "Log", "Erf", "Floor", "Round", "Softplus", "Sign", "Selu", "HardSwish", "Neg", "Sqrt",
                                         "Elu", "Mish" if file.opset > 17 else "Tanh"]), value()),
            lambda: file.add(rng.choice(["Add", "Mul", "Pow", "Div"]), value(), value()),
            lambda: file.add(rng.choice(["Max", "Sum", "Mean"]), *[value() for _ in range(rng.choice([1, 3, 100]))]),
            lambda: file.add("Where", file.add("Greater", value(), value()), value(), value()),
            lambda: file.add("CumSum", value(), file.constant(rng.randrange(rank))),
            lambda: file.add("Softmax", value()),
            lambda: file.add("Add", value(), line(whole[-1])),
            lambda: file.add("Trilu", value()) if rank > 1 else value(),
            lambda: file.add("LayerNormalization", value(), file.fill(whole[-1:])),
            lambda: file.add("Reshape", file.add("Reshape", value(), file.constant([-1])), file.constant(whole)),
            lambda: file.add("Clip", value(), "", file.constant(0.5, np.float32)),
        ])())

    def other():
        ends.append(rng.choice([
            lambda: file.add("Expand", value(), file.constant([size(), *whole])),
            lambda: file.add("Tile", value(), file.constant([size() for _ in whole])),
            lambda: line(),
            lambda: file.add("EyeLike", file.fill([size(), size()])),
            lambda: file.add("OneHot", file.fill(whole, 1, np.int64), file.constant(size()), file.constant([0.0, 1.0], np.float32)),
            lambda: file.add("Pad", value(), file.constant([size() for _ in range(2 * rank)]), file.constant(0.5, np.float32)),
            lambda: (lambda v: file.add("Concat", *[v] * rng.randint(1, 200), axis=0))(value()),
            lambda: file.add("Einsum", value(), value(), equation="...i,...i->..." + rng.choice(["", "i"])),
            lambda: file.add("Einsum", line(), line(), line(), equation="i,j,k->" + rng.choice(["ijk", "ij", "k"])),
            lambda: (lambda n: file.add(rng.choice(["MatMul", "Gemm"]), file.fill([n, n]), file.fill([n, size()])))(size()),
            lambda: file.add("Transpose", file.add("Add", value(), line(whole[-1]))),
            lambda: file.add("NonZero", value()),
            lambda: file.add("Gather", value(), file.fill([size(), 1], 0, np.int64), axis=rng.randrange(rank)),
            lambda: file.add("GatherElements", value(), file.fill(whole, 0, np.int64), axis=0),
            lambda: file.add("GatherND", value(), file.fill([size(), rank], 0, np.int64)),
            lambda: file.add(rng.choice(["ReduceProd", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp", "ReduceMean"]), value(),
                             keepdims=rng.randint(0, 1)),
            lambda: file.add("Reshape", value(), file.fill([size()], 1, np.int64)),
            lambda: file.add("Unsqueeze", value(), file.fill([size()], 0, np.int64)),
            lambda: file.add("Slice", value(), *[file.fill([size()], i, np.int64) for i in range(2)]),
            lambda: file.add("SequenceAt", file.add("SplitToSequence", value(), file.constant(size())), file.constant(0)),
            lambda: file.add("SequenceAt", file.add("SplitToSequence", value()), file.constant(0)),
            lambda: file.add("ConcatFromSequence", file.add("SequenceConstruct", *[value()] * rng.randint(1, 50)), axis=0, new_axis=1),
            lambda: file.add("Split", value(), outputs=rng.choice([1, 2, 128, 1024]), axis=0)[0],
            lambda: file.add("DepthToSpace", file.fill([size(), size(), size(), size()]), blocksize=rng.choice([1, 2, 1 << 9])),
            lambda: file.add("Add", file.add("Tile", "x", file.constant([1, min(size(), 1 << 16)])), file.fill([1])),  # what the user gave
            lambda: file.add("Size", value()),
        ])())

    for _ in range(rng.randint(0, 4)):
        elementwise()
    for _ in range(rng.randint(1, 2)):
        state = rng.getstate()
        for _ in range(rng.choice([1, 1, 10, 30])):  # copies, each of a constant of its own
            rng.setstate(state)
            other()
    return file.counts(*same[-3:], *ends)


class Budgets(CommandLineTest):
    def watched(self, *words):
        """One line or done, in time, in memory; the exit status."""
        begin = time.time()
        out = tempfile.TemporaryFile(dir=self.folder)
        self.addCleanup(out.close)
        run = subprocess.Popen([ONNXPIPE, *map(str, words)], stdout=subprocess.DEVNULL, stderr=out)
        timer = None
        while timer is None:
            pid, status, usage = os.wait4(run.pid, os.WNOHANG)
            if pid:
                timer = time.time() - begin
            elif time.time() - begin > 4 * SECONDS:
                run.kill()
                os.wait4(run.pid, 0)
                run.returncode = -9
                self.fail(f"no end in {4 * SECONDS} s: {words}")
            else:
                time.sleep(0.005)
        run.returncode = code = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode().splitlines()
        self.assertIn(code, (0, 1), said)
        if code:
            self.assertEqual(len(said), 1, said)
            self.assertRegex(said[0], "^onnxpipe: ")
        self.assertLess(min(timer, usage.ru_utime + usage.ru_stime), SECONDS, words)  # other programs may have the machine
        if BYTES:
            self.assertLess(usage.ru_maxrss << 10, BYTES, words)
        if os.environ.get("ONNXPIPE_BUDGET_PRINT"):
            print(f"{words[0]:8} {code} {timer:5.2f} s {usage.ru_utime + usage.ru_stime:5.2f} s {usage.ru_maxrss >> 10:4d} MB  {said[0][:150] if said else ''}", file=sys.stderr)
        return code

    def import_all(self, path):
        data = self.write_arrays("d.npz", x=np.ones((8, 4), np.float32))
        codes = [self.watched("inspect", path), self.watched("plan", path, "--ranks", 1, "--loss", "mse"),
                 self.watched("run", path, "--data", data, "--out", self.path("o.npz"))]
        return codes

    def test_files_that_are_refused(self):
        for build in FILES:
            with self.subTest(build.__name__):
                file = File()
                file.write(self.path("m.onnx"), build(file))
                codes = self.import_all(self.path("m.onnx"))
                if build in (reduce_prod, reshapes, sequences, nonzeros, doubling_functions, doubling_concats):
                    self.assertEqual(codes, [1, 1, 1])

    def test_a_bias_of_a_weight_that_is_not_there(self):
        """What an exporter dropped is made again, as large as the file says that the weight beside it is."""
        for size, refused in ((8, False), (1 << 34, True)):
            weight = TensorProto(name="l.weight", data_type=FLOAT, dims=[4, size], data_location=TensorProto.EXTERNAL)
            weight.external_data.add(key="location", value="absent.bin")
            node = helper.make_node("Gemm", ["x", "l.weight"], ["y"], "n")
            node.metadata_props.add(key="pkg.torch.onnx.fx_node", value=(
                "%y : [num_users=1] = call_function[target=torch.ops.aten.linear.default]"
                "(args = (%x, %p_l_weight, %p_l_bias), kwargs = {})"))
            graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
                                      [helper.make_tensor_value_info("y", FLOAT, None)], [weight])
            graph.metadata_props.add(key="pkg.torch.export.ExportedProgram.graph_signature", value=(
                "p_l_weight: PARAMETER target='l.weight'\np_l_bias: PARAMETER target='l.bias'\nx: USER_INPUT"))
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
            with open(self.path("m.onnx"), "wb") as file:
                file.write(model.SerializeToString())
            with self.subTest(size=size):
                self.assertEqual(self.watched("inspect", self.path("m.onnx")), int(refused))

    def test_drawn(self):
        for seed in range(SEEDS):
            rng = random.Random(seed)
            file = File(rng.choice([13, 17, 20]))
            file.write(self.path("m.onnx"), drawn(file, rng))
            with self.subTest(seed=seed):
                self.import_all(self.path("m.onnx"))


if __name__ == "__main__":
    common.main()
