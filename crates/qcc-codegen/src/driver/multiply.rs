//! Products of quantized rows: what `qcc_kernels::Product` does around its kernels.
//!
//! Rows are cut in nearly equal blocks of at most 6, panels in blocks that stay in the second
//! cache; in a block of panels all rows pass by. Where there are outliers, kernels write to a tile,
//! and [`super::outliers`] finishes it. A part is a range of panels; where panels are
//! few, of panels and blocks of rows.

use super::fields::{Descriptor, Field, Link};
use super::outliers::{Outliers, TILE_ROW};
use super::scalars::{Int, Pointer, int, pointer};
use crate::code::{Code, Emitted};
use inkwell::IntPredicate;
use inkwell::values::FunctionValue;
use qcc_kernels::{KernelArgs, KernelSpec};
use std::mem::{offset_of, size_of};

/// Columns of a panel.
pub(super) const PANEL: u64 = 32;

/// The function `(descriptor, weights, workspace, rows, y, part, parts, extra)` in the making.
pub(super) struct Multiply<'a, 'c> {
    pub code: &'a Code<'c>,
    pub function: FunctionValue<'c>,
    /// Whose kernels it calls.
    version: usize,
    pub it: Descriptor<'a, 'c>,
    weights: Pointer<'c>,
    pub workspace: Pointer<'c>,
    rows: Int<'c>,
    pub y: Pointer<'c>,
    /// What the end reads for each result.
    pub extra: Pointer<'c>,
    /// What comes behind the kernels, and the memory for their results.
    outliers: Option<(Outliers, Pointer<'c>)>,
    /// The arguments of kernels.
    args: Pointer<'c>,
}

impl<'a, 'c> Multiply<'a, 'c> {
    pub(super) fn new(
        code: &'a Code<'c>,
        function: FunctionValue<'c>,
        version: usize,
        outliers: Option<Outliers>,
    ) -> Emitted<Self> {
        let bytes = code.context.i64_type().array_type(size_of::<KernelArgs>() as u32 / 8);
        let tile = |outliers| {
            let elements = TILE_ROW as u32 * u32::from(KernelSpec::MOST_ROWS);
            let tile =
                code.builder.build_alloca(code.context.f32_type().array_type(elements), "")?;
            Emitted::Ok((outliers, tile))
        };
        Ok(Self {
            code,
            function,
            version,
            it: Descriptor { code, at: pointer(function, 0)? },
            weights: pointer(function, 1)?,
            workspace: pointer(function, 2)?,
            rows: int(function, 3)?,
            y: pointer(function, 4)?,
            extra: pointer(function, 7)?,
            outliers: outliers.map(tile).transpose()?,
            args: code.builder.build_alloca(bytes, "")?,
        })
    }

    /// The whole body.
    pub(super) fn emit(&self) -> Emitted<()> {
        let (code, it, function) = (self.code, &self.it, self.function);
        let (part, parts) = (int(function, 5)?, int(function, 6)?);
        self.constants()?;
        let panels = it.get(Field::Panels)?;
        let one = code.index(1);
        let blocks = code.over_up(self.rows, code.index(KernelSpec::MOST_ROWS.into()))?;
        // Few columns: parts share the rows as well.
        let shares = code.least(code.over_up(code.scaled(parts, 2)?, panels)?, blocks)?;
        let many = code.compare(IntPredicate::UGE, panels, code.scaled(parts, 4)?)?;
        let alone = code.either(many, code.compare(IntPredicate::EQ, parts, one)?)?;
        let shares = code.pick(alone, one, shares)?;
        let units = code.times(panels, shares)?;
        let start = code.over(code.times(units, part)?, parts)?;
        let end = code.over(code.times(units, code.plus(part, one)?)?, parts)?;

        let all_rows = code.compare(IntPredicate::EQ, blocks, one)?;
        let mut block_panels = it.get(Field::BlockPanels)?;
        if self.outliers.is_none() {
            block_panels = code.pick(all_rows, panels, block_panels)?;
        }
        let first_share = code.over(start, panels)?;
        let last_share = code.over_up(end, panels)?;
        code.each(function, first_share, last_share, |share| {
            let base = code.times(share, panels)?;
            let from = code.minus(code.most(start, base)?, base)?;
            let to = code.minus(code.least(end, code.plus(base, panels)?)?, base)?;
            let first_block = code.over(code.times(share, blocks)?, shares)?;
            let next = code.plus(share, one)?;
            let last_block = code.over(code.times(next, blocks)?, shares)?;
            let rounds = code.over_up(code.minus(to, from)?, block_panels)?;
            code.each(function, code.index(0), rounds, |round| {
                let first = code.plus(from, code.times(round, block_panels)?)?;
                let end = code.least(to, code.plus(first, block_panels)?)?;
                code.each(function, first_block, last_block, |block| {
                    let row = code.over(code.times(block, self.rows)?, blocks)?;
                    let next = code.times(code.plus(block, one)?, self.rows)?;
                    let count = code.minus(code.over(next, blocks)?, row)?;
                    self.block([first, end], row, count)
                })
            })
        })?;
        code.builder.build_return(None)?;
        Ok(())
    }

    /// Arguments that are the same in every call.
    fn constants(&self) -> Emitted<()> {
        let (code, it) = (self.code, &self.it);
        let n = it.get(Field::N)?;
        let row = it.get(Field::Row)?;
        let groups = it.get(Field::Groups)?;
        let y_row = if self.outliers.is_some() { code.index(TILE_ROW) } else { n };
        for (field, value) in [
            (offset_of!(KernelArgs, panel_stride), it.get(Field::PanelStride)?),
            (offset_of!(KernelArgs, groups), groups),
            (offset_of!(KernelArgs, group_blocks), it.get(Field::GroupBlocks)?),
            (offset_of!(KernelArgs, act_row), row),
            (offset_of!(KernelArgs, act_plane), it.get(Field::Plane)?),
            (offset_of!(KernelArgs, act_group_row), code.over(row, code.index(4))?),
            (offset_of!(KernelArgs, act_group_plane), groups),
            (offset_of!(KernelArgs, y_row), y_row),
            (offset_of!(KernelArgs, extra_row), n),
            (offset_of!(KernelArgs, spec), code.index(0)),
        ] {
            self.put(field, value)?;
        }
        Ok(())
    }

    fn put(&self, field: usize, value: Int<'c>) -> Emitted<()> {
        self.code.write(value, self.code.at(self.args, field as u64)?, 8)
    }

    fn put_pointer(&self, field: usize, value: Pointer<'c>) -> Emitted<()> {
        self.code.write(value, self.code.at(self.args, field as u64)?, 8)
    }

    /// Some panels times a block of `count` rows from `row` on.
    fn block(&self, [first, end]: [Int<'c>; 2], row: Int<'c>, count: Int<'c>) -> Emitted<()> {
        let (code, it, function) = (self.code, &self.it, self.function);
        let acts = code.offset(self.workspace, code.times(row, it.get(Field::Row)?)?)?;
        let groups = code.scaled(it.get(Field::Groups)?, 4)?;
        let scales = code.offset(acts, it.get(Field::ScalesAt)?)?;
        let sums = code.offset(scales, groups)?;
        self.put_pointer(offset_of!(KernelArgs, acts), acts)?;
        self.put_pointer(offset_of!(KernelArgs, act_scales), scales)?;
        self.put_pointer(offset_of!(KernelArgs, act_sums), sums)?;
        self.put_pointer(offset_of!(KernelArgs, act_init), code.offset(sums, groups)?)?;
        let whole = code.least(end, it.get(Field::WholePanels)?)?;
        code.when(function, code.below(first, whole)?, || {
            self.call([first, first, whole], row, it.kernel(self.version, 2, count)?)
        })?;
        code.when(function, code.below(whole, end)?, || {
            self.call([first, whole, end], row, it.kernel(self.version, 1, count)?)
        })?;
        match self.outliers {
            Some((outliers, tile)) => self.finish(outliers, tile, [first, end], [row, count]),
            None => Ok(()),
        }
    }

    /// Panels from `first` to `end`, in a block of panels from `base` on.
    fn call(
        &self,
        [base, first, end]: [Int<'c>; 3],
        row: Int<'c>,
        kernel: Pointer<'c>,
    ) -> Emitted<()> {
        let (code, it) = (self.code, &self.it);
        let n = it.get(Field::N)?;
        let column = code.scaled(first, PANEL)?;
        let weights = code.times(first, it.get(Field::PanelStride)?)?;
        let place = code.scaled(code.plus(code.times(row, n)?, column)?, 4)?;
        let y = match self.outliers {
            Some((_, tile)) => {
                code.offset(tile, code.scaled(code.minus(first, base)?, 4 * PANEL)?)?
            }
            None => code.offset(self.y, place)?,
        };
        // Of the last panel of the call.
        let before = code.scaled(code.minus(end, code.index(1))?, PANEL)?;
        let columns = code.least(code.minus(n, before)?, code.index(PANEL))?;
        // Addresses and no pointers: products without an end that reads them have none.
        let bias = code.address(it.link(Link::Bias)?)?;
        let extra = code.address(self.extra)?;
        self.put_pointer(offset_of!(KernelArgs, weights), code.offset(self.weights, weights)?)?;
        self.put(offset_of!(KernelArgs, panels), code.minus(end, first)?)?;
        self.put_pointer(offset_of!(KernelArgs, y), y)?;
        self.put(offset_of!(KernelArgs, columns), columns)?;
        self.put(offset_of!(KernelArgs, bias), code.plus(bias, code.scaled(column, 4)?)?)?;
        self.put(offset_of!(KernelArgs, extra), code.plus(extra, place)?)?;
        let ty = code.context.void_type().fn_type(&[code.pointer_type().into()], false);
        code.builder.build_indirect_call(ty, kernel, &[self.args.into()], "")?;
        Ok(())
    }
}
