//! The definition of a kernel, written from the description of the layout and not from the
//! emitter: one code at a time.

use crate::case::Case;
use qcc_kernels::KernelGroup;
use qcc_quant::panel::{PanelBits, PanelScale};

/// Columns from one panel to the next.
pub(crate) const PANEL: usize = 32;

/// What the kernel should leave in `y`, columns that do not exist left as they were.
pub(crate) fn expected(case: &Case) -> Vec<f32> {
    let mut y = case.y.clone();
    let width = usize::from(case.spec.tiles) * 16;
    for panel in 0..case.panels {
        let columns = if panel + 1 == case.panels { case.columns } else { width };
        for row in 0..usize::from(case.spec.rows) {
            for column in 0..columns {
                let at = panel * PANEL + column;
                y[row * case.y_row + at] = result(case, panel, row, column);
            }
        }
    }
    y
}

fn result(case: &Case, panel: usize, row: usize, column: usize) -> f32 {
    let spec = case.spec;
    let planes = spec.planes.count() as usize;
    let mut y = 0.0_f32;
    for group in 0..case.groups {
        let mut total = 0.0_f32;
        for plane in 0..planes {
            let line = row * planes + plane;
            let mut sum = 0_i32;
            if !spec.asymmetric {
                sum = case.act_init[line * case.groups + group];
            }
            for k in 0..case.group {
                let code = code(case, panel, column, group * case.group + k);
                let act = case.acts[line * case.act_plane + group * case.group + k];
                sum += i32::from(code) * i32::from(act);
            }
            total = if plane == 0 { sum as f32 } else { total.mul_add(128.0, sum as f32) };
        }
        let (scale, zero) = scale_and_zero(case, panel, column, group);
        y = total.mul_add(scale * case.act_scales[row * case.group_row + group], y);
        if spec.asymmetric {
            y = (-(scale * zero)).mul_add(case.act_sums[row * case.group_row + group], y);
        }
    }
    let at = panel * PANEL + column;
    spec.epilogue.apply(y, case.bias[at], case.extra[row * case.y_row + at])
}

/// The code of column `column` of a panel and of `k`.
fn code(case: &Case, panel: usize, column: usize, k: usize) -> u8 {
    let tiles = usize::from(case.spec.tiles);
    let bits = case.spec.bits.bits() as usize;
    let (group, inside) = (k / case.group, k % case.group);
    let (step, block) = match case.spec.group {
        KernelGroup::Half => (k / 32, 0),
        _ => (group, inside / 32),
    };
    let (chunk, byte) = (k % 32 / 4, k % 4);
    let base = panel * case.panel_stride + step * case.step_bytes + block * bits * tiles * 64;
    let tile = column / 16;
    let vector = |j: usize| case.weights[base + (j * tiles + tile) * 64 + column % 16 * 4 + byte];
    match case.spec.bits {
        PanelBits::B8 => vector(chunk),
        PanelBits::B4 => vector(chunk / 2) >> (4 * (chunk % 2)) & 15,
        PanelBits::B2 => vector(chunk / 4) >> (2 * (chunk % 4)) & 3,
        PanelBits::B3 => match chunk {
            6 => vector(0) >> 6 | vector(2) >> 7 << 2,
            7 => vector(1) >> 6 | (vector(2) >> 6 & 1) << 2,
            _ => vector(chunk / 2) >> (3 * (chunk % 2)) & 7,
        },
    }
}

fn scale_and_zero(case: &Case, panel: usize, column: usize, group: usize) -> (f32, f32) {
    let per_step = if case.spec.group == KernelGroup::Half { 2 } else { 1 };
    let parts = case.scale_bytes + case.zero_bytes;
    let at = panel * case.panel_stride
        + (group / per_step) * case.step_bytes
        + case.code_bytes
        + (group % per_step) * parts;
    let bytes = |at: usize| [case.weights[at], case.weights[at + 1]];
    let scale = match case.spec.scale {
        PanelScale::F32 => {
            let at = at + 4 * column;
            f32::from_le_bytes([0, 1, 2, 3].map(|i| case.weights[at + i]))
        }
        PanelScale::F16 => half::f16::from_le_bytes(bytes(at + 2 * column)).to_f32(),
        PanelScale::Bf16 => half::bf16::from_le_bytes(bytes(at + 2 * column)).to_f32(),
    };
    let zero = if case.spec.asymmetric {
        half::f16::from_le_bytes(bytes(at + case.scale_bytes + 2 * column)).to_f32()
    } else {
        0.0
    };
    (scale, zero)
}
