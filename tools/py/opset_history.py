#!/usr/bin/env python3
"""The table of operators that qcc may leave as they are when it raises an opset, against the schemas of the onnx package.

    opset_history.py           compares the table in stable.rs with the schemas; fails if they differ
    opset_history.py --write   writes the table

An operator is listed under the oldest opset from which on it means the same up to opset 25, and again if it is older. Between two versions of a schema
it does when every attribute keeps its type and default, new ones are not required, and inputs and outputs keep their places,
new ones being optional. OTHER_MEANING holds the versions that changed the meaning under the same form.
"""

import argparse
import os
import re
import sys

from onnx import defs

NEWEST = 25
TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "crates", "qcc-onnx", "src", "export", "stable.rs")
# The changelog says so: broadcasting of the slope; where samples lie; one scale for each channel instead of each group.
OTHER_MEANING = {("PRelu", 7), ("RoiAlign", 16), ("GroupNormalization", 21)}
OPTION = defs.OpSchema.FormalParameterOption


def same_attributes(old, new):
    def content(a):
        return str(a.type), a.default_value.SerializeToString(deterministic=True)

    kept = all(n in new and content(new[n]) == content(a) and (a.required or not new[n].required) for n, a in old.items())
    return kept and not any(a.required for n, a in new.items() if n not in old)


def same_places(old, new):
    def fits(a, b):
        loosened = (a.option, b.option) == (OPTION.Single, OPTION.Optional)
        return (a.option == b.option and a.is_homogeneous == b.is_homogeneous) or loosened

    kept = len(new) >= len(old) and all(fits(a, b) for a, b in zip(old, new))
    return kept and all(p.option == OPTION.Optional for p in new[len(old) :])


def means_the_same(old, new):
    if new.deprecated or (new.name, new.since_version) in OTHER_MEANING:
        return False
    return same_attributes(old.attributes, new.attributes) and all(
        same_places(a, b) for a, b in ((old.inputs, new.inputs), (old.outputs, new.outputs))
    )


def stable():
    """Names by the oldest opset from which on they mean the same, and those of them that are older."""
    history = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= NEWEST:
            history.setdefault(schema.name, {})[schema.since_version] = schema
    since, changed = {}, []
    for name, versions in history.items():
        order = [versions[v] for v in sorted(versions)]
        first = order[0]
        for old, new in zip(order, order[1:]):
            first = first if means_the_same(old, new) else new
        if not order[-1].deprecated:
            since.setdefault(first.since_version, []).append(name)
            changed += [name] if first is not order[0] else []
    return {v: sorted(names) for v, names in sorted(since.items())}, sorted(changed)


def listed(text):
    changed = re.search(r"(?s)CHANGED: [^=]*= &\[(.*?)\];", text)[1]
    return {int(v): re.findall(r'"(\w+)"', names) for v, names in re.findall(r"\(\s*(\d+),\s*&\[(.*?)\],?\s*\)", text, re.S)}, re.findall(r'"(\w+)"', changed)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--write", action="store_true")
    a = p.parse_args()
    with open(TABLE) as f:
        text = f.read()
    want, have = stable(), listed(text)
    if a.write:
        rows = ["    (%d, &[%s])," % (v, ", ".join(f'"{n}"' for n in names)) for v, names in want[0].items()]
        text = re.sub(r"(?s)(STABLE: [^=]*= &\[).*?(\];)", lambda m: "\n".join([m[1], *rows, m[2]]), text, count=1)
        names = ", ".join(f'"{n}"' for n in want[1])
        text = re.sub(r"(?s)(CHANGED: [^=]*= &\[).*?(\];)", lambda m: m[1] + names + m[2], text, count=1)
        with open(TABLE, "w") as f:
            f.write(text)
        return
    for version in sorted({*want[0], *have[0]}):
        wrong = set(want[0].get(version, ())) ^ set(have[0].get(version, ()))
        if wrong:
            print(f"opset {version}: the table and the schemas differ in {', '.join(sorted(wrong))}")
    if have != want:
        sys.exit("the table is not that of the schemas; opset_history.py --write, then rustfmt")
    print(f"{sum(map(len, want[0].values()))} operators are listed as the schemas have them")


if __name__ == "__main__":
    main()
