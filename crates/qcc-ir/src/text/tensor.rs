//! Tensors as text: a type with known dimensions, then the elements or where they are.

use std::fmt::{self, Display};

use qcc_tensor::{Origin, Tensor};

use super::PrintOptions;
use super::element::{Part, bits_at, parts};
use super::quote::{Hex, Quoted};
use crate::Type;

/// A tensor of up to this many elements is written out.
const MAX_LISTED: usize = 64;

/// The text of a tensor.
pub(super) struct TensorText<'a> {
    pub(super) tensor: &'a Tensor,
    pub(super) options: &'a PrintOptions,
}

impl Display for TensorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tensor = self.tensor;
        let bytes = tensor.bytes();
        write!(f, "{} ", Type::of(tensor))?;
        if let Some(strings) = tensor.as_strings() {
            return list(f, strings.iter().map(|it| Quoted(it)));
        }
        if tensor.len() <= MAX_LISTED {
            return if has_clean_padding(tensor) {
                list(f, (0..tensor.len()).map(|idx| Element { tensor, idx }))
            } else {
                write!(f, "bytes \"{}\"", Hex(bytes))
            };
        }
        if self.options.inline_all {
            return write!(f, "bytes \"{}\"", Hex(bytes));
        }
        if let Some(origin) = place(tensor) {
            let (file, offset, len) = (Quoted(origin.file.as_bytes()), origin.offset, origin.len);
            write!(f, "file {file} offset {offset} length {len} blake3")?;
        } else {
            f.write_str("hash")?;
        }
        let hash = blake3::hash(bytes);
        tensor.release(); // all of a model would be in memory at the end of its text
        write!(f, " \"{hash}\"")
    }
}

/// The range of a file that has the bytes of a tensor as they are.
fn place(tensor: &Tensor) -> Option<&Origin> {
    tensor.origin().filter(|it| it.len == tensor.bytes().len() as u64)
}

/// Whether the text has only the hash of a tensor: the bytes are neither in it nor in a file.
pub(super) fn is_hash_alone(tensor: &Tensor) -> bool {
    tensor.as_strings().is_none() && tensor.len() > MAX_LISTED && place(tensor).is_none()
}

/// Values between brackets.
pub(super) fn list(
    f: &mut fmt::Formatter<'_>,
    values: impl IntoIterator<Item = impl Display>,
) -> fmt::Result {
    f.write_str("[")?;
    for (idx, value) in values.into_iter().enumerate() {
        let comma = if idx > 0 { ", " } else { "" };
        write!(f, "{comma}{value}")?;
    }
    f.write_str("]")
}

struct Element<'a> {
    tensor: &'a Tensor,
    idx: usize,
}

impl Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, n_parts) = parts(self.tensor.dtype());
        let at = |idx| Part(part, bits_at(self.tensor.bytes(), part.bits(), idx));
        match n_parts {
            1 => at(self.idx).fmt(f),
            _ => write!(f, "({}, {})", at(2 * self.idx), at(2 * self.idx + 1)),
        }
    }
}

/// Whether the bits behind the last element are zero, as a list of elements makes them.
fn has_clean_padding(tensor: &Tensor) -> bool {
    let n_used = tensor.len() * tensor.dtype().bits() % 8;
    n_used == 0 || tensor.bytes().last().is_none_or(|it| it >> n_used == 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use qcc_tensor::DType;

    use super::*;

    fn text(tensor: &Tensor, inline_all: bool) -> String {
        TensorText { tensor, options: &PrintOptions { inline_all } }.to_string()
    }

    #[test]
    fn small_tensors_are_listed() {
        assert_eq!(text(&Tensor::scalar(1.5f32), false), "f32[] [1.5]");
        let bytes = Bytes::from_static(&[0x21, 0x0f]);
        let nibbles = |bytes| Tensor::new(DType::I4, vec![3], bytes).unwrap();
        assert_eq!(text(&nibbles(bytes), false), "i4[3] [1, 2, -1]");
        // The unused nibble would be lost in a list.
        let bytes = Bytes::from_static(&[0x21, 0xff]);
        assert_eq!(text(&nibbles(bytes), false), "i4[3] bytes \"21ff\"");
        let complex: Vec<u8> = [1f32, -0.0].iter().flat_map(|it| it.to_le_bytes()).collect();
        let complex = Tensor::new(DType::C64, vec![1], complex.into()).unwrap();
        assert_eq!(text(&complex, false), "c64[1] [(1.0, -0.0)]");
        let strings = Tensor::strings(vec![1, 1], vec![Bytes::from_static(b"a\xff")]).unwrap();
        assert_eq!(text(&strings, false), "str[1, 1] [\"a\\xff\"]");
    }

    #[test]
    fn large_tensors_are_named() {
        let large = Tensor::vector(vec![0u8; 65]);
        let hash = blake3::hash(&[0; 65]);
        assert_eq!(text(&large, false), format!("u8[65] hash \"{hash}\""));
        assert_eq!(text(&large, true), format!("u8[65] bytes \"{}\"", "00".repeat(65)));
        let origin = |len| Origin { file: "a b".into(), offset: 7, len };
        let mapped = large.clone().with_origin(origin(65));
        let want = format!("u8[65] file \"a b\" offset 7 length 65 blake3 \"{hash}\"");
        assert_eq!(text(&mapped, false), want);
        // Bytes that were converted while they were read are not in the file.
        let converted = large.with_origin(origin(130));
        assert_eq!(text(&converted, false), format!("u8[65] hash \"{hash}\""));
    }
}
