//! `Col2Im` (ONNX opset 18): columns of windows, added where the windows were.
//!
//! The opposite of writing the windows of an image as columns, which `qcc::Unfold` does; elements
//! that several windows have are the sums over them, in the order of taps. The way back of `Conv`.
//! Source: onnx/defs/nn/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{Dim, Tensor};
use rayon::prelude::*;

use crate::cells::check_room;
use crate::dims::{divided, len_of};
use crate::emit::{Emit, args, no_vjp};
use crate::grad::Unfold;
use crate::ints::{const_ints, ints, sizes, unknown_dims, vector_len};
use crate::numeric::{Number, build, with_number, wrong_type};
use crate::operands::{count, need};
use crate::quant::DOMAIN;
use crate::windows::{Padding, Sliding, Windows};
use crate::{AttrError, AttrReader, OpDef};

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Col2Im", parse: Col2Im::parse }];

/// Columns of windows as images. Padding that follows from the size of the image, which ONNX's
/// operator has not, makes it `qcc::Fold`: the way back of a `Conv` over an open size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Col2Im {
    /// How the windows moved.
    pub sliding: Sliding,
}

impl Col2Im {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { sliding: Sliding::parse(reader)? }))
    }

    /// `qcc::Fold`.
    pub(crate) fn parse_fold(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        Ok(Arc::new(Self { sliding: Sliding::parse_auto(reader)? }))
    }

    fn is_of_onnx(&self) -> bool {
        matches!(self.sliding.padding, Padding::Given(_))
    }
}

impl Op for Col2Im {
    fn name(&self) -> &str {
        if self.is_of_onnx() { "Col2Im" } else { "Fold" }
    }

    fn domain(&self) -> &str {
        if self.is_of_onnx() { "" } else { DOMAIN }
    }

    fn attrs(&self) -> Attrs {
        self.sliding.attrs()
    }

    /// `columns: T[N, C * K, L]`, `image: i64[R]`, `kernel: i64[R]` give `T[N, C, image..]`, where
    /// the kernel has `K` elements.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Col2Im", inputs, 3, 3)?;
        let [columns, image, kernel] = [0, 1, 2].map(|it| need("Col2Im", inputs, it));
        let (columns, image, kernel) = (columns?, image?, kernel?);
        let [batch, rows] = match columns.ty.shape() {
            None => [Dim::Unknown, Dim::Unknown],
            Some([batch, rows, _]) => [batch.clone(), rows.clone()],
            Some(it) => {
                let (op, want) = ("Col2Im".into(), "3".into());
                return Err(TypeError::Rank { op, index: 0, want, got: it.len() });
            }
        };
        let dims = match const_ints("Col2Im", Some(image))? {
            Some(dims) => Some(sizes("Col2Im", &dims)?.into_iter().map(Dim::Known).collect()),
            None => unknown_dims(vector_len(image).or(vector_len(kernel))),
        };
        let channels = match const_ints("Col2Im", Some(kernel))? {
            Some(kernel) => {
                divided("Col2Im", &rows, len_of("Col2Im", &sizes("Col2Im", &kernel)?)?)?
            }
            None => Dim::Unknown,
        };
        let dims = dims.map(|it| [batch, channels].into_iter().chain(it).collect());
        Ok(vec![columns.ty.with_shape(dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Col2Im", inputs, 3, 3)?;
        let columns = need("Col2Im", inputs, 0)?;
        let list = |at: usize| sizes("Col2Im", &ints("Col2Im", need("Col2Im", inputs, at)?)?);
        let (image, kernel) = (list(1)?, list(2)?);
        let windows = self.sliding.windows("Col2Im", &image, &kernel)?;
        let taps = len_of("Col2Im", &kernel)?;
        let places = len_of("Col2Im", &windows.dims().collect::<Vec<_>>())?;
        let &[batch, rows, found] = columns.dims() else {
            return Err(TypeError::other("Col2Im", "the columns have not three dimensions").into());
        };
        if found != places || taps == 0 || rows % taps != 0 {
            let what = format!("columns {:?} for {taps} taps at {places} places", columns.dims());
            return Err(TypeError::other("Col2Im", what).into());
        }
        let dims: Vec<usize> = [batch, rows / taps].into_iter().chain(image.clone()).collect();
        check_room(columns.dtype(), &dims)?;
        let plane = len_of("Col2Im", &image)?;
        Ok(vec![with_number!(columns.dtype(), T => {
            let columns = columns.as_slice::<T>()?;
            build(cx, &dims, |out: &mut [T]| fold(&windows, [plane, taps, places], &columns, out))?
        }, other => return Err(wrong_type("Col2Im", other)))])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        let (g, _, [_, _, kernel]) = args(self, io, dy)?;
        let kernel =
            b.tensor(kernel).and_then(|it| it.to_i64().ok()).map(std::borrow::Cow::into_owned);
        let Some(kernel) = kernel.and_then(|it| sizes("Col2Im", &it).ok()) else {
            return Err(no_vjp(self, "its kernel is not known"));
        };
        Ok(vec![Some(b.apply(Unfold { kernel, sliding: self.sliding.clone() }, &[g]))])
    }
}

/// Adds the columns of each channel to its image, which has `plane` elements.
fn fold<T: Number>(
    windows: &Windows,
    [plane, taps, places]: [usize; 3],
    columns: &[T],
    out: &mut [T],
) {
    out.fill(T::default());
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(plane).enumerate().for_each(|(index, image)| {
        for tap in 0..taps {
            let values = &columns[(index * taps + tap) * places..][..places];
            windows.fold(values, tap, image, T::add);
        }
    });
}
