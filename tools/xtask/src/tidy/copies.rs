//! Passes do not clone tensor bytes: a model may be larger than memory.
//!
//! Text cannot tell a copy of a weight from one of a shape, so every `.to_vec()` outside tests
//! counts, and the number is committed. Raise it only for a copy that is small or needed, and
//! lower it when one goes.

use super::Source;

/// `.to_vec()` calls in `passes/`, outside tests.
const COMMITTED: usize = 5; // shapes, node lists and small integers

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    compare(&copies(sources), COMMITTED)
}

/// Places of the calls, as `path:line`.
fn copies(sources: &[Source]) -> Vec<String> {
    let passes = sources
        .iter()
        .filter(|source| source.path.starts_with("passes/") && source.path.ends_with(".rs"));
    let mut found = Vec::new();
    for Source { path, text } in passes {
        // Tests are last in a file.
        let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        for (i, line) in code.enumerate() {
            let line = line.split_once("//").map_or(line, |(code, _)| code);
            let calls = line.matches(".to_vec()").count();
            found.extend(std::iter::repeat_n(format!("{path}:{}", i + 1), calls));
        }
    }
    found
}

fn compare(copies: &[String], committed: usize) -> Vec<String> {
    let found = copies.len();
    match found.cmp(&committed) {
        std::cmp::Ordering::Equal => Vec::new(),
        std::cmp::Ordering::Less => {
            vec![format!("copies: {found} `.to_vec()` in passes/, lower the count of {committed}")]
        }
        std::cmp::Ordering::Greater => vec![format!(
            "copies: {found} `.to_vec()` in passes/ instead of {committed}: {}",
            copies.join(", ")
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_outside_tests_and_comments() {
        let text = "a.to_vec();\n// b.to_vec()\nf(c.to_vec(), d.to_vec());\n\
                    #[cfg(test)]\nmod tests { e.to_vec(); }\n";
        let file = |path: &str| Source { path: path.into(), text: text.into() };
        let found = copies(&[file("passes/lower/src/x.rs"), file("crates/qcc/src/y.rs")]);
        let place = |line: usize| format!("passes/lower/src/x.rs:{line}");
        assert_eq!(found, [place(1), place(3), place(3)]);
        assert!(compare(&found, 3).is_empty());
        assert_eq!(compare(&found, 2).len(), 1);
        assert_eq!(compare(&found, 4).len(), 1);
    }
}
