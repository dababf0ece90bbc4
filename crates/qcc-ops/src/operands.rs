//! Taking the operands of a node by position.

use qcc_ir::TypeError;

/// Operand `index`, which must be there.
pub(crate) fn need<T: Copy>(op: &str, inputs: &[Option<T>], index: usize) -> Result<T, TypeError> {
    optional(inputs, index).ok_or_else(|| TypeError::Absent { op: op.into(), index })
}

/// Operand `index`, if it is there.
pub(crate) fn optional<T: Copy>(inputs: &[Option<T>], index: usize) -> Option<T> {
    inputs.get(index).copied().flatten()
}

/// The only operand.
pub(crate) fn one<T: Copy>(op: &str, inputs: &[Option<T>]) -> Result<T, TypeError> {
    count(op, inputs, 1, 1)?;
    need(op, inputs, 0)
}

/// Both operands.
pub(crate) fn two<T: Copy>(op: &str, inputs: &[Option<T>]) -> Result<(T, T), TypeError> {
    count(op, inputs, 2, 2)?;
    Ok((need(op, inputs, 0)?, need(op, inputs, 1)?))
}

/// Checks the number of operands, and that the first `min` are there.
pub(crate) fn count<T: Copy>(
    op: &str,
    inputs: &[Option<T>],
    min: usize,
    max: usize,
) -> Result<(), TypeError> {
    if inputs.len() > max || inputs.len() < min {
        let want = if min == max { min.to_string() } else { format!("{min} to {max}") };
        return Err(TypeError::Arity { op: op.into(), want, got: inputs.len() });
    }
    (0..min).try_for_each(|index| need(op, inputs, index).map(|_| ()))
}

/// A dimension counted from the end when negative.
///
/// # Errors
/// When a tensor of this rank has no such dimension.
pub(crate) fn axis(op: &str, axis: i64, rank: usize) -> Result<usize, TypeError> {
    let signed = rank as i64;
    let at = if axis < 0 { axis.saturating_add(signed) } else { axis };
    usize::try_from(at)
        .ok()
        .filter(|&it| it < rank)
        .ok_or_else(|| TypeError::other(op, format!("axis {axis} is outside of rank {rank}")))
}
