//! Arrays in, arrays or a table of them out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use qcc::{Error, Executor, Model};
use qcc_data::{npy, npz};
use qcc_diag::{Diagnostic, codes};
use qcc_onnx::{is_same_file, write_file};
use qcc_report::columns;
use qcc_tensor::{MappedFile, Tensor};
use serde_json::{Value, json};

use super::{RunArgs, profile_json};
use crate::cli::exit::{Ended, show, tell};

/// Elements of an output that are shown.
const SHOWN: usize = 5;

/// Runs a model once.
pub(super) fn run(args: &RunArgs, model: &Model, mut executor: Executor) -> Result<Ended, Error> {
    let given = given(args)?;
    let start = Instant::now();
    let outputs = executor.run(model, given)?;
    let time = start.elapsed();
    if let Some(path) = &args.outputs {
        write(path, &outputs)?;
    }
    let profile = executor.profile();
    if args.json {
        let list: Vec<Value> = outputs.iter().map(|(name, it)| to_json(name, it)).collect();
        let mut document = json!({
            "model": args.input.display().to_string(),
            "kernels": executor.products(),
            "seconds": time.as_secs_f64(),
            "outputs": list,
        });
        if args.profile {
            document["profile"] = profile_json(&profile);
        }
        return show(&format!("{document:#}\n"));
    }
    if args.profile {
        tell(&profile.to_string());
    }
    if !args.quiet {
        let products = executor.products();
        let on =
            if products > 0 { format!(", {products} products on kernels") } else { String::new() };
        tell(&format!("{:.1} ms{on}", 1e3 * time.as_secs_f64()));
    }
    if args.outputs.is_some() {
        return Ok(Ended::Well);
    }
    let head = ["output", "type", "shape", "min", "mean", "max", "first"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(outputs.iter().map(|(name, it)| row(name, it)));
    show(&columns(&rows, &[3, 4, 5]))
}

fn given(args: &RunArgs) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut given = BTreeMap::new();
    let mut add = |name: String, tensor: Tensor, place: &Path| match given.insert(name, tensor) {
        None => Ok(()),
        Some(_) => {
            let text = format!("'{}' gives an input that is given already", place.display());
            let error = Diagnostic::error(codes::QCC0304, text);
            Err(Error::from(error.with_help("give each input once")))
        }
    };
    if let Some(path) = &args.inputs {
        for (name, tensor) in npz::read(map(path)?.bytes()).map_err(|it| unreadable(path, &it))? {
            add(name, tensor, path)?;
        }
    }
    for text in &args.arrays {
        let Some((name, path)) = text.split_once('=').filter(|it| !it.0.is_empty()) else {
            let text = format!("'{text}' is not NAME=FILE.npy");
            let error = Diagnostic::error(codes::QCC0304, text).at("option --input");
            return Err(error.with_help("qcc inspect MODEL lists the names").into());
        };
        let path = Path::new(path);
        let tensor = npy::read(map(path)?.bytes()).map_err(|it| unreadable(path, &it))?;
        add(name.to_owned(), tensor, path)?;
    }
    Ok(given)
}

fn map(path: &Path) -> Result<MappedFile, Error> {
    MappedFile::open(path, &path.display().to_string())
        .map_err(|it| unreadable(path, &it.to_string()))
}

fn unreadable(path: &Path, what: &str) -> Error {
    let shown = path.display();
    let error = Diagnostic::error(codes::QCC0401, format!("'{shown}' cannot be read: {what}"));
    error.at(shown.to_string()).with_help("numpy.save writes .npy, numpy.savez writes .npz").into()
}

/// Before the run, not after it: that the file of outputs is new, or may be replaced, and none of
/// those that are read.
pub(super) fn check(args: &RunArgs, model: &Model) -> Result<(), Error> {
    let Some(path) = &args.outputs else { return Ok(()) };
    let refused = |code, text: &str| {
        let shown = path.display().to_string();
        Diagnostic::error(code, format!("'{shown}' {text}")).at(shown)
    };
    let given = args.arrays.iter().filter_map(|it| it.split_once('=')).map(|it| Path::new(it.1));
    let mut given = given.chain(args.inputs.as_deref());
    let help = "give --outputs another name";
    if model.source().is_of(path) {
        return Err(refused(codes::QCC0107, "is the input model").with_help(help).into());
    }
    if given.any(|it| is_same_file(path, it)) {
        return Err(refused(codes::QCC0107, "is an array that is read").with_help(help).into());
    }
    if path.symlink_metadata().is_ok() && !args.force {
        let help = "give it another name, or --force to replace it";
        return Err(refused(codes::QCC0106, "exists").with_help(help).into());
    }
    Ok(())
}

fn write(path: &Path, outputs: &[(String, Tensor)]) -> Result<(), Error> {
    let arrays = || outputs.iter().map(|it| (it.0.as_str(), &it.1));
    let done = write_file(path, |to| npz::write(to, arrays()).map_err(std::io::Error::other));
    done.map_err(|error| {
        let shown = path.display().to_string();
        Diagnostic::error(codes::QCC0105, error.to_string())
            .at(shown)
            .with_note("nothing was left behind")
            .with_help("give --outputs another place")
            .into()
    })
}

/// Figures of a tensor of numbers.
struct Figures {
    min: f32,
    max: f32,
    mean: f64,
    /// Elements that are not finite.
    odd: usize,
    first: Vec<f32>,
}

fn figures(tensor: &Tensor) -> Option<Figures> {
    let values = match tensor.as_bools() {
        Ok(it) => it.iter().map(|&it| f32::from(it)).collect(),
        Err(_) => tensor.to_f32().ok()?,
    };
    let finite = || values.iter().copied().filter(|it| it.is_finite());
    let count = finite().count();
    Some(Figures {
        min: finite().reduce(f32::min).unwrap_or(f32::NAN),
        max: finite().reduce(f32::max).unwrap_or(f32::NAN),
        mean: finite().map(f64::from).sum::<f64>() / count as f64,
        odd: values.len() - count,
        first: values.iter().copied().take(SHOWN).collect(),
    })
}

fn row(name: &str, tensor: &Tensor) -> Vec<String> {
    let dims: Vec<String> = tensor.dims().iter().map(ToString::to_string).collect();
    let mut row =
        vec![name.to_owned(), tensor.dtype().to_string(), format!("[{}]", dims.join(", "))];
    let number =
        |it: f32| if tensor.dtype().is_float() { format!("{it:.5}") } else { it.to_string() };
    if let Some(it) = figures(tensor).filter(|_| !tensor.is_empty()) {
        row.extend([number(it.min), format!("{:.5}", it.mean), number(it.max)]);
        let more = if tensor.len() > SHOWN { " ..." } else { "" };
        let first: Vec<String> = it.first.iter().map(|&it| number(it)).collect();
        let odd = if it.odd > 0 { format!("   {} not finite", it.odd) } else { String::new() };
        row.push(format!("{}{more}{odd}", first.join(" ")));
    }
    row
}

fn to_json(name: &str, tensor: &Tensor) -> Value {
    let mut row = json!({
        "name": name,
        "type": tensor.dtype().to_string(),
        "shape": tensor.dims(),
    });
    if let Some(it) = figures(tensor).filter(|_| !tensor.is_empty()) {
        row["min"] = json!(it.min);
        row["mean"] = json!(it.mean);
        row["max"] = json!(it.max);
        row["not_finite"] = json!(it.odd);
        row["first"] = json!(it.first);
    }
    row
}
