//! Relative links in Markdown lead to files of this repository.
//!
//! Inline links and images `[text](target)` and definitions `[name]: target`, outside code.
//! Addresses with a scheme and anchors inside a page are not followed.

use super::Source;
use std::path::{Component, Path};

pub(super) fn check(root: &Path, sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        for (line, target) in targets(&source.text) {
            if let Err(why) = resolve(root, &source.path, target) {
                found.push(format!("{}:{line}: link to '{target}' {why}", source.path));
            }
        }
    }
    found
}

/// Link targets with their line, without titles and anchors.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (i, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match fence {
            Some(open) => {
                if trimmed.starts_with(open) {
                    fence = None;
                }
                continue;
            }
            None => fence = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark)),
        }
        if fence.is_some() {
            continue;
        }
        let definition = trimmed.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        if let Some((_, target)) = definition {
            found.push((i + 1, clean(target)));
        }
        // Every second piece lies between backticks.
        for prose in line.split('`').step_by(2) {
            for rest in prose.split("](").skip(1) {
                let target = rest.split_once(')').map_or(rest, |(target, _)| target);
                found.push((i + 1, clean(target)));
            }
        }
    }
    found.retain(|(_, target)| !target.is_empty() && !has_scheme(target));
    found
}

fn clean(target: &str) -> &str {
    let target = target.trim();
    let target = match target.strip_prefix('<') {
        Some(rest) => rest.split_once('>').map_or(rest, |(target, _)| target),
        None => target.split_whitespace().next().unwrap_or(""),
    };
    target.split_once('#').map_or(target, |(path, _)| path)
}

fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
    })
}

fn resolve(root: &Path, from: &str, target: &str) -> Result<(), &'static str> {
    let mut path = Path::new(from).parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return Err("leaves the repository"),
        }
    }
    if root.join(path).exists() { Ok(()) } else { Err("leads nowhere") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_every_form() {
        let text = "see [a](one.md#part \"title\") and ![b](<two words.png>), `[no](code.md)`\n\
                    [c]: three/four.md\n\
                    ```\n[no](fence.md)\n```\n\
                    [web](https://example.org/x.md) [mail](mailto:a@b.c) [here](#part)\n\
                    [d](../up.md)[e](five/)\n";
        assert_eq!(
            targets(text),
            [
                (1, "one.md"),
                (1, "two words.png"),
                (2, "three/four.md"),
                (7, "../up.md"),
                (7, "five/"),
            ]
        );
    }

    #[test]
    fn paths_are_relative_to_the_page() {
        let root = crate::workspace_root();
        assert_eq!(resolve(&root, "docs/x.md", "../Cargo.toml"), Ok(()));
        assert_eq!(resolve(&root, "x.md", "./tools/xtask/"), Ok(()));
        assert_eq!(resolve(&root, "docs/x.md", "Cargo.toml"), Err("leads nowhere"));
        assert_eq!(resolve(&root, "docs/x.md", "../../y.md"), Err("leaves the repository"));
        assert_eq!(resolve(&root, "docs/x.md", "/etc"), Err("leaves the repository"));
    }
}
