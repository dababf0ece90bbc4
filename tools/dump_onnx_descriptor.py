#!/usr/bin/env python3
"""Prints the message descriptors of the installed `onnx` package as JSON.

The test of `crates/onnx-protobuf` compares its schema with this, field by field:

    python3 tools/dump_onnx_descriptor.py > crates/onnx-protobuf/tests/onnx-<version>.json

A new release of onnx then shows as a readable difference.
"""

import json

import onnx
from google.protobuf.descriptor import FieldDescriptor as F
from onnx import onnx_data_pb2, onnx_ml_pb2

TYPES = {
    F.TYPE_DOUBLE: "double",
    F.TYPE_FLOAT: "float",
    F.TYPE_INT32: "int32",
    F.TYPE_INT64: "int64",
    F.TYPE_UINT64: "uint64",
    F.TYPE_STRING: "string",
    F.TYPE_BYTES: "bytes",
}


def local(descriptor):
    return descriptor.full_name.removeprefix("onnx.")


def field(f):
    if f.message_type:
        kind = local(f.message_type)
    elif f.enum_type:
        kind = local(f.enum_type)
    else:
        kind = TYPES[f.type]
    row = {"number": f.number, "name": f.name, "type": kind}
    row["label"] = "repeated" if f.is_repeated else "required" if f.is_required else "optional"
    if f.is_packed:
        row["packed"] = True
    if f.containing_oneof:
        row["oneof"] = f.containing_oneof.name
    if f.has_default_value:
        row["default"] = str(f.default_value)
    return row


def enum(descriptor):
    return dict(sorted(((v.name, v.number) for v in descriptor.values), key=lambda v: v[1]))


def collect(message, messages, enums):
    fields = sorted(message.fields, key=lambda f: f.number)
    messages[local(message)] = [field(f) for f in fields]
    for e in message.enum_types:
        enums[local(e)] = enum(e)
    for nested in message.nested_types:
        collect(nested, messages, enums)


def main():
    messages, enums = {}, {}
    for file in (onnx_ml_pb2.DESCRIPTOR, onnx_data_pb2.DESCRIPTOR):
        for e in file.enum_types_by_name.values():
            enums[local(e)] = enum(e)
        for message in file.message_types_by_name.values():
            collect(message, messages, enums)
    blocks = ['"onnx": ' + json.dumps(onnx.__version__)]
    rows = [
        f"{json.dumps(name)}: [\n  " + ",\n  ".join(map(json.dumps, fields)) + "\n ]"
        for name, fields in sorted(messages.items())
    ]
    blocks.append('"messages": {\n ' + ",\n ".join(rows) + "\n}")
    rows = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in sorted(enums.items())]
    blocks.append('"enums": {\n ' + ",\n ".join(rows) + "\n}")
    print("{\n" + ",\n".join(blocks) + "\n}")


if __name__ == "__main__":
    main()
