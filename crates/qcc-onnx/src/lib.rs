//! ONNX files to the IR and back, byte for byte where nothing changed.
//!
//! [`read`] maps a file and makes a [`Model`]: the graph, and a [`Source`] that knows which bytes
//! of the file each node and tensor came from. [`write()`] copies those bytes for everything that no
//! pass has changed, so unknown fields, metadata and order survive, and encodes only what is new.

#![warn(clippy::indexing_slicing, clippy::panic)]

mod error;
mod export;
mod import;
mod source;

pub use error::{ReadError, WriteError};
pub use export::{
    External, WriteOptions, Written, check_opset, check_places, check_stream, data_beside,
    is_same_file, size, write, write_file, write_stream,
};
pub use import::{ReadOptions, read, read_stream, read_tensor};
pub use source::{Model, Source};
