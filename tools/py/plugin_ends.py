"""What follows products in a graph and is taken with them by the plug-in of ONNX Runtime: checks of plugin.py."""

import itertools
import math

import numpy as np
from checks import expect
from plugin_models import ERROR, Weight, activations, compare, followed, rounded, silu


def taken(runtime, source, products, groups, nodes):
    """Whether so many products are taken in so many groups, and so many nodes after them."""
    log = runtime.logged(source)
    text = f"{products} products taken in {groups} groups, 0 left; nodes after them taken: {nodes};"
    expect(text in log, f"'{text}' is not in {log[-500:]}")


def gates(runtime):
    """SiLU of a product times another one is part of the products, in every form, whoever else reads x."""
    one = lambda: [Weight(n, 192, 4, 32, seed=n + i, level=level) for i, n in enumerate((96, 96, 33))]
    forms = (
        [("Sigmoid", ["y0"], "s"), ("Mul", ["y0", "s"], "t"), ("Mul", ["t", "y1"], "z")],
        [("Sigmoid", ["y0"], "s"), ("Mul", ["s", "y0"], "t"), ("Mul", ["y1", "t"], "z")],
        [("QuickGelu", ["y0"], "t", {"alpha": 1.0}), ("Mul", ["t", "y1"], "z")],
    )
    for level, nodes in itertools.product((0, 4), forms):
        gate, up, more = one()
        source = followed([gate, up, more], [*nodes, ("Relu", ["x"], "r")], ["z", "y2", "r"])
        taken(runtime, source, 3, 1, len(nodes))
        session, own = runtime.session(source), runtime.session(source, plug=False)
        rows = {count: activations(192, count) for count in (0, 1, 9, 40)}
        for count, x in rows.items():
            got = session.run(None, {"x": x})
            expect(got[0].shape == (1, count, 96) and got[1].shape == (1, count, 33), "other shapes")
            if count:
                compare(got[0], silu(gate.apply(x)) * up.apply(x), 4 * ERROR[level], f"gate {level} {count} rows")
                compare(got[1], more.apply(x), ERROR[level], f"beside a gate, {count} rows")
                compare(got[0], own.run(None, {"x": x})[0], 5e-2, "gate, CPU provider")
        # A row alone, and any threads: the same bits.
        x, whole = rows[40], session.run(None, {"x": rows[40]})[0]
        expect((session.run(None, {"x": x[:, 7:8]})[0] == whole[:, 7:8]).all(), "a row has other bits among others")
        for wish in ({"threads": "1"}, {"threads": "3"}):
            expect((runtime.session(source, options=wish).run(None, {"x": x})[0] == whole).all(), f"{wish}: other bits")


def gates_apart(runtime):
    """Where somebody else reads what lies between, or both factors are not alike, nothing is taken that should not be."""
    gate, up = (Weight(64, 128, 4, 32, seed=i, level=0) for i in (1, 2))
    nodes = [("Sigmoid", ["y0"], "s"), ("Mul", ["y0", "s"], "t"), ("Mul", ["t", "y1"], "z")]
    x = activations(128, 3)
    want = {"y0": gate.apply(x), "y1": up.apply(x)}
    want |= {"t": silu(want["y0"]), "z": silu(want["y0"]) * want["y1"], "s": 1 / (1 + np.exp(-want["y0"]))}
    for outputs in (["z", "y0"], ["z", "y1"], ["z", "s"], ["z", "t"]):
        source = followed([gate, up], nodes, outputs)
        taken(runtime, source, 2, 1, 0)
        for name, got in zip(outputs, runtime.session(source).run(None, {"x": x})):
            compare(got, want[name], 1e-5, f"{name} of {outputs}")
    read = followed([gate, up], [*nodes, ("Neg", ["y1"], "n")], ["z", "n"])
    taken(runtime, read, 2, 1, 0)
    compare(runtime.session(read).run(None, {"x": x})[1], -want["y1"], 1e-5, "another reader")
    for other in (Weight(64, 128, 8, 32, level=0), Weight(64, 128, 4, 64, level=0), Weight(64, 128, 4, 32, level=4)):
        source = followed([gate, other], nodes, ["z"])
        taken(runtime, source, 2, 1, 0)
        most = 2.5e-2 if other.level else 1e-5
        compare(runtime.session(source).run(None, {"x": x})[0], want["t"] * other.apply(x), most, f"{other}")
    # Codes of the one fit in 3 bits: both are computed as one node, each from activations of its own.
    short = Weight(64, 128, 4, 32, seed=3, level=0)
    short.codes = 4 + short.codes % 8
    for weights in ([gate, short], [short, gate]):
        source = followed(weights, nodes, ["z"])
        taken(runtime, source, 2, 1, 3)
        first, second = (weight.apply(x) for weight in weights)
        compare(runtime.session(source, alone=True).run(None, {"x": x})[0], silu(first) * second, 1e-5, "a shorter factor")
    half = followed([gate, up], nodes, ["z"], "f16")
    taken(runtime, half, 2, 1, 3)
    rough = [Weight(64, 128, 4, 32, seed=i, level=0) for i in (1, 2)]
    for weight in rough:
        weight.scales = rounded(weight.scales, "f16")
    x = activations(128, 3, "f16")
    got = runtime.session(half).run(None, {"x": x})[0]
    compare(got, silu(rough[0].apply(x)) * rough[1].apply(x), 5e-3, "f16")


def other_ends(runtime):
    """A bias, and GELU or a gate behind it; not what may be another addition, nor what is read without it."""
    weight, beside = (Weight(48, 128, 4, 32, seed=i, level=0) for i in (1, 2))
    x = activations(128, 4)
    y, bias = weight.apply(x), np.random.default_rng(5).standard_normal(48).astype(np.float32)
    erf = np.vectorize(math.erf)
    gelu = lambda y: y * (1 + erf(y / 2**0.5)) / 2
    fast = lambda y: y * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3))) / 2
    gate = [("Add", ["y0", "c"], "a"), ("QuickGelu", ["a"], "t", {"alpha": 1.0}), ("Add", ["c", "y1"], "b"), ("Mul", ["t", "b"], "z")]
    for nodes, outputs, constant, count, want in (
        ([("Add", ["y0", "c"], "z")], ["z"], bias, 1, y + bias),
        ([("Add", ["c", "y0"], "z")], ["z"], bias, 1, y + bias),
        ([("Add", ["y0", "c"], "z")], ["z", "y0"], bias, 0, y + bias),
        ([("Add", ["y0", "c"], "z")], ["z"], bias[None, None], 0, y + bias),
        ([("Add", ["y0", "y1"], "z")], ["z"], bias, 0, y + beside.apply(x)),
        ([("Gelu", ["y0"], "z")], ["z"], bias, 1, gelu(y)),
        ([("FastGelu", ["y0"], "z")], ["z"], bias, 1, fast(y)),
        ([("FastGelu", ["y0", "c"], "z")], ["z"], bias, 0, fast(y + bias)),
        ([("Add", ["y0", "c"], "a"), ("Gelu", ["a"], "z")], ["z"], bias, 2, gelu(y + bias)),
        ([("Add", ["y0", "c"], "a"), ("FastGelu", ["a"], "z")], ["z"], bias, 2, fast(y + bias)),
        (gate, ["z"], bias, 4, silu(y + bias) * (beside.apply(x) + bias)),
    ):
        weights = [weight, beside]
        source = followed(weights, nodes, [*outputs, *([] if any("y1" in it[1] for it in nodes) else ["y1"])], constants=[("c", constant)])
        taken(runtime, source, 2, 1, count)
        compare(runtime.session(source).run(None, {"x": x})[0], want, 1e-5, f"{nodes}")
