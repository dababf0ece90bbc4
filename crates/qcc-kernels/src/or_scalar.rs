//! Kernels of a source, and those in plain Rust where it has none.

use crate::abi::{Kernel, KernelError, KernelSource};
use crate::scalar::Scalar;
use crate::spec::{Isa, KernelSpec};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A source that always has a kernel: where the one that it asks fails, [`Scalar`] stands in. That
/// computes the same bits, slowly.
pub struct OrScalar {
    source: Arc<dyn KernelSource>,
    /// Why the first kernel that was asked for in vain is not there.
    why: OnceLock<KernelError>,
    /// Whether the source had one.
    found: AtomicBool,
}

impl OrScalar {
    /// Asks `source` first.
    #[must_use]
    pub fn new(source: Arc<dyn KernelSource>) -> Self {
        Self { source, why: OnceLock::new(), found: AtomicBool::new(false) }
    }

    /// Why kernels in plain Rust stand in, if any do so far: the first reason.
    pub fn why(&self) -> Option<&KernelError> {
        self.why.get()
    }

    /// The instruction sets of the kernels that were given so far, the faster first; that of the
    /// source if there are none.
    pub fn isas(&self) -> Vec<Isa> {
        let own = self.why.get().is_none() || self.found.load(Ordering::Relaxed);
        let mut isas = Vec::from_iter(own.then(|| self.source.isa()));
        if self.why.get().is_some() && !isas.contains(&Isa::Scalar) {
            isas.push(Isa::Scalar);
        }
        isas
    }
}

impl KernelSource for OrScalar {
    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
        match self.source.kernel(spec) {
            Ok(kernel) => {
                self.found.store(true, Ordering::Relaxed);
                Ok(kernel)
            }
            Err(error) => {
                // A spec that is none has no kernel in plain Rust either.
                let kernel = Scalar.kernel(&KernelSpec { isa: Isa::Scalar, ..*spec })?;
                let _ = self.why.set(error); // the first one counts
                Ok(kernel)
            }
        }
    }

    fn isa(&self) -> Isa {
        self.source.isa()
    }
}

impl fmt::Debug for OrScalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrScalar").field("isas", &self.isas()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has kernels of one row.
    struct OneRow;

    impl KernelSource for OneRow {
        fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
            let spec = KernelSpec { isa: Isa::Scalar, ..*spec };
            if spec.rows == 1 { Scalar.kernel(&spec) } else { Err(KernelError::Unknown(spec)) }
        }

        fn isa(&self) -> Isa {
            Isa::Avx2
        }
    }

    #[test]
    fn what_a_source_lacks_is_plain_rust() {
        let source = OrScalar::new(Arc::new(OneRow));
        let spec = |rows: u8| -> KernelSpec {
            format!("qcc_mm_b4_g32_m{rows}_t1_f32_a8_avx2").parse().unwrap()
        };
        assert_eq!(source.isas(), [Isa::Avx2]);
        assert!(source.kernel(&spec(1)).is_ok() && source.why().is_none());
        for rows in [3, 6] {
            assert!(source.kernel(&spec(rows)).is_ok());
            let why = source.why().map(ToString::to_string);
            assert_eq!(why.as_deref(), Some("no kernel qcc_mm_b4_g32_m3_t1_f32_a8_scalar here"));
        }
        assert_eq!(source.isas(), [Isa::Avx2, Isa::Scalar]);
        let none = KernelSpec { rows: 7, ..spec(1) };
        assert!(source.kernel(&none).is_err());
    }
}
