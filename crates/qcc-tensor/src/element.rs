//! Rust types that are elements of tensors.

use bytemuck::Pod;
use half::{bf16, f16};

use crate::DType;

/// A Rust type with the memory layout of one [`DType`].
pub trait Element: Pod + Send + Sync + std::fmt::Debug + PartialOrd {
    /// The element type that it stores.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident;)*) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}

elements! {
    f32 => F32;
    f64 => F64;
    f16 => F16;
    bf16 => BF16;
    u8 => U8;
    i8 => I8;
    u16 => U16;
    i16 => I16;
    u32 => U32;
    i32 => I32;
    u64 => U64;
    i64 => I64;
}
