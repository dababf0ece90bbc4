"""ONNX Runtime as the second opinion: sessions, made-up inputs for language models, files of arrays."""

import json
import os
import zipfile

import numpy as np
import onnx
import onnxruntime as ort

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

NUMPY = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def session(model, optimize="all"):
    """A CPU session for a path or for serialized bytes. Threads do not spin: the machine is shared."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[optimize]
    options.intra_op_num_threads = int(os.environ.get("RAYON_NUM_THREADS") or 2)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(sess, feeds):
    """All outputs by name."""
    names = [o.name for o in sess.get_outputs()]
    return dict(zip(names, sess.run(names, feeds)))


def cache_shape(path):
    """(heads, head size) of the KV cache where the model's inputs leave them symbolic.

    onnxruntime-genai writes them into genai_config.json; without it they are read off
    GroupQueryAttention, whose cosine cache holds half the head size per row.
    """
    config = os.path.join(os.path.dirname(path), "genai_config.json")
    if os.path.exists(config):
        with open(config) as f:
            decoder = json.load(f)["model"]["decoder"]
        return decoder["num_key_value_heads"], decoder["head_size"]
    graph = onnx.load(path, load_external_data=False).graph
    dims = {t.name: list(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "GroupQueryAttention" and len(node.input) > 7 and node.input[7] in dims:
            heads = next(a.i for a in node.attribute if a.name == "kv_num_heads")
            return heads, 2 * dims[node.input[7]][1]
    raise ValueError(f"{path}: size of the KV cache is symbolic and not to be found")


def language_feeds(sess, path, ids):
    """Inputs of a language model for a batch of ids [rows, length] without any past."""
    rows, length = ids.shape
    feeds = {}
    for i in sess.get_inputs():
        dtype = NUMPY[i.type]
        if i.name == "input_ids":
            value = ids
        elif i.name == "attention_mask":
            value = np.ones((rows, length))
        elif i.name == "position_ids":
            value = np.broadcast_to(np.arange(length), (rows, length))
        elif i.name == "token_type_ids":
            value = np.zeros((rows, length))
        elif "past" in i.name and len(i.shape) == 4:
            heads, size = i.shape[1], i.shape[3]
            if not (isinstance(heads, int) and isinstance(size, int)):
                heads, size = cache_shape(path)
            value = np.zeros((rows, heads, 0, size))
        elif i.name == "use_cache_branch":
            value = np.zeros(1)
        else:
            raise ValueError(f"{path}: do not know what to feed input {i.name!r}")
        feeds[i.name] = np.ascontiguousarray(value, dtype)
    return feeds


def external_files(path):
    """Names of the files beside the model that its tensors point into, in order of first use."""

    def tensors(graph):
        yield from graph.initializer
        for node in graph.node:
            for a in node.attribute:
                if a.type == onnx.AttributeProto.TENSOR:
                    yield a.t
                elif a.type == onnx.AttributeProto.TENSORS:
                    yield from a.tensors
                elif a.type == onnx.AttributeProto.GRAPH:
                    yield from tensors(a.g)
                elif a.type == onnx.AttributeProto.GRAPHS:
                    for g in a.graphs:
                        yield from tensors(g)

    names = {}
    for t in tensors(onnx.load(path, load_external_data=False).graph):
        if t.data_location == onnx.TensorProto.EXTERNAL:
            names.update({e.value: None for e in t.external_data if e.key == "location"})
    return list(names)


def model_bytes(path):
    """Size of a model with the files it points to."""
    folder = os.path.dirname(path)
    return os.path.getsize(path) + sum(os.path.getsize(os.path.join(folder, n)) for n in external_files(path))


def relative(got, want):
    """|got - want| / |want| in the Euclidean norm over all floating-point outputs; NaN or infinity count as infinite."""
    num = den = 0.0
    for name, w in want.items():
        if not np.issubdtype(np.asarray(w).dtype, np.floating):
            continue
        g, w = np.asarray(got[name], np.float64), np.asarray(w, np.float64)
        if g.shape != w.shape or np.any(np.isfinite(g) != np.isfinite(w)):
            return float("inf")
        ok = np.isfinite(w)
        num += np.sum((g[ok] - w[ok]) ** 2)
        den += np.sum(w[ok] ** 2)
    return float(np.sqrt(num / den)) if den else float(num > 0)


def save_npz(path, arrays):
    """Like np.savez, for any tensor name. Types numpy lacks (bfloat16, ...) are stored as their bits."""
    with zipfile.ZipFile(path, "w") as z:
        for name, value in arrays.items():
            value = np.asarray(value)
            if value.dtype.kind == "V":
                value = value.view(f"u{value.dtype.itemsize}")
            with z.open(f"{name}.npy", "w", force_zip64=True) as f:
                np.lib.format.write_array(f, value)
