"""Models in which products read their weights in ways that exporters and optimizers make."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
FLOAT = TensorProto.FLOAT


class Use:
    """A model; how many weights are taken, of how many copies in `qdq`, and whether ONNX Runtime fuses these."""

    def __init__(self, nodes, tensors, outputs, inputs, versions=(10, 21), also=(), taken=1, copies=0, fused=True, half=False):
        infos = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()]
        # Tensors that are inputs too: all before IR 4, else those that a caller may replace.
        infos += [helper.make_tensor_value_info(n, FLOAT, tensors[n].shape) for n in also]
        graph = helper.make_graph(
            nodes,
            "uses",
            infos,
            [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
            [numpy_helper.from_array(v, n) for n, v in tensors.items()],
        )
        domains = [helper.make_opsetid("", versions[1]), helper.make_opsetid("com.microsoft", 1)]
        used = {n.domain for n in nodes}
        self.model = helper.make_model(graph, opset_imports=[d for d in domains if d.domain in used], ir_version=versions[0])
        self.taken, self.copies, self.fused, self.half = taken, copies or taken, fused, half
        rng = np.random.default_rng(23)
        sizes = {n: [d if isinstance(d, int) else 5 for d in s] for n, s in inputs.items()}
        self.feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in sizes.items()}


def uses():
    """All of them by name. Weights are [64, 80] but for names that say otherwise."""
    rng = np.random.default_rng(17)

    def w(*size, dtype=np.float32):
        return (0.1 * rng.standard_normal(size or (64, 80))).astype(dtype)

    a, y = {"a": ["m", 64]}, {"y": ["m", 80]}
    one, other = node("MatMul", ["a", "w"], ["y"], name="p"), node("MatMul", ["a", "v"], ["z"], name="q")
    two, both = {"a": ["m", 64], "b": ["m", 64]}, {"y": ["m", 80], "z": ["m", 80]}
    square = {"y": ["m", 64], "z": ["m", 64]}

    def behind(op, source, **attributes):
        extra = ["size"] if op == "Reshape" else []
        return [node(op, [source, *extra], ["w"], name="step", **attributes), one]

    def einsum(equation):
        return [node("Einsum", ["a", "w"], ["y"], name="p", equation=equation)]

    def gemm(**attributes):
        return [node("Gemm", ["a", "w", "c"], ["y"], name="p", **attributes)]

    x, heads = {"a": [2, "m", 64]}, {"y": [2, "m", 32]}

    def attention(*rest, outputs=("y",), **attributes):
        return [node("Attention", ["a", "w", "c", *rest], outputs, name="p", domain="com.microsoft", num_heads=4, **attributes)]

    def projections(mask=None, width=96):
        return {"w": w(64, width), "c": w(width)} | ({} if mask is None else {"k": np.array(mask, np.int32)})

    keys = [[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]
    pairs = np.tril(np.ones((2, 5, 5)))
    at_opset_11 = [*attention("k"), node("Relu", ["y"], ["z"], name="n")]
    past, caches = x | {"past": [2, 2, 4, 3, 8]}, heads | {"present": [2, 2, 4, 8, 8]}
    shared = [one, node("MatMul", ["b", "w"], ["z"], name="q")]
    turned = [one, node("Gemm", ["b", "w"], ["z"], name="q", transB=1)]
    constant = [node("Constant", [], ["w"], name="w", value=numpy_helper.from_array(w())), one]
    fused = [node("FusedMatMul", ["a", "w"], ["y"], name="p", domain="com.microsoft", alpha=0.5, transB=1)]
    taken_names = [one, node("Add", ["y", "w_q4"], ["u"], name="w_dequantized"), node("Add", ["u", "w_scales"], ["t"], name="p_bias")]
    def branch(name):
        inner = [helper.make_tensor_value_info(f"{name}_y", FLOAT, ["m", 80])]
        return helper.make_graph([node("MatMul", ["a", name], [f"{name}_y"], name=f"{name}_p")], f"{name}_branch", [], inner)

    choice = [
        node("ReduceMax", ["a"], ["most"], name="most", keepdims=0),
        node("Cast", ["most"], ["is_any"], name="is_any", to=TensorProto.BOOL),
        node("If", ["is_any"], ["y"], name="choice", then_branch=branch("w"), else_branch=branch("v")),
    ]
    return {
        "two products share it": Use(shared, {"w": w()}, both, two, copies=2),
        "two products read it in two orders": Use(turned, {"w": w(64, 64)}, square, two, taken=0),
        "it is an output too": Use([one], {"w": w()}, y | {"w": [64, 80]}, a),
        "it is added too": Use([one, node("Add", ["w", "w"], ["s"], name="s")], {"w": w()}, y | {"s": [64, 80]}, a),
        "a node holds it": Use(constant, {}, y, a),
        "behind Cast": Use(behind("Cast", "f16", to=FLOAT), {"f16": w(dtype=np.float16)}, y, a, half=True),
        "behind Transpose": Use(behind("Transpose", "t", perm=[1, 0]), {"t": w(80, 64)}, y, a),
        "behind Identity": Use(behind("Identity", "t"), {"t": w()}, y, a),
        "behind Reshape": Use(behind("Reshape", "t"), {"t": w(5120), "size": np.array([64, 80])}, y, a),
        "rank 3, input of rank 2": Use([one], {"w": w(1, 64, 80)}, {"y": [1, "m", 80]}, a),
        "rank 3, input of rank 1": Use([one], {"w": w(1, 64, 80)}, {"y": [1, 80]}, {"a": [64]}, fused=False),
        "rank 4, input of rank 3": Use([one], {"w": w(1, 1, 64, 80)}, {"y": [1, 2, "m", 80]}, {"a": [2, "m", 64]}),
        "rank 3, input of rank 3": Use([one], {"w": w(1, 64, 80)}, {"y": [2, "m", 80]}, {"a": [2, "m", 64]}),
        "input of rank 1": Use([one], {"w": w()}, {"y": [80]}, {"a": [64]}, fused=False),
        "input of rank 4": Use([one], {"w": w()}, {"y": [2, 3, "m", 80]}, {"a": [2, 3, "m", 64]}),
        "Gemm, beta 0": Use(gemm(beta=0.0), {"w": w(), "c": w(80)}, y, a),
        "Gemm, bias [1]": Use(gemm(), {"w": w(), "c": w(1)}, y, a),
        "Gemm, bias [1, N]": Use(gemm(), {"w": w(), "c": w(1, 80)}, y, a),
        "Gemm, bias that is an input": Use(gemm(), {"w": w()}, y, a | {"c": ["m", 80]}, fused=False),
        "Einsum, [K, N]": Use(einsum("bsh,hd->bsd"), {"w": w()}, {"y": [2, "m", 80]}, {"a": [2, "m", 64]}),
        "Einsum, [N, K]": Use(einsum("...h,dh->...d"), {"w": w(80, 64)}, {"y": [2, 3, "m", 80]}, {"a": [2, 3, "m", 64]}),
        "Einsum, implicit output": Use(einsum("ij,jk"), {"w": w()}, y, a),
        "Einsum, result turned": Use(einsum("bsh,hd->sbd"), {"w": w()}, {"y": ["m", 2, 80]}, {"a": [2, "m", 64]}, taken=0),
        "Einsum, several heads": Use(einsum("sh,hnd->snd"), {"w": w(64, 4, 20)}, {"y": ["m", 4, 20]}, a, taken=0),
        "no operator of ONNX": Use(fused, {"w": w(80, 64)}, y, a),
        "FusedMatMul, alpha, transB": Use([*fused, node("Neg", ["y"], ["z"], name="n")], {"w": w(80, 64)}, {"z": ["m", 80]}, a),
        "Attention, no mask": Use(attention(unidirectional=1), projections(), heads, x),
        "Attention, keys": Use(attention("k", scale=0.5), projections(keys), heads, x),
        "Attention, pairs": Use(attention("k", mask_filter_value=-50.0), projections(pairs), heads, x),
        "Attention, ends": Use(attention("k"), projections([5, 2]), heads, x),
        "Attention, ends and starts": Use(attention("k"), projections([5, 2, 0, 1]), heads, x, taken=0),
        "Attention, added bias": Use(attention("", "", "b"), projections(), heads, x | {"b": [1, 4, "m", "m"]}),
        "Attention, wide values": Use(attention("k", qkv_hidden_sizes=[32, 32, 48]), projections(keys, 112), {"y": [2, "m", 48]}, x),
        "Attention, cache": Use(attention("", "past", outputs=("y", "present")), projections(), caches, past, taken=0),
        "Attention, opset 11": Use(at_opset_11, projections(keys), {"z": [2, "m", 32]}, x, versions=(6, 11)),
        "IR 3": Use([one], {"w": w()}, y, a, versions=(3, 8), also="w"),
        "a caller may replace it": Use([one, other], {"w": w(), "v": w()}, both, a, also="w"),
        "no names": Use([node("MatMul", ["a", n], [o]) for n, o in ("wy", "vz")], {"w": w(), "v": w()}, both, a, taken=2),
        "new names are taken": Use(taken_names, {"w": w(), "w_q4": w(80), "w_scales": w(80)}, {"t": ["m", 80]}, a),
        "in branches": Use(choice, {"w": w(), "v": w()}, y, a, taken=2),
        "zeros": Use([one, other], {"w": np.zeros((64, 80), np.float32), "v": w()}, both, a, taken=2),
        "huge and tiny": Use([one, other], {"w": 1e30 * w(), "v": 1e-30 * w()}, both, a, taken=2),
    }


def save(use, path):
    onnx.save(use.model, path)
    return path
