//! A product of some rows while it is computed: which kernel does which panels and rows.

use std::ops::Range;

use super::{Chosen, MOST_ROWS, Product, ProductError};
use crate::abi::{KernelArgs, KernelError};
use crate::act::{Activations, Lanes};
use crate::overlay::Overlay;
use crate::spec::Epilogue;
use crate::threads::Threads;

/// Columns of a panel.
const PANEL: usize = 32;

/// Bytes of weights that stay in the second cache beside the activations.
const CACHED: usize = 384 << 10;

/// Most panels of a block: more gain nothing.
const MOST_PANELS: usize = 8;

/// Results that threads write to, each its own.
#[derive(Clone, Copy)]
pub(super) struct Results(pub(super) *mut f32);

// SAFETY: each panel and row is written by one thread.
#[allow(unsafe_code)]
unsafe impl Send for Results {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Results {}

impl Results {
    pub(super) fn at(self, element: usize) -> *mut f32 {
        self.0.wrapping_add(element)
    }
}

/// Does calls of the same rows as one job.
pub(super) fn fan(pool: &dyn Threads, calls: &[Call<'_>]) -> Result<(), ProductError> {
    let panels: usize = calls.iter().map(|call| call.product.layout.panels()).sum();
    let blocks = calls.iter().map(|call| call.blocks).max().unwrap_or(0);
    if panels == 0 {
        return Ok(());
    }
    // Few columns: threads share the rows as well.
    let parts = (2 * pool.threads()).div_ceil(panels).min(blocks);
    let parts = if pool.threads() < 2 || panels >= 4 * pool.threads() { 1 } else { parts };
    pool.run(panels * parts, &|range| {
        for part in range.start / panels..range.end.div_ceil(panels) {
            let from = range.start.max(part * panels) - part * panels;
            let to = range.end.min((part + 1) * panels) - part * panels;
            let blocks = part * blocks / parts..(part + 1) * blocks / parts;
            let mut first = 0;
            for call in calls {
                let end = first + call.product.layout.panels();
                if from < end && to > first {
                    call.run(from.max(first) - first..to.min(end) - first, blocks.clone());
                }
                first = end;
            }
        }
    });
    Ok(())
}

/// One call of [`Product::run_quantized`].
pub(super) struct Call<'a> {
    product: &'a Product,
    acts: &'a Activations,
    bias: *const f32,
    extra: *const f32,
    /// What gives `extra`: as many columns of the same rows.
    factor: Option<Box<Call<'a>>>,
    pub(super) y: Results,
    /// Blocks of rows.
    blocks: usize,
    /// Panels of a block of panels.
    panels: usize,
    /// Kernels of the smaller and of the larger blocks of rows.
    kernels: [[Option<Chosen>; 2]; 2],
}

// SAFETY: what the pointers lead to is borrowed as long as the call lives; results are written by
// panel and row, each by one thread.
#[allow(unsafe_code)]
unsafe impl Sync for Call<'_> {}

impl<'a> Call<'a> {
    pub(super) fn new(
        product: &'a Product,
        acts: &'a Activations,
        bias: *const f32,
        extra: *const f32,
        factor: Option<Self>,
        y: Results,
    ) -> Result<Self, KernelError> {
        let rows = acts.rows();
        let blocks = rows.div_ceil(MOST_ROWS);
        let small = product.chosen(rows / blocks)?;
        let large =
            if rows.is_multiple_of(blocks) { small } else { product.chosen(rows / blocks + 1)? };
        let layout = &product.layout;
        let panels = if blocks == 1 {
            layout.panels()
        } else {
            (CACHED / layout.panel_stride()).clamp(1, MOST_PANELS)
        };
        let (factor, kernels) = (factor.map(Box::new), [small, large]);
        Ok(Self { product, acts, bias, extra, factor, y, blocks, panels, kernels })
    }

    /// Some panels times some blocks of rows.
    fn run(&self, panels: Range<usize>, blocks: Range<usize>) {
        let mut first = panels.start;
        while first < panels.end {
            let end = panels.end.min(first + self.panels);
            if let Some(factor) = &self.factor {
                factor.blocks(first..end, blocks.clone());
            }
            self.blocks(first..end, blocks.clone());
            first = end;
        }
    }

    /// Panels that stay in the cache times some blocks of rows.
    fn blocks(&self, panels: Range<usize>, blocks: Range<usize>) {
        let rows = self.acts.rows();
        for block in blocks.clone() {
            // The larger blocks come last.
            let (from, to) = (block * rows / self.blocks, (block + 1) * rows / self.blocks);
            let larger = usize::from(to - from > rows / self.blocks);
            self.block(panels.clone(), from, &self.kernels[larger]);
        }
        if let (Some(overlay), Some(lanes)) = (&self.product.overlay, self.acts.floats()) {
            let [from, to] = [blocks.start, blocks.end].map(|it| it * rows / self.blocks);
            self.overlay(overlay, lanes, panels, from..to);
        }
    }

    /// Some panels times one block of rows.
    fn block(&self, panels: Range<usize>, row: usize, kernels: &[Option<Chosen>; 2]) {
        let layout = &self.product.layout;
        let last = layout.panels() - 1;
        let single = panels.end > last && layout.tiles(last) == 1;
        let whole = panels.start..if single { last } else { panels.end };
        if let (Some(chosen), false) = (&kernels[1], whole.is_empty()) {
            self.kernel(whole, row, chosen);
        }
        if let (Some(chosen), true) = (&kernels[0], single) {
            self.kernel(last..last + 1, row, chosen);
        }
    }

    /// What comes behind a kernel where there is an overlay: that, and then the end.
    fn overlay(&self, it: &Overlay, lanes: &Lanes, panels: Range<usize>, rows: Range<usize>) {
        let n = self.product.layout.n();
        let columns = panels.start * PANEL..(panels.end * PANEL).min(n);
        it.each(lanes, rows.clone(), columns.clone(), |row, first, sums| {
            // SAFETY: results of these rows and columns, which are this thread's.
            #[allow(unsafe_code)]
            let y =
                unsafe { std::slice::from_raw_parts_mut(self.y.at(row * n + first), sums.len()) };
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
        });
        if self.product.epilogue == Epilogue::None {
            return;
        }
        let (reads_bias, reads_extra) = (!self.bias.is_null(), !self.extra.is_null());
        for row in rows {
            let at = row * n + columns.start;
            // SAFETY: results of this thread as above; `bias` has all columns and `extra` all rows
            // and columns, where they are read.
            #[allow(unsafe_code)]
            let (y, bias, extra) = unsafe {
                let len = columns.len();
                let read = |is_read: bool, from: *const f32, at: usize| {
                    if is_read { std::slice::from_raw_parts(from.add(at), len) } else { &[] }
                };
                (
                    std::slice::from_raw_parts_mut(self.y.at(at), len),
                    read(reads_bias, self.bias, columns.start),
                    read(reads_extra, self.extra, at),
                )
            };
            self.product.epilogue.apply_all(y, bias, extra);
        }
    }

    fn kernel(&self, panels: Range<usize>, row: usize, chosen: &Chosen) {
        let layout = &self.product.layout;
        let n = layout.n();
        let column = panels.start * PANEL;
        let args = KernelArgs {
            weights: self.product.weights.0.wrapping_add(panels.start * layout.panel_stride()),
            panels: panels.len() as u64,
            panel_stride: layout.panel_stride() as u64,
            y: self.y.at(row * n + column),
            y_row: n as u64,
            columns: layout.columns(panels.end - 1) as u64,
            bias: self.bias.wrapping_add(if self.bias.is_null() { 0 } else { column }),
            extra: self.extra.wrapping_add(if self.extra.is_null() { 0 } else { row * n + column }),
            extra_row: n as u64,
            spec: &raw const chosen.spec,
            ..self.acts.args(row)
        };
        // SAFETY: the arguments are those of the spec that the kernel was asked for with: these
        // panels exist and have its tiles, and rows from `row` on were quantized for the matrix,
        // as many as the kernel has. `y` and `extra` hold all rows and columns, `bias` all
        // columns. The source gives kernels that the CPU can run, and lives as long as `Product`.
        #[allow(unsafe_code)]
        unsafe {
            (chosen.kernel)(&raw const args);
        }
    }
}
