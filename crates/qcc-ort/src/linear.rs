//! Products that read the same activations, as one unit of work.
//!
//! Activations are quantized once for all that take them alike, and the products are one job for
//! the threads. The other factor of a SiLU is computed panel by panel before its gate, in that
//! job, and goes to room that is used again.

use crate::api::{Api, Failure, ort};
use crate::kernels::Kernels;
use crate::norms;
use crate::tensor::{Kind, Output, Tensor, count};
use crate::threads::Host;
use crate::weight::Packed;
use ort_sys::{OrtKernelContext, OrtLoggingLevel};
use qcc_kernels::{
    ActLayout, Activations, Alone, Epilogue, Factor, Operands, Planes, Pool, Product, ProductError,
    Share, Threads,
};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// Less work, in multiplications, is done before other threads have started.
const ALONE: usize = 640 << 10;

/// Threads for products.
pub(crate) enum Workers {
    /// Those of the session, as many as the machine has at most.
    Host(usize),
    /// Own ones.
    Own(Pool),
}

impl Workers {
    /// As an option says.
    pub(crate) fn new(threads: Option<usize>) -> Self {
        match threads {
            Some(threads) => Self::Own(Pool::new(threads)),
            None => Self::Host(std::thread::available_parallelism().map_or(1, Into::into)),
        }
    }
}

/// What all products of a session share: kernels, and room that is used again.
pub(crate) struct Room {
    pub(crate) workers: Workers,
    kernels: Kernels,
    spare: Mutex<Vec<Scratch>>,
}

/// Room for what lies between activations and results.
#[derive(Default)]
pub(crate) struct Scratch {
    acts: Activations,
    /// Factors of gates.
    floats: Vec<f32>,
    /// Activations behind a norm.
    normed: Vec<f32>,
}

impl Room {
    pub(crate) fn new(workers: Workers, kernels: Kernels) -> Self {
        Self { workers, kernels, spare: Mutex::default() }
    }

    /// The kernels of all products in it.
    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Tells the user, in the log of a running operator, what became of the kernels, if it is new.
    fn tell(&self, api: &Api, context: *mut OrtKernelContext) {
        let Some(line) = self.kernels.news() else { return };
        let mut logger = ptr::null();
        // Without a log there is nobody to tell.
        if ort!(api, KernelContext_GetLogger(context, &raw mut logger)).is_ok() {
            api.log(logger, OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING, &line);
        }
    }

    /// Runs so many multiplications of a running operator, on as many threads as they are worth.
    pub(crate) fn run<T>(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        work: usize,
        body: impl FnOnce(&dyn Threads, &mut Scratch) -> T,
    ) -> T {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = spare().pop().unwrap_or_default();
        let result = match &self.workers {
            _ if work < ALONE => body(&Alone, &mut scratch),
            Workers::Own(pool) => body(pool, &mut scratch),
            Workers::Host(threads) => body(&Host::new(api, context, *threads), &mut scratch),
        };
        spare().push(scratch);
        result
    }
}

impl Scratch {
    /// So many floats, whatever is in them.
    pub(crate) fn floats(&mut self, count: usize) -> (&mut Activations, &mut [f32]) {
        if self.floats.len() < count {
            self.floats.resize(count, 0.0);
        }
        (&mut self.acts, &mut self.floats[..count])
    }
}

/// A weight with its kernels and bias. That of one row is found at once, those of more rows when a
/// run has them.
pub(crate) struct Linear {
    product: Product,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// # Errors
    /// If there is no kernel for it, not even in plain Rust.
    pub(crate) fn new(
        Packed { matrix, overlay }: Packed,
        kernels: &Kernels,
        planes: Planes,
        bias: Option<Vec<f32>>,
        epilogue: Epilogue,
    ) -> Result<Self, Failure> {
        let product = Product::new(Arc::new(matrix), kernels.source(), planes, epilogue);
        let linear = Self { product: product.with_overlay(overlay.map(Arc::new)), bias };
        linear.product.prepare(1).map_err(|it| Failure::other(it.to_string()))?;
        Ok(linear)
    }

    fn operands(&self) -> Operands<'_> {
        Operands { bias: self.bias.as_deref(), extra: None }
    }

    fn has_overlay(&self) -> bool {
        self.product.overlay().is_some()
    }

    fn n(&self) -> usize {
        self.product.layout().n()
    }

    fn k(&self) -> usize {
        self.product.layout().k()
    }
}

/// A result of a group.
pub(crate) struct Part {
    pub(crate) linear: Linear,
    /// What its SiLU is multiplied with.
    pub(crate) up: Option<Linear>,
}

impl From<Linear> for Part {
    fn from(linear: Linear) -> Self {
        Self { linear, up: None }
    }
}

impl Part {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        [Some(&self.linear), self.up.as_ref()].into_iter().flatten()
    }

    fn acts(&self) -> ActLayout {
        self.linear.product.act_layout()
    }

    /// Whether both products take the same quantized activations.
    fn is_alike(&self) -> bool {
        self.linears().all(|it| it.product.act_layout().serves(&self.acts()))
    }

    /// Floats for the factor of a gate.
    fn between(&self, rows: usize) -> usize {
        self.up.as_ref().map_or(0, |it| it.n().saturating_mul(rows))
    }
}

/// Products of the same activations.
pub(crate) struct Group {
    k: usize,
    parts: Vec<Part>,
    /// Which of them take the same quantized activations.
    classes: Vec<Vec<usize>>,
    /// Gates whose factor takes others: codes of the one weight are shorter.
    apart: Vec<usize>,
}

impl Group {
    /// # Errors
    /// If they multiply rows of other lengths.
    pub(crate) fn new(parts: Vec<Part>) -> Result<Self, Failure> {
        let k = parts.first().map_or(0, |it| it.linear.k());
        if parts.iter().flat_map(Part::linears).any(|it| it.k() != k) || k == 0 {
            return Err(Failure::wrong("products of the same activations differ in K"));
        }
        let (mut classes, mut apart): (Vec<Vec<usize>>, _) = (Vec::new(), Vec::new());
        for (i, part) in parts.iter().enumerate() {
            if !part.is_alike() {
                apart.push(i);
                continue;
            }
            let layout = part.acts();
            let fits = |it: &&mut Vec<usize>| {
                it.first().is_some_and(|&it| parts[it].acts().serves(&layout))
            };
            match classes.iter_mut().find(fits) {
                Some(class) => class.push(i),
                None => classes.push(vec![i]),
            }
        }
        Ok(Self { k, parts, classes, apart })
    }

    /// Computes the results of a running operator: its input `x` or the norm of that, its outputs
    /// `ys`, one per product.
    pub(crate) fn compute(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        room: &Room,
        (x, norm): (usize, Option<&norms::Ready>),
        ys: &[usize],
    ) -> Result<(), Failure> {
        let mut value = ptr::null();
        ort!(api, KernelContext_GetInput(context, x, &raw mut value))?;
        // SAFETY: inputs live and stay as they are while the operator runs.
        let x = unsafe { Tensor::new(api, value)? };
        let rows = rows(&x, self.k)?;
        let mut outputs = Vec::with_capacity(ys.len());
        for (part, &at) in self.parts.iter().zip(ys) {
            outputs.push(output(api, context, at, &x, part.linear.n(), rows)?);
        }
        let floats = x.floats()?;
        if rows == 0 {
            // Its sum is a result as well.
            return norm.map_or(Ok(()), |it| it.run(api, context, &Alone, (&x, &floats), &mut []));
        }
        let mut ys: Vec<&mut [f32]> = outputs.iter_mut().map(Output::floats).collect();
        let columns: usize = self.parts.iter().flat_map(Part::linears).map(Linear::n).sum();
        let work = rows.saturating_mul(self.k).saturating_mul(columns);
        room.run(api, context, work, |threads, scratch| {
            let Some(norm) = norm else {
                return self.run(threads, scratch, &floats, &mut ys).map_err(Failure::from);
            };
            let mut normed = std::mem::take(&mut scratch.normed);
            normed.resize(floats.len(), 0.0);
            let done = norm.run(api, context, threads, (&x, &floats), &mut normed);
            let done = done
                .and_then(|()| self.run(threads, scratch, &normed, &mut ys).map_err(Failure::from));
            scratch.normed = normed;
            done
        })?;
        outputs.into_iter().for_each(Output::finish);
        room.tell(api, context);
        Ok(())
    }

    fn run(
        &self,
        threads: &dyn Threads,
        scratch: &mut Scratch,
        x: &[f32],
        ys: &mut [&mut [f32]],
    ) -> Result<(), ProductError> {
        let rows = x.len() / self.k;
        for class in &self.classes {
            let between = class.iter().map(|&it| self.parts[it].between(rows)).sum();
            let (acts, mut floats) = scratch.floats(between);
            let mut shares: Vec<Share<'_>> = Vec::with_capacity(class.len());
            for (i, (part, y)) in self.parts.iter().zip(&mut *ys).enumerate() {
                if !class.contains(&i) {
                    continue;
                }
                let (room, rest) = floats.split_at_mut(part.between(rows));
                floats = rest;
                let factor = part.up.as_ref().map(|it| {
                    let bias = it.bias.as_deref();
                    Factor { product: &it.product, bias, y: room }
                });
                let (product, operands) = (&part.linear.product, part.linear.operands());
                shares.push(Share { product, operands, y, factor });
            }
            if let Some(first) = shares.first() {
                acts.quantize_on(threads, first.product.act_layout(), x);
                let mut linears = class.iter().flat_map(|&it| self.parts[it].linears());
                if linears.any(Linear::has_overlay) {
                    acts.keep(threads, x);
                }
                Product::run_all(threads, acts, &mut shares)?;
            }
        }
        for &i in &self.apart {
            let part = &self.parts[i];
            let (acts, between) = scratch.floats(part.between(rows));
            if let Some(up) = &part.up {
                up.product.run(threads, acts, x, up.operands(), between)?;
            }
            let operands = Operands { extra: Some(between), ..part.linear.operands() };
            part.linear.product.run(threads, acts, x, operands, ys[i])?;
        }
        Ok(())
    }
}

impl From<ProductError> for Failure {
    fn from(error: ProductError) -> Self {
        Self::other(error.to_string())
    }
}

/// Rows of activations `[.., k]`.
pub(crate) fn rows(x: &Tensor<'_>, k: usize) -> Result<usize, Failure> {
    let (last, outer) = match x.dims.split_last() {
        Some((last, outer)) => (usize::try_from(*last).ok(), outer),
        None => (None, x.dims),
    };
    if last != Some(k) || !x.kind.is_float() {
        return Err(Failure::wrong(format!(
            "activations of shape {:?} for a weight with K = {k}",
            x.dims
        )));
    }
    count(outer)
}

/// Output `at` of a running operator: the shape of `x` with `n` at its end.
pub(crate) fn output<'a>(
    api: &Api,
    context: *mut OrtKernelContext,
    at: usize,
    x: &Tensor<'_>,
    n: usize,
    rows: usize,
) -> Result<Output<'a>, Failure> {
    let mut dims = x.dims.to_vec();
    if let (Some(last), Ok(n)) = (dims.last_mut(), i64::try_from(n)) {
        *last = n;
    }
    let mut value = ptr::null_mut();
    ort!(api, KernelContext_GetOutput(context, at, dims.as_ptr(), dims.len(), &raw mut value))?;
    if value.is_null() {
        return Err(Failure::other("a result is not wanted"));
    }
    let kind: Kind = x.kind;
    // SAFETY: a new tensor of the type that the operator has, which is that of its activations.
    unsafe { Output::new(api, value, kind, rows.saturating_mul(n)) }
}
