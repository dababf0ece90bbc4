//! `tidy`: rules of the house that no compiler checks, one file per subject.
//!
//! A subject takes the tree and gives one line per violation: the file, the line where there is
//! one, and what to do.

mod copies;
mod edges;
mod lines;
mod links;
mod lit;
mod manifests;

use crate::{Outcome, licenses};
use std::fs;
use std::path::Path;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 4] = ["target", "__pycache__", "node_modules", "corpus"];

/// A text file of the repository.
struct Source {
    /// Below the root, with `/` on every system.
    path: String,
    text: String,
}

/// Checks every subject and prints all violations.
///
/// # Errors
/// When there is one, or the tree cannot be read.
pub(crate) fn run(root: &Path) -> Outcome {
    let violations = violations(root)?;
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => Ok(()),
        n => Err(format!("tidy: {n} violations").into()),
    }
}

fn violations(root: &Path) -> Outcome<Vec<String>> {
    let sources = sources(root)?;
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let mut found = edges::check(&metadata);
    found.extend(manifests::check(&metadata)?);
    found.extend(licenses::check(root, &licenses::metadata(root)?)?);
    found.extend(lines::check(&sources));
    found.extend(copies::check(&sources));
    found.extend(lit::check(&sources));
    found.extend(links::check(root, &sources));
    Ok(found)
}

/// All files that a subject looks at, in order of path.
fn sources(root: &Path) -> Outcome<Vec<Source>> {
    let mut sources = Vec::new();
    collect(root, root, &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if name.starts_with('.') || SKIPPED.contains(&name.as_ref()) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, sources)?;
            continue;
        }
        let wanted = [".rs", ".md", ".qir", ".test"].iter().any(|suffix| name.ends_with(suffix));
        if kind.is_file() && wanted {
            let parts = path.strip_prefix(root)?.components();
            let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            sources.push(Source { path: parts.join("/"), text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let violations = violations(&crate::workspace_root()).unwrap();
        assert!(violations.is_empty(), "\n{}", violations.join("\n"));
    }
}
