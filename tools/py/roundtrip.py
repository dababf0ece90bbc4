#!/usr/bin/env python3
"""Round trip of every model in folders: `qcc -O none` has to give back the same bytes.

    roundtrip.py --qcc PATH FOLDER...

Without folders: the models inside the installed onnx package. Prints a count for each folder; exits 1 when one
differs or is refused.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import checks
import onnx


def models(folder):
    for path, folders, files in sorted(os.walk(folder)):
        folders.sort()
        yield from (os.path.join(path, f) for f in sorted(files) if f.endswith(".onnx"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", required=True)
    p.add_argument("folder", nargs="*")
    args = p.parse_args()
    folders = args.folder or [os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data")]
    failed = 0
    for folder in folders:
        count = equal = 0
        for path in models(folder):
            count += 1
            with tempfile.TemporaryDirectory() as out:
                copy = os.path.join(out, os.path.basename(path))
                done = subprocess.run([args.qcc, path, "-O", "none", "-q", "-o", copy], capture_output=True, text=True)
                if done.returncode == 0 and checks.same_bytes(copy, path):
                    equal += 1
                else:
                    print(f"{os.path.relpath(path, folder)}: {done.stderr.strip().splitlines()[:1]}")
        failed += count - equal
        print(f"{os.path.basename(os.path.normpath(folder))}: {equal} of {count} models equal")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
