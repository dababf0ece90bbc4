"""Small models with products and tables of chosen sizes, and what is known about them beforehand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BITS, BLOCKS, OUTPUTS = (2, 3, 4, 8), (16, 32, 64, 128, 256, "row"), (1, 3, 4, 17, 192)
# K: a multiple of all blocks, and one that leaves an odd number of blocks, the last of them not full. Products of few
# outputs need more of it: below 4096 elements a weight is left in float.
WHOLE, RAGGED = {False: 512, True: 1536}, {False: 522, True: 1546}
SHORT = {16: 15, 32: 22, 64: 50, 128: 100, 256: 250, "row": 100}  # K below the block
TYPES = {"f32": np.float32, "f16": np.float16}
KINDS = ("MatMul", "MatMul + Add", "Gemm")
FEW = 4  # outputs, over which a maximum says little
FIELD = {2: 2, 3: 4, 4: 4, 8: 8}
IR, OPSET = 10, 21


def weight(rng, k, n, dtype):
    """Rows of different sizes, some of them off zero."""
    w = rng.standard_normal((k, n)) * rng.uniform(0.01, 0.1, n) + rng.choice([0, 0.02], n)
    return w.astype(dtype)


def save(path, products, dtype, opset=OPSET, ir=IR):
    """A model of products (name, k, n, kind), each with an output of its own name; returns path."""
    rng = np.random.default_rng(5)
    nodes, tensors, outputs = [], [], []
    tensor_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for name, k, n, kind in products:
        w, bias = weight(rng, k, n, dtype), rng.standard_normal(n).astype(dtype)
        left, right = f"a{k}", f"{name}_w"
        if kind == "Gemm":
            w = np.ascontiguousarray(w.T)
            made = [helper.make_node("Gemm", [left, right, f"{name}_b"], [name], name=name, transB=1)]
        elif kind == "MatMul":
            made = [helper.make_node("MatMul", [left, right], [name], name=name)]
        else:
            made = [
                helper.make_node("MatMul", [left, right], [f"{name}_0"], name=name),
                helper.make_node("Add", [f"{name}_0", f"{name}_b"], [name], name=f"{name}_add"),
            ]
        tensors.append(numpy_helper.from_array(w, right))
        if kind != "MatMul":
            tensors.append(numpy_helper.from_array(bias, f"{name}_b"))
        for node in made:
            node.doc_string = f"text of {node.name}"
            node.metadata_props.add(key="layer", value=name)
        nodes += made
        outputs.append(helper.make_tensor_value_info(name, tensor_type, ["m", n]))
    inputs = [helper.make_tensor_value_info(f"a{k}", tensor_type, ["m", k]) for k in sorted({p[1] for p in products})]
    graph = helper.make_graph(nodes, "products", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, path)
    return path


def reason(k, n):
    """Why a weight is left in float, as qcc puts it, or None."""
    if n == 1:
        return "it has one output only"
    if k < 16:
        return f"its rows have only {k} elements"
    return f"it has only {n * k} elements" if n * k < 4096 else None


def table(path, size, dtype, product):
    """A model that looks up rows of a table [size], and with `product` also multiplies by it, tied; returns path."""
    rng = np.random.default_rng(7)
    w = weight(rng, size[1], size[0], dtype).T.copy()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Gather", ["w", "ids"], ["rows"], name="lookup")]
    outputs = [helper.make_tensor_value_info("rows", kind, ["m", size[1]])]
    if product:
        nodes.append(helper.make_node("Transpose", ["w"], ["wt"], name="turn", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["rows", "wt"], ["logits"], name="head"))
        outputs.append(helper.make_tensor_value_info("logits", kind, ["m", size[0]]))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["m"])
    graph = helper.make_graph(nodes, "table", [ids], outputs, [numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)
    return path


def bits_per_weight(format_, k, n, bits, block, sym, scale_bytes, stored_block):
    """Stored bits of a weight in each format, its last block filled up; `stored_block` is what the file says."""
    if format_ == "qdq":
        size = 128 if (bits, block) == (2, 256) else block  # 2 bits have no fast kernel for blocks of 256
        blocks = 1 if block == "row" or block >= k else -(-k // size)
        field = FIELD[bits]
        codes, zeros = -(-k * n * field // 8), -(-blocks * n * field // 8)
    else:
        field = bits if format_ == "function" else FIELD[bits]
        blocks = -(-k // stored_block)
        codes = n * blocks * stored_block * field // 8
        zeros = n * (blocks if format_ == "function" else -(-blocks * field // 8))
    total = codes + blocks * n * scale_bytes + (0 if sym else zeros)
    return 8 * total / (k * n)
