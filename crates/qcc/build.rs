//! Tells the crate which commit it is built from: that of `QCC_COMMIT`, or of the working copy of
//! git; neither in an archive of the sources, nor in a copy inside of another repository. A build for
//! debugging is of a working copy that changes, and names no commit.

use std::path::Path;
use std::process::Command;

/// Digits of a commit.
const DIGITS: &str = "--short=12";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=QCC_COMMIT");
    let named = std::env::var("QCC_COMMIT").ok().filter(|it| !it.is_empty());
    if let Some(commit) = named.or_else(of_git) {
        println!("cargo:rustc-env=QCC_COMMIT_OF_BUILD={commit}");
    }
}

fn of_git() -> Option<String> {
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    // The folder of this crate is `crates/qcc` of its repository.
    if git(&["rev-parse", "--show-prefix"])? != "crates/qcc/" {
        return None;
    }
    // Each commit, and each change to another one, adds a line there.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", DIGITS, "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}
