//! Types and tensors.

use bytes::Bytes;
use qcc_tensor::{DType, Dim, Origin, Tensor, checked_len};

use super::{Parser, Stored};
use crate::Type;
use crate::text::element::{Packer, parse_nan, parse_part, parts};
use crate::text::error::Fault;
use crate::text::lex::Token;
use crate::text::quote::from_hex;
use crate::types::TensorType;

impl Parser<'_> {
    /// `f32[batch, 4]`, `f32[*]`, `any[2]`, `other<"text">` or `?`.
    pub(super) fn ty(&mut self) -> Result<Type, Fault> {
        if self.accept("?")? {
            return Ok(Type::Unknown);
        }
        let Token::Word(word) = self.token else { return Err(self.unexpected("a type")) };
        if word == "other" {
            self.next()?;
            self.expect("<")?;
            let text = self.text("the type in words")?;
            self.expect(">")?;
            return Ok(Type::Other(text));
        }
        let dtype = match word {
            "any" => None,
            _ => Some(word.parse::<DType>().map_err(|()| {
                let all: Vec<&str> = DType::ALL.iter().map(|it| it.text()).collect();
                self.fault(format!("'{word}' is no element type"))
                    .with_help(format!("the element types are {} and any", all.join(", ")))
            })?),
        };
        self.next()?;
        self.expect("[")?;
        if self.accept("*")? {
            self.expect("]")?;
            return Ok(Type::Tensor(TensorType { dtype, shape: None }));
        }
        let mut dims = Vec::new();
        self.list("]", |it| {
            dims.push(it.dim()?);
            Ok(())
        })?;
        Ok(Type::Tensor(TensorType { dtype, shape: Some(dims) }))
    }

    fn dim(&mut self) -> Result<Dim, Fault> {
        if self.accept("?")? {
            return Ok(Dim::Unknown);
        }
        match self.token {
            Token::Number(_) => Ok(Dim::Known(self.count("a dimension")?)),
            _ => Ok(Dim::symbol(&self.word("a dimension")?)),
        }
    }

    /// `f32[2] [0.0, 1.0]`, or another place of its elements.
    pub(super) fn tensor(&mut self) -> Result<Tensor, Fault> {
        let at = self.at;
        let ty = self.ty()?;
        let (Some(dtype), Some(dims)) = (ty.dtype(), ty.known_dims()) else {
            let message = format!("a tensor cannot be {ty}");
            return Err(Fault::new(at, message).with_help("write its dimensions as numbers"));
        };
        let Some(len) = checked_len(&dims) else {
            return Err(Fault::new(at, format!("{ty} overflows")));
        };
        let wrong = |error: qcc_tensor::TensorError| Fault::new(at, error.to_string());
        if dtype == DType::Str {
            self.expect("[")?;
            let mut strings = Vec::new();
            self.elements(&ty, len, |it| {
                strings.push(Bytes::from(it.bytes("a string")?));
                Ok(())
            })?;
            return Tensor::strings(dims, strings).map_err(wrong);
        }
        let Some(n_bytes) = dtype.size_of(len) else {
            return Err(Fault::new(at, format!("{ty} overflows")));
        };
        if self.accept("[")? {
            let (part, n_parts) = parts(dtype);
            let mut packer = Packer::default();
            self.elements(&ty, len, |it| {
                if n_parts == 1 {
                    packer.push(part.bits(), it.part(part)?);
                    return Ok(());
                }
                it.expect("(")?;
                packer.push(part.bits(), it.part(part)?);
                it.expect(",")?;
                packer.push(part.bits(), it.part(part)?);
                it.expect(")")
            })?;
            return Tensor::new(dtype, dims, packer.finish().into()).map_err(wrong);
        }
        if self.accept_word("bytes")? {
            let at = self.at;
            let bytes = self.hex()?;
            if bytes.len() != n_bytes {
                let message = format!("{ty} has {n_bytes} bytes, but {} follow", bytes.len());
                return Err(Fault::new(at, message));
            }
            return Tensor::new(dtype, dims, bytes.into()).map_err(wrong);
        }
        let (bytes, origin) = self.stored(&ty, n_bytes)?;
        let tensor = Tensor::new(dtype, dims, bytes).map_err(wrong)?;
        Ok(match origin {
            Some(origin) => tensor.with_origin(origin),
            None => tensor,
        })
    }

    /// `len` elements and `]`.
    fn elements(
        &mut self,
        ty: &Type,
        len: usize,
        mut element: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (start, mut n_found) = (self.at, 0);
        self.list("]", |it| {
            if n_found == len {
                return Err(it.fault(format!("{ty} has {len} elements, but more follow")));
            }
            n_found += 1;
            element(it)
        })?;
        if n_found < len {
            let message = format!("{ty} has {len} elements, but {n_found} follow");
            return Err(Fault::new(start, message));
        }
        Ok(())
    }

    /// A number of a list, as bits.
    pub(super) fn part(&mut self, dtype: DType) -> Result<u64, Fault> {
        let at = self.at;
        let text = match self.token {
            Token::Number(it) | Token::Word(it) => it,
            _ => return Err(self.unexpected(&format!("a number of {dtype}"))),
        };
        self.next()?;
        if text == "nan" && self.accept("(")? {
            let Token::Number(bits) = self.token else {
                return Err(self.unexpected("the bits of a NaN"));
            };
            let code = parse_nan(dtype, bits).map_err(|it| self.fault(format!("{bits} {it}")))?;
            self.next()?;
            self.expect(")")?;
            return Ok(code);
        }
        parse_part(dtype, text).map_err(|it| Fault::new(at, format!("'{text}' {it}")))
    }

    pub(super) fn hex(&mut self) -> Result<Vec<u8>, Fault> {
        let at = self.at;
        let text = self.bytes("a string of hexadecimal digits")?;
        from_hex(&text)
            .ok_or_else(|| Fault::new(at, "this is not an even number of hexadecimal digits"))
    }

    /// Bytes that the text only names: `file "f" offset 0 length 4 blake3 "hex"` or `hash "hex"`.
    fn stored(&mut self, ty: &Type, len: usize) -> Result<(Bytes, Option<Origin>), Fault> {
        let start = self.at;
        let (origin, hash) = if self.accept_word("file")? {
            let file = self.text("the name of a file")?.into();
            self.expect_word("offset")?;
            let offset = self.count("an offset")?;
            self.expect_word("length")?;
            let at = self.at;
            let origin = Origin { file, offset, len: self.count("a length")? };
            if origin.len != len as u64 {
                let message = format!("{ty} has {len} bytes, not {}", origin.len);
                return Err(Fault::new(at, message));
            }
            let has_hash = self.accept_word("blake3")?;
            (Some(origin), if has_hash { Some(self.hash()?) } else { None })
        } else if self.accept_word("hash")? {
            (None, Some(self.hash()?))
        } else {
            return Err(self.unexpected("'[', 'bytes', 'file' or 'hash'"));
        };
        let what = match &origin {
            Some(it) => format!("the bytes of '{}' from {} on", it.file, it.offset),
            None => "the bytes with this hash".to_owned(),
        };
        let hex = hash.map(|it| it.to_hex());
        let stored = Stored { origin: origin.as_ref(), len, blake3: hex.as_deref() };
        let bytes = (self.load)(&stored).map_err(|error| {
            let fault = Fault::new(start, format!("{what} cannot be loaded: {error}"));
            match origin {
                Some(_) => fault,
                None => fault.with_help("print the graph with all bytes inline"),
            }
        })?;
        if bytes.len() != len {
            let message = format!("{what} are {} instead of {len}", bytes.len());
            return Err(Fault::new(start, message));
        }
        if hash.is_some_and(|it| it != blake3::hash(&bytes)) {
            return Err(Fault::new(start, format!("{what} do not have their hash"))
                .with_help("the file has changed since the text was printed: print it again"));
        }
        Ok((bytes, origin))
    }

    fn hash(&mut self) -> Result<blake3::Hash, Fault> {
        let at = self.at;
        let text = self.bytes("a hash")?;
        blake3::Hash::from_hex(&text)
            .map_err(|_| Fault::new(at, "a hash has 64 hexadecimal digits"))
    }
}
