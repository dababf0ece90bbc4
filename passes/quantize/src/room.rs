//! Memory, as it is told before anything runs.

use qcc_exec::Bound;

/// The program itself, its tables, and scratch memory of products, in bytes.
pub(crate) const PROGRAM: u64 = 16 << 20;

/// Bytes of a value that a run is given; 0 where its size is open.
pub(crate) fn bytes(bound: &Bound) -> u64 {
    match bound {
        Bound::Shape(dtype, dims) => dtype.size_of(dims.iter().product()).unwrap_or(0) as u64,
        Bound::Open(..) => 0,
        Bound::Value(tensor) => tensor.bytes().len() as u64,
    }
}
