//! Symbols of products: names of nodes made C identifiers.

use std::collections::BTreeSet;

/// What symbols of the library itself are called behind the prefix.
const TAKEN: &[&str] = &[
    "library",
    "products",
    "open",
    "missing",
    "target",
    "select",
    "abi",
    "PRODUCTS",
    "TARGETS",
    "WEIGHTS_BYTES",
    "QCC_H",
];

/// What the functions and the constant of a product are called behind its symbol.
const SUFFIXES: [&str; 6] =
    ["", "_quantize", "_multiply", "_end", "_multiply_end", "_WORKSPACE_ROW"];

/// `text` as a C identifier: letters and digits, one `_` for each run of anything else between
/// them. What would begin with a digit, or be empty, gets an `m` before it.
#[must_use]
pub fn identifier(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("_");
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("m{name}") }
}

/// A symbol for each name, all of them different, also with what is put behind them.
pub(crate) fn symbols<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let own = TAKEN.iter().map(|word| format!("{prefix}_{word}"));
    let mut taken: BTreeSet<String> = own.collect();
    let mut all = Vec::new();
    for name in names {
        let base = format!("{prefix}_{}", identifier(name));
        let tries = (1_usize..).map(|count| match count {
            1 => base.clone(),
            _ => format!("{base}_{count}"),
        });
        for symbol in tries {
            let family = SUFFIXES.map(|suffix| format!("{symbol}{suffix}"));
            if family.iter().all(|it| !taken.contains(it)) {
                taken.extend(family);
                all.push(symbol);
                break;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_by_hand() {
        for (text, want) in [
            ("/model/layers.0/attn/q_proj/MatMul_Q4", "model_layers_0_attn_q_proj_MatMul_Q4"),
            ("model.q4", "model_q4"),
            ("7b", "m7b"),
            ("", "m"),
            ("größe--x_", "gr_e_x"),
        ] {
            assert_eq!(identifier(text), want);
        }
    }

    #[test]
    fn symbols_by_hand() {
        let names = ["a", "a", "open", "a_multiply", "A", "a/2", "select"];
        let want = ["p_a", "p_a_2", "p_open_2", "p_a_multiply_2", "p_A", "p_a_2_2", "p_select_2"];
        assert_eq!(symbols("p", names.into_iter()), want);
    }

    proptest! {
        #[test]
        fn symbols_are_different_identifiers(names in prop::collection::vec("[ab./_\u{e4}]{0,3}(_quantize|_end|_2)?", 0..20)) {
            let symbols = symbols("p", names.iter().map(String::as_str));
            prop_assert_eq!(symbols.len(), names.len());
            let all: BTreeSet<String> = symbols
                .iter()
                .flat_map(|symbol| SUFFIXES.map(|suffix| format!("{symbol}{suffix}")))
                .collect();
            prop_assert_eq!(all.len(), 6 * names.len());
            prop_assert!(all.iter().all(|it| it.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')));
        }
    }
}
