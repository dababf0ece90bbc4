#!/usr/bin/env python3
"""Quantized models in a folder of onnxruntime-genai, in place of the float model.

    dropin.py --qcc PATH [--out DIR] [--tokens N] [-b BITS] [-g GROUP] [-O RECIPE] FOLDER

FOLDER holds genai_config.json, a tokenizer and a float model.onnx. It is copied for `fake`, `nbits` at level 0 and 4, `qdq`,
and the model of each copy replaced. The tokens that greedy search gives for some prompts have to be those of `fake` where the
runtime computes in float; at level 4 and in `qdq`, where activations are rounded, they are only counted. Needs onnxruntime-genai.
"""

import argparse
import os
import shutil

import checks
import onnxruntime_genai as genai
from checks import expect
from zoo import ROOT

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a small robot who",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees Celsius because",
)
VARIANTS = {
    "float": None,
    "fake": ("--format", "fake"),
    "nbits level 0": ("--accuracy-level", 0),
    "nbits level 4": (),
    "qdq": ("--format", "qdq"),
}


def replaced(qcc, source, folder, options):
    """A copy of a folder with its model quantized; returns its path."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model = os.path.join(source, "model.onnx")
    for name in os.listdir(source):
        if not name.startswith("model.onnx"):
            shutil.copy(os.path.join(source, name), folder)
    checks.qcc(qcc, model, *options, "-o", os.path.join(folder, "model.onnx"))
    return folder


def greedy(folder, count):
    """For each prompt the tokens that follow it."""
    model = genai.Model(folder)
    tokenizer = genai.Tokenizer(model)
    found = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        params = genai.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=len(ids) + count)
        generator = genai.Generator(model, params)
        generator.append_tokens(ids)
        while not generator.is_done() and generator.token_count() < len(ids) + count:
            generator.generate_next_token()
        tokens = [int(t) for t in generator.get_sequence(0)[len(ids) :]]
        found.append((tokens, tokenizer.decode(tokens)))
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", required=True)
    p.add_argument("--out", default=os.path.join(ROOT, "target", "dropin"))
    p.add_argument("--tokens", type=int, default=20)
    p.add_argument("-b", "--bits", default="4")
    p.add_argument("-g", "--group", default="32")
    p.add_argument("-O", "--recipe", default="rtn")
    p.add_argument("folder")
    a = p.parse_args()
    options = ("-O", a.recipe, "-b", a.bits, "-g", a.group, "--lm-head", a.bits)
    tally, found = checks.Tally(), {}

    def generate(name, extra):
        folder = a.folder
        if extra is not None:
            folder = replaced(a.qcc, a.folder, os.path.join(a.out, name.replace(" ", "_")), (*options, *extra))
        found[name] = greedy(folder, a.tokens)
        shutil.rmtree(os.path.join(a.out, name.replace(" ", "_")), ignore_errors=True)
        return repr(found[name][0][1])

    def equal(name):
        for prompt, got, want in zip(PROMPTS, found[name], found["fake"]):
            expect(len(want[0]) == a.tokens and got[0] == want[0], f"{prompt!r}: {got[1]!r}, fake gives {want[1]!r}")

    for name, extra in VARIANTS.items():
        tally.run(f"{name} generates", generate, name, extra)
    tally.run("nbits level 0 gives the tokens of fake", equal, "nbits level 0")
    print("\n| model | " + " | ".join(f"{p!r}" for p in PROMPTS) + " |\n|" + "---|" * (len(PROMPTS) + 1))
    for name, rows in found.items():
        same = [next((i for i, (x, y) in enumerate(zip(r[0], w[0])) if x != y), len(w[0])) for r, w in zip(rows, found["fake"])]
        print(f"| {name} | " + " | ".join(f"{s} of {a.tokens}" for s in same) + " |")
    print()
    tally.finish()


if __name__ == "__main__":
    main()
