//! Nodes of a session that run as one.

use crate::abi::{ComputeInfo, VERSION};
use crate::api::{Api, Failure};
use crate::graph::{Node, ValueInfo};
use crate::linear::{Group, Room};
use crate::norms;
use crate::plan::Bundle;
use ort_sys::{OrtKernelContext, OrtStatusPtr};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// What runs in the place of nodes, in several runs at a time.
pub(crate) trait Work: Send + Sync {
    /// Computes the results of the running operator.
    fn compute(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        room: &Room,
    ) -> Result<(), Failure>;
}

/// `ComputeInfo` with what belongs to it. The runtime has a pointer to the first member.
#[repr(C)]
pub(crate) struct Fused {
    head: ComputeInfo,
    api: Api,
    room: Arc<Room>,
    work: Box<dyn Work>,
}

impl Fused {
    pub(crate) fn new(api: Api, room: Arc<Room>, work: Box<dyn Work>) -> Self {
        let head = ComputeInfo { version: VERSION, create_state, compute, release_state };
        Self { head, api, room, work }
    }
}

/// Inputs and outputs of the node that was made of others, by the names that they had.
pub(crate) struct Places<'a> {
    inputs: Vec<Option<ValueInfo<'a>>>,
    outputs: Vec<Option<ValueInfo<'a>>>,
}

impl<'a> Places<'a> {
    pub(crate) fn of(node: &Node<'a>) -> Result<Self, Failure> {
        Ok(Self { inputs: node.inputs()?, outputs: node.outputs()? })
    }

    pub(crate) fn input(&self, value: &ValueInfo<'_>) -> Result<usize, Failure> {
        find(&self.inputs, value)
    }

    pub(crate) fn output(&self, value: &ValueInfo<'_>) -> Result<usize, Failure> {
        find(&self.outputs, value)
    }
}

fn find(among: &[Option<ValueInfo<'_>>], value: &ValueInfo<'_>) -> Result<usize, Failure> {
    let name = value.name()?;
    for (at, other) in among.iter().enumerate() {
        if let Some(other) = other
            && other.name()? == name
        {
            return Ok(at);
        }
    }
    Err(Failure::other(format!("'{name}' is not of the node that was made of it")))
}

/// Products in the place of nodes.
pub(crate) struct Products {
    group: Group,
    /// What gives the activations.
    norm: Option<norms::Ready>,
    /// Which input of the node are the activations, or what they are the norm of; which outputs the
    /// results.
    x: usize,
    ys: Vec<usize>,
}

impl Products {
    pub(crate) fn new(
        group: Group,
        places: &Places<'_>,
        Bundle { units, norm }: &Bundle<'_>,
    ) -> Result<Self, Failure> {
        let first = units.first().ok_or_else(|| Failure::other("a node of nothing"))?;
        let norm = norm.as_ref().map(|it| it.ready(places)).transpose()?;
        let x = match &norm {
            Some(norm) => norm.x,
            None => places.input(&first.claim.x)?,
        };
        let ys = units.iter().map(|it| places.output(&it.y)).collect::<Result<_, Failure>>()?;
        Ok(Self { group, norm, x, ys })
    }
}

impl Work for Products {
    fn compute(
        &self,
        api: &Api,
        context: *mut OrtKernelContext,
        room: &Room,
    ) -> Result<(), Failure> {
        let norm = self.norm.as_ref();
        self.group.compute(api, context, room, (self.x, norm), &self.ys)
    }
}

/// There is no state: what runs is never written to.
unsafe extern "system" fn create_state(
    _: *mut ComputeInfo,
    _: *mut c_void,
    out: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: a place for the result, as the interface says.
    unsafe { out.write(ptr::null_mut()) };
    OrtStatusPtr(ptr::null_mut())
}

unsafe extern "system" fn release_state(_: *mut ComputeInfo, _: *mut c_void) {}

unsafe extern "system" fn compute(
    this: *mut ComputeInfo,
    _: *mut c_void,
    context: *mut OrtKernelContext,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back a pointer of `Provider::compile`.
    let fused = unsafe { &*this.cast::<Fused>() };
    let Fused { api, room, work, .. } = fused;
    api.guard(|| work.compute(api, context, room))
}
