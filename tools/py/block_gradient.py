"""Gradients of one layer of the bundled model, by PyTorch in f64: the figures of a test of qcc-exec.

    python tools/py/block_gradient.py tests/models/books1M/model.onnx crates/qcc-exec/tests/data/books1M_layer1.npy

Needs numpy, onnx and torch. The layer is written here once more from its weights, so nothing is shared
with what it checks but the model. Its input and the adjoint of its output are numbers by formula.
A row of the file is a tensor: 64 elements at even distances, then the root of the sum of all squares.
The rows are those of ROWS: the output, the adjoint of the input, those of the weights.
"""

import sys

import numpy as np
import onnx
import torch
from onnx import numpy_helper

BATCH, LENGTH, WIDTH, HEADS, GROUPS = 2, 7, 128, 4, 2
# Names of the initializers of layer 1, in the order of the rows.
ROWS = [
    "m.model.layers.1.input_layernorm.weight", "val_265", "val_272", "val_279", "val_390",
    "m.model.layers.1.post_attention_layernorm.weight", "val_395", "val_397", "val_398",
]


def heads(x, count):
    return x.reshape(BATCH, LENGTH, count, -1).transpose(1, 2)


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def layer(x, weights, frequencies, epsilon):
    norm1, q, k, v, o, norm2, gate, up, down = weights
    rms = lambda x, w: w * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
    h = rms(x, norm1)
    angles = torch.outer(torch.arange(LENGTH, dtype=torch.float64), frequencies)
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    q, k = (rotated(heads(h @ w, n), cos, sin) for w, n in ((q, HEADS), (k, GROUPS)))
    k, v = (it.repeat_interleave(HEADS // GROUPS, 1) for it in (k, heads(h @ v, GROUPS)))
    scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
    x = x + mixed.transpose(1, 2).reshape(BATCH, LENGTH, -1) @ o
    h = rms(x, norm2)
    return x + (torch.nn.functional.silu(h @ gate) * (h @ up)) @ down


def row(tensor):
    flat = tensor.detach().numpy().reshape(-1)
    picked = flat[np.arange(64) * len(flat) // 64]
    return np.append(picked, np.sqrt(np.sum(flat * flat)))


def main(model, out):
    graph = onnx.load(model).graph
    values = {it.name: numpy_helper.to_array(it) for it in graph.initializer}
    as_tensor = lambda name: torch.tensor(values[name].astype(np.float64))
    weights = [as_tensor(it).requires_grad_() for it in ROWS]
    index = torch.arange(BATCH * LENGTH * WIDTH)
    shape = (BATCH, LENGTH, WIDTH)
    x = (((index * 37 + 11) % 61).double() / 8 - 3.75).reshape(shape).requires_grad_()
    dy = (((index * 29 + 5) % 53).double() / 26 - 1).reshape(shape)
    y = layer(x, weights, as_tensor("expand_3").reshape(-1), float(values["val_120"]))
    y.backward(dy)
    np.save(out, np.stack([row(y), row(x.grad)] + [row(it.grad) for it in weights]))


if __name__ == "__main__":
    main(*sys.argv[1:])
