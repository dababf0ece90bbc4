//! How large the output would be, before its numbers are chosen.

use std::path::PathBuf;
use std::sync::Arc;

use qcc_ir::Graph;
use qcc_onnx::Source;
use qcc_pass::{FileSize, PassError, Pipeline, Record, Session, Step, run};

use crate::own_text::OwnText;
use crate::provenance::Calibration;
use crate::{Output, SaveOptions};

/// The rest of a pipeline behind the choice of bits, with rounding to nearest in place of what
/// chooses numbers.
pub(crate) struct Sizer {
    pub(crate) source: Source,
    /// Passes behind the choice.
    pub(crate) rest: Pipeline,
    /// The whole pipeline, as the metadata have it.
    pub(crate) pipeline: String,
    pub(crate) session: Session,
    pub(crate) own_text: Option<Arc<OwnText>>,
    pub(crate) path: PathBuf,
    pub(crate) save: SaveOptions,
}

impl FileSize for Sizer {
    fn size_bytes(&self, graph: &Graph, record: &Record) -> Result<u64, PassError> {
        let (mut graph, mut record) = (graph.clone(), record.clone());
        run(&mut graph, &self.rest, &self.session, &mut record, &mut [])?;
        let output = Output {
            graph,
            source: self.source.clone(),
            record,
            pipeline: self.pipeline.clone(),
            calibration: Calibration::of(&self.session, self.own_text.as_deref(), None),
            seed: self.session.seed,
            is_finished: true,
        };
        output.size(&self.path, &self.save).map_err(|it| it.diagnostic().clone().into())
    }
}

/// The steps behind `allocate-bits`, quick: what chooses numbers is left out for `rtn`.
pub(crate) fn quick(steps: &[Step], rtn: Step) -> Option<Vec<Step>> {
    let at = steps.iter().position(|it| it.pass.name == qcc_quantize::allocate_bits::INFO.name)?;
    let is_slow = |it: &Step| qcc_quantize::PASSES.iter().any(|pass| pass.name == it.pass.name);
    let rest = steps.get(at + 1..)?.iter().filter(|it| !is_slow(it)).cloned();
    Some(std::iter::once(rtn).chain(rest).collect())
}
