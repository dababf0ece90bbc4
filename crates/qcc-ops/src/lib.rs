//! Operators: attributes, shape rules and evaluation.
