//! Decoding attributes into fields.

use std::cell::Cell;

use qcc_ir::{Attr, Attrs};
use qcc_tensor::Tensor;

/// Why attributes do not make the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// A required attribute is missing.
    #[error("{op} needs the attribute '{name}'")]
    Missing {
        /// Operator.
        op: String,
        /// Attribute.
        name: String,
    },
    /// An attribute has another kind, or a value that is not allowed.
    #[error("{op}: attribute '{name}' {what}")]
    Value {
        /// Operator.
        op: String,
        /// Attribute.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The operator has no such attribute.
    #[error("{op} has no attribute '{name}'")]
    Unknown {
        /// Operator.
        op: String,
        /// Attribute.
        name: String,
    },
}

/// Reads attributes by name, and notes which were read.
#[derive(Debug)]
pub struct AttrReader<'a> {
    op: &'a str,
    opset: i64,
    attrs: &'a Attrs,
    seen: Vec<Cell<bool>>,
}

impl<'a> AttrReader<'a> {
    /// Reads the attributes of a node of this operator. `opset` is the version of its domain that
    /// the model imports.
    pub fn new(op: &'a str, opset: i64, attrs: &'a Attrs) -> Self {
        Self { op, opset, attrs, seen: vec![Cell::new(false); attrs.len()] }
    }

    /// The operator's name.
    pub fn op(&self) -> &'a str {
        self.op
    }

    /// Version of the operator's domain that the model imports.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// An attribute as it is.
    pub fn get(&self, name: &str) -> Option<&'a Attr> {
        let index = self.attrs.iter().position(|it| it.0 == name)?;
        self.seen[index].set(true);
        Some(&self.attrs[index].1)
    }

    /// An optional integer.
    ///
    /// # Errors
    /// When it is of another kind; so for all that follow.
    pub fn opt_int(&self, name: &str) -> Result<Option<i64>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Int(it)) => Ok(Some(*it)),
            Some(_) => Err(self.error(name, "is not an integer")),
        }
    }

    /// An integer with a default.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, AttrError> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// A required integer.
    ///
    /// # Errors
    /// When it is missing or of another kind.
    pub fn need_int(&self, name: &str) -> Result<i64, AttrError> {
        self.opt_int(name)?.ok_or_else(|| self.missing(name))
    }

    /// An integer used as a flag.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, AttrError> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// An optional float.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn opt_float(&self, name: &str) -> Result<Option<f32>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Float(it)) => Ok(Some(*it)),
            Some(_) => Err(self.error(name, "is not a float")),
        }
    }

    /// A float with a default.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, AttrError> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    /// An optional string.
    ///
    /// # Errors
    /// When it is of another kind or not UTF-8.
    pub fn opt_str(&self, name: &str) -> Result<Option<&'a str>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Str(it)) => {
                std::str::from_utf8(it).map(Some).map_err(|_| self.error(name, "is not UTF-8"))
            }
            Some(_) => Err(self.error(name, "is not a string")),
        }
    }

    /// A string with a default.
    ///
    /// # Errors
    /// When it is of another kind or not UTF-8.
    pub fn str(&self, name: &str, default: &'static str) -> Result<&'a str, AttrError> {
        Ok(self.opt_str(name)?.unwrap_or(default))
    }

    /// Optional integers.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn opt_ints(&self, name: &str) -> Result<Option<&'a [i64]>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Ints(it)) => Ok(Some(it)),
            Some(_) => Err(self.error(name, "is not a list of integers")),
        }
    }

    /// Integers, empty by default.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>, AttrError> {
        Ok(self.opt_ints(name)?.unwrap_or_default().to_vec())
    }

    /// Optional floats.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn opt_floats(&self, name: &str) -> Result<Option<&'a [f32]>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Floats(it)) => Ok(Some(it)),
            Some(_) => Err(self.error(name, "is not a list of floats")),
        }
    }

    /// An optional tensor.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn opt_tensor(&self, name: &str) -> Result<Option<&'a Tensor>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Tensor(it)) => Ok(Some(it)),
            Some(_) => Err(self.error(name, "is not a tensor")),
        }
    }

    /// An error about the value of an attribute: `what` goes on from its name.
    pub fn error(&self, name: &str, what: impl Into<String>) -> AttrError {
        AttrError::Value { op: self.op.into(), name: name.into(), what: what.into() }
    }

    /// A required attribute that is not there.
    pub fn missing(&self, name: &str) -> AttrError {
        AttrError::Missing { op: self.op.into(), name: name.into() }
    }

    /// Checks that every attribute was read.
    ///
    /// # Errors
    /// The first one that was not.
    pub fn finish(&self) -> Result<(), AttrError> {
        match self.seen.iter().position(|it| !it.get()) {
            None => Ok(()),
            Some(index) => {
                let name = self.attrs[index].0.clone();
                Err(AttrError::Unknown { op: self.op.into(), name })
            }
        }
    }
}
