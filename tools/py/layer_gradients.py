"""Layers of GPT-2, BERT and T5 as models of their own, and their gradients by PyTorch in f64: the figures of a test
of qcc-exec.

    python tools/py/layer_gradients.py crates/qcc-exec/tests/data

Needs numpy, onnx, torch and transformers; what is written was made with torch 2.15.0 and transformers 4.57.6. The modules are
those of transformers with small sizes and seeded weights; PyTorch's exporter writes NAME.onnx, with parameters under
their own names, and `onnx` adds the types of inner values. The input `x` and the adjoint of the output `y` are numbers by formula. NAME.npy has a row for each
tensor: 64 elements at even distances, then the root of the sum of all squares. The rows are the output, the adjoint of
the input, and those of the parameters in the order of their names.
"""

import os
import sys
import warnings

import numpy as np
import onnx
import torch
from transformers import BertConfig, GPT2Config, T5Config
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.t5.modeling_t5 import T5Block

BATCH, LENGTH, WIDTH, HEADS, INNER = 2, 7, 32, 4, 48


class Layer(torch.nn.Module):
    """A layer as a function of its input alone."""

    def __init__(self, layer, **given):
        super().__init__()
        self.layer, self.given = layer, given

    def forward(self, x):
        given = {name: it.to(x.dtype) if it.is_floating_point() else it for name, it in self.given.items()}
        out = self.layer(x, **given)
        return out[0] if isinstance(out, tuple) else out


def gpt2():
    return Layer(GPT2Block(GPT2Config(
        n_embd=WIDTH, n_head=HEADS, n_inner=INNER, n_positions=16, attn_implementation="eager"), layer_idx=0))


def bert():
    # The second row has two tokens less.
    mask = torch.zeros(BATCH, 1, 1, LENGTH)
    mask[1, ..., -2:] = torch.finfo(torch.float32).min
    return Layer(BertLayer(BertConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=INNER, attn_implementation="eager")),
        attention_mask=mask)


def t5():
    config = T5Config(
        d_model=WIDTH, num_heads=HEADS, d_kv=WIDTH // HEADS, d_ff=INNER, relative_attention_num_buckets=8,
        relative_attention_max_distance=6, feed_forward_proj="gated-gelu")
    return Layer(T5Block(config, has_relative_attention_bias=True, layer_idx=0), cache_position=torch.arange(LENGTH))


def row(tensor):
    flat = tensor.detach().numpy().reshape(-1)
    picked = flat[np.arange(64) * len(flat) // 64]
    return np.append(picked, np.sqrt(np.sum(flat * flat)))


def write(name, layer, folder):
    torch.manual_seed(1)
    layer = layer().eval()
    parameters = sorted(layer.layer.named_parameters())
    for key, it in parameters:
        # Vectors that norms multiply by are about 1, all else is small.
        scale, mean = (0.2, 1.0) if it.dim() == 1 and key.endswith("weight") else (0.25, 0.0)
        it.data = torch.randn(it.shape) * scale + mean
    index = torch.arange(BATCH * LENGTH * WIDTH)
    shape = (BATCH, LENGTH, WIDTH)
    x = (((index * 37 + 11) % 61).double() / 8 - 3.75).reshape(shape)
    dy = (((index * 29 + 5) % 53).double() / 26 - 1).reshape(shape)
    model = os.path.join(folder, f"{name}.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layer, (x.float(),), model, input_names=["x"], output_names=["y"],
            opset_version=17, do_constant_folding=False, dynamo=False)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(model)), model)
    layer, x = layer.double(), x.requires_grad_()
    y = layer(x)
    y.backward(dy)
    rows = [row(y), row(x.grad)] + [row(it.grad) for _, it in sorted(layer.layer.named_parameters())]
    np.save(os.path.join(folder, f"{name}.npy"), np.stack(rows))


def main(folder):
    for name, layer in {"gpt2_layer": gpt2, "bert_layer": bert, "t5_layer": t5}.items():
        write(name, layer, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
