//! Ways of looking on, one a file.

pub(crate) mod bisect;
mod bytes;
pub(crate) mod print;
pub(crate) mod reproducer;
pub(crate) mod stop;
pub(crate) mod tables;
pub(crate) mod verify;

use std::io::{self, Write};

use qcc_diag::{Diagnostic, codes};

/// Writes for an instrument.
fn write(out: &mut dyn Write, text: &str) -> Result<(), Box<Diagnostic>> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|it| unwritten(&it))
}

fn unwritten(error: &io::Error) -> Box<Diagnostic> {
    let text = format!("what was asked for cannot be written: {error}");
    Box::new(Diagnostic::error(codes::QCC0105, text))
}
