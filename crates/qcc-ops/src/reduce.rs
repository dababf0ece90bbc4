//! Reductions over axes: `Reduce{Sum,Mean,Max,Min,Prod,L1,L2,SumSquare,LogSum,LogSumExp}`.
//!
//! Source: onnx/defs/reduction/defs.cc, opset 20. The axes are an operand since opset 18 (`ReduceSum`
//! 13) and an attribute before; so they are kept. f32, f16 and bf16 compute in f32.

use std::sync::Arc;

use pulp::NullaryFnOnce;
use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};

use crate::broadcast::Walk;
use crate::numeric::{Number, narrow, with_number, wrong_type};
use crate::operands::{axis, count, need, optional};
use crate::vector::{self, dispatch, sum_of};
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {
        /// What becomes of the elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            fn text(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)* _ => None }
            }
        }

        /// The operators of this file.
        pub const OPS: &[OpDef] = &[
            $(OpDef { domain: "", name: $name, parse: Reduce::parse },)*
        ];
    };
}

kinds! {
    /// Their sum
    Sum = "ReduceSum";
    /// Their mean
    Mean = "ReduceMean";
    /// The largest
    Max = "ReduceMax";
    /// The smallest
    Min = "ReduceMin";
    /// Their product
    Prod = "ReduceProd";
    /// Sum of magnitudes
    L1 = "ReduceL1";
    /// Root of the sum of squares
    L2 = "ReduceL2";
    /// Sum of squares
    SumSquare = "ReduceSumSquare";
    /// Logarithm of the sum
    LogSum = "ReduceLogSum";
    /// Logarithm of the sum of `e^x`
    LogSumExp = "ReduceLogSumExp";
}

/// A reduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// Which one.
    pub kind: Kind,
    /// Axes as an attribute; else they are an operand, or all.
    pub axes: Option<Vec<i64>>,
    /// Axes stay, with size 1.
    pub keep: bool,
    /// No axes are none, not all.
    pub none_is_none: bool,
}

impl Reduce {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self {
            kind: Kind::of(reader.op()).unwrap_or(Kind::Sum),
            axes: reader.opt_ints("axes")?.map(<[i64]>::to_vec),
            keep: reader.flag("keepdims", true)?,
            none_is_none: reader.flag("noop_with_empty_axes", false)?,
        }))
    }

    /// Which dimensions go; `axes` is what the operand says, if there is one.
    ///
    /// # Errors
    /// When there is no such axis.
    pub(crate) fn gone(&self, rank: usize, axes: Option<&[i64]>) -> Result<Vec<bool>, TypeError> {
        let axes = self.axes.as_deref().or(axes).unwrap_or_default();
        if axes.is_empty() {
            return Ok(vec![!self.none_is_none; rank]);
        }
        let mut gone = vec![false; rank];
        for &it in axes {
            gone[axis(self.name(), it, rank)?] = true;
        }
        Ok(gone)
    }
}

impl Op for Reduce {
    fn name(&self) -> &str {
        self.kind.text()
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = Vec::new();
        if let Some(axes) = &self.axes {
            attrs.push(("axes".to_owned(), Attr::Ints(axes.clone())));
        }
        attrs.push(("keepdims".into(), Attr::Int(self.keep.into())));
        if self.none_is_none {
            attrs.push(("noop_with_empty_axes".into(), Attr::Int(1)));
        }
        attrs
    }

    /// `x: T[..], axes: i64[A]?` gives `T[..]` with the axes removed, or of size 1.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count(self.name(), inputs, 1, 2)?;
        let x = need(self.name(), inputs, 0)?.ty;
        let operand = optional(inputs, 1);
        let Some(dims) = x.shape() else { return Ok(vec![x.with_shape(None)]) };
        let value = operand.and_then(|it| it.value).and_then(|it| it.to_i64().ok());
        if self.axes.is_none() && operand.is_some() && value.is_none() {
            let shape = self.keep.then(|| vec![Dim::Unknown; dims.len()]);
            return Ok(vec![x.with_shape(shape)]);
        }
        let gone = self.gone(dims.len(), value.as_deref())?;
        Ok(vec![x.with_shape(Some(kept(dims, &gone, self.keep, &Dim::Known(1))))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count(self.name(), inputs, 1, 2)?;
        let x = need(self.name(), inputs, 0)?;
        let axes = optional(inputs, 1).map(Tensor::to_i64).transpose()?;
        let gone = self.gone(x.rank(), axes.as_deref())?;
        if gone.iter().all(|it| !it) && self.none_is_none && !x.dims().is_empty() {
            return Ok(vec![x.clone()]);
        }
        let ones = kept(x.dims(), &gone, true, &1);
        let dims = kept(x.dims(), &gone, self.keep, &1);
        let terms: usize = x.dims().iter().zip(&gone).filter(|it| *it.1).map(|it| *it.0).product();
        Ok(vec![match x.dtype() {
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                let values = x.to_f32()?;
                let mut out = cx.pool.take(ones.iter().product())?;
                let width = trailing(x.dims(), &gone);
                if self.kind.is_fast() && width == Some(terms) && terms > 0 {
                    let kind = self.kind;
                    vector::rows(&mut out, 1, |first, out| {
                        let x = &values[first * terms..][..out.len() * terms];
                        dispatch(Rows { kind, terms, x, out });
                    });
                } else {
                    self.kind.reduce(&values, x.dims(), &ones, terms, &mut out);
                }
                narrow(self.name(), cx, dtype, &dims, out)?
            }
            DType::Bool if matches!(self.kind, Kind::Max | Kind::Min) => {
                let mut out = vec![0u8; ones.iter().product()];
                self.kind.reduce(x.as_bools()?, x.dims(), &ones, terms, &mut out);
                // The empty product of `Min` is 255.
                out.iter_mut().for_each(|it| *it = u8::from(*it != 0));
                Tensor::new(DType::Bool, dims, out.into())?
            }
            dtype => with_number!(dtype, T => {
                let mut out = vec![T::default(); ones.iter().product()];
                self.kind.reduce(&x.as_slice::<T>()?, x.dims(), &ones, terms, &mut out);
                Tensor::from_vec(dims, out)?
            }, other => return Err(wrong_type(self.name(), other))),
        }])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::reduce(self, b, io, dy)
    }
}

/// Dimensions without those that are gone, or with `one` in their place.
fn kept<D: Clone>(dims: &[D], gone: &[bool], keep: bool, one: &D) -> Vec<D> {
    let dims = dims.iter().zip(gone);
    let dims = dims.filter_map(|(dim, gone)| match (gone, keep) {
        (false, _) => Some(dim.clone()),
        (true, true) => Some(one.clone()),
        (true, false) => None,
    });
    dims.collect()
}

/// Elements of the last dimensions, if these are what is gone.
fn trailing(dims: &[usize], gone: &[bool]) -> Option<usize> {
    let first = gone.iter().position(|&it| it)?;
    gone[first..].iter().all(|&it| it).then(|| dims[first..].iter().product())
}

impl Kind {
    fn is_fast(self) -> bool {
        matches!(self, Self::Sum | Self::Mean | Self::L1 | Self::L2 | Self::SumSquare)
    }

    /// `ones` is the shape of the result, with as many dimensions as `dims`; a result has `terms`
    /// elements.
    fn reduce<T: Number>(
        self,
        x: &[T],
        dims: &[usize],
        ones: &[usize],
        terms: usize,
        out: &mut [T],
    ) {
        let walk = Walk::new(dims, [dims, ones]);
        let each = |out: &mut [T], f: &dyn Fn(T, T, T) -> T, side: &[T]| {
            for index in 0..walk.len() {
                let [i, j] = walk.at(index);
                out[j] = f(out[j], x[i], side.get(j).copied().unwrap_or_default());
            }
        };
        let least = T::of_f64(f64::NEG_INFINITY);
        let largest = T::of_f64(f64::INFINITY);
        // Sums of many terms, and those of functions, go through f64.
        let wide = |f: &dyn Fn(f64, f64) -> f64, side: &[f64]| {
            let mut sums = vec![0f64; out_len(ones)];
            for index in 0..walk.len() {
                let [i, j] = walk.at(index);
                sums[j] += f(x[i].to_f64(), side.get(j).copied().unwrap_or_default());
            }
            sums
        };
        let write = |out: &mut [T], sums: &[f64], f: &dyn Fn(f64) -> f64| {
            out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = T::of_f64(f(sum)));
        };
        let exact = T::DTYPE.is_int();
        match self {
            Self::Max => {
                out.fill(least);
                each(out, &|a, b, _| a.larger(b), &[]);
            }
            Self::Min => {
                out.fill(largest);
                each(out, &|a, b, _| a.smaller(b), &[]);
            }
            Self::Prod => {
                out.fill(T::of_f64(1.0));
                each(out, &|a, b, _| a.mul(b), &[]);
            }
            Self::Sum if exact => {
                out.fill(T::default());
                each(out, &|a, b, _| a.add(b), &[]);
            }
            Self::L1 if exact => {
                out.fill(T::default());
                each(out, &|a, b, _| a.add(b.magnitude()), &[]);
            }
            Self::SumSquare if exact => {
                out.fill(T::default());
                each(out, &|a, b, _| a.add(b.mul(b)), &[]);
            }
            Self::Sum => write(out, &wide(&|x, _| x, &[]), &|it| it),
            Self::Mean => write(out, &wide(&|x, _| x, &[]), &|it| it / terms as f64),
            Self::L1 => write(out, &wide(&|x, _| x.abs(), &[]), &|it| it),
            Self::L2 => write(out, &wide(&|x, _| x * x, &[]), &f64::sqrt),
            Self::SumSquare => write(out, &wide(&|x, _| x * x, &[]), &|it| it),
            Self::LogSum => write(out, &wide(&|x, _| x, &[]), &f64::ln),
            Self::LogSumExp => {
                out.fill(least);
                each(out, &|a, b, _| a.larger(b), &[]);
                // An infinite maximum would give NaN.
                let shift = |it: &T| Some(it.to_f64()).filter(|it| it.is_finite()).unwrap_or(0.0);
                let shifts: Vec<f64> = out.iter().map(shift).collect();
                let sums = wide(&|x, shift| (x - shift).exp(), &shifts);
                for ((out, sum), shift) in out.iter_mut().zip(sums).zip(shifts) {
                    *out = T::of_f64(sum.ln() + shift);
                }
            }
        }
    }
}

fn out_len(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// Sums of rows.
struct Rows<'a> {
    kind: Kind,
    terms: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (x, out) in self.x.chunks_exact(self.terms).zip(self.out) {
            *out = match self.kind {
                Kind::Mean => sum_of(x, |x| x) / self.terms as f32,
                Kind::L1 => sum_of(x, f32::abs),
                Kind::L2 => sum_of(x, |x| x * x).sqrt(),
                Kind::SumSquare => sum_of(x, |x| x * x),
                _ => sum_of(x, |x| x),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parse;

    #[test]
    fn axes_stay_an_attribute() {
        let attrs =
            vec![("axes".to_owned(), Attr::Ints(vec![1])), ("keepdims".to_owned(), Attr::Int(0))];
        let it = parse("", "ReduceMean", 13, attrs).unwrap();
        assert_eq!(parse("", "ReduceMean", 13, it.attrs()).unwrap().is::<Reduce>(), it.is());
        let n = Dim::symbol("n");
        let ty = Type::tensor(DType::F32, [n.clone(), Dim::Known(4), n.clone()]);
        let out = it.infer(&[Some(Input { ty: &ty, value: None })], 1).unwrap();
        assert_eq!(out[0].shape(), Some(&[n.clone(), n][..]));
    }

    #[test]
    fn sum_of_nothing() {
        let x = Tensor::from_vec(vec![2, 0], Vec::<f32>::new()).unwrap();
        for (kind, want) in [(Kind::Sum, 0.0), (Kind::Prod, 1.0), (Kind::Max, f32::NEG_INFINITY)] {
            let it = Reduce { kind, axes: Some(vec![1]), keep: false, none_is_none: false };
            let out = it.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
            assert_eq!(&*out.to_f32().unwrap(), [want; 2]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn single_equals_double(
            dims in proptest::collection::vec(1usize..12, 1..4), axes in 1u8..8, which in 0usize..10,
        ) {
            let kind = Kind::of(OPS[which].name).unwrap();
            let axes = (0..dims.len() as i64).filter(|it| axes >> it & 1 == 1).collect();
            let op = Reduce { kind, axes: Some(axes), keep: false, none_is_none: false };
            let len: usize = dims.iter().product();
            let x: Vec<f32> = (0..len).map(|it| ((it * 7919) % 31) as f32 / 31.0 + 0.5).collect();
            let wide = x.iter().map(|&it| f64::from(it)).collect::<Vec<_>>();
            let run = |x: Tensor| op.eval(&EvalCx::default(), &[Some(&x)], 1).unwrap().remove(0);
            let got = run(Tensor::from_vec(dims.clone(), x).unwrap());
            let want = run(Tensor::from_vec(dims, wide).unwrap());
            prop_assert_eq!(got.dims(), want.dims());
            for (got, want) in got.to_f32().unwrap().iter().zip(&*want.as_slice::<f64>().unwrap()) {
                prop_assert!((f64::from(*got) - want).abs() <= 1e-4 * want.abs() + 1e-6);
            }
        }
    }
}
