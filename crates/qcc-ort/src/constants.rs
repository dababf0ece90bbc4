//! The constants of a claimed node, and the product that they make.
//!
//! What lies in a file beside the model is read from there, one node after another. The runtime
//! would map it, and keep it mapped until the session is ready.

use crate::api::Failure;
use crate::graph::ValueInfo;
use crate::kernels::Kernels;
use crate::linear::Linear;
use crate::plan::Unit;
use crate::tensor::{Kind, Tensor, floats};
use crate::weight::{Form, Operands, Shape, pack};
use memmap2::MmapMut;
use qcc_kernels::{Epilogue, Planes};
use qcc_quant::layout::Outliers;
use qcc_quant::panel::PanelError;
use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// Elements of a constant.
enum Data<'a> {
    /// In memory of the runtime.
    Tensor(Tensor<'a>),
    /// In a file.
    File(Part),
}

/// Part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) kind: Kind,
}

/// The constants of a node. What they lead to may be read on any thread.
pub(crate) struct Constants<'a> {
    shape: Shape,
    planes: Planes,
    codes: Data<'a>,
    scales: Data<'a>,
    zeros: Option<Data<'a>>,
    /// Scales and places.
    outliers: Option<[Data<'a>; 2]>,
    bias: Option<Data<'a>>,
    epilogue: Epilogue,
}

impl Part {
    /// Whether the file has the part.
    fn exists(&self) -> bool {
        let end = u64::try_from(self.len).ok().and_then(|len| self.offset.checked_add(len));
        let file = self.path.metadata().ok().filter(std::fs::Metadata::is_file);
        file.zip(end).is_some_and(|(file, end)| end <= file.len())
    }

    /// Some of its bytes.
    fn read(&self, range: Range<usize>) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; range.len()];
        self.read_to(range, &mut bytes).map_err(|error| self.failed(&error))?;
        Ok(bytes)
    }

    /// All of its bytes, in memory beside the heap.
    fn map(&self) -> Result<MmapMut, Failure> {
        let read = || {
            let mut map = MmapMut::map_anon(self.len)?;
            self.read_to(0..self.len, &mut map)?;
            Ok(map)
        };
        read().map_err(|error| self.failed(&error))
    }

    fn read_to(&self, range: Range<usize>, bytes: &mut [u8]) -> io::Result<()> {
        if range.end > self.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset + range.start as u64))?;
        file.read_exact(bytes)
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::other(format!("cannot read {}: {error}", self.path.display()))
    }
}

impl<'a> Data<'a> {
    fn of(value: &ValueInfo<'a>, folder: Option<&Path>) -> Result<Self, Failure> {
        if let Some(part) = folder.and_then(|folder| value.file(folder).transpose()).transpose()?
            && part.exists()
        {
            return Ok(Self::File(part));
        }
        Ok(Self::Tensor(value.tensor()?))
    }

    /// Bytes of all elements.
    fn len(&self) -> Result<usize, Failure> {
        match self {
            Self::Tensor(tensor) => Ok(tensor.bytes()?.len()),
            Self::File(part) => Ok(part.len),
        }
    }

    fn bytes(&self, range: Range<usize>) -> Result<Cow<'a, [u8]>, Failure> {
        match self {
            Self::Tensor(tensor) => {
                let bytes = tensor.bytes()?.get(range);
                bytes.map(Cow::Borrowed).ok_or_else(|| Failure::wrong("a tensor is too short"))
            }
            Self::File(part) => part.read(range).map(Cow::Owned),
        }
    }

    fn floats(&self) -> Result<Floats<'a>, Failure> {
        match self {
            Self::Tensor(tensor) => Ok(Floats::Vec(tensor.floats()?)),
            Self::File(part) if part.kind == Kind::F32 => part.map().map(Floats::Map),
            Self::File(part) => {
                let bytes = part.read(0..part.len)?;
                Ok(Floats::Vec(Cow::Owned(floats(part.kind, &bytes)?.into_owned())))
            }
        }
    }
}

/// Floats that are needed for a while.
enum Floats<'a> {
    Vec(Cow<'a, [f32]>),
    /// Beside the heap, which would keep the room of many.
    Map(MmapMut),
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Vec(floats) => floats,
            // Whole floats that begin at a page.
            Self::Map(map) => bytemuck::try_cast_slice(map).unwrap_or(&[]),
        }
    }
}

impl<'a> Constants<'a> {
    /// Those of a product of a model in `folder`, if it is known where it lies.
    pub(crate) fn of(unit: &Unit<'a>, folder: Option<&Path>) -> Result<Self, Failure> {
        let claim = &unit.claim;
        let data = |value: &ValueInfo<'a>| Data::of(value, folder);
        Ok(Self {
            shape: claim.shape,
            planes: claim.planes,
            codes: data(&claim.codes)?,
            scales: data(&claim.scales)?,
            zeros: claim.zeros.as_ref().map(data).transpose()?,
            outliers: match &claim.outliers {
                Some([scales, places]) => Some([data(scales)?, data(places)?]),
                None => None,
            },
            bias: unit.added().as_ref().map(data).transpose()?,
            epilogue: unit.epilogue,
        })
    }

    /// About how much memory packing takes.
    pub(crate) fn len(&self) -> usize {
        self.shape.n.saturating_mul(self.shape.k)
    }

    /// The product, with its kernels for one row.
    pub(crate) fn linear(&self, kernels: &Kernels) -> Result<Linear, Failure> {
        let wrong = |error: &dyn Display| Failure::wrong(error.to_string());
        let want = self.shape.bytes()?;
        let got = self.codes.len()?;
        if got != want {
            return Err(wrong(&PanelError::Length { what: "codes", got, want }));
        }
        // Columns of these do not lie side by side.
        let whole = match (&self.codes, self.shape.form) {
            (Data::File(part), Form::Linear { .. }) => Some(part.map()?),
            _ => None,
        };
        let codes = |range: Range<usize>| match &whole {
            Some(map) => {
                let bytes = map.get(range).map(Cow::Borrowed);
                bytes.ok_or_else(|| Failure::wrong("a tensor is too short"))
            }
            None => self.codes.bytes(range),
        };
        let scales = self.scales.floats()?;
        let all = |it: &Data<'a>| it.bytes(0..it.len()?);
        let zeros = self.zeros.as_ref().map(all).transpose()?;
        let outliers = match &self.outliers {
            Some([scales, places]) => {
                let Shape { n, k, block, .. } = self.shape;
                Some(Outliers::read((n, k, block), &scales.floats()?, &all(places)?)?)
            }
            None => None,
        };
        let (zeros, outliers) = (zeros.as_deref(), outliers.as_ref());
        let packed =
            pack(self.shape, &Operands { codes: &codes, scales: &scales, zeros, outliers })?;
        let bias = self.bias.as_ref().map(Data::floats).transpose()?.map(|it| it.to_vec());
        if bias.as_ref().is_some_and(|it| it.len() != self.shape.n) {
            return Err(wrong(&"the bias has not N elements"));
        }
        Linear::new(packed, kernels, self.planes, bias, self.epilogue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_files() {
        let path = std::env::current_exe().unwrap();
        let len = path.metadata().unwrap().len();
        let part = |offset, len| Part { path: path.clone(), offset, len, kind: Kind::U8 };
        assert_eq!(part(0, 4).read(1..4).unwrap(), *b"ELF");
        assert!(part(len - 5, 5).exists() && part(len - 5, 5).read(0..5).is_ok());
        assert!(!part(len - 5, 6).exists() && part(len - 5, 6).read(0..6).is_err());
        assert_eq!(part(0, 4).map().unwrap()[1..], *b"ELF");
        assert!(part(len - 5, 6).map().is_err());
        assert!(!part(u64::MAX, 6).exists() && part(0, 3).read(1..4).is_err());
        let none = Part { path: path.join("none"), ..part(0, 0) };
        assert!(!none.exists() && none.read(0..0).unwrap_err().to_string().contains("none"));
    }
}
