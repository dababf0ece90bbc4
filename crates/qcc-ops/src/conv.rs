//! `Conv` (ONNX opset 22): each place of the result is the product of a kernel and a window of `x`.
//!
//! `y[n, m, o..] = b[m] + sum over c, t of w[m, c, t..] * x[n, c', o * stride + t * dilation - begin]`,
//! where `c'` counts in the group of `m`. Any number of axes. Windows are written as columns, a tile
//! of places at a time, and a tile is one matrix product with the kernel. f16 and bf16 compute in
//! f32. Tiles follow from shapes, and the sum of an element is never split between threads.
//! Source: onnx/defs/nn/defs.cc.

use std::sync::Arc;

use qcc_ir::{
    Adjoints, Attr, Attrs, Emitter, EvalCx, EvalError, Input, Io, Op, OpRef, Type, TypeError, Value,
};
use qcc_tensor::{DType, Dim, Tensor};
use rayon::prelude::*;

use crate::cells::check_room;
use crate::dims::len_of;
use crate::numeric::{narrow, wrong_type};
use crate::operands::{count, need, optional};
use crate::product::{Mat, MatMut, product};
use crate::windows::{Sliding, Windows, ints, numbers};
use crate::{AttrError, AttrReader, OpDef};

mod vjp;

/// The operators of this file.
pub const OPS: &[OpDef] = &[OpDef { domain: "", name: "Conv", parse: Conv::parse }];

/// Fewer products of elements than this run on the calling thread.
const SMALL: usize = 1 << 17;
/// Elements of the columns that one task writes, where its tile is not the narrowest one.
const COLUMNS: usize = 1 << 18;

/// Products of kernels with windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Channels of `x` and of the result are cut into so many groups, which do not see each other.
    pub group: usize,
    /// Size of the kernel, where the attribute says it; it is that of `w`.
    pub kernel: Option<Vec<usize>>,
    /// How the windows move.
    pub sliding: Sliding,
}

impl Conv {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let group = usize::try_from(reader.int("group", 1)?).ok().filter(|it| *it > 0);
        Ok(Arc::new(Self {
            group: group.ok_or_else(|| reader.error("group", "is below 1"))?,
            kernel: numbers(reader, "kernel_shape", 1)?,
            sliding: Sliding::parse_auto(reader)?,
        }))
    }

    /// Axes of the kernel, from the attribute or from `w`.
    fn kernel(&self, w: Option<&[Dim]>, rank: usize) -> Result<Vec<Option<usize>>, TypeError> {
        let of_w = w.map(|it| it.iter().skip(2).map(Dim::known).collect::<Vec<_>>());
        let stated = self.kernel.as_ref().map(|it| it.iter().copied().map(Some).collect());
        match (of_w, stated) {
            (Some(of_w), Some(stated)) => {
                let differ = |(a, b): (&Option<usize>, &Option<usize>)| a.is_some() && a != b;
                if of_w.len() != stated.len() || of_w.iter().zip(&stated).any(differ) {
                    return Err(TypeError::other("Conv", "kernel_shape is not the shape of W"));
                }
                Ok(stated)
            }
            (Some(it), None) | (None, Some(it)) => Ok(it),
            (None, None) => Ok(vec![None; rank]),
        }
    }
}

/// Sizes of a convolution.
struct Sizes {
    batch: usize,
    group: usize,
    /// Channels of a group of `x`.
    channels: usize,
    /// Channels of a group of the result.
    rows: usize,
    /// Elements of a channel of `x`.
    plane: usize,
    /// Elements of a kernel of one channel.
    taps: usize,
    /// Places of the result.
    places: usize,
    windows: Windows,
    /// Shape of the result.
    dims: Vec<usize>,
}

impl Sizes {
    fn new(op: &Conv, x: &[usize], w: &[usize], bias: Option<&Tensor>) -> Result<Self, TypeError> {
        let fault = || {
            let known = |it: &[usize]| it.iter().copied().map(Dim::Known).collect::<Vec<_>>();
            TypeError::shapes("Conv", &known(x), &known(w))
        };
        let (&[batch, all, ref image @ ..], &[maps, channels, ref kernel @ ..]) = (x, w) else {
            return Err(fault());
        };
        let is_stated = op.kernel.as_ref().is_none_or(|it| it == kernel);
        if !is_stated || channels.checked_mul(op.group) != Some(all) || maps % op.group != 0 {
            return Err(fault());
        }
        if bias.is_some_and(|it| it.dims() != [maps]) {
            return Err(TypeError::other("Conv", format!("the bias is not one of {maps} numbers")));
        }
        let windows = op.sliding.windows("Conv", image, kernel)?;
        let dims: Vec<usize> = [batch, maps].into_iter().chain(windows.dims()).collect();
        len_of("Conv", &dims)?;
        Ok(Self {
            batch,
            group: op.group,
            channels,
            rows: maps / op.group,
            plane: len_of("Conv", image)?,
            taps: len_of("Conv", kernel)?,
            places: len_of("Conv", &dims[2..])?,
            windows,
            dims,
        })
    }

    /// Sizes of the sum of an element.
    fn depth(&self) -> usize {
        self.channels * self.taps
    }

    /// Channel `c` of a group of `x`; groups of all of the batch are counted on.
    fn channel<'a, T>(&self, x: &'a [T], index: usize, c: usize) -> &'a [T] {
        &x[(index * self.channels + c) * self.plane..][..self.plane]
    }

    /// Places of a tile: enough tiles for all threads, none with more columns than fit a cache.
    fn tile(&self) -> usize {
        let fair = self.places.div_ceil(8).next_multiple_of(64);
        let most = COLUMNS / self.depth().max(1) / 64 * 64;
        fair.min(most.max(64))
    }
}

fn single(sizes: &Sizes, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let (rows, places, depth) = (sizes.rows, sizes.places, sizes.depth());
    if out.is_empty() {
        return;
    }
    let width = sizes.tile();
    let planes = out.chunks_mut(rows * places).enumerate();
    let tiles = planes.flat_map(|(index, out)| {
        let tiles = MatMut::new(out, rows, places).split_cols(width).into_iter().enumerate();
        tiles.map(move |(tile, out)| (index, tile * width, out))
    });
    let one = |(index, first, mut out): (usize, usize, MatMut<'_>)| {
        let (group, cols) = (index % sizes.group, out.cols());
        let mut columns = vec![0.0; depth * cols];
        for (row, line) in columns.chunks_exact_mut(cols).enumerate() {
            let channel = sizes.channel(x, index, row / sizes.taps);
            sizes.windows.unfold(channel, row % sizes.taps, first..first + cols, line);
        }
        let w = Mat::new(&w[group * rows * depth..][..rows * depth], rows, depth);
        product(&mut out, w, Mat::new(&columns, depth, cols), 1.0);
        for (row, bias) in bias.iter().flat_map(|it| &it[group * rows..][..rows]).enumerate() {
            out.row(row).iter_mut().for_each(|it| *it += bias);
        }
    };
    if out_size(sizes).saturating_mul(depth) < SMALL {
        tiles.for_each(one);
    } else {
        tiles.collect::<Vec<_>>().into_par_iter().for_each(one);
    }
}

fn out_size(sizes: &Sizes) -> usize {
    sizes.batch * sizes.group * sizes.rows * sizes.places
}

fn double(sizes: &Sizes, x: &[f64], w: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let (rows, places, depth) = (sizes.rows, sizes.places, sizes.depth());
    let mut out = vec![0.0; out_size(sizes)];
    let mut line = vec![0.0; places];
    for (index, out) in out.chunks_mut((rows * places).max(1)).enumerate() {
        let first = index % sizes.group * rows;
        if let Some(bias) = bias {
            let maps = out.chunks_mut(places).zip(&bias[first..]);
            maps.for_each(|(out, bias)| out.fill(*bias));
        }
        for at in 0..depth {
            let channel = sizes.channel(x, index, at / sizes.taps);
            sizes.windows.unfold(channel, at % sizes.taps, 0..places, &mut line);
            for (row, out) in out.chunks_mut(places).enumerate() {
                let w = w[(first + row) * depth + at];
                out.iter_mut().zip(&line).for_each(|(out, x)| *out += w * x);
            }
        }
    }
    out
}

impl Op for Conv {
    fn name(&self) -> &str {
        "Conv"
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = self.sliding.attrs();
        attrs.extend(self.kernel.as_ref().map(|it| ("kernel_shape".into(), ints(it).into())));
        attrs.push(("group".into(), Attr::Int(i64::try_from(self.group).unwrap_or(i64::MAX))));
        attrs
    }

    /// `x: T[N, C, D..]`, `w: T[M, C / G, K..]`, `b: T[M]` give `T[N, M, O..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        count("Conv", inputs, 2, 3)?;
        let (x, w) = (need("Conv", inputs, 0)?.ty, need("Conv", inputs, 1)?.ty);
        let dtype = x.dtype().or(w.dtype());
        let maps = w.shape().and_then(<[Dim]>::first).cloned().unwrap_or(Dim::Unknown);
        let rank = w.rank().or_else(|| self.kernel.as_ref().map(|it| it.len() + 2));
        let dims = match (x.shape(), rank) {
            (Some([batch, channels, image @ ..]), _) => {
                if let (Some(all), Some(Dim::Known(part))) =
                    (channels.known(), w.shape().and_then(|it| it.get(1)))
                    && part.checked_mul(self.group) != Some(all)
                {
                    return Err(TypeError::shapes(
                        "Conv",
                        x.shape().unwrap_or(&[]),
                        w.shape().unwrap_or(&[]),
                    ));
                }
                let kernel = self.kernel(w.shape(), image.len())?;
                let places = self.sliding.places("Conv", image, &kernel)?;
                Some([batch.clone(), maps].into_iter().chain(places).collect())
            }
            (Some(it), _) => {
                let (op, want) = ("Conv".into(), "3 or more".into());
                return Err(TypeError::Rank { op, index: 0, want, got: it.len() });
            }
            (None, Some(rank)) => {
                let mut dims = vec![Dim::Unknown; rank];
                dims.get_mut(1).into_iter().for_each(|it| *it = maps.clone());
                Some(dims)
            }
            (None, None) => None,
        };
        Ok(vec![Type::partial(dtype, dims)])
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        count("Conv", inputs, 2, 3)?;
        let (x, w) = (need("Conv", inputs, 0)?, need("Conv", inputs, 1)?);
        let bias = optional(inputs, 2);
        let sizes = Sizes::new(self, x.dims(), w.dims(), bias)?;
        let dtype = x.dtype();
        if let Some(other) = [Some(w), bias].into_iter().flatten().find(|it| it.dtype() != dtype) {
            return Err(wrong_type("Conv", other.dtype()));
        }
        check_room(dtype, &sizes.dims)?;
        Ok(vec![match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                let (x, w, bias) =
                    (x.to_f32()?, w.to_f32()?, bias.map(Tensor::to_f32).transpose()?);
                let mut out = cx.pool.take(out_size(&sizes))?;
                single(&sizes, &x, &w, bias.as_deref(), &mut out);
                narrow("Conv", cx, dtype, &sizes.dims, out)?
            }
            DType::F64 => {
                let bias = bias.map(Tensor::as_slice::<f64>).transpose()?;
                let out = double(&sizes, &x.as_slice()?, &w.as_slice()?, bias.as_deref());
                Tensor::from_vec(sizes.dims.clone(), out)?
            }
            other => return Err(wrong_type("Conv", other)),
        }])
    }

    fn vjp(&self, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
        vjp::conv(self, b, io, dy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::windows::Padding;

    fn tensor(dims: &[usize]) -> Tensor {
        let value = |it: usize| ((it * 37 + 11) % 64) as f32 / 8.0 - 4.0;
        let values = (0..dims.iter().product()).map(value).collect();
        Tensor::from_vec(dims.to_vec(), values).unwrap()
    }

    fn wide(x: &Tensor) -> Tensor {
        let values = x.to_f32().unwrap().iter().map(|&it| f64::from(it)).collect();
        Tensor::from_vec::<f64>(x.dims().to_vec(), values).unwrap()
    }

    /// Place by place, by the definition, of two axes.
    fn slowly(op: &Conv, x: &Tensor, w: &Tensor, bias: &[f32], dims: &[usize]) -> Vec<f32> {
        let (xs, ws) = (x.to_f32().unwrap(), w.to_f32().unwrap());
        let Padding::Given(pads) = &op.sliding.padding else { panic!() };
        let at = |list: &[usize], axis: usize| list[axis];
        let (strides, dilations) = (&op.sliding.strides, &op.sliding.dilations);
        let (xd, wd) = (x.dims(), w.dims());
        let mut out = Vec::new();
        for index in 0..dims.iter().product::<usize>() {
            let [o1, o0] = [index % dims[3], index / dims[3] % dims[2]];
            let [m, n] =
                [index / (dims[3] * dims[2]) % dims[1], index / (dims[3] * dims[2] * dims[1])];
            let mut sum = bias[m];
            for c in 0..wd[1] {
                for (t0, t1) in (0..wd[2]).flat_map(|t0| (0..wd[3]).map(move |t1| (t0, t1))) {
                    let y = (o0 * at(strides, 0) + t0 * at(dilations, 0)).wrapping_sub(pads[0]);
                    let z = (o1 * at(strides, 1) + t1 * at(dilations, 1)).wrapping_sub(pads[1]);
                    if y < xd[2] && z < xd[3] {
                        let channel = m / (wd[0] / op.group) * wd[1] + c;
                        let x = xs[((n * xd[1] + channel) * xd[2] + y) * xd[3] + z];
                        sum += x * ws[((m * wd[1] + c) * wd[2] + t0) * wd[3] + t1];
                    }
                }
            }
            out.push(sum);
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_convolution_is_its_definition(
            sizes in [1usize..3, 1..3, 1..4, 1..4],
            image in [4usize..20, 4..20],
            kernel in [1usize..4, 1..4],
            strides in [1usize..4, 1..4],
            dilations in [1usize..3, 1..3],
            pads in [0usize..3, 0..3, 0..3, 0..3],
        ) {
            let [n, group, c, m] = sizes;
            let sliding = Sliding {
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                padding: Padding::Given(pads.to_vec()),
            };
            let op = Conv { group, kernel: None, sliding };
            let x = tensor(&[n, c * group, image[0], image[1]]);
            let w = tensor(&[m * group, c, kernel[0], kernel[1]]);
            let bias = tensor(&[m * group]);
            let places = op.sliding.windows("Conv", &image, &kernel);
            prop_assume!(places.is_ok());
            let cx = EvalCx::default();
            let got = op.eval(&cx, &[Some(&x), Some(&w), Some(&bias)], 1).unwrap().remove(0);
            // All terms are multiples of 1/64 and small: sums are exact.
            let want = slowly(&op, &x, &w, &bias.to_f32().unwrap(), got.dims());
            prop_assert_eq!(&*got.to_f32().unwrap(), &want[..]);
            let operands = [wide(&x), wide(&w), wide(&bias)];
            let double = op.eval(&cx, &operands.each_ref().map(Some), 1).unwrap().remove(0);
            prop_assert_eq!(&*double.to_f32().unwrap(), &want[..]);
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads_nor_on_the_batch() {
        let sliding = Sliding { strides: vec![], dilations: vec![], padding: Padding::SameUpper };
        let op = Conv { group: 2, kernel: None, sliding };
        let x = tensor(&[2, 48, 1500]);
        let (w, bias) = (tensor(&[64, 24, 3]), tensor(&[64]));
        let run = |threads: usize, x: &Tensor| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let operands = [Some(x), Some(&w), Some(&bias)];
            pool.install(|| op.eval(&EvalCx::default(), &operands, 1).unwrap().remove(0))
        };
        let one = run(1, &x);
        assert_eq!(one, run(2, &x));
        assert_eq!(one, run(5, &x));
        let half = x.len() / 2;
        let part = x.to_f32().unwrap()[half..].to_vec();
        let part = run(2, &Tensor::from_vec(vec![1, 48, 1500], part).unwrap());
        assert_eq!(part.to_f32().unwrap()[..], one.to_f32().unwrap()[one.len() / 2..]);
    }

    #[test]
    fn sizes_that_do_not_fit() {
        let sliding =
            Sliding { strides: vec![], dilations: vec![], padding: Padding::Given(vec![]) };
        let op = Conv { group: 1, kernel: None, sliding };
        let run = |op: &Conv, x: &[usize], w: &[usize]| {
            op.eval(&EvalCx::default(), &[Some(&tensor(x)), Some(&tensor(w))], 1).is_ok()
        };
        assert!(run(&op, &[1, 2, 5], &[3, 2, 5]));
        assert!(run(&op, &[0, 2, 5], &[3, 2, 5]));
        assert!(!run(&op, &[1, 2, 5], &[3, 2, 6]), "the kernel is longer than the image");
        assert!(!run(&op, &[1, 2, 5], &[3, 1, 5]), "other channels");
        assert!(!run(&op, &[1, 2, 5], &[3, 2, 5, 1]), "other axes");
        assert!(!run(&op, &[1, 2], &[3, 2]), "no axes");
        assert!(!run(&op, &[1, 2, 5], &[3, 2, 0]), "a kernel of nothing");
        let of = |pads: Vec<usize>| {
            let padding = Padding::Given(pads);
            Conv { sliding: Sliding { padding, ..op.sliding.clone() }, ..op.clone() }
        };
        assert!(!run(&of(vec![usize::MAX, 1]), &[1, 2, 5], &[3, 2, 5]));
        assert!(!run(&of(vec![1 << 60, 1]), &[1, 2, 5], &[3, 2, 5]));
        assert!(!run(&of(vec![1]), &[1, 2, 5], &[3, 2, 5]));
        for attrs in [("strides", vec![0]), ("pads", vec![-1, 0]), ("dilations", vec![0])] {
            let attrs: Attrs = vec![(attrs.0.into(), attrs.1.into())];
            assert!(crate::parse("", "Conv", 22, attrs).is_err());
        }
    }
}
