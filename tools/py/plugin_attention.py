"""Attention over a cache that the plug-in of ONNX Runtime takes beside products: checks of plugin.py."""

import concurrent.futures
import itertools

import numpy as np
import onnx
import onnxruntime as ort
from checks import expect
from onnx import helper, numpy_helper
from plugin_models import Weight, compare, fails

FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
HEADS, KV_HEADS = 6, 2
NAMES = ["y", "present_key", "present_value"]


def attention(size=32, packed=True, half=0, kind=FLOAT, more=(), outputs=3, past=True, **attributes):
    """A GroupQueryAttention beside a product, which makes the plug-in look. more: further inputs, by position."""
    value = helper.make_tensor_value_info
    widths = [(HEADS + 2 * KV_HEADS) * size] if packed else [HEADS * size, KV_HEADS * size, KV_HEADS * size]
    tokens = [value(name, kind, ["b", "s", width]) for name, width in zip(("query", "key", "value"), widths)]
    caches = [value(name, kind, ["b", KV_HEADS, "p", size]) for name in ("past_key", "past_value")] if past else []
    lens = [value("last", INT32, ["b"]), value("total", INT32, [1])]
    turns, names = [], [it.name for it in tokens] + [""] * (3 - len(tokens))
    names += ["past_key", "past_value"] if past else ["", ""]
    names += ["last", "total"]
    if half:
        angles = np.arange(160)[:, None] / 100 ** (np.arange(half) / half)
        to = np.float32 if kind == FLOAT else np.float16
        turns = [numpy_helper.from_array(it.astype(to), name) for it, name in ((np.cos(angles), "cos"), (np.sin(angles), "sin"))]
        names += ["cos", "sin"]
    extra = []
    for at, it in more:
        names += [""] * (at + 1 - len(names))
        names[at] = it.name
        extra.append(it)
    made = NAMES[:outputs]
    node = helper.make_node(
        "GroupQueryAttention", names, made, "attention", domain="com.microsoft", num_heads=HEADS, kv_num_heads=KV_HEADS,
        do_rotary=int(half > 0), **attributes,
    )  # fmt: skip
    weight = Weight(16, 64, 4, 32)
    product = weight.node("z", "x")
    results = [value("y", kind, ["b", "s", HEADS * size])]
    results += [value(name, kind, ["b", KV_HEADS, "t", size]) for name in made[1:]]
    graph = helper.make_graph(
        [node, product], "attention", [*tokens, *caches, *lens, *extra, value("x", FLOAT, ["r", 64])],
        [*results, value("z", FLOAT, ["r", 16])], [*turns, *weight.tensors("z").values()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def feeds(source, rows, past, keys, seed=0):
    """Inputs for `rows` tokens after a past of so many positions; keys of each row of the batch."""
    rng, found = np.random.default_rng(seed), {"last": np.array(keys, np.int32) - 1}
    found["total"] = np.array([max(keys)], np.int32)
    for it in source.graph.input:
        if it.name in found:
            continue
        sizes = {"b": len(keys), "s": rows, "p": past, "r": 3}
        dims = [sizes.get(d.dim_param, d.dim_value) for d in it.type.tensor_type.shape.dim]
        found[it.name] = rng.standard_normal(dims).astype(np.float32)
    return found


def taken(runtime, source, count, why=""):
    """Whether so many nodes of attention are taken, and what the log says of one that is left."""
    log = runtime.logged(source)
    text = f"qcc: attention over caches taken: {count} nodes"
    expect((text in log) == (count > 0), f"not {count} nodes of attention are taken: {log[-500:]}")
    text = f"GroupQueryAttention 'attention' is left: {why}"
    expect(not why or text in log, f"'{text}' is not in {log[-500:]}")


def attention_forms(runtime):
    """Prompts and single tokens, one row and several, with turns of all features, some or none: as the CPU provider."""
    runs = (
        (1, 40, [41]),  # a token
        (1, 40, [23, 41]),  # rows of other lengths, in a cache with room
        (7, 0, [7]),  # a prompt
        (70, 0, [70, 33]),  # a long one, and one that is padded
        (5, 20, [25]),  # tokens after others
        (3, 60, [40]),  # the same in a cache with room
    )
    worst = 0
    forms = itertools.product((16, 48, 128), (True, False), (0, 8, "all"), (0.0, 0.3))
    for size, packed, half, scale in forms:
        half = size // 2 if half == "all" else half
        source = attention(size, packed, half, scale=scale)
        taken(runtime, source, 1)
        session, own = runtime.session(source), runtime.session(source, plug=False)
        for rows, past, keys in runs:
            given = feeds(source, rows, past, keys)
            what = f"size {size}, packed {packed}, half {half}, {rows} after {past}, {keys} keys"
            got, want = session.run(None, given), own.run(None, given)
            for name, a, b in zip(NAMES, got, want):
                expect(a.shape == b.shape, f"{name}: {what}: shape {a.shape}, not {b.shape}")
                for row, count in enumerate(keys):
                    # Padding, and what lies behind the keys, is nobody's.
                    first = 0 if rows == max(keys) else count - rows
                    part = (row, slice(0, max(count - first, 0))) if name == "y" else (row, slice(None), slice(0, count))
                    worst = max(worst, compare(a[part], b[part], 1e-5, f"{name}: {what}"))
            for wish in ({"threads": "1"}, {"threads": "3"}):
                other = runtime.session(source, options=wish).run(None, given)
                expect(all((a == b).all() for a, b in zip(got, other)), f"{what}, {wish}: other bits")
    return f"largest error {worst:.1e}"


def attention_in_place(runtime):
    """A cache that is past and present in one: token by token in it, as with caches of the runtime."""
    source = attention(64, True, 32)
    session = runtime.session(source)
    given = feeds(source, 12, 0, [12])
    caches = [np.zeros((1, KV_HEADS, 24, 64), np.float32) for _ in range(2)]
    places = [ort.OrtValue.ortvalue_from_numpy(it) for it in caches]
    apart = {name: np.zeros((1, KV_HEADS, 0, 64), np.float32) for name in ("past_key", "past_value")}
    done = 0
    for rows in (5, 1, 1, 4, 1):
        tokens = {"query": given["query"][:, done : done + rows], "x": given["x"]}
        tokens["query"] = np.ascontiguousarray(tokens["query"])
        done += rows
        tokens |= {"last": np.array([done - 1], np.int32), "total": np.array([done], np.int32)}
        want = session.run(None, tokens | apart)
        apart = {"past_key": want[1], "past_value": want[2]}
        binding = session.io_binding()
        for name, it in tokens.items():
            binding.bind_cpu_input(name, it)
        for name, it in zip(("key", "value"), places):
            binding.bind_ortvalue_input(f"past_{name}", it)
            binding.bind_ortvalue_output(f"present_{name}", it)
        binding.bind_output("y")
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        got = binding.get_outputs()
        same = [it for it in got if it.numpy().shape == want[0].shape and (it.numpy() == want[0]).all()]
        expect(same, f"{done} tokens: other bits")
        for place, past in zip(places, apart.values()):
            expect((place.numpy()[:, :, :done] == past).all(), f"{done} tokens: another cache")


def attention_left(runtime):
    """What the kernel does not compute is left to the runtime, with a reason; so is all of it on request."""
    value = helper.make_tensor_value_info
    forms = (
        ("local_window_size is 4", {"local_window_size": 4}),
        ("smooth_softmax is 1", {"smooth_softmax": 1}),
        ("it has a soft cap", {"softcap": 2.0}),
        ("pairs of turned features lie side by side", {"half": 16, "rotary_interleaved": 1}),
        ("it has positions", {"more": [(10, value("bias", FLOAT, [1, HEADS, "s", "t"]))]}),
        ("it has no past", {"past": False}),
        ("it has not three results", {"outputs": 1}),
        ("it is not f32", {"kind": onnx.TensorProto.FLOAT16}),
    )
    for why, form in forms:
        taken(runtime, attention(**form), 0, why)
    source = attention()
    log = runtime.logged(source, options={"attention": "off"})
    expect("attention over caches" not in log and "1 products taken" in log, "attention is taken in spite of the option")
    product = source.graph.node.pop()
    expect(product.op_type == "MatMulNBits", "not a product")
    del source.graph.output[-1], source.graph.input[-1]
    taken(runtime, source, 0)


def attention_wrong(runtime):
    """Lengths that do not fit are errors of the run, and the session goes on."""
    source = attention(half=16)
    session = runtime.session(source)
    good = feeds(source, 2, 10, [12])
    want = session.run(None, good)
    number = lambda *it: np.array(it, np.int32)
    for why, change in (
        ("seqlens_k is beyond the cache", {"last": number(12)}),
        ("seqlens_k is less than the query", {"last": number(0)}),
        ("seqlens_k is beyond the cache", {"last": number(-3)}),
        ("seqlens_k has one number for each row", {"last": number(11, 11)}),
        ("total_sequence_length is beyond", {"total": number(2**31 - 1)}),
        ("total_sequence_length is one number", {"total": number(-1)}),
        ("no turns for so many positions", feeds(source, 2, 300, [302])),
    ):
        fails(why, lambda: session.run(None, good | change))
    expect(all((a == b).all() for a, b in zip(session.run(None, good), want)), "other bits after errors")


def attention_at_once(runtime):
    """A session that is run by four threads at a time gives each its own results."""
    source = attention(half=16)
    session = runtime.session(source)
    given = [feeds(source, rows, 30, [30 + rows], seed=rows) for rows in (1, 2, 8, 40)]
    want = [session.run(None, it) for it in given]

    def rounds(which):
        for _ in range(60):
            got = session.run(None, given[which])
            expect(all((a == b).all() for a, b in zip(got, want[which])), "other bits when run at once")

    with concurrent.futures.ThreadPoolExecutor(len(given)) as pool:
        list(pool.map(rounds, range(len(given))))
