//! A model that is run sample after sample, on a copy that was made ready for it.

use std::collections::BTreeMap;

use qcc_diag::Diagnostic;
use qcc_engine::{LowerError, LowerOptions, Report};
use qcc_exec::{Bound, ExecError, Plan, PlanOptions, Profile};
use qcc_ir::{Graph, Value};
use qcc_pass::{Cancel, Pipeline, Session, WorkingCopy};
use qcc_tensor::Tensor;

use crate::{Error, Model, tables};

/// What a run is given, by name of the input.
pub(crate) type Feed = BTreeMap<String, Tensor>;

/// A model with the plan for the shapes that it saw last.
pub(crate) struct Runner {
    graph: Graph,
    /// What could not be made ready to be run.
    notes: Vec<Diagnostic>,
    options: PlanOptions,
    plan: Option<(Vec<(String, Bound)>, Plan)>,
}

impl Runner {
    /// Makes the copy.
    pub(crate) fn new(model: &Model, cancel: &Cancel) -> Result<Self, Error> {
        let copy = copy(model.graph(), tables::working_copy(), cancel)?;
        let options = PlanOptions::default();
        Ok(Self { graph: copy.graph, notes: copy.notes, options, plan: None })
    }

    /// Infers the types of the copy. Where they cannot be, it stays as it is.
    pub(crate) fn typed(mut self, cancel: &Cancel) -> Result<Self, Error> {
        self.graph = copy(&self.graph, tables::types(), cancel)?.graph;
        Ok(self)
    }

    /// Puts kernels in the place of products with low-bit weights.
    pub(crate) fn lower(&mut self, options: &LowerOptions) -> Result<Report, LowerError> {
        self.plan = None;
        qcc_engine::lower(&mut self.graph, options)
    }

    /// What is run, without the rest.
    pub(crate) fn into_graph(self) -> Graph {
        self.graph
    }

    /// Time of each operator over the runs with the plan at hand.
    pub(crate) fn profile(&self) -> Profile {
        self.plan.as_ref().map(|it| it.1.profile()).unwrap_or_default()
    }

    /// What is run.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Sets how the graph is planned from now on.
    pub(crate) fn set_options(&mut self, options: PlanOptions) {
        (self.options, self.plan) = (options, None);
    }

    /// The plan for the shapes of a feed.
    pub(crate) fn plan(&mut self, feed: &Feed) -> Result<&Plan, Error> {
        let bound: Vec<(String, Bound)> =
            feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let plan = match self.plan.take() {
            Some((shapes, plan)) if shapes == bound => plan,
            _ => Plan::new(&self.graph, &bound, &self.options)
                .map_err(|it| wrong(&self.notes, it))?,
        };
        Ok(&self.plan.insert((bound, plan)).1)
    }

    /// The outputs by name. `sink` gets the values of `taps`.
    pub(crate) fn run(
        &mut self,
        feed: &Feed,
        taps: &[Value],
        sink: &mut dyn FnMut(Value, &Tensor),
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let outputs = self.plan(feed)?.run(feed, taps, sink);
        outputs.map_err(|it| wrong(&self.notes, it))
    }
}

fn wrong(notes: &[Diagnostic], error: ExecError) -> Error {
    let told = notes.iter().map(|it| it.message.clone());
    Error::from(told.fold(diagnosed(error), Diagnostic::with_note))
}

/// Why a model cannot be run, with the way out for a model that was to be run.
pub(crate) fn diagnosed(error: ExecError) -> Diagnostic {
    let is_unknown = matches!(error, ExecError::Unsupported(_));
    let error = Diagnostic::from(error);
    if is_unknown {
        error.with_help("run it in ONNX Runtime, or export it without these operators")
    } else {
        error
    }
}

fn copy(graph: &Graph, pipeline: Pipeline, cancel: &Cancel) -> Result<WorkingCopy, Error> {
    let session = Session { working_copy: pipeline, cancel: cancel.clone(), ..Session::default() };
    let copy = WorkingCopy::of(graph, &[], &session);
    copy.map_err(|it| Error::from(it.into_diagnostic("run")))
}
