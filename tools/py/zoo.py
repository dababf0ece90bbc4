#!/usr/bin/env python3
"""The built qcc on many small models from many exporters.

    zoo.py --qcc PATH [--zoo DIR] [--out DIR] [--only NAME]...

DIR/index.json names the models; each has model.onnx and feeds.npz. For every model:
  none   -O none writes the input byte for byte, external files included
  valid  -O RECIPE -b4 passes the ONNX checker if the input does
  again  -O RECIPE -b4 of what is quantized already writes its input byte for byte
  runs   the result runs wherever the float model runs, and stays near the float outputs
  fake   computing in float, it agrees with --format fake
Distances are |got - want| / |want| over all floating-point outputs. Prints a Markdown table and fails if any check fails.
"""

import argparse
import json
import os
import shutil

import checks
import numpy as np
import onnx
import oracle
from checks import expect

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
PACKED = ("MatMulNBits", "GatherBlockQuantized")


def is_half(path):
    return any(t.data_type in HALF and len(t.dims) > 1 for t in onnx.load(path, load_external_data=False).graph.initializer)


def outputs(model, feeds):
    sess = oracle.session(model)
    names = {i.name for i in sess.get_inputs()}
    return oracle.run(sess, {k: v for k, v in feeds.items() if k in names})


def complaint(path):
    """What the ONNX checker has against a model, empty if nothing."""
    try:
        onnx.checker.check_model(path, full_check=True)
        return ""
    except Exception as e:  # ValidationError, or InferenceError of the shape inference it runs
        return " ".join(str(e).split())


def packed(path):
    return sum(n.op_type in PACKED for n in checks.nodes(onnx.load(path, load_external_data=False)))


class Case:
    """One model of the zoo and what was found out about it."""

    def __init__(self, qcc, recipe, zoo, out, name):
        self.qcc, self.recipe, self.name = qcc, recipe, name
        self.model = os.path.join(zoo, name, "model.onnx")
        self.out = os.path.join(out, name)
        with np.load(os.path.join(zoo, name, "feeds.npz")) as f:
            self.feeds = {k: f[k] for k in f.files}
        self.row = {}

    def quantize(self, kind, *options, model=None):
        folder = os.path.join(self.out, kind)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "model.onnx")
        checks.qcc(self.qcc, model or self.model, *options, "-o", path)
        return path

    def none(self):
        checks.expect_same_model(self.quantize("none", "-O", "none"), self.model)
        self.row["none"] = "equal"

    def valid(self):
        self.packed_model = self.quantize(self.recipe, "-O", self.recipe, "-b4")
        if complaint(self.model):  # operators that only ONNX Runtime knows, in ONNX's own domain
            self.row["valid"] = "as input"
        else:
            found = complaint(self.packed_model)
            expect(not found, f"ONNX checker: {found}")
            self.row["valid"] = "yes"
        self.row["packed"] = str(packed(self.packed_model) - packed(self.model))
        self.row["bytes"] = f"{oracle.model_bytes(self.model):,} -> {oracle.model_bytes(self.packed_model):,}"

    def again(self):
        twice = self.quantize("again", "-O", self.recipe, "-b4", model=self.packed_model)
        checks.expect_same_model(twice, self.packed_model)
        self.row["again"] = "equal"

    def runs(self, want):
        got = outputs(self.packed_model, self.feeds)
        distance = oracle.relative(got, want)
        expect(distance < 0.5, f"distance to float {distance:.3g}")
        self.row["runs"] = f"{distance:.4f}"

    def fake(self):
        want = self.quantize("fake", "-O", self.recipe, "-b4", "--format", "fake")
        want = outputs(checks.in_float(want), self.feeds)
        distance = oracle.relative(outputs(checks.in_float(self.packed_model), self.feeds), want)
        limit = 3e-2 if is_half(self.model) else 1e-4
        expect(distance < limit, f"distance to fake {distance:.3g}, limit {limit}")
        self.row["fake"] = f"{distance:.1e}"

    def check(self, tally):
        tally.run(f"{self.name} none", self.none)
        tally.run(f"{self.name} valid", self.valid)
        if "valid" not in self.row:
            return
        tally.run(f"{self.name} again", self.again)
        try:
            want = outputs(self.model, self.feeds)
        except Exception as e:  # a type or operator that ONNX Runtime's CPU provider lacks
            print(f"     {self.name}: the float model does not run: {str(e).splitlines()[0][:120]}")
            self.row["runs"] = self.row["fake"] = "float does not"
            return
        tally.run(f"{self.name} runs", self.runs, want)
        tally.run(f"{self.name} fake", self.fake)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", required=True)
    p.add_argument("--zoo", default=os.path.join(os.path.dirname(ROOT), "shared", "models", "zoo"))
    p.add_argument("--out", default=os.path.join(ROOT, "target", "zoo"))
    p.add_argument("--recipe", default="rtn", help="recipe that is checked, rtn by default")
    p.add_argument("--only", action="append", metavar="NAME")
    a = p.parse_args()
    with open(os.path.join(a.zoo, "index.json")) as f:
        names = [n for n in json.load(f) if not a.only or n in a.only]
    shutil.rmtree(a.out, ignore_errors=True)
    tally, cases = checks.Tally(quiet=True), []
    for name in names:
        cases.append(Case(a.qcc, a.recipe, a.zoo, a.out, name))
        cases[-1].check(tally)
    columns = ("none", "valid", "again", "packed", "runs", "fake", "bytes")
    print("\n| model | -O none | valid | again | packed weights | distance to float | distance to fake | bytes |\n|---|---|---|---|---|---|---|---|")
    for c in cases:
        print(f"| {c.name} | " + " | ".join(c.row.get(k, "**FAIL**") for k in columns) + " |")
    print()
    tally.finish()


if __name__ == "__main__":
    main()
