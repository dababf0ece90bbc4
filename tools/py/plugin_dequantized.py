"""Products over DequantizeLinear in the plug-in of ONNX Runtime: checks of plugin.py."""

import itertools
import os
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from checks import expect
from onnx import helper, numpy_helper
from plugin_ends import taken
from plugin_models import Linear, Weight, activations, branches, compare, followed, model, rounded, silu

BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
LEVEL = "session__qdq_matmulnbits_accuracy_level"


def of(weight, rows, kind="f32"):
    """Activations for a weight: Gemm has no batches."""
    x = activations(weight.k, rows, kind)
    return x[0] if weight.op == "Gemm" else x


def dequantized(runtime):
    """Integers of every type and order, blocked and by output, with MatMul, Gemm and FusedMatMul."""
    shapes = itertools.cycle(((33, 256, 32), (65, 250, 16), (7, 96, 48 * 2), (16, 130, 64), (20, 100, 256), (64, 96, 0)))
    worst = 0
    for (bits, signed), turned, zeros, op in itertools.product(
        [(bits, signed) for bits in (2, 4, 8) for signed in (False, True)], (False, True), (False, True), ("MatMul", "Gemm", "FusedMatMul")
    ):
        n, k, block = next(shapes)
        weight = Linear(n, k, bits, block, zeros, op == "Gemm", signed, turned, op, seed=bits)
        source = model([weight])
        # The CPU provider's own products of unsigned 2 bits without zero points are others: it is asked before it has them.
        session, own = runtime.session(source, alone=True), runtime.session(source, plug=False, optimize=BASIC)
        what = f"{bits} bits signed={signed} turned={turned} zeros={zeros} {op} {n} {k} {block}"
        for rows in (1, 13):
            x = of(weight, rows)
            got = session.run(None, {"x": x})[0]
            worst = max(worst, compare(got, weight.apply(x), 2e-6, what))
            compare(got, own.run(None, {"x": x})[0], 1e-5, f"{what}, CPU provider")
        for threads in (1, 3):
            again = runtime.session(source, threads=threads).run(None, {"x": x})[0]
            expect((again == got).all(), f"{what}: other bits with {threads} threads")
    return f"error {worst:.1e}"


def dequantized_apart(runtime):
    """What is not taken, and why; levels, types, and what the runtime does before it asks."""
    weight = Linear(32, 128, 4, 32, True)
    x, want = activations(128, 3), weight.apply(activations(128, 3))

    def left(source, why, **named):
        log = runtime.logged(source, **named)
        expect(f"'y0' is left: {why}" in log, f"'{why}' is not in {log[-600:]}")
        own = runtime.session(source, plug=False, **named).run(None, {"x": x})[0]
        compare(runtime.session(source, **named).run(None, {"x": x})[0], own, 1e-6, why)

    # Others read the weight: as a result of the graph. The runtime gives each reader of a DequantizeLinear its own.
    turned = Linear(32, 128, 4, 32, True, turned=True)
    shared = model([turned])
    shared.graph.output.append(helper.make_tensor_value_info("y0_w0", onnx.TensorProto.FLOAT, None))
    left(shared, "what is dequantized is read elsewhere too")
    twice = model([weight])
    again = onnx.NodeProto.FromString(twice.graph.node[1].SerializeToString())
    again.name, again.output[0] = "y1", "y1"
    twice.graph.node.append(again)
    twice.graph.output.append(helper.make_tensor_value_info("y1", onnx.TensorProto.FLOAT, None))
    taken(runtime, twice, 2, 1, 0)
    for got in runtime.session(twice, alone=True).run(None, {"x": x}):
        compare(got, want, 2e-6, "two readers")

    odd = Linear(32, 120, 4, 24)
    expect("'y0' is left: no panel has groups of 24" in runtime.logged(model([odd])), "groups of 24")
    across = model([Linear(32, 32, 8, 32)])
    across.graph.node[0].attribute[0].i = 1
    next(t for t in across.graph.initializer if t.name == "y0_2").dims[:] = [32, 1]
    expect("its blocks lie along its outputs" in runtime.logged(across), "blocks along N")
    for name, why in (("y0_2", "scales [8, 16] do not fit its codes [128, 32]"), ("y0_3", "the zero points are not one for each scale")):
        unfit = model([weight])
        next(t for t in unfit.graph.initializer if t.name == name).dims[:] = [8, 16]
        log = runtime.logged(unfit)
        expect(f"'y0' is left: {why}" in log, f"'{why}' is not in {log[-600:]}")
    long = model([Linear(32, 128, 8, 32, signed=True)])
    next(t for t in long.graph.initializer if t.name == "y0_1").data_type = onnx.TensorProto.INT16
    left(long, "its weight is not codes of 2, 4 or 8 bits")
    factor = model([Linear(32, 128, 4, 32, op="FusedMatMul")])
    factor.graph.node[1].attribute.append(helper.make_attribute("alpha", 0.5))
    left(factor, "the product or its bias has a factor")
    # Activations of two dimensions: the runtime makes a Gemm of the product and the addition.
    flat = Linear(32, 128, 4, 32, True, bias=True)
    added = followed([flat], [("Add", ["y0", "y0_5"], "z")], ["z"])
    added.graph.input[0].type.tensor_type.shape.dim.pop(0)
    log = runtime.logged(added)
    expect("1 products taken in 1 groups, 0 left; nodes after them taken: 0;" in log, log[-600:])
    compare(runtime.session(added, alone=True).run(None, {"x": x[0]})[0], flat.apply(x[0]), 2e-6, "a Gemm of the runtime")
    dynamic = model([weight], constant=False)
    expect("left" not in runtime.logged(dynamic), "codes that are inputs are no weight")

    # Integer activations and scales by output: the runtime multiplies integers.
    wide = model([Linear(32, 128, 8, 0, signed=True)])
    values = [numpy_helper.from_array(np.float32(0.02), "xs"), numpy_helper.from_array(np.int8(3), "xz")]
    wide.graph.initializer.extend(values)
    nodes = [helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["xq"])]
    for at, node in enumerate(nodes):
        wide.graph.node.insert(at, node)
    wide.graph.node[3].input[0] = "xq"
    left(wide, "the activations are dequantized too")

    # Levels: those of the plug-in's option, and of the runtime's own for such products.
    for named, least, most in (
        ({"options": {"planes": "a8"}}, 1e-4, 2.5e-2),
        ({LEVEL: "4"}, 1e-4, 2.5e-2),
        ({LEVEL: "4", "options": {"planes": "a22"}}, 0, 2e-6),
        ({LEVEL: "1"}, 0, 2e-6),
    ):
        error = compare(runtime.session(model([weight]), alone=True, **named).run(None, {"x": x})[0], want, most, f"{named}")
        expect(error >= least, f"{named}: error {error:.1e} is too small")

    # f16, with a Cast and an Identity on the way.
    weight.scales = rounded(weight.scales, "f16")
    half = model([weight], "f16", "f16")
    x = activations(128, 3, "f16")
    taken(runtime, half, 1, 1, 0)
    compare(runtime.session(half).run(None, {"x": x})[0], weight.apply(x), 2e-3, "f16")
    x = activations(128, 3)
    cast = [("Identity", {}), ("Cast", {"to": onnx.TensorProto.FLOAT16}), ("Cast", {"to": onnx.TensorProto.FLOAT})]
    taken(runtime, model([weight], steps=cast), 1, 1, 0)
    compare(runtime.session(model([weight], steps=cast)).run(None, {"x": x})[0], weight.apply(x), 2e-3, "casts")

    # The runtime may fold the weight before it asks: then it is floats, and no product of ours.
    folded = runtime.logged(model([weight]), session__disable_quant_qdq="1")
    expect("products taken" not in folded and "left" not in folded, f"folded: {folded[-500:]}")


def dequantized_together(runtime):
    """Products over DequantizeLinear are one node with those beside them, and take what follows."""
    gate, up = (Linear(96, 192, 4, 32, seed=i, zeros=True) for i in (1, 2))
    more = Weight(33, 192, 4, 32, level=0, seed=3)
    nodes = [("Sigmoid", ["y0"], "s"), ("Mul", ["y0", "s"], "t"), ("Mul", ["t", "y1"], "z")]
    source = followed([gate, up, more], nodes, ["z", "y2"])
    taken(runtime, source, 3, 1, 3)
    session = runtime.session(source, alone=True)
    for rows in (1, 9):
        x = activations(192, rows)
        got = session.run(None, {"x": x})
        compare(got[0], silu(gate.apply(x)) * up.apply(x), 1e-5, f"gate {rows} rows")
        compare(got[1], more.apply(x), 2e-6, f"beside a gate, {rows} rows")
    bias = np.random.default_rng(5).standard_normal(96).astype(np.float32)
    source = followed([gate], [("Add", ["y0", "c"], "z")], ["z"], constants=[("c", bias)])
    taken(runtime, source, 1, 1, 1)
    compare(runtime.session(source, alone=True).run(None, {"x": x})[0], gate.apply(x) + bias, 2e-6, "a bias")
    # Without any work of the runtime before.
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model([Linear(32, 192, 4, 32, turned=True), gate])
    taken(runtime, source, 2, 1, 0)
    log = runtime.logged(source, optimize=level)
    expect("2 products taken in 1 groups, 0 left" in log, log[-500:])


def dequantized_elsewhere(runtime):
    """Constants in a file beside the model, and products within the branches of an If."""
    for weight in (Linear(33, 250, 4, 32, True), Linear(16, 96, 8, 32, turned=True), Linear(65, 128, 2, 64, signed=True)):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            onnx.save(model([weight]), path, save_as_external_data=True, size_threshold=0)
            x = activations(weight.k, 3)
            taken(runtime, path, 1, 1, 0)
            got = runtime.session(path, alone=True).run(None, {"x": x})[0]
        expect((got == runtime.session(model([weight])).run(None, {"x": x})[0]).all(), "other bits from a file")
        compare(got, weight.apply(x), 2e-6, f"{weight}")
    weight = Linear(32, 128, 4, 32, True)
    x, want = activations(128, 3), weight.apply(activations(128, 3))
    for inside in (True, False):
        source = branches(weight, inside)
        expect(runtime.logged(source).count("1 products taken in 1 groups") == 2 * inside, "the branches")
        for condition in (True, False):
            got = runtime.session(source).run(None, {"x": x, "c": np.array(condition)})[0]
            compare(got, want, 2e-6, "a branch")
