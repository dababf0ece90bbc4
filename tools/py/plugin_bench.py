"""Times of a language model with the plug-in beside ONNX Runtime's own CPU provider.

    plugin.py --lib libqcc_ort.so --bench MODEL [--levels 4,0] [--past 128] [--rounds 60] [--threads 0] [--entry KEY=VALUE]...

Decoding is one token after --past others with the KV cache, prefill 128 tokens at once. Keys and values are bound as
onnxruntime-genai binds them: one buffer of 1024 positions is the past and the present (--caches shared); with --caches own the
runtime gives new ones each time, and Python gets copies. Both sessions live in one process and
take turns, the order alternating; ratios are medians over rounds of the time of the CPU provider over that of the plug-in.
Loading and memory are those of a process for each, also in turn. MODEL has inputs input_ids and past_key_values.*; at another
level than its own it is written anew beside its data, and removed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort

SIDES = ("cpu", "qcc")
LOADS = 7
# Threads of a session spin for a while behind its last run: the other one waits until they sleep, and then has some runs.
PAUSE, RUNS = 0.05, 5
# Positions of caches that are past and present in one.
ROOM = 1024


def arguments(parser):
    parser.add_argument("--bench", metavar="MODEL")
    parser.add_argument("--levels", default="4,0", help="accuracy levels; 'own' leaves the file as it is")
    parser.add_argument("--past", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--caches", choices=["shared", "own"], default="shared")
    parser.add_argument("--entry", action="append", default=[], help="entry of the configuration of both sessions")
    parser.add_argument("--option", action="append", default=[], help="option of the plug-in")
    parser.add_argument("--load-only", choices=SIDES, help="seconds to open and with a run, MiB; --bench calls it")


def at_level(path, level, folder):
    """The model with another accuracy_level on all products, in a folder beside its data."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [a for a in node.attribute if a.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", level)])
    place = os.path.dirname(os.path.abspath(path))
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not os.path.exists(os.path.join(folder, entry.value)):
                os.link(os.path.join(place, entry.value), os.path.join(folder, entry.value))
    made = os.path.join(folder, os.path.basename(path))
    onnx.save(model, made)
    return made


def feeds(session, rows, past, seed=0):
    """Inputs for `rows` tokens after `past` others."""
    rng = np.random.default_rng(seed)
    found = {}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            heads, width = value.shape[1], value.shape[3]
            width = width if isinstance(width, int) else cache_width(session)
            found[value.name] = (0.1 * rng.standard_normal((1, heads, past, width))).astype(np.float32)
        elif value.name == "attention_mask":
            found[value.name] = np.ones((1, past + rows), np.int64)
        elif value.name == "position_ids":
            found[value.name] = np.arange(past, past + rows, dtype=np.int64)[None]
        else:
            found[value.name] = rng.integers(0, 20000, (1, rows), dtype=np.int64)
    return found


def cache_width(session):
    """Width of a head where the model leaves it open: from its outputs, else as most small models have it."""
    for value in session.get_outputs():
        if value.name.startswith("present") and isinstance(value.shape[-1], int):
            return value.shape[-1]
    return 64


def pairs(items):
    return dict(item.split("=", 1) for item in items)


def open_session(runtime, path, side, args):
    plug = side == "qcc"
    return runtime.session(path, plug, options=pairs(args.option), threads=args.threads, **pairs(args.entry))


def high_water():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def load_only(runtime, args):
    start = time.perf_counter()
    session = open_session(runtime, args.bench, args.load_only, args)
    seconds = time.perf_counter() - start
    inputs = feeds(session, 1, args.past)
    start = time.perf_counter()
    session.run(None, inputs)
    first = seconds + time.perf_counter() - start
    print(f"{seconds} {first} {high_water()} {resident()}")


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def loads(runtime, path, args):
    found = {side: [] for side in SIDES}
    for turn in range(LOADS):
        for side in SIDES[:: 1 if turn % 2 else -1]:
            command = [sys.executable, sys.argv[0], "--lib", runtime.lib, "--bench", path, "--load-only", side]
            command += ["--past", str(args.past), "--threads", str(args.threads)]
            command += [part for item in args.entry for part in ("--entry", item)]
            command += [part for item in args.option for part in ("--option", item)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if turn:  # the first fills the caches of files and of kernels
                found[side].append([float(word) for word in done.stdout.split()])
    for i, (what, unit) in enumerate((("load", "s"), ("load and one run", "s"), ("most memory", "MiB"), ("memory", "MiB"))):
        cpu, qcc = ([one[i] for one in found[side]] for side in SIDES)
        ratio = statistics.median(q / c for c, q in zip(cpu, qcc))
        print(f"  {what}: {statistics.median(cpu):.3g} and {statistics.median(qcc):.3g} {unit}, {ratio:.2f} times")


def step(session, rows, past, caches):
    """A function that runs the session once."""
    inputs = feeds(session, rows, past)
    if caches == "own":
        return lambda: session.run(None, inputs)
    bound = session.io_binding()
    for name, value in inputs.items():
        if not name.startswith("past"):
            bound.bind_cpu_input(name, value)
            continue
        room = np.zeros((*value.shape[:2], ROOM, value.shape[3]), value.dtype)
        room[:, :, :past] = value
        room = ort.OrtValue.ortvalue_from_numpy(room)
        bound.bind_ortvalue_input(name, room)
        bound.bind_ortvalue_output(name.replace("past_key_values", "present"), room)
    bound.bind_output("logits")
    return lambda: session.run_with_iobinding(bound)


def times(steps, rounds):
    """Milliseconds of each side, in turn."""
    found = {side: [] for side in SIDES}
    for side in SIDES:
        for _ in range(3):
            steps[side]()
    for turn in range(rounds):
        for side in SIDES[:: 1 if turn % 2 else -1]:
            time.sleep(PAUSE)
            steps[side]()
            each = []
            for _ in range(RUNS):
                start = time.perf_counter()
                steps[side]()
                each.append(1000 * (time.perf_counter() - start))
            found[side].append(statistics.median(each))
    return found


def run(runtime, args):
    if args.load_only:
        load_only(runtime, args)
        return
    for level in args.levels.split(","):
        beside = os.path.dirname(os.path.abspath(args.bench))
        with tempfile.TemporaryDirectory(dir=beside) as folder:
            path = args.bench if level == "own" else at_level(args.bench, int(level), folder)
            print(f"level {level}: ONNX Runtime's CPU provider and the plug-in")
            sessions = {side: open_session(runtime, path, side, args) for side in SIDES}
            for what, rows, past, rounds in (
                (f"decode after {args.past}", 1, args.past, args.rounds),
                ("prefill of 128", 128, 0, max(args.rounds // 6, 5)),
            ):
                steps = {side: step(sessions[side], rows, past, args.caches) for side in SIDES}
                found = times(steps, rounds)
                cpu, qcc = (found[side] for side in SIDES)
                ratio = statistics.median(c / q for c, q in zip(cpu, qcc))
                best = min(cpu) / min(qcc)
                print(
                    f"  {what}: {statistics.median(cpu):.2f} and {statistics.median(qcc):.2f} ms, "
                    f"{ratio:.2f} times as fast; best {min(cpu):.2f} and {min(qcc):.2f} ms, {best:.2f} times"
                )
            del sessions
            loads(runtime, path, args)
