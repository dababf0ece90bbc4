//! Products of rows of activations with a packed weight.
//!
//! Rows are cut in nearly equal blocks of at most 6, panels in blocks that stay in the second
//! cache. Threads claim panels; in a block of panels all rows pass by, so that the weight is read
//! from memory once. A result depends on its row and column only, to the bit: not on the other
//! rows, the threads, or the place of the row.
//!
//! Single weights beside the matrix, an [`Overlay`], are added behind the kernels, while the results
//! of a block of panels are in the cache, and the epilogue comes after them.

mod call;

use crate::abi::{Kernel, KernelError, KernelSource};
use crate::act::{ActLayout, Activations};
use crate::matrix::Matrix;
use crate::overlay::Overlay;
use crate::spec::{Epilogue, KernelSpec, Planes};
use crate::threads::Threads;
use call::{Call, Results, fan};
use qcc_quant::panel::PanelLayout;
use std::fmt;
use std::ptr;
use std::sync::{Arc, OnceLock};

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
    /// Where its operand `extra` comes from, if not from [`Self::operands`].
    pub factor: Option<Factor<'a>>,
}

/// A product whose results another one reads, panel by panel: both are computed in one job.
pub struct Factor<'a> {
    /// The product, without an end that reads anything but a bias.
    pub product: &'a Product,
    /// `[n]`, if it adds one.
    pub bias: Option<&'a [f32]>,
    /// `[rows][n]`, for its results.
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
        match self.call(acts, operands, None, y)? {
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
        let calls = shares.iter_mut().map(|it| {
            let factor = match &mut it.factor {
                Some(factor) => {
                    let n = it.product.layout.n();
                    check("columns of a factor", factor.product.layout.n(), n)?;
                    let operands = Operands { bias: factor.bias, extra: None };
                    factor.product.call(acts, operands, None, &mut *factor.y)?
                }
                None => None,
            };
            it.product.call(acts, it.operands, factor, &mut *it.y)
        });
        let calls: Vec<Call<'_>> = calls.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        fan(pool, &calls)
    }

    /// What is to be done for the rows, if there are any.
    fn call<'a>(
        &'a self,
        acts: &'a Activations,
        operands: Operands<'a>,
        factor: Option<Call<'a>>,
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
        let reads_extra = self.epilogue.reads_extra();
        let extra = match &factor {
            Some(factor) => factor.y.at(0).cast_const(),
            // Without rows there is no call of a factor, and nothing is read.
            None => operand("operand", operands.extra, reads_extra && rows > 0, results)?,
        };
        if rows == 0 {
            return Ok(None);
        }
        Ok(Some(Call::new(self, acts, bias, extra, factor, Results(y.as_mut_ptr()))?))
    }
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

fn check(what: &'static str, got: usize, want: usize) -> Result<(), ProductError> {
    if got == want { Ok(()) } else { Err(ProductError::Length { what, got, want }) }
}
