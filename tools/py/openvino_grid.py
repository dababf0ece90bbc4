#!/usr/bin/env python3
"""Checks that OpenVINO computes from files of qcc what the float weights of --format fake give.

    PYTHON tools/py/openvino_grid.py --qcc target/ci/qcc [--full]

PYTHON is one that has openvino beside onnx and numpy. The products are those of formats.py: each width with each block,
symmetric or not, K of whole blocks, ragged and below a block, N from 1 to 192, with and without a bias, in f32; --full
has all combinations. OpenVINO reads nbits as it is; qdq but for 2 bits, whose type it does not know, and K that is no multiple of the block; function with the bodies of
its operators inlined by onnx. Activations stay in float. The distance of a product is the largest difference to the product
with the weights of fake in f64, over its largest value; the table has the largest of each format and width.
"""

import argparse
import itertools
import os
import tempfile
from collections import defaultdict

import checks
import numpy as np
import onnx
import onnx.inliner
import openvino
from products import BITS, BLOCKS, KINDS, OUTPUTS, RAGGED, SHORT, WHOLE, FEW, save

LIMIT = 2e-6
FORMATS = ("nbits", "qdq", "function")
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def compiled(path, format_):
    if format_ == "function":
        onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), path)
    return openvino.Core().compile_model(path, "CPU", EXACT)


def exact(path, feeds):
    """Results of a float model in f64, by name."""
    model = onnx.load(path)
    values = {it.name: onnx.numpy_helper.to_array(it).astype(np.float64) for it in model.graph.initializer}
    values |= {name: it.astype(np.float64) for name, it in feeds.items()}
    for node in model.graph.node:
        given = [values[it] for it in node.input]
        if node.op_type == "Add":
            result = given[0] + given[1]
        else:
            turned = any(it.name == "transB" and it.i for it in node.attribute)
            result = given[0] @ (given[1].T if turned else given[1])
            result = result + given[2] if len(given) > 2 else result
        values[node.output[0]] = result
    return {it.name: values[it.name] for it in model.graph.output}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qcc", required=True)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    cells = list(itertools.product(BITS, BLOCKS, (False, True)))
    if not args.full:
        cells = [cells[2 * i + (i + i // len(BLOCKS)) % 2] for i in range(len(cells) // 2)]
    worst, counts, failed = defaultdict(float), defaultdict(int), 0
    with tempfile.TemporaryDirectory() as folder:
        for bits, block, sym in cells:
            sizes = [(n, k) for n in OUTPUTS for k in (WHOLE[n <= FEW], RAGGED[n <= FEW], SHORT[block])]
            products = [(f"p{k}_{n}_{i}", k, n, kind) for n, k in sizes for i, kind in enumerate(KINDS)]
            model = save(os.path.join(folder, "float.onnx"), products, np.float32)
            rng = np.random.default_rng(11)
            feeds = {f"a{k}": rng.standard_normal((8, k)).astype(np.float32) for k in {it[1] for it in products}}
            options = ("-O", "rtn", "-b", bits, "-g", block, "--sym" if sym else "--asym", "-q", "-f")
            for format_ in ("fake", *FORMATS):
                if format_ == "qdq" and bits == 2:
                    continue
                path = os.path.join(folder, f"{format_}.onnx")
                some = [it[0] for it in products]
                only = ()
                if format_ == "qdq" and block != "row":
                    some = [name for name, k, _, _ in products if k % block == 0]
                    only = ("--include", "|".join(some))
                checks.qcc(args.qcc, model, *options, *only, "--format", format_, "-o", path)
                if format_ == "fake":
                    want = exact(path, feeds)
                    continue
                got = compiled(path, format_)({name: feeds[name] for name in feeds})
                for name, value in ((it, want[it]) for it in some):
                    distance = np.abs(got[name] - value).max() / np.abs(value).max()
                    worst[format_, bits] = max(worst[format_, bits], float(distance))
                    counts[format_] += 1
                    if not distance <= LIMIT:
                        failed += 1
                        print(f"{format_}, {bits} bits, block {block}, {'sym' if sym else 'asym'}, {name}: {distance:.1e}")
    print("| Format | " + " | ".join(f"{bits} bits" for bits in BITS) + " | Products |")
    print("|---|" + "---|" * (len(BITS) + 1))
    for format_ in FORMATS:
        found = [f"{worst[format_, bits]:.1e}" if (format_, bits) in worst else "" for bits in BITS]
        print(f"| {format_} | {' | '.join(found)} | {counts[format_]} |")
    print(f"limit {LIMIT:.0e}: {failed} beyond it")
    return failed > 0


if __name__ == "__main__":
    raise SystemExit(main())
