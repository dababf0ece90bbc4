//! The execution provider of a session: which nodes it takes, and their compilation.

use crate::abi::{ComputeInfo, Ep, FusionOptions, SupportInfo, VERSION};
use crate::api::{Api, Failure};
use crate::constants::Constants;
use crate::factory::{NAME, array};
use crate::fused::{Fused, Places, Products};
use crate::graph::{Graph, Node};
use crate::kernels::Kernels;
use crate::linear::{Group, Linear, Part, Room, Workers};
use crate::options::Options;
use crate::plan::{Plan, Unit};
use ort_sys::{OrtGraph, OrtLogger, OrtLoggingLevel, OrtNode, OrtStatusPtr};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

/// `Ep` with what belongs to it. The runtime has a pointer to the first member.
#[repr(C)]
pub(crate) struct Provider {
    head: Ep,
    api: Api,
    /// That of the session, which outlives the provider.
    logger: *const OrtLogger,
    options: Options,
    kernels: Kernels,
    room: Arc<Room>,
}

impl Provider {
    /// The provider of a session.
    pub(crate) fn boxed(
        api: Api,
        logger: *const OrtLogger,
        options: Options,
    ) -> Result<*mut Ep, Failure> {
        let head = Ep {
            version: VERSION,
            name,
            capability,
            compile,
            release_infos,
            absent: [ptr::null(); 8],
        };
        let kernels = Kernels::of(&options)?;
        let room = Arc::new(Room::new(Workers::new(options.threads), kernels.clone()));
        let provider = Self { head, api, logger, options, kernels, room };
        provider.tell();
        Ok(Box::into_raw(Box::new(provider)).cast())
    }

    /// # Safety
    /// `ep` is null or of [`Self::boxed`], and not released.
    pub(crate) unsafe fn release(ep: *mut Ep) {
        if !ep.is_null() {
            // SAFETY: what the caller promises.
            drop(unsafe { Box::from_raw(ep.cast::<Self>()) });
        }
    }

    fn info(&self, line: &str) {
        self.api.log(self.logger, OrtLoggingLevel::ORT_LOGGING_LEVEL_INFO, line);
    }

    /// Tells the user what became of the kernels, if it is new.
    fn tell(&self) {
        if let Some(line) = self.kernels.news() {
            self.api.log(self.logger, OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING, &line);
        }
    }

    /// Tells the runtime which nodes are taken: products that read the same activations together,
    /// and attention where there are products.
    fn capability(&self, graph: Graph<'_>, support: *mut SupportInfo) -> Result<(), Failure> {
        let ep = self.api.ep()?;
        let plan = Plan::of(&graph, &self.options)?;
        let tell_left = |left: &[(Node<'_>, String)]| {
            for (node, why) in left {
                self.info(&format!("qcc: {} '{}' is left: {why}", node.op()?, node.name()?));
            }
            Ok::<_, Failure>(())
        };
        tell_left(&plan.left)?;
        let take = |nodes: &[*const OrtNode], drop_constant_initializers| {
            let options = FusionOptions { version: VERSION, drop_constant_initializers };
            // SAFETY: nodes of the graph that is asked about; the options are read.
            let status = unsafe {
                (ep.add_nodes_to_fuse)(support, nodes.as_ptr(), nodes.len(), &raw const options)
            };
            self.api.check(status)
        };
        for group in &plan.groups {
            let nodes: Vec<_> = group.nodes().map(|it| it.raw()).collect();
            take(&nodes, true)?;
        }
        if !plan.groups.is_empty() {
            tell_left(&plan.left_attentions)?;
            for attention in &plan.attentions {
                take(&[attention.node.raw()], false)?;
            }
            let count = plan.attentions.len();
            if count > 0 {
                self.info(&format!("qcc: attention over caches taken: {count} nodes"));
            }
        }
        let (taken, left) = (plan.products(), plan.left.len());
        if taken + left > 0 {
            let (groups, ends, isa) = (plan.groups.len(), plan.ends(), self.kernels.isa());
            let norms = plan.norms();
            self.info(&format!(
                "qcc: {taken} products taken in {groups} groups, {left} left; \
                 nodes after them taken: {ends}; norms before them: {norms}; kernels: {isa}"
            ));
        }
        Ok(())
    }

    /// Packs the weights of claimed nodes and finds their kernels. The result has one of each node.
    fn compile(&self, graphs: &[Graph<'_>], fused: &[Node<'_>]) -> Result<Vec<Fused>, Failure> {
        let mut compiled: Vec<Option<Fused>> = Vec::with_capacity(fused.len());
        let mut groups = Vec::with_capacity(graphs.len());
        let mut inputs = Vec::new();
        let stands = |work| Fused::new(self.api, Arc::clone(&self.room), work);
        for (graph, node) in graphs.iter().zip(fused) {
            let folder = graph.folder();
            let plan = Plan::of(graph, &self.options)?;
            if let Some((_, why)) = plan.left.first() {
                return Err(Failure::other(why.clone()));
            }
            if let ([], [attention]) = (&plan.groups[..], &plan.attentions[..]) {
                compiled.push(Some(stands(attention.work(&Places::of(node)?)?)));
                continue;
            }
            let Ok([group]) = <[_; 1]>::try_from(plan.groups) else {
                return Err(Failure::other("a node that was not claimed"));
            };
            if group.nodes().count() != graph.nodes()?.len() {
                return Err(Failure::other("nodes that were not claimed"));
            }
            for unit in group.units.iter().flat_map(Unit::products) {
                let name = unit.nodes.first().map_or(Ok(""), Node::name)?;
                inputs.push((name, Constants::of(unit, folder.as_deref())?));
            }
            groups.push((compiled.len(), group, node));
            compiled.push(None);
        }
        let mut linears = self.linears(&inputs)?.into_iter();
        give_back();
        for (at, group, node) in &groups {
            let mut parts = Vec::with_capacity(group.units.len());
            for unit in &group.units {
                let up = unit.up.is_some();
                let Some(linear) = linears.next() else { break };
                parts.push(Part { linear, up: if up { linears.next() } else { None } });
            }
            let products = Products::new(Group::new(parts)?, &Places::of(node)?, group)?;
            compiled[*at] = Some(stands(Box::new(products)));
        }
        Ok(compiled.into_iter().flatten().collect())
    }

    /// Products that are ready, for constants with the names of their nodes.
    fn linears(&self, inputs: &[(&str, Constants<'_>)]) -> Result<Vec<Linear>, Failure> {
        // No calls into the runtime: all threads do it. Large weights come first, while there is
        // still little in memory beside what packing them takes.
        let kernels = &self.kernels;
        let mut jobs: Vec<_> = inputs.iter().enumerate().collect();
        jobs.sort_by_key(|(_, (_, constants))| Reverse(constants.len()));
        let mut done: Vec<_> = jobs
            .into_iter()
            .par_bridge() // in this order
            .map(|(at, (name, constants))| {
                let linear = constants.linear(kernels);
                (at, linear.map_err(|error| error.of_node(name)))
            })
            .collect();
        done.sort_by_key(|(at, _)| *at);
        let mut linears = Vec::with_capacity(done.len());
        for (_, linear) in done {
            linears.push(linear?);
        }
        self.tell();
        Ok(linears)
    }
}

/// Gives memory that is free again to the system, where the allocator keeps it otherwise.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

unsafe extern "system" fn name(_: *const Ep) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "system" fn capability(
    this: *mut Ep,
    graph: *const OrtGraph,
    support: *mut SupportInfo,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back a provider of `Provider::boxed`.
    let provider = unsafe { &*this.cast::<Provider>() };
    let api = provider.api;
    // SAFETY: a graph for this call.
    api.guard(|| provider.capability(unsafe { Graph::new(&api, graph) }, support))
}

unsafe extern "system" fn compile(
    this: *mut Ep,
    graphs: *const *const OrtGraph,
    fused: *const *const OrtNode,
    count: usize,
    infos: *mut *mut ComputeInfo,
    _: *mut *mut OrtNode,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back a provider of `Provider::boxed`.
    let provider = unsafe { &*this.cast::<Provider>() };
    let api = provider.api;
    api.guard(|| {
        // SAFETY: `count` graphs and nodes for this call.
        let (graphs, nodes): (Vec<_>, Vec<_>) = unsafe {
            let graphs = array(graphs, count).iter().map(|&it| Graph::new(&api, it));
            (graphs.collect(), array(fused, count).iter().map(|&it| Node::new(&api, it)).collect())
        };
        for (at, fused) in provider.compile(&graphs, &nodes)?.into_iter().enumerate() {
            // SAFETY: room for `count` pointers. The head is the first member.
            unsafe { infos.add(at).write(Box::into_raw(Box::new(fused)).cast()) };
        }
        Ok(())
    })
}

unsafe extern "system" fn release_infos(this: *mut Ep, infos: *mut *mut ComputeInfo, count: usize) {
    // SAFETY: the runtime gives back a provider of `Provider::boxed`.
    let api = unsafe { (*this.cast::<Provider>()).api };
    // Nobody can be told if this fails.
    let _ = api.check(api.guard(|| {
        // SAFETY: `count` pointers of `compile`, not released.
        for &info in unsafe { array(infos, count) } {
            if !info.is_null() {
                // SAFETY: as above.
                drop(unsafe { Box::from_raw(info.cast::<Fused>()) });
            }
        }
        Ok(())
    }));
}
