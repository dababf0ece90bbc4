"""Where the time of a token goes, by operators, with the plug-in and without: what ONNX Runtime's own profile says.

    plugin.py --lib libqcc_ort.so --parts MODEL [--past 128] [--rounds 60] [--threads 0]

Caches and turns are those of --bench. A line for each kind of node: how many there are, and the milliseconds of all of them in
the median run. 'between' is the rest of a run that is profiled. The profile slows runs down, so the first line has both times.
"""

import collections
import json
import os
import statistics
import tempfile
import time

from plugin_bench import PAUSE, RUNS, SIDES, pairs, step


def sessions(runtime, args, folder):
    """For each side a session that keeps a profile, and one that does not."""
    for side in SIDES:
        for entries in ({"profile": os.path.join(folder, side)}, {}):
            options = pairs(args.option) if side == "qcc" else None
            yield side, bool(entries), runtime.session(args.parts, side == "qcc", options, threads=args.threads, **entries)


def medians(path):
    """Of each kind of node: how many there are, and the median over runs of their milliseconds."""
    with open(path) as file:
        events = json.load(file)
    ends = sorted(it["ts"] + it["dur"] for it in events if it.get("name") == "model_run")
    runs = [collections.Counter() for _ in ends]
    counts = collections.Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("kernel_time"):
            continue
        run = next((i for i, end in enumerate(ends) if event["ts"] < end), None)
        if run is None:
            continue
        kind = event["args"]["op_name"]
        kind = "qcc" if kind.startswith("QccExecutionProvider") else kind
        runs[run][kind] += event["dur"] / 1000
        counts[kind] += 1
    late = runs[len(runs) // 4 :]
    return {kind: (count // len(runs), statistics.median(it[kind] for it in late)) for kind, count in counts.items()}


def run(runtime, args):
    with tempfile.TemporaryDirectory() as folder:
        made = list(sessions(runtime, args, folder))
        steps = [step(session, 1, args.past, args.caches) for _, _, session in made]
        found = [[] for _ in made]
        for turn in range(args.rounds):
            for i in list(range(len(made)))[:: 1 if turn % 2 else -1]:
                time.sleep(PAUSE)
                steps[i]()
                each = []
                for _ in range(RUNS):
                    start = time.perf_counter()
                    steps[i]()
                    each.append(1000 * (time.perf_counter() - start))
                found[i].append(statistics.median(each))
        whole = {(side, profiled): statistics.median(found[i]) for i, (side, profiled, _) in enumerate(made)}
        for side, profiled, session in made:
            if not profiled:
                continue
            parts = medians(session.end_profiling())
            print(f"{side}: {whole[side, False]:.2f} ms, with a profile {whole[side, True]:.2f} ms")
            few = [it for it in parts.values() if it[1] < 0.02]
            for kind, (count, spent) in sorted(parts.items(), key=lambda it: -it[1][1]):
                if spent >= 0.02:
                    print(f"  {kind}: {count}, {spent:.2f} ms")
            print(f"  others: {sum(it[0] for it in few)}, {sum(it[1] for it in few):.2f} ms")
            print(f"  between: {whole[side, True] - sum(it[1] for it in parts.values()):.2f} ms")
