#!/usr/bin/env python3
"""Rows of token ids of texts, each within the tokens that the tokenizer puts around a text.

    python tools/py/token_ids.py tokenizer.json TEXT... -o IDS.npy [--rows 64] [--length 64]

IDS.npy: int64 [rows * texts, length], without padding: a row of each text in turn, each text from its beginning, so that the
first rows hold something of all of them. Needs the packages numpy and tokenizers.
"""

import argparse
import pathlib

import numpy as np
from tokenizers import Tokenizer


def rows_of(tokenizer, text, rows, length):
    """Int64 [rows, length]: windows of the text, one after the other."""
    around = tokenizer.num_special_tokens_to_add(False)
    ids, width = tokenizer.encode(text, add_special_tokens=False).ids, length - around
    if len(ids) < rows * width:
        raise SystemExit(f"{len(ids)} tokens: too few for {rows} rows of {width}; ask for fewer --rows")
    ends = np.array(tokenizer.encode("", add_special_tokens=True).ids, np.int64)
    head = len(ends) - around // 2
    windows = np.array(ids[: rows * width], np.int64).reshape(rows, width)
    edge = [np.tile(it, (rows, 1)) for it in (ends[:head], ends[head:])]
    return np.concatenate([edge[0], windows, edge[1]], axis=1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tokenizer", type=pathlib.Path)
    p.add_argument("texts", type=pathlib.Path, nargs="+", metavar="TEXT")
    p.add_argument("-o", "--output", type=pathlib.Path, required=True)
    p.add_argument("--rows", type=int, default=64, help="rows of each text (64)")
    p.add_argument("--length", type=int, default=64, help="tokens of a row (64)")
    a = p.parse_args()
    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = (it.read_text(encoding="utf-8") for it in a.texts)
    found = np.stack([rows_of(tokenizer, it, a.rows, a.length) for it in texts], axis=1).reshape(-1, a.length)
    np.save(a.output, found)
    print(f"{found.shape[0]} rows of {found.shape[1]} ids")


if __name__ == "__main__":
    main()
