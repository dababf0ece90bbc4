//! `Einsum` (ONNX opset 12): sums of products, by labels of dimensions.
//!
//! `ij,jk->ik` is the matrix product. Two operands of floats become a batched product where every
//! label is of a batch, of one side or of the sum; all else is summed element by element.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor, checked_len};

use crate::broadcast;
use crate::matmul::matmul;
use crate::numeric::{Number, build, narrow, with_number, wrong_type};
use crate::operands::need;
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Einsum", parse: Einsum::parse }];

/// A letter, or a dimension of the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Rest(usize),
    Letter(char),
}

/// A term of the equation: letters, and where the ellipsis stands.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Term {
    letters: Vec<char>,
    ellipsis: Option<usize>,
}

impl Term {
    fn parse(text: &str) -> Option<Self> {
        let mut term = Self::default();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("...") {
                if term.ellipsis.replace(term.letters.len()).is_some() {
                    return None;
                }
                rest = after;
            } else if first.is_ascii_alphabetic() {
                term.letters.push(first);
                rest = &rest[1..];
            } else {
                return None;
            }
        }
        Some(term)
    }

    /// Labels when the ellipsis is this many dimensions.
    fn labels(&self, rest: usize) -> Vec<Label> {
        let mut labels: Vec<Label> = self.letters.iter().map(|&it| Label::Letter(it)).collect();
        if let Some(at) = self.ellipsis {
            labels.splice(at..at, (0..rest).rev().map(Label::Rest));
        }
        labels
    }

    /// Dimensions of the ellipsis of an operand of this rank.
    fn rest(&self, rank: usize) -> Option<usize> {
        let rest = rank.checked_sub(self.letters.len())?;
        (rest == 0 || self.ellipsis.is_some()).then_some(rest)
    }
}

/// A sum of products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Einsum {
    equation: String,
    terms: Vec<Term>,
    output: Term,
}

impl Einsum {
    /// The equation, as it came.
    pub fn equation(&self) -> &str {
        &self.equation
    }

    /// Whether it is `MatMul(x, W)` of a matrix W: `true` for W as `[K, N]`, as in
    /// `...k,kn->...n`, `false` for W as `[N, K]`, as in `...k,nk->...n`. `None` for all else, a W
    /// on the left included.
    pub fn matmul_form(&self) -> Option<bool> {
        let [x, w] = self.terms.as_slice() else { return None };
        let (&k, rows) = x.letters.split_last()?;
        let (&n, rows_of_result) = self.output.letters.split_last()?;
        let is_product = rows == rows_of_result && x.ellipsis == self.output.ellipsis;
        // The ellipsis stands before K, whose letter labels nothing else.
        let is_last = x.ellipsis.is_none_or(|it| it <= rows.len());
        let letters = || rows.iter().chain([&k, &n]);
        let is_apart = letters().all(|a| letters().filter(|b| a == *b).count() == 1);
        if w.ellipsis.is_some() || !(is_product && is_last && is_apart) {
            return None;
        }
        match w.letters.as_slice() {
            it if it == [k, n] => Some(true),
            it if it == [n, k] => Some(false),
            _ => None,
        }
    }

    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let equation = reader.opt_str("equation")?.ok_or_else(|| reader.missing("equation"))?;
        let text: String = equation.chars().filter(|it| *it != ' ').collect();
        let bad = || reader.error("equation", "is no sum of products");
        let (terms, output) = match text.split_once("->") {
            Some((terms, output)) => (terms, Some(output)),
            None => (&*text, None),
        };
        let terms: Option<Vec<Term>> = terms.split(',').map(Term::parse).collect();
        let terms = terms.ok_or_else(bad)?;
        let letters = || terms.iter().flat_map(|it| it.letters.iter().copied());
        let output = match output {
            Some(it) => Term::parse(it).ok_or_else(bad)?,
            None => {
                let mut once: Vec<char> = letters()
                    .filter(|it| letters().filter(|other| other == it).count() == 1)
                    .collect();
                once.sort_unstable();
                let ellipsis = terms.iter().any(|it| it.ellipsis.is_some()).then_some(0);
                Term { letters: once, ellipsis }
            }
        };
        let mut seen = output.letters.clone();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != output.letters.len() || !seen.iter().all(|it| letters().any(|x| x == *it))
        {
            return Err(bad());
        }
        Ok(Arc::new(Self { equation: equation.to_owned(), terms, output }))
    }

    fn check<T>(&self, inputs: &[Option<T>]) -> Result<(), TypeError> {
        if inputs.len() == self.terms.len() {
            return Ok(());
        }
        let want = self.terms.len().to_string();
        Err(TypeError::Arity { op: "Einsum".into(), want, got: inputs.len() })
    }

    /// Labels of operands of these ranks and of the result.
    fn labels(&self, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>), TypeError> {
        let mut most = 0;
        let mut all = Vec::new();
        for (term, &rank) in self.terms.iter().zip(ranks) {
            let what = || format!("'{}' does not label {rank} dimensions", self.equation);
            let rest = term.rest(rank).ok_or_else(|| TypeError::other("Einsum", what()))?;
            most = most.max(rest);
            all.push(term.labels(rest));
        }
        Ok((all, self.output.labels(most)))
    }
}

impl Op for Einsum {
    fn name(&self) -> &str {
        "Einsum"
    }

    fn attrs(&self) -> Attrs {
        vec![("equation".into(), Attr::from(&*self.equation))]
    }

    /// `x_i: T[..]` gives `T[..]` with the dimensions of the labels of the output.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        self.check(inputs)?;
        let types = (0..inputs.len()).map(|it| need("Einsum", inputs, it).map(|it| it.ty));
        let types = types.collect::<Result<Vec<_>, _>>()?;
        let dtype = types.iter().find_map(|it| it.dtype());
        let shapes: Option<Vec<&[Dim]>> = types.iter().map(|it| it.shape()).collect();
        let Some(shapes) = shapes else { return Ok(vec![Type::partial(dtype, None)]) };
        let ranks: Vec<usize> = shapes.iter().map(|it| it.len()).collect();
        let (labels, output) = self.labels(&ranks)?;
        let mut dims = BTreeMap::<Label, Dim>::new();
        for (&label, dim) in labels.iter().flatten().zip(shapes.iter().copied().flatten()) {
            let dim = match dims.get(&label) {
                Some(old) => {
                    let (old, dim) = (std::slice::from_ref(old), std::slice::from_ref(dim));
                    broadcast::shape("Einsum", old, dim)?.remove(0)
                }
                None => dim.clone(),
            };
            dims.insert(label, dim);
        }
        let shape = output.iter().map(|it| dims.get(it).cloned().unwrap_or(Dim::Known(1)));
        Ok(vec![Type::partial(dtype, Some(shape.collect()))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        self.check(inputs)?;
        let tensors = (0..inputs.len()).map(|it| need("Einsum", inputs, it));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let ranks: Vec<usize> = tensors.iter().map(|it| it.rank()).collect();
        let (labels, output) = self.labels(&ranks)?;
        let mut sizes = BTreeMap::<Label, usize>::new();
        for (labels, x) in labels.iter().zip(&tensors) {
            for (&label, &dim) in labels.iter().zip(x.dims()) {
                let old = sizes.entry(label).or_insert(dim);
                let merged = broadcast::sizes("Einsum", &[&[*old], &[dim]])?;
                *old = merged[0];
            }
        }
        let dtype = tensors[0].dtype();
        if let Some(other) = tensors.iter().find(|it| it.dtype() != dtype) {
            return Err(wrong_type("Einsum", other.dtype()));
        }
        let dims: Vec<usize> =
            output.iter().map(|it| sizes.get(it).copied().unwrap_or(1)).collect();
        let sum = Sum { sizes: &sizes, labels: &labels, output: &output };
        if let [a, b] = *tensors
            && matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
            && let Some(out) = sum.as_product(cx, a, b)?
        {
            return Ok(vec![narrow("Einsum", cx, dtype, &dims, out)?]);
        }
        Ok(vec![with_number!(dtype, T => {
            let data = tensors.iter().map(|it| it.as_slice::<T>());
            let data = data.collect::<Result<Vec<_>, _>>()?;
            let data: Vec<&[T]> = data.iter().map(|it| &**it).collect();
            build(cx, &dims, |out: &mut [T]| sum.plain(&data, &tensors, out))?
        }, other => return Err(wrong_type("Einsum", other)))])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::einsum(self, b, io, dy)
    }
}

struct Sum<'a> {
    sizes: &'a BTreeMap<Label, usize>,
    labels: &'a [Vec<Label>],
    output: &'a [Label],
}

impl Sum<'_> {
    fn size(&self, label: Label) -> usize {
        self.sizes.get(&label).copied().unwrap_or(1)
    }

    /// How far apart neighbors of each label lie in an operand; labels that stand twice add up.
    fn strides(&self, op: usize, dims: &[usize]) -> BTreeMap<Label, usize> {
        let mut strides = BTreeMap::new();
        let mut stride = 1usize;
        for (&label, &dim) in self.labels[op].iter().zip(dims).rev() {
            let entry = strides.entry(label).or_insert(0);
            *entry += if dim == 1 { 0 } else { stride };
            stride = stride.saturating_mul(dim);
        }
        strides
    }

    /// The elements of an operand in another order of labels.
    fn ordered<T: Copy>(
        &self,
        x: &[T],
        strides: &BTreeMap<Label, usize>,
        order: &[Label],
    ) -> Vec<T> {
        let dims: Vec<usize> = order.iter().map(|&it| self.size(it)).collect();
        let steps: Vec<usize> =
            order.iter().map(|it| strides.get(it).copied().unwrap_or(0)).collect();
        let mut index = vec![0; dims.len()];
        (0..dims.iter().product())
            .map(|_| {
                let at: usize = index.iter().zip(&steps).map(|(i, step)| i * step).sum();
                next(&mut index, &dims);
                x[at]
            })
            .collect()
    }

    /// As a batched matrix product; `None` when it is none.
    fn as_product(
        &self,
        cx: &EvalCx,
        a: &Tensor,
        b: &Tensor,
    ) -> Result<Option<Vec<f32>>, EvalError> {
        let [left, right] = self.labels else { return Ok(None) };
        let whole = |labels: &[Label], dims: &[usize]| {
            labels.iter().zip(dims).all(|(it, &dim)| self.size(*it) == dim)
                && labels.iter().all(|it| labels.iter().filter(|other| *other == it).count() == 1)
        };
        if !whole(left, a.dims()) || !whole(right, b.dims()) {
            return Ok(None);
        }
        let (mut batch, mut rows, mut cols, mut inner) = (vec![], vec![], vec![], vec![]);
        for &label in self.sizes.keys() {
            match (left.contains(&label), right.contains(&label), self.output.contains(&label)) {
                (true, true, true) => batch.push(label),
                (true, false, true) => rows.push(label),
                (false, true, true) => cols.push(label),
                (true, true, false) => inner.push(label),
                _ => return Ok(None),
            }
        }
        let count = |labels: &[Label]| {
            let dims: Vec<usize> = labels.iter().map(|&it| self.size(it)).collect();
            checked_len(&dims).ok_or_else(|| TypeError::other("Einsum", "the result is too large"))
        };
        let [g, m, n, k] = [count(&batch)?, count(&rows)?, count(&cols)?, count(&inner)?];
        let order = |lists: [&[Label]; 3]| lists.concat();
        let (a_strides, b_strides) = (self.strides(0, a.dims()), self.strides(1, b.dims()));
        let a = self.ordered(&a.to_f32()?, &a_strides, &order([&batch, &rows, &inner]));
        let b = self.ordered(&b.to_f32()?, &b_strides, &order([&batch, &inner, &cols]));
        let (a, b) = (Tensor::from_vec(vec![g, m, k], a)?, Tensor::from_vec(vec![g, k, n], b)?);
        let product = matmul("Einsum", cx, &a, &b)?;
        let made = order([&batch, &rows, &cols]);
        let mut strides = BTreeMap::new();
        let mut stride = 1;
        for &label in made.iter().rev() {
            strides.insert(label, stride);
            stride *= self.size(label);
        }
        Ok(Some(self.ordered(&product.to_f32()?, &strides, self.output)))
    }

    fn plain<T: Number>(&self, data: &[&[T]], tensors: &[&Tensor], out: &mut [T]) {
        let summed = self.sizes.keys().filter(|it| !self.output.contains(it));
        let order: Vec<Label> = self.output.iter().chain(summed).copied().collect();
        let dims: Vec<usize> = order.iter().map(|&it| self.size(it)).collect();
        let terms: usize = dims[self.output.len()..].iter().product();
        let steps: Vec<Vec<usize>> = tensors
            .iter()
            .enumerate()
            .map(|(op, x)| {
                let strides = self.strides(op, x.dims());
                order.iter().map(|it| strides.get(it).copied().unwrap_or(0)).collect()
            })
            .collect();
        let mut index = vec![0; dims.len()];
        let exact = T::DTYPE.is_int();
        for out in out {
            let (mut sum, mut wide) = (T::default(), 0f64);
            for _ in 0..terms {
                let mut product = T::of_f64(1.0);
                let mut wide_product = 1f64;
                for (x, steps) in data.iter().zip(&steps) {
                    let at: usize = index.iter().zip(steps).map(|(i, step)| i * step).sum();
                    if exact {
                        product = product.mul(x[at]);
                    } else {
                        wide_product *= x[at].to_f64();
                    }
                }
                (sum, wide) = (sum.add(product), wide + wide_product);
                next(&mut index, &dims);
            }
            *out = if exact { sum } else { T::of_f64(wide) };
        }
    }
}

/// The next index, the last dimension fastest.
fn next(index: &mut [usize], dims: &[usize]) {
    for (i, &dim) in index.iter_mut().zip(dims).rev() {
        *i += 1;
        if *i < dim {
            return;
        }
        *i = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn einsum(equation: &str) -> OpRef {
        parse("", "Einsum", 12, vec![("equation".to_owned(), equation.into())]).unwrap()
    }

    fn tensor(dims: &[usize]) -> Tensor {
        let values = (0..dims.iter().product()).map(|it: usize| (it * 7 % 11) as f32 - 5.0);
        Tensor::from_vec(dims.to_vec(), values.collect()).unwrap()
    }

    #[test]
    fn products_with_a_matrix_are_known() {
        let form = |it: &str| einsum(it).is::<Einsum>().unwrap().matmul_form();
        for equation in
            ["bsh,hd->bsd", "abc,cd->abd", "...h,hd->...d", "b...k, kn -> b...n", "ij,jk"]
        {
            assert_eq!(form(equation), Some(true), "{equation}");
        }
        for equation in ["bsh,dh->bsd", "...h,dh->...d", "k,nk->n"] {
            assert_eq!(form(equation), Some(false), "{equation}");
        }
        for equation in [
            "hd,bsh->bsd",      // the matrix on the left
            "bhs,hd->bsd",      // the sum is not over the last axis
            "bsh,hd->sbd",      // the result is turned
            "bsh,hd->bsdh",     // no sum
            "bsh,hd->bd",       // a sum over rows
            "bsh,hd->bsh",      // a sum over outputs
            "bsh,bd->bsd",      // a batch
            "bsh,hnd->bsnd",    // not one matrix
            "hh,hd->hd",        // a diagonal
            "h...,hd->...d",    // the sum is over the first axis
            "...h,...hd->...d", // a batch of matrices
            "bsh,hd,d->bsd",    // more than two operands
            "bsh->bsh",         // less than two
        ] {
            assert_eq!(form(equation), None, "{equation}");
        }
    }

    #[test]
    fn products_equal_plain_sums() {
        for (equation, a, b, out) in [
            ("bhid,bhjd->bhij", &[2, 3, 4, 5][..], &[2, 3, 6, 5][..], &[2usize, 3, 4, 6][..]),
            ("bij,bjk->kbi", &[2, 3, 4], &[2, 4, 5], &[5, 2, 3]),
            ("...ij,...jk", &[2, 3, 4], &[4, 5], &[2, 3, 5]),
            ("i,j", &[3], &[4], &[3, 4]),
            ("ii,i->i", &[3, 3], &[3], &[3]),
            ("ab,cd->ac", &[2, 3], &[4, 5], &[2, 4]),
        ] {
            let (op, a, b) = (einsum(equation), tensor(a), tensor(b));
            let run = |a: &Tensor, b: &Tensor| {
                op.eval(&EvalCx::default(), &[Some(a), Some(b)], 1).unwrap().remove(0)
            };
            let wide = |it: &Tensor| {
                let values = it.to_f32().unwrap().iter().map(|&it| f64::from(it)).collect();
                Tensor::from_vec::<f64>(it.dims().to_vec(), values).unwrap()
            };
            let (got, want) = (run(&a, &b), run(&wide(&a), &wide(&b)));
            assert_eq!(got.dims(), out, "{equation}");
            assert_eq!(got.to_f32().unwrap(), want.to_f32().unwrap(), "{equation}");
        }
    }

    #[test]
    fn equations_that_are_none() {
        for equation in ["i->j", "ij->ii", "i...j...", "i-j", "1"] {
            let attrs = vec![("equation".to_owned(), equation.into())];
            assert!(parse("", "Einsum", 12, attrs).is_err(), "{equation}");
        }
        let run = |it: &str, x: &Tensor| einsum(it).eval(&EvalCx::default(), &[Some(x)], 1);
        assert!(run("ij->i", &tensor(&[3])).is_err());
        assert!(run("ii->i", &tensor(&[2, 3])).is_err());
        // The corners of [[-5, 2, -2], [5, 1, -3], [4, 0, -4]] and its middle.
        assert_eq!(&*run("ii", &tensor(&[3, 3])).unwrap()[0].to_f32().unwrap(), [-8.0]);
    }
}
