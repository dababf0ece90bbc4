//! Calibration and evaluation samples, and what outputs are scored by.
//!
//! [`open`] reads what the user names: arrays of token ids or of named inputs, folders of ONNX test
//! data, text. [`pseudo_tokens`] and [`pseudo_normal`] make samples without data, and
//! [`made_tokens`] takes tokens that a model made. All of them are
//! [`Samples`], which passes read as [`qcc_pass::SampleSource`]. [`Perplexity`], [`Agreement`] and
//! [`Difference`] score outputs run by run, without keeping them.

mod cast;
mod error;
mod input;
mod language;
mod made;
pub mod npy;
pub mod npz;
mod open;
mod outputs;
mod perplexity;
mod pseudo;
mod rows;
mod samples;
mod sets;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;

pub use error::DataError;
pub use input::ModelInput;
pub use language::{CacheShape, Role, role, token_input};
pub use made::{cache_pairs, inputs_after, made_tokens};
pub use open::{DEFAULT_SEQ_LEN, OpenOptions, open};
pub use outputs::Difference;
pub use perplexity::{Agreement, Perplexity};
pub use pseudo::{pseudo_normal, pseudo_shape, pseudo_tokens};
pub use samples::Samples;
pub use sets::ReadPb;
pub use tokenizer::Tokenizer;
