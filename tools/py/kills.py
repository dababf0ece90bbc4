#!/usr/bin/env python3
"""Kills `qcc -O signround` at random moments and lets the same command go on, until so many kills are done.

    python tools/py/kills.py MODEL --calib PATH [--qcc target/ci/qcc] [--kills 20] [--seed 0] [OPTION...]

A run that ends before its kill counts as none, and the next one begins anew. The bytes of every run that ends are
compared with those of one that nobody stopped; the input must be what it was. Exit code 1 if they differ.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--qcc", default="target/ci/qcc")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args, options = parser.parse_known_args()
    rng = random.Random(args.seed)
    before = digest(args.model)
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole.onnx", Path(folder) / "out.onnx"
        command = [args.qcc, str(args.model), "-O", "signround", "-b4", "-g32", "--calib", args.calib, "--progress", "off", *options]
        start = time.perf_counter()
        subprocess.run([*command, "-o", str(whole)], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        want, kills, runs = digest(whole), 0, 0
        while kills < args.kills or not out.exists():
            out.unlink(missing_ok=True)
            run = subprocess.Popen([*command, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                run.wait(rng.uniform(0, 0.7) * seconds if kills < args.kills else None)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                kills += 1
                # One that is killed behind its last write has an output, and then the whole one.
                assert not out.exists() or digest(out) == want, "a killed run left a part of an output"
                continue
            runs += 1
            if run.returncode or digest(out) != want:
                sys.exit(f"after {kills} kills: exit code {run.returncode}, or other bytes")
        left = sorted(it.name for it in Path(folder).iterdir())
        assert digest(args.model) == before, "the input was touched"
        print(f"{kills} kills, {runs} runs that ended, all with the same bytes; left beside them: {left}")


main()
