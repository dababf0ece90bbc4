//! Quantizing compiler for ONNX models: the library behind the command `qcc`.
//!
//! ```no_run
//! let model = qcc::Model::open("model.onnx")?;
//! let output = qcc::Compiler::new().recipe("rtn")?.bits(4)?.group_size("32")?.run(&model)?;
//! output.save("model.q4.onnx", &qcc::SaveOptions::default())?;
//! # Ok::<(), qcc::Error>(())
//! ```
//!
//! A pass of another crate is added with [`Compiler::with_pass`] and named in a pipeline like any
//! other; see [`qcc_pass::PassInfo`].

mod ahead;
pub mod aot;
pub mod bench;
mod carried;
mod compare;
mod compiler;
mod dry;
mod error;
mod evaluate;
mod execute;
mod file_size;
mod gate;
mod generate;
mod in_time;
mod kernels;
mod model;
mod output;
mod own_text;
mod provenance;
mod recipe;
mod runner;
mod samples;
mod tables;
mod version;

pub use compare::{CompareOptions, Compared, Comparison, FirstDifference, Inner, compare};
pub use compiler::Compiler;
pub use error::Error;
pub use evaluate::{Evaluation, OutputDistance, evaluate};
pub use execute::{ExecuteOptions, Executor};
pub use gate::{Gate, Metric, Verdict};
pub use generate::{
    End, GenerateOptions, Generated, Generator, Sampling, StopWords, TextConfig, TextStream,
};
pub use kernels::Kernels;
pub use model::Model;
pub use output::{Output, SaveOptions};
pub use own_text::OwnTextSize;
pub use qcc_data::{OpenOptions, Samples, Tokenizer};
pub use qcc_onnx::{External, ReadOptions, Written};
pub use recipe::{PRESETS, Preset, RECIPES, Recipe};
pub use tables::{FORMATS, TUNING_COPY, WORKING_COPY, passes};
pub use version::version;
