//! Asks the output format whether it can carry what was chosen, before numbers are: that may take
//! hours.

use qcc_diag::Diagnostic;
use qcc_ir::Graph;
use qcc_lower::{PASSES, PRODUCTS, check_layout, check_readers, needed_opset};
use qcc_onnx::{Source, check_opset};
use qcc_pass::{Before, Instrument, Pipeline, Step};
use qcc_quantize::allocate_bits;

/// Looks at the rest of the pipeline before each pass that chooses numbers.
pub(crate) struct Carried {
    steps: Vec<Step>,
    source: Source,
}

impl Carried {
    /// Looks at a pipeline over a graph of this source.
    pub(crate) fn new(source: Source) -> Self {
        Self { steps: Vec::new(), source }
    }
}

impl Instrument for Carried {
    fn begin(&mut self, pipeline: &Pipeline) -> Result<(), Box<Diagnostic>> {
        self.steps = pipeline.steps().to_vec();
        Ok(())
    }

    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        let is_of =
            |passes: &[&qcc_pass::PassInfo], name: &str| passes.iter().any(|it| it.name == name);
        let name = at.step.pass.name;
        let rest = self.steps.get(at.position + 1..).unwrap_or_default();
        // What other passes would make of the graph on the way is not known.
        let is_plain =
            |it: &Step| is_of(qcc_quantize::PASSES, it.pass.name) || is_of(PASSES, it.pass.name);
        if !is_of(qcc_quantize::PASSES, name) || !rest.iter().all(is_plain) {
            return Ok(());
        }
        check(at.graph, name, rest).map_err(|it| it.into_diagnostic(name))?;
        if name == allocate_bits::INFO.name {
            return Ok(()); // other bits may need less
        }
        match needed_opset(at.graph, rest) {
            Some(need) => check_opset(at.graph, &self.source, need, PRODUCTS)
                .map_err(|it| Box::new(Diagnostic::from(it))),
            None => Ok(()),
        }
    }
}

fn check(graph: &Graph, name: &str, rest: &[Step]) -> Result<(), qcc_pass::PassError> {
    check_readers(graph, rest)?;
    // A budget chooses other bits.
    if name == allocate_bits::INFO.name { Ok(()) } else { check_layout(graph, rest) }
}
