//! No Rust file is longer than a reader can hold: 800 lines, and 500 ask for a split already.

use super::Source;

const MAX_LINES: usize = 800;

/// Files that may be longer, each with the reason.
const EXCEPTIONS: [(&str, &str); 2] = [
    ("crates/onnx-protobuf/src/generated.rs", "written by `cargo xtask gen`"),
    ("crates/onnx-protobuf/src/fields.rs", "written by `cargo xtask gen`"),
];

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().filter_map(|source| {
        let lines = source.text.lines().count();
        let counts = source.path.ends_with(".rs")
            && lines > MAX_LINES
            && !EXCEPTIONS.iter().any(|(path, _)| *path == source.path);
        counts.then(|| format!("{}: {lines} lines, split it along a noun", source.path))
    });
    let stale = EXCEPTIONS
        .iter()
        .filter(|(path, _)| !sources.iter().any(|source| source.path == *path))
        .map(|(path, why)| format!("lines: no file {path} any more ({why})"));
    long.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_too_many() {
        let file = |path: &str, lines| Source { path: path.into(), text: "x\n".repeat(lines) };
        let mut sources = vec![file("a.rs", 800), file("b.rs", 801), file("c.md", 801)];
        sources.extend(EXCEPTIONS.map(|(path, _)| file(path, 5000)));
        assert_eq!(check(&sources), ["b.rs: 801 lines, split it along a noun"]);
        sources.pop();
        assert_eq!(check(&sources).len(), 2);
    }
}
