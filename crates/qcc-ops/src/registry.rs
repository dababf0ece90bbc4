//! Finding operators by domain and name.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use qcc_ir::{Attr, Attrs, OpRef, Opaque};

use crate::{AttrError, AttrReader, OPS, OpDef};

/// The definition of an operator; `ai.onnx` is the default domain.
pub fn find(domain: &str, name: &str) -> Option<&'static OpDef> {
    static TABLE: OnceLock<BTreeMap<(&str, &str), &OpDef>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        OPS.iter().flat_map(|it| it.iter()).map(|it| ((it.domain, it.name), it)).collect()
    });
    let domain = if domain == "ai.onnx" { "" } else { domain };
    table.get(&(domain, name)).copied()
}

/// Makes an operator. One that is not known, or that has attributes which refer to those of a
/// function, is [`Opaque`].
///
/// # Errors
/// When a known operator lacks an attribute, or has one that it does not know or with a value
/// that it does not allow.
pub fn parse(domain: &str, name: &str, opset: i64, attrs: Attrs) -> Result<OpRef, AttrError> {
    let has_raw = attrs.iter().any(|it| matches!(it.1, Attr::Raw(_) | Attr::Ref(_)));
    if let Some(def) = find(domain, name).filter(|_| !has_raw) {
        let mut reader = AttrReader::new(name, opset, &attrs);
        let op = (def.parse)(&mut reader)?;
        reader.finish()?;
        return Ok(op);
    }
    Ok(Arc::new(Opaque { domain: domain.to_owned(), name: name.to_owned(), attrs }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_listed_once() {
        let mut names: Vec<_> =
            OPS.iter().flat_map(|it| it.iter()).map(|it| (it.domain, it.name)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn unknown_operators_are_carried() {
        let attrs = vec![("a".to_owned(), Attr::Int(1))];
        let op = parse("my.domain", "Thing", 1, attrs.clone()).unwrap();
        assert_eq!((op.domain(), op.name(), op.attrs()), ("my.domain", "Thing", attrs));
    }
}
