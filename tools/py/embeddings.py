#!/usr/bin/env python3
"""How far the sentence embeddings of a model are from those of another, in ONNX Runtime.

    python tools/py/embeddings.py MODEL FEEDS.npz --ref FLOAT_MODEL [--json]

FEEDS.npz holds input_ids, attention_mask and, where the models read them, token_type_ids, [sentences, length] each. An embedding
is the output sentence_embedding [sentences, width], or else the mean of the first output over the tokens of the mask, of
length 1. Printed: mean and least cosine of an embedding with its own of the reference, and the mean change of the cosine of
two sentences over all pairs of different ones.
"""

import argparse
import json

import numpy as np
import oracle


def embeddings(path, feeds):
    """Float32 [sentences, width], each row of length 1."""
    session = oracle.session(str(path))
    names = [it.name for it in session.get_outputs()]
    given = {it.name: feeds[it.name] for it in session.get_inputs()}
    if "sentence_embedding" in names:
        found = session.run(["sentence_embedding"], given)[0]
    else:
        mask = feeds["attention_mask"][..., None].astype(np.float32)
        found = (session.run(names[:1], given)[0] * mask).sum(axis=1) / mask.sum(axis=1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def score(want, got):
    """The record that main prints, of two matrices that embeddings() gives."""
    cosine, change = (want * got).sum(axis=1), np.abs(want @ want.T - got @ got.T)
    pairs = np.triu_indices(len(want), 1)
    return {"cosine": float(cosine.mean()), "least": float(cosine.min()), "change": float(change[pairs].mean())}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("feeds", metavar="FEEDS.npz")
    p.add_argument("--ref", metavar="FLOAT_MODEL", required=True)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    with np.load(a.feeds, allow_pickle=False) as file:
        feeds = {name: file[name] for name in file.files}
    found = score(embeddings(a.ref, feeds), embeddings(a.model, feeds))
    text = "mean cosine {cosine:.5f}, least {least:.5f}, mean change of the cosine of a pair {change:.5f}"
    print(json.dumps(found) if a.json else text.format(**found))


if __name__ == "__main__":
    main()
