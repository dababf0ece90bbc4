//! Grids, scale search, rounding, weight layouts and error measures over slices.

pub mod layout;
pub mod spec;
