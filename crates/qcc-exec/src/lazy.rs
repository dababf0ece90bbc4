//! Values that follow from constants alone but are too large to compute while planning: rounded
//! weights, and what lies between a weight and its product. Each is computed when a run first
//! needs it, and kept as long as the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use qcc_ir::{EvalCx, OpRef, Type};
use qcc_tensor::Tensor;

use crate::error::{ExecError, Label};
use crate::plan::{Held, Plan, Reg};

/// A node whose results follow from constants.
#[derive(Debug)]
pub(crate) struct LazyNode {
    pub(crate) label: Label,
    pub(crate) op: OpRef,
    pub(crate) inputs: Vec<Option<Reg>>,
    pub(crate) n_outputs: usize,
    /// Whether more than one other constant reads it: it is kept even if no step does.
    pub(crate) is_shared: bool,
    pub(crate) results: OnceLock<Vec<Tensor>>,
}

impl Plan {
    /// Computes lazy node `index` unless that is done. What it is made from is kept only if others
    /// need it too.
    pub(crate) fn force(&self, index: usize) -> Result<(), ExecError> {
        let is_done = |it: usize| self.lazies.get(it).is_none_or(|it| it.results.get().is_some());
        if is_done(index) {
            return Ok(());
        }
        // Not recursive: a chain may be as long as the file that it comes from.
        let (mut wanted, mut stack) = (BTreeSet::new(), vec![index]);
        let mut readers: BTreeMap<usize, usize> = BTreeMap::new();
        while let Some(at) = stack.pop() {
            if !wanted.insert(at) {
                continue;
            }
            for inner in self.lazies_of(at).filter(|&it| !is_done(it)) {
                *readers.entry(inner).or_default() += 1;
                stack.push(inner);
            }
        }
        // Nodes are numbered in topological order.
        let mut done: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
        for at in wanted {
            let Some(node) = self.lazies.get(at) else { continue };
            let results = self.eval_lazy(node, &done)?;
            for inner in self.lazies_of(at) {
                if let Some(count) = readers.get_mut(&inner) {
                    *count -= 1;
                    if *count == 0 {
                        done.remove(&inner);
                    }
                }
            }
            if at == index || node.is_shared {
                // Another run may have been first: then its results, which are equal, stay.
                let _ = node.results.set(results);
            } else {
                done.insert(at, results);
            }
        }
        Ok(())
    }

    fn lazies_of(&self, at: usize) -> impl Iterator<Item = usize> {
        let inputs = self.lazies.get(at).map_or(&[][..], |it| &it.inputs);
        inputs.iter().flatten().filter_map(|&reg| match self.regs.get(reg) {
            Some(&Held::Lazy { node, .. }) => Some(node),
            _ => None,
        })
    }

    fn eval_lazy(
        &self,
        node: &LazyNode,
        done: &BTreeMap<usize, Vec<Tensor>>,
    ) -> Result<Vec<Tensor>, ExecError> {
        let find = |reg: Reg| match self.regs.get(reg) {
            Some(Held::Fixed(it)) => Some(it),
            Some(&Held::Lazy { node, slot }) => {
                let kept = || self.lazies.get(node)?.results.get();
                done.get(&node).or_else(kept)?.get(slot)
            }
            _ => None,
        };
        let inputs: Vec<Option<&Tensor>> = node.inputs.iter().map(|it| it.and_then(find)).collect();
        // A pool of its own, which goes with the results: what is kept is no activation.
        let results = node.op.eval(&EvalCx::default(), &inputs, node.n_outputs);
        results.map_err(|error| {
            let types: Vec<_> = inputs.iter().map(|it| it.map(Type::of)).collect();
            ExecError::node(&node.label, &types, error)
        })
    }
}
