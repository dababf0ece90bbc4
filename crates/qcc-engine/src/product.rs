//! `qcc::KernelProduct`: products of the same activations, computed by kernels.
//!
//! The activations are quantized once for all of them. A product may end in what the graph does
//! with its result: a bias, GELU, `silu(y) * up` where both are products of these activations, or
//! the addition of another value. It has no form in a file.

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};
use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_kernels::{
    Activations, Epilogue, Factor, KernelSource, Operands, Planes, Product, ProductError, Share,
};
use qcc_tensor::{DType, Dim, Tensor, checked_len};

use crate::machine::Machine;

const NAME: &str = "KernelProduct";

/// Products `x[.., k] W^T`, one for each output.
#[derive(Debug)]
pub struct KernelProduct {
    pub(crate) parts: Vec<Part>,
    pub(crate) machine: Arc<Machine>,
}

/// One of the products.
pub(crate) struct Part {
    pub(crate) product: Arc<Product>,
    pub(crate) epilogue: Epilogue,
    pub(crate) bias: Option<Vec<f32>>,
    /// The other factor of `silu(y) * up`.
    pub(crate) up: Option<Up>,
    /// What is added by [`Epilogue::Residual`], perhaps behind a bias.
    pub(crate) residual: Option<Residual>,
}

/// A product that another one multiplies its results with.
pub(crate) struct Up {
    pub(crate) product: Arc<Product>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// An addition whose other operand is an operand of the node.
pub(crate) struct Residual {
    /// Which one.
    pub(crate) operand: usize,
    /// Whether it is the left one of the addition.
    pub(crate) is_left: bool,
    /// The addition itself, for operands that repeat.
    pub(crate) add: OpRef,
    pub(crate) source: Arc<dyn KernelSource>,
}

impl Part {
    pub(crate) fn k(&self) -> usize {
        self.product.layout().k()
    }

    pub(crate) fn n(&self) -> usize {
        self.product.layout().n()
    }
}

impl KernelProduct {
    /// The products, for each the one that ends in the output of that position; with
    /// `silu(y) * up` both, the gate first.
    pub fn products(&self) -> impl Iterator<Item = &Arc<Product>> {
        let ups = |it| Option::map(it, |it: &Up| &it.product);
        self.parts.iter().flat_map(move |it| [Some(&it.product), ups(it.up.as_ref())]).flatten()
    }

    /// What is done to each output before it is stored.
    pub fn epilogues(&self) -> impl Iterator<Item = Epilogue> {
        self.parts.iter().map(|it| it.epilogue)
    }

    /// How activations are quantized.
    #[must_use]
    pub fn planes(&self) -> Planes {
        self.parts.first().map_or(Planes::A22, |it| it.product.planes())
    }

    /// Quantizes the activations and computes all products: `outs[part][rows][n]`.
    fn run(
        &self,
        cx: &EvalCx,
        acts: &mut Activations,
        x: &[f32],
        extras: &[Option<&[f32]>],
        outs: &mut [Vec<f32>],
    ) -> Result<(), EvalError> {
        let Some(first) = self.parts.first() else { return Ok(()) };
        let threads = &*self.machine.threads;
        acts.quantize_on(threads, first.product.act_layout(), x);
        if self.products().any(|it| it.overlay().is_some()) {
            acts.keep(threads, x);
        }
        let mut ups: Vec<Vec<f32>> = Vec::new();
        for (part, out) in self.parts.iter().zip(&*outs) {
            ups.push(if part.up.is_some() { cx.pool.take(out.len())? } else { Vec::new() });
        }
        let mut shares: Vec<Share<'_>> = Vec::new();
        for ((part, y), (up, extra)) in
            self.parts.iter().zip(&mut *outs).zip(ups.iter_mut().zip(extras))
        {
            let operands = Operands { bias: part.bias.as_deref(), extra: *extra };
            let factor = part.up.as_ref().map(|it| Factor {
                product: &it.product,
                bias: it.bias.as_deref(),
                y: up,
            });
            shares.push(Share { product: &part.product, operands, y, factor });
        }
        Product::run_all(threads, acts, &mut shares).map_err(|it| failed(&it))?;
        drop(shares);
        for up in ups.into_iter().filter(|it| !it.is_empty()) {
            // A tensor gives its buffer back when it is dropped.
            drop(cx.pool.tensor(vec![up.len()], up));
        }
        Ok(())
    }

    /// The addition as the graph had it, after a product that does no more than add its bias.
    fn add(
        &self,
        cx: &EvalCx,
        part: &Part,
        (residual, extra): (&Residual, &Tensor),
        x: &[f32],
        (dtype, dims): (DType, Vec<usize>),
    ) -> Result<Tensor, EvalError> {
        let matrix = Arc::clone(part.product.matrix());
        let source = Arc::clone(&residual.source);
        let end = if part.bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        let plain = Product::new(matrix, source, part.product.planes(), end)
            .with_overlay(part.product.overlay().cloned());
        let mut out = cx.pool.take(checked_len(&dims).unwrap_or(0))?;
        let done = self.machine.with_room(|acts| {
            let operands = Operands { bias: part.bias.as_deref(), extra: None };
            plain.run(&*self.machine.threads, acts, x, operands, &mut out)
        });
        done.map_err(|it| failed(&it))?;
        let y = tensor(cx, dtype, dims, out)?;
        let operands = if residual.is_left { [extra, &y] } else { [&y, extra] };
        let mut results = residual.add.eval(cx, &operands.map(Some), 1)?;
        if results.is_empty() {
            Err(wrong("the addition gave nothing"))
        } else {
            Ok(results.remove(0))
        }
    }
}

impl Op for KernelProduct {
    fn name(&self) -> &str {
        NAME
    }

    fn domain(&self) -> &str {
        qcc_ops::quant::DOMAIN
    }

    fn attrs(&self) -> Attrs {
        let ints = |of: &dyn Fn(&Part) -> usize| {
            Attr::Ints(self.parts.iter().map(|it| of(it) as i64).collect())
        };
        let texts = |of: &dyn Fn(&Part) -> String| {
            Attr::Strs(self.parts.iter().map(|it| of(it).into_bytes().into()).collect())
        };
        let mut attrs = vec![
            ("K".into(), Attr::Int(self.parts.first().map_or(0, Part::k) as i64)),
            ("N".into(), ints(&Part::n)),
            ("bits".into(), ints(&|it| it.product.layout().bits().bits() as usize)),
            ("epilogue".into(), texts(&|it| it.epilogue.to_string())),
            ("planes".into(), Attr::Str(self.planes().to_string().into_bytes().into())),
        ];
        if self.products().any(|it| it.overlay().is_some()) {
            let outliers = ints(&|it| it.product.overlay().map_or(0, |it| it.len()));
            attrs.push(("outliers".into(), outliers));
        }
        attrs
    }

    /// `x: T[.., K]`, and a value for each residual, give `T[.., N]` for each product.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let operand = |at: usize| {
            let it = inputs.get(at).copied().flatten();
            it.ok_or_else(|| TypeError::Absent { op: NAME.into(), index: at })
        };
        let x = operand(0)?.ty;
        let of = |part: &Part| {
            let Some(shape) = x.shape() else { return Ok(x.with_shape(None)) };
            let Some((last, outer)) = shape.split_last() else {
                return Err(TypeError::other(NAME, "x has no dimensions"));
            };
            if last.known().is_some_and(|it| it != part.k()) {
                return Err(TypeError::shapes(NAME, shape, &[part.n().into(), part.k().into()]));
            }
            let dims = outer.iter().cloned().chain([Dim::Known(part.n())]).collect();
            let ty = x.with_shape(Some(dims));
            let Some(residual) = &part.residual else { return Ok(ty) };
            let extra = operand(residual.operand)?;
            let y = Input { ty: &ty, value: None };
            let operands = if residual.is_left { [extra, y] } else { [y, extra] };
            let types = residual.add.infer(&operands.map(Some), 1)?;
            Ok(types.into_iter().next().unwrap_or_default())
        };
        self.parts.iter().map(of).collect()
    }

    fn eval(
        &self,
        cx: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let operand = |at: usize| {
            let it = inputs.get(at).copied().flatten();
            it.ok_or_else(|| TypeError::Absent { op: NAME.into(), index: at })
        };
        let x = operand(0)?;
        let Some((&last, outer)) = x.dims().split_last() else {
            return Err(wrong("x has no dimensions"));
        };
        if self.parts.iter().any(|it| it.k() != last) {
            return Err(wrong("x does not fit the weight"));
        }
        let values = x.to_f32()?;
        let dims =
            |part: &Part| -> Vec<usize> { outer.iter().copied().chain([part.n()]).collect() };
        // Additions of what has the shape of the result are done by the kernel.
        let mut extras = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let Some(residual) = &part.residual else {
                extras.push(None);
                continue;
            };
            let extra = operand(residual.operand)?;
            if extra.dims() != dims(part) || !extra.dtype().is_float() {
                let results =
                    [self.add(cx, part, (residual, extra), &values, (x.dtype(), dims(part)))?];
                // A residual has a node of its own.
                return if self.parts.len() == 1 {
                    Ok(results.into())
                } else {
                    Err(wrong("a residual among several products"))
                };
            }
            extras.push(Some(extra.to_f32()?));
        }
        let extras: Vec<Option<&[f32]>> = extras.iter().map(Option::as_deref).collect();
        let mut outs = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let len = checked_len(&dims(part)).ok_or_else(|| wrong("the result is too large"))?;
            outs.push(cx.pool.take(len)?);
        }
        self.machine.with_room(|acts| self.run(cx, acts, &values, &extras, &mut outs))?;
        let results = self.parts.iter().zip(outs);
        results.map(|(part, out)| tensor(cx, x.dtype(), dims(part), out)).collect()
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("layout", self.product.layout())
            .field("planes", &self.product.planes())
            .field("epilogue", &self.epilogue)
            .finish_non_exhaustive()
    }
}

fn wrong(what: &str) -> EvalError {
    TypeError::other(NAME, what).into()
}

fn failed(error: &ProductError) -> EvalError {
    TypeError::other(NAME, error.to_string()).into()
}

/// Results in the float type of the activations.
fn tensor(
    cx: &EvalCx,
    dtype: DType,
    dims: Vec<usize>,
    values: Vec<f32>,
) -> Result<Tensor, EvalError> {
    let narrow = match dtype {
        DType::F32 => return Ok(cx.pool.tensor(dims, values)?),
        DType::F16 => {
            Tensor::from_vec(dims, values.iter().map(|&it| f16::from_f32(it)).collect::<Vec<_>>())?
        }
        DType::BF16 => {
            Tensor::from_vec(dims, values.iter().map(|&it| bf16::from_f32(it)).collect::<Vec<_>>())?
        }
        other => return Err(TypeError::DType { op: NAME.into(), got: other.to_string() }.into()),
    };
    drop(cx.pool.tensor(vec![values.len()], values));
    Ok(narrow)
}
