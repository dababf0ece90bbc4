"""Products with outliers in the plug-in of ONNX Runtime: checks of plugin.py."""

import numpy as np
import onnx
from checks import expect
from onnx import numpy_helper
from plugin_ends import taken
from plugin_models import Outliers, Weight, activations, compare, fails, followed, model, rounded, silu, with_functions


def outliers(runtime, custom):
    """ai.qcc::MatMulQ<b>Outliers of every width: as nodes that the provider takes, or as custom operators."""
    for bits in (2, 3, 4, 5, 6, 8):
        for block, n, k, every in ((32, 40, 100, 20), (16, 33, 256, 3), (264, 3, 260, 500)):
            weight = Outliers(n, k, bits, block, every, seed=bits)
            for kind, scales in (("f32", "f32"), ("f32", "f16"), ("f32", "bf16"), ("f16", "f16")):
                if not custom and kind != "f32":
                    continue
                source = model([weight], kind, scales)
                source = source if custom else with_functions(source)
                make = lambda **named: runtime.session(source, custom=custom, alone=not custom, **named)
                session, reference = make(), Outliers(n, k, bits, block, every, seed=bits)
                reference.scales, reference.own = rounded(reference.scales, scales), rounded(reference.own, scales)
                for rows in (1, 6, 21):
                    x = activations(k, rows, kind)
                    got = session.run(None, {"x": x})[0]
                    compare(got, reference.apply(x), 2e-6 if kind == "f32" else 2e-3, f"{weight} {kind} {scales}")
                    one = session.run(None, {"x": x[:, -1:]})[0]
                    expect((one == got[:, -1:]).all(), "a row has other bits among others")
                for threads in (1, 3) if block == 32 else ():
                    again = make(threads=threads).run(None, {"x": x})[0]
                    expect((again == got).all(), f"{threads} threads: other bits")


def outliers_ends(runtime):
    """What follows a product with outliers is taken as without them; one without may be in the same node."""
    gate, up = (Outliers(96, 192, 4, 32, seed=i) for i in (1, 2))
    plain = Weight(96, 192, 4, 32, domain="ai.qcc", seed=3)
    bias = np.random.default_rng(5).standard_normal(96).astype(np.float32)
    swish = [("Sigmoid", ["y0"], "s"), ("Mul", ["y0", "s"], "t"), ("Mul", ["t", "y1"], "z")]
    for weights, nodes, count, end in (
        ((gate, up), swish, 3, lambda a, b: silu(a) * b),
        ((gate, plain), swish, 3, lambda a, b: silu(a) * b),
        ((plain, up), swish, 3, lambda a, b: silu(a) * b),
        ((gate, up), [("Add", ["y0", "c"], "a"), ("Mul", ["a", "y1"], "z")], 1, lambda a, b: (a + bias) * b),
    ):
        source = with_functions(followed(weights, nodes, ["z"], constants=[("c", bias)]), shaped=True)
        taken(runtime, source, 2, 1, count)
        session = runtime.session(source)
        for rows in (1, 9, 40):
            x = activations(192, rows)
            got = session.run(None, {"x": x})[0]
            want = end(*(weight.apply(x) for weight in weights))
            compare(got, want, 1e-5, f"{nodes} {rows} rows")
        for threads in ("1", "3"):
            other = runtime.session(source, options={"threads": threads}).run(None, {"x": x})[0]
            expect((other == got).all(), f"{threads} own threads: other bits")
    empty = session.run(None, {"x": activations(192, 0)})[0]
    expect(empty.shape == (1, 0, 96), "no rows")


def slow_outliers(runtime):
    """Weights that are inputs, blocks without a kernel, and more inputs than an overlay can name."""
    weight = Outliers(40, 70, 4, 32)
    x = activations(70, 4)
    session = runtime.session(model([weight], constant=False), custom=True)
    feeds = {t.name: numpy_helper.to_array(t) for t in weight.tensors("y0").values()}
    compare(session.run(None, {"x": x} | feeds)[0], weight.apply(x), 2e-6, "weights as inputs")
    beyond = feeds | {"y0_4": np.full_like(feeds["y0_4"], 255)}
    fails("one of them is no weight: place", lambda: session.run(None, {"x": x} | beyond))
    compare(session.run(None, {"x": x} | feeds)[0], weight.apply(x), 2e-6, "after an error")
    log = runtime.logged(with_functions(model([weight], constant=False)))
    expect("'y0' is left: the weight is not constant" in log, log[-500:])
    for odd, why in ((Outliers(9, 70, 3, 24), "groups of 24"), (Outliers(2, 65568, 4, 32, 300), "65536 are the most")):
        source, x = model([odd]), activations(odd.k, 3)
        compare(runtime.session(source, custom=True).run(None, {"x": x})[0], odd.apply(x), 1e-6, why)
        log = runtime.logged(with_functions(source))
        expect("'y0' is left: " in log and why in log, f"'{why}' is not in {log[-500:]}")


def wrong_outliers(runtime):
    """Operands that name no outliers are errors with the name of the node, both ways; none at all are right."""
    weight = Outliers(16, 40, 4, 32)

    def broken(at, values):
        source = model([weight])
        name = f"y0_{at}"
        next(t for t in source.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(values, name))
        return source

    ends = np.zeros(-(-16 * 64 // 255), np.uint8)
    for source, why in (
        (broken(3, weight.own.reshape(-1)[1:]), "their scales are not one for each block"),
        (broken(3, np.zeros((0, 2), np.float32)), "their scales are not one for each block"),
        (broken(4, np.array([41], np.uint8)), "one of them is no weight: place 40"),
        (broken(4, np.concatenate([ends, [9]]).astype(np.uint8)), "one of them is no weight: place"),
        (broken(4, np.full(4096, 255, np.uint8)), "one of them is no weight: place"),
        (broken(1, weight.codes[:, :3]), "codes"),
        (broken(2, weight.scales[1:]), "scales"),
    ):
        for custom in (False, True):
            made = source if custom else with_functions(onnx.ModelProto.FromString(source.SerializeToString()))
            fails("node 'y0': ", lambda: runtime.session(made, custom=custom))
            fails(why, lambda: runtime.session(made, custom=custom))
    wide = with_functions(broken(4, np.ones(3, np.int32)))
    expect("'y0' is left: the places of outliers are not uint8" in runtime.logged(wide), "places that are no bytes")
    x = activations(40, 3)
    plain = (weight.codes - 8.0) * np.repeat(weight.scales, 32, 1)[:, :40]
    for places in (np.zeros(1, np.uint8), np.zeros(900, np.uint8), np.zeros(0, np.uint8)):
        got = runtime.session(broken(4, places), custom=True).run(None, {"x": x})[0]
        compare(got, x @ plain.T, 2e-6, "no outliers")
        got = runtime.session(with_functions(broken(4, places)), alone=True).run(None, {"x": x})[0]
        compare(got, x @ plain.T, 2e-6, "no outliers, as a node")
