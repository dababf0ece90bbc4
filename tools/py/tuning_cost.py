#!/usr/bin/env python3
"""What the steps of signround cost, by samples of a step and their length: share of matrix products, and their rate.

    python tools/py/tuning_cost.py MODEL --calib IDS.npy --peak GFLOPS [--qcc target/ci/qcc] [--sizes 1x256,2x256] [--iters 8] [-n 8]

A size is samples of a step x tokens of a sample. --peak is what the FMA units of all threads can do, in GFLOP/s: twice the
'fp32 FMA' of the machine's limits in GMAC/s. One row of a Markdown table for each size: the time of a step of one block, trials
included; the part of it that is matrix products; their rate, and its share of the peak.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile


def steps(args, batch, length, folder):
    """Milliseconds of the steps and of their products, GFLOP of these, and the number of steps."""
    recipe = f"signround{{iters={args.iters},batch={batch}}}"
    command = [args.qcc, args.model, "-O", recipe, "-b4", "-g32", "--calib", args.calib, "-n", str(max(args.n, batch + 1))]
    command += ["--seq-len", str(length), "-o", os.path.join(folder, "out.onnx"), "-f", "--progress", "off", "--statistics"]
    command += ["--threads", str(args.threads)] if args.threads else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    text = done.stdout + done.stderr
    counted = {name: int(count) for count, name in re.findall(r"^ *(\d+) +signround\.(\S+)$", text, re.M)}
    return counted["steps-ms"], counted["products-ms"], counted["products-mflop"] / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--peak", type=float, required=True)
    parser.add_argument("--qcc", default="target/ci/qcc")
    parser.add_argument("--sizes", default="1x256,2x256,4x256")
    parser.add_argument("--blocks", type=int, required=True, help="blocks of the model that have weights")
    parser.add_argument("--iters", type=int, default=8)
    parser.add_argument("-n", type=int, default=8, help="samples of all")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    print("| Samples x tokens | ms a step | Of it products | GFLOP a step | GFLOP/s | Of the peak |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes.split(","):
            batch, length = map(int, size.split("x"))
            time, products, gflop = steps(args, batch, length, folder)
            count = args.blocks * args.iters
            rate = 1e3 * gflop / max(products, 1)
            print(
                f"| {batch} x {length} | {time / count:.1f} | {products / time:.0%} | {gflop / count:.2f} | {rate:.0f} | {rate / args.peak:.0%} |",
                flush=True,
            )


main()
