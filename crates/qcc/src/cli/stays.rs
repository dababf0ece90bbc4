//! Products that run without kernels: one reason, and one message, for all that share it.

use qcc_diag::{Diagnostic, codes};

/// Reasons with how many nodes have them, and the first of these.
pub(super) fn told(list: &[(String, String)]) -> Vec<(usize, String, String)> {
    let mut found: Vec<(usize, String, String)> = Vec::new();
    for (name, why) in list {
        match found.iter_mut().find(|it| it.2 == *why) {
            Some(it) => it.0 += 1,
            None => found.push((1, name.clone(), why.clone())),
        }
    }
    found
}

/// A warning for each reason.
pub(super) fn warnings(list: &[(String, String)]) -> Vec<Diagnostic> {
    let warning = |(count, name, why): (usize, String, String)| {
        let text = match count {
            1 => format!("'{name}' has no kernel: its weight is decoded to floats, which is slow"),
            _ => format!(
                "{count} products have no kernel, '{name}' the first: their weights are decoded to \
                 floats, which is slow"
            ),
        };
        Diagnostic::warning(codes::QCC0609, text).with_note(why)
    };
    told(list).into_iter().map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_told_once() {
        let list = [("a", "x"), ("b", "y"), ("c", "x")];
        let list = list.map(|(name, why)| (name.to_owned(), why.to_owned()));
        let found = told(&list);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0, found[0].1.as_str(), found[0].2.as_str()), (2, "a", "x"));
        let said = warnings(&list);
        assert!(said[0].message.starts_with("2 products have no kernel, 'a' the first: "));
        assert!(said[1].message.starts_with("'b' has no kernel: "));
        assert_eq!((&*said[0].notes[0], &*said[1].notes[0]), ("x", "y"));
    }
}
