//! Which values a step is the last to read, and the most bytes that are alive at one time.

use qcc_ops::reshape::{Flatten, Reshape};

use crate::facts::bytes;
use crate::plan::{Held, Plan, Reg, Step, Work};

/// Fills in what each step frees, and the planned peak.
pub(crate) fn settle(plan: &mut Plan) {
    let mut last: Vec<Option<usize>> = vec![None; plan.regs.len()];
    for (at, step) in plan.steps.iter().enumerate() {
        // A result that nothing reads goes at once.
        for reg in step.reads().chain(step.outputs.iter().copied().flatten()) {
            if let Some(slot) = last.get_mut(reg) {
                *slot = Some(at);
            }
        }
    }
    for &reg in &plan.outputs {
        if let Some(slot) = last.get_mut(reg) {
            *slot = None;
        }
    }
    for (reg, at) in last.iter().enumerate() {
        let is_live = matches!(plan.regs.get(reg), Some(Held::Live));
        if let Some(step) = at.filter(|_| is_live).and_then(|at| plan.steps.get_mut(at)) {
            step.frees.push(reg);
        }
    }
    plan.peak = peak(plan);
}

/// Whether the result shares the bytes of the first operand.
fn is_view(step: &Step) -> bool {
    let Work::Op(op) = &step.work else { return false };
    op.is::<Reshape>().is_some()
        || op.is::<Flatten>().is_some()
        || ["Squeeze", "Unsqueeze", "Identity", "Dropout"].iter().any(|it| op.is_named(it))
}

fn peak(plan: &Plan) -> usize {
    let is_fed = |reg: Reg| plan.fed.iter().any(|it| it.reg == Some(reg));
    // Inputs are not counted: their bytes are the caller's.
    let size = |reg: Reg| if is_fed(reg) { 0 } else { plan.types.get(reg).map_or(0, bytes) };
    // The value whose bytes a value shares, and how many that live share the bytes of a value.
    let mut owner: Vec<Reg> = (0..plan.regs.len()).collect();
    let mut sharers = vec![0usize; plan.regs.len()];
    let is_computed = |reg: Reg| matches!(plan.regs.get(reg), Some(Held::Live));
    let (mut alive, mut most) = (0usize, 0usize);
    for step in &plan.steps {
        for (slot, &reg) in step.outputs.iter().enumerate() {
            let Some(reg) = reg else { continue };
            if slot == 0
                && is_view(step)
                && let Some(&from) = step.inputs.first().and_then(|it| owner.get((*it)?))
                && is_computed(from)
                && let Some(slot) = owner.get_mut(reg)
            {
                *slot = from;
            }
            let Some(&root) = owner.get(reg) else { continue };
            if let Some(count) = sharers.get_mut(root) {
                if *count == 0 {
                    alive = alive.saturating_add(size(root));
                }
                *count += 1;
            }
        }
        most = most.max(alive);
        for &reg in &step.frees {
            let root = owner.get(reg).copied().unwrap_or(reg);
            if let Some(count) = sharers.get_mut(root).filter(|it| **it > 0) {
                *count -= 1;
                if *count == 0 {
                    alive = alive.saturating_sub(size(root));
                }
            }
        }
    }
    most
}
