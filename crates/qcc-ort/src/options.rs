//! What a session may ask for.
//!
//! | Key | Values |
//! |---|---|
//! | `planes` | `auto`, `a8`, `a15`, `a22`: how exactly activations are kept |
//! | `threads` | `auto`: those of the session; a number: own threads |
//! | `isa` | `auto`, or the name of an instruction set |
//! | `attention` | `auto`: taken beside products; `off` |
//! | `cache` | `auto`, `off`, or the folder of compiled kernels |
//!
//! Given to the provider as they are, or as entries of the session's configuration, `qcc.planes`.

use crate::api::Failure;
use qcc_kernels::{Isa, Planes};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of the execution provider.
pub(crate) const PROVIDER: &str = "QccExecutionProvider";

/// Options of the provider in the configuration of a session.
const PREFIX: &str = "ep.qccexecutionprovider.";

/// The same written by hand.
const SHORT: &str = "qcc.";

/// The runtime's own entry for products over `DequantizeLinear`, which it makes `MatMulNBits` of.
const LEVEL: &str = "session.qdq_matmulnbits_accuracy_level";

/// What a session asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// None: as the accuracy level of each node says.
    pub(crate) planes: Option<Planes>,
    /// Accuracy level of products over `DequantizeLinear`, which have none; None: as exact as
    /// their type.
    pub(crate) level: Option<i64>,
    /// None: those of the session.
    pub(crate) threads: Option<usize>,
    /// None: the fastest that the CPU has.
    pub(crate) isa: Option<Isa>,
    /// Whether attention over a cache is taken, too.
    pub(crate) attention: bool,
    pub(crate) cache: Cache,
}

impl Default for Options {
    fn default() -> Self {
        let cache = Cache::default();
        Self { planes: None, level: None, threads: None, isa: None, attention: true, cache }
    }
}

/// Where compiled kernels are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cache {
    #[default]
    OfUser,
    Off,
    Folder(PathBuf),
}

impl Options {
    /// Reads what concerns qcc out of the configuration of a session.
    ///
    /// # Errors
    /// Keys and values that there are not, by name.
    pub(crate) fn read(pairs: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let mut options = Self::default();
        for (key, value) in pairs {
            let lower = key.to_ascii_lowercase();
            if key == LEVEL {
                // What else it may be is the runtime's to tell.
                options.level = value.parse().ok();
            }
            // The runtime puts the prefix before what was given to the provider.
            if let Some(name) = lower.strip_prefix(PREFIX) {
                let given = key.get(PREFIX.len()..).unwrap_or(key);
                options.set(name.strip_prefix(SHORT).unwrap_or(name), given, value)?;
            } else if let Some(name) = lower.strip_prefix(SHORT) {
                options.set(name, key, value)?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, key: &str, value: &str) -> Result<(), Failure> {
        let wrong = |known: &str| {
            Failure::wrong(format!("option '{key}' is '{value}'; known: auto, {known}"))
        };
        let auto = value == "auto";
        match name {
            "planes" if auto => self.planes = None,
            "planes" => {
                let planes = value.parse::<Planes>();
                self.planes = Some(planes.map_err(|_| wrong(&names(Planes::ALL)))?);
            }
            "threads" if auto => self.threads = None,
            "threads" => {
                let number = value.parse().ok().filter(|it| (1..=1024).contains(it));
                self.threads = Some(number.ok_or_else(|| wrong("1 to 1024"))?);
            }
            "isa" if auto => self.isa = None,
            "isa" => {
                self.isa = Some(value.parse::<Isa>().map_err(|_| wrong(&names(Isa::ALL)))?);
            }
            "attention" => match value {
                "auto" => self.attention = true,
                "off" => self.attention = false,
                _ => return Err(wrong("off")),
            },
            "cache" => {
                self.cache = match value {
                    "auto" => Cache::OfUser,
                    "off" => Cache::Off,
                    folder => Cache::Folder(folder.into()),
                }
            }
            _ => {
                let known = "planes, threads, isa, attention, cache";
                return Err(Failure::wrong(format!("there is no option '{key}'; known: {known}")));
            }
        }
        Ok(())
    }
}

fn names<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Options::read(&pairs).map_err(|it| it.to_string())
    }

    #[test]
    fn options_are_read() {
        let options = read(&[
            ("session.intra_op.allow_spinning", "0"),
            ("session.qdq_matmulnbits_accuracy_level", "4"),
            ("ep.qccexecutionprovider.planes", "a15"),
            ("ep.QccExecutionProvider.isa", "avx2"),
            ("qcc.threads", "3"),
            ("qcc.cache", "off"),
            ("qcc.attention", "off"),
        ]);
        let want = Options {
            planes: Some(Planes::A15),
            level: Some(4),
            threads: Some(3),
            isa: Some(Isa::Avx2),
            attention: false,
            cache: Cache::Off,
        };
        assert_eq!(options.unwrap(), want);
        assert_eq!(read(&[("qcc.planes", "auto"), ("qcc.isa", "auto")]), Ok(Options::default()));
        let folder = read(&[("ep.qccexecutionprovider.qcc.cache", "/x")]).unwrap();
        assert_eq!(folder.cache, Cache::Folder("/x".into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |key, value| read(&[(key, value)]).unwrap_err();
        assert_eq!(
            error("qcc.planes", "a9"),
            "option 'qcc.planes' is 'a9'; known: auto, a8, a15, a22"
        );
        assert_eq!(
            error("ep.qccexecutionprovider.plane", "a8"),
            "there is no option 'plane'; known: planes, threads, isa, attention, cache"
        );
        for (key, value) in [
            ("qcc.threads", "0"),
            ("qcc.threads", "x"),
            ("qcc.isa", "sse9"),
            ("qcc.attention", "on"),
        ] {
            assert!(error(key, value).contains(value));
        }
    }
}
