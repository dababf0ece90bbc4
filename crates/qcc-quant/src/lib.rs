//! Grids, scale search, rounding, weight layouts and error measures over slices.
