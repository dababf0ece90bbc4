//! The norm before products, where only they read it: it runs in their node.
//!
//! | Node | |
//! |---|---|
//! | `SimplifiedLayerNormalization`, `RMSNormalization` of the last axis | |
//! | `com.microsoft.SkipSimplifiedLayerNormalization` without a bias | its sum is a result of the node |

use crate::api::{Api, Failure, ort};
use crate::around::Around;
use crate::claim::input;
use crate::fused::Places;
use crate::graph::{Node, ValueInfo};
use crate::plan::Unit;
use crate::tensor::{Kind, Output, Tensor};
use ort_sys::{OrtKernelContext, OrtValue};
use qcc_kernels::ends::Readers;
use qcc_kernels::{RmsNorm, Threads};
use std::ptr;

/// A norm that products take with them.
pub(crate) struct Norm<'a> {
    pub(crate) node: Node<'a>,
    x: ValueInfo<'a>,
    skip: Option<ValueInfo<'a>>,
    /// What is normed, where others read it too.
    sum: Option<ValueInfo<'a>>,
    gamma: ValueInfo<'a>,
    epsilon: f32,
}

impl<'a> Norm<'a> {
    /// The norm whose result all of `units` read, if there is one and nobody else does.
    pub(crate) fn before(around: &Around<'a>, units: &[Unit<'a>]) -> Result<Option<Self>, Failure> {
        let Some(first) = units.first() else { return Ok(None) };
        let Some(x) = around.find(first.claim.x.name()?) else { return Ok(None) };
        let Some(node) = around.producer(x).map(|at| around.nodes[at]) else { return Ok(None) };
        let ours: Vec<_> = units.iter().flat_map(Unit::all_nodes).map(|it| it.raw()).collect();
        let is_ours = |at: usize| ours.contains(&around.nodes[at].raw());
        if around.values[x].is_graph_output()? || !around.users(x).into_iter().all(is_ours) {
            return Ok(None);
        }
        Self::of(around, node, first.claim.shape.k)
    }

    /// What a node is, if that is a norm of `k` features that can be computed here.
    fn of(around: &Around<'a>, node: Node<'a>, k: usize) -> Result<Option<Self>, Failure> {
        let is_skip = match (node.domain()?, node.op()?) {
            ("com.microsoft", "SkipSimplifiedLayerNormalization") => true,
            ("" | "ai.onnx", "SimplifiedLayerNormalization" | "RMSNormalization") => false,
            _ => return Ok(None),
        };
        let (inputs, outputs) = (node.inputs()?, node.outputs()?);
        let (scale, default) = if is_skip { (2, 1e-12) } else { (1, 1e-5) };
        let sum = if is_skip { outputs.get(3).copied().flatten() } else { None };
        let (Some(x), Some(gamma)) = (input(&inputs, 0), input(&inputs, scale)) else {
            return Ok(None);
        };
        let skip = if is_skip { input(&inputs, 1) } else { None };
        let is_plain = node.int("axis")?.unwrap_or(-1) == -1
            && inputs.iter().skip(scale + 1).all(Option::is_none)
            && outputs.iter().skip(1).take(2).all(Option::is_none)
            && skip.is_some() == is_skip;
        if !is_plain || !gamma.is_constant()? || gamma.dims()? != Some(vec![k]) {
            return Ok(None);
        }
        for value in [Some(x), skip, Some(gamma)].into_iter().flatten() {
            if value.kind()? != Kind::F32 {
                return Ok(None);
            }
        }
        let sum = match sum {
            Some(it) if around.find(it.name()?).is_some_and(|it| around.uses(it) > 0) => Some(it),
            _ => None,
        };
        let epsilon = node.float("epsilon")?.unwrap_or(default);
        Ok(Some(Self { node, x, skip, sum, gamma, epsilon }))
    }

    /// What runs it, by places of the node that was made of it and others.
    pub(crate) fn ready(&self, places: &Places<'_>) -> Result<Ready, Failure> {
        let gamma = self.gamma.tensor()?.floats()?.into_owned();
        Ok(Ready {
            norm: RmsNorm { gamma, epsilon: self.epsilon },
            x: places.input(&self.x)?,
            skip: self.skip.as_ref().map(|it| places.input(it)).transpose()?,
            sum: self.sum.as_ref().map(|it| places.output(it)).transpose()?,
        })
    }
}

/// A norm of a session, with the places of its operands.
pub(crate) struct Ready {
    norm: RmsNorm,
    pub(crate) x: usize,
    skip: Option<usize>,
    sum: Option<usize>,
}

impl Ready {
    /// Norms the rows `x` of a running operator, `floats` of which are the elements, into `y`.
    pub(crate) fn run(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        threads: &dyn Threads,
        (x, floats): (&Tensor<'_>, &[f32]),
        y: &mut [f32],
    ) -> Result<(), Failure> {
        let mut sum = match self.sum {
            Some(at) => {
                let (dims, mut value) = (x.dims, ptr::null_mut());
                let out = &raw mut value;
                ort!(api, KernelContext_GetOutput(context, at, dims.as_ptr(), dims.len(), out))?;
                // SAFETY: a new tensor of f32, as the operator has.
                Some(unsafe { Output::new(api, value, Kind::F32, floats.len())? })
            }
            None => None,
        };
        if floats.is_empty() {
            return Ok(());
        }
        let skip = match self.skip {
            Some(at) => {
                let mut value: *const OrtValue = ptr::null();
                ort!(api, KernelContext_GetInput(context, at, &raw mut value))?;
                // SAFETY: inputs live and stay as they are while the operator runs.
                Some(unsafe { Tensor::new(api, value)? }.floats()?)
            }
            None => None,
        };
        let k = self.norm.gamma.len();
        if skip.as_ref().is_some_and(|it| {
            it.is_empty() || !floats.len().is_multiple_of(it.len()) || !it.len().is_multiple_of(k)
        }) {
            return Err(Failure::wrong("what is added before a norm does not fit it"));
        }
        self.norm.run(threads, floats, skip.as_deref(), sum.as_mut().map(Output::floats), y);
        Ok(())
    }
}
