#!/usr/bin/env python3
"""Greedy decoding with a cache: `qcc run` beside ONNX Runtime's CPU provider, in turns.

    python tools/py/decode_bench.py MODEL --qcc target/ci/qcc [--threads 1] [--past 128] [-n 32] [--rounds 6]

A round writes -n tokens after --past others on each side, the order alternates. ONNX Runtime gets the caches back as the values
that it gave, without a copy, and a step of it is `run` alone: neither the choice of a token nor Python counts. For qcc it is what
`qcc run --json` tells: the whole step. Printed: medians over the rounds of milliseconds for a token, of the times in which the
prompt was read, and of their ratios. MODEL has inputs input_ids and past_key_values.*.
"""

import json
import statistics
import subprocess
import time

import numpy as np
from onnxruntime import OrtValue

from greedy import empty, feeds
from run_bench import arguments, in_turns, open_session, tell


def in_runtime(session, ids, count, size):
    """Seconds of the prompt and of a token."""
    names = [o.name for o in session.get_outputs()]
    past = {name: OrtValue.ortvalue_from_numpy(it) for name, it in empty(session, size)}
    row, times, done = list(ids), [], len(ids)
    for _ in range(count + 1):
        inputs = dict(feeds(session, row, past, done))
        inputs = {k: it if isinstance(it, OrtValue) else OrtValue.ortvalue_from_numpy(it) for k, it in inputs.items()}
        start = time.perf_counter()
        found = session.run_with_ort_values(names, inputs)
        times.append(time.perf_counter() - start)
        outputs = dict(zip(names, found))
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        row = [int(outputs["logits"].numpy()[0, -1].argmax())]
        done += 1
    return times[0], statistics.mean(times[1:])


def in_qcc(args, ids):
    command = [args.qcc, "run", args.model, "--ids", ",".join(map(str, ids)), "-n", str(args.n), "--ignore-eos", "--json"]
    command += ["--threads", str(args.threads)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["prefill_seconds"], 1 / found["decode_tokens_per_second"]


def main():
    parser = arguments(__doc__, 6)
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("--head-size", type=int, default=64)
    args = parser.parse_args()
    session = open_session(args)
    ids = [int(it) for it in np.random.default_rng(0).integers(100, 30000, args.past)]
    in_runtime(session, ids, 2, args.head_size)  # the first run of a length plans
    sides = (lambda: in_runtime(session, ids, args.n, args.head_size), lambda: in_qcc(args, ids))
    found = in_turns(sides, args.rounds)
    for at, what in ((1, "a token"), (0, f"{args.past} tokens at once")):
        pairs = [[(1e3 * it[at],) * 2 for it in side] for side in found]
        tell(args.threads, what, *pairs)


if __name__ == "__main__":
    main()
