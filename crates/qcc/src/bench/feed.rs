//! Inputs that are made up: as many tokens as asked for, after as many that were seen before.

use half::{bf16, f16};
use qcc_diag::{Diagnostic, codes};
use qcc_exec::Bound;
use qcc_ir::{Graph, Kind, NodeId, Type, Value};
use qcc_tensor::{DType, Dim, Tensor, TensorError, checked_len};

use super::asked;
use crate::Error;
use crate::runner::Feed;

/// A tensor for each input without a default.
///
/// Ids count up, positions count on from what is past, masks are 1, floats 0.5. Of dimensions
/// without a number that of the batch is 1, what is past is `past`, a sum or total is both
/// together, and every other one is `rows`.
///
/// # Errors
/// For element types that no model of this kind has, and where there is no memory for them.
pub(super) fn inputs(graph: &Graph, rows: usize, past: usize) -> Result<Feed, Error> {
    let made = needed(graph).map(|(name, ty)| Ok((name.to_owned(), input(name, ty, rows, past)?)));
    made.collect()
}

/// Element types and dimensions of what [`inputs`] makes, where they are known.
pub(super) fn shapes(graph: &Graph, rows: usize, past: usize) -> Vec<(String, Bound)> {
    let shape = |(name, ty): (&str, &Type)| {
        let dims = dims(name, ty.shape()?, rows, past);
        Some((name.to_owned(), Bound::Shape(ty.dtype()?, dims)))
    };
    needed(graph).filter_map(shape).collect()
}

/// Rows that [`inputs`] have when so many are asked for: where no dimension follows that, the first
/// one of the first input.
pub(super) fn rows(graph: &Graph, rows: usize, past: usize) -> usize {
    let dims = |rows| -> Vec<Vec<usize>> {
        let one = |(name, ty): (&str, &Type)| Some(dims(name, ty.shape()?, rows, past));
        needed(graph).filter_map(one).collect()
    };
    let own = dims(rows);
    if own != dims(rows.saturating_add(1)) {
        return rows;
    }
    own.first().and_then(|it| it.first()).copied().unwrap_or(1)
}

/// Inputs without a default, by name.
fn needed(graph: &Graph) -> impl Iterator<Item = (&str, &Type)> {
    let has_default =
        |node: NodeId| graph.node(node).is_some_and(|it| matches!(it.kind, Kind::Input(Some(_))));
    graph.inputs().iter().filter(move |it| !has_default(**it)).map(|&node| {
        let value = Value { node, slot: 0 };
        (graph.value_name(value), graph.ty(value))
    })
}

/// Whether an input tells of tokens that were seen before: a cache, or a length that counts them.
pub(super) fn has_past(graph: &Graph) -> bool {
    let dims = |node: &NodeId| {
        let ty = graph.ty(Value { node: *node, slot: 0 });
        ty.shape().map(<[Dim]>::to_vec).unwrap_or_default()
    };
    let mut all = graph.inputs().iter().flat_map(dims);
    all.any(|it| matches!(size(&it), Some(Size::Past | Size::All)))
}

fn input(name: &str, ty: &Type, rows: usize, past: usize) -> Result<Tensor, Error> {
    let wrong = |what: String| {
        Error::from(
            Diagnostic::error(codes::QCC0404, format!("input '{name}' cannot be made up: {what}"))
                .with_help("bench runs models of token ids, masks, positions, caches and floats"),
        )
    };
    let shape = ty.shape().ok_or_else(|| wrong("its shape is not known".into()))?;
    let dims = dims(name, shape, rows, past);
    let len = checked_len(&dims).ok_or_else(|| wrong("it is too large".into()))?;
    let number = |it: usize| match name {
        _ if name.contains("mask") => 1,
        _ if name.contains("type") => 0,
        _ if name.contains("position") => (past + it) as i64,
        _ => it as i64 % 1000,
    };
    let made = match ty.dtype() {
        Some(DType::I64) => elements(len, number).and_then(|it| Tensor::from_vec(dims, it)),
        Some(DType::I32) => {
            elements(len, |it| number(it) as i32).and_then(|it| Tensor::from_vec(dims, it))
        }
        Some(DType::Bool) => elements(len, |_| true).and_then(|it| Tensor::from_bools(dims, &it)),
        Some(DType::F32) => elements(len, |_| 0.5f32).and_then(|it| Tensor::from_vec(dims, it)),
        Some(DType::F16) => {
            elements(len, |_| f16::from_f32(0.5)).and_then(|it| Tensor::from_vec(dims, it))
        }
        Some(DType::BF16) => {
            elements(len, |_| bf16::from_f32(0.5)).and_then(|it| Tensor::from_vec(dims, it))
        }
        Some(other) => return Err(wrong(format!("it is {other}"))),
        None => return Err(wrong("its element type is not known".into())),
    };
    made.map_err(|error| match error {
        TensorError::Memory(_) => asked::full(&error),
        error => wrong(error.to_string()),
    })
}

/// Elements by their place.
///
/// # Errors
/// [`TensorError::Memory`], where collecting them would end the process.
pub(super) fn elements<T>(len: usize, of: impl Fn(usize) -> T) -> Result<Vec<T>, TensorError> {
    let mut all = Vec::new();
    let full = |_| TensorError::Memory(len.saturating_mul(size_of::<T>()));
    all.try_reserve_exact(len).map_err(full)?;
    all.extend((0..len).map(of));
    Ok(all)
}

fn dims(name: &str, shape: &[Dim], rows: usize, past: usize) -> Vec<usize> {
    // A mask over what was seen before and now has a length of its own in some exports.
    let is_mask = name.contains("mask");
    let dim = |(at, dim): (usize, &Dim)| match size(dim) {
        Some(Size::Rows) if is_mask && at == 1 => rows.saturating_add(past),
        Some(it) => it.value(rows, past),
        None if at == 0 && shape.len() > 1 => 1,
        None => rows,
    };
    shape.iter().enumerate().map(dim).collect()
}

/// What a dimension counts.
#[derive(Clone, Copy)]
enum Size {
    Number(usize),
    Past,
    All,
    Rows,
}

impl Size {
    fn value(self, rows: usize, past: usize) -> usize {
        match self {
            Self::Number(it) => it,
            Self::Past => past,
            Self::All => rows.saturating_add(past),
            Self::Rows => rows,
        }
    }
}

fn size(dim: &Dim) -> Option<Size> {
    match dim {
        Dim::Known(it) => Some(Size::Number(*it)),
        Dim::Symbol(it) if it.contains('+') || it.contains("total") => Some(Size::All),
        Dim::Symbol(it) if it.contains("batch") => Some(Size::Number(1)),
        Dim::Symbol(it) if it.contains("past") => Some(Size::Past),
        Dim::Symbol(_) => Some(Size::Rows),
        Dim::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::GraphBuilder;

    use super::*;

    #[test]
    fn dimensions_follow_from_their_names() {
        let mut b = GraphBuilder::new("g");
        let dim = Dim::symbol;
        let ids = [dim("batch_size"), dim("sequence_length")];
        b.input("input_ids", Type::tensor(DType::I64, ids.clone()), None);
        b.input("position_ids", Type::tensor(DType::I64, ids), None);
        let all = [dim("batch_size"), dim("past_sequence_length + 1")];
        b.input("attention_mask", Type::tensor(DType::I64, all), None);
        let past = [dim("batch"), Dim::Known(3), dim("past_sequence_length"), Dim::Known(8)];
        b.input("past_key_values.0.key", Type::tensor(DType::F16, past), None);
        let default = Tensor::scalar(1f32);
        b.input("scale", Type::of(&default), Some(default));
        let graph = b.finish().unwrap();
        let feed = inputs(&graph, 4, 10).unwrap();
        let dims = |name: &str| feed[name].dims().to_vec();
        assert_eq!(dims("input_ids"), [1, 4]);
        assert_eq!(dims("attention_mask"), [1, 14]);
        assert_eq!(dims("past_key_values.0.key"), [1, 3, 10, 8]);
        assert_eq!(*feed["position_ids"].to_i64().unwrap(), [10, 11, 12, 13]);
        assert!(!feed.contains_key("scale"));
        assert!(has_past(&graph));
    }

    #[test]
    fn what_cannot_be_made_up_is_named() {
        for ty in [Type::Unknown, Type::tensor(DType::Str, [1usize])] {
            let mut b = GraphBuilder::new("g");
            b.input("words", ty, None);
            let error = inputs(&b.finish().unwrap(), 1, 0).unwrap_err();
            assert_eq!(error.code(), codes::QCC0404);
            assert!(error.to_string().contains("'words'"), "{error}");
        }
    }
}
