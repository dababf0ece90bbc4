//! Licences of the crates that qcc is built from: which there are, and which may be.

use crate::Outcome;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use spdx::{Expression, Licensee, ParseMode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Crates whose libraries users get: the program and the plug-in.
const SHIPPED: [&str; 2] = ["qcc", "qcc-ort"];

/// The crates in the lock file that a build for Linux needs. What other systems need beside them is
/// never downloaded there.
///
/// # Errors
/// When cargo fails, or the lock file is stale.
pub(crate) fn metadata(root: &Path) -> Outcome<Metadata> {
    let options = ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let options = options.map(str::to_owned).to_vec();
    let mut command = MetadataCommand::new();
    Ok(command.manifest_path(root.join("Cargo.toml")).other_options(options).exec()?)
}

/// Name, version and licence of every crate of others that users get compiled, one to a line and in
/// columns, in order of their names.
///
/// # Errors
/// When cargo tells no dependencies.
pub(crate) fn table(metadata: &Metadata) -> Outcome<String> {
    let rows: BTreeSet<[String; 3]> = shipped(metadata)?.into_iter().map(row).collect();
    let width = |at: usize| rows.iter().map(|it| it[at].len()).max().unwrap_or(0);
    let (name_width, version_width) = (width(0), width(1));
    let lines = rows.iter().map(|[name, version, license]| {
        format!("{name:name_width$}  {version:version_width$}  {license}\n")
    });
    Ok(lines.collect())
}

fn row(package: &Package) -> [String; 3] {
    let license = package.license.as_deref().unwrap_or("none named");
    // The old form of a choice.
    let license = license.replace(" / ", "/").replace('/', " OR ");
    [package.name.to_string(), package.version.to_string(), license]
}

fn shipped(metadata: &Metadata) -> Outcome<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().ok_or("cargo tells no dependencies")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|it| (&it.id, it)).collect();
    let ours = metadata.workspace_packages();
    let mut stack: Vec<&PackageId> =
        ours.iter().filter(|it| SHIPPED.contains(&it.name.as_str())).map(|it| &it.id).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = stack.pop() {
        if !found.insert(id) {
            continue;
        }
        let deps = nodes.get(id).map(|it| it.deps.as_slice()).unwrap_or_default();
        let is_linked = |it: &&cargo_metadata::NodeDep| {
            it.dep_kinds.iter().any(|it| it.kind == DependencyKind::Normal)
        };
        stack.extend(deps.iter().filter(is_linked).map(|it| &it.pkg));
    }
    let of_others = metadata.packages.iter().filter(|it| it.source.is_some());
    Ok(of_others.filter(|it| found.contains(&it.id)).collect())
}

/// One line for each crate in the lock file whose licence the list in `deny.toml` does not allow,
/// or that does not come from the registry.
///
/// # Errors
/// When `deny.toml` cannot be read or has no such list.
pub(crate) fn check(root: &Path, metadata: &Metadata) -> Outcome<Vec<String>> {
    let deny: toml::Table = fs::read_to_string(root.join("deny.toml"))?.parse()?;
    let allow = deny.get("licenses").and_then(|it| it.get("allow")).and_then(|it| it.as_array());
    let allow = allow.ok_or("deny.toml has no list licenses.allow")?;
    let allow: Vec<Licensee> = allow
        .iter()
        .map(|it| Ok(Licensee::parse(it.as_str().unwrap_or_default())?))
        .collect::<Outcome<_>>()?;
    let mut found = Vec::new();
    for package in metadata.packages.iter().filter(|it| it.source.is_some()) {
        let name = format!("licenses: {} {}", package.name, package.version);
        let license = package.license.as_deref().unwrap_or_default();
        if !is_allowed(license, &allow) {
            found.push(format!("{name} has '{license}', which deny.toml does not allow"));
        }
        if !package.source.as_ref().is_some_and(cargo_metadata::Source::is_crates_io) {
            found.push(format!("{name} does not come from crates.io"));
        }
    }
    Ok(found)
}

fn is_allowed(license: &str, allow: &[Licensee]) -> bool {
    Expression::parse_mode(license, ParseMode::LAX).is_ok_and(|it| {
        it.evaluate(|needed| allow.iter().any(|licensee| licensee.satisfies(needed)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_choice_is_enough_and_all_of_a_sum_are_needed() {
        let allow = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];
        let allow: Vec<Licensee> = allow.iter().map(|it| Licensee::parse(it).unwrap()).collect();
        assert!(is_allowed("MIT OR GPL-3.0-only", &allow));
        assert!(is_allowed("GPL-3.0-only/MIT", &allow));
        assert!(is_allowed("MIT AND Zlib", &allow));
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception", &allow));
        assert!(!is_allowed("Apache-2.0", &allow));
        assert!(!is_allowed("MIT AND GPL-3.0-only", &allow));
        assert!(!is_allowed("", &allow));
        assert!(!is_allowed("none of this", &allow));
    }

    #[test]
    fn the_table_names_what_is_linked_and_nothing_of_ours() {
        let table = table(&metadata(&crate::workspace_root()).unwrap()).unwrap();
        let names: Vec<&str> =
            table.lines().filter_map(|it| it.split_whitespace().next()).collect();
        assert!(names.contains(&"prost") && names.contains(&"petgraph"));
        assert!(!names.contains(&"proptest"), "tests are not shipped");
        assert!(!names.iter().any(|it| it.starts_with("qcc")));
        assert!(names.is_sorted());
    }
}
