//! What a plan is, and what it tells about itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_ir::{EvalCx, Graph, OpRef, Scope, Type, Value};
use qcc_tensor::{Pool, Tensor};

use crate::bind::{Bound, bind};
use crate::compile::{Job, compile};
use crate::control::Control;
use crate::error::{ExecError, Label};
use crate::lazy::LazyNode;
use crate::profile::{Clock, Profile};

/// Number of a value in a plan.
pub(crate) type Reg = usize;

/// Where a value is found.
#[derive(Debug)]
pub(crate) enum Held {
    /// In the state of a run.
    Live,
    /// In the plan.
    Fixed(Tensor),
    /// Among the results of a lazy node.
    Lazy { node: usize, slot: usize },
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Work {
    Op(OpRef),
    Control(Control),
}

/// A node that each run executes.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) label: Label,
    pub(crate) work: Work,
    pub(crate) inputs: Vec<Option<Reg>>,
    /// One for each output; `None` for those that nothing reads.
    pub(crate) outputs: Vec<Option<Reg>>,
    /// Values that it is the last to read.
    pub(crate) frees: Vec<Reg>,
    /// Additions and multiplications of a product of matrices; 0 for others.
    pub(crate) flops: u64,
}

impl Step {
    /// Every value that it reads.
    pub(crate) fn reads(&self) -> impl Iterator<Item = Reg> {
        let captures = match &self.work {
            Work::Control(it) => it.captures(),
            Work::Op(_) => Vec::new(),
        };
        self.inputs.iter().copied().flatten().chain(captures)
    }
}

/// A value that each run brings.
#[derive(Debug)]
pub(crate) struct Fed {
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// `None` when nothing reads it.
    pub(crate) reg: Option<Reg>,
}

/// What a plan shares with those of its regions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env {
    pub(crate) cx: EvalCx,
    pub(crate) clock: Option<Arc<Clock>>,
}

/// How a graph is to be run.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Values of the outermost graph to return; the outputs of the graph when absent.
    pub outputs: Option<Vec<Value>>,
    /// Values of the outermost graph to compute although no output needs them, to be tapped.
    pub tapped: Vec<Value>,
    /// Where buffers come from. Plans that do not run at the same time may share one.
    pub pool: Pool,
    /// Whether to note the time of each operator.
    pub profile: bool,
}

/// A graph made ready to run at one binding of its input shapes, open dimensions among them.
///
/// It holds operators and shares the bytes of constants; the graph is not needed any more.
#[derive(Debug)]
pub struct Plan {
    pub(crate) scope: Scope,
    pub(crate) fed: Vec<Fed>,
    pub(crate) outputs: Vec<Reg>,
    pub(crate) output_names: Vec<String>,
    pub(crate) regs: Vec<Held>,
    /// Of each value, at the bound shapes.
    pub(crate) types: Vec<Type>,
    /// Names of values, for taps and messages.
    pub(crate) index: BTreeMap<Value, Reg>,
    pub(crate) steps: Vec<Step>,
    pub(crate) lazies: Vec<LazyNode>,
    pub(crate) env: Env,
    pub(crate) peak: usize,
    pub(crate) flops: u64,
}

impl Plan {
    /// Plans a graph.
    ///
    /// `inputs` names the inputs of the graph and says what each run will bring, or the value
    /// itself. The name of any other value of the outermost graph may stand there too: it is then
    /// brought instead of computed, so a part of a graph runs alone, or with another weight. Inputs
    /// with a default may be left out, and so may those that nothing needs.
    ///
    /// # Errors
    /// When an input is missing or does not fit, when operands of a needed node do not fit, and
    /// when needed operators are not executed: then with all of them.
    pub fn new(
        graph: &Graph,
        inputs: &[(String, Bound)],
        options: &PlanOptions,
    ) -> Result<Self, ExecError> {
        let clock = options.profile.then(Arc::default);
        let env = Env { cx: EvalCx { pool: options.pool.clone() }, clock };
        compile(&Job {
            graph,
            scope: Scope::root(),
            given: bind(graph, inputs)?,
            outputs: options.outputs.as_deref().unwrap_or_else(|| graph.outputs()),
            tapped: &options.tapped,
            env: &env,
        })
    }

    /// Most bytes that results of operators hold at one time, as far as their shapes are known
    /// before a run. Inputs, constants and scratch memory are not counted.
    pub fn peak_bytes(&self) -> usize {
        self.peak
    }

    /// Additions and multiplications of the matrix products of one run, as far as shapes are known.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    /// Number of nodes that each run executes; what follows from constants is not among them.
    pub fn n_steps(&self) -> usize {
        self.steps.len()
    }

    /// Bytes of results that runs have kept since they follow from constants.
    pub fn kept_bytes(&self) -> usize {
        let results = self.lazies.iter().filter_map(|it| it.results.get()).flatten();
        results.map(|it| it.bytes().len()).sum()
    }

    /// The type of a value at the bound shapes; `None` when no run needs it.
    pub fn ty(&self, value: Value) -> Option<&Type> {
        self.types.get(*self.index.get(&value)?)
    }

    /// A value that every run has, since it follows from the bound shapes and from constants: the
    /// shape that something is reshaped to, say. `None` for others, and for large ones.
    pub fn known(&self, value: Value) -> Option<&Tensor> {
        match self.regs.get(*self.index.get(&value)?)? {
            Held::Fixed(it) => Some(it),
            Held::Live | Held::Lazy { .. } => None,
        }
    }

    /// The pool that results of runs come from.
    pub fn pool(&self) -> &Pool {
        &self.env.cx.pool
    }

    /// Time of each operator over all runs so far; empty unless the options ask for it.
    pub fn profile(&self) -> Profile {
        self.env.clock.as_ref().map(|it| it.table()).unwrap_or_default()
    }
}
