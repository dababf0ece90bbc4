//! The bytes that a text of a graph does not have, in files beside it.

use std::path::Path;
use std::{fs, io};

use qcc_ir::Graph;

/// The folder beside a text: each file in it is named by the BLAKE3 hash of what it holds.
const FOLDER: &str = "bytes";

/// Writes the constants that the text of `graph` at `text` knows by hash alone. Those that are
/// there already, of another text say, are left.
///
/// # Errors
/// What the system says.
pub(super) fn save(text: &Path, graph: &Graph) -> io::Result<()> {
    let folder = text.with_file_name(FOLDER);
    for (hash, tensor) in qcc_ir::text::hash_alone(graph) {
        let path = folder.join(hash);
        if !path.exists() {
            fs::create_dir_all(&folder)?;
            fs::write(path, tensor.bytes())?;
        }
    }
    Ok(())
}
