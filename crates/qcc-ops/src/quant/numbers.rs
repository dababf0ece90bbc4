//! The numbers of a quantized weight before a layout has them.

use qcc_ir::{Attr, Attrs, EvalError, TypeError};
use qcc_quant::codes::Codes;
use qcc_quant::fields::{field_bytes, pack_fields};
use qcc_quant::numbers::{NumbersMut, NumbersRef, NumbersShape, OutliersRef};
use qcc_quant::spec::WeightSpec;
use qcc_tensor::{Buffer, DType, Store, Tensor, TensorError};

use super::Form;
use crate::{AttrError, AttrReader};

/// Codes, scales and zero points of a weight. Their bytes may lie in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    shape: NumbersShape,
    /// `u8[n, row_bytes]`: see [`qcc_quant::numbers`].
    codes: Tensor,
    /// `f32[n, groups]`, rounded to the stored type.
    scales: Tensor,
    /// `u8[n, groups]`.
    zeros: Tensor,
    outliers: Option<Outliers>,
}

/// Weights whose codes stand for another scale than that of their group.
#[derive(Clone, Debug, PartialEq)]
struct Outliers {
    /// `u64[count]`: indices into `[n][k]`, ascending.
    places: Tensor,
    /// `f32[n, groups]`, rounded to the stored type.
    scales: Tensor,
}

/// Numbers that are being written.
#[derive(Debug)]
pub struct NumbersBuffer {
    shape: NumbersShape,
    codes: Buffer,
    scales: Buffer,
    zeros: Buffer,
}

impl NumbersBuffer {
    /// Room for the numbers of a weight of this form.
    ///
    /// # Errors
    /// What the system says when it has no memory, or the folder of the store no space.
    pub fn new(form: Form, spec: WeightSpec, store: &Store) -> std::io::Result<Self> {
        let shape = NumbersShape { n: form.n, k: form.k, spec };
        let too_large = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let groups = shape.n.checked_mul(shape.groups()).ok_or_else(too_large)?;
        let codes = shape.n.checked_mul(shape.row_bytes()).ok_or_else(too_large)?;
        let scales = groups.checked_mul(4).ok_or_else(too_large)?;
        Ok(Self {
            shape,
            codes: store.take(codes)?,
            scales: store.take(scales)?,
            zeros: store.take(groups)?,
        })
    }

    /// Where they go.
    pub fn numbers_mut(&mut self) -> NumbersMut<'_> {
        NumbersMut {
            field: self.shape.field(),
            codes: self.codes.bytes_mut(),
            scales: self.scales.floats_mut(),
            zeros: self.zeros.bytes_mut(),
        }
    }

    /// The numbers, where they are.
    ///
    /// # Errors
    /// None that can be seen: the sizes follow from the shape.
    pub fn finish(self) -> Result<Numbers, TensorError> {
        let shape = self.shape;
        let (n, groups) = (shape.n, shape.groups());
        Ok(Numbers {
            shape,
            codes: Tensor::new(DType::U8, vec![n, shape.row_bytes()], self.codes.freeze())?,
            scales: Tensor::new(DType::F32, vec![n, groups], self.scales.freeze())?,
            zeros: Tensor::new(DType::U8, vec![n, groups], self.zeros.freeze())?,
            outliers: None,
        })
    }
}

impl Numbers {
    /// Codes of one byte, put into fields.
    ///
    /// # Errors
    /// As [`NumbersBuffer::new`].
    pub fn from_codes(codes: &Codes, store: &Store) -> std::io::Result<Self> {
        let form = Form { n: codes.n, k: codes.k, order: qcc_quant::rows::Order::Nk };
        let mut buffer = NumbersBuffer::new(form, codes.spec, store)?;
        buffer.numbers_mut().set(codes);
        buffer.finish().map_err(std::io::Error::other)
    }

    /// The same with outliers, if there are any: the weights at `places` have `scales: [n][groups]`.
    ///
    /// # Errors
    /// When there is not a scale for each group, or a place does not ascend or is none of a weight.
    pub fn with_outliers(self, places: &[u64], scales: &[f32]) -> Result<Self, EvalError> {
        if places.is_empty() {
            return Ok(Self { outliers: None, ..self });
        }
        let NumbersShape { n, k, .. } = self.shape;
        let weights = (n as u64).saturating_mul(k as u64);
        let dims = vec![n, self.shape.groups()];
        let scales = Tensor::from_vec(dims, scales.to_vec())?;
        let ascend = places.windows(2).all(|it| it[0] < it[1]);
        if !ascend || places.last().is_some_and(|&it| it >= weights) {
            return Err(
                TypeError::other("Quant", "outliers do not ascend to the last weight").into()
            );
        }
        let places = Tensor::from_vec(vec![places.len()], places.to_vec())?;
        Ok(Self { outliers: Some(Outliers { places, scales }), ..self })
    }

    /// The numbers as slices.
    pub fn view(&self) -> NumbersRef<'_> {
        let outliers = self.outliers.as_ref().map(|it| OutliersRef {
            places: bytemuck::try_cast_slice(it.places.bytes()).unwrap_or_default(),
            scales: bytemuck::try_cast_slice(it.scales.bytes()).unwrap_or_default(),
        });
        NumbersRef {
            shape: self.shape,
            codes: self.codes.bytes(),
            scales: bytemuck::try_cast_slice(self.scales.bytes()).unwrap_or_default(),
            zeros: self.zeros.bytes(),
            outliers: outliers.unwrap_or_default(),
        }
    }

    /// `u8[n, row_bytes]`: fields of codes.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// `f32[n, groups]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// `u8[n, groups]`.
    pub fn zeros(&self) -> &Tensor {
        &self.zeros
    }

    /// As attributes, with one byte a code.
    pub(super) fn attrs(&self) -> Attrs {
        let dims = vec![self.shape.n, self.shape.k];
        let codes = Tensor::from_vec(dims, self.view().unpacked());
        let mut attrs = Attrs::new();
        attrs.extend(codes.ok().map(|it| ("codes".into(), Attr::Tensor(it))));
        attrs.push(("scales".into(), Attr::Tensor(self.scales.clone())));
        attrs.push(("zeros".into(), Attr::Tensor(self.zeros.clone())));
        if let Some(it) = &self.outliers {
            attrs.push(("outliers".into(), Attr::Tensor(it.places.clone())));
            attrs.push(("outlier_scales".into(), Attr::Tensor(it.scales.clone())));
        }
        attrs
    }

    pub(super) fn parse(
        reader: &AttrReader<'_>,
        spec: WeightSpec,
        form: Form,
    ) -> Result<Option<Self>, AttrError> {
        let Some(codes) = reader.opt_tensor("codes")? else { return Ok(None) };
        let shape = NumbersShape { n: form.n, k: form.k, spec };
        let groups = shape.groups();
        let need = |name: &str| reader.opt_tensor(name)?.ok_or_else(|| reader.missing(name));
        let (scales, zeros) = (need("scales")?, need("zeros")?);
        for (name, tensor, dims, dtype) in [
            ("codes", codes, [form.n, form.k], DType::U8),
            ("scales", scales, [form.n, groups], DType::F32),
            ("zeros", zeros, [form.n, groups], DType::U8),
        ] {
            if tensor.dims() != dims || tensor.dtype() != dtype {
                let (got, is) = (tensor.dtype(), tensor.dims());
                return Err(reader.error(name, format!("is {got}{is:?}, not {dtype}{dims:?}")));
            }
        }
        let max = spec.bits.max_code();
        if codes.bytes().iter().chain(zeros.bytes()).any(|&it| it > max) {
            return Err(reader.error("codes", "hold a value that does not fit the bits"));
        }
        let (field, row_bytes) = (shape.field(), shape.row_bytes());
        let mut fields = vec![0; codes.len() / form.k.max(1) * row_bytes];
        if let Some(width) = field_bytes(form.k, field).filter(|it| *it > 0) {
            let rows = codes.bytes().chunks_exact(form.k);
            for (row, out) in rows.zip(fields.chunks_exact_mut(width)) {
                pack_fields(row, field, out);
            }
        }
        let of = |it: Result<Tensor, TensorError>| {
            it.map_err(|it| reader.error("codes", it.to_string()))
        };
        let all = Self {
            shape,
            codes: of(Tensor::from_vec(vec![form.n, row_bytes], fields))?,
            // A copy, so that the floats are aligned.
            scales: of(scales
                .as_slice::<f32>()
                .and_then(|it| Tensor::from_vec(vec![form.n, groups], it.into_owned())))?,
            zeros: zeros.clone(),
            outliers: None,
        };
        let Some(places) = reader.opt_tensor("outliers")? else { return Ok(Some(all)) };
        let scales = need("outlier_scales")?;
        let (Ok(places), Ok(scales)) = (places.as_slice::<u64>(), scales.as_slice::<f32>()) else {
            return Err(reader.error("outliers", "are not u64 with scales of f32"));
        };
        let all = all.with_outliers(&places, &scales);
        all.map(Some).map_err(|_| {
            reader.error("outliers", "do not ascend to the last weight, or have other scales")
        })
    }
}
