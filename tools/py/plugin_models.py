"""Small models with low-bit products, their bytes packed here by the definitions, and what they compute in float64."""

import dataclasses

import numpy as np
import onnx
from checks import expect
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
            op = f"MatMulQ{self.bits}{'' if self.zeros else 'Sym'}"
        else:
            op, sizes = "MatMulNBits", sizes | {"bits": self.bits}
            if self.level is not None:
                sizes["accuracy_level"] = self.level
        return helper.make_node(op, inputs, [name], name=name, domain=self.domain, **sizes)


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


def model(weights, kind="f32", scales="f32", constant=True):
    """A model in which all weights read `x` and give `y0`, `y1`, ...; as a ModelProto."""
    nodes, tensors, k = [], [], weights[0].k
    for i, weight in enumerate(weights):
        nodes.append(weight.node(f"y{i}"))
        for at, tensor in weight.tensors(f"y{i}").items():
            wanted = TYPES[kind if at == 5 or weight.domain != "ai.qcc" else scales]
            if tensor.data_type == TensorProto.FLOAT and wanted != TensorProto.FLOAT:
                tensor = cast(tensor, wanted)
            tensors.append(tensor)
    inputs = [helper.make_tensor_value_info("x", TYPES[kind], ["batch", "rows", k])]
    if not constant:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
        tensors = []
    outputs = [helper.make_tensor_value_info(n.output[0], TYPES[kind], None) for n in nodes]
    return made(helper.make_graph(nodes, "products", inputs, outputs, tensors))


def made(graph):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.qcc", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


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


def branches(weight):
    """A product within both branches of an If, its weight outside of them."""
    tensors = list(weight.tensors("y0").values())
    graphs = {}
    for branch in ("then_branch", "else_branch"):
        node = weight.node("y0")
        node.output[0] = f"{branch}_y"
        out = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        graphs[branch] = helper.make_graph([node], branch, [], [out])
    node = helper.make_node("If", ["c"], ["y0"], **graphs)
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", weight.k]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)]
    return made(helper.make_graph([node], "branches", inputs, outputs, tensors))


def followed(weights, nodes, outputs, kind="f32", constants=()):
    """Products of `x` that give `y0`, `y1`, ..., nodes that read them, and values that are results of the graph.

    A node is its operator, its inputs, its output, and attributes if it has any.
    """
    source = model(weights, kind)
    graph = source.graph
    for op, inputs, output, *attributes in nodes:
        domain = "com.microsoft" if op in ("QuickGelu", "Gelu") else ""
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
