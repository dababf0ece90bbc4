//! The compiler: a recipe or a pipeline, settings, and a run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use qcc_diag::{Diagnostic, codes};
use qcc_pass::{
    Cancel, Instrument, Outcome, PassInfo, Pipeline, Progress, Record, SampleSource, Session,
    Silent, Step, WorkDir,
};

use crate::carried::Carried;
use crate::file_size::{Sizer, quick};
use crate::own_text::{Need, OwnText};
use crate::provenance::Calibration;
use crate::{
    Error, FORMATS, Model, Output, OwnTextSize, PRESETS, RECIPES, Recipe, SaveOptions, ahead, dry,
    in_time, tables,
};

/// A recipe or a pipeline with its settings. Settings hold for every pass that has them.
pub struct Compiler {
    passes: Vec<&'static PassInfo>,
    text: Option<String>,
    recipe: Option<(&'static Recipe, String)>,
    format: String,
    prepare: Vec<String>,
    /// Whether each weight gets bits of its own.
    has_budget: bool,
    /// What will be written, where its size is asked for.
    to_write: Option<(PathBuf, SaveOptions)>,
    settings: Vec<(String, String, String)>,
    session: Session,
    own_text: Option<OwnTextSize>,
    /// Whether the caller asked for text.
    wants_text: bool,
    is_dry: bool,
    instruments: Vec<Box<dyn Instrument>>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// Seed 42, all cores, format `nbits`, and the recipe that fits whether there are samples.
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            passes: tables::passes(),
            text: None,
            recipe: None,
            format: "nbits".to_owned(),
            prepare: Vec::new(),
            has_budget: false,
            to_write: None,
            settings: Vec::new(),
            session: Session {
                seed: 42,
                threads,
                working_copy: tables::working_copy(),
                tuning_copy: tables::tuning_copy(),
                ..Session::default()
            },
            own_text: Some(OwnTextSize::default()),
            wants_text: false,
            is_dry: false,
            instruments: Vec::new(),
        }
    }

    /// Takes a recipe, by name or level; options for its pass may follow in braces.
    ///
    /// # Errors
    /// When there is no such recipe.
    pub fn recipe(mut self, text: &str) -> Result<Self, Error> {
        let (name, options) = match text.find('{') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let Some(recipe) = Recipe::find(name.trim()) else {
            let names: Vec<&str> = RECIPES.iter().map(|it| it.name).collect();
            let error = Diagnostic::error(codes::QCC0301, format!("there is no recipe '{name}'"));
            return Err(meant(error.at("option -O"), name, &names)
                .with_help(format!("recipes are {}, and levels 0 to 3", names.join(", ")))
                .into());
        };
        self.recipe = Some((recipe, options.to_owned()));
        match Recipe::preset_of(name.trim()) {
            // What stands in braces is meant.
            Some(preset) if !options.contains("preset") => self.preset(preset),
            _ => Ok(self),
        }
    }

    /// How long `signround` tunes, and with how many steps the scales of the whole model are trained
    /// behind it: one of [`PRESETS`].
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(self, name: &str) -> Result<Self, Error> {
        let steps = PRESETS.iter().find(|it| it.name == name).map_or(0, |it| it.scale_steps);
        self.setting("signround", "preset", name)?.setting(
            "tune-scales",
            "iters",
            &steps.to_string(),
        )
    }

    /// Takes a whole pipeline instead of a recipe, output format included.
    #[must_use]
    pub fn pipeline(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    /// Chooses the output format.
    ///
    /// # Errors
    /// When there is no such format.
    pub fn format(mut self, name: &str) -> Result<Self, Error> {
        if !FORMATS.iter().any(|it| it.name == name) {
            let names: Vec<&str> = FORMATS.iter().map(|it| it.name).collect();
            let error = Diagnostic::error(codes::QCC0304, format!("there is no format '{name}'"));
            return Err(meant(error.at("option --format"), name, &names)
                .with_help(format!("formats are {}", names.join(", ")))
                .into());
        }
        name.clone_into(&mut self.format);
        Ok(self)
    }

    /// Bits of a code, 2 to 8.
    ///
    /// # Errors
    /// When the number is out of range.
    pub fn bits(self, bits: i64) -> Result<Self, Error> {
        self.setting("select", "bits", &bits.to_string())
    }

    /// Weights along K that share a scale; `row` for the whole row.
    ///
    /// # Errors
    /// When the text is no group size.
    pub fn group_size(self, group: &str) -> Result<Self, Error> {
        self.setting("select", "group", group)
    }

    /// Gives each weight bits of its own, so that those stored for each are at most `bpw` in the
    /// mean, scales and zero points included.
    ///
    /// # Errors
    /// When the number is out of range.
    pub fn bits_per_weight(mut self, bpw: f64) -> Result<Self, Error> {
        self.has_budget = true;
        self.setting("allocate-bits", "bpw", &bpw.to_string())
    }

    /// Gives each weight bits of its own, so that the output and its data files have at most
    /// `bytes` when it is saved as `path` in this way.
    ///
    /// # Errors
    /// When the number is out of range.
    pub fn target_size(
        mut self,
        bytes: u64,
        path: impl Into<PathBuf>,
        save: SaveOptions,
    ) -> Result<Self, Error> {
        self.has_budget = true;
        self.to_write = Some((path.into(), save));
        self.setting("allocate-bits", "target-size", &bytes.to_string())
    }

    /// Sets an option of a pass, wherever that pass stands in the pipeline.
    ///
    /// # Errors
    /// When there is no such pass or option, or it does not take the value.
    pub fn setting(mut self, pass: &str, name: &str, value: &str) -> Result<Self, Error> {
        // Checked now, where the caller can see which setting is wrong.
        self.check_setting(pass, name, value)?;
        self.settings.push((pass.to_owned(), name.to_owned(), value.to_owned()));
        Ok(self)
    }

    fn check_setting(&self, pass: &str, name: &str, value: &str) -> Result<(), Error> {
        let Some(info) = self.passes.iter().find(|it| it.name == pass) else {
            let names: Vec<&str> = self.passes.iter().map(|it| it.name).collect();
            let error = Diagnostic::error(codes::QCC0301, format!("there is no pass '{pass}'"));
            return Err(meant(error, pass, &names)
                .with_help("qcc passes lists all of them")
                .into());
        };
        let mut options = qcc_pass::Options::of(info);
        options.set(name, value).map_err(|error| {
            Diagnostic::error(codes::QCC0302, error.to_string())
                .with_help(format!("qcc passes {pass} lists its options"))
        })?;
        Ok(())
    }

    /// Adds passes that run right before weights are chosen. A whole pipeline has its own.
    ///
    /// # Errors
    /// When the text of the passes cannot be read.
    pub fn prepare(mut self, passes: &str) -> Result<Self, Error> {
        Pipeline::parse(passes, &self.passes, &[])?;
        self.prepare.push(passes.to_owned());
        Ok(self)
    }

    /// Chooses the passes over the copy of the graph that is run for activations; an empty text
    /// runs the graph as it is.
    ///
    /// # Errors
    /// When the text cannot be read.
    pub fn working_copy(mut self, passes: &str) -> Result<Self, Error> {
        self.session.working_copy = Pipeline::parse(passes, &self.passes, &[])?;
        Ok(self)
    }

    /// Adds a pass of another crate, to be named in a pipeline.
    #[must_use]
    pub fn with_pass(mut self, pass: &'static PassInfo) -> Self {
        self.passes.push(pass);
        self
    }

    /// Calibration samples.
    #[must_use]
    pub fn calibration(mut self, samples: Arc<dyn SampleSource>) -> Self {
        self.session.samples = Some(samples);
        self
    }

    /// How much text the model writes to calibrate on where there are no samples; `None` takes
    /// random tokens instead. Where it is asked for, the passes that gain little from it read it too.
    #[must_use]
    pub fn own_text(mut self, size: Option<OwnTextSize>) -> Self {
        self.own_text = size;
        self.wants_text = size.is_some();
        self
    }

    /// Seed of all random numbers.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.session.seed = seed;
        self
    }

    /// How many threads may work; the result does not depend on it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.session.threads = threads.max(1);
        self
    }

    /// Cap on memory, in bytes.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.session.max_mem = Some(bytes);
        self.session.store = qcc_tensor::Store::new(bytes / 2, std::env::temp_dir());
        self
    }

    /// Where finished blocks of weights are kept: a run of the same model, samples and options goes
    /// on from there. A clone tells afterwards which runs were begun there.
    #[must_use]
    pub fn work_dir(mut self, work: WorkDir) -> Self {
        self.session.work_dir = Some(work);
        self
    }

    /// Whether [`Compiler::run`] tunes nothing: blocks are probed and rounded to nearest instead, so
    /// that sizes and [`Record::estimate`] are known soon.
    #[must_use]
    pub fn dry(mut self, is_dry: bool) -> Self {
        self.is_dry = is_dry;
        self
    }

    /// Who is told how far the run is.
    #[must_use]
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.session.progress = progress;
        self
    }

    /// A flag that stops the run.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.session.cancel = cancel;
        self
    }

    /// Looks into the run: prints, times, stops it.
    #[must_use]
    pub fn instrument(mut self, instrument: Box<dyn Instrument>) -> Self {
        self.instruments.push(instrument);
        self
    }

    /// Whether there are calibration samples.
    pub fn has_samples(&self) -> bool {
        self.session.samples.is_some()
    }

    /// The pipeline that [`Compiler::run`] would run, with every setting in it.
    ///
    /// # Errors
    /// When its text cannot be read.
    pub fn plan(&self) -> Result<Pipeline, Error> {
        let parse = |text: &str| Pipeline::parse(text, &self.passes, &[]);
        let mut steps = match (&self.text, &self.recipe) {
            (Some(text), _) => parse(text)?.steps().to_vec(),
            (None, recipe) => {
                let fallback =
                    if self.has_samples() || self.wants_text { "signround" } else { "kl" };
                let (recipe, options) = match (recipe, Recipe::find(fallback)) {
                    (Some((recipe, options)), _) => (*recipe, options.as_str()),
                    (None, Some(recipe)) => (recipe, ""),
                    (None, None) => (&RECIPES[0], ""),
                };
                let mut steps = parse(recipe.passes)?.steps().to_vec();
                if !options.is_empty() {
                    let given = parse(&format!("{}{options}", recipe.main))?;
                    for step in given.steps() {
                        if let Some(slot) =
                            steps.iter_mut().find(|it| it.pass.name == step.pass.name)
                        {
                            *slot = step.clone();
                        }
                    }
                }
                if recipe.name == "adpq" && !matches!(self.format.as_str(), "function" | "fake") {
                    let text =
                        format!("no layout of format {} has two scales for a group", self.format);
                    return Err(Diagnostic::error(codes::QCC0305, text)
                        .at("option -O adpq")
                        .with_help("--format function has; --format fake writes rounded floats")
                        .into());
                }
                if !recipe.passes.is_empty() {
                    let format = FORMATS.iter().find(|it| it.name == self.format);
                    let types = format.map_or("f32,f16,bf16", |it| it.types);
                    for step in steps.iter_mut().filter(|it| it.options.has("types")) {
                        step.options.set("types", types).map_err(|error| {
                            Diagnostic::error(codes::QCC0302, error.to_string())
                        })?;
                    }
                    steps.extend_from_slice(parse(format.map_or("", |it| it.passes))?.steps());
                }
                if steps.is_empty() && !self.prepare.is_empty() {
                    steps = parse("infer-types")?.steps().to_vec();
                }
                let chooses = steps.iter().position(|it| it.pass.name == "select");
                if self.has_budget {
                    let Some(at) = chooses else { return Err(nothing_to_fit()) };
                    if steps.iter().any(|it| it.pass.name == "adpq") {
                        let text = "a budget does not count what the outliers of adpq take";
                        return Err(Diagnostic::error(codes::QCC0304, text)
                            .at("option -O adpq")
                            .with_help("choose bits with -b, or another recipe: kl or signround")
                            .into());
                    }
                    // Bits are chosen by what the weights hold.
                    let set = steps.get_mut(at).map(|it| it.options.set("scan", "true"));
                    set.transpose()
                        .map_err(|error| Diagnostic::error(codes::QCC0302, error.to_string()))?;
                    let pack = steps.iter().find(|it| it.pass.name == "pack");
                    let layout = pack.map_or("dense", |it| it.options.text("layout"));
                    let text = format!("allocate-bits{{layout={layout}}}");
                    steps.splice(at + 1..at + 1, parse(&text)?.steps().iter().cloned());
                }
                let at = chooses.unwrap_or(steps.len());
                steps.splice(at..at, parse(&self.prepare.join(","))?.steps().to_vec());
                steps
            }
        };
        for (pass, name, value) in &self.settings {
            for step in steps.iter_mut().filter(|it| it.pass.name == pass) {
                step.options
                    .set(name, value)
                    .map_err(|error| Diagnostic::error(codes::QCC0302, error.to_string()))?;
            }
        }
        Ok(Pipeline::new(steps))
    }

    /// Runs the pipeline on a model.
    ///
    /// # Errors
    /// What a pass fails with.
    pub fn run(mut self, model: &Model) -> Result<Output, Error> {
        let planned = self.plan()?;
        let (pipeline, told) = if self.is_dry {
            let dry = dry::pipeline(&planned, &self.passes)?;
            (dry.clone(), dry)
        } else {
            (ahead::pipeline(&planned, &self.passes)?, planned)
        };
        self.session.began = Instant::now();
        self.session.free_mem = qcc_exec::room();
        self.session.opset = model.source().opset("").unwrap_or(1);
        self.session.producer = model.source().producer().to_owned();
        let random = model.pseudo_samples(&self.session);
        self.session.pseudo_samples = random.clone().map(|it| it as _);
        let mut own_text = None;
        if self.session.samples.is_none() {
            if let (Some(random), Some(size)) = (random, self.own_text) {
                let need = if self.is_dry { dry::need(&pipeline) } else { Need::Tokens };
                let text = OwnText::new(model, &self.session, size, need, random);
                own_text = Some(Arc::new(text));
            }
            self.session.own_text = own_text.clone().map(|it| it as _);
            if let (Some(text), true) = (&self.session.own_text, self.wants_text) {
                self.session.pseudo_samples = Some(text.clone());
            }
        }
        if let Some((path, save)) = self.to_write.take()
            && let Some(rtn) = self.passes.iter().find(|it| it.name == "rtn")
            && let Some(rest) = quick(told.steps(), Step::new(rtn))
        {
            let sizer = Sizer {
                source: model.source().clone(),
                rest: Pipeline::new(rest),
                pipeline: in_time::longest(&told)?,
                session: Session { progress: Arc::new(Silent), ..self.session.clone() },
                own_text: own_text.clone(),
                path,
                save,
            };
            self.session.file_size = Some(Arc::new(sizer));
        }
        let mut graph = model.graph().clone();
        let mut record = Record::default();
        let session = &self.session;
        self.instruments.push(Box::new(Carried::new(model.source().clone())));
        let instruments = &mut self.instruments;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(session.threads).build();
        let outcome = match pool {
            Ok(pool) => pool.install(|| {
                qcc_pass::run(&mut graph, &pipeline, session, &mut record, instruments)
            }),
            Err(_) => qcc_pass::run(&mut graph, &pipeline, session, &mut record, instruments),
        }?;
        let is_finished = outcome == Outcome::Finished;
        let (own_text, stand_in) = (own_text.as_deref(), record.stand_in.as_ref());
        let calibration = Calibration::of(session, own_text, stand_in);
        if self.wants_text && stand_in.is_some() {
            let why = match own_text {
                Some(text) => text.why_random(),
                None => Some("it takes no token ids"),
            };
            let warning = why.map(|why| {
                let text = format!("the model cannot write text: {why}");
                let note = Diagnostic::warning(codes::QCC0605, text).at("option --calib self");
                note.with_help(
                    "--calib FILE gives samples; without the option nothing is asked for",
                )
            });
            record.notes.extend(warning);
        }
        let source = model.source().clone();
        let (seed, pipeline) = (session.seed, in_time::pipeline(&told, &record.steps)?.to_string());
        Ok(Output { graph, source, record, pipeline, calibration, seed, is_finished })
    }
}

fn nothing_to_fit() -> Error {
    let error = Diagnostic::error(codes::QCC0304, "the recipe quantizes nothing");
    error.at("option -O").with_help("a budget needs another recipe: kl or signround").into()
}

/// Adds the name that is most like `name`, where one is.
fn meant(error: Diagnostic, name: &str, names: &[&str]) -> Diagnostic {
    match qcc_pass::nearest(name.trim(), names.iter().copied()) {
        Some(it) => error.with_help(format!("write '{it}'")),
        None => error,
    }
}
