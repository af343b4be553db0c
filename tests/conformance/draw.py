"""Random graphs of every operator: what tests/conformance/generated.py runs.

A graph is drawn node by node; onnxruntime computes each node at once, on the numbers that are there, so that the next one
is drawn for shapes that are known, and so that the expected numbers are onnxruntime's. A node that it refuses, or that gives
numbers that are not finite or too large to compare, is drawn anew."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
LARGEST = 4096  # elements

onnxruntime.set_default_logger_severity(4)

UNARY = (
    "Abs Neg Exp Sin Cos Tanh Sigmoid Relu Softplus Softsign Erf Sqrt:p Log:p Reciprocal:p Atan Asinh Sinh:u Cosh:u Tan:u "
    "Asin:u Acos:u Atanh:u Acosh:q Elu Selu Celu LeakyRelu HardSigmoid HardSwish Mish Gelu ThresholdedRelu Sign Ceil Floor Round "
    "Identity Shrink"
).split()
BINARY = "Add Sub Mul Div:p Pow:p Max Min Mod:f PRelu".split()
COMPARE = "Greater GreaterOrEqual Less LessOrEqual Equal".split()
REDUCE = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp ReduceProd ReduceLogSum:p".split()


class Value:
    def __init__(self, name, array):
        self.name, self.array = name, array

    @property
    def shape(self):
        return self.array.shape

    @property
    def rank(self):
        return self.array.ndim


class Draw:
    """A graph being drawn."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.values, self.weights, self.inputs = [], [], [], []
        self.count = 0

    # ---- numbers and values ----

    def pick(self, things):
        return things[int(self.random.integers(len(things)))]

    def between(self, low, high):
        return int(self.random.integers(low, high + 1))

    def chance(self, one_in):
        return self.random.integers(one_in) == 0

    def normal(self, *shape):
        return self.random.standard_normal(shape).astype(np.float32)

    def name(self):
        self.count += 1
        return f"v{self.count}"

    def given(self, array):
        """A new input of the graph."""
        value = Value(self.name(), array)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def weight(self, array):
        value = Value("w." + self.name(), np.asarray(array))
        self.weights.append(value)
        return value

    def any(self, least_rank=0, most_rank=8):
        """A float value of such a rank, mostly a late one; a new input where there is none."""
        fit = [v for v in self.values if least_rank <= v.rank <= most_rank and v.array.size and v.array.dtype == np.float32]
        if fit and not self.chance(8):
            return fit[-1] if self.chance(2) else self.pick(fit)
        return self.given(self.normal(*(self.between(1, 5) for _ in range(self.between(least_rank, min(most_rank, max(least_rank, 4)))))))

    def within(self, value, domain):
        """The value moved into a function's domain: u (-0.9 … 0.9), p (above 0.3), q (above 1.3)."""
        if domain == "u":
            (value,) = self.node("Mul", [self.node("Tanh", [value])[0], self.weight(np.float32(0.9))])
        elif domain in ("p", "q"):
            (value,) = self.node("Add", [self.node("Abs", [value])[0], self.weight(np.float32(0.3 if domain == "p" else 1.3))])
        return value

    # ---- nodes ----

    def node(self, op, inputs, outputs=1, domain="", **attributes):
        """A node on these values (None: absent), computed now; its outputs."""
        names = [self.name() for _ in range(outputs)]
        proto = helper.make_node(op, [v.name if v else "" for v in inputs], names, names[0] + "_" + op, domain=domain, **attributes)
        present = [v for v in inputs if v]
        unique = {v.name: v for v in present}
        graph = helper.make_graph(
            [proto],
            "one",
            [helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.array.dtype), v.shape) for v in unique.values()],
            [helper.make_empty_tensor_value_info(n) for n in names],
        )
        # structure has to be known: weights are initializers here, too
        for v in unique.values():
            if v in self.weights:
                graph.initializer.append(numpy_helper.from_array(v.array, v.name))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        arrays = session.run(None, {v.name: v.array for v in unique.values() if v not in self.weights})
        for array in arrays:
            if array.dtype.kind == "f" and (not np.isfinite(array).all() or (array.size and np.abs(array).max() > 1e4)):
                raise ValueError("numbers that cannot be compared")
            if array.size > LARGEST or array.ndim > 8:
                raise ValueError("too large")
        self.nodes.append(proto)
        made = [Value(n, a) for n, a in zip(names, arrays)]
        self.values += made
        return made

    def axis(self, value):
        axis = self.between(0, value.rank - 1)
        return axis - value.rank if self.chance(2) else axis

    def axes(self, value, least=1):
        n = self.between(least, value.rank)
        return sorted(int(a) for a in self.random.permutation(value.rank)[:n])

    def some(self, shape):
        """Values that broadcast to a shape: an input or a weight."""
        drop = self.between(0, len(shape))
        part = [1 if self.chance(3) else n for n in shape[drop:]]
        array = self.normal(*part)
        return self.weight(array) if self.chance(2) else self.given(array)


def apart(values, places=(0,)):
    """What jumps is asked only of numbers that are not near a jump: not near one another, or not near `places`."""
    numbers = np.sort(np.asarray(values, np.float64), axis=None)
    gaps = np.diff(numbers) if places is None else np.abs(numbers[:, None] - np.asarray(places)).ravel()
    if gaps.size and gaps.min() < 1e-4:
        raise ValueError("near a jump")


# ---- one function a kind of node ----


def unary(d):
    op, _, domain = d.pick(UNARY).partition(":")
    x = d.within(d.any(), domain)
    attributes = {}
    if op in ("Sign", "Ceil", "Floor", "Round", "Shrink", "ThresholdedRelu"):
        apart(x.array * 10, np.arange(-100, 101))
    if op in ("Elu", "Celu", "LeakyRelu", "ThresholdedRelu") and d.chance(2):
        attributes["alpha"] = 0.3
    if op == "Gelu" and d.chance(2):
        attributes["approximate"] = "tanh"
    if op == "Shrink":
        attributes = dict(lambd=0.4, bias=float(d.pick([0, 0.2])))
    d.node(op, [x], **attributes)


def binary(d):
    op, _, domain = d.pick(BINARY).partition(":")
    a = d.any()
    b = d.some(a.shape)
    attributes = {}
    if op == "Div":
        b = d.within(b, "p")
    if op == "Pow":
        a = d.within(a, "p")
    if op == "Mod":
        attributes["fmod"] = 1
        b = d.within(b, "p")
    if op == "PRelu":
        b = d.weight(d.normal(*b.shape))
    d.node(op, [a, b] if op in ("Div", "Pow", "Mod", "PRelu") or d.chance(2) else [b, a], **attributes)


def variadic(d):
    a = d.any()
    d.node(d.pick("Sum Mean Max Min".split()), [a, d.some(a.shape), d.some(a.shape)])


def compare(d):
    a = d.any()
    b = d.some(a.shape)
    apart(a.array - b.array)
    (c,) = d.node(d.pick(COMPARE), [a, b])
    if d.chance(3):
        (c,) = d.node("Not", [c])
    if d.chance(3):
        other = d.any()
        d.node("Cast", [c], to=TensorProto.FLOAT)
        del other
    else:
        d.node("Where", [c, a, d.some(a.shape)])


def reduce(d):
    op, _, domain = d.pick(REDUCE).partition(":")
    x = d.within(d.any(1), domain)
    axes = None if d.chance(4) else d.weight(np.int64(d.axes(x)))
    d.node(op, [x, axes] if axes else [x], keepdims=d.between(0, 1))


def reshape(d):
    x = d.any(1)
    total, shape = x.array.size, []
    while total > 1 and len(shape) < 4:
        n = d.pick([k for k in range(1, total + 1) if total % k == 0])
        shape.append(n)
        total //= n
    shape.append(total)
    if d.chance(2):
        shape[d.between(0, len(shape) - 1)] = -1
    d.node("Reshape", [x, d.weight(np.int64(shape))])


def transpose(d):
    x = d.any(1)
    d.node("Transpose", [x], perm=[int(a) for a in d.random.permutation(x.rank)])


def squeeze(d):
    x = d.any(0, 4)
    axes = sorted(set(d.between(0, x.rank + 1) for _ in range(2)))
    (y,) = d.node("Unsqueeze", [x, d.weight(np.int64(axes))])
    if d.chance(2):
        ones = [a for a in range(y.rank) if y.shape[a] == 1]
        d.node("Squeeze", [y, d.weight(np.int64(ones[:1]))])


def flatten(d):
    x = d.any(1)
    d.node("Flatten", [x], axis=d.between(0, x.rank))


def slices(d):
    x = d.any(1)
    axes = d.axes(x)
    starts, ends, steps = [], [], []
    for a in axes:
        step = d.pick([1, 1, 2, -1, -2])
        n = x.shape[a]
        low, high = sorted((d.between(0, n - 1), d.between(0, n)))
        high = max(high, low + 1)
        starts.append(low if step > 0 else high - 1)
        ends.append(high if step > 0 else (low - 1 if low else -n - 1))
        steps.append(step)
    d.node("Slice", [x] + [d.weight(np.int64(v)) for v in (starts, ends, axes, steps)])


def concat(d):
    x = d.any(1)
    axis = d.axis(x)
    other = list(x.shape)
    other[axis] = d.between(1, 3)
    d.node("Concat", [x, d.given(d.normal(*other)), x][: d.between(2, 3)], axis=axis)


def split(d):
    x = d.any(1)
    axis = d.axis(x)
    n = x.shape[axis]
    if n < 2:
        raise ValueError("one place")
    first = d.between(1, n - 1)
    d.node("Split", [x, d.weight(np.int64([first, n - first]))], outputs=2, axis=axis)


def expand(d):
    x = d.any(0, 4)
    shape = [d.between(1, 3) if n == 1 else n for n in x.shape]
    shape = [d.between(1, 3) for _ in range(d.between(0, 1))] + shape
    d.node("Expand", [x, d.weight(np.int64(shape))])


def tile(d):
    x = d.any(1, 4)
    d.node("Tile", [x, d.weight(np.int64([d.between(1, 3) for _ in x.shape]))])


def pad(d):
    x = d.any(1, 5)
    mode = d.pick(["constant", "reflect", "edge", "wrap"])
    most = [min(3, n - 1) if mode == "reflect" else min(3, n) for n in x.shape]
    pads = [d.between(0, m) for m in most] + [d.between(0, m) for m in most]
    inputs = [x, d.weight(np.int64(pads))]
    if mode == "constant" and d.chance(2):
        inputs.append(d.weight(np.float32(0.7)))
    d.node("Pad", inputs, mode=mode)


def gather(d):
    x = d.any(1)
    axis = d.axis(x)
    index = d.random.integers(-x.shape[axis], x.shape[axis], tuple(d.between(1, 3) for _ in range(d.between(0, 2))))
    d.node("Gather", [x, d.given(np.int64(index)) if d.chance(2) else d.weight(np.int64(index))], axis=axis)


def gather_elements(d):
    x = d.any(1, 4)
    axis = d.axis(x)
    shape = [d.between(1, n) for n in x.shape]
    shape[axis] = d.between(1, 4)
    index = np.int64(d.random.integers(-x.shape[axis], x.shape[axis], shape))
    d.node("GatherElements", [x, d.given(index)], axis=axis)


def gather_nd(d):
    x = d.any(1, 4)
    depth = d.between(1, x.rank)
    rows = d.between(1, 4)
    index = np.stack([d.random.integers(0, x.shape[a], rows) for a in range(depth)], 1)
    d.node("GatherND", [x, d.given(np.int64(index))])


def scatter_elements(d):
    x = d.any(1, 4)
    axis = d.axis(x)
    shape = [d.between(1, n) for n in x.shape]
    reduction = d.pick(["none", "add", "mul", "max", "min"])
    if reduction == "none":  # each place once: which of several is written last is nobody's to say
        index = np.argsort(d.random.random([x.shape[a] if a == axis % x.rank else n for a, n in enumerate(shape)]), axis)
        index = index.take(range(shape[axis]), axis)
    else:
        index = d.random.integers(-x.shape[axis], x.shape[axis], shape)
    d.node("ScatterElements", [x, d.given(np.int64(index)), d.given(d.normal(*shape))], axis=axis, reduction=reduction)


def scatter_nd(d):
    x = d.any(1, 3)
    reduction = d.pick(["none", "add", "mul", "max", "min"])
    rows = d.between(1, x.shape[0])
    index = d.random.permutation(x.shape[0])[:rows] if reduction == "none" else d.random.integers(0, x.shape[0], rows)
    d.node("ScatterND", [x, d.given(np.int64(index)[:, None]), d.given(d.normal(rows, *x.shape[1:]))], reduction=reduction)


def top_k(d):
    x = d.any(1, 4)
    apart(x.array, None)
    axis = d.axis(x)
    d.node("TopK", [x, d.weight(np.int64([d.between(1, x.shape[axis])]))], outputs=2, axis=axis, largest=d.between(0, 1))


def arg(d):
    x = d.any(1)
    apart(x.array, None)
    (y,) = d.node(d.pick(["ArgMax", "ArgMin"]), [x], axis=d.axis(x), keepdims=d.between(0, 1), select_last_index=d.between(0, 1))
    d.node("Cast", [y], to=TensorProto.FLOAT)


def one_hot(d):
    index = d.given(np.int64(d.random.integers(-4, 4, tuple(d.between(1, 3) for _ in range(d.between(1, 2))))))
    d.node("OneHot", [index, d.weight(np.int64(4)), d.weight(np.float32([0.1, 0.9]))], axis=d.pick([-1, 0]))


def cumulative(d):
    x = d.any(1)
    d.node("CumSum", [x, d.weight(np.int64(d.axis(x)))], exclusive=d.between(0, 1), reverse=d.between(0, 1))


def trilu(d):
    d.node("Trilu", [d.any(2), d.weight(np.int64(d.between(-2, 2)))], upper=d.between(0, 1))


def softmax(d):
    x = d.any(1)
    op = d.pick(["Softmax", "LogSoftmax", "Hardmax"])
    if op == "Hardmax":
        apart(x.array, None)
    d.node(op, [x], axis=d.axis(x))


def layer_norm(d):
    x = d.any(1)
    axis = d.between(0, x.rank - 1)
    tail = x.shape[axis:]
    inputs = [x, d.weight(d.normal(*tail))] + ([d.weight(d.normal(*tail))] if d.chance(2) else [])
    d.node("LayerNormalization", inputs, axis=axis, epsilon=0.1)


def channels(d, least_rank=3, most_rank=5):
    x = d.any(least_rank, most_rank)
    return x, x.shape[1]


def instance_norm(d):
    x, c = channels(d)
    d.node("InstanceNormalization", [x, d.weight(d.normal(c)), d.weight(d.normal(c))], epsilon=0.1)


def group_norm(d):
    x, c = channels(d)
    groups = d.pick([g for g in range(1, c + 1) if c % g == 0])
    d.node("GroupNormalization", [x, d.weight(d.normal(c)), d.weight(d.normal(c))], num_groups=groups, epsilon=0.1)


def batch_norm(d):
    x, c = channels(d, 2)
    d.node("BatchNormalization", [x] + [d.weight(d.normal(c)) for _ in range(3)] + [d.weight(0.5 + np.abs(d.normal(c)))])


def other_norm(d):
    if d.chance(2):
        x = d.any(1)
        d.node("LpNormalization", [d.within(x, "p")], axis=d.axis(x), p=d.between(1, 2))
    elif d.chance(2):
        x, _ = channels(d, 4, 4)
        d.node("LRN", [x], size=d.pick([1, 3, 5]), alpha=0.1)
    else:
        x = d.any(4, 4)
        if x.array.var((0, 2, 3)).min() < 1e-3:  # of equal numbers the difference from their mean is rounding alone
            raise ValueError("a channel without variance")
        d.node("MeanVarianceNormalization", [x], axes=[0, 2, 3])


def product(d):
    x = d.any(1, 4)
    k, n = x.shape[-1], d.between(1, 4)
    if d.chance(2):
        d.node("MatMul", [x, d.weight(d.normal(k, n))])
    else:
        batch = x.shape[:-2] if x.rank > 2 else ()
        d.node("MatMul", [x, d.given(d.normal(*batch, k, n))])


def gemm(d):
    x = d.any(2, 2)
    turned, other = d.between(0, 1), d.between(0, 1)
    m, k = x.shape[::-1] if turned else x.shape
    n = d.between(1, 4)
    inputs = [x, d.weight(d.normal(n, k) if other else d.normal(k, n))]
    if d.chance(2):
        inputs.append(d.weight(d.normal(*d.pick([(), (n,), (1, n), (m, 1), (m, n)]))))
    d.node("Gemm", inputs, transA=turned, transB=other, alpha=0.5, beta=2.0)


def einsum(d):
    equation, a, b = d.pick([
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)), ("ij,kj->ik", (3, 4), (2, 4)), ("bhqd,bhkd->bhqk", (1, 2, 3, 4), (1, 2, 2, 4)),
        ("i,j->ij", (3,), (4,)), ("bij,j->bi", (2, 3, 4), (4,)), ("ij,ij->", (3, 4), (3, 4)), ("abc,cd->abd", (2, 3, 4), (4, 2))])
    d.node("Einsum", [d.given(d.normal(*a)), d.weight(d.normal(*b))], equation=equation)


def window(d, x, dilates=True):
    """kernel, strides, pads, dilations that fit x."""
    spatial = x.shape[2:]
    kernel = [d.between(1, min(3, n)) for n in spatial]
    dilations = [d.between(1, 2) if dilates and k > 1 and (k - 1) * 2 + 1 <= n else 1 for k, n in zip(kernel, spatial)]
    pads = [d.between(0, k - 1) for k in kernel] + [d.between(0, k - 1) for k in kernel]
    return dict(kernel_shape=kernel, strides=[d.between(1, 2) for _ in kernel], pads=pads, dilations=dilations)


def convolution(d):
    x, c = channels(d)
    attributes = window(d, x)
    group = d.pick([g for g in range(1, c + 1) if c % g == 0])
    m = group * d.between(1, 2)
    inputs = [x, d.weight(d.normal(m, c // group, *attributes["kernel_shape"]))]
    if d.chance(2):
        inputs.append(d.weight(d.normal(m)))
    if d.chance(4):
        attributes.pop("pads")
        attributes["auto_pad"] = d.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if attributes["auto_pad"] != "VALID":
            attributes["dilations"] = [1] * len(attributes["dilations"])
    d.node("Conv", inputs, group=group, **attributes)


def deconvolution(d):
    x, c = channels(d)
    attributes = window(d, x)
    group = d.pick([g for g in range(1, c + 1) if c % g == 0])
    m = d.between(1, 2)
    inputs = [x, d.weight(d.normal(c, m, *attributes["kernel_shape"]))]
    if d.chance(2):
        inputs.append(d.weight(d.normal(m * group)))
    if d.chance(2):
        attributes["output_padding"] = [d.between(0, s - 1) for s in attributes["strides"]]
    d.node("ConvTranspose", inputs, group=group, **attributes)


def pool(d):
    x, _ = channels(d)
    attributes = window(d, x)
    op = d.pick(["MaxPool", "AveragePool", "LpPool"])
    if op == "LpPool":
        attributes.pop("dilations")
    if op == "AveragePool":
        attributes.pop("dilations")
        attributes["count_include_pad"] = d.between(0, 1)
    d.node(op, [x], **attributes)


def global_pool(d):
    x, _ = channels(d)
    d.node(d.pick(["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"]), [x])


def resize(d):
    x = d.any(3, 4)
    # what the specification and onnxruntime read differently is left out: lengths that are rounded, lengths of 1
    sizes = [n * d.between(1, 2) if d.chance(2) else max(2, n - 1) for n in x.shape[2:]]
    scales = d.weight(np.float32([1, 1] + [d.pick([1, 2, 3]) for _ in sizes]))
    sizes = d.weight(np.int64(list(x.shape[:2]) + sizes))
    mode = d.pick(["nearest", "linear"] + (["cubic"] if x.rank == 4 else []))
    attributes = dict(mode=mode, coordinate_transformation_mode=d.pick(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]))
    if mode == "nearest":
        attributes["nearest_mode"] = d.pick(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
    if mode == "cubic":
        attributes["cubic_coeff_a"] = -0.75
    d.node("Resize", [x, None, None, sizes] if d.chance(2) else [x, None, scales], **attributes)


def grid_sample(d):
    x = d.any(4, 4)
    if min(x.shape[2:]) < 2:
        raise ValueError("between the corners of one place is nothing")
    grid = d.given((d.random.random((x.shape[0], 2, 3, 2)) * 2.4 - 1.2).astype(np.float32))
    mode, padding = d.pick(["linear", "nearest", "cubic"]), d.pick(["zeros", "border", "reflection"])
    if mode == "cubic" and padding == "border":  # the specification moves each of the 16 places, onnxruntime the point
        padding = "reflection"
    d.node("GridSample", [x, grid], mode=mode, padding_mode=padding, align_corners=d.between(0, 1))


def blocks(d):
    if d.chance(2):
        d.node("DepthToSpace", [d.given(d.normal(1, 8, 2, 3))], blocksize=2, mode=d.pick(["DCR", "CRD"]))
    else:
        d.node("SpaceToDepth", [d.given(d.normal(1, 2, 4, 6))], blocksize=2)


def recurrent(d):
    op, gates = d.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    steps, n, size, hidden = (d.between(1, 4) for _ in range(4))
    direction = d.pick(["forward", "reverse", "bidirectional"])
    ways = 2 if direction == "bidirectional" else 1
    inputs = [d.given(d.normal(steps, n, size)), d.weight(d.normal(ways, gates * hidden, size)), d.weight(d.normal(ways, gates * hidden, hidden))]
    inputs.append(d.weight(d.normal(ways, 2 * gates * hidden)) if d.chance(2) else None)
    inputs.append(d.weight(np.int32(d.random.integers(1, steps + 1, n))) if d.chance(3) else None)
    attributes = dict(linear_before_reset=d.between(0, 1)) if op == "GRU" else {}
    d.node(op, inputs, outputs=3 if op == "LSTM" else 2, hidden_size=hidden, direction=direction, **attributes)


def signals(d):
    x = d.given(d.normal(d.between(1, 2), d.between(2, 9), d.between(1, 2)))
    inverse = d.between(0, 1)
    onesided = 0 if inverse or x.shape[2] == 2 else d.between(0, 1)
    (y,) = d.node("DFT", [x, None, d.weight(np.int64(1))], inverse=inverse, onesided=onesided)
    d.node("Add", [y, d.given(d.normal(*y.shape))])
    d.values.remove(y)  # of what is 0 but for rounding nobody shall ask which is largest


def casts(d):
    x = d.any()
    apart(x.array, np.arange(-100, 101))
    to = d.pick([TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT16])
    if to == TensorProto.FLOAT16:  # between two of its numbers it jumps, too
        near = 3e-6 * np.maximum(1, np.abs(x.array))
        if ((x.array - near).astype(np.float16) != (x.array + near).astype(np.float16)).any():
            raise ValueError("near a jump")
    (y,) = d.node("Cast", [x], to=to)
    d.node("Cast", [y], to=TensorProto.FLOAT)


def clip(d):
    d.node("Clip", [d.any(), d.weight(np.float32(-0.6)), d.weight(np.float32(0.8))])


KINDS = [
    unary, unary, unary, binary, binary, variadic, compare, reduce, reduce, reshape, transpose, squeeze, flatten, slices, concat, split,
    expand, tile, pad, gather, gather_elements, gather_nd, scatter_elements, scatter_nd, top_k, arg, one_hot, cumulative, trilu, softmax,
    layer_norm, instance_norm, group_norm, batch_norm, other_norm, product, product, gemm, einsum, convolution, convolution,
    deconvolution, pool, global_pool, resize, grid_sample, blocks, recurrent, signals, casts, clip,
]  # fmt: skip


def draw(seed):
    """(model, inputs, expected outputs), ever the same for a seed and an onnxruntime."""
    d = Draw(seed)
    wanted = d.between(1, 6)
    tries = 0
    while len(d.nodes) < wanted and tries < 60:
        before = len(d.nodes), len(d.values), len(d.weights), len(d.inputs)
        tries += 1
        try:
            d.pick(KINDS)(d)
        except Exception:  # refused: as if nothing had been drawn
            del d.nodes[before[0] :], d.values[before[1] :], d.weights[before[2] :], d.inputs[before[3] :]
    read = {name for node in d.nodes for name in node.input}
    made = [v for v in d.values if v not in d.inputs]
    ends = [v for v in made if v.name not in read] or made[-1:]
    inputs = [v for v in d.inputs if v.name in read]
    info = lambda v: helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.array.dtype), v.shape)
    graph = helper.make_graph(d.nodes, f"seed {seed}", [info(v) for v in inputs], [info(v) for v in ends],
                              [numpy_helper.from_array(v.array, v.name) for v in d.weights if v.name in read])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model, [v.array for v in inputs], [v.array for v in ends]
