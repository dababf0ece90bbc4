#!/usr/bin/env python3
"""KL to the float model for starting points of the tuning of blocks, steps, seeds and sets of samples.

    python tools/py/ablation.py MODEL.onnx --calib IDS.npy (--eval IDS.npy | --feeds FEEDS.npz) --qcc target/ci/qcc
        [--schemes W4G32,W3G128,W2G64a] [--starts rtn,mse,x2] [--steps 0,50,200] [--seeds 0,1,2] [--rows 128 --length 128]
        [--scales factor|ends|frozen] [--batch 8]

Each start is a pass that chooses numbers; 0 steps are its numbers as they are, and those of several seeds are the same.
Seeds draw other rows of --calib: seed s takes rows s*ROWS to (s+1)*ROWS, so the worst of them is that of the worst
samples. A scheme ends in 'a' for asymmetric. Prints, for each scheme, start and steps, mean and worst KL in nats, and the
mean ratio to the start x2 of the same seed with its 95 % interval (Student's t), where that is among them. With --feeds, for
an encoder of sentences, it is the mean distance, 1 - cosine, of embeddings (embeddings.py) in place of KL. One JSON line for
each run, appended to --log; runs that are in it already are not repeated, so a log is of one model and size of samples.
--scales is what of the scales the steps tune.
"""
import argparse
import json
import os
import re
import subprocess
import tempfile

import numpy as np

STARTS = {
    "rtn": "rtn",
    "mse": "kl-precalibrate{weights=none}",
    "mse-exact": "kl-precalibrate{weights=none,search=exact}",
    "x2": "kl-precalibrate",
    "x2-exact": "kl-precalibrate{search=exact}",
    "x2-kl1": "kl-precalibrate{tau=0.01}",
    "x2-kl5": "kl-precalibrate{tau=0.05}",
    "x2-kl20": "kl-precalibrate{tau=0.2}",
    "pure-kl": "kl-precalibrate{weights=none,tau=10}",
    "gptq": "gptq",
    "adpq": "adpq{outliers=0}",  # outliers have scales of their own, which neither nbits nor the tuner has
}
DEFAULT = "x2"
READ_SAMPLES = ("x2", "x2-exact", "x2-kl1", "x2-kl5", "x2-kl20", "gptq")
# Half of a 95 % interval in standard errors, by the number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--calib", required=True)
    text = p.add_mutually_exclusive_group(required=True)
    text.add_argument("--eval")
    text.add_argument("--feeds")
    p.add_argument("--qcc", default="target/ci/qcc")
    p.add_argument("--schemes", default="W4G32,W3G128,W2G64")
    p.add_argument("--starts", default=",".join(STARTS))
    p.add_argument("--steps", default="0,50,200")
    p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--rows", type=int, default=128)
    p.add_argument("--length", type=int, default=128)
    p.add_argument("--scales", default="factor")
    p.add_argument("--batch", type=int, default=8, help="samples of a step")
    p.add_argument("--log", default="ablation.jsonl")
    a = p.parse_args()
    figure = "distance" if a.feeds else "kl"
    done = {}
    if os.path.exists(a.log):
        with open(a.log) as log:
            for row in map(json.loads, log):
                if (row.get("scales", "factor"), row.get("batch", 8)) == (a.scales, a.batch):
                    done[row["scheme"], row["start"], row["steps"], row["seed"]] = row[figure]
    ids = np.load(a.calib).reshape(-1)
    ids = ids[: ids.size // a.length * a.length].reshape(-1, a.length)
    with tempfile.TemporaryDirectory() as folder:
        for scheme in a.schemes.split(","):
            for start in a.starts.split(","):
                for steps in map(int, a.steps.split(",")):
                    for seed in map(int, a.seeds.split(",")):
                        key = (scheme, start, steps, seed)
                        if key not in done:
                            done[key] = run(a, folder, ids, *key)
                            with open(a.log, "a") as log:
                                row = dict(zip(("scheme", "start", "steps", "seed"), key), scales=a.scales, batch=a.batch)
                                log.write(json.dumps({**row, figure: done[key]}) + "\n")
    steps, seeds = list(map(int, a.steps.split(","))), list(map(int, a.seeds.split(",")))
    for scheme in a.schemes.split(","):
        print(f"\n| {scheme} |" + "".join(f" {it} steps | worst | ratio |" for it in steps))
        print("|---|" + "---|---|---|" * len(steps))
        for start in a.starts.split(","):
            line = ""
            for count in steps:
                found = [done[scheme, start, count, seed] for seed in seeds]
                base = [done.get((scheme, DEFAULT, count, seed)) for seed in seeds]
                line += f" {np.mean(found):.5f} | {max(found):.5f} | {'' if None in base else ratio(found, base)} |"
            print(f"| {start} |{line}")


def ratio(found, base):
    """The mean of found / base, and half of its 95 % interval."""
    each = np.divide(found, base)
    if len(each) not in STUDENT:
        return f"{each.mean():.3f}"
    return f"{each.mean():.3f} ± {STUDENT[len(each)] * each.std(ddof=1) / len(each) ** 0.5:.3f}"


def run(a, folder, ids, scheme, start, steps, seed):
    """KL in nats for each token, or the mean distance of embeddings."""
    bits, group, asym = re.fullmatch(r"W(\d)G(\d+)(a?)", scheme).groups()
    calib, out = os.path.join(folder, "calib.npy"), os.path.join(folder, "out.onnx")
    rows = ids[seed * a.rows : (seed + 1) * a.rows]
    if len(rows) < a.rows:
        raise SystemExit(f"--calib has no {a.rows} rows for seed {seed}")
    np.save(calib, rows)
    grid = "false" if asym else "true"
    tune = f",signround{{objective=block,start=given,scales={a.scales},iters={steps},batch={a.batch}}}" if steps else ""
    passes = f"infer-types,select{{bits={bits},group={group},sym={grid}}},{STARTS[start]}{tune},pack,to-nbits{{accuracy-level=0}}"
    command = [a.qcc, a.model, "--passes", passes, "-o", out, "-f", "-q", "--seed", str(seed)]
    if steps or start in READ_SAMPLES:
        command += ["--calib", calib]
    subprocess.run(command, check=True)
    if a.feeds:
        from embeddings import embeddings, score

        with np.load(a.feeds) as feeds:
            return 1 - score(embeddings(a.model, feeds), embeddings(out, feeds))["cosine"]
    scored = [a.qcc, "eval", out, "--ref", a.model, "--data", a.eval, "--json"]
    found = json.loads(subprocess.run(scored, check=True, capture_output=True, text=True).stdout)
    return found["kl_nats"]


if __name__ == "__main__":
    main()
