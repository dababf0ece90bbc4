//! `--emit`: files of machine code beside the model, or in its place. All of them appear, or none.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use qcc::Error;
use qcc::aot::{self, Architecture, Output as Code, Storage, Targets};
use qcc_diag::{Diagnostic, Severity, codes};
use qcc_ir::Graph;
use tempfile::TempDir;

/// Options of machine code.
#[derive(Args, Debug)]
#[command(next_help_heading = "Machine code")]
pub(super) struct EmitArgs {
    /// What to write: the model, or code of its low-bit products for programs in C; several are
    /// files of one name
    #[arg(long, value_enum, value_delimiter = ',', default_value = "onnx", value_name = "LIST")]
    emit: Vec<Emit>,

    /// What code is for: native, or x86-64, -v2, -v3, -v4, aarch64, with +avx512vnni, +avxvnni,
    /// +dotprod, +i8mm; several have commas between them, and the best that the CPU runs is used
    /// [default: native]
    #[arg(long, value_name = "LIST")]
    target: Option<String>,

    /// Where code has its weights: in itself, or in a file beside it (.qpk), which a header alone
    /// only names [default: inline]
    #[arg(long, value_enum, value_name = "WHERE")]
    weights: Option<Weights>,

    /// What links shared libraries [default: cc, or that of the target's compiler]
    #[arg(long, value_name = "PROGRAM")]
    linker: Option<PathBuf>,
}

/// A kind of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Emit {
    /// The model (.onnx).
    Onnx,
    /// Text of LLVM (.ll).
    #[value(aliases = ["llvm", "ir"])]
    LlvmIr,
    /// Assembly (.s).
    Asm,
    /// An object file (.o).
    #[value(alias = "object")]
    Obj,
    /// A shared library (.so).
    #[value(alias = "so")]
    Shared,
    /// A C header (.h).
    Header,
}

/// Where weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Weights {
    /// In the code.
    Inline,
    /// In a file.
    File,
}

/// What the name of a file of weights ends with.
const WEIGHTS: &str = "qpk";

impl Emit {
    fn extension(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::LlvmIr => "ll",
            Self::Asm => "s",
            Self::Obj => "o",
            Self::Shared => "so",
            Self::Header => "h",
        }
    }
}

impl EmitArgs {
    /// Whether the model is written.
    pub(super) fn has_model(&self) -> bool {
        self.emit.contains(&Emit::Onnx)
    }

    /// Whether the model is all that is written.
    pub(super) fn is_model_alone(&self) -> bool {
        self.emit.iter().all(|it| *it == Emit::Onnx)
    }

    /// Whether each option of code has code to be for.
    ///
    /// # Errors
    /// QCC0304 with the first that has none.
    fn check_used(&self) -> Result<(), Error> {
        let is_code = !self.is_model_alone();
        let is_linked = self.emit.contains(&Emit::Shared);
        let options = [
            ("--target", self.target.is_some(), is_code, "code"),
            ("--weights", self.weights.is_some(), is_code, "code"),
            ("--linker", self.linker.is_some(), is_linked, "shared library"),
        ];
        let mut useless = options.iter().filter(|it| it.1 && !it.2);
        let Some((option, .., what)) = useless.next() else { return Ok(()) };
        let text = format!("{option} does nothing: no {what} is written");
        Err(Diagnostic::error(codes::QCC0304, text)
            .at(format!("option {option}"))
            .with_help("--emit shared,header writes some; qcc quantize --help lists what there is")
            .into())
    }

    /// What the name of an output that nobody named ends with: that of the first kind.
    pub(super) fn extension(&self) -> &'static str {
        self.emit.iter().min().map_or("onnx", |it| it.extension())
    }
}

/// What is to be written besides the model.
pub(super) struct Plan {
    /// Kinds of code, in order.
    kinds: Vec<Emit>,
    targets: Targets,
    storage: Storage,
    linker: Option<PathBuf>,
    /// The only kind of all has the name that was asked for; else this is what the others begin
    /// with.
    output: PathBuf,
    is_alone: bool,
    has_model: bool,
}

impl Plan {
    /// Looks at the options; `None` if the model is all that is asked for.
    ///
    /// # Errors
    /// A target that there is none of; no linker; options of code where none is written; a folder
    /// for the name of files.
    pub(super) fn of(args: &EmitArgs, output: &Path) -> Result<Option<Self>, Error> {
        args.check_used()?;
        let mut kinds = args.emit.clone();
        kinds.sort();
        kinds.dedup();
        let is_alone = kinds.len() == 1;
        kinds.retain(|it| *it != Emit::Onnx);
        if kinds.is_empty() {
            return Ok(None);
        }
        // Files of several kinds would be beside it, with its name.
        let is_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/") || output.is_dir();
        if is_folder {
            return Err(unwritten(output, &io::ErrorKind::IsADirectory.into()));
        }
        let targets = aot::targets(args.target.as_deref().unwrap_or("native"))?;
        let storage = match args.weights {
            None | Some(Weights::Inline) => Storage::Inline,
            Some(Weights::File) => Storage::File,
        };
        let linker = kinds.contains(&Emit::Shared).then(|| linker(args, &targets)).transpose()?;
        let output = output.to_owned();
        let has_model = args.has_model();
        Ok(Some(Self { kinds, targets, storage, linker, output, is_alone, has_model }))
    }

    /// The name of a file that ends with `extension`.
    fn path(&self, extension: &str) -> PathBuf {
        let known = ["onnx", "ll", "s", "o", "so", "h", WEIGHTS];
        let ends = self.output.extension().and_then(OsStr::to_str);
        let mut path = self.output.clone();
        if ends.is_some_and(|it| known.contains(&it)) {
            path.set_extension("");
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(extension);
        path.with_file_name(name)
    }

    fn path_of(&self, kind: Emit) -> PathBuf {
        if self.is_alone { self.output.clone() } else { self.path(kind.extension()) }
    }

    /// What the model is called beside code.
    pub(super) fn model(&self) -> Option<PathBuf> {
        self.has_model.then(|| self.path(Emit::Onnx.extension()))
    }

    /// Whether weights are in a file beside the code.
    fn has_weights(&self) -> bool {
        self.storage == Storage::File && self.kinds.iter().any(|it| *it != Emit::Header)
    }

    /// All files that will be written.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let weights = self.has_weights().then(|| self.path(WEIGHTS));
        self.kinds.iter().map(|it| self.path_of(*it)).chain(weights).collect()
    }

    /// Makes all files under other names. `say` is told what is left out.
    ///
    /// # Errors
    /// Nothing to make code for; with `strict`, something left out; files that cannot be written.
    pub(super) fn make(
        &self,
        graph: &Graph,
        strict: bool,
        say: &mut dyn FnMut(&[Diagnostic]),
    ) -> Result<Ready, Error> {
        let stem = self.path("").with_extension("");
        let prefix = stem.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (library, left) = aot::library(graph, &prefix, &self.targets, self.storage)?;
        if let Some(first) = left.first().filter(|_| strict) {
            let error = Diagnostic { severity: Severity::Error, ..first.clone() };
            return Err(error.into());
        }
        say(&left);
        for path in self.paths() {
            // A rename would put a file in the place of a device.
            if fs::metadata(&path).is_ok_and(|it| !it.is_file()) {
                return Err(unwritten(&path, &io::Error::other("it is not a file")));
            }
        }
        let mut ready = Ready::new(&self.output)?;
        let is_object = |it: &&Emit| matches!(it, Emit::Obj | Emit::Shared);
        let object = match self.kinds.iter().find(is_object) {
            Some(_) => aot::emit(&library, Code::Object)?,
            None => Vec::new(),
        };
        let weights = self.path(WEIGHTS);
        for kind in &self.kinds {
            let path = self.path_of(*kind);
            match kind {
                Emit::Onnx => {}
                Emit::LlvmIr => ready.put(&path, &aot::emit(&library, Code::LlvmIr)?)?,
                Emit::Asm => ready.put(&path, &aot::emit(&library, Code::Asm)?)?,
                Emit::Obj => ready.put(&path, &object)?,
                Emit::Shared => self.link(&object, &path, &mut ready)?,
                Emit::Header => {
                    let name = weights.file_name().unwrap_or_default().to_string_lossy();
                    ready.put(&path, library.header(&name).as_bytes())?;
                }
            }
        }
        if self.has_weights() {
            ready.fill(&weights, |out| library.write_weights(out))?;
        }
        let (products, targets) = (library.symbols().count(), library.targets());
        ready.line = format!("{products} products for {targets}");
        Ok(ready)
    }

    /// Links a shared library.
    fn link(&self, object: &[u8], path: &Path, ready: &mut Ready) -> Result<(), Error> {
        let input = ready.folder.path().join("linked.o");
        fs::write(&input, object).map_err(|it| unwritten(path, &it))?;
        let output = ready.take(path);
        let linker = self.linker.as_deref().unwrap_or(Path::new("cc"));
        let mut soname = std::ffi::OsString::from("-Wl,-soname,");
        soname.push(path.file_name().unwrap_or_default());
        let mut run = Command::new(linker);
        run.args(["-shared", "-nostdlib"]).arg(soname).arg("-o").args([&output, &input]);
        // Only what there is no instruction for, or what asks the system, is of elsewhere.
        run.args(["-Wl,--as-needed", "-lm", "-lc"]);
        let ran = run.stdin(Stdio::null()).output().map_err(|it| no_linker(linker, &it))?;
        if ran.status.success() {
            return Ok(());
        }
        let text = format!("'{}' failed: {}", linker.display(), ran.status);
        let mut error = Diagnostic::error(codes::QCC0704, text);
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        for line in told.lines().take(5) {
            error = error.with_note(line.to_owned());
        }
        Err(error.with_help("name another one with --linker, or write --emit obj").into())
    }
}

/// What links for a target.
fn linker(args: &EmitArgs, targets: &Targets) -> Result<PathBuf, Error> {
    let at_home = match targets.architecture() {
        Architecture::X86_64 => cfg!(target_arch = "x86_64"),
        Architecture::Aarch64 => cfg!(target_arch = "aarch64"),
    };
    let usual = match targets.architecture() {
        _ if at_home => "cc",
        Architecture::X86_64 => "x86_64-linux-gnu-gcc",
        Architecture::Aarch64 => "aarch64-linux-gnu-gcc",
    };
    let linker = args.linker.clone().unwrap_or_else(|| usual.into());
    // Before long work, not after it.
    let mut run = Command::new(&linker);
    run.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run.status().map_err(|it| no_linker(&linker, &it))?;
    Ok(linker)
}

fn no_linker(linker: &Path, error: &io::Error) -> Error {
    let text = format!("'{}' does not start: {error}", linker.display());
    Diagnostic::error(codes::QCC0704, text)
        .with_help("tools/setup installs it, with --cross that for AArch64; or write --emit obj")
        .into()
}

/// Files that are whole, but do not have their names yet. Dropping it removes them.
pub(super) struct Ready {
    folder: TempDir,
    /// Where each is, and its name.
    files: Vec<(PathBuf, PathBuf)>,
    /// What they are.
    line: String,
}

impl Ready {
    /// In a folder of its own, beside what will be written.
    fn new(output: &Path) -> Result<Self, Error> {
        let parent = match output.parent() {
            Some(it) if !it.as_os_str().is_empty() => it,
            _ => Path::new("."),
        };
        let folder = tempfile::Builder::new().prefix(".qcc-").suffix(".tmp").tempdir_in(parent);
        let folder = folder.map_err(|error| {
            // Without the name that nobody asked for.
            let plain = fs::read_dir(parent).err().unwrap_or_else(|| error.kind().into());
            unwritten(output, &plain)
        })?;
        Ok(Self { folder, files: Vec::new(), line: String::new() })
    }

    /// A place for what will be at `path`.
    fn take(&mut self, path: &Path) -> PathBuf {
        let place = self.folder.path().join(self.files.len().to_string());
        self.files.push((place.clone(), path.to_owned()));
        place
    }

    fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.fill(path, |out| out.write_all(bytes))
    }

    fn fill(
        &mut self,
        path: &Path,
        fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        let place = self.take(path);
        let write = || {
            let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(place)?);
            fill(&mut out)?;
            out.into_inner()?.sync_all()
        };
        write().map_err(|it| unwritten(path, &it))
    }

    /// What the files are, in words.
    pub(super) fn line(&self) -> &str {
        &self.line
    }

    /// Gives the files their names, and tells them with their sizes.
    ///
    /// # Errors
    /// A name that cannot be given.
    pub(super) fn finish(self) -> Result<Vec<(PathBuf, u64)>, Error> {
        let mut named = Vec::new();
        for (place, path) in self.files {
            let size = fs::metadata(&place).map_or(0, |it| it.len());
            fs::rename(&place, &path).map_err(|it| unwritten(&path, &it))?;
            named.push((path, size));
        }
        Ok(named)
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Error {
    let text = format!("'{}' cannot be written: {error}", path.display());
    Diagnostic::error(codes::QCC0105, text)
        .at(path.display().to_string())
        .with_help("choose another place with -o")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kinds: &[Emit], output: &str, weights: Weights) -> Plan {
        let args = EmitArgs {
            emit: kinds.to_vec(),
            target: Some("aarch64".into()),
            weights: Some(weights),
            linker: kinds.contains(&Emit::Shared).then(|| "true".into()),
        };
        Plan::of(&args, Path::new(output)).unwrap().unwrap()
    }

    #[test]
    fn files_of_several_kinds_have_one_name() {
        let paths = |kinds: &[Emit], output, weights| {
            let paths = plan(kinds, output, weights).paths();
            paths.iter().map(|it| it.display().to_string()).collect::<Vec<_>>()
        };
        let all = [Emit::Shared, Emit::Onnx, Emit::Header, Emit::Obj, Emit::Obj];
        assert_eq!(
            paths(&all, "a/m.q4.onnx", Weights::File),
            ["a/m.q4.o", "a/m.q4.so", "a/m.q4.h", "a/m.q4.qpk"]
        );
        let model = |kinds: &[Emit], output| plan(kinds, output, Weights::Inline).model();
        assert_eq!(model(&all, "a/m.q4"), Some("a/m.q4.onnx".into()));
        assert_eq!(model(&[Emit::Asm], "m.onnx"), None);
        assert_eq!(paths(&all, "m.q4", Weights::Inline), ["m.q4.o", "m.q4.so", "m.q4.h"]);
        assert_eq!(paths(&[Emit::Shared], "libm.so.1", Weights::Inline), ["libm.so.1"]);
        assert_eq!(paths(&[Emit::Obj], "x/m.o", Weights::File), ["x/m.o", "x/m.qpk"]);
        assert_eq!(paths(&[Emit::Header], "m.h", Weights::File), ["m.h"]);
    }
}
