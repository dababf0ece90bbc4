//! Quantizing compiler for ONNX models.
