//! Passes that choose the numbers of quantized weights.
