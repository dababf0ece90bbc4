//! The command on bad input and on bad days: an error with a code, or a warning and a whole output;
//! never a panic, a part of an output, or a changed input.

mod bench;
mod data_files;
mod models;
mod outputs;
mod samples;
