//! ONNX messages for prost, and a walker that keeps what the schema does not know.
