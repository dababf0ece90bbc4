//! Nodes of a session that run as one.

use crate::abi::{ComputeInfo, VERSION};
use crate::api::{Api, Failure};
use crate::graph::{Node, ValueInfo};
use crate::linear::{Group, Room};
use crate::plan::Unit;
use ort_sys::{OrtKernelContext, OrtStatusPtr};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// `ComputeInfo` with what belongs to it. The runtime has a pointer to the first member.
#[repr(C)]
pub(crate) struct Fused {
    head: ComputeInfo,
    api: Api,
    room: Arc<Room>,
    group: Group,
    /// Which input of the node are the activations, which outputs the results.
    x: usize,
    ys: Vec<usize>,
}

impl Fused {
    /// Products that are to stand for a node.
    pub(crate) fn new(
        api: Api,
        room: Arc<Room>,
        group: Group,
        node: &Node<'_>,
        units: &[Unit<'_>],
    ) -> Result<Self, Failure> {
        let (inputs, outputs) = (node.inputs()?, node.outputs()?);
        let place = |among: &[Option<ValueInfo<'_>>], value: &ValueInfo<'_>| {
            let name = value.name()?;
            for (at, other) in among.iter().enumerate() {
                if let Some(other) = other
                    && other.name()? == name
                {
                    return Ok(at);
                }
            }
            Err(Failure::other(format!("'{name}' is not of the node that was made of it")))
        };
        let first = units.first().ok_or_else(|| Failure::other("a node of nothing"))?;
        let x = place(&inputs, &first.claim.x)?;
        let ys = units.iter().map(|it| place(&outputs, &it.y)).collect::<Result<_, Failure>>()?;
        let head = ComputeInfo { version: VERSION, create_state, compute, release_state };
        Ok(Self { head, api, room, group, x, ys })
    }
}

/// There is no state: products are never written to.
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
    let Fused { api, room, group, x, ys, .. } = fused;
    api.guard(|| group.compute(api, context, room, *x, ys))
}
