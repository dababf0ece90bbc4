//! Passes that keep the meaning of a graph.
