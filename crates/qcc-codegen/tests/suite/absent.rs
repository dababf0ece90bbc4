//! What this machine lacks: tests that cannot run say so where it is seen, and `tools/test` repeats
//! it at its end.

use std::io::Write;

/// Says what does not run here though it may be that it cannot.
pub(crate) fn apart(what: &str, why: &str) {
    // What a test prints is shown only if it fails; this is not.
    let _ = writeln!(std::io::stderr(), "not run here: {what}: {why}");
}

/// Says what does not run here. With CI=true, where it ought to, that is a failure.
pub(crate) fn missing(what: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}: {why}");
    apart(what, why);
}
