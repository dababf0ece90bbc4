#!/usr/bin/env python3
"""Greedy text of a language model with a cache in ONNX Runtime, beside that of `qcc run`.

    greedy.py MODEL [--ids 1,2,3] [-n TOKENS] [--qcc PROGRAM [--kernels KIND]]

Prints the tokens of ONNX Runtime, one token in each step, with the time of a step. With --qcc the program runs on the same tokens;
the exit code is 1 if it writes others. At the first difference it prints how far the two tokens are apart in ONNX Runtime, as the
model says and with float activations (accuracy_level 0): where that is less than what the two differ by, neither is wrong.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime


def feeds(session, ids, past, total):
    """Inputs for tokens `ids` behind a cache, by the names of optimum and onnxruntime-genai."""
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(float16)": np.float16}
    for i in session.get_inputs():
        if i.name == "input_ids":
            yield i.name, np.array([ids], types[i.type])
        elif i.name == "attention_mask":
            yield i.name, np.ones((1, total), types[i.type])
        elif i.name == "position_ids":
            yield i.name, np.arange(total - len(ids), total, dtype=types[i.type])[None]
        elif i.name in past:
            yield i.name, past[i.name]
        elif i.name.startswith("past"):
            yield i.name, past.get(i.name)
        else:
            raise SystemExit(f"nothing is known of input {i.name}")


def empty(session, size):
    """Caches of no tokens; `size` stands for head sizes that are open."""
    for i in session.get_inputs():
        if i.name.startswith("past"):
            shape = [1, i.shape[1], 0, i.shape[3] if isinstance(i.shape[3], int) else size]
            yield i.name, np.zeros(shape, np.float16 if "16" in i.type else np.float32)


def greedy(path, ids, count, size):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    past, row, new, times = dict(empty(session, size)), list(ids), [], []
    while len(new) < count:
        start = time.perf_counter()
        outputs = dict(zip(names, session.run(None, dict(feeds(session, row, past, len(ids) + len(new))))))
        times.append(time.perf_counter() - start)
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        row = [int(outputs["logits"][0, -1].argmax())]
        new += row
    return new, times


def last_logits(path, ids, size):
    """Logits behind all of `ids`, which are one prompt."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = dict(feeds(session, ids, dict(empty(session, size)), len(ids)))
    return session.run(["logits"], given)[0][0, -1]


def in_float(path, folder):
    """A copy of a model whose products with codes keep activations in float."""
    model = onnx.load(path, load_external_data=False)
    for name in {it.value for t in model.graph.initializer for it in t.external_data if it.key == "location"}:
        shutil.copy(os.path.join(os.path.dirname(path), name), folder)
    for node in model.graph.node:
        for it in node.attribute:
            if node.op_type == "MatMulNBits" and it.name == "accuracy_level":
                it.i = 0
    onnx.save(model, folder + "/model.onnx")
    return folder + "/model.onnx"


def tell(path, ids, pair, size):
    """How far two tokens are apart behind `ids`."""
    with tempfile.TemporaryDirectory() as folder:
        as_it_is, exact = (last_logits(it, ids, size) for it in (path, in_float(path, folder)))
    a, b = pair
    print(f"logit of {a} less that of {b}: {as_it_is[a] - as_it_is[b]:.3f} as the model says, {exact[a] - exact[b]:.3f} with float activations")
    apart = float(np.sqrt(np.mean((as_it_is - exact) ** 2)))
    print(f"these two differ by {apart:.3f} in the root mean square of all logits; the likeliest are {as_it_is.argmax()} and {exact.argmax()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ids", default="504,3575,282,4649,314")
    parser.add_argument("-n", type=int, default=40)
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--qcc")
    parser.add_argument("--kernels", default="auto")
    args = parser.parse_args()
    ids = [int(it) for it in args.ids.split(",")]
    want, times = greedy(args.model, ids, args.n, args.head_size)
    print("ONNX Runtime", *want)
    print(f"prompt {1e3 * times[0]:.1f} ms, step {1e3 * float(np.median(times[1:])):.2f} ms")
    if not args.qcc:
        return 0
    command = [args.qcc, "run", args.model, "--ids", args.ids, "-n", str(args.n), "--ignore-eos", "--json", "--kernels", args.kernels]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print("qcc         ", *found["tokens"])
    print(f"prompt {1e3 * found['prefill_seconds']:.1f} ms, step {1e3 / found['decode_tokens_per_second']:.2f} ms")
    same = next((i for i, (a, b) in enumerate(zip(want, found["tokens"])) if a != b), args.n)
    print(f"{same} of {args.n} tokens are the same up to the first difference")
    if same < args.n:
        tell(args.model, ids + want[:same], (want[same], found["tokens"][same]), args.head_size)
    return int(found["tokens"] != want)


if __name__ == "__main__":
    sys.exit(main())
