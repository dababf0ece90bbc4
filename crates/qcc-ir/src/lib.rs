//! The graph, its types, text form, verifier and patches.
