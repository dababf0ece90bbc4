#!/usr/bin/env python3
"""A decoder of random weights in the shape of a known one, as torch exports it, with token ids to tune it on.

    python tools/py/random_model.py --like qwen2.5-0.5b|llama-3.1-8b [--layers 2] [--vocabulary 2048] --out DIR

Writes DIR/model.onnx with external data and DIR/ids.npy, 64 rows of 2048 ids. For times and memory of tuning by the
width of a layer; what the weights compute means nothing. Needs torch and transformers.
"""
import argparse
import os

SHAPES = {
    "qwen2.5-0.5b": dict(hidden_size=896, intermediate_size=4864, num_attention_heads=14, num_key_value_heads=2),
    "llama-3.1-8b": dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--like", choices=SHAPES, required=True)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=args.layers, vocab_size=args.vocabulary, max_position_embeddings=4096,
                         tie_word_embeddings=False, attn_implementation="eager", **SHAPES[args.like])
    model = Logits(LlamaForCausalLM(config).eval())
    os.makedirs(args.out, exist_ok=True)
    ids, mask = torch.randint(0, args.vocabulary, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    batch, sequence = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("sequence", min=2, max=4096)
    shapes = {"input_ids": {0: batch, 1: sequence}, "attention_mask": {0: batch, 1: sequence}}
    with torch.no_grad():
        program = torch.onnx.export(model, (ids, mask), dynamo=True, opset_version=21, dynamic_shapes=shapes,
                                    input_names=list(shapes), output_names=["logits"], optimize=True)
    program.save(os.path.join(args.out, "model.onnx"), external_data=True)
    ids = np.random.default_rng(0).integers(0, args.vocabulary, (64, 2048), dtype=np.int64)
    np.save(os.path.join(args.out, "ids.npy"), ids)


if __name__ == "__main__":
    main()
