//! Windows that slide over an image: what `Conv`, `Col2Im` and `qcc::Unfold` have in common.
//!
//! Along each axis of the image, place `o` of the result reads the elements
//! `o * stride + tap * dilation - begin`, one for each `tap` of the kernel. What lies outside of the
//! image is zero. Source: onnx/defs/nn/defs.cc, convPoolShapeInference.

use std::ops::Range;

use qcc_ir::{Attrs, TypeError};
use qcc_tensor::Dim;

use crate::{AttrError, AttrReader};

/// What is added around an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Padding {
    /// So many elements, before and after along each axis: all begins and then all ends. None at
    /// all when the list is empty.
    Given(Vec<usize>),
    /// As many as give `image / stride` places, rounded up. An odd one is at the end.
    SameUpper,
    /// The same, but an odd one is at the begin.
    SameLower,
    /// None.
    Valid,
}

/// How windows move, as attributes say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// Elements between neighboring windows along each axis; ones when it is empty.
    pub strides: Vec<usize>,
    /// Elements between neighboring taps along each axis; ones when it is empty.
    pub dilations: Vec<usize>,
    /// What is added around the image.
    pub padding: Padding,
}

impl Sliding {
    /// Windows at every element of the image that has room for them.
    pub(crate) fn parse(reader: &AttrReader<'_>) -> Result<Self, AttrError> {
        let strides = numbers(reader, "strides", 1)?.unwrap_or_default();
        let dilations = numbers(reader, "dilations", 1)?.unwrap_or_default();
        let pads = numbers(reader, "pads", 0)?.unwrap_or_default();
        Ok(Self { strides, dilations, padding: Padding::Given(pads) })
    }

    /// As [`Sliding::parse`], with the attribute `auto_pad`, which overrules `pads`.
    pub(crate) fn parse_auto(reader: &AttrReader<'_>) -> Result<Self, AttrError> {
        let given = Self::parse(reader)?;
        let padding = match reader.str("auto_pad", "NOTSET")? {
            "NOTSET" => return Ok(given),
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            "VALID" => Padding::Valid,
            _ => {
                let what = "is not NOTSET, SAME_UPPER, SAME_LOWER or VALID";
                return Err(reader.error("auto_pad", what));
            }
        };
        Ok(Self { padding, ..given })
    }

    /// The attributes again, without those that say nothing.
    pub(crate) fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new();
        let mut push = |name: &str, list: &[usize]| {
            if !list.is_empty() {
                attrs.push((name.into(), ints(list).into()));
            }
        };
        push("strides", &self.strides);
        push("dilations", &self.dilations);
        match &self.padding {
            Padding::Given(pads) => push("pads", pads),
            Padding::SameUpper => attrs.push(("auto_pad".into(), "SAME_UPPER".into())),
            Padding::SameLower => attrs.push(("auto_pad".into(), "SAME_LOWER".into())),
            Padding::Valid => attrs.push(("auto_pad".into(), "VALID".into())),
        }
        attrs
    }

    /// The windows of this kernel over an image of this size.
    ///
    /// # Errors
    /// When an attribute has not one number for each axis, or when the image has no room for the
    /// kernel.
    pub(crate) fn windows(
        &self,
        op: &str,
        image: &[usize],
        kernel: &[usize],
    ) -> Result<Windows, TypeError> {
        if image.len() != kernel.len() || image.is_empty() {
            let what = format!("a kernel {kernel:?} over an image {image:?}");
            return Err(TypeError::other(op, what));
        }
        self.check(op, image.len())?;
        let axes = image.iter().zip(kernel).enumerate();
        let axes = axes.map(|(at, (&image, &kernel))| self.axis(op, at, image, kernel));
        Ok(Windows { axes: axes.collect::<Result<_, _>>()? })
    }

    /// The number of places along each axis, as far as it is known.
    ///
    /// # Errors
    /// As [`Sliding::windows`].
    pub(crate) fn places(
        &self,
        op: &str,
        image: &[Dim],
        kernel: &[Option<usize>],
    ) -> Result<Vec<Dim>, TypeError> {
        if image.len() != kernel.len() {
            let what =
                format!("{} axes of a kernel over {} of an image", kernel.len(), image.len());
            return Err(TypeError::other(op, what));
        }
        self.check(op, image.len())?;
        let place = |(at, (dim, kernel)): (usize, (&Dim, &Option<usize>))| {
            Ok(match (dim.known(), *kernel) {
                (Some(image), Some(kernel)) => Dim::Known(self.axis(op, at, image, kernel)?.places),
                (None, Some(kernel)) if self.keeps(at, kernel) => dim.clone(),
                _ => Dim::Unknown,
            })
        };
        image.iter().zip(kernel).enumerate().map(place).collect()
    }

    /// The same windows with their padding as numbers; `None` where it follows from sizes that are
    /// not known.
    pub(crate) fn given(&self, op: &str, image: &[Dim], kernel: &[usize]) -> Option<Self> {
        let padding = match &self.padding {
            Padding::Given(_) => self.padding.clone(),
            Padding::Valid => Padding::Given(Vec::new()),
            Padding::SameUpper | Padding::SameLower => {
                let image: Vec<usize> = image.iter().map(Dim::known).collect::<Option<_>>()?;
                let windows = self.windows(op, &image, kernel).ok()?;
                let begins = windows.axes.iter().map(|it| it.begin);
                let ends = windows.axes.iter().map(|it| it.end);
                Padding::Given(begins.chain(ends).collect())
            }
        };
        Some(Self { padding, ..self.clone() })
    }

    fn check(&self, op: &str, rank: usize) -> Result<(), TypeError> {
        let check = |what: &str, list: &[usize], count: usize| {
            if list.is_empty() || list.len() == count {
                return Ok(());
            }
            Err(TypeError::other(op, format!("{} {what} for {rank} axes", list.len())))
        };
        check("strides", &self.strides, rank)?;
        check("dilations", &self.dilations, rank)?;
        match &self.padding {
            Padding::Given(pads) => check("pads", pads, rank.saturating_mul(2)),
            _ => Ok(()),
        }
    }

    fn numbers(&self, at: usize) -> [usize; 2] {
        let one = |list: &[usize]| list.get(at).copied().unwrap_or(1);
        [one(&self.strides), one(&self.dilations)]
    }

    /// Elements added before and after along an axis, when they are given.
    fn pads(&self, at: usize) -> Option<[usize; 2]> {
        match &self.padding {
            Padding::Given(pads) => {
                let pad = |at: usize| pads.get(at).copied().unwrap_or(0);
                Some([pad(at), pad(at + pads.len() / 2)])
            }
            Padding::Valid => Some([0, 0]),
            Padding::SameUpper | Padding::SameLower => None,
        }
    }

    /// Whether there is a place for each element of the axis, whatever its size.
    fn keeps(&self, at: usize, kernel: usize) -> bool {
        let [stride, dilation] = self.numbers(at);
        let more = kernel.checked_sub(1).and_then(|it| it.checked_mul(dilation));
        let added = self.pads(at).map(|[begin, end]| begin.checked_add(end));
        stride == 1 && more.is_some() && added.is_none_or(|it| it == more)
    }

    fn axis(&self, op: &str, at: usize, image: usize, kernel: usize) -> Result<Axis, TypeError> {
        let [stride, dilation] = self.numbers(at);
        let fault = || TypeError::other(op, format!("a kernel of {kernel} over {image} elements"));
        let span = kernel
            .checked_sub(1)
            .and_then(|it| it.checked_mul(dilation)?.checked_add(1))
            .ok_or_else(fault)?;
        let [begin, end] = match self.pads(at) {
            Some(pads) => pads,
            None => {
                let last = image.div_ceil(stride).saturating_sub(1) * stride;
                let added = last.checked_add(span).ok_or_else(fault)?.saturating_sub(image);
                let (less, more) = (added / 2, added.div_ceil(2));
                if self.padding == Padding::SameUpper { [less, more] } else { [more, less] }
            }
        };
        let padded = image.checked_add(begin).and_then(|it| it.checked_add(end));
        // Positions are counted in the padded axis, in signed numbers too.
        let padded = padded.filter(|it| isize::try_from(*it).is_ok()).ok_or_else(fault)?;
        let places = padded.checked_sub(span).ok_or_else(fault)? / stride + 1;
        Ok(Axis { image, kernel, stride, dilation, begin, end, places })
    }
}

/// Integers of an attribute, none of which is below `least`.
pub(crate) fn numbers(
    reader: &AttrReader<'_>,
    name: &str,
    least: usize,
) -> Result<Option<Vec<usize>>, AttrError> {
    let Some(list) = reader.opt_ints(name)? else { return Ok(None) };
    let number = |it: &i64| usize::try_from(*it).ok().filter(|it| *it >= least);
    let list: Option<Vec<usize>> = list.iter().map(number).collect();
    list.map(Some).ok_or_else(|| reader.error(name, format!("has a number below {least}")))
}

/// Sizes as an attribute, or as a constant.
pub(crate) fn ints(list: &[usize]) -> Vec<i64> {
    list.iter().map(|&it| i64::try_from(it).unwrap_or(i64::MAX)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    image: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    begin: usize,
    end: usize,
    places: usize,
}

impl Axis {
    /// The element that a tap reads at a place.
    fn element(&self, place: usize, tap: usize) -> Option<usize> {
        let at = place * self.stride + tap * self.dilation;
        at.checked_sub(self.begin).filter(|&it| it < self.image)
    }

    /// The places at which a tap reads an element of the image.
    fn inside(&self, tap: usize) -> Range<usize> {
        let by = tap * self.dilation;
        let first = self.begin.saturating_sub(by).div_ceil(self.stride);
        let end = (self.image + self.begin).saturating_sub(by).div_ceil(self.stride);
        first..end.min(self.places)
    }
}

/// The windows of one kernel over one image. Places and taps are counted row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    axes: Vec<Axis>,
}

impl Windows {
    /// Places along each axis.
    pub(crate) fn dims(&self) -> impl Iterator<Item = usize> {
        self.axes.iter().map(|it| it.places)
    }

    /// Writes what a tap reads at some of the places.
    pub(crate) fn unfold<T: Copy + Default>(
        &self,
        image: &[T],
        tap: usize,
        places: Range<usize>,
        out: &mut [T],
    ) {
        out.fill(T::default());
        self.stretches(tap, places, |at, len, from, stride| {
            let cells = &mut out[at..at + len];
            if stride == 1 {
                return cells.copy_from_slice(&image[from..from + len]);
            }
            cells.iter_mut().zip(image[from..].iter().step_by(stride)).for_each(|it| *it.0 = *it.1);
        });
    }

    /// Adds a value for each place to the elements that a tap reads there.
    pub(crate) fn fold<T: Copy>(
        &self,
        values: &[T],
        tap: usize,
        image: &mut [T],
        add: impl Fn(T, T) -> T,
    ) {
        self.stretches(tap, 0..values.len(), |at, len, from, stride| {
            let elements = image[from..].iter_mut().step_by(stride);
            elements.zip(&values[at..at + len]).for_each(|(x, value)| *x = add(*x, *value));
        });
    }

    /// Calls `visit` for each stretch of places along the last axis where a tap is in the image:
    /// with its begin in `places`, its length, its first element of the image, and the elements
    /// between neighbors.
    fn stretches(
        &self,
        tap: usize,
        places: Range<usize>,
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        let Some((last, outer)) = self.axes.split_last() else { return };
        if places.is_empty() || last.places == 0 {
            return;
        }
        let last_tap = tap % last.kernel;
        let inside = last.inside(last_tap);
        for line in places.start / last.places..=(places.end - 1) / last.places {
            let (mut place, mut tap, mut row, mut size) = (line, tap / last.kernel, Some(0), 1);
            for axis in outer.iter().rev() {
                let element = axis.element(place % axis.places, tap % axis.kernel);
                row = row.zip(element).map(|(row, it)| row + it * size);
                (place, tap, size) = (place / axis.places, tap / axis.kernel, size * axis.image);
            }
            let Some(row) = row else { continue };
            let begin = line * last.places;
            let first = inside.start.max(places.start.saturating_sub(begin));
            let end = inside.end.min(places.end - begin);
            if first < end {
                // Not below zero, since the first of them lies in the image.
                let element = first * last.stride + last_tap * last.dilation - last.begin;
                let from = row * last.image + element;
                visit(begin + first - places.start, end - first, from, last.stride);
            }
        }
    }
}
