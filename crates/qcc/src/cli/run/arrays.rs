//! Arrays in, arrays or a table of them out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use qcc::{Error, Executor, Model};
use qcc_data::{npy, npz};
use qcc_diag::{Diagnostic, codes};
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

fn write(path: &Path, outputs: &[(String, Tensor)]) -> Result<(), Error> {
    let fail = |what: String| {
        let shown = path.display();
        let error =
            Diagnostic::error(codes::QCC0105, format!("'{shown}' cannot be written: {what}"));
        Error::from(error.at(shown.to_string()))
    };
    let mut bytes = Cursor::new(Vec::new());
    npz::write(&mut bytes, outputs.iter().map(|it| (it.0.as_str(), &it.1))).map_err(fail)?;
    fs::write(path, bytes.into_inner()).map_err(|it| {
        let _ = fs::remove_file(path); // a part of a file is of no use
        fail(it.to_string())
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
