#!/usr/bin/env python3
"""Times shapes that do not fit the layout beside neighbours that do, from qcc-kb.

    python tools/py/cliffs.py --lib target/release/libqcc_kb.so [--M 1,4,16] [--mode hot,cold] [--rounds 15] [--threads 1]

A figure is the time for a product of one weight and one activation, over that of the neighbour: 1 is no cliff.
Both are timed in turn, the order alternating, and the median over the rounds counts. hot: some weights of
4 MiB together, cold: of 96 MiB, each one in turn.
"""

import argparse
import ctypes
import os
import statistics
import time

import numpy as np

# What is odd, and beside what: K, N, bits, group, zero points.
CASES = [
    ("K 895", (895, 4864, 4, 32, False), (896, 4864, 4, 32, False)),
    ("K 895, groups of 128", (895, 4864, 4, 128, False), (896, 4864, 4, 128, False)),
    ("K 1000", (1000, 4864, 4, 32, False), (1024, 4864, 4, 32, False)),
    ("K 895, 8 bits", (895, 4864, 8, 32, False), (896, 4864, 8, 32, False)),
    ("K 895, 3 bits", (895, 4864, 3, 32, False), (896, 4864, 3, 32, False)),
    ("N 897", (4864, 897, 4, 32, False), (4864, 896, 4, 32, False)),
    ("N 4849", (896, 4849, 4, 32, False), (896, 4864, 4, 32, False)),
    ("N 4865, 3 bits", (896, 4865, 3, 32, False), (896, 4864, 3, 32, False)),
    ("K 895, N 4865, 2 bits, zero points", (895, 4865, 2, 32, True), (896, 4864, 2, 32, True)),
    ("groups of 16 beside 32", (896, 4864, 4, 16, False), (896, 4864, 4, 32, False)),
    ("zero points beside none", (896, 4864, 4, 32, True), (896, 4864, 4, 32, False)),
    ("zero points beside none, groups of 128", (896, 4864, 4, 128, True), (896, 4864, 4, 128, False)),
    ("3 bits beside 4", (896, 4864, 3, 32, False), (896, 4864, 4, 32, False)),
    ("3 bits beside 4, groups of 128", (896, 4864, 3, 128, False), (896, 4864, 4, 128, False)),
]
MIB = {"hot": 4, "cold": 96}
POINTER = ctypes.c_void_p


def address(array):
    return array.ctypes.data_as(POINTER)


class Weights:
    """Some weights of one shape, all different, and room for their results."""

    def __init__(self, lib, shape, mode, most_rows):
        self.lib, self.shape = lib, shape
        k, n, bits, group, is_asymmetric = shape
        count = max(1, round(MIB[mode] * 8 * 2**20 / (k * n * bits)))
        rng = np.random.default_rng(1)
        groups = -(-k // group)
        codes = rng.integers(0, 2**bits, (n, k), dtype=np.uint8)
        scales = (0.01 + 0.01 * rng.random((n, groups))).astype(np.float16).astype(np.float32)
        zeros = rng.integers(0, 2**bits, (n, groups), dtype=np.uint8) if is_asymmetric else None
        made = []
        for at in range(count):
            turned = np.ascontiguousarray(np.roll(codes, at, axis=0))
            made.append(lib.kb_create(k, n, bits, group, address(turned), address(scales), zeros is not None and address(zeros) or None))
        if not all(made):
            raise SystemExit(f"qcc-kb does not pack {shape}")
        self.handles = (POINTER * count)(*made)
        self.y = np.zeros((count, most_rows, n), np.float32)
        self.ys = (POINTER * count)(*(y.ctypes.data for y in self.y))
        self.x = rng.standard_normal((most_rows, k)).astype(np.float32)

    def time(self, rows, least):
        """Seconds for a product of one weight and one activation."""
        k, n = self.shape[:2]
        x, count, calls = address(self.x), len(self.handles), 0
        start = time.perf_counter()
        while (took := time.perf_counter() - start) < least or not calls:
            self.lib.kb_run_many(self.handles, count, rows, x, self.ys)
            calls += 1
        return took / (calls * count * rows * k * n)

    def free(self):
        for handle in self.handles:
            self.lib.kb_destroy(handle)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", required=True)
    parser.add_argument("--M", default="1,4,16")
    parser.add_argument("--mode", default="hot,cold")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rows = [int(it) for it in args.M.split(",")]
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: args.threads]))
    lib = ctypes.CDLL(os.path.abspath(args.lib))
    lib.kb_create.restype = POINTER
    lib.kb_create.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, POINTER, POINTER, POINTER]
    lib.kb_run_many.argtypes = [POINTER, ctypes.c_long, ctypes.c_long, POINTER, POINTER]
    lib.kb_destroy.argtypes = [POINTER]
    lib.kb_set_threads(args.threads)
    for mode in args.mode.split(","):
        print(f"| {mode}, {args.threads} threads | " + " | ".join(f"M = {it}" for it in rows) + " |")
        print("|---|" + "---|" * len(rows))
        for name, odd, even in CASES:
            sides = [Weights(lib, shape, mode, max(rows)) for shape in (odd, even)]
            cells = []
            for m in rows:
                for side in sides:
                    side.time(m, 0)
                ratios = []
                for at in range(args.rounds):
                    took = {}
                    for side in sides if at % 2 else sides[::-1]:
                        took[side] = side.time(m, 0.002)
                    ratios.append(took[sides[0]] / took[sides[1]])
                cells.append(f"{statistics.median(ratios):.2f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
            for side in sides:
                side.free()


if __name__ == "__main__":
    main()
