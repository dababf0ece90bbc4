"""What a quantized file keeps of its float model, what it stores, and how ONNX Runtime takes it."""

import collections
import os
import tempfile

import checks
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper


def graphs(model):
    """The graph and all bodies inside its nodes."""
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            for a in node.attribute:
                found += [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs
    return found


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def losses(before, after):
    """What `after`, made from `before`, fails to keep: a list of texts, empty if all is well."""
    found = []
    old, new = (onnx.load(path) for path in (before, after))

    def interface(model):
        own = {t.name for t in model.graph.initializer}
        inputs = [v.SerializeToString(deterministic=True) for v in model.graph.input if v.name not in own]
        return inputs, [v.SerializeToString(deterministic=True) for v in model.graph.output]

    for what, a, b in zip(("inputs", "outputs"), interface(old), interface(new)):
        if a != b:
            found.append(f"{what} differ")
    metadata = [{p.key: p.value for p in m.metadata_props} for m in (old, new)]
    if not metadata[0].items() <= metadata[1].items():
        found.append("metadata of the model is lost")

    def initializers(model):
        return {t.name: t for g in graphs(model) for t in g.initializer}

    def content(t):
        return t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes()

    mine, theirs = initializers(new), initializers(old)
    found += [f"initializer {n} has other contents" for n in mine if n in theirs and content(mine[n]) != content(theirs[n])]

    def replaceable(model):
        return {v.name for v in model.graph.input if v.name in initializers(model)} if model.ir_version > 3 else set()

    found += [f"a caller may replace {n} now" for n in sorted(replaceable(new) - replaceable(old))]

    def idle(model):
        used = {name for node in checks.nodes(model) for name in node.input}
        used |= {o.name for g in graphs(model) for o in g.output}
        return {name for name in initializers(model) if name not in used}

    found += [f"nothing reads initializer {n}" for n in sorted(idle(new) - idle(old))]

    def names(model):
        return collections.Counter(n.name for g in graphs(model) for n in g.node if n.name)

    count = names(old)
    found += [f"{c} nodes are named {n}" for n, c in names(new).items() if c > max(count[n], 1)]
    kept = {n.output[0]: n for g in graphs(new) for n in g.node if n.output}
    for node in (n for g in graphs(old) for n in g.node if n.output and n.output[0] in kept):
        now = kept[node.output[0]]
        lost = {p.key: p.value for p in node.metadata_props}.items() - {p.key: p.value for p in now.metadata_props}.items()
        if lost or now.doc_string != node.doc_string:
            found.append(f"node {node.name} lost {sorted(k for k, _ in lost) or 'its text'}")
    return found


class Stored:
    """A quantized weight in a file: the node that reads it; codes, scales and, if any, zero points."""

    def __init__(self, node, tensors):
        self.node, self.tensors = node, tensors
        self.name = tensors[0].name
        self.block = attributes(node).get("block_size", 0)

    @property
    def bytes(self):
        return sum(len(t.raw_data) for t in self.tensors)

    def decoded(self, k):
        """The floats [N, K] that a product's codes stand for: (code - zero point) * scale, in float32."""
        codes, scales, *zeros = (numpy_helper.to_array(t) for t in self.tensors)
        scales = scales.astype(np.float32)
        if self.node.op_type == "DequantizeLinear":
            codes, scales = codes.astype(np.int32).T, np.atleast_2d(scales).T
            zeros = np.atleast_2d(zeros[0]).astype(np.int32).T if zeros else np.zeros(scales.shape, np.int32)
            block = self.block or k
        else:
            n, blocks, width = codes.shape
            block, bits = self.block, 8 * width // self.block
            codes = fields(codes.reshape(n, -1), bits)
            if not zeros:
                zeros = np.full((n, blocks), 1 << (bits - 1), np.int32)
            else:
                zeros = fields(zeros[0], bits)[:, :blocks] if self.node.op_type == "MatMulNBits" else zeros[0].astype(np.int32)
        spread = [np.repeat(x, block, axis=1)[:, :k] for x in (zeros, scales)]
        return (codes[:, :k] - spread[0]).astype(np.float32) * spread[1]


def fields(rows, bits):
    """Codes of so many bits in rows of bytes, low bits first."""
    every = np.unpackbits(rows, axis=1, bitorder="little")
    every = every[:, : every.shape[1] // bits * bits].reshape(len(rows), -1, bits).astype(np.int32)
    return every @ (1 << np.arange(bits, dtype=np.int32))


def stored(model):
    """Every quantized weight of a loaded model, each initializer of codes once."""
    tensors = {t.name: t for g in graphs(model) for t in g.initializer}
    made_by = {name: n for n in checks.nodes(model) for name in n.output}
    found = {}
    for node in checks.nodes(model):
        if node.op_type == "DequantizeLinear" or node.op_type == "GatherBlockQuantized":
            codes, rest = node.input[0], node.input[1:3] if node.op_type == "DequantizeLinear" else node.input[2:4]
        elif node.op_type == "MatMulNBits" or node.domain == "ai.qcc":
            codes, rest = node.input[1], node.input[2:4]
        else:
            continue
        while codes in made_by and made_by[codes].op_type == "Reshape":
            codes = made_by[codes].input[0]
        if codes in tensors and len(tensors[codes].dims) > 1:
            parts = [tensors[n] for n in (codes, *rest) if n in tensors]
            found.setdefault(codes, Stored(node, parts))
    return list(found.values())


def optimized(path, config=()):
    """The model as ONNX Runtime runs it after its optimizations, without the contents of tensors outside of it."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = os.path.join(folder, "model.onnx")
        key = "session.optimized_model_external_initializers_file_name"
        for key, value in ((key, "model.onnx.data"), *config):
            options.add_session_config_entry(key, value)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def speed_path(path, config=()):
    """How many MatMulNBits ONNX Runtime makes of a file, how many of them have no fast kernel, how many dequantizers stay.

    Slow in 1.31: 2 and 8 bits at another level than 4, 2 bits in blocks of 16 or 256, zero points that are floats,
    and any order of groups.
    """
    model = optimized(path, config)
    types = {t.name: t for g in graphs(model) for t in g.initializer}
    fused = slow = left = 0
    for node in checks.nodes(model):
        if node.op_type == "MatMulNBits":
            fused += 1
            a, inputs = attributes(node), [*node.input, "", "", ""]
            bits = a.get("bits", 4)
            zeros = types.get(inputs[3])
            slow += bool(
                (bits != 4 and a.get("accuracy_level", 0) != 4)
                or (bits == 2 and a["block_size"] in (16, 256))
                or (zeros is not None and zeros.data_type != TensorProto.UINT8)
                or inputs[4]
            )
        elif node.op_type == "DequantizeLinear" and len(getattr(types.get(node.input[0]), "dims", ())) > 1:
            left += 1
    return {"fused": fused, "slow": slow, "left": left}


def far(got, want, size):
    """Largest |got - want| / size; infinite where a value is not finite or shapes differ."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not (np.isfinite(got).all() and np.isfinite(want).all()):
        return float("inf")
    return float(np.abs(got - want).max() / max(size, 1e-30))
