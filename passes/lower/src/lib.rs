//! Passes that choose how quantized weights are written.
