//! All passes and formats, put together.

use qcc_pass::{PassInfo, Pipeline};

pub use qcc_lower::FORMATS;

/// What makes a graph ready to be run: see [`qcc_pass::WorkingCopy`].
/// Other rewrites make no difference to the time of a run.
pub const WORKING_COPY: &str = "inline-functions{opsets=any}";

/// What makes a graph ready to be differentiated: fused operators become those that have
/// derivatives, and half precision f32.
pub const TUNING_COPY: &str =
    "inline-functions{opsets=any},infer-types,widen-floats,lower-fused,infer-types";

/// The pipeline over the copy that is differentiated.
pub(crate) fn tuning_copy() -> Pipeline {
    Pipeline::parse(TUNING_COPY, qcc_canonical::PASSES, &[]).unwrap_or_default()
}

/// The pipeline over the copy of a graph that is run.
pub(crate) fn working_copy() -> Pipeline {
    // The text is checked by a test; were it wrong, graphs would run as they are.
    Pipeline::parse(WORKING_COPY, qcc_canonical::PASSES, &[]).unwrap_or_default()
}

/// The pipeline that finds the types of a graph.
pub(crate) fn types() -> Pipeline {
    Pipeline::parse("infer-types", qcc_canonical::PASSES, &[]).unwrap_or_default()
}

/// Every pass that comes with qcc, phase by phase.
pub fn passes() -> Vec<&'static PassInfo> {
    [qcc_canonical::PASSES, qcc_quantize::PASSES, qcc_lower::PASSES].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_working_copy_can_be_read() {
        assert!(!working_copy().steps().is_empty());
        assert!(!tuning_copy().steps().is_empty());
        assert!(!types().steps().is_empty());
    }

    #[test]
    fn every_row_of_the_table_is_right() {
        for pass in passes() {
            assert!(pass.faults().is_empty(), "{}: {:?}", pass.name, pass.faults());
        }
        let mut names: Vec<&str> = passes().iter().map(|it| it.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
