//! Whole runs: an ONNX file in, another one out. What they share is here.

pub mod targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qcc::{Compiler, Model, SaveOptions};
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_tensor::Tensor;
use tempfile::TempDir;

/// The bundled language model.
pub fn books1m() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/books1M")
}

/// A folder for outputs, removed at the end of a test.
#[derive(Debug)]
pub struct Bench {
    dir: TempDir,
    model: Model,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// With the bundled model.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn new() -> Self {
        let model = Model::open(books1m().join("model.onnx")).unwrap_or_else(|it| panic!("{it}"));
        Self { dir: TempDir::new().unwrap_or_else(|it| panic!("{it}")), model }
    }

    /// The bundled model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Bytes of what a compiler makes of the model.
    ///
    /// # Panics
    /// When it fails.
    pub fn bytes(&self, compiler: Compiler) -> Vec<u8> {
        self.saved(compiler, SaveOptions::default())
    }

    /// [`Bench::bytes`] without what says how they were made: an option shows in them only by what
    /// it does.
    ///
    /// # Panics
    /// When it fails.
    pub fn plain_bytes(&self, compiler: Compiler) -> Vec<u8> {
        self.saved(compiler, SaveOptions { no_provenance: true, ..SaveOptions::default() })
    }

    fn saved(&self, compiler: Compiler, options: SaveOptions) -> Vec<u8> {
        let path = self.path("out.onnx");
        let output = compiler.run(&self.model).unwrap_or_else(|it| panic!("{it}"));
        let options = SaveOptions { overwrite: true, ..options };
        output.save(&path, &options).unwrap_or_else(|it| panic!("{it}"));
        std::fs::read(path).unwrap_or_else(|it| panic!("{it}"))
    }

    /// The first output of a model for some tokens, by the executor.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn logits(&self, bytes: &[u8]) -> Vec<f32> {
        let path = self.path("run.onnx");
        std::fs::write(&path, bytes).unwrap_or_else(|it| panic!("{it}"));
        let model = Model::open(&path).unwrap_or_else(|it| panic!("{it}"));
        let ids: Vec<i64> = (0..32).map(|it| (it * 37 + 11) % 512).collect();
        let ids = Tensor::from_vec(vec![1, 32], ids).unwrap_or_else(|it| panic!("{it}"));
        let name = model.inputs()[0].name.clone();
        let bound = vec![(name.clone(), Bound::like(&ids))];
        let plan = Plan::new(model.graph(), &bound, &PlanOptions::default())
            .unwrap_or_else(|it| panic!("{it}"));
        let feed = BTreeMap::from([(name, ids)]);
        let outputs = plan.run(&feed, &[], &mut |_, _| {}).unwrap_or_else(|it| panic!("{it}"));
        outputs[0].1.to_f32().unwrap_or_else(|it| panic!("{it}")).into_owned()
    }
}

/// The largest difference of two vectors by the largest value of the first.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0f32, |m, it| m.max(it.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}
