#!/usr/bin/env python3
"""CPU seconds and memory of quantizing and saving a model of random weights, beside ONNX Runtime's quantizer.

    python tools/py/speed.py --qcc target/ci/qcc [--gib 1] [--group 32] [--rounds 3] [--recipe rtn] [--format nbits] [--peer PYTHON --mode default]

Makes a model of --gib GiB of float weights (external data) in --dir, then runs qcc and, with --peer, ONNX Runtime's
MatMulNBitsQuantizer (by peers.py) in turns, the input in the page cache. PYTHON is one that has onnxruntime and onnx_ir. Its time
is given twice: of quantizing and saving, and with the loading of the model, but never with imports. That of qcc is the
whole command, loading and digest of the input among it. Anonymous memory is what the process holds besides mapped files.
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

WIDTH, INNER = 2048, 8192
TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.py")


def make(path, gib):
    """Layers of six products, `gib` GiB of normal weights."""
    import numpy as np
    import onnx
    from onnx import helper

    layer = [("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("o", WIDTH, WIDTH),
             ("up", WIDTH, INNER), ("down", INNER, WIDTH)]
    count = round(gib * 2**30 / (4 * sum(k * n for _, k, n in layer)))
    noise = np.random.default_rng(0).standard_normal(WIDTH * INNER).astype(np.float32) * 0.02
    nodes, weights, offset, last = [], [], 0, "x"
    with open(path + ".data", "wb") as data:
        for i in range(count):
            for j, (name, k, n) in enumerate(layer):
                name = f"layer{i}.{name}"
                size = 4 * k * n
                data.write(np.roll(noise, 7919 * (6 * i + j))[: k * n].tobytes())
                tensor = onnx.TensorProto(name=name, data_type=1, dims=[k, n], data_location=1)
                where = {"location": os.path.basename(path) + ".data", "offset": offset, "length": size}
                for key, value in where.items():
                    tensor.external_data.add(key=key, value=str(value))
                weights.append(tensor)
                nodes.append(helper.make_node("MatMul", [last, name], [name + ".y"], name=name + ".matmul"))
                last, offset = name + ".y", offset + size
    ends = [helper.make_tensor_value_info(name, 1, ["rows", WIDTH]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "random", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return offset / 2**30


def run(command):
    """CPU seconds and the most anonymous MiB of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    anonymous = 0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                for line in status:
                    if line.startswith("RssAnon"):
                        anonymous = max(anonymous, int(line.split()[1]) // 1024)
        except OSError:
            pass
        time.sleep(0.01)
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{command[0]} failed: {err[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, anonymous, out


def clear(folder):
    """Takes older outputs away, so that no run has to."""
    for name in os.listdir(folder):
        if name.startswith(("peer", "qcc")):
            os.remove(os.path.join(folder, name))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qcc", required=True)
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="rtn")
    parser.add_argument("--format", default="nbits")
    parser.add_argument("--no-provenance", action="store_true", help="no digest of the input, which the other tool does not make")
    parser.add_argument("--peer")
    parser.add_argument("--mode", choices=["default", "k_quant"], default="default")
    parser.add_argument("--dir")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        source = os.path.join(folder, "model.onnx")
        gib = make(source, args.gib)
        # The last product reads no less than others: it is a head, and the other tool takes it too.
        command = [args.qcc, source, "-O", args.recipe, "-b4", f"-g{args.group}", "--lm-head", "4", "-f"]
        command += ["-o", os.path.join(folder, "qcc.onnx"), "--progress", "off", "--format", args.format]
        command += ["--no-provenance"] if args.no_provenance else []
        ours, peers, anonymous = [], [], 0
        for _ in range(args.rounds):
            clear(folder)
            if args.peer:
                out = os.path.join(folder, "peer.onnx")
                text = run([args.peer, TOOL, source, "--tool", args.mode, "--group", str(args.group), "-o", out])[2]
                load, rest = map(float, text.split("cpu ")[-1].split(":")[0].split())
                peers.append((rest, load + rest))
            run(command)  # the other tool has used the caches
            clear(folder)
            spent, most, _ = run(command)
            ours.append(spent)
            anonymous = max(anonymous, most)
        mine = statistics.median(ours)
        print(f"{gib:.2f} GiB, {args.recipe}, group {args.group}: {mine:.2f} CPU s, {anonymous} MiB anonymous")
        if peers:
            for name, times in zip(("quantizing and saving", "with loading"), zip(*peers)):
                other = statistics.median(times)
                print(f"onnxruntime {args.mode}, {name}: {other:.2f} CPU s, {other / mine:.1f} times as much")


if __name__ == "__main__":
    main()
