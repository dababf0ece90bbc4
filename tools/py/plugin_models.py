"""Small models with low-bit products, their bytes packed here by the definitions, and what they compute in float64."""

import dataclasses

import numpy as np
import onnx
from checks import Failure, expect
from onnx import TensorProto, helper, numpy_helper

# Largest relative error: of the planes that a level stands for, with rows as short as these.
ERROR = {4: 2.5e-2, 2: 2e-4, 0: 2e-6, None: 2e-6}
TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclasses.dataclass
class Weight:
    """Codes [n][k] with scales and zero points per block."""

    n: int
    k: int
    bits: int
    block: int
    zeros: bool = False
    bias: bool = False
    level: int | None = None
    domain: str = "com.microsoft"
    seed: int = 0

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.blocks = -(-self.k // self.block)
        self.codes = rng.integers(0, 2**self.bits, (self.n, self.k), dtype=np.uint8)
        self.scales = (rng.uniform(0.5, 1.5, (self.n, self.blocks)) / 2**self.bits).astype(np.float32)
        self.points = rng.integers(0, 2**self.bits, (self.n, self.blocks), dtype=np.uint8)
        if not self.zeros:
            self.points[:] = 2 ** (self.bits - 1)
        self.added = rng.standard_normal(self.n).astype(np.float32) if self.bias else np.zeros(self.n, np.float32)

    def values(self):
        """[n][k] in float64."""
        spread = lambda a: np.repeat(a, self.block, 1)[:, : self.k].astype(np.float64)
        return (self.codes - spread(self.points)) * spread(self.scales)

    def apply(self, x):
        return x.astype(np.float64) @ self.values().T + self.added

    def suffix(self):
        return "" if self.zeros else "Sym"

    def tensors(self, name):
        """Initializers by the position of the input."""
        filled = np.repeat(self.points, self.block, 1)
        filled[:, : self.k] = self.codes
        if self.domain == "ai.qcc":
            found = {1: words(filled, self.bits).reshape(self.n, self.blocks, -1), 2: self.scales}
            if self.zeros:
                found[3] = self.points
        else:
            found = {1: fields(filled, self.bits).reshape(self.n, self.blocks, -1), 2: self.scales.reshape(-1)}
            if self.zeros:
                found[3] = fields(self.points, self.bits).reshape(-1)
            if self.bias:
                found[5] = self.added
        return {at: numpy_helper.from_array(a, f"{name}_{at}") for at, a in found.items()}

    def node(self, name, x="x"):
        inputs, tensors = [x], self.tensors(name)
        for at in range(1, max(tensors) + 1):
            inputs.append(tensors[at].name if at in tensors else "")
        sizes = {"K": self.k, "N": self.n, "block_size": self.block}
        if self.domain == "ai.qcc":
            op = f"MatMulQ{self.bits}{self.suffix()}"
        else:
            op, sizes = "MatMulNBits", sizes | {"bits": self.bits}
            if self.level is not None:
                sizes["accuracy_level"] = self.level
        return helper.make_node(op, inputs, [name], name=name, domain=self.domain, **sizes)


class Outliers(Weight):
    """One weight in `every` has another scale."""

    def __init__(self, n, k, bits, block, every=20, seed=0):
        super().__init__(n, k, bits, block, domain="ai.qcc", seed=seed)
        rng = np.random.default_rng(seed + 1000)
        self.own = (4 * rng.uniform(0.5, 1.5, (n, self.blocks)) / 2**bits).astype(np.float32)
        self.mask = rng.random((n, k)) < 1 / every

    def suffix(self):
        return "Outliers"

    def values(self):
        middle = self.codes.astype(np.float64) - 2 ** (self.bits - 1)
        spread = lambda a: np.repeat(a, self.block, 1)[:, : self.k].astype(np.float64)
        return middle * np.where(self.mask, spread(self.own), spread(self.scales))

    def places(self):
        """Places of outliers among all codes, as bytes of gaps."""
        rows, columns = np.nonzero(self.mask)
        last, found = -1, bytearray()
        for place in (rows * self.blocks * self.block + columns).tolist():
            found += bytes((place - last - 1) // 255) + bytes([(place - last - 1) % 255 + 1])
            last = place
        return np.frombuffer(bytes(found), np.uint8)

    def tensors(self, name):
        own = {3: self.own, 4: self.places()}
        return super().tensors(name) | {at: numpy_helper.from_array(a, f"{name}_{at}") for at, a in own.items()}


INTEGERS = {
    (2, False): TensorProto.UINT2,
    (2, True): TensorProto.INT2,
    (4, False): TensorProto.UINT4,
    (4, True): TensorProto.INT4,
    (8, False): TensorProto.UINT8,
    (8, True): TensorProto.INT8,
}


class Linear(Weight):
    """Codes that a DequantizeLinear reads, [k][n], or [n][k] and turned by a Transpose or by the product.

    op: MatMul, Gemm or FusedMatMul. block 0: one scale for each output.
    """

    def __init__(self, n, k, bits, block, zeros=False, bias=False, signed=False, turned=False, op="MatMul", seed=0):
        super().__init__(n, k, bits, block or k, zeros, bias, seed=seed)
        self.signed, self.turned, self.op, self.wide = signed, turned, op, not block
        if not zeros and not signed:
            self.points[:] = 0

    def order(self, values):
        return values if self.turned else values.T

    def tensors(self, name):
        kind = INTEGERS[self.bits, self.signed]
        middle = 2 ** (self.bits - 1) if self.signed else 0
        spread = (lambda a: a[:, 0]) if self.wide else self.order
        integers = lambda a, at: helper.make_tensor(f"{name}_{at}", kind, a.shape, (a.astype(int) - middle).reshape(-1))
        found = {1: integers(self.order(self.codes), 1), 2: numpy_helper.from_array(np.ascontiguousarray(spread(self.scales)), f"{name}_2")}
        if self.zeros:
            found[3] = integers(spread(self.points), 3)
        if self.bias:
            found[5] = numpy_helper.from_array(self.added, f"{name}_5")
        return found

    def nodes(self, name, x="x", steps=()):
        """steps: operators of one operand between DequantizeLinear and product, with their attributes."""
        inputs = [f"{name}_{at}" for at in (1, 2, 3) if at != 3 or self.zeros]
        spread = {"axis": int(self.turned) if not self.wide else int(not self.turned)}
        if not self.wide:
            spread["block_size"] = self.block
        found = [helper.make_node("DequantizeLinear", inputs, [f"{name}_w"], name=f"{name}_w", **spread)]
        if self.turned and self.op == "MatMul":
            steps = [*steps, ("Transpose", {"perm": [1, 0]})]
        for i, (op, attributes) in enumerate(steps):
            found.append(helper.make_node(op, [found[-1].output[0]], [f"{name}_w{i}"], name=f"{name}_w{i}", **attributes))
        product = [x, found[-1].output[0], *([f"{name}_5"] if self.bias and self.op == "Gemm" else [])]
        domain = "com.microsoft" if self.op == "FusedMatMul" else ""
        more = {"transB": int(self.turned)} if self.op != "MatMul" else {}
        found.append(helper.make_node(self.op, product, [name], name=name, domain=domain, **more))
        return found


def fields(codes, bits):
    """Codes of 2, 4 or 8 bits, low bits first, each row from a new byte."""
    per = 8 // bits
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // per) * per), np.uint8)
    padded[:, : codes.shape[1]] = codes
    parts = padded.reshape(codes.shape[0], -1, per)
    return sum(parts[:, :, i] << (i * bits) for i in range(per)).astype(np.uint8)


def words(codes, bits):
    """8 codes as one little-endian word of as many bytes as a code has bits."""
    eights = codes.reshape(-1, 8).astype(np.uint64)
    word = sum(eights[:, i] << np.uint64(i * bits) for i in range(8))
    return np.stack([(word >> np.uint64(8 * i)).astype(np.uint8) for i in range(bits)], 1)


def model(weights, kind="f32", scales="f32", constant=True, **steps):
    """A model in which all weights read `x` and give `y0`, `y1`, ...; as a ModelProto."""
    nodes, results, tensors, k = [], [], [], weights[0].k
    for i, weight in enumerate(weights):
        nodes += weight.nodes(f"y{i}", **steps) if isinstance(weight, Linear) else [weight.node(f"y{i}")]
        results.append(nodes[-1].output[0])
        for at, tensor in weight.tensors(f"y{i}").items():
            wanted = TYPES[kind if at == 5 or weight.domain != "ai.qcc" else scales]
            if tensor.data_type == TensorProto.FLOAT and wanted != TensorProto.FLOAT:
                tensor = cast(tensor, wanted)
            tensors.append(tensor)
    batch = [] if any(getattr(it, "op", "") == "Gemm" for it in weights) else ["batch"]
    inputs = [helper.make_tensor_value_info("x", TYPES[kind], [*batch, "rows", k])]
    if not constant:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
        tensors = []
    outputs = [helper.make_tensor_value_info(it, TYPES[kind], None) for it in results]
    return made(helper.make_graph(nodes, "products", inputs, outputs, tensors))


def made(graph):
    # Integers of 2 bits are younger than the others.
    short = any(t.data_type in (TensorProto.UINT2, TensorProto.INT2) for t in graph.initializer)
    opsets = [("", 25 if short else 21), ("com.microsoft", 1), ("ai.qcc", 1)]
    opsets = [helper.make_opsetid(*it) for it in opsets]
    return helper.make_model(graph, opset_imports=opsets, ir_version=13 if short else 10)


def with_functions(source, shaped=False):
    """The same model with bodies of ai.qcc that compute something else, so that it loads without the library.

    shaped: results are zeros of the right shape, not the activations.
    """
    ops = {(n.op_type, len(n.input)) for n in source.graph.node if n.domain == "ai.qcc"}
    for op, count in sorted(ops):
        inputs = ["A", "B", "S", *("OD" if op.endswith("Outliers") else "Z")][:count]
        nodes = [helper.make_node("Identity", ["A"], ["Y"])]
        if shaped:
            nodes = [helper.make_node("Constant", [], [f"{it}0"]) for it in "KN"]
            for node, it in zip(nodes, "KN"):
                node.attribute.append(onnx.AttributeProto(name="value_int", type=onnx.AttributeProto.INT, ref_attr_name=it))
            nodes += [
                helper.make_node("Constant", [], ["one"], value_ints=[1]),
                *(helper.make_node("Reshape", [f"{it}0", "one"], [it]) for it in "KN"),
                helper.make_node("Concat", ["K", "N"], ["sizes"], axis=0),
                helper.make_node("ConstantOfShape", ["sizes"], ["W"]),
                helper.make_node("MatMul", ["A", "W"], ["Y"]),
            ]
        opset = [helper.make_opsetid("", 21)]
        function = helper.make_function("ai.qcc", op, inputs, ["Y"], nodes, opset, ["K", "N", "block_size"])
        source.functions.append(function)
    return source


def fails(text, make):
    """Whether an exception says it."""
    try:
        make()
    except Exception as error:
        expect(text in str(error), f"'{text}' is not in '{error}'")
        return
    raise Failure(f"no error '{text}'")


def cast(tensor, to):
    """Scales as a shorter type. Values may be rounded: `rounded` does the same to the reference."""
    found = onnx.TensorProto(dims=tensor.dims, data_type=to, name=tensor.name)
    found.raw_data = short(numpy_helper.to_array(tensor), to).tobytes()
    return found


def short(values, to):
    if to == TensorProto.FLOAT16:
        return values.astype(np.float16)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def rounded(values, kind):
    """Values as they are after `cast`."""
    if kind == "f16":
        return values.astype(np.float16).astype(np.float32)
    if kind == "bf16":
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values


def branches(weight, inside=True):
    """A product within both branches of an If, its constants outside of them; inside: what makes a weight of them as well."""
    tensors = list(weight.tensors("y0").values())
    graphs, before = {}, []
    for branch in ("then_branch", "else_branch"):
        nodes = weight.nodes("y0") if isinstance(weight, Linear) else [weight.node("y0")]
        if not inside:
            before, nodes = nodes[:-1], nodes[-1:]
        nodes[-1].output[0] = f"{branch}_y"
        out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        graphs[branch] = helper.make_graph(nodes, branch, [], [out])
    node = helper.make_node("If", ["c"], ["y0"], **graphs)
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", weight.k]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)]
    return made(helper.make_graph([*before, node], "branches", inputs, outputs, tensors))


def followed(weights, nodes, outputs, kind="f32", constants=()):
    """Products of `x` that give `y0`, `y1`, ..., nodes that read them, and values that are results of the graph.

    A node is its operator, its inputs, its output, and attributes if it has any.
    """
    source = model(weights, kind)
    graph = source.graph
    for op, inputs, output, *attributes in nodes:
        domain = "com.microsoft" if op in ("QuickGelu", "Gelu", "FastGelu") else ""
        graph.node.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **dict(*attributes)))
    for name, values in constants:
        graph.initializer.append(numpy_helper.from_array(values, name))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TYPES[kind], None) for name in outputs)
    return source


def silu(y):
    return y / (1 + np.exp(-y))


def activations(k, rows, kind="f32", seed=7):
    x = np.random.default_rng(seed).standard_normal((1, rows, k)).astype(np.float32)
    return x.astype(np.float16) if kind == "f16" else x


def compare(got, want, most, what):
    error = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
    expect(np.isfinite(got).all() and error <= most, f"{what}: error {error:.2e} of at most {most:.0e}")
    return error
