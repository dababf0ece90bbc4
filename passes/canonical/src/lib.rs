//! Passes that keep the meaning of a graph.
//!
//! [`inline-functions`](inline_functions) puts the bodies of functions where they are called,
//! [`infer-types`](infer_types) finds out types, [`fold`] evaluates what is constant, [`dce`] and
//! [`cse`] remove what is not read and what is there twice, [`canonicalize`] brings operators to
//! the forms that later passes look for, [`lower-fused`](lower_fused) takes fused ones apart,
//! [`widen-floats`](widen_floats) computes in f32 what is in half precision.

pub mod canonicalize;
pub mod cse;
pub mod dce;
pub mod fold;
pub mod infer_types;
pub mod inline_functions;
pub mod lower_fused;
mod rules;
#[cfg(test)]
mod testing;
pub mod widen_floats;

use qcc_pass::PassInfo;

/// The passes of this crate.
pub const PASSES: &[&PassInfo] = &[
    &inline_functions::INFO,
    &infer_types::INFO,
    &fold::INFO,
    &dce::INFO,
    &cse::INFO,
    &canonicalize::INFO,
    &lower_fused::INFO,
    &widen_floats::INFO,
];

#[cfg(test)]
mod tests {
    #[test]
    fn rows_have_no_faults() {
        let faults: Vec<String> = super::PASSES.iter().flat_map(|it| it.faults()).collect();
        assert_eq!(faults, Vec::<String>::new());
        let mut names: Vec<&str> = super::PASSES.iter().map(|it| it.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::PASSES.len());
    }
}
