#!/usr/bin/env python3
"""Runs a model in ONNX Runtime on the CPU: arrays in, arrays out.

    ort_run.py MODEL FEEDS.npz OUT.npz [--optimize none|basic|extended|all]
    ort_run.py --serve

FEEDS.npz holds the inputs by name, OUT.npz gets the outputs by name. With --serve, requests are read from standard input,
one JSON object a line: {"model": .., "feeds": .., "out": .., "optimize": ".."}. Each is answered by one line,
{"outputs": [names]} or {"error": text}. Loading ONNX Runtime takes longer than a small model, so tests keep one server.
"""

import argparse
import json
import sys

import numpy as np
import oracle


def answer(model, feeds, out, optimize="all"):
    """Runs one model; returns the names of its outputs."""
    with np.load(feeds, allow_pickle=False) as f:
        values = {name: f[name] for name in f.files}
    outputs = oracle.run(oracle.session(model, optimize), values)
    oracle.save_npz(out, outputs)
    return list(outputs)


def serve():
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            reply = {"outputs": answer(**json.loads(line))}
        except Exception as e:  # whatever ONNX Runtime raises is the answer
            reply = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", metavar="MODEL FEEDS OUT")
    p.add_argument("--optimize", choices=list(oracle.LEVELS), default="all")
    p.add_argument("--serve", action="store_true")
    a = p.parse_args()
    if a.serve:
        serve()
    elif len(a.files) == 3:
        answer(*a.files, optimize=a.optimize)
    else:
        p.error("expected MODEL FEEDS.npz OUT.npz, or --serve")


if __name__ == "__main__":
    main()
