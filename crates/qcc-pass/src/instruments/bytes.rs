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

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_ir::text::{Stored, no_bytes, parse, print};

    #[test]
    fn a_text_reads_back_with_what_is_beside_it() {
        let make = |_: &str, _: &str, _, _| Err("no operators".to_owned());
        let text = format!(
            "graph @g() -> (%a, %b) {{
               %a = const u8[65] bytes \"{}\"
               %b = const u8[2] [1, 2]
             }}",
            "07".repeat(65)
        );
        let graph = parse(&text, &make, &no_bytes).unwrap().remove(0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.qir");
        save(&path, &graph).unwrap();
        save(&path, &graph).unwrap(); // as the next dump does
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 1);
        let load = |it: &Stored<'_>| {
            let hash = it.blake3.unwrap_or_default();
            fs::read(dir.path().join(FOLDER).join(hash))
                .map(Into::into)
                .map_err(|it| it.to_string())
        };
        let printed = print(&graph);
        assert_eq!(print(&parse(&printed, &make, &load).unwrap()[0]), printed);
    }
}
