//! Outliers behind the kernels: what `qcc_kernels::Overlay` adds, to the bit.
//!
//! Kernels write the results of a block of panels and rows to a tile. To each of them come the
//! products of its outliers with the activations, as they came, one after the other, for eight
//! columns side by side:
//!
//! ```text
//! sum = sum + value[i] * x[input[i]]
//! y = y + sum
//! ```
//!
//! Then comes the end, and the tile goes to the results. So an operand of the end may be the
//! memory of the results.

use super::fields::{Field, Link};
use super::multiply::{Multiply, PANEL};
use super::scalars::{Int, Pointer};
use crate::code::{Emitted, Vector};
use crate::epilogue::apply;
use crate::library::MOST_PANELS;
use inkwell::IntPredicate;
use qcc_kernels::Epilogue;

/// Columns whose outliers lie side by side.
pub(super) const SIDE: u64 = 8;

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
            let eights = [first, end].map(|it| code.scaled(it, PANEL / SIDE));
            let [from, to] = eights;
            code.each(function, from?, to?, |eight| {
                let sums = self.sums(eight, x)?;
                let panel = code.minus(code.over(eight, code.index(PANEL / SIDE))?, first)?;
                let line = code.offset(line, code.scaled(panel, 4 * PANEL)?)?;
                self.add(line, eight, sums)
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

    /// What outliers add to eight columns.
    fn sums(&self, eight: Int<'c>, x: Pointer<'c>) -> Emitted<Vector<'c>> {
        let (code, it) = (self.code, &self.it);
        let (lanes, float) = (SIDE as u32, code.context.f32_type());
        let at = code.offset(it.link(Link::Starts)?, code.scaled(eight, 4)?)?;
        let start = |skip| {
            let at = code.at(at, skip)?;
            let narrow = code.load(code.context.i32_type(), at, 4)?.into_int_value();
            Emitted::Ok(code.builder.build_int_z_extend(narrow, code.context.i64_type(), "")?)
        };
        let (start, stop) = (start(0)?, start(4)?);
        let inputs = code.offset(it.link(Link::Inputs)?, code.scaled(start, 2 * SIDE)?)?;
        let values = code.offset(it.link(Link::Values)?, code.scaled(start, 4 * SIDE)?)?;
        let none = code.floats(lanes).const_zero();
        // One round at least, which adds nothing where there is nothing.
        let count = code.minus(stop, start)?;
        let rounds = code.most(count, code.index(1))?;
        let sums = code.repeat(self.function, rounds, &[none.into()], |i, sums| {
            let inputs = code.offset(inputs, code.scaled(i, 2 * SIDE)?)?;
            let mut taken = none;
            for lane in 0..SIDE {
                let input = code.load(code.context.i16_type(), code.at(inputs, 2 * lane)?, 2)?;
                let (input, wide) = (input.into_int_value(), code.context.i64_type());
                let input = code.builder.build_int_z_extend(input, wide, "")?;
                let value = code.load(float, code.offset(x, code.scaled(input, 4)?)?, 4)?;
                let place = code.context.i32_type().const_int(lane, false);
                taken = code.builder.build_insert_element(taken, value, place, "")?;
            }
            let at = code.offset(values, code.scaled(i, 4 * SIDE)?)?;
            let values = code.load_floats(lanes, at, 4)?;
            let before = sums[0].into_vector_value();
            let after = code.fadd(before, code.fmul(values, taken)?)?;
            let is_there = code.below(i, count)?;
            Ok(vec![code.builder.build_select(is_there, after, before, "")?])
        })?;
        Ok(sums[0].into_vector_value())
    }

    /// Adds to eight columns of a line, whose places in it the order tells.
    fn add(&self, line: Pointer<'c>, eight: Int<'c>, sums: Vector<'c>) -> Emitted<()> {
        let code = self.code;
        let order = code.offset(self.it.link(Link::Order)?, code.scaled(eight, SIDE)?)?;
        for lane in 0..SIDE {
            let column = code.load(code.context.i8_type(), code.at(order, lane)?, 1)?;
            let (column, wide) = (column.into_int_value(), code.context.i64_type());
            let column = code.builder.build_int_z_extend(column, wide, "")?;
            let at = code.offset(line, code.scaled(column, 4)?)?;
            let place = code.context.i32_type().const_int(lane, false);
            let sum = code.builder.build_extract_element(sums, place, "")?.into_float_value();
            let y = code.load(code.context.f32_type(), at, 4)?.into_float_value();
            code.write(code.builder.build_float_add(y, sum, "")?, at, 4)?;
        }
        Ok(())
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
