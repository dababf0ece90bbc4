#!/usr/bin/env python3
"""qcc beside auto-round on the same model, rows, steps and scheme; both scored by the same evaluator.

    python tools/py/autoround.py MODEL.onnx --hf DIR --calib IDS.npy --eval IDS.npy --schemes W4G32,W3G128,W2G32a
        [--qcc target/ci/qcc] [--rows 64 --length 256 --batch 4 --iters 50 --seeds 0,1,2] [--sides qcc,qcc-asym,auto-round]

MODEL.onnx is a Llama as torch exports it, DIR its Hugging Face folder; where DIR does not exist it is made from the
model, with --theta. Run it with a Python that has auto_round, torch, transformers and onnxruntime. Both get the first
--rows rows of --length tokens of --calib. auto-round's weights are put into the ONNX model in place of the float ones,
so that one program scores both: KL to the float model, perplexity, the share of equal first tokens. Time and memory
are those of a process: with imports and the loading of the model for auto-round ('tuning' leaves them out), the
whole command for qcc. One JSON line for each run, appended to --log; runs that are in it already are not repeated.
A scheme ends in 'a' for asymmetric; the side qcc-asym makes every scheme asymmetric for qcc alone.

With --feeds FEEDS.npz in place of --eval MODEL.onnx is an encoder, whose weights are found in DIR by their values. FEEDS has
its inputs, and scores are cosines of `sentence_embedding` with that of the float model: mean, least, and the mean change of the
cosine of two sentences.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

PARTS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
PARTS += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def linears(model):
    """Names of constants that a product reads, by their names in torch, the order of the layers."""
    constants = {it.name for it in model.graph.initializer}
    found = [n.input[1] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    layers, rest = divmod(len(found), len(PARTS))
    if rest not in (0, 1):
        sys.exit("this is not a Llama of seven linears a layer and a head")
    names = [f"model.layers.{i}.{part}.weight" for i in range(layers) for part in PARTS]
    return dict(zip(names + ["lm_head.weight"], found))


def by_value(model, folder):
    """The same as `linears` for any model: weights of the folder that a product reads, transposed."""
    from safetensors.numpy import load_file

    constants = {it.name: numpy_helper.to_array(it) for it in model.graph.initializer}
    read = {n.input[1] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants}
    found = {constants[it].tobytes(): it for it in read}
    weights = {}
    for file in Path(folder).glob("*.safetensors"):
        weights.update({name: it for name, it in load_file(file).items() if it.ndim == 2})
    keys = {name: np.ascontiguousarray(it.T.astype(np.float32)).tobytes() for name, it in weights.items()}
    return {name: found[key] for name, key in keys.items() if key in found}


def make_hf(model, folder, theta, tokenizer):
    """A Hugging Face folder from the ONNX model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tensors = {it.name: numpy_helper.to_array(it) for it in model.graph.initializer}
    weights = {name: tensors[it].T for name, it in linears(model).items()}
    for name, value in tensors.items():
        if name.endswith(("layernorm.weight", "norm.weight", "embed_tokens.weight")):
            weights[name[name.index("model.") :]] = value
    vocabulary, hidden = weights["model.embed_tokens.weight"].shape
    head = 32
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=len(weights["model.layers.0.mlp.gate_proj.weight"]),
        num_hidden_layers=sum(name.endswith("q_proj.weight") for name in weights),
        num_attention_heads=hidden // head,
        num_key_value_heads=len(weights["model.layers.0.self_attn.k_proj.weight"]) // head,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_theta=theta,
        tie_word_embeddings=False,
    )
    torch_model = LlamaForCausalLM(config)
    state = {name: torch.from_numpy(np.ascontiguousarray(it)) for name, it in weights.items()}
    torch_model.load_state_dict(state, strict=True)
    torch_model.save_pretrained(folder)
    if tokenizer:
        from transformers import PreTrainedTokenizerFast

        PreTrainedTokenizerFast(tokenizer_file=str(tokenizer)).save_pretrained(folder)


def tune(a, scheme, seed, out):
    """The side of auto-round, in a process of its own: dequantized weights into `out`."""
    import torch
    from auto_round import AutoRound
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(a.threads)
    bits, group, asym = scheme
    kind = AutoModel if a.feeds else AutoModelForCausalLM
    model = kind.from_pretrained(a.hf, dtype=torch.float32).eval()
    options = dict(it.split("=", 1) for it in a.ext)
    options = {name: eval(value, {}, {}) for name, value in options.items()}
    rows = torch.from_numpy(np.load(a.calib))
    start = time.time()
    rounder = AutoRound(
        model,
        tokenizer=AutoTokenizer.from_pretrained(a.hf),
        dataset=[rows[i : i + 1] for i in range(len(rows))],
        bits=bits,
        group_size=group,
        sym=not asym,
        seqlen=rows.shape[1],
        nsamples=len(rows),
        batch_size=a.batch,
        iters=a.iters,
        seed=seed,
        device_map="cpu",
        enable_torch_compile=False,
        **options,
    )
    quantized, _ = rounder.quantize()
    tuning = time.time() - start
    found = {}
    for name, linear in quantized.named_modules():
        scale = getattr(linear, "scale", None)
        if not isinstance(linear, torch.nn.Linear) or scale is None:
            continue
        weight = linear.weight.data.float()
        scale = scale.float().reshape(len(weight), -1)
        size = weight.shape[1] if scale.shape[1] == 1 else group
        # What is kept is bf16(scale * integer): the integer is found again, so that its type costs nothing.
        padded = torch.nn.functional.pad(weight, (0, scale.shape[1] * size - weight.shape[1]))
        integer = (padded.reshape(len(weight), -1, size) / scale[..., None]).round()
        whole = (integer * scale[..., None]).reshape(len(weight), -1)
        found[name + ".weight"] = whole[:, : weight.shape[1]].contiguous()
    save_file(found, out)
    print("tuning", tuning)


def measured(command, env=None):
    """Runs a command: its output, wall and CPU seconds, and peak memory in MB."""
    peak = 0
    with tempfile.NamedTemporaryFile() as log:
        start = time.time()
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        # What wait4 tells of memory has that of this process in it, from before the start of the other.
        ended = 0
        while not ended:
            try:
                status = Path(f"/proc/{child.pid}/status").read_text()
                peak = max([peak, *map(int, re.findall(r"VmHWM:\s*(\d+)", status))])
            except OSError:
                pass
            time.sleep(0.02)
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
        wall = time.time() - start
        text = Path(log.name).read_text(errors="replace")
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{text[-3000:]}")
    cpu = used.ru_utime + used.ru_stime
    return text, {"wall": round(wall, 1), "cpu": round(cpu, 1), "rss_mb": peak // 1024}


def with_weights(model_path, folder, weights, out):
    """The ONNX model with these weights, by their names in torch."""
    from safetensors.numpy import load_file

    model = onnx.load(model_path)
    names = by_value(model, folder) if folder else linears(model)
    index = {it.name: it for it in model.graph.initializer}
    for name, value in load_file(weights).items():
        old = index[names[name]]
        old.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.T), old.name))
    data = Path(out).name + ".data"
    Path(out).with_name(data).unlink(missing_ok=True)
    onnx.save(model, out, save_as_external_data=True, location=data)


def scores(a, path):
    if a.feeds:
        from embeddings import embeddings

        feeds = np.load(a.feeds)
        want, got = embeddings(a.model, feeds), embeddings(path, feeds)
        cosine, change = (want * got).sum(axis=1), np.abs(want @ want.T - got @ got.T)
        return {"cosine": float(cosine.mean()), "least": float(cosine.min()), "change": float(change.mean())}
    import perplexity

    ids = np.load(a.eval)[: a.eval_rows, : a.eval_length]
    found = perplexity.score(perplexity.Model(str(path)), ids, perplexity.Model(str(a.model)))
    return {"kl": found["kl"], "top1": found["top1"], "perplexity": found["perplexity"]}


def run(a, side, text, seed, work):
    bits, group, asym = parse(text)
    out = work / f"{side}.onnx"
    if side == "auto-round":
        weights = work / "weights.safetensors"
        inner = [sys.executable, __file__, *sys.argv[1:], "--inner", f"{text}:{seed}:{weights}", "--calib", a.calib]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(a.threads)}
        log, row = measured(inner, env)
        row["tuning"] = round(float(re.findall(r"^tuning (\S+)$", log, re.M)[-1]), 1)
        with_weights(a.model, a.hf if a.feeds else None, weights, out)
    else:
        recipe = f"signround{{iters={a.iters},batch={a.batch}{',' + a.options if a.options else ''}}}"
        command = [a.qcc, a.model, "-O", recipe, f"-b{bits}", f"-g{group}", "--calib", a.calib, "--seed", seed]
        command += ["-j", a.threads, "--format", "fake", "-f", "-o", out]
        command += ["--asym"] if asym or side == "qcc-asym" else ["--sym"]
        _, row = measured([str(it) for it in command])
    return {**row, **scores(a, out)}


def parse(text):
    found = re.fullmatch(r"W(\d)G(\d+)(a?)", text)
    if not found:
        sys.exit(f"'{text}' is no scheme: W4G128, or W4G128a for asymmetric")
    return int(found[1]), int(found[2]), bool(found[3])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path)
    p.add_argument("--hf", type=Path, required=True)
    p.add_argument("--theta", type=float, default=10000.0)
    p.add_argument("--calib", required=True)
    p.add_argument("--eval")
    p.add_argument("--feeds")
    p.add_argument("--eval-rows", type=int)
    p.add_argument("--eval-length", type=int)
    p.add_argument("--schemes", default="W4G32,W4G128,W3G128,W2G64,W2G32a")
    p.add_argument("--sides", default="qcc,auto-round")
    p.add_argument("--qcc", type=Path, default=Path("target/ci/qcc"))
    p.add_argument("--options", default="", help="more options of signround")
    p.add_argument("--ext", action="append", default=[], help="more options of AutoRound: NAME=VALUE")
    p.add_argument("--rows", type=int, default=64)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--iters", type=int, default=50)
    p.add_argument("--seeds", default="0")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--log", type=Path, default=Path("autoround.jsonl"))
    p.add_argument("--dir", type=Path)
    p.add_argument("--inner", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.inner:
        text, seed, out = a.inner.split(":", 2)
        return tune(a, parse(text), int(seed), out)
    if not a.hf.exists():
        tokenizer = a.model.with_name("tokenizer.json")
        make_hf(onnx.load(a.model), a.hf, a.theta, tokenizer if tokenizer.exists() else None)
    same = ["model", "side", "scheme", "seed", "rows", "length", "batch", "iters", "options"]
    rows = [json.loads(it) for it in a.log.read_text().splitlines()] if a.log.exists() else []
    done = {tuple(it[name] for name in same) for it in rows}
    if a.dir:
        os.makedirs(a.dir, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=a.dir) as work:
        ids = np.load(a.calib).reshape(-1)[: a.rows * a.length].reshape(a.rows, a.length)
        a.calib = str(Path(work, "calib.npy"))
        np.save(a.calib, ids.astype(np.int64))
        for seed in a.seeds.split(","):
            for text in a.schemes.split(","):
                for side in a.sides.split(","):
                    options = " ".join(a.ext) if side == "auto-round" else a.options
                    key = [str(a.model), side, text, int(seed), a.rows, a.length, a.batch, a.iters, options]
                    if tuple(key) in done:
                        continue
                    row = {**dict(zip(same, key)), **run(a, side, text, int(seed), Path(work))}
                    line = json.dumps(row)
                    print(line, flush=True)
                    with a.log.open("a") as log:
                        log.write(line + "\n")


if __name__ == "__main__":
    main()
