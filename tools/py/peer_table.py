#!/usr/bin/env python3
"""Tables of kernels beside those of others, from what bench_peers.py writes with --json.

    python tools/py/peer_table.py HAND.json... [--hand libkb_proto]

One row for each width, group, place of the weights and number of threads; in a cell one figure for
each M: geometric means over the shapes of (time of the other / time of qcc), above 1 is faster, and
the share of the limit of the machine that qcc reaches. Below the tables: means and least figures
over all cells, and each cell in which somebody else is faster.
"""

import argparse
import json
import math
from collections import defaultdict


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def peers(row, hand):
    """Ratios by tool: ggml has several formats, of which the fastest counts."""
    found = {}
    for name, it in row["peers"].items():
        tool = "by hand" if name == hand else "ggml" if name.startswith("ggml") else name
        found[tool] = min(found.get(tool, math.inf), it["ratio"])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--hand", default="libkb_proto", help="name of the kernels written by hand")
    args = parser.parse_args()
    rows = [row for name in args.files for row in json.load(open(name))]
    cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["threads"], row["bits"], row["group"], row["mode"]][row["M"]].append(row)

    tools = ["by hand", "ort4", "ov", "ggml"]
    print("| Threads | Bits, group | Weights | M | Share of the limit | " + " | ".join(tools) + " |")
    print("|---|---|---|---|---|" + "---|" * len(tools))
    for (threads, bits, group, mode), by_rows in sorted(cells.items()):
        counts = sorted(by_rows)
        shares = [mean([it["share"] for it in by_rows[m]]) for m in counts]
        line = [str(threads), f"{bits}, {group}", mode, ", ".join(map(str, counts))]
        line.append(", ".join(f"{100 * it:.0f}" for it in shares) + " %")
        for tool in tools:
            each = [[found[tool] for it in by_rows[m] if tool in (found := peers(it, args.hand))] for m in counts]
            line.append(", ".join(f"{mean(it):.2f}" if it else "–" for it in each) if any(each) else "")
        print("| " + " | ".join(line) + " |")

    found = [(row, peers(row, args.hand)) for row in rows]

    def tell(name, values):
        if values:
            print(f"{name}: mean {mean(values):.3f}, least {min(values):.2f}, {len(values)} cells")

    print()
    tell("all, by hand", [p["by hand"] for _, p in found if "by hand" in p])
    for threads in sorted({row["threads"] for row in rows}):
        here = [it for it in found if it[0]["threads"] == threads]
        tell(f"{threads} threads, by hand", [p["by hand"] for _, p in here if "by hand" in p])
        one = [p["ort4"] for row, p in here if row["M"] == 1 and row["mode"] == "hot" and row["bits"] == 4 and "ort4" in p]
        tell(f"{threads} threads, ort4, M = 1 hot, 4 bits", one)
        for bits in sorted({row["bits"] for row, _ in here}):
            others = [
                (row, min(v for k, v in p.items() if k != "by hand"))
                for row, p in here
                if row["bits"] == bits and any(k != "by hand" for k in p)
            ]
            tell(f"{threads} threads, {bits} bits, best of the others", [it for _, it in others])
            tell(f"{threads} threads, {bits} bits, best of the others at M >= 16", [it for row, it in others if row["M"] >= 16])
    for row, p in found:
        for tool, ratio in p.items():
            if ratio < (0.97 if tool == "by hand" else 1.0):
                place = f"{row['bits']} bits, group {row['group']}, {row['K']}x{row['N']}, M = {row['M']}"
                print(f"{tool} is faster: {place}, {row['mode']}, {row['threads']} threads: {ratio:.2f}")


main()
