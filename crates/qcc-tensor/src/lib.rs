//! Element types, shapes and tensors over shared or mapped bytes.
//!
//! A [`Tensor`] is an element type, dimensions and bytes. Its clone is cheap, and bytes that lie
//! in a mapped file stay there until somebody reads them.

mod dtype;
mod element;
mod mapped;
mod pool;
mod shape;
mod store;
mod tensor;

pub use dtype::DType;
pub use element::Element;
pub use mapped::{MappedFile, Origin, release};
pub use pool::Pool;
pub use shape::{Dim, checked_len};
pub use store::{Buffer, Store};
pub use tensor::{Tensor, TensorError};
