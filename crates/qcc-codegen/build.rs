//! Names the code that kernels come from: what is kept of an earlier build is used again only if
//! that is the same.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// All that the code of a kernel follows from: its emitter, its arguments and epilogues, and what
/// weights look like. Beside them there is LLVM.
const SOURCES: [&str; 3] = ["src", "../qcc-kernels/src", "../qcc-quant/src"];

fn main() -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    for folder in SOURCES {
        println!("cargo:rerun-if-changed={folder}");
        add(Path::new(folder), &mut hasher)?;
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=QCC_KERNEL_SOURCES={:016x}", hasher.finish());
    Ok(())
}

fn add(folder: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            add(&entry.path(), hasher)?;
        } else {
            entry.file_name().hash(hasher);
            fs::read(entry.path())?.hash(hasher);
        }
    }
    Ok(())
}
