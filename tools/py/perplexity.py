#!/usr/bin/env python3
"""Perplexity of a language model in ONNX Runtime, and its distance to another model.

    perplexity.py MODEL EVAL.npy [--ref FLOAT_MODEL] [--rows N] [--optimize LEVEL] [--json]

EVAL.npy is an integer matrix [rows, length]; every row is a sequence of its own. Positions 1 to length-1 are scored given those
before them in the row: perplexity = exp(sum NLL / count), logits in float32, sums in float64. With --ref also the mean over those
positions of KL(ref || model) in nats, and the share on which both put the same token first.
"""

import argparse
import json

import numpy as np
import oracle

CHUNK = 64  # positions in float64 at a time


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class Model:
    """A language model whose logits are asked for row by row."""

    def __init__(self, path, optimize="all"):
        self.path = path
        self.session = oracle.session(path, optimize)
        names = [o.name for o in self.session.get_outputs()]
        self.output = "logits" if "logits" in names else names[0]

    def logits(self, row):
        """Float32 [length - 1, vocabulary]: predictions for positions 1 and up."""
        feeds = oracle.language_feeds(self.session, self.path, row[None])
        return np.asarray(self.session.run([self.output], feeds)[0][0, :-1], np.float32)


def score(model, ids, ref=None):
    """The record that main prints; `model` and `ref` are Model values."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] < 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"expected integer ids [rows, length of at least 2], got {ids.dtype} {list(ids.shape)}")
    nll, ref_nll = np.zeros(len(ids)), np.zeros(len(ids))
    kl = top1 = 0.0
    for r, row in enumerate(ids):
        q_all = model.logits(row)
        p_all = ref.logits(row) if ref else None
        for s in range(0, len(row) - 1, CHUNK):
            q = log_softmax(q_all[s : s + CHUNK])
            next_id = row[s + 1 : s + 1 + len(q), None]
            nll[r] -= np.take_along_axis(q, next_id, 1).sum()
            if ref:
                p = log_softmax(p_all[s : s + CHUNK])
                ref_nll[r] -= np.take_along_axis(p, next_id, 1).sum()
                kl += (np.exp(p) * (p - q)).sum()
                top1 += (p.argmax(-1) == q.argmax(-1)).sum()
    count = ids.shape[0] * (ids.shape[1] - 1)
    found = {
        "model": model.path,
        "bytes": oracle.model_bytes(model.path),
        "positions": count,
        "perplexity": float(np.exp(nll.sum() / count)),
        "nll_per_row": [float(x) / (ids.shape[1] - 1) for x in nll],
    }
    if ref:
        found |= {
            "ref": ref.path,
            "ref_bytes": oracle.model_bytes(ref.path),
            "ref_perplexity": float(np.exp(ref_nll.sum() / count)),
            "kl": float(kl / count),
            "top1": float(top1 / count),
        }
    return found


def table(f):
    """Text for people: the model alone, or the reference and the model below each other."""
    lines = [f"{'':12}{'bytes':>14}{'perplexity':>12}{'KL (nats)':>12}{'same first':>12}"]
    if "ref" in f:
        lines.append(f"{'before':12}{f['ref_bytes']:>14,}{f['ref_perplexity']:>12.4f}")
        lines.append(f"{'after':12}{f['bytes']:>14,}{f['perplexity']:>12.4f}{f['kl']:>12.5f}{f['top1']:>12.2%}")
    else:
        lines = [lines[0][:38], f"{'model':12}{f['bytes']:>14,}{f['perplexity']:>12.4f}"]
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("ids", metavar="EVAL.npy")
    p.add_argument("--ref", metavar="FLOAT_MODEL")
    p.add_argument("--rows", type=int, help="score the first N rows only")
    p.add_argument("--optimize", choices=list(oracle.LEVELS), default="all")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    ids = np.load(a.ids, allow_pickle=False)[: a.rows]
    found = score(Model(a.model, a.optimize), ids, Model(a.ref, a.optimize) if a.ref else None)
    print(json.dumps(found) if a.json else table(found))


if __name__ == "__main__":
    main()
