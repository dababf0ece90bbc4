//! Products that read the same activations, as one unit of work.

use crate::api::{Api, Failure, ort};
use crate::kernels::Kernels;
use crate::tensor::{Kind, Output, Tensor, count};
use crate::threads::Host;
use ort_sys::OrtKernelContext;
use qcc_kernels::{
    Activations, Alone, Epilogue, KernelError, Matrix, Operands, Planes, Pool, Product,
    ProductError, Scalar, Share, Threads,
};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows from which on all threads quantize activations.
const SHARED_ROWS: usize = 8;

/// Smaller products, in multiplications, are done before other threads have started.
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

/// What all products of a session share: room for activations that is used again.
pub(crate) struct Room {
    pub(crate) workers: Workers,
    spare: Mutex<Vec<Activations>>,
}

impl Room {
    pub(crate) fn new(workers: Workers) -> Self {
        Self { workers, spare: Mutex::default() }
    }

    fn with<T>(&self, body: impl FnOnce(&mut Activations) -> T) -> T {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut acts = spare().pop().unwrap_or_default();
        let result = body(&mut acts);
        spare().push(acts);
        result
    }
}

/// A weight with its kernels and bias.
pub(crate) struct Linear {
    product: Product,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// # Errors
    /// The kernel error for which kernels in plain Rust are taken, with them.
    pub(crate) fn new(
        matrix: Matrix,
        kernels: &Kernels,
        planes: Planes,
        bias: Option<Vec<f32>>,
    ) -> (Self, Option<KernelError>) {
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        let matrix = Arc::new(matrix);
        let product =
            Product::new(Arc::clone(&matrix), Arc::clone(&kernels.source), planes, epilogue);
        match product.prepare(1) {
            Ok(()) => (Self { product, bias }, None),
            Err(error) => {
                let product = Product::new(matrix, Arc::new(Scalar), planes, epilogue);
                (Self { product, bias }, Some(error))
            }
        }
    }

    fn operands(&self) -> Operands<'_> {
        Operands { bias: self.bias.as_deref(), extra: None }
    }

    fn n(&self) -> usize {
        self.product.layout().n()
    }
}

/// Products of the same activations.
pub(crate) struct Group {
    k: usize,
    linears: Vec<Linear>,
    /// Which of them take the same quantized activations.
    classes: Vec<Vec<usize>>,
}

impl Group {
    /// # Errors
    /// If they multiply rows of other lengths.
    pub(crate) fn new(linears: Vec<Linear>) -> Result<Self, Failure> {
        let k = linears.first().map_or(0, |it| it.product.layout().k());
        if linears.iter().any(|it| it.product.layout().k() != k) || k == 0 {
            return Err(Failure::wrong("products of the same activations differ in K"));
        }
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for (i, linear) in linears.iter().enumerate() {
            let layout = linear.product.act_layout();
            let fits = |it: &&mut Vec<usize>| {
                it.first().is_some_and(|&it| linears[it].product.act_layout().serves(&layout))
            };
            match classes.iter_mut().find(fits) {
                Some(class) => class.push(i),
                None => classes.push(vec![i]),
            }
        }
        Ok(Self { k, linears, classes })
    }

    /// Computes the results of a running operator: its input `x`, its outputs `ys`, one per
    /// product.
    pub(crate) fn compute(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        room: &Room,
        x: usize,
        ys: &[usize],
    ) -> Result<(), Failure> {
        let mut value = ptr::null();
        ort!(api, KernelContext_GetInput(context, x, &raw mut value))?;
        // SAFETY: inputs live and stay as they are while the operator runs.
        let x = unsafe { Tensor::new(api, value)? };
        let rows = rows(&x, self.k)?;
        let mut outputs = Vec::with_capacity(ys.len());
        for (linear, &at) in self.linears.iter().zip(ys) {
            outputs.push(output(api, context, at, &x, linear.n(), rows)?);
        }
        if rows == 0 {
            return Ok(());
        }
        let floats = x.floats()?;
        let mut ys: Vec<&mut [f32]> = outputs.iter_mut().map(Output::floats).collect();
        let columns: usize = self.linears.iter().map(Linear::n).sum();
        let small = rows.saturating_mul(self.k).saturating_mul(columns) < ALONE;
        room.with(|acts| match &room.workers {
            _ if small => self.run(&Alone, acts, &floats, &mut ys),
            Workers::Own(pool) => self.run(pool, acts, &floats, &mut ys),
            Workers::Host(threads) => {
                self.run(&Host::new(api, context, *threads), acts, &floats, &mut ys)
            }
        })
        .map_err(|error| Failure::other(error.to_string()))?;
        outputs.into_iter().for_each(Output::finish);
        Ok(())
    }

    fn run(
        &self,
        threads: &dyn Threads,
        acts: &mut Activations,
        x: &[f32],
        ys: &mut [&mut [f32]],
    ) -> Result<(), ProductError> {
        for class in &self.classes {
            let mut shares: Vec<Share<'_>> = Vec::with_capacity(class.len());
            for (i, (linear, y)) in self.linears.iter().zip(&mut *ys).enumerate() {
                if class.contains(&i) {
                    shares.push(Share { product: &linear.product, operands: linear.operands(), y });
                }
            }
            let Some((first, rest)) = shares.split_first_mut() else { continue };
            if x.len() / self.k < SHARED_ROWS {
                acts.quantize(first.product.act_layout(), x);
                Product::run_all(threads, acts, &mut shares)?;
            } else {
                first.product.run(threads, acts, x, first.operands, first.y)?;
                Product::run_all(threads, acts, rest)?;
            }
        }
        Ok(())
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
