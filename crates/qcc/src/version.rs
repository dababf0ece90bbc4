//! Which qcc this is.

/// Version of the library, and the commit that it was built from where that is known:
/// `0.1.0 (0123456789ab)`.
///
/// The commit is that of the environment variable `QCC_COMMIT` when the library was built, else of
/// the working copy of git; builds for debugging have none.
pub fn version() -> String {
    named(option_env!("QCC_COMMIT_OF_BUILD"))
}

fn named(commit: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    commit.map_or_else(|| version.to_owned(), |it| format!("{version} ({it})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_stands_behind_the_version() {
        assert_eq!(named(None), env!("CARGO_PKG_VERSION"));
        assert!(named(Some("0123456789ab")).ends_with(" (0123456789ab)"));
    }
}
