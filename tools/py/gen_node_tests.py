#!/usr/bin/env python3
"""Writes ONNX's own operator tests to a folder, in the layout of its backend tests.

    gen_node_tests.py --out DIR

DIR/<name>/model.onnx, DIR/<name>/test_data_set_<i>/input_<j>.pb and output_<j>.pb. The files are serialized TensorProto, or
SequenceProto, OptionalProto where the graph says so; inputs and outputs are those of the graph, in order. DIR/index.json has one
entry per test: its operators, opset and the tolerances |got - want| <= atol + rtol * |want|. It is written last and names the onnx
version and this script's digest, so a second run that finds the same has nothing to do.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import warnings

import onnx
from onnx import numpy_helper


def stamp():
    with open(__file__, "rb") as f:
        return {"onnx": onnx.__version__, "script": hashlib.sha256(f.read()).hexdigest()}


def up_to_date(out):
    try:
        with open(os.path.join(out, "index.json")) as f:
            found = json.load(f)
        return {k: found[k] for k in ("onnx", "script")} == stamp()
    except (OSError, ValueError, KeyError):
        return False


def to_proto(value, info):
    """The message that the graph declares for one input or output."""
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    return value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, info.name)


def write(path, message):
    with open(path, "wb") as f:
        f.write(message.SerializeToString(deterministic=True))


def write_case(out, case):
    """One test; returns its entry of the index."""
    folder, graph = os.path.join(out, case.name), case.model.graph
    os.makedirs(folder)
    write(os.path.join(folder, "model.onnx"), case.model)
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data = os.path.join(folder, f"test_data_set_{i}")
        os.mkdir(data)
        for word, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
            for j, (value, info) in enumerate(zip(values, infos, strict=True)):
                write(os.path.join(data, f"{word}_{j}.pb"), to_proto(value, info))
    return {
        "ops": sorted({f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in graph.node}),
        "opset": {o.domain or "ai.onnx": o.version for o in case.model.opset_import},
        "data_sets": len(case.data_sets),
        "rtol": case.rtol,
        "atol": case.atol,
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    if up_to_date(a.out):
        print(f"{a.out}: up to date")
        return
    warnings.simplefilter("ignore")  # the generators divide by zero and overflow on purpose
    from onnx.backend.test.case.node import collect_testcases

    part = f"{a.out}.part{os.getpid()}"  # never leave half a folder where a test looks
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    cases = {c.name: write_case(part, c) for c in sorted(collect_testcases(None), key=lambda c: c.name)}
    with open(os.path.join(part, "index.json"), "w") as f:
        json.dump(stamp() | {"cases": cases}, f, indent=1)
    shutil.rmtree(a.out, ignore_errors=True)
    os.rename(part, a.out)
    print(f"{a.out}: {len(cases)} tests")


if __name__ == "__main__":
    sys.exit(main())
