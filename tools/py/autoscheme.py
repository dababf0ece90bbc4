#!/usr/bin/env python3
"""auto-round's AutoScheme beside qcc --bpw: bits and groups chosen for each weight under one budget, then tuned.

    python tools/py/autoscheme.py MODEL.onnx --hf DIR --calib IDS.npy --eval IDS.npy --bpw 2.5,3.0,3.5,4.5
        [--bits 2,4,8 --groups 32,64,128] [--rows 64 --length 256 --batch 4 --iters 50 --seed 42] [--sides qcc,auto-round]

Arguments as for autoround.py, which has the folder of Hugging Face made. Both count scales as 16 bits, symmetric, and
choose from the same bits and groups; the head stays in float. One JSON line for each run.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import autoround
import numpy as np


def tune(a, bpw, out):
    """The side of auto-round, in a process of its own: dequantized weights into `out`."""
    import time

    import torch
    from auto_round import AutoRound, AutoScheme
    from auto_round.schemes import QuantizationScheme
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(a.threads)
    model = AutoModelForCausalLM.from_pretrained(a.hf, dtype=torch.float32).eval()
    rows = torch.from_numpy(np.load(a.calib))
    options = [
        QuantizationScheme(bits=bits, group_size=group, sym=True, data_type="int", act_bits=16)
        for bits in a.bits
        for group in a.groups
    ]
    common = {"nsamples": len(rows) // 2, "seqlen": rows.shape[1], "batch_size": a.batch}
    tokenizer = AutoTokenizer.from_pretrained(a.hf)
    # Only text is taken here, not ids: two rows each, so that a text is long enough when it is read again.
    texts = Path(out).with_name("texts.jsonl")
    texts.write_text("".join(json.dumps({"text": tokenizer.decode(it)}) + "\n" for it in rows.reshape(len(rows) // 2, -1)))
    start = time.time()
    rounder = AutoRound(
        model,
        tokenizer=tokenizer,
        scheme=AutoScheme(avg_bits=bpw, options=options, device_map="cpu", **common),
        dataset=str(texts),
        iters=a.iters,
        seed=a.seed,
        device_map="cpu",
        enable_torch_compile=False,
        **common,
    )
    quantized, _ = rounder.quantize()
    tuning = time.time() - start
    found, chosen, stored, elements = {}, {}, 0, 0
    for name, linear in quantized.named_modules():
        scale = getattr(linear, "scale", None)
        if not isinstance(linear, torch.nn.Linear) or scale is None:
            continue
        weight = linear.weight.data.float()
        scale = scale.float().reshape(len(weight), -1)
        size = weight.shape[1] if scale.shape[1] == 1 else linear.group_size
        padded = torch.nn.functional.pad(weight, (0, scale.shape[1] * size - weight.shape[1]))
        integer = (padded.reshape(len(weight), -1, size) / scale[..., None]).round()
        whole = (integer * scale[..., None]).reshape(len(weight), -1)
        found[name + ".weight"] = whole[:, : weight.shape[1]].contiguous()
        chosen[f"W{linear.bits}G{size}"] = chosen.get(f"W{linear.bits}G{size}", 0) + 1
        stored += weight.numel() * linear.bits + 16 * scale.numel()
        elements += weight.numel()
    save_file(found, out)
    print("result", json.dumps({"tuning": tuning, "bpw": stored / elements, "chosen": chosen}))


def run(a, side, bpw, work):
    out = work / f"{side}.onnx"
    if side == "auto-round":
        weights = work / "weights.safetensors"
        inner = [sys.executable, __file__, *sys.argv[1:], "--inner", f"{bpw}:{weights}", "--calib", a.calib]
        log, row = autoround.measured(inner, {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(a.threads)})
        row.update(json.loads(re.findall(r"^result (.*)$", log, re.M)[-1]))
        autoround.with_weights(a.model, None, weights, out)
    else:
        record = work / "record.json"
        candidates = ",".join(map(str, a.bits))
        command = [a.qcc, a.model, "-O", f"signround{{iters={a.iters},batch={a.batch}}}", "--bpw", bpw, "--sym"]
        command += ["--scale-type", "f16", "--candidates", candidates, "--calib", a.calib, "--seed", a.seed]
        command += ["-j", a.threads, "--format", "fake", "-f", "-o", out, f"--json={record}"]
        _, row = autoround.measured([str(it) for it in command])
        chosen = {}
        told = json.loads(record.read_text())
        for it in told["weights"]:
            if it.get("bits"):
                name = f"W{it['bits']}G{it['group']}"
                chosen[name] = chosen.get(name, 0) + 1
        kept = [it for it in told["weights"] if it.get("bits")]
        elements = sum(it["n"] * it["k"] for it in kept)
        stored = sum(it["n"] * it["k"] * it["bits"] + 16 * it["n"] * -(-it["k"] // int(it["group"])) for it in kept)
        row.update({"bpw": stored / elements, "chosen": chosen})
    return {**row, **autoround.scores(a, out)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(it) for it in text.split(",")]
    p.add_argument("model", type=Path)
    p.add_argument("--hf", type=Path, required=True)
    p.add_argument("--calib", required=True)
    p.add_argument("--eval", required=True)
    p.add_argument("--eval-rows", type=int)
    p.add_argument("--eval-length", type=int)
    p.add_argument("--bpw", default="2.5,3.0,3.5,4.5")
    p.add_argument("--bits", type=numbers, default=[2, 4, 8])
    p.add_argument("--groups", type=numbers, default=[32, 64, 128])
    p.add_argument("--sides", default="qcc,auto-round")
    p.add_argument("--qcc", type=Path, default=Path("target/ci/qcc"))
    p.add_argument("--rows", type=int, default=64)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--iters", type=int, default=50)
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--inner", help=argparse.SUPPRESS)
    p.set_defaults(feeds=None)  # what autoround.py scores encoders by
    a = p.parse_args()
    if a.inner:
        bpw, out = a.inner.split(":", 1)
        return tune(a, float(bpw), out)
    with tempfile.TemporaryDirectory() as work:
        ids = np.load(a.calib).reshape(-1)[: a.rows * a.length].reshape(a.rows, a.length)
        a.calib = str(Path(work, "calib.npy"))
        np.save(a.calib, ids.astype(np.int64))
        for bpw in a.bpw.split(","):
            for side in a.sides.split(","):
                print(json.dumps({"asked": float(bpw), "side": side, **run(a, side, bpw, Path(work))}), flush=True)


if __name__ == "__main__":
    main()
