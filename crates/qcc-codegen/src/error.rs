//! What can go wrong between a spec and code.

use std::path::PathBuf;
use thiserror::Error;

/// Why there is no kernel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodegenError {
    /// The crate was built without the feature `llvm`.
    #[error("this qcc was built without LLVM, so it cannot emit kernels")]
    NoLlvm,
    /// LLVM, which is loaded when there is something to compile, is not there.
    #[error("cannot load LLVM: {0}")]
    Load(String),
    /// No target of this name.
    #[error("unknown target '{name}'; known: {known}")]
    UnknownTarget {
        /// What was asked for.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// An extension of a target that needs a newer base.
    #[error("target '{name}': {extension} needs {needs} or newer")]
    OldBase {
        /// What was asked for.
        name: String,
        /// The extension.
        extension: String,
        /// The oldest base that it stands behind.
        needs: String,
    },
    /// Targets of one file that are not of one architecture.
    #[error("'{first}' and '{other}' are targets of two architectures, and a file is for one")]
    Architectures {
        /// The first of them.
        first: String,
        /// One of another architecture.
        other: String,
    },
    /// The CPU that should run the kernel lacks an instruction set.
    #[error("{isa} kernels need the CPU features {missing}, which {cpu} lacks")]
    MissingFeatures {
        /// The instruction set of the spec.
        isa: String,
        /// The CPU of the target.
        cpu: String,
        /// What it lacks, separated by commas.
        missing: String,
    },
    /// The instruction set is one of another architecture than the target.
    #[error("{isa} kernels do not run on {architecture}")]
    WrongArchitecture {
        /// The instruction set of the spec.
        isa: String,
        /// The architecture of the target.
        architecture: String,
    },
    /// The spec is outside of what kernels are made for.
    #[error("no kernel for {spec}: {reason}")]
    Unsupported {
        /// The spec's symbol.
        spec: String,
        /// What does not fit.
        reason: String,
    },
    /// Weights that an object cannot hold.
    #[error("{bytes} bytes of weights are too many for an object file, which takes 1 GiB")]
    TooLarge {
        /// Bytes of all weights.
        bytes: u64,
    },
    /// The folder of compiled kernels cannot be used.
    #[error("cannot use the kernel cache {path}: {reason}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// LLVM refused what qcc made: a bug.
    #[error("LLVM: {0}")]
    Internal(String),
}
