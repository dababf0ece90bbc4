"""The norm before products that the plug-in of ONNX Runtime takes with them: checks of plugin.py."""

import numpy as np
from checks import expect
from onnx import TensorProto, helper, numpy_helper
from plugin_models import ERROR, Weight, activations, compare

K = 192
SKIP = "SkipSimplifiedLayerNormalization"


def normed(op, weights, outputs, more=(), skip_rank=3, epsilon=None, opset=21, constant=True, bias=False, kind=TensorProto.FLOAT):
    """Products that read the norm `n` of `a`, or of its sum `s` with `b`; more: nodes that read what there is."""
    value = helper.make_tensor_value_info
    gamma = np.random.default_rng(4).uniform(0.5, 1.5, K).astype(np.float32)
    tensors, inputs = [], [value("a", kind, ["batch", "rows", K])]
    reads, gives, domain = ["a", "gamma"], ["n"], ""
    if op == SKIP:
        inputs.append(value("b", kind, ["batch", "rows", K][3 - skip_rank :]))
        reads, gives, domain = ["a", "b", "gamma"], ["n", "", "", "s"], "com.microsoft"
        if bias:
            reads.append("bias")
            tensors.append(numpy_helper.from_array(gamma, "bias"))
    if constant:
        to = np.float32 if kind == TensorProto.FLOAT else np.float16
        tensors.append(numpy_helper.from_array(gamma.astype(to), "gamma"))
    else:
        inputs.append(value("gamma", kind, [K]))
    own = {} if epsilon is None else {"epsilon": epsilon}
    nodes = [helper.make_node(op, reads, gives, "norm", domain=domain, **own)]
    for i, weight in enumerate(weights):
        nodes.append(weight.node(f"y{i}", "n"))
        tensors += weight.tensors(f"y{i}").values()
    nodes += [helper.make_node(op, reads, [output], output) for op, reads, output in more]
    graph = helper.make_graph(nodes, "norm", inputs, [value(it, kind, None) for it in outputs], tensors)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=11), gamma


def taken(runtime, source, norms, groups=1):
    log = runtime.logged(source)
    text = f"norms before them: {norms};"
    expect(text in log and f"taken in {groups} groups" in log, f"'{text}' is not in {log[-500:]}")


def norms(runtime):
    """Norms of all kinds, of one row and of many; the sum before it is a result where somebody reads it."""
    weights = [Weight(n, K, 4, 32, seed=n, level=level) for n, level in ((64, 0), (33, 0), (48, 4))]
    values = lambda x, gamma, epsilon: x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + epsilon) * gamma
    forms = [(SKIP, e, rank, 21, sums) for e in (None, 1e-3) for rank in (3, 2) for sums in (True, False)]
    forms += [("SimplifiedLayerNormalization", e, 3, 21, False) for e in (None, 1e-3)] + [("RMSNormalization", 1e-3, 3, 23, False)]
    for op, epsilon, rank, opset, sums in forms:
        more = [("Neg", ["s"], "m")] if sums else []
        names = ["y0", "y1", "y2"] + (["s", "m"] if sums else [])
        source, gamma = normed(op, weights, names, more, rank, epsilon, opset)
        taken(runtime, source, 1)
        session = runtime.session(source)
        default = 1e-12 if op == SKIP else 1e-5
        for rows in (0, 1, 5, 300):
            given = {"a": activations(K, rows)}
            if op == SKIP:
                given["b"] = activations(K, rows, seed=9)[0 if rank == 2 else slice(None)]
            got = session.run(None, given)
            x = given["a"] + given.get("b", 0)
            what = f"{op}, epsilon {epsilon}, rank {rank}, {rows} rows"
            if sums:
                expect((got[3] == x).all() and (got[4] == -x).all(), f"{what}: another sum")
            expect(got[0].shape == (1, rows, 64), f"{what}: another shape")
            for weight, y in zip(weights, got if rows else ()):
                want = weight.apply(values(x, gamma, default if epsilon is None else epsilon))
                compare(y, want, 2 * ERROR[weight.level], what)
            for wish in ({"threads": "1"}, {"threads": "3"}):
                other = runtime.session(source, options=wish).run(None, given)
                expect(all((a == b).all() for a, b in zip(got, other)), f"{what}, {wish}: other bits")


def norms_left(runtime):
    """A norm whose result others read as well, or that the plug-in does not compute, stays with the runtime."""
    weights = [Weight(64, K, 4, 32, level=0)]
    forms = (
        dict(outputs=["y0", "n"]),
        dict(outputs=["y0", "z"], more=[("Relu", ["n"], "z")]),
        dict(outputs=["y0"], constant=False),
        dict(outputs=["y0"], bias=True),
        dict(outputs=["y0"], kind=TensorProto.FLOAT16),
    )
    for form in forms:
        source, gamma = normed(SKIP, weights, **form)
        if form.get("kind"):
            for tensor in source.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT:
                    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        taken(runtime, source, 0)
        to = np.float16 if form.get("kind") else np.float32
        given = {"a": activations(K, 3).astype(to), "b": activations(K, 3, seed=9).astype(to)}
        if form.get("constant") is False:
            given["gamma"] = gamma
        got, want = (runtime.session(source, plug).run(None, given) for plug in (True, False))
        for a, b in zip(got, want):
            compare(a, b.astype(np.float64), 2e-2 if form.get("kind") else 1e-5, f"{form}")
