#!/usr/bin/env python3
"""How many weights of a model each format takes, next to ONNX Runtime's quantizer, and what the outputs keep.

    coverage.py --qcc PATH [--zoo DIR] [--peer] [--out DIR] [--only NAME]... [MODEL]...

For every model, 4 bits in groups of 32, head included, and every format:
  named  each product with a constant is quantized, or left in float for a reason that is printed
  file   the ONNX checker passes if it does on the input; inputs, outputs, other tensors, names and metadata are kept;
         nothing in data files is unused; printed sizes are those of the file
  fast   after ONNX Runtime's optimizations every quantized product is a MatMulNBits with a fast kernel
  fake   computing in float, the outputs agree with `fake`
  peer   ONNX Runtime's MatMulNBitsQuantizer takes no more, but for weights that are left because they are small (with
         --peer; it needs the package onnx_ir)
Inputs are those of feeds.npz beside the model, or 16 random token ids. Prints a Markdown table.
"""

import argparse
import collections
import json
import logging
import os
import shutil

import checks
import fidelity
import numpy as np
import onnx
import oracle
from checks import Failure, expect
from zoo import ROOT, complaint, is_half

FORMATS = ("nbits", "qdq", "function")
REFUSALS = ("QCC0203", "QCC0305")
SMALL = ("it has only ", "its rows have only ", "it has one output")
STEPS = ("Transpose", "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def constant_products(model):
    """Names, or first outputs, of products that read a constant of two or more dimensions."""
    found = []
    shapes = {t.name: t.dims for g in fidelity.graphs(model) for t in g.initializer}
    for graph in fidelity.graphs(model):
        for node in graph.node:
            if node.op_type == "Constant":
                shapes[node.output[0]] = next((a.t.dims for a in node.attribute if a.name == "value"), ())
            elif node.op_type in STEPS and node.input[0] in shapes:
                shapes[node.output[0]] = shapes[node.input[0]]
            elif node.op_type in ("MatMul", "Gemm", "FusedMatMul") or (node.op_type, node.domain) == ("Attention", "com.microsoft"):
                dims = [shapes.get(i, ()) for i in node.input[:2]]
                if any(sum(d > 1 for d in x) and len(x) > 1 for x in dims) and () in [tuple(x) for x in dims]:
                    found.append(node.name or node.output[0])
    return found


def peer_count(path):
    """Weights that ONNX Runtime's quantizer takes."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.disable(logging.INFO)  # it says something about every node
    quantizer = MatMulNBitsQuantizer(onnx.load(path), bits=4, block_size=32, is_symmetric=False)
    quantizer.process()
    return new_products(quantizer.model.model) - new_products(onnx.load(path, load_external_data=False))


def new_products(model):
    return sum(n.op_type == "MatMulNBits" for n in checks.nodes(model))


class Case:
    """One model and what was found out about it."""

    def __init__(self, qcc, name, model, out, tally):
        self.qcc, self.name, self.model, self.tally = qcc, name, model, tally
        self.out = os.path.join(out, name)
        self.row = {}

    def quantize(self, format_):
        folder = os.path.join(self.out, format_)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "model.onnx")
        # A model keeps what says how large its cache is.
        config = os.path.join(os.path.dirname(self.model), "genai_config.json")
        if os.path.exists(config):
            shutil.copy(config, folder)
        options = ("-O", "rtn", "-b4", "-g32", "--lm-head", 4, "--format", format_, "--json", "-f", "-o", path)
        return path, json.loads(checks.qcc(self.qcc, self.model, *options))

    def feeds(self):
        beside = os.path.join(os.path.dirname(self.model), "feeds.npz")
        session = oracle.session(self.model)
        names = {i.name for i in session.get_inputs()}
        if os.path.exists(beside):
            with np.load(beside) as f:
                return {k: f[k][:8] if f[k].ndim and len(f[k]) > 100 else f[k] for k in f.files if k in names}
        ids = np.random.default_rng(1).integers(5, 1000, (1, 16))
        return oracle.language_feeds(session, self.model, ids)

    def check(self, peer):
        self.before = onnx.load(self.model, load_external_data=False)
        self.complaint = complaint(self.model)
        self.already = fidelity.speed_path(self.model) if self.loads() else None
        fake = self.tally.run(f"{self.name} fake", lambda: self.quantize("fake"))
        if not fake:
            return
        products = constant_products(self.before)
        self.row["products"] = str(len(products))
        self.tally.run(f"{self.name} named", self.named, products, fake[1])
        reasons = collections.Counter(r["reason_left_float"] for r in fake[1]["weights"] if r["reason_left_float"])
        self.too_small = sum(c for r, c in reasons.items() if r.startswith(SMALL))
        self.row["left"] = "; ".join(f"{c} {r}" for r, c in sorted(reasons.items()))
        feeds = self.feeds() if self.already else None
        for format_ in FORMATS:
            self.tally.run(f"{self.name} {format_}", self.format, format_, fake[0], feeds)
            shutil.rmtree(os.path.join(self.out, format_), ignore_errors=True)
        if peer and self.already:  # what it makes of a model that cannot be run is no measure
            self.tally.run(f"{self.name} peer", self.peer)
        shutil.rmtree(self.out, ignore_errors=True)

    def loads(self):
        try:
            oracle.session(self.model)
            return True
        except Exception:  # an operator or type that ONNX Runtime's CPU provider lacks
            return False

    def named(self, products, record):
        told = {site for r in record["weights"] for site in r["sites"]}
        missing = [p for p in products if p not in told]
        expect(not missing, f"nothing is said about {missing[:5]}")

    def format(self, format_, fake, feeds):
        try:
            path, record = self.quantize(format_)
        except Failure as e:
            code = next((c for c in REFUSALS if c in str(e)), None)
            expect(code, str(e))
            self.row[format_] = code
            return
        sites = [s for r in record["weights"] if not r["reason_left_float"] for s in r["sites"]]
        self.row[format_] = str(len(sites))
        after = onnx.load(path, load_external_data=False)
        if not self.complaint:
            found = self.complained(format_, path)
            expect(not found, f"ONNX checker: {found}")
        lost = fidelity.losses(self.model, path)
        expect(not lost, "; ".join(lost[:4]))
        self.printed(path, record)
        self.unused(path, after)
        if self.already is None:
            return
        if format_ != "function":
            now = fidelity.speed_path(path)
            fused = now["fused"] - self.already["fused"]
            slow, left = (now[k] - self.already[k] for k in ("slow", "left"))
            expect(fused >= len(sites) and slow == left == 0, f"{fused} MatMulNBits of {len(sites)}, {slow} slow, {left} left")
        level = "basic" if format_ == "qdq" else "all"  # fused, it would round activations
        got, want = (oracle.run(self.in_float(p, level), feeds) for p in (path, fake))
        distance = oracle.relative(got, want)
        limit = 3e-2 if is_half(self.model) else 1e-4
        expect(distance < limit, f"distance to fake {distance:.2e}, limit {limit}")
        self.row["fake"] = f"{max(distance, float(self.row.get('fake', 0))):.1e}"

    def in_float(self, path, level):
        """A session that computes in float; without MatMulNBits, of the file itself, which may be large."""
        has = new_products(onnx.load(path, load_external_data=False))
        return oracle.session(checks.in_float(path) if has else path, level)

    def complained(self, format_, path):
        if format_ != "function":
            return complaint(path)
        try:
            onnx.checker.check_model(path)
            return ""
        except Exception as e:
            return str(e)

    def printed(self, path, record):
        """Sizes in the record are those in the file, and every row of it is a weight of the model."""
        strange = [r["name"] for r in record["weights"] if not r["op"]]
        expect(not strange, f"rows of no operator: {strange[:3]}")
        before, after = ({w.name: w.bytes for w in fidelity.stored(onnx.load(m))} for m in (self.model, path))
        held = sum(size for name, size in after.items() if name not in before)
        told = sum(r["bytes_after"] for r in record["weights"] if not r["reason_left_float"])
        expect(held == told, f"{told} bytes of codes, scales and zero points are printed, {held} are in the file")

    def unused(self, path, model):
        """Bytes of the data file that nothing points to are padding only."""
        held = 0
        for t in (t for g in fidelity.graphs(model) for t in g.initializer):
            held += sum(int(e.value) for e in t.external_data if e.key == "length")
        files = oracle.external_files(path)
        size = sum(os.path.getsize(os.path.join(os.path.dirname(path), f)) for f in files)
        expect(held <= size <= 1.01 * held + 4096, f"{size} bytes in data files, {held} of them used")

    def peer(self):
        count = peer_count(self.model)
        self.row["peer"] = str(count)
        for format_ in FORMATS:
            mine = self.row.get(format_, "")
            if mine.isdigit() and int(mine) + self.too_small < count:
                raise Failure(f"{format_} takes {mine}, and {self.too_small} are too small; ONNX Runtime takes {count}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", required=True)
    p.add_argument("--zoo", metavar="DIR")
    p.add_argument("--out", default=os.path.join(ROOT, "target", "coverage"))
    p.add_argument("--peer", action="store_true")
    p.add_argument("--only", action="append", metavar="NAME")
    p.add_argument("model", nargs="*")
    a = p.parse_args()
    models = [(os.path.basename(os.path.dirname(os.path.abspath(m))), m) for m in a.model]
    if a.zoo:
        with open(os.path.join(a.zoo, "index.json")) as f:
            models += [(name, os.path.join(a.zoo, name, "model.onnx")) for name in json.load(f)]
    shutil.rmtree(a.out, ignore_errors=True)
    tally, cases = checks.Tally(quiet=True), []
    for name, model in models:
        if not a.only or name in a.only:
            cases.append(Case(a.qcc, name, model, a.out, tally))
            cases[-1].check(a.peer)
    columns = ("products", *FORMATS, *(["peer"] if a.peer else []), "fake", "left")
    print("\n| model | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for c in cases:
        print(f"| {c.name} | " + " | ".join(c.row.get(k, "") for k in columns) + " |")
    print()
    tally.finish()


if __name__ == "__main__":
    main()
