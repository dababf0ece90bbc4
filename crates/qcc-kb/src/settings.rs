//! What the environment asks for: an instruction set, and planes of activations.

use qcc_codegen::{Jit, KernelCache};
use qcc_kernels::{Isa, KernelSource, OrScalar, Planes, Product, Scalar};
use std::env;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Kernels for products, and how exactly activations are kept.
pub(crate) struct Settings {
    pub(crate) source: Arc<OrScalar>,
    pub(crate) planes: Planes,
    /// Whether an instruction set was named.
    is_named: bool,
    told: AtomicBool,
}

impl Settings {
    /// Those of `QCC_KB_ISA` and `QCC_KB_PLANES`; without them kernels for the CPU at hand, and
    /// planes of 8 bits.
    ///
    /// # Errors
    /// A value that is none, an instruction set that the CPU lacks.
    pub(crate) fn of_environment() -> Result<Self, String> {
        let text = |name| env::var_os(name).map(|it| it.to_string_lossy().into_owned());
        Self::new(text("QCC_KB_ISA").as_deref(), text("QCC_KB_PLANES").as_deref())
    }

    fn new(isa: Option<&str>, planes: Option<&str>) -> Result<Self, String> {
        let planes = value("QCC_KB_PLANES", planes)?.unwrap_or(Planes::A8);
        let isa: Option<Isa> = value("QCC_KB_ISA", isa)?;
        let source: Arc<dyn KernelSource> = match isa {
            Some(Isa::Scalar) => Arc::new(Scalar),
            _ => match jit(isa) {
                Ok(jit) => Arc::new(jit),
                Err(error) if isa.is_some() => return Err(error),
                Err(_) => Arc::new(Scalar),
            },
        };
        let source = Arc::new(OrScalar::new(source));
        Ok(Self { source, planes, is_named: isa.is_some(), told: AtomicBool::new(false) })
    }

    /// Whether a product may be measured: its kernel is there, or nobody asked for another one than
    /// that in plain Rust, which is told then.
    pub(crate) fn allow(&self, product: &Product) -> Result<(), String> {
        product.prepare(1).map_err(|it| it.to_string())?;
        match self.source.why() {
            Some(why) if self.is_named => Err(why.to_string()),
            Some(why) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    eprintln!("qcc: slow kernels in plain Rust: {why}");
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn jit(isa: Option<Isa>) -> Result<Jit, String> {
    let made = || {
        let jit = Jit::new()?;
        match isa {
            Some(isa) => jit.with_isa(isa),
            None => Ok(jit),
        }
    };
    let jit = made().map_err(|it| it.to_string())?;
    Ok(match KernelCache::of_user() {
        Some(cache) => jit.with_cache(cache),
        None => jit,
    })
}

fn value<T: FromStr>(name: &str, text: Option<&str>) -> Result<Option<T>, String>
where
    T::Err: std::fmt::Display,
{
    let parse = |text: &str| text.parse().map_err(|it| format!("{name} is '{text}': {it}"));
    text.filter(|it| !it.is_empty()).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let refused = |isa, planes| Settings::new(isa, planes).err().unwrap_or_default();
        let text = refused(Some("avx3"), None);
        assert!(text.starts_with("QCC_KB_ISA is 'avx3': "), "{text}");
        let text = refused(None, Some("a9"));
        assert!(text.starts_with("QCC_KB_PLANES is 'a9': "), "{text}");
        let foreign = if cfg!(target_arch = "x86_64") { Isa::NeonDot } else { Isa::Avx2 };
        assert!(!refused(Some(&foreign.to_string()), None).is_empty());
        for isa in [None, Some(""), Some("scalar")] {
            let settings = Settings::new(isa, Some("a15"));
            assert_eq!(settings.map(|it| it.planes).ok(), Some(Planes::A15));
        }
    }
}
