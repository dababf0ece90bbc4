//! Calibration and evaluation samples, perplexity.
