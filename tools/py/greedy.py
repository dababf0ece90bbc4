#!/usr/bin/env python3
"""Greedy text of a language model with a cache in ONNX Runtime, beside that of `qcc run`.

    greedy.py MODEL [--ids 1,2,3] [-n TOKENS] [--qcc PROGRAM [--kernels KIND]]

Prints the tokens of ONNX Runtime, one token in each step, with the time of a step. With --qcc the program runs on the same tokens;
the exit code is 1 if it writes others.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
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
    return int(found["tokens"] != want)


if __name__ == "__main__":
    sys.exit(main())
