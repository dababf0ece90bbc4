//! Samples that run as one, joined along their first axis.
//!
//! Larger products are faster. Whether a block treats joined samples as it does each of them is
//! tried on the first ones: the first of them must come out as it does by itself, byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use qcc_exec::ExecError;
use qcc_tensor::{DType, Tensor, TensorError};

use super::part::{Feed, Part};

/// What a result of joined samples is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of the samples, one after the other along the first axis.
    Rows,
    /// The same for all: a table of positions, say.
    Same,
}

/// One run for several samples, or for one.
pub(super) struct Run {
    pub(super) feed: Feed,
    /// How many samples.
    pub(super) count: usize,
}

/// Makes one run of the feeds of several samples if they can be joined, else one of each. `same`
/// are the values that are not joined.
pub(super) fn runs(feeds: Vec<Feed>, same: &BTreeSet<String>) -> Vec<Run> {
    match join(&feeds, same) {
        Some(feed) => vec![Run { feed, count: feeds.len() }],
        None => feeds.into_iter().map(|feed| Run { feed, count: 1 }).collect(),
    }
}

/// Whether all of `feeds` run as one: what each result is then. `None` if they do not.
pub(super) fn kinds(
    part: &mut Part<'_>,
    feeds: &[Feed],
    same: &BTreeSet<String>,
) -> Option<Vec<Kind>> {
    let [first, _, ..] = feeds else { return None };
    let joined = part.run(&join(feeds, same)?, &mut |_, _| ()).ok()?;
    let alone = part.run(first, &mut |_, _| ()).ok()?;
    joined.iter().zip(&alone).map(|(joined, alone)| kind(joined, alone, feeds.len())).collect()
}

fn kind(joined: &Tensor, alone: &Tensor, count: usize) -> Option<Kind> {
    if joined.dims() == alone.dims() {
        return (joined.bytes() == alone.bytes()).then_some(Kind::Same);
    }
    let rows = split(joined, count).ok()?;
    let first = rows.first()?;
    let is_same = first.dims() == alone.dims() && first.bytes() == alone.bytes();
    is_same.then_some(Kind::Rows)
}

/// Whether each of the first `count` results is that of the samples, one after the other.
pub(super) fn are_rows(kinds: &[Kind], count: usize) -> bool {
    kinds.iter().take(count).all(|it| *it == Kind::Rows)
}

/// The results of each sample.
pub(super) fn results(
    found: Vec<Tensor>,
    kinds: &[Kind],
    count: usize,
) -> Result<Vec<Vec<Tensor>>, ExecError> {
    if count == 1 {
        return Ok(vec![found]);
    }
    let mut each: Vec<Vec<Tensor>> = vec![Vec::with_capacity(found.len()); count];
    for (tensor, kind) in found.into_iter().zip(kinds) {
        if *kind == Kind::Same {
            each.iter_mut().for_each(|it| it.push(tensor.clone()));
        } else {
            let rows = split(&tensor, count).map_err(|it| ExecError::NotPlanned(it.to_string()))?;
            each.iter_mut().zip(rows).for_each(|(it, row)| it.push(row));
        }
    }
    Ok(each)
}

/// Equal parts along the first axis; they share the bytes.
fn split(tensor: &Tensor, count: usize) -> Result<Vec<Tensor>, TensorError> {
    let mut dims: Vec<usize> = tensor.dims().into();
    let bytes = tensor.bytes();
    let size = bytes.len() / count.max(1);
    if let Some(first) = dims.first_mut() {
        *first /= count.max(1);
    }
    (0..count)
        .map(|it| {
            Tensor::new(tensor.dtype(), dims.clone(), bytes.slice(it * size..(it + 1) * size))
        })
        .collect()
}

fn join(feeds: &[Feed], same: &BTreeSet<String>) -> Option<Feed> {
    let [first, others @ ..] = feeds else { return None };
    if others.is_empty() || others.iter().any(|it| it.len() != first.len()) {
        return None;
    }
    let mut joined = BTreeMap::new();
    for (name, tensor) in first {
        let others = others.iter().map(|it| it.get(name)).collect::<Option<Vec<_>>>()?;
        let is_like = |it: &&Tensor| it.dims() == tensor.dims() && it.dtype() == tensor.dtype();
        if !others.iter().all(is_like) {
            return None;
        }
        let is_same = || others.iter().all(|it| is_equal(it, tensor));
        let value = if same.contains(name) || tensor.rank() == 0 {
            is_same().then(|| tensor.clone())?
        } else {
            concat(tensor, &others)?
        };
        joined.insert(name.clone(), value);
    }
    Some(joined)
}

fn is_equal(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.bytes(), b.bytes());
    (a.as_ptr() == b.as_ptr() && a.len() == b.len()) || a == b
}

fn concat(first: &Tensor, others: &[&Tensor]) -> Option<Tensor> {
    let mut dims: Vec<usize> = first.dims().into();
    *dims.first_mut()? *= others.len() + 1;
    let all = std::iter::once(first).chain(others.iter().copied());
    let tensor = if first.dtype() == DType::F32 {
        let mut values: Vec<f32> = Vec::with_capacity(dims.iter().product());
        for it in all {
            values.extend_from_slice(&it.as_slice::<f32>().ok()?);
        }
        Tensor::from_vec(dims, values)
    } else {
        let bytes: Vec<u8> = all.flat_map(|it| it.bytes().iter().copied()).collect();
        Tensor::new(first.dtype(), dims, bytes.into())
    };
    tensor.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(values: &[f32]) -> Feed {
        let x = Tensor::from_vec(vec![1, values.len()], values.to_vec()).unwrap();
        let table = Tensor::from_vec(vec![2], vec![7i64, 8]).unwrap();
        BTreeMap::from([("x".to_owned(), x), ("table".to_owned(), table)])
    }

    #[test]
    fn samples_of_one_shape_are_one_run() {
        let same = BTreeSet::from(["table".to_owned()]);
        let feeds = vec![feed(&[1.0, 2.0]), feed(&[3.0, 4.0])];
        let joined = runs(feeds.clone(), &same);
        assert_eq!((joined.len(), joined[0].count), (1, 2));
        assert_eq!(joined[0].feed["x"].dims(), [2, 2]);
        assert_eq!(joined[0].feed["table"].dims(), [2]);
        let back = results(vec![joined[0].feed["x"].clone()], &[Kind::Rows], 2).unwrap();
        assert_eq!(back[1][0], feeds[1]["x"]);
    }

    #[test]
    fn other_shapes_and_other_tables_stay_apart() {
        let same = BTreeSet::from(["table".to_owned()]);
        assert_eq!(runs(vec![feed(&[1.0]), feed(&[3.0, 4.0])], &same).len(), 2);
        let mut other = feed(&[5.0]);
        other.insert("table".to_owned(), Tensor::from_vec(vec![2], vec![7i64, 9]).unwrap());
        assert_eq!(runs(vec![feed(&[1.0]), other], &same).len(), 2);
    }

    #[test]
    fn a_result_that_differs_is_not_that_of_rows() {
        let row = |values: &[f32]| Tensor::from_vec(vec![1, 2], values.to_vec()).unwrap();
        let both = Tensor::from_vec(vec![2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(kind(&both, &row(&[1.0, 2.0]), 2), Some(Kind::Rows));
        assert_eq!(kind(&both, &row(&[1.0, 2.5]), 2), None);
        assert_eq!(kind(&both, &both, 2), Some(Kind::Same));
    }
}
