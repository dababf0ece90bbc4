//! `qcc::Unfold(x)`: the windows of an image as columns, for the derivative of a kernel of `Conv`.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor, checked_len};
use rayon::prelude::*;

use crate::cells::check_room;
use crate::col2im::Col2Im;
use crate::dims::{len_of, times};
use crate::emit::{Emit, args};
use crate::numeric::{Number, build, with_number, wrong_type};
use crate::operands::one;
use crate::quant::DOMAIN;
use crate::shape::Shape;
use crate::windows::{Sliding, Windows, ints, numbers};
use crate::{AttrError, AttrReader};

const NAME: &str = "Unfold";

/// The windows of images as columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfold {
    /// Size of a window.
    pub kernel: Vec<usize>,
    /// How the windows move.
    pub sliding: Sliding,
}

impl Unfold {
    pub(super) fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let kernel = numbers(reader, "kernel_shape", 1)?;
        let kernel = kernel.ok_or_else(|| reader.missing("kernel_shape"))?;
        Ok(Arc::new(Self { kernel, sliding: Sliding::parse_auto(reader)? }))
    }
}

impl Op for Unfold {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = self.sliding.attrs();
        attrs.push(("kernel_shape".into(), ints(&self.kernel).into()));
        attrs
    }

    /// `x: T[N, C, D..]` gives `T[N, C * K, L]`: `K` elements of the kernel, `L` places.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let x = one(NAME, inputs)?;
        let dims = match x.ty.shape() {
            None => vec![Dim::Unknown; 3],
            Some([batch, channels, image @ ..]) => {
                let kernel: Vec<Option<usize>> = self.kernel.iter().copied().map(Some).collect();
                let places = self.sliding.places(NAME, image, &kernel)?;
                let places: Option<Vec<usize>> = places.iter().map(Dim::known).collect();
                let places = places.and_then(|it| checked_len(&it));
                let rows = times(channels, len_of(NAME, &self.kernel)?);
                vec![batch.clone(), rows, places.map_or(Dim::Unknown, Dim::Known)]
            }
            Some(it) => {
                let (op, want) = (NAME.into(), "3 or more".into());
                return Err(TypeError::Rank { op, index: 0, want, got: it.len() });
            }
        };
        Ok(vec![x.ty.with_shape(Some(dims))])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = one(NAME, inputs)?;
        let &[batch, channels, ref image @ ..] = x.dims() else {
            return Err(TypeError::other(NAME, "the operand is no image").into());
        };
        let windows = self.sliding.windows(NAME, image, &self.kernel)?;
        let (plane, taps) = (len_of(NAME, image)?, len_of(NAME, &self.kernel)?);
        let places = len_of(NAME, &windows.dims().collect::<Vec<_>>())?;
        let rows = channels.checked_mul(taps);
        let rows = rows.ok_or_else(|| TypeError::other(NAME, "is too large"))?;
        let dims = [batch, rows, places];
        check_room(x.dtype(), &dims)?;
        Ok(vec![with_number!(x.dtype(), T => {
            let x = x.as_slice::<T>()?;
            build(cx, &dims, |out: &mut [T]| unfold(&windows, [plane, taps, places], &x, out))?
        }, other => return Err(wrong_type(NAME, other)))])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [x]) = args(self, io, dy)?;
        let image = Shape { start: 2, end: None };
        let image = match image.value_of(b.ty(x)) {
            Some(it) => b.constant(it),
            None => b.apply(image, &[x]),
        };
        let kernel = b.ints(&ints(&self.kernel));
        let fold = Col2Im { sliding: self.sliding.clone() };
        Ok(vec![Some(b.apply(fold, &[g, image, kernel]))])
    }
}

/// Writes a row of places for each tap of each channel, which has `plane` elements.
fn unfold<T: Number>(windows: &Windows, [plane, taps, places]: [usize; 3], x: &[T], out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(places).enumerate().for_each(|(row, line)| {
        let channel = &x[row / taps * plane..][..plane];
        windows.unfold(channel, row % taps, 0..places, line);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_vjp, values};
    use crate::windows::Padding;

    fn sliding() -> Sliding {
        Sliding {
            strides: vec![1, 2],
            dilations: vec![2, 1],
            padding: Padding::Given(vec![1, 0, 0, 1]),
        }
    }

    #[test]
    fn gradients_match_central_differences() {
        let unfold = Unfold { kernel: vec![2, 3], sliding: sliding() };
        check_vjp(&unfold, &[values(&[2, 2, 4, 6])], 1);
    }

    #[test]
    fn folding_is_the_transpose_of_unfolding() {
        let numbers = |dims: &[usize], by: usize| {
            let list = (0..dims.iter().product()).map(|it| (it * by % 17) as f64 - 8.0).collect();
            Tensor::from_vec::<f64>(dims.to_vec(), list).unwrap()
        };
        let dot = |a: &Tensor, b: &Tensor| -> f64 {
            let (a, b) = (a.as_slice::<f64>().unwrap(), b.as_slice::<f64>().unwrap());
            a.iter().zip(&*b).map(|(a, b)| a * b).sum()
        };
        let (x, columns) = (numbers(&[2, 2, 4, 6], 5), numbers(&[2, 12, 9], 7));
        let (image, kernel) = (Tensor::vector(vec![4i64, 6]), Tensor::vector(vec![2i64, 3]));
        let cx = EvalCx::default();
        let unfold = Unfold { kernel: vec![2, 3], sliding: sliding() };
        let unfolded = unfold.eval(&cx, &[Some(&x)], 1).unwrap().remove(0);
        let fold = Col2Im { sliding: sliding() };
        let folded = fold.eval(&cx, &[Some(&columns), Some(&image), Some(&kernel)], 1).unwrap();
        assert_eq!(folded[0].dims(), x.dims());
        // Sums of integers are exact.
        assert_eq!(dot(&folded[0], &x), dot(&columns, &unfolded));
    }
}
