//! The operands of a kernel: what [`KernelArgs`] points at.

use crate::code::{Code, Emitted};
use crate::nest::{Nest, ZERO_SIZE};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};
use qcc_kernels::KernelArgs;
use std::mem::offset_of;
use std::ops::Range;

/// Columns from one panel to the next.
const PANEL: u64 = 32;

/// Pointers to the first column of a strip.
#[derive(Clone)]
pub(crate) struct Operands<'c> {
    pub weights: PointerValue<'c>,
    pub panels: IntValue<'c>,
    panel_stride: IntValue<'c>,
    pub groups: IntValue<'c>,
    pub group_blocks: IntValue<'c>,
    /// Scales and zero points of the strip are this many bytes beyond those that follow the
    /// codes that `weights` points at.
    pub scale_skip: IntValue<'c>,
    pub zero_skip: IntValue<'c>,
    /// By row and plane.
    pub acts: Vec<PointerValue<'c>>,
    /// By row and plane; symmetric kernels.
    pub init: Vec<PointerValue<'c>>,
    /// By row.
    pub act_scales: Vec<PointerValue<'c>>,
    /// By row; asymmetric kernels.
    pub act_sums: Vec<PointerValue<'c>>,
    /// By row.
    pub y: Vec<PointerValue<'c>>,
    /// Columns from here on to the last of the panel; more than there are, if they are full.
    pub columns: IntValue<'c>,
    pub bias: Option<PointerValue<'c>>,
    /// By row.
    pub extra: Vec<PointerValue<'c>>,
}

impl<'c> Operands<'c> {
    /// Reads the arguments; of the second and later rows it computes the addresses.
    pub(crate) fn load(nest: &Nest<'_, 'c>) -> Emitted<Self> {
        let code = nest.code;
        let int = |field: usize| {
            let value = code.load(code.context.i64_type(), argument(nest, field)?, 8)?;
            Emitted::Ok(value.into_int_value())
        };
        let pointer = |field: usize| {
            let value = code.load(code.pointer_type(), argument(nest, field)?, 8)?;
            Emitted::Ok(value.into_pointer_value())
        };
        let spec = nest.spec;
        let planes = u64::from(spec.planes.count());
        let lines = |base: usize, row: usize, plane: Option<usize>, size: u64| {
            let (base, row) = (pointer(base)?, scaled(code, int(row)?, size)?);
            let plane = plane.map(|plane| scaled(code, int(plane)?, size)).transpose()?;
            let mut all = Vec::new();
            for r in 0..u64::from(spec.rows) {
                for p in 0..plane.map_or(1, |_| planes) {
                    let mut at = code.offset(base, scaled(code, row, r)?)?;
                    if let Some(plane) = plane {
                        at = code.offset(at, scaled(code, plane, p)?)?;
                    }
                    all.push(at);
                }
            }
            Emitted::Ok(all)
        };
        let group_row = offset_of!(KernelArgs, act_group_row);
        let mut operands = Operands {
            weights: pointer(offset_of!(KernelArgs, weights))?,
            panels: int(offset_of!(KernelArgs, panels))?,
            panel_stride: int(offset_of!(KernelArgs, panel_stride))?,
            groups: int(offset_of!(KernelArgs, groups))?,
            group_blocks: int(offset_of!(KernelArgs, group_blocks))?,
            scale_skip: code.index(0),
            zero_skip: code.index(0),
            acts: lines(
                offset_of!(KernelArgs, acts),
                offset_of!(KernelArgs, act_row),
                Some(offset_of!(KernelArgs, act_plane)),
                1,
            )?,
            init: Vec::new(),
            act_scales: lines(offset_of!(KernelArgs, act_scales), group_row, None, 4)?,
            act_sums: Vec::new(),
            y: lines(offset_of!(KernelArgs, y), offset_of!(KernelArgs, y_row), None, 4)?,
            columns: int(offset_of!(KernelArgs, columns))?,
            bias: None,
            extra: Vec::new(),
        };
        if spec.asymmetric {
            operands.act_sums = lines(offset_of!(KernelArgs, act_sums), group_row, None, 4)?;
        } else {
            let plane = Some(offset_of!(KernelArgs, act_group_plane));
            operands.init = lines(offset_of!(KernelArgs, act_init), group_row, plane, 4)?;
        }
        if spec.epilogue.reads_bias() {
            operands.bias = Some(pointer(offset_of!(KernelArgs, bias))?);
        }
        if spec.epilogue.reads_extra() {
            let row = offset_of!(KernelArgs, extra_row);
            operands.extra = lines(offset_of!(KernelArgs, extra), row, None, 4)?;
        }
        Ok(operands)
    }

    /// The same for panel number `panel`.
    pub(crate) fn panel(&self, nest: &Nest<'_, 'c>, panel: IntValue<'c>) -> Emitted<Self> {
        let code = nest.code;
        let width = u64::from(nest.spec.tiles) * 16;
        let bytes = code.builder.build_int_mul(panel, self.panel_stride, "")?;
        let next = code.builder.build_int_add(panel, code.index(1), "")?;
        let more = code.builder.build_int_compare(IntPredicate::ULT, next, self.panels, "")?;
        let columns = code.builder.build_select(more, code.index(width), self.columns, "")?;
        Ok(Operands {
            weights: code.offset(self.weights, bytes)?,
            columns: columns.into_int_value(),
            ..self.columns_on(nest, scaled(code, panel, PANEL)?)?
        })
    }

    /// The same for some of the rows.
    pub(crate) fn rows(&self, rows: Range<usize>, planes: usize) -> Self {
        let lines = rows.start * planes..rows.end * planes;
        let of = |all: &[PointerValue<'c>], range: &Range<usize>| {
            all.get(range.clone()).unwrap_or_default().to_vec()
        };
        Operands {
            acts: of(&self.acts, &lines),
            init: of(&self.init, &lines),
            act_scales: of(&self.act_scales, &rows),
            act_sums: of(&self.act_sums, &rows),
            y: of(&self.y, &rows),
            extra: of(&self.extra, &rows),
            ..self.clone()
        }
    }

    /// The same for strip number `strip` of the panel.
    pub(crate) fn strip(&self, nest: &Nest<'_, 'c>, strip: IntValue<'c>) -> Emitted<Self> {
        let code = nest.code;
        let columns = scaled(code, strip, u64::from(nest.units * nest.isa.lanes()))?;
        let codes = scaled(code, columns, 4)?;
        // Codes of a column are 4 bytes of a vector; scales and zero points have other sizes.
        let skip = |size: u64| {
            Emitted::Ok(code.builder.build_int_sub(scaled(code, columns, size)?, codes, "")?)
        };
        Ok(Operands {
            weights: code.offset(self.weights, codes)?,
            scale_skip: skip(nest.scale_size())?,
            zero_skip: skip(ZERO_SIZE)?,
            columns: code.builder.build_int_sub(self.columns, columns, "")?,
            ..self.columns_on(nest, columns)?
        })
    }

    /// What belongs to columns, `columns` further on.
    fn columns_on(&self, nest: &Nest<'_, 'c>, columns: IntValue<'c>) -> Emitted<Self> {
        let code = nest.code;
        let bytes = scaled(code, columns, 4)?;
        let all = |pointers: &[PointerValue<'c>]| -> Emitted<Vec<PointerValue<'c>>> {
            pointers.iter().map(|&at| code.offset(at, bytes)).collect()
        };
        Ok(Operands {
            y: all(&self.y)?,
            bias: self.bias.map(|bias| code.offset(bias, bytes)).transpose()?,
            extra: all(&self.extra)?,
            ..self.clone()
        })
    }
}

/// The address of a field of the arguments.
fn argument<'c>(nest: &Nest<'_, 'c>, field: usize) -> Emitted<PointerValue<'c>> {
    let arguments = nest.function.get_nth_param(0);
    let lost = || crate::CodegenError::Internal("a kernel without a parameter".into());
    nest.code.at(arguments.ok_or_else(lost)?.into_pointer_value(), field as u64)
}

fn scaled<'c>(code: &Code<'c>, value: IntValue<'c>, by: u64) -> Emitted<IntValue<'c>> {
    Ok(match by {
        0 => code.index(0),
        1 => value,
        _ => code.builder.build_int_mul(value, code.index(by), "")?,
    })
}
