#!/usr/bin/env python3
"""Times of a language model in `qcc bench` beside ONNX Runtime's CPU provider, in turns.

    python tools/py/run_bench.py MODEL --qcc target/ci/qcc [--threads 1] [--past 128] [--rounds 10] [--runs 15] [--rows N]

A round times --runs tokens after --past others in ONNX Runtime, then in a process of qcc, and the same for 128 tokens
at once; the order alternates. Printed: medians over the rounds of the median of each, of their ratio (ONNX Runtime's
time over that of qcc), and the best of each. MODEL has inputs input_ids and past_key_values.*; accuracy levels are
those of the file, on both sides. With --rows N, --runs times N tokens at once are timed alone; a model in float will do.
"""

import argparse
import json
import statistics
import subprocess
import time

import onnxruntime

from plugin_bench import feeds


def in_runtime(session, inputs, runs):
    found = []
    for turn in range(runs + 2):
        start = time.perf_counter()
        session.run(None, inputs)
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found[2:]), min(found[2:])


def in_qcc(args, rows, past, runs):
    command = [args.qcc, "bench", args.model, "--rows", str(rows), "--past", str(past), "--whole", "--json"]
    command += ["--runs", str(runs), "--threads", str(args.threads), "--progress", "off"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    whole = json.loads(done.stdout)["whole"][0]
    return 1e3 * whole["seconds"], 1e3 * whole["best_seconds"]


def arguments(description, rounds):
    """Options of a comparison, and a session of ONNX Runtime."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--qcc", default="target/ci/qcc")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--past", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def open_session(args):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    return onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])


def in_turns(sides, rounds):
    """What two functions give in each round, the order alternating."""
    found = ([], [])
    for turn in range(rounds):
        for side in (0, 1)[:: 1 if turn % 2 else -1]:
            found[side].append(sides[side]())
    return found


def tell(threads, what, ort, qcc):
    """Prints times of each round, pairs of a usual and the best time in milliseconds."""
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ort, qcc))
    medians = [statistics.median(it[0] for it in side) for side in (ort, qcc)]
    best = [min(it[1] for it in side) for side in (ort, qcc)]
    print(
        f"{threads} threads, {what}: ONNX Runtime {medians[0]:.2f}, qcc {medians[1]:.2f} ms, {ratio:.2f} times as fast; "
        f"best {best[0]:.2f} and {best[1]:.2f} ms, {best[0] / best[1]:.2f} times"
    )


def main():
    parser = arguments(__doc__, 10)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    session = open_session(args)
    cases = [
        (f"a token after {args.past}", 1, args.past, args.runs),
        ("128 tokens", 128, 0, max(args.runs // 4, 3)),
    ]
    if args.rows:
        cases = [(f"{args.rows} tokens", args.rows, 0, args.runs)]
    for what, rows, past, runs in cases:
        inputs = feeds(session, rows, past)
        sides = (lambda: in_runtime(session, inputs, runs), lambda: in_qcc(args, rows, past, runs))
        tell(args.threads, what, *in_turns(sides, args.rounds))


if __name__ == "__main__":
    main()
