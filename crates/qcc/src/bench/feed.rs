//! Inputs that are made up: as many tokens as asked for, after as many that were seen before.

use half::{bf16, f16};
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Kind, NodeId, Type, Value};
use qcc_tensor::{DType, Dim, Tensor, TensorError};

use crate::Error;
use crate::runner::Feed;

/// A tensor for each input without a default.
///
/// Ids count up, positions count on from what is past, masks are 1, floats 0.5. Of dimensions
/// without a number that of the batch is 1, what is past is `past`, a sum or total is both
/// together, and every other one is `rows`.
///
/// # Errors
/// For element types that no model of this kind has.
pub(super) fn inputs(graph: &Graph, rows: usize, past: usize) -> Result<Feed, Error> {
    let mut feed = Feed::new();
    for &node in graph.inputs() {
        if graph.node(node).is_some_and(|it| matches!(it.kind, Kind::Input(Some(_)))) {
            continue;
        }
        let value = Value { node, slot: 0 };
        let (name, ty) = (graph.value_name(value), graph.ty(value));
        feed.insert(name.to_owned(), input(name, ty, rows, past)?);
    }
    Ok(feed)
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
    // A mask over what was seen before and now has a length of its own in some exports.
    let is_mask = name.contains("mask");
    let dims: Vec<usize> = shape
        .iter()
        .enumerate()
        .map(|(at, dim)| match size(dim) {
            Some(Size::Rows) if is_mask && at == 1 => rows + past,
            Some(it) => it.value(rows, past),
            None if at == 0 && shape.len() > 1 => 1,
            None => rows,
        })
        .collect();
    let len = qcc_tensor::checked_len(&dims).ok_or_else(|| wrong("it is too large".into()))?;
    let number = |it: usize| match name {
        _ if name.contains("mask") => 1,
        _ if name.contains("type") => 0,
        _ if name.contains("position") => (past + it) as i64,
        _ => it as i64 % 1000,
    };
    let numbers = (0..len).map(number);
    let made: Result<Tensor, TensorError> = match ty.dtype() {
        Some(DType::I64) => Tensor::from_vec(dims, numbers.collect::<Vec<_>>()),
        Some(DType::I32) => Tensor::from_vec(dims, numbers.map(|it| it as i32).collect::<Vec<_>>()),
        Some(DType::Bool) => Tensor::from_bools(dims, &vec![true; len]),
        Some(DType::F32) => Tensor::from_vec(dims, vec![0.5f32; len]),
        Some(DType::F16) => Tensor::from_vec(dims, vec![f16::from_f32(0.5); len]),
        Some(DType::BF16) => Tensor::from_vec(dims, vec![bf16::from_f32(0.5); len]),
        Some(other) => return Err(wrong(format!("it is {other}"))),
        None => return Err(wrong("its element type is not known".into())),
    };
    made.map_err(|error| wrong(error.to_string()))
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
            Self::All => rows + past,
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
