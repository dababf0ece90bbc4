//! Element types, shapes and tensors over shared or mapped bytes.
