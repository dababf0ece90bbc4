#!/usr/bin/env python3
"""The plug-in of ONNX Runtime: what it takes and leaves, and what it computes.

    plugin.py --lib libqcc_ort.so [--qcc PATH] [--model MODEL]     checks; --qcc: also files that qcc makes, --model: a large one
    plugin.py --lib libqcc_ort.so --bench MODEL [...]              times, see plugin_bench.py
    plugin.py --lib libqcc_ort.so --parts MODEL [...]              times by operators, see plugin_parts.py

Products are compared with float64 and with ONNX Runtime's own CPU provider.
"""

import argparse
import concurrent.futures
import gc
import itertools
import os
import shutil
import subprocess
import sys
import tempfile

import checks
import numpy as np
import onnx
import onnxruntime as ort
import plugin_bench
import plugin_parts
from checks import expect
from onnx import helper
from plugin_attention import attention_at_once, attention_forms, attention_in_place, attention_left, attention_wrong
from plugin_dequantized import dequantized, dequantized_apart, dequantized_elsewhere, dequantized_together
from plugin_ends import gates, gates_apart, other_ends
from plugin_models import ERROR, Linear, Outliers, Weight, activations, branches, compare, fails, model, rounded, with_functions
from plugin_norms import norms, norms_left
from plugin_outliers import outliers, outliers_ends, slow_outliers, wrong_outliers
from zoo import ROOT

NAME, PROVIDER = "qcc", "QccExecutionProvider"


class Runtime:
    """Sessions with and without the plug-in."""

    def __init__(self, lib, registered=True):
        """registered: without it there are sessions of the CPU provider only, and the library is not loaded."""
        self.lib = os.path.abspath(lib)
        self.devices = []
        if registered:
            self.register()

    def register(self):
        ort.register_execution_provider_library(NAME, self.lib)
        self.devices = [d for d in ort.get_ep_devices() if d.ep_name == PROVIDER]

    def session(self, source, plug=True, options=None, alone=False, custom=False, **entries):
        """alone: nodes that the plug-in leaves are an error."""
        wish = ort.SessionOptions()
        wish.log_severity_level = 1 if plug and entries.pop("log", False) else 3
        wish.intra_op_num_threads = entries.pop("threads", 0)
        if "profile" in entries:
            wish.enable_profiling = True
            wish.profile_file_prefix = entries.pop("profile")
        if "optimize" in entries:
            wish.graph_optimization_level = entries.pop("optimize")
        for key, value in entries.items():
            wish.add_session_config_entry(key.replace("__", "."), value)
        if alone:
            wish.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if custom:
            wish.register_custom_ops_library(self.lib)
        source = source if isinstance(source, (str, bytes)) else source.SerializeToString()
        if plug and not custom:
            wish.add_provider_for_devices(self.devices, options or {})
            return ort.InferenceSession(source, wish, enable_fallback=0)
        return ort.InferenceSession(source, wish, providers=["CPUExecutionProvider"])

    def logged(self, *args, **named):
        """What creating a session writes to the log of the runtime."""
        with tempfile.TemporaryFile() as file:
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                self.session(*args, log=True, **named)
            finally:
                os.dup2(kept, 2)
                os.close(kept)
            file.seek(0)
            return file.read().decode(errors="replace")


def products(runtime):
    """Every width, group, level, with and without zero points and bias, counts of rows and columns with tails."""
    worst = {}
    shapes = itertools.cycle(((False, False, 33, 256), (True, True, 65, 250), (True, False, 7, 96), (False, True, 16, 128)))
    for bits, block, level in itertools.product((2, 4, 8), (16, 32, 64, 128), (None, 0, 2, 4)):
        for zeros, bias, n, k in itertools.islice(shapes, 3 if block == 32 else 1):
            weight = Weight(n, k, bits, block, zeros, bias, level, seed=bits + block)
            source = model([weight])
            session = runtime.session(source, alone=True)
            own = runtime.session(source, plug=False)
            for rows in (1, 5, 13):
                x = activations(k, rows)
                got = session.run(None, {"x": x})[0]
                what = f"{weight} {rows} rows"
                error = compare(got, weight.apply(x), ERROR[level], what)
                worst[level] = max(worst.get(level, 0), error)
                compare(got, own.run(None, {"x": x})[0], 2.5e-2, f"{what}, CPU provider")
        next(shapes)
    return ", ".join(f"level {level}: {error:.1e}" for level, error in worst.items())


def functions(runtime, custom):
    """The operators of ai.qcc: as nodes that the provider takes, or as custom operators."""
    for bits in (2, 3, 4, 5, 6, 8):
        for block, zeros, n, k in ((32, False, 40, 100), (64, True, 33, 256), (264, True, 3, 260)):
            weight = Weight(n, k, bits, block, zeros, domain="ai.qcc", seed=bits)
            for kind, scales in (("f32", "f32"), ("f32", "f16"), ("f32", "bf16"), ("f16", "f16")):
                if not custom and kind != "f32":
                    continue
                source = model([weight], kind, scales)
                session = runtime.session(source if custom else with_functions(source), custom=custom, alone=not custom)
                x = activations(k, 6, kind)
                reference = Weight(n, k, bits, block, zeros, domain="ai.qcc", seed=bits)
                reference.scales = rounded(reference.scales, scales)
                most = 2e-6 if kind == "f32" else 2e-3
                compare(session.run(None, {"x": x})[0], reference.apply(x), most, f"{weight} {kind} {scales}")


def slow_functions(runtime):
    """Custom operators cannot fall back: blocks without a kernel, and weights that are inputs."""
    odd = Weight(9, 70, 3, 24, True, domain="ai.qcc")
    x = activations(70, 4)
    session = runtime.session(model([odd]), custom=True)
    compare(session.run(None, {"x": x})[0], odd.apply(x), 1e-6, "block 24")
    weight = Weight(40, 70, 4, 32, True, domain="ai.qcc")
    session = runtime.session(model([weight], constant=False), custom=True)
    feeds = {t.name: onnx.numpy_helper.to_array(t) for t in weight.tensors("y0").values()}
    compare(session.run(None, {"x": x} | feeds)[0], weight.apply(x), 2e-6, "weights as inputs")


def together(runtime):
    """Products of the same activations are one node, of whatever widths and groups they are."""
    shapes = ((64, 4, 32, 4), (16, 4, 32, 4), (300, 8, 32, 4), (33, 2, 64, 4), (20, 4, 32, 0))
    weights = [Weight(n, 192, bits, block, seed=n, level=level) for n, bits, block, level in shapes]
    source = model(weights)
    log = runtime.logged(source)
    expect("5 products taken in 1 groups" in log, f"not one group: {log[-500:]}")
    session = runtime.session(source, alone=True)
    for rows in (1, 9):
        x = activations(192, rows)
        for weight, got in zip(weights, session.run(None, {"x": x})):
            compare(got, weight.apply(x), ERROR[weight.level], f"{weight}")
        one = [runtime.session(model([w]), alone=True).run(None, {"x": x})[0] for w in weights]
        expect(all((a == b).all() for a, b in zip(one, session.run(None, {"x": x}))), "not the bits of single products")
    empty = session.run(None, {"x": activations(192, 0)})
    expect([y.shape for y in empty] == [(1, 0, w.n) for w in weights], "no rows")


def without_llvm(runtime):
    """LLVM is loaded where a kernel must be compiled, and not where all of them are in the folder, or where it is broken: then
    kernels in plain Rust stand in for those that are not in the folder."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import plugin, plugin_models as m\n"
        "runtime = plugin.Runtime(sys.argv[2]); weight = m.Weight(40, 128, 4, 32, level=4); x = m.activations(128, 3)\n"
        "session = runtime.session(m.model([weight]), options={'cache': sys.argv[3]})\n"
        "m.compare(session.run(None, {'x': x})[0], weight.apply(x), 2.5e-2, 'x')\n"
        "print([line.split()[-1] for line in open('/proc/self/maps') if 'libLLVM' in line][:1])\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, os.path.dirname(os.path.abspath(__file__)), runtime.lib]
        run = lambda cache, **env: subprocess.run(
            [*command, os.path.join(folder, cache)], capture_output=True, text=True, check=True, env=os.environ | env
        ).stdout.split()[-1]
        for name in ("libLLVM.so.22.1", "libLLVM-22.so"):
            open(os.path.join(folder, name), "w").close()
        broken = run("none", LD_LIBRARY_PATH=folder)
        first, then = run("kept"), run("kept")
        kept = run("kept", LD_LIBRARY_PATH=folder)
        names = sorted(os.listdir(os.path.join(folder, "kept")))
        expect(len(names) == 4, f"{len(names)} kernels of 1 and 3 rows and of both tiles")
        for half in (0, 1):
            part = os.path.join(folder, f"half{half}")
            os.mkdir(part)
            for name in names[half::2]:
                shutil.copy(os.path.join(folder, "kept", name), part)
            expect(run(part, LD_LIBRARY_PATH=folder) == "[]", "LLVM in memory")
    expect([broken, then, kept] == ["[]"] * 3 and "libLLVM" in first, f"LLVM in memory: {[broken, first, then, kept]}")


def halves(runtime):
    """Activations, scales and results of f16."""
    weight = Weight(40, 128, 4, 32, True, level=4)
    source = model([weight], "f16")
    session = runtime.session(source, alone=True)
    x = activations(128, 3, "f16")
    weight.scales = rounded(weight.scales, "f16")
    got = session.run(None, {"x": x})[0]
    expect(got.dtype == np.float16, "not f16")
    compare(got, weight.apply(x), 2.5e-2, "f16")


def inner_graphs(runtime):
    weight = Weight(40, 128, 4, 32, level=0)
    session = runtime.session(branches(weight))
    x = activations(128, 2)
    for condition in (True, False):
        compare(session.run(None, {"x": x, "c": np.array(condition)})[0], weight.apply(x), 2e-6, "a branch")


def left(runtime):
    """Nodes that cannot be taken run on the CPU provider, and the log says why."""
    weight = Weight(16, 64, 4, 32, True, level=0)
    indexed = model([weight])
    index = onnx.numpy_helper.from_array((np.arange(64) // 32).astype(np.int32), "g")
    indexed.graph.initializer.append(index)
    indexed.graph.node[0].input.append("g")
    floats = model([weight])
    zeros = next(t for t in floats.graph.initializer if t.name == "y0_3")
    zeros.CopyFrom(onnx.numpy_helper.from_array(weight.points.astype(np.float32), "y0_3"))
    inputs = {t.name: onnx.numpy_helper.to_array(t) for t in weight.tensors("y0").values()}
    for source, why, more in (
        (indexed, "it has g_idx", {}),
        (floats, "the zero points are floats", {}),
        (model([weight], constant=False), "the weight is not constant", inputs),
    ):
        log = runtime.logged(source)
        expect(f"MatMulNBits 'y0' is left: {why}" in log, f"the log does not say '{why}': {log[-500:]}")
        x = activations(64, 3)
        got = runtime.session(source).run(None, {"x": x} | more)[0]
        compare(got, runtime.session(source, plug=False).run(None, {"x": x} | more)[0], 1e-6, why)
    later = with_functions(model([Weight(64, 64, 4, 32, domain="ai.qcc")]))
    next(it for it in later.opset_import if it.domain == "ai.qcc").version = 2
    odd = with_functions(model([Weight(64, 64, 4, 24, domain="ai.qcc")]))
    for source, why in ((later, "version 2 of ai.qcc"), (odd, "group")):
        log = runtime.logged(source)
        expect("MatMulQ4Sym 'y0' is left" in log and why in log, f"the log does not say '{why}': {log[-500:]}")
        x = activations(64, 2)
        expect((runtime.session(source).run(None, {"x": x})[0] == x).all(), "the body was not run")
    plain = helper.make_node("Relu", ["x"], ["y0"])
    value = helper.make_tensor_value_info
    floats = [value(name, onnx.TensorProto.FLOAT, ["batch", "rows", 64]) for name in ("x", "y0")]
    graph = helper.make_graph([plain], "relu", floats[:1], floats[1:])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    log = runtime.logged(source)
    expect("products taken" not in log, "something was taken of a model without products")


def wrong(runtime):
    """Options and models that are wrong are errors with a text."""
    weight = Weight(16, 64, 4, 32)
    source = model([weight])
    short = model([weight])
    tensor = next(t for t in short.graph.initializer if t.name == "y0_2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight.scales.reshape(-1)[1:], "y0_2"))
    fails("option 'planes' is 'a9'", lambda: runtime.session(source, options={"planes": "a9"}))
    fails("there is no option", lambda: runtime.session(source, options={"plane": "a8"}))
    fails("neon", lambda: runtime.session(source, options={"isa": "neon"}))
    ours = model([Weight(16, 64, 4, 32, domain="ai.qcc")])
    fails("neon", lambda: runtime.session(ours, custom=True, qcc__isa="neon"))
    fails("option 'qcc.planes' is 'a9'", lambda: runtime.session(ours, custom=True, qcc__planes="a9"))
    fails("scales", lambda: runtime.session(short))
    session = runtime.session(source)
    fails("", lambda: session.run(None, {"x": activations(63, 2)}))
    compare(session.run(None, {"x": activations(64, 2)})[0], weight.apply(activations(64, 2)), 2e-6, "after errors")


def options(runtime):
    """Planes, own threads, other instruction sets and no folder of kernels change nothing but what they say."""
    weight = Weight(200, 512, 4, 32, level=4)
    source, x = model([weight]), activations(512, 20)
    want = runtime.session(source).run(None, {"x": x})[0]
    for wish in ({"threads": "3"}, {"threads": "1"}, {"isa": "scalar"}, {"cache": "off"}):
        got = runtime.session(source, options=wish, alone=True).run(None, {"x": x})[0]
        expect((got == want).all(), f"{wish}: other bits")
    for threads in (1, 4):
        got = runtime.session(source, threads=threads).run(None, {"x": x})[0]
        expect((got == want).all(), f"{threads} threads of the session: other bits")
    exact = runtime.session(source, options={"planes": "a22"}).run(None, {"x": x})[0]
    compare(exact, weight.apply(x), 2e-6, "planes")
    entry = runtime.session(source, qcc__planes="a22").run(None, {"x": x})[0]
    expect((entry == exact).all(), "an entry of the session: other bits")


def at_once(runtime):
    """Three sessions, each run by four threads at a time."""
    weights = [[Weight(300, 512, 4, 32, level=4, seed=i), Weight(100, 512, 8, 32, level=4, seed=i)] for i in (1, 2)]
    weights.append([Outliers(300, 512, 4, 32), Weight(100, 512, 4, 32, domain="ai.qcc")])
    sessions = [runtime.session(with_functions(model(pair), shaped=True)) for pair in weights]
    inputs = [activations(512, rows, seed=rows) for rows in (1, 3, 8, 40)]
    want = [[session.run(None, {"x": x}) for x in inputs] for session in sessions]

    def rounds(job):
        which, at = job
        for _ in range(60):
            got = sessions[which].run(None, {"x": inputs[at]})
            expect(all((a == b).all() for a, b in zip(got, want[which][at])), "other bits when run at once")

    jobs = [(which, at) for which in range(len(sessions)) for at in range(len(inputs))]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(rounds, jobs))


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def freed(runtime, custom, weights):
    """50 sessions one after another, each with 3 MiB of weights, or some of them, leave nothing behind."""
    source = with_functions(model(weights)).SerializeToString()
    x = activations(weights[0].k, 3)

    def rounds(count):
        for _ in range(count):
            runtime.session(source, custom=custom, options={"threads": "2"}).run(None, {"x": x})
        gc.collect()
        return resident()

    before = rounds(15)
    after = rounds(50)
    grown = (after - before) / 2**20
    expect(grown < 8, f"50 sessions left {grown:.1f} MiB")
    return f"{grown:+.1f} MiB"


def one_room(runtime):
    """Custom operators of a session have one set of own threads and one of kernels, not one each."""
    threads = lambda: len(os.listdir("/proc/self/task"))
    source, x = model([Weight(512, 1024, 4, 32, domain="ai.qcc", seed=seed) for seed in range(8)]), activations(1024, 8)
    runtime.session(source, custom=True, threads=1).run(None, {"x": x})
    before = threads()
    session = runtime.session(source, custom=True, threads=1, qcc__threads="3", qcc__cache="off")
    session.run(None, {"x": x})
    grown = threads() - before
    expect(1 <= grown <= 3, f"8 operators have {grown} threads")
    log = runtime.logged(source, custom=True, qcc__isa="scalar")
    expect(log.count("plain Rust") <= 1, "kernels are told more than once")


def again(runtime):
    """The library is given back, while a session of it is there, and taken again."""
    for _ in range(3):
        weight = Weight(64, 256, 4, 32)
        x = activations(256, 2)
        session = runtime.session(model([weight]))
        ort.unregister_execution_provider_library(NAME)
        compare(session.run(None, {"x": x})[0], weight.apply(x), 2e-6, "no longer registered")
        del session
        gc.collect()
        expect(not any(d.ep_name == PROVIDER for d in ort.get_ep_devices()), "the provider is still there")
        runtime.register()
        weight = Weight(16, 64, 4, 32)
        x = activations(64, 2)
        compare(runtime.session(model([weight])).run(None, {"x": x})[0], weight.apply(x), 2e-6, "registered again")


def made_by_qcc(runtime, qcc):
    """The bundled model in each format of qcc, against the CPU provider."""
    folder = os.path.join(ROOT, "tests/models/books1M")
    x = np.load(os.path.join(folder, "eval.npy"))[:2, :24].astype(np.int64)
    found = []
    with tempfile.TemporaryDirectory() as place:
        for bits, options in (
            *((bits, ("--format", "nbits", "--accuracy-level", level)) for bits in (2, 4, 8) for level in (0, 4)),
            *((bits, ("--format", "function")) for bits in (2, 3, 4, 5, 6, 8)),
            *((bits, ("--format", "function", "-O", "adpq{outliers=0.05}")) for bits in (3, 4, 5)),
            *((bits, ("--format", "qdq")) for bits in (4, 8)),
        ):
            path = os.path.join(place, "model.onnx")
            recipe = () if "-O" in options else ("-O", "rtn")
            checks.qcc(qcc, os.path.join(folder, "model.onnx"), *recipe, f"-b{bits}", "-g32", *options, "-f", "-o", path)
            # The runtime's own products of dequantized weights have activations of 8 bits.
            exact = {"session__qdq_matmulnbits_accuracy_level": "1"} if "qdq" in options else {}
            own = runtime.session(checks.in_float(path), plug=False, **exact)
            want = own.run(None, {own.get_inputs()[0].name: x})[0]
            # qcc never writes level 0 for 2 and 8 bits, which ONNX Runtime is slow with.
            level = 4 if "nbits" in options and (options[-1] == 4 or bits != 4) else 0
            sessions = [runtime.session(path)]
            if "function" in options:
                sessions.append(runtime.session(path, custom=True))
            expect("products taken" in runtime.logged(path) and " 0 left" in runtime.logged(path), "not all were taken")
            for session in sessions:
                got = session.run(None, {own.get_inputs()[0].name: x})[0]
                error = np.linalg.norm(got - want) / np.linalg.norm(want)
                expect(error < (3e-2 if level else 1e-5), f"{bits} bits {options}: error {error:.1e}")
                found.append(error)
    return f"largest error {max(found):.1e}"


def large(runtime, path):
    """A model that qcc did not make, beside the CPU provider at level 0: as near at level 0, no further off at its own."""
    found = []
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as place:
        exact = plugin_bench.at_level(path, 0, place)
        sessions = [[runtime.session(source, plug=plug) for plug in (True, False)] for source in (exact, path)]
    (exact, reference), (own, cpu) = sessions
    for rows, past in ((32, 0), (1, 32)):
        feeds = plugin_bench.feeds(reference, rows, past)
        want = reference.run(None, feeds)[0]
        error = lambda it: np.linalg.norm(it.run(None, feeds)[0] - want) / np.linalg.norm(want)
        errors = [error(it) for it in (exact, own, cpu)]
        expect(errors[0] < 1e-4, f"level 0, {rows} rows: error {errors[0]:.1e}")
        # Where activations have 8 bits, each rounding moves all that comes after it.
        expect(errors[1] < 2 * errors[2], f"own level, {rows} rows: error {errors[1]:.1e}, CPU provider {errors[2]:.1e}")
        found.append(" ".join(f"{it:.1e}" for it in errors))
    return "errors " + ", ".join(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", required=True)
    parser.add_argument("--qcc")
    parser.add_argument("--model")
    plugin_bench.arguments(parser)
    parser.add_argument("--parts", metavar="MODEL")
    args = parser.parse_args()
    runtime = Runtime(args.lib, args.load_only != "cpu")
    expect(runtime.devices or args.load_only == "cpu", "no device")
    if args.parts or args.bench:
        (plugin_parts if args.parts else plugin_bench).run(runtime, args)
        return
    tally = checks.Tally()
    tally.run("products", products, runtime)
    tally.run("functions as nodes", functions, runtime, False)
    tally.run("functions as custom operators", functions, runtime, True)
    tally.run("slow custom operators", slow_functions, runtime)
    tally.run("outliers as nodes", outliers, runtime, False)
    tally.run("outliers as custom operators", outliers, runtime, True)
    for check in (outliers_ends, slow_outliers, wrong_outliers, dequantized, dequantized_apart, dequantized_together, dequantized_elsewhere):
        tally.run(check.__name__, check, runtime)
    for check in (attention_forms, attention_in_place, attention_left, attention_wrong, attention_at_once, norms, norms_left):
        tally.run(check.__name__, check, runtime)
    for check in (together, gates, gates_apart, other_ends, halves, inner_graphs, left, wrong, options, one_room, at_once, without_llvm):
        tally.run(check.__name__, check, runtime)
    sizes = ((2048, 1024, 8, 32), (1024, 1024, 8, 32))
    tally.run("freed", freed, runtime, False, [Weight(*size) for size in sizes])
    tally.run("freed custom operators", freed, runtime, True, [Weight(*size, domain="ai.qcc") for size in sizes])
    tally.run("freed outliers", freed, runtime, False, [Outliers(512, 768, 8, 32)])
    tally.run("freed custom outliers", freed, runtime, True, [Outliers(512, 768, 8, 32)])
    tally.run("freed dequantized weights", freed, runtime, False, [Linear(512, 768, 8, 32)])
    tally.run("registered again", again, runtime)
    if args.qcc:
        tally.run("files made by qcc", made_by_qcc, runtime, args.qcc)
    if args.model:
        tally.run(f"model {args.model}", large, runtime, args.model)
    tally.finish()


if __name__ == "__main__":
    main()
