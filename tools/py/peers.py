#!/usr/bin/env python3
"""Quantizes the weights of a model by a tool of ONNX Runtime, as a model to score beside those of qcc.

    python tools/py/peers.py MODEL --tool default|default-sym|hqq|k_quant [--bits 4] [--group 32] -o OUT

Takes each MatMul of a constant, the head among them, and no table of embeddings. OUT has its tensors in OUT.data. Prints the
CPU seconds, imports left out, and the stored bits for each quantized weight, scales and zero points included. k_quant
has 4 bits only and fails where a row is no multiple of the group. Needs onnxruntime and onnx_ir, no others of these scripts,
so that another Python can run it.
"""

import argparse
import os
import time

import onnx
from onnxruntime.quantization import matmul_nbits_quantizer as nbits

TOOLS = ("default", "default-sym", "hqq", "k_quant")


def config(tool, bits, group):
    if tool == "hqq":
        return nbits.HQQWeightOnlyQuantConfig(block_size=group, bits=bits)
    if tool == "k_quant":
        found = nbits.KQuantWeightOnlyQuantConfig()
        found.block_size = group  # the constructor has no such argument
        return found
    return nbits.DefaultWeightOnlyQuantConfig(block_size=group, is_symmetric=tool == "default-sym", bits=bits)


def stored_bits(model):
    """Stored bits for each weight of the products that were quantized, and how many weights there are."""
    tensors = {it.name: it for it in model.graph.initializer}
    products = [it for it in model.graph.node if it.op_type == "MatMulNBits"]
    stored = {name for it in products for name in it.input[1:4] if name in tensors}
    sizes = {it.name: {a.name: a.i for a in it.attribute} for it in products}
    count = sum(it["K"] * it["N"] for it in sizes.values())
    return 8 * sum(len(onnx.numpy_helper.to_array(tensors[name]).tobytes()) for name in stored) / count, len(products)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--tool", choices=TOOLS, required=True)
    p.add_argument("--bits", type=int, default=4)
    p.add_argument("--group", type=int, default=32)
    p.add_argument("-o", "--output", required=True)
    a = p.parse_args()
    for path in (a.output, a.output + ".data"):
        if os.path.exists(path):
            os.remove(path)  # data would be added to those of the last run
    before = time.process_time()
    model = onnx.load(a.model)
    start = time.process_time()
    options = {"bits": a.bits, "block_size": a.group, "is_symmetric": a.tool == "default-sym"}
    quantizer = nbits.MatMulNBitsQuantizer(model, **options, algo_config=config(a.tool, a.bits, a.group))
    quantizer.process()
    quantizer.model.save_model_to_file(a.output, True)
    end = time.process_time()
    bits, products = stored_bits(onnx.load(a.output))
    print(f"{products} products, {bits:.3f} stored bits for each weight")
    print(f"cpu {start - before:.3f} {end - start:.3f}: seconds of loading, of quantizing and saving")


if __name__ == "__main__":
    main()
