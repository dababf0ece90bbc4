//! Plans and runs a graph on the CPU.
