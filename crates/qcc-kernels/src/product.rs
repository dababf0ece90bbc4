//! Products of rows of activations with a packed weight.
//!
//! Rows are cut in nearly equal blocks of at most 6, panels in blocks that stay in the second
//! cache. Threads claim panels; in a block of panels all rows pass by, so that the weight is read
//! from memory once. A result depends on its row and column only, to the bit: not on the other
//! rows, the threads, or the place of the row.
//!
//! Single weights beside the matrix, an [`Overlay`], are added behind the kernels, while the results
//! of a block of panels are in the cache, and the epilogue comes after them.

use crate::abi::{Kernel, KernelArgs, KernelError, KernelSource};
use crate::act::{ActLayout, Activations, Lanes};
use crate::matrix::Matrix;
use crate::overlay::Overlay;
use crate::spec::{Epilogue, KernelSpec, Planes};
use crate::threads::Threads;
use qcc_quant::panel::PanelLayout;
use std::fmt;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, OnceLock};

/// Columns of a panel.
const PANEL: usize = 32;

/// Bytes of weights that stay in the second cache beside the activations.
const CACHED: usize = 384 << 10;

/// Most panels of a block: more gain nothing.
const MOST_PANELS: usize = 8;

/// Most rows of a kernel.
const MOST_ROWS: usize = KernelSpec::MOST_ROWS as usize;

/// A weight with the kernels for it.
///
/// What every call reads lies in two lines of the cache: with many weights in turn they come from
/// memory.
#[repr(C, align(64))]
pub struct Product {
    /// Those of the matrix.
    layout: PanelLayout,
    weights: Weights,
    matrix: Arc<Matrix>,
    source: Arc<dyn KernelSource>,
    planes: Planes,
    epilogue: Epilogue,
    overlay: Option<Arc<Overlay>>,
    /// By tiles and rows, found when they are first needed.
    kernels: [[OnceLock<Kernel>; MOST_ROWS]; 2],
}

/// What epilogues read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Operands<'a> {
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[rows][n]`.
    pub extra: Option<&'a [f32]>,
}

/// One of several products of the same rows.
pub struct Share<'a> {
    /// The product.
    pub product: &'a Product,
    /// What its epilogue reads.
    pub operands: Operands<'a>,
    /// `[rows][n]`.
    pub y: &'a mut [f32],
}

/// Why a product was not computed.
#[derive(Debug, thiserror::Error)]
pub enum ProductError {
    /// There is no kernel for it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An operand has another length than the shape says.
    #[error("{what} of a product: {got} given, {want} needed")]
    Length {
        /// Which operand.
        what: &'static str,
        /// Elements given.
        got: usize,
        /// Elements needed.
        want: usize,
    },
    /// The activations were quantized for another weight.
    #[error("activations quantized for another weight")]
    Activations,
    /// The product has an overlay, and the activations were not kept as floats.
    #[error("activations not kept as floats, which an overlay reads")]
    NotKept,
}

/// Kernels for whole panels and for a last one of one tile.
#[derive(Clone, Copy)]
struct Chosen {
    spec: KernelSpec,
    kernel: Kernel,
}

/// The panels of a matrix that is kept.
#[derive(Clone, Copy)]
struct Weights(*const u8);

// SAFETY: bytes that nobody writes.
#[allow(unsafe_code)]
unsafe impl Send for Weights {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Weights {}

/// Results that threads write to, each its own.
#[derive(Clone, Copy)]
struct Results(*mut f32);

// SAFETY: each panel and row is written by one thread.
#[allow(unsafe_code)]
unsafe impl Send for Results {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Results {}

impl Results {
    fn at(self, element: usize) -> *mut f32 {
        self.0.wrapping_add(element)
    }
}

impl Product {
    /// For a weight, with activations of `planes`. Kernels are asked for as they are needed.
    #[must_use]
    pub fn new(
        matrix: Arc<Matrix>,
        source: Arc<dyn KernelSource>,
        planes: Planes,
        epilogue: Epilogue,
    ) -> Self {
        let (layout, weights) = (*matrix.layout(), Weights(matrix.bytes().as_ptr()));
        let (overlay, kernels) = (None, Default::default());
        Self { layout, weights, matrix, source, planes, epilogue, overlay, kernels }
    }

    /// The same with single weights beside those of the matrix, which multiply the activations as
    /// floats. Activations have to be [kept](Activations::keep) then.
    ///
    /// # Panics
    /// If they are of another shape than the matrix.
    #[must_use]
    pub fn with_overlay(self, overlay: Option<Arc<Overlay>>) -> Self {
        let shape = (self.layout.n(), self.layout.k());
        let fits = overlay.as_ref().is_none_or(|it| (it.n(), it.k()) == shape);
        assert!(fits, "an overlay of this matrix");
        Self { overlay, ..self }
    }

    /// Single weights beside those of the matrix.
    #[must_use]
    pub fn overlay(&self) -> Option<&Arc<Overlay>> {
        self.overlay.as_ref()
    }

    /// The weight.
    #[must_use]
    pub fn matrix(&self) -> &Arc<Matrix> {
        &self.matrix
    }

    /// That of the weight.
    #[must_use]
    pub fn layout(&self) -> &PanelLayout {
        &self.layout
    }

    /// How exactly activations are kept.
    #[must_use]
    pub fn planes(&self) -> Planes {
        self.planes
    }

    /// What is done to results before they are stored.
    #[must_use]
    pub fn epilogue(&self) -> Epilogue {
        self.epilogue
    }

    /// How activations are quantized for it.
    #[must_use]
    pub fn act_layout(&self) -> ActLayout {
        ActLayout::new(&self.layout, self.planes)
    }

    /// Asks for the kernels that products of so many rows need.
    ///
    /// # Errors
    /// If one does not exist.
    pub fn prepare(&self, rows: usize) -> Result<(), KernelError> {
        let blocks = rows.div_ceil(MOST_ROWS).max(1);
        for rows in (rows / blocks).max(1)..=rows.div_ceil(blocks).max(1) {
            self.chosen(rows)?;
        }
        Ok(())
    }

    /// Kernels of so many rows: for panels of two tiles and of one.
    fn chosen(&self, rows: usize) -> Result<[Option<Chosen>; 2], KernelError> {
        let layout = &self.layout;
        let last = layout.tiles(layout.panels() - 1);
        let find = |tiles: usize| {
            let exists = tiles == last || (tiles == 2 && layout.panels() > 1);
            if !exists {
                return Ok(None);
            }
            let spec =
                KernelSpec::new(layout, rows as u8, tiles as u8, self.planes, self.source.isa());
            // An overlay comes before the end.
            let end = if self.overlay.is_some() { Epilogue::None } else { self.epilogue };
            let spec = spec.with_epilogue(end);
            let slot = &self.kernels[tiles - 1][rows - 1];
            let kernel = match slot.get() {
                Some(kernel) => *kernel,
                None => {
                    let kernel = self.source.kernel(&spec)?;
                    *slot.get_or_init(|| kernel)
                }
            };
            Ok::<_, KernelError>(Some(Chosen { spec, kernel }))
        };
        Ok([find(1)?, find(2)?])
    }

    /// `y[rows][n] = epilogue(x[rows][k] W^T)`. `acts` is room that is used again.
    ///
    /// # Errors
    /// [`ProductError::Length`]; [`ProductError::Kernel`].
    pub fn run(
        &self,
        pool: &dyn Threads,
        acts: &mut Activations,
        x: &[f32],
        operands: Operands<'_>,
        y: &mut [f32],
    ) -> Result<(), ProductError> {
        let k = self.layout.k();
        let rows = x.len() / k;
        check("activations", x.len(), rows * k)?;
        acts.quantize_on(pool, self.act_layout(), x);
        if self.overlay.is_some() {
            acts.keep(pool, x);
        }
        self.run_quantized(pool, acts, operands, y)
    }

    /// The same with activations that are quantized already: several products of the same rows
    /// may share them, if [`ActLayout::serves`] says so.
    ///
    /// # Errors
    /// Those of [`Self::run`]; [`ProductError::Activations`].
    pub fn run_quantized(
        &self,
        pool: &dyn Threads,
        acts: &Activations,
        operands: Operands<'_>,
        y: &mut [f32],
    ) -> Result<(), ProductError> {
        match self.call(acts, operands, y)? {
            Some(call) => fan(pool, &[call]),
            None => Ok(()),
        }
    }

    /// [`Self::run_quantized`] of several products as one job: threads start and end once.
    ///
    /// # Errors
    /// Those of [`Self::run_quantized`]; then nothing was computed.
    pub fn run_all(
        pool: &dyn Threads,
        acts: &Activations,
        shares: &mut [Share<'_>],
    ) -> Result<(), ProductError> {
        let calls = shares.iter_mut().map(|it| it.product.call(acts, it.operands, &mut *it.y));
        let calls: Vec<Call<'_>> = calls.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        fan(pool, &calls)
    }

    /// What is to be done for the rows, if there are any.
    fn call<'a>(
        &'a self,
        acts: &'a Activations,
        operands: Operands<'a>,
        y: &'a mut [f32],
    ) -> Result<Option<Call<'a>>, ProductError> {
        if !acts.layout().is_some_and(|it| it.serves(&self.act_layout())) {
            return Err(ProductError::Activations);
        }
        if self.overlay.is_some() && acts.floats().is_none() {
            return Err(ProductError::NotKept);
        }
        let (n, rows) = (self.layout.n(), acts.rows());
        let results = rows.saturating_mul(n);
        check("results", y.len(), results)?;
        let operand = |what, given: Option<&[f32]>, reads: bool, want| {
            if !reads {
                return Ok(ptr::null());
            }
            let given = given.unwrap_or(&[]);
            check(what, given.len(), want).map(|()| given.as_ptr())
        };
        let bias = operand("bias", operands.bias, self.epilogue.reads_bias(), n)?;
        let extra = operand("operand", operands.extra, self.epilogue.reads_extra(), results)?;
        if rows == 0 {
            return Ok(None);
        }
        Ok(Some(Call::new(self, acts, bias, extra, Results(y.as_mut_ptr()))?))
    }
}

/// Does calls of the same rows as one job.
fn fan(pool: &dyn Threads, calls: &[Call<'_>]) -> Result<(), ProductError> {
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

impl fmt::Debug for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Product")
            .field("layout", &self.layout)
            .field("planes", &self.planes)
            .field("epilogue", &self.epilogue)
            .finish_non_exhaustive()
    }
}

/// One call of [`Product::run_quantized`].
struct Call<'a> {
    product: &'a Product,
    acts: &'a Activations,
    bias: *const f32,
    extra: *const f32,
    y: Results,
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
    fn new(
        product: &'a Product,
        acts: &'a Activations,
        bias: *const f32,
        extra: *const f32,
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
        Ok(Self { product, acts, bias, extra, y, blocks, panels, kernels: [small, large] })
    }

    /// Some panels times some blocks of rows.
    fn run(&self, panels: Range<usize>, blocks: Range<usize>) {
        let rows = self.acts.rows();
        let mut first = panels.start;
        while first < panels.end {
            let end = panels.end.min(first + self.panels);
            for block in blocks.clone() {
                // The larger blocks come last.
                let (from, to) = (block * rows / self.blocks, (block + 1) * rows / self.blocks);
                let larger = usize::from(to - from > rows / self.blocks);
                self.block(first..end, from, &self.kernels[larger]);
            }
            if let (Some(overlay), Some(lanes)) = (&self.product.overlay, self.acts.floats()) {
                let [from, to] = [blocks.start, blocks.end].map(|it| it * rows / self.blocks);
                self.overlay(overlay, lanes, first..end, from..to);
            }
            first = end;
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

fn check(what: &'static str, got: usize, want: usize) -> Result<(), ProductError> {
    if got == want { Ok(()) } else { Err(ProductError::Length { what, got, want }) }
}
