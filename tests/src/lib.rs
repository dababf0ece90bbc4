//! Whole runs: an ONNX file in, another runtime out.
