//! All passes and formats, put together.

use qcc_pass::PassInfo;

pub use qcc_lower::FORMATS;

/// Every pass that comes with qcc, phase by phase.
pub fn passes() -> Vec<&'static PassInfo> {
    [qcc_canonical::PASSES, qcc_quantize::PASSES, qcc_lower::PASSES].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

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
