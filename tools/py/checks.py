"""What the scripts that test the built binary share: calling qcc, comparing files, a tally."""

import os
import subprocess
import sys
import time

import onnx
import oracle


class Failure(Exception):
    """A check that did not hold; its text says what was found."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def qcc(binary, *args, env=None):
    """Runs qcc; returns what it printed, or fails with its last lines."""
    args = [str(a) for a in args]
    done = subprocess.run(
        [binary, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | (env or {})
    )
    if done.returncode != 0:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Failure(f"qcc {' '.join(args)}: exit {done.returncode}: {last}")
    return done.stdout


def same_bytes(a, b):
    with open(a, "rb") as f, open(b, "rb") as g:
        return f.read() == g.read()


def expect_same_model(got, want):
    """The file and all files it points to are equal byte for byte."""
    expect(same_bytes(got, want), f"{got} differs from {want}")
    for name in oracle.external_files(want):
        a, b = (os.path.join(os.path.dirname(p), name) for p in (got, want))
        expect(os.path.exists(a), f"{a} is missing")
        expect(same_bytes(a, b), f"{a} differs from {b}")


def nodes(model):
    """All nodes: of the graph, of the bodies inside its nodes, of the model's functions."""
    graphs = [model.graph, *model.functions]
    while graphs:
        for node in graphs.pop().node:
            graphs += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
            yield node


def in_float(path):
    """A model as bytes for a session, its MatMulNBits set to compute in float.

    Their default rounds activations to 8 bits, which would hide small errors in weights.
    """
    model = onnx.load(path)
    for node in nodes(model):
        if node.op_type == "MatMulNBits":
            kept = [a for a in node.attribute if a.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", 1)])
    return model.SerializeToString()


class Tally:
    """Runs checks one after another and counts them; a quiet one prints failures only."""

    def __init__(self, quiet=False):
        self.passed = self.failed = 0
        self.quiet = quiet

    def run(self, name, check, *args):
        """What the check returns, or None after a failure, which is printed and counted."""
        start = time.monotonic()
        try:
            found = check(*args)
            self.passed += 1
            if not self.quiet:
                seconds = time.monotonic() - start
                print(f"ok   {name} ({seconds:.1f} s){f': {found}' if isinstance(found, str) else ''}", flush=True)
            return found
        except Exception as e:  # a crash in ONNX Runtime is a failed check too
            self.failed += 1
            text = str(e) if isinstance(e, Failure) else f"{type(e).__name__}: {e}"
            print(f"FAIL {name}: {text}", flush=True)
            return None

    def finish(self):
        """Prints the closing line, which tools/test reads, and ends the process with the right code."""
        print(f"all checks: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(self.failed > 0 or self.passed == 0)
