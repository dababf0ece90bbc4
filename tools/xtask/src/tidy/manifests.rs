//! Every member takes the lints of the workspace.

use crate::Outcome;
use cargo_metadata::Metadata;
use std::fs;

pub(super) fn check(metadata: &Metadata) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest: toml::Table = fs::read_to_string(&package.manifest_path)?.parse()?;
        if !has_workspace_lints(&manifest) {
            found.push(format!("manifests: '{}' lacks `lints.workspace = true`", package.name));
        }
    }
    Ok(found)
}

fn has_workspace_lints(manifest: &toml::Table) -> bool {
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    lints.and_then(toml::Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::has_workspace_lints;

    #[test]
    fn both_spellings_and_none() {
        let has = |text: &str| has_workspace_lints(&text.parse().unwrap());
        assert!(has("[lints]\nworkspace = true"));
        assert!(has("lints.workspace = true"));
        assert!(!has("[lints]\nworkspace = false"));
        assert!(!has("[lints.rust]\nunsafe_code = 'deny'"));
        assert!(!has("[package]\nname = 'x'"));
    }
}
