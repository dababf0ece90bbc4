//! Models that are made ready to be run, on kernels where products have low-bit weights.

use qcc_data::{inputs_after, token_input};
use qcc_diag::{Diagnostic, codes};
use qcc_engine::Report;
use qcc_exec::{PlanOptions, Profile};
use qcc_ir::Type;
use qcc_pass::Cancel;
use qcc_tensor::{DType, Tensor};

use crate::kernels::{Kernels, lowered};
use crate::runner::{Feed, Runner};
use crate::{Error, Model};

/// How a model is run.
#[derive(Clone, Default)]
pub struct ExecuteOptions {
    /// Kernels for products with low-bit weights; without them weights are decoded to floats.
    pub kernels: Option<Kernels>,
    /// Whether the time of each operator is noted.
    pub profile: bool,
}

/// A model that is ready to be run.
pub struct Executor {
    pub(crate) runner: Runner,
    pub(crate) options: PlanOptions,
    /// How many products run on kernels.
    products: usize,
    stays: Vec<(String, String)>,
    kernels: Option<Kernels>,
}

impl Executor {
    /// Makes a copy of a model ready.
    ///
    /// # Errors
    /// When it breaks a rule, or its weights cannot be packed.
    pub fn new(model: &Model, options: &ExecuteOptions) -> Result<Self, Error> {
        let cancel = Cancel::default();
        let (mut runner, report) = match &options.kernels {
            Some(kernels) => lowered(model, kernels, None, &cancel)?,
            None => (Runner::new(model, &cancel)?, Report::default()),
        };
        let plan = PlanOptions { profile: options.profile, ..PlanOptions::default() };
        runner.set_options(plan.clone());
        let products = report.products.len();
        let kernels = options.kernels.clone().filter(|_| products > 0);
        let stays = report.stays.into_iter().map(|it| (it.name, it.why)).collect();
        Ok(Self { runner, options: plan, products, stays, kernels })
    }

    /// Products that run on low-bit kernels.
    pub fn products(&self) -> usize {
        self.products
    }

    /// Products with low-bit weights that run without kernels although there are some, and why:
    /// their weights are decoded to floats.
    pub fn stays(&self) -> &[(String, String)] {
        &self.stays
    }

    /// What the user should know about the kernels, as far as they were asked for.
    pub fn notes(&self) -> Vec<Diagnostic> {
        self.kernels.as_ref().map(Kernels::notes).unwrap_or_default()
    }

    /// Runs the model once: its outputs by name. Inputs that follow from token ids may be left out:
    /// masks, positions, an empty cache.
    ///
    /// # Errors
    /// When an input is missing or does not fit, or a node cannot be run.
    pub fn run(&mut self, model: &Model, mut given: Feed) -> Result<Vec<(String, Tensor)>, Error> {
        complete(model, &mut given)?;
        self.runner.run(&given, &[], &mut |_, _| {})
    }

    /// Time of each operator so far, where the options ask for it.
    pub fn profile(&self) -> Profile {
        self.runner.profile()
    }
}

/// Checks what is given against the inputs of a model, and adds what follows from token ids.
fn complete(model: &Model, given: &mut Feed) -> Result<(), Error> {
    let inputs = model.inputs();
    let all = model.graph().inputs().iter().filter_map(|&it| model.graph().node(it));
    let known: Vec<(&str, &Type)> =
        all.filter_map(|it| it.outputs.first()).map(|it| (it.name.as_str(), &it.ty)).collect();
    let names: Vec<&str> = known.iter().map(|it| it.0).collect();
    for (name, tensor) in &*given {
        let Some((_, ty)) = known.iter().find(|it| it.0 == name) else {
            let text = format!("the model has no input '{name}'");
            return Err(wrong(text).with_note(format!("its inputs are {}", list(&names))).into());
        };
        let got = Type::of(tensor);
        if ty.meet(&got).is_none() {
            let text = format!("input '{name}' is given {got}, but takes {ty}");
            let other = ty.dtype().filter(|it| Some(*it) != got.dtype());
            let help = other.and_then(cast);
            let help = help.unwrap_or_else(|| "give it an array that does".to_owned());
            return Err(wrong(text).with_help(help).into());
        }
    }
    let is_missing = |name: &str| !given.contains_key(name);
    if inputs.iter().any(|it| is_missing(&it.name))
        && let Some(tokens) = token_input(&inputs).and_then(|at| inputs.get(at))
        && let Some(ids) = given.get(&tokens.name).filter(|it| it.rank() == 2)
    {
        let cast = ids.to_i64().ok().map(std::borrow::Cow::into_owned);
        let ids = cast.and_then(|it| Tensor::from_vec(ids.dims().to_vec(), it).ok());
        let made = ids.and_then(|it| inputs_after(&inputs, &it, 0, model.cache_shape()).ok());
        for (name, tensor) in made.into_iter().flatten() {
            given.entry(name).or_insert(tensor);
        }
    }
    let missing = inputs.iter().position(|it| !given.contains_key(&it.name));
    if let Some((at, input)) = missing.and_then(|at| Some((at, inputs.get(at)?))) {
        let text = format!("input {input} is missing");
        let name = &input.name;
        let help = format!("--input '{name}=FILE.npy' gives it, or an array of --inputs FILE.npz");
        let mut error = wrong(text).with_help(help);
        if token_input(&inputs) == Some(at) {
            error = error.with_help("--prompt TEXT or --ids 1,2,3 let the model write text");
        }
        return Err(error.into());
    }
    Ok(())
}

fn wrong(text: String) -> Diagnostic {
    Diagnostic::error(codes::QCC0402, text)
}

fn list(names: &[&str]) -> String {
    names.iter().map(|it| format!("'{it}'")).collect::<Vec<_>>().join(", ")
}

/// The way to an array of another type, where numpy has that.
fn cast(want: DType) -> Option<String> {
    let name = match want {
        DType::F16 => "float16",
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::Bool => "bool",
        DType::I8 => "int8",
        DType::I16 => "int16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        DType::U8 => "uint8",
        DType::U16 => "uint16",
        DType::U32 => "uint32",
        DType::U64 => "uint64",
        _ => return None,
    };
    Some(format!("in numpy, x.astype('{name}') makes it fit"))
}
