#!/usr/bin/env python3
"""End-to-end checks: the built qcc on the bundled model, its output in ONNX Runtime.

    e2e.py --qcc PATH [--out DIR] [--only NAME]...

A check is a function in the table CHECKS; it gets a Bench, returns text to print or nothing, and raises Failure.
"""

import argparse
import functools
import os
import shutil

import checks
import numpy as np
import onnx
import oracle
import perplexity
from checks import expect

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "tests", "models", "books1M", "model.onnx")
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


def threads_do_not_change_bytes(b):
    paths = []
    for n in ("1", "3"):
        path = os.path.join(b.out, f"threads{n}.onnx")
        checks.qcc(b.qcc, MODEL, "-O", "rtn", "-b4", "-o", path, env={"RAYON_NUM_THREADS": n})
        paths.append(path)
    expect(checks.same_bytes(*paths), "1 and 3 threads wrote different files")


CHECKS = [
    float_perplexity,
    none_is_identity,
    rtn4_is_valid,
    rtn4_is_smaller,
    rtn4_perplexity,
    rtn8_perplexity,
    nbits_computes_what_fake_does,
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
