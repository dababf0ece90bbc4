#!/usr/bin/env python3
"""Writes a file that holds every field of every ONNX message at least once.

    python3 every_field.py > every-field.bin

The file is a `ModelProto` followed by an `OptionalProto`, each after its length in four bytes,
little-endian. It is made through the Python package, so that its bytes are those of another
protobuf library. It is not a model that means anything. Values are the ones that are easily lost:
NaN with a payload, -0.0, empty strings, bytes that are not UTF-8, the ends of integer ranges.
"""

import itertools
import struct
import sys
from collections import Counter

from google.protobuf.descriptor import FieldDescriptor as F
from onnx import onnx_data_pb2, onnx_ml_pb2

NAN = struct.unpack("<f", b"\x01\x00\xc0\x7f")[0]
VALUES = {
    F.TYPE_FLOAT: itertools.cycle([NAN, -0.0, 1.5]),
    F.TYPE_DOUBLE: itertools.cycle([-0.0, float("nan"), 1e-310]),
    F.TYPE_INT32: itertools.cycle([-1, 0, 2**31 - 1, -(2**31)]),
    F.TYPE_INT64: itertools.cycle([-1, 0, 2**63 - 1, -(2**63), 300]),
    F.TYPE_UINT64: itertools.cycle([2**64 - 1, 0]),
    F.TYPE_STRING: itertools.cycle(["", "x", "größe", "日本"]),
    F.TYPE_BYTES: itertools.cycle([b"\xff\xfe\x00", b"", b"\xc3\x28"]),
}
# Every message is filled this often, once for each member of its largest oneof; later ones are
# left empty, which ends the recursion.
FILLED = 6

seen = Counter()


def fill(message):
    descriptor = message.DESCRIPTOR
    turn = seen[descriptor.full_name]
    seen[descriptor.full_name] += 1
    if turn >= FILLED:
        return
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof and oneof.fields[turn % len(oneof.fields)] is not field:
            continue
        # prost writes the members of a oneof together: see the test of that name.
        if field.full_name == "onnx.TypeProto.denotation":
            if message.WhichOneof("value") not in ("tensor_type", "sequence_type", "map_type"):
                continue
        if field.message_type and field.is_repeated:
            for _ in range(2):
                fill(getattr(message, field.name).add())
        elif field.message_type:
            part = getattr(message, field.name)
            part.SetInParent()
            fill(part)
        else:
            set_value(message, field)


def set_value(message, field):
    if field.enum_type:
        setattr(message, field.name, field.enum_type.values[-1].number)
    elif field.is_repeated:
        getattr(message, field.name).extend(next(VALUES[field.type]) for _ in range(3))
    else:
        setattr(message, field.name, next(VALUES[field.type]))


for kind in (onnx_ml_pb2.ModelProto, onnx_data_pb2.OptionalProto):
    seen.clear()
    message = kind()
    fill(message)
    data = message.SerializeToString(deterministic=True)
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
