//! Outliers behind the kernels: what `qcc_kernels::Overlay` adds, to the bit.
//!
//! Kernels write the results of a block of panels and rows to a tile. To each of them come the
//! products of its outliers with the activations, as they came, in four sums in turn:
//!
//! ```text
//! sum[i % 4] = sum[i % 4] + value[i] * x[input[i]]
//! y = y + ((sum[0] + sum[1]) + (sum[2] + sum[3]))
//! ```
//!
//! Then comes the end, and the tile goes to the results. So an operand of the end may be the
//! memory of the results.

use super::constants::QUAD;
use super::fields::{Field, Link};
use super::multiply::{Multiply, PANEL};
use super::scalars::{Int, Pointer};
use crate::code::{Emitted, Vector};
use crate::epilogue::apply;
use crate::library::MOST_PANELS;
use inkwell::IntPredicate;
use inkwell::values::FloatValue;
use qcc_kernels::Epilogue;

/// Elements from one row of the tile to the next.
pub(super) const TILE_ROW: u64 = MOST_PANELS * PANEL;

/// What comes behind the kernels.
#[derive(Clone, Copy)]
pub(super) struct Outliers {
    /// And behind the outliers.
    pub end: Epilogue,
    /// Results that are written at a time; a divisor of [`PANEL`].
    pub lanes: u32,
}

impl<'c> Multiply<'_, 'c> {
    /// Some panels times a block of `count` rows from `row` on, whose results are in the tile.
    pub(super) fn finish(
        &self,
        outliers: Outliers,
        tile: Pointer<'c>,
        [first, end]: [Int<'c>; 2],
        [row, count]: [Int<'c>; 2],
    ) -> Emitted<()> {
        let (code, it, function) = (self.code, &self.it, self.function);
        let n = it.get(Field::N)?;
        let column = code.scaled(first, PANEL)?;
        let columns = code.minus(code.least(code.scaled(end, PANEL)?, n)?, column)?;
        let lanes = code.index(outliers.lanes.into());
        code.each(function, code.index(0), count, |i| {
            let row = code.plus(row, i)?;
            let acts = code.offset(self.workspace, code.times(row, it.get(Field::Row)?)?)?;
            let x = code.offset(acts, it.get(Field::FloatsAt)?)?;
            let line = code.offset(tile, code.scaled(i, 4 * TILE_ROW)?)?;
            code.each(function, code.index(0), columns, |i| {
                let sum = self.sum(code.plus(column, i)?, x)?;
                let at = code.offset(line, code.scaled(i, 4)?)?;
                let y = code.load(code.context.f32_type(), at, 4)?.into_float_value();
                code.write(code.builder.build_float_add(y, sum, "")?, at, 4)
            })?;
            let first = code.plus(code.times(row, n)?, column)?;
            code.each(function, code.index(0), code.over_up(columns, lanes)?, |i| {
                let from = code.times(i, lanes)?;
                let line = code.offset(line, code.scaled(from, 4)?)?;
                let places = [code.plus(first, from)?, code.plus(column, from)?];
                self.end(outliers, line, places, code.minus(columns, from)?)
            })
        })
    }

    /// What outliers add to a column.
    fn sum(&self, column: Int<'c>, x: Pointer<'c>) -> Emitted<FloatValue<'c>> {
        let (code, it) = (self.code, &self.it);
        let lanes = QUAD as u32;
        let float = code.context.f32_type();
        let at = code.offset(it.link(Link::Starts)?, code.scaled(column, 4)?)?;
        let start = |skip| {
            let at = code.at(at, skip)?;
            let narrow = code.load(code.context.i32_type(), at, 4)?.into_int_value();
            Emitted::Ok(code.builder.build_int_z_extend(narrow, code.context.i64_type(), "")?)
        };
        let (start, stop) = (start(0)?, start(4)?);
        let count = code.minus(stop, start)?;
        let inputs = code.offset(it.link(Link::Inputs)?, code.scaled(start, 2)?)?;
        let values = code.offset(it.link(Link::Values)?, code.scaled(start, 4)?)?;
        // One round at least, which adds nothing where there is nothing.
        let rounds = code.most(code.over_up(count, code.index(QUAD as u64))?, code.index(1))?;
        let none = code.floats(lanes).const_zero().into();
        let sums = code.repeat(self.function, rounds, &[none], |i, sums| {
            let at = code.scaled(i, QUAD as u64)?;
            let mut taken = code.floats(lanes).const_zero();
            for lane in 0..QUAD as u64 {
                let input = code.plus(at, code.index(lane))?;
                let input = code.offset(inputs, code.scaled(input, 2)?)?;
                let input = code.load(code.context.i16_type(), input, 2)?.into_int_value();
                let input = code.builder.build_int_z_extend(input, code.context.i64_type(), "")?;
                let value = code.load(float, code.offset(x, code.scaled(input, 4)?)?, 4)?;
                let place = code.context.i32_type().const_int(lane, false);
                taken = code.builder.build_insert_element(taken, value, place, "")?;
            }
            let values = code.load_floats(lanes, code.offset(values, code.scaled(at, 4)?)?, 4)?;
            let before = sums[0].into_vector_value();
            let after = code.fadd(before, code.fmul(values, taken)?)?;
            let is_there = self.below(lanes, code.minus(count, at)?)?;
            let sum = code.builder.build_select(is_there, after, before, "")?;
            Ok(vec![sum])
        })?;
        let sums = sums[0].into_vector_value();
        let lane = |lane| {
            let place = code.context.i32_type().const_int(lane, false);
            Emitted::Ok(code.builder.build_extract_element(sums, place, "")?.into_float_value())
        };
        let low = code.builder.build_float_add(lane(0)?, lane(1)?, "")?;
        let high = code.builder.build_float_add(lane(2)?, lane(3)?, "")?;
        Ok(code.builder.build_float_add(low, high, "")?)
    }

    /// The end of some results, at a place among all and at a column; `left` of them exist.
    fn end(
        &self,
        outliers: Outliers,
        line: Pointer<'c>,
        [place, column]: [Int<'c>; 2],
        left: Int<'c>,
    ) -> Emitted<()> {
        let (code, lanes) = (self.code, outliers.lanes);
        let mask = self.below(lanes, left)?;
        let y = code.load_floats(lanes, line, 4)?;
        let read = |from, place| {
            let at = code.offset(from, code.scaled(place, 4)?)?;
            code.load_masked(lanes, at, mask)
        };
        let end = outliers.end;
        let bias =
            if end.reads_bias() { Some(read(self.it.link(Link::Bias)?, column)?) } else { None };
        let extra = if end.reads_extra() { Some(read(self.extra, place)?) } else { None };
        let y = apply(code, end, y, bias, extra)?;
        code.store_masked(y, code.offset(self.y, code.scaled(place, 4)?)?, mask)
    }

    /// Which of the numbers from 0 on are below `left`.
    fn below(&self, lanes: u32, left: Int<'c>) -> Emitted<Vector<'c>> {
        let code = self.code;
        let left = code.least(left, code.index(lanes.into()))?;
        let left = code.builder.build_int_truncate(left, code.context.i32_type(), "")?;
        let left = code.spread(left.into(), code.ints(32, lanes)?)?;
        let numbers = code.numbers(&(0..lanes).collect::<Vec<_>>());
        Ok(code.builder.build_int_compare(IntPredicate::SLT, numbers, left, "")?)
    }
}
