//! ONNX files to the IR and back, byte for byte where nothing changed.
