#!/usr/bin/env python3
"""Round trip of every model in folders: `qcc -O none` has to give back the same bytes.

    roundtrip.py --qcc PATH [--node-tests DIR] [FOLDER...]

Without folders: the models inside the installed onnx package, and ONNX's operator tests, which are written to DIR first
(gen_node_tests.py). Of these the number of models is known, and another one is a failure, so that none can be left out
unseen. Exits 1 when a model differs or is refused.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import checks
import onnx

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Models of the version of onnx that tools/requirements.txt names.
IN_PACKAGE = 149
NODE_TESTS = 1884


def models(folder):
    for path, folders, files in sorted(os.walk(folder)):
        folders.sort()
        yield from (os.path.join(path, f) for f in sorted(files) if f.endswith(".onnx"))


def differs(qcc, path, out):
    """None when the copy that qcc writes is the model, else why not."""
    copy = os.path.join(out, os.path.basename(path))
    done = subprocess.run([qcc, path, "-O", "none", "-q", "-f", "-o", copy], capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
    return None if checks.same_bytes(copy, path) else "other bytes"


def check(qcc, folder, count):
    """All models of a folder come back; there are `count` of them, or any number but none."""
    found = list(models(folder))
    checks.expect(len(found) == count if count else found, f"{len(found)} models, expected {count or 'some'}")
    with tempfile.TemporaryDirectory() as out:
        faults = [(path, why) for path in found if (why := differs(qcc, path, out))]
    for path, why in faults:
        print(f"     {os.path.relpath(path, folder)}: {why}")
    checks.expect(not faults, f"{len(found) - len(faults)} of {len(found)} models equal")
    return f"{len(found)} models equal"


def node_tests(folder):
    script = os.path.join(ROOT, "tools", "py", "gen_node_tests.py")
    subprocess.run([sys.executable, script, "--out", folder], check=True)
    return folder


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", required=True)
    p.add_argument("--node-tests", metavar="DIR", default=os.path.join(ROOT, "target", "node-tests"))
    p.add_argument("folder", nargs="*")
    args = p.parse_args()
    folders = [(folder, None) for folder in args.folder]
    if not folders:
        package = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data")
        folders = [(package, IN_PACKAGE), (node_tests(args.node_tests), NODE_TESTS)]
    tally = checks.Tally()
    for folder, count in folders:
        tally.run(f"round trip of {os.path.basename(os.path.normpath(folder))}", check, args.qcc, folder, count)
    tally.finish()


if __name__ == "__main__":
    main()
