#!/usr/bin/env python3
"""End-to-end checks: the built qcc on the bundled model, its output in ONNX Runtime.

    e2e.py --qcc PATH [--out DIR] [--only NAME]...

A check is a function in the table CHECKS; it gets a Bench, returns text to print or nothing, and raises Failure.
"""

import argparse
import functools
import json
import os
import shutil
import subprocess

import checks
import numpy as np
import onnx
import oracle
import perplexity
from checks import Failure, expect

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "tests", "models", "books1M", "model.onnx")
CALIB = os.path.join(ROOT, "tests", "models", "books1M", "calib.npy")
EVAL = os.path.join(ROOT, "tests", "models", "books1M", "eval.npy")
FLOAT_PERPLEXITY = 35.6551


class Bench:
    """The binary, a folder for its outputs, and the float model's results."""

    def __init__(self, qcc, out):
        self.qcc, self.out = qcc, out
        self.ids = np.load(EVAL)

    @functools.cache
    def quantized(self, *options):
        """Path of the model quantized with these options; each set of options is run once."""
        name = "".join(c if c.isalnum() else "_" for c in " ".join(options)).strip("_")
        folder = os.path.join(self.out, name)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "model.onnx")
        checks.qcc(self.qcc, MODEL, *options, "-o", path)
        return path

    @functools.cached_property
    def float_model(self):
        return perplexity.Model(MODEL)

    def score(self, path):
        return perplexity.score(perplexity.Model(path), self.ids, self.float_model)


def none_is_identity(b):
    checks.expect_same_model(b.quantized("-O", "none"), MODEL)


def float_perplexity(b):
    got = perplexity.score(b.float_model, b.ids)["perplexity"]
    expect(abs(got - FLOAT_PERPLEXITY) < 1e-3, f"{got:.4f}, expected {FLOAT_PERPLEXITY}")
    return f"{got:.4f}"


def rtn4_is_valid(b):
    path = b.quantized("-O", "rtn", "-b4")
    onnx.checker.check_model(path, full_check=True)
    ops = [n.op_type for n in onnx.load(path, load_external_data=False).graph.node]
    expect("MatMulNBits" in ops, "no MatMulNBits in the output")
    oracle.session(path)
    return f"{ops.count('MatMulNBits')} MatMulNBits"


def rtn4_is_smaller(b):
    before, after = oracle.model_bytes(MODEL), oracle.model_bytes(b.quantized("-O", "rtn", "-b4"))
    # Embedding and head, 0.3 of the bytes, may stay float.
    expect(after < 0.65 * before, f"{after} bytes of {before}")
    return f"{after:,} bytes of {before:,}"


def rtn4_perplexity(b):
    return bounded(b, 37.0, "-O", "rtn", "-b4")


def rtn8_perplexity(b):
    return bounded(b, 35.8, "-O", "rtn", "-b8")


def bounded(b, limit, *options):
    """Perplexity below the limit; well below the float model's the measurement itself would be wrong."""
    s = b.score(b.quantized(*options))
    text = f"perplexity {s['perplexity']:.4f} (float {s['ref_perplexity']:.4f}), KL {s['kl']:.5f}, same first {s['top1']:.2%}"
    expect(0.98 * FLOAT_PERPLEXITY < s["perplexity"] < limit, f"{text}; limit {limit}")
    return text


def nbits_computes_what_fake_does(b):
    """Codes, scales and zero points stand for exactly the rounded weights of --format fake."""
    feeds = {"input_ids": b.ids[:1]}
    got = oracle.run(oracle.session(checks.in_float(b.quantized("-O", "rtn", "-b4"))), feeds)
    want = oracle.run(oracle.session(b.quantized("-O", "rtn", "-b4", "--format", "fake")), feeds)
    distance = oracle.relative(got, want)
    expect(distance < 1e-4, f"relative distance {distance:.2e}")
    return f"relative distance {distance:.1e}"


def other_formats_compute_what_fake_does(b):
    """qdq before fusion and function compute in float, so they are compared as they are."""
    feeds = {"input_ids": b.ids[:1]}
    texts = []
    for bits, group, format_ in [("4", "32", "qdq"), ("8", "64", "qdq"), ("3", "32", "function"), ("6", "16", "function")]:
        options = ("-O", "rtn", f"-b{bits}", f"-g{group}")
        path = b.quantized(*options, "--format", format_)
        onnx.checker.check_model(path, full_check=format_ != "function")
        got = oracle.run(oracle.session(path, "basic"), feeds)
        want = oracle.run(oracle.session(b.quantized(*options, "--format", "fake")), feeds)
        distance = oracle.relative(got, want)
        expect(distance < 1e-4, f"{format_} {bits} bits: relative distance {distance:.2e}")
        texts.append(f"{format_} {bits} bits {distance:.1e}")
    return ", ".join(texts)


def outliers_compute_what_fake_does(b):
    """adpq: codes with two scales a group, decoded by the function in ONNX Runtime, are the weights of --format fake."""
    feeds = {"input_ids": b.ids[:1]}
    texts = []
    for bits, group, share in [("4", "32", "0.05"), ("3", "64", "0.01"), ("5", "row", "0.002")]:
        options = ("-O", f"adpq{{outliers={share}}}", f"-b{bits}", f"-g{group}")
        path = b.quantized(*options, "--format", "function")
        onnx.checker.check_model(path)
        nodes = onnx.load(path, load_external_data=False).graph.node
        count = sum(n.op_type == f"MatMulQ{bits}Outliers" for n in nodes)
        expect(count == 28, f"{count} products with outliers")
        got = oracle.run(oracle.session(path), feeds)
        want = oracle.run(oracle.session(b.quantized(*options, "--format", "fake")), feeds)
        distance = oracle.relative(got, want)
        expect(distance < 1e-5, f"{bits} bits: relative distance {distance:.2e}")
        texts.append(f"{bits} bits {distance:.1e}")
    try:
        b.quantized("-O", "adpq", "--format", "nbits")
    except Failure as e:
        expect("qcc explain QCC0305" in str(e) and "--format function" in str(e), str(e))
        return ", ".join(texts)
    raise Failure("nbits took outliers")


def data_free_kl_beats_rtn(b):
    kl, rtn = (b.score(b.quantized("-O", recipe, "-b3", "-g128"))["kl"] for recipe in ("kl", "rtn"))
    expect(kl < 0.9 * rtn, f"KL {kl:.4f}, rtn {rtn:.4f}")
    return f"KL {kl:.4f}, rtn {rtn:.4f}"


def calibrated_recipes_lose_less(b):
    """On 4 bits in groups of 32, with and without calibration samples."""
    texts = []
    for recipe, calib, limit in [("gptq", True, 0.0105), ("signround", True, 0.0105), ("signround", False, 0.0105)]:
        options = ("--calib", CALIB) if calib else ()
        s = b.score(b.quantized("-O", recipe, "-b4", "-g32", *options))
        text = f"{recipe} {'with' if calib else 'without'} samples: KL {s['kl']:.5f}"
        expect(s["kl"] < limit, f"{text}, limit {limit}")
        texts.append(text)
    return "; ".join(texts)


def eval_agrees_with_onnx_runtime(b):
    """Perplexity and KL by qcc's executor and by ONNX Runtime, on float, fake and level 0."""
    texts = []
    for options in [(), ("-O", "rtn", "-b4", "--format", "fake"), ("-O", "rtn", "-b4", "--accuracy-level", "0")]:
        path = b.quantized(*options) if options else MODEL
        ours = json.loads(checks.qcc(b.qcc, "eval", path, "-d", EVAL, "--ref", MODEL, "--json"))
        theirs = b.score(path)
        for mine, want in [(ours["perplexity"], theirs["perplexity"]), (ours["kl_nats"], theirs["kl"])]:
            expect(abs(mine - want) <= 1e-3 * abs(want) + 1e-9, f"{options}: {mine} and {want}")
        texts.append(f"{ours['perplexity']:.4f}")
    return ", ".join(texts)


def compare_agrees_with_onnx_runtime(b):
    """Figures of outputs and of the results of blocks, against NumPy on what ONNX Runtime computes."""
    count, worst = 3, 0.0
    for options in [("-O", "rtn", "-b4"), ("-O", "rtn", "-b4", "--format", "function")]:
        path = b.quantized(*options)
        ours = json.loads(checks.qcc(b.qcc, "compare", MODEL, path, "-d", EVAL, "-n", count, "--json"))
        names = [v["name"] for v in ours["values"]]
        expect(len(names) == 6 and names[0] == "logits", f"{options}: values are {names}")
        models = onnx.load(MODEL), onnx.load_from_string(checks.in_float(path))
        want, got = (shown(model, names, b.ids[:count]) for model in models)
        for value in ours["values"]:
            x, y = (np.asarray(of[value["name"]], np.float64).ravel() for of in (want, got))
            error, signal = np.linalg.norm(x - y), np.linalg.norm(x)
            if value["exact"]:
                expect(error == 0, f"{options}: {value['name']} is not exact: {error}")
                continue
            figures = {
                "max_abs": np.abs(x - y).max(),
                "relative": error / signal,
                "cosine": x @ y / (signal * np.linalg.norm(y)),
                "snr_db": 20 * np.log10(signal / error),
            }
            for name, figure in figures.items():
                off = abs(value[name] - figure) / abs(figure)
                expect(off < 1e-3, f"{options}: {name} of {value['name']} is {value[name]}, not {figure}")
                worst = max(worst, off)
        first, differ = ours["first_difference"], [v["name"] for v in ours["values"][1:] if not v["exact"]]
        expect(first["value"] == differ[0], f"{options}: first is {first}")
        expect(len(first["weights"]) == 7, f"{options}: first is {first}")
    return f"largest relative deviation {worst:.1e}"


def shown(model, names, ids):
    """Values of a model by name, one row of ids at a time."""
    known = {o.name for o in model.graph.output}
    more = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n not in known]
    model.graph.output.extend(more)
    sess = oracle.session(model.SerializeToString(), "none")
    runs = [dict(zip(names, sess.run(names, {"input_ids": row[None]}))) for row in ids]
    return {n: np.concatenate([r[n] for r in runs]) for n in names}


def threads_do_not_change_bytes(b):
    paths = []
    for n in ("1", "3"):
        path = os.path.join(b.out, f"threads{n}.onnx")
        checks.qcc(b.qcc, MODEL, "-O", "signround", "-b4", "-j", n, "-f", "-o", path)
        paths.append(path)
    expect(checks.same_bytes(*paths), "1 and 3 threads wrote different files")


def bad_input_is_an_error_with_a_code(b):
    """Exit codes as documented, no partial output."""
    folder = os.path.join(b.out, "bad")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    whole = open(MODEL, "rb").read()
    cut = os.path.join(folder, "cut.onnx")
    open(cut, "wb").write(whole[: len(whole) // 2])
    out = os.path.join(folder, "out.onnx")
    cases = [
        (1, "QCC0102", [cut, "-o", out]),
        (1, "QCC0101", [os.path.join(folder, "none.onnx"), "-o", out]),
        (1, "QCC0105", [MODEL, "-O", "rtn", "-o", os.path.join(folder, "no", "out.onnx")]),
        (1, "QCC0107", [MODEL, "-O", "rtn", "-f", "-o", MODEL]),
        (1, "QCC0305", [MODEL, "-O", "rtn", "-g8", "-o", out]),
        (1, "QCC0401", [MODEL, "-O", "kl", "--calib", cut, "-o", out]),
        (2, "QCC0301", [MODEL, "-O", "nothing", "-o", out]),
        (2, "QCC0311", [MODEL, "-O", "rtn", "--exclude", "nothing", "-o", out]),
    ]
    for want, code, args in cases:
        run = subprocess.run([b.qcc, *args], capture_output=True, text=True, timeout=600)
        expect(run.returncode == want and code in run.stderr, f"{args}: exit {run.returncode}, {run.stderr[:200]}")
    expect(sorted(os.listdir(folder)) == ["cut.onnx"], f"left behind: {os.listdir(folder)}")
    return f"{len(cases)} cases"


CHECKS = [
    float_perplexity,
    none_is_identity,
    rtn4_is_valid,
    rtn4_is_smaller,
    rtn4_perplexity,
    rtn8_perplexity,
    nbits_computes_what_fake_does,
    other_formats_compute_what_fake_does,
    outliers_compute_what_fake_does,
    data_free_kl_beats_rtn,
    calibrated_recipes_lose_less,
    eval_agrees_with_onnx_runtime,
    compare_agrees_with_onnx_runtime,
    bad_input_is_an_error_with_a_code,
    threads_do_not_change_bytes,
]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", required=True)
    p.add_argument("--out", default=os.path.join(ROOT, "target", "e2e"))
    p.add_argument("--only", action="append", choices=[c.__name__ for c in CHECKS])
    a = p.parse_args()
    shutil.rmtree(a.out, ignore_errors=True)
    os.makedirs(a.out)
    bench, tally = Bench(a.qcc, a.out), checks.Tally()
    for check in CHECKS:
        if not a.only or check.__name__ in a.only:
            tally.run(check.__name__, check, bench)
    tally.finish()


if __name__ == "__main__":
    main()
