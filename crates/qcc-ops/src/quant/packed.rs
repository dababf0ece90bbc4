//! `qcc::Packed`: a weight whose codes have the bytes of a layout.

use std::str::FromStr;
use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_quant::codes::{Codes, decode};
use qcc_quant::layout::{Dense, NBits, Qdq, Sign, dense, field_bits, nbits};
use qcc_quant::spec::{Grid, GroupSize, WeightSpec};
use qcc_tensor::{DType, Tensor};

use super::{DOMAIN, Form, floats, parse_spec, spec_attrs};
use crate::outliers;
use crate::{AttrError, AttrReader};

/// Order of the codes of a [`Packed`] weight; see `qcc_quant::layout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Bytes of `MatMulNBits`, which are those of `GatherBlockQuantized` too.
    NBits,
    /// `[K][N]`, for `DequantizeLinear`.
    Qdq,
    /// The true number of bits, for the operators of `ai.qcc`.
    Dense,
}

impl Layout {
    /// Name in options and text.
    pub fn name(self) -> &'static str {
        match self {
            Self::NBits => "nbits",
            Self::Qdq => "qdq",
            Self::Dense => "dense",
        }
    }

    /// How many codes share a scale in the bytes of a weight: see [`Packed::block`].
    ///
    /// # Errors
    /// When the layout has no place for such a weight: says why, going on from its name.
    pub fn block(self, form: Form, spec: &WeightSpec) -> Result<usize, String> {
        let Form { n, k, .. } = form;
        let (bits, group) = (spec.bits.get(), spec.group.len(k));
        match self {
            Self::NBits => nbits::block_for(field_bits(bits), group, k).ok_or_else(|| {
                format!("has groups of {group}, and MatMulNBits takes 16, 32, 64, 128 and 256")
            }),
            Self::Qdq => {
                let field = field_bits(bits);
                if field == 2 && n % 4 != 0 {
                    return Err(format!(
                        "has N = {n}, not a multiple of 4, for which ONNX Runtime computes wrong values at 2 bits"
                    ));
                }
                if spec.group == GroupSize::Row || group >= k {
                    return Ok(k);
                }
                if !nbits::BLOCKS.contains(&group) {
                    return Err(format!(
                        "has groups of {group}, and runtimes take 16, 32, 64, 128 and 256"
                    ));
                }
                // A group that has no fast kernel becomes two blocks.
                Ok(nbits::block_for(field, group, k).unwrap_or(group))
            }
            Self::Dense => {
                if dense::dense_bits(bits) != bits {
                    return Err(format!(
                        "has {bits} bits, and the operators of ai.qcc take 2 to 6 and 8"
                    ));
                }
                dense::block_for(group, k)
                    .ok_or_else(|| format!("has groups of {group}, which are no multiple of 8"))
            }
        }
    }
}

impl FromStr for Layout {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::NBits, Self::Qdq, Self::Dense].into_iter().find(|it| it.name() == text).ok_or(())
    }
}

/// A weight as bytes of a layout: inputs are codes, scales and, on the asymmetric grid, zero
/// points, all as the output format stores them. A weight with outliers, which is symmetric and has
/// layout `dense`, has their scales as fourth and their places as fifth input: see
/// [`crate::outliers`].
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// What it was rounded to.
    pub spec: WeightSpec,
    /// How the elements of the result are rows.
    pub form: Form,
    /// Order of the codes.
    pub layout: Layout,
    /// Codes that share a scale in the bytes: the group size, or a part of it where the format
    /// has no such size; `k` for one group in a row where the format can say so.
    pub block: usize,
    /// Element type of the result.
    pub dtype: DType,
    /// Dimensions of the result.
    pub dims: Vec<usize>,
    /// The pass that chose the numbers.
    pub by: String,
}

impl Packed {
    pub(super) fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let (spec, form) = (parse_spec(reader)?, Form::parse(reader)?);
        let layout = Layout::from_str(reader.str("layout", "nbits")?)
            .map_err(|()| reader.error("layout", "is unknown"))?;
        let block = usize::try_from(reader.need_int("block")?).unwrap_or(0);
        if block == 0 {
            return Err(reader.error("block", "is not positive"));
        }
        let dtype = DType::from_str(reader.str("dtype", "f32")?)
            .map_err(|()| reader.error("dtype", "is no element type"))?;
        let dims = reader.ints("dims")?.into_iter().map(usize::try_from).collect::<Result<_, _>>();
        let dims = dims.map_err(|_| reader.error("dims", "is negative"))?;
        let by = reader.str("by", "")?.to_owned();
        Ok(Arc::new(Self { spec, form, layout, block, dtype, dims, by }))
    }

    /// Blocks along K.
    pub fn blocks(&self) -> usize {
        self.form.k.div_ceil(self.block)
    }

    /// Codes, scales and zero points from the packed bytes, one group per block.
    ///
    /// # Errors
    /// When the bytes do not fit the layout.
    pub fn unpack(
        &self,
        codes: &Tensor,
        scales: &Tensor,
        zeros: Option<&Tensor>,
    ) -> Result<Codes, EvalError> {
        let (n, k, blocks) = (self.form.n, self.form.k, self.blocks());
        let bits = self.spec.bits.get();
        let wrong = |what: String| EvalError::from(TypeError::other("Packed", what));
        let size = |got: usize, want: usize, what: &str| {
            if got == want {
                Ok(())
            } else {
                Err(wrong(format!("{got} bytes of {what}, not {want}")))
            }
        };
        let bytes = codes.bytes();
        let mut out = vec![0u8; n * k];
        let mut centers = vec![0u8; n * blocks];
        match self.layout {
            Layout::NBits => {
                let layout =
                    NBits::new(n, k, bits, self.block).map_err(|it| wrong(it.to_string()))?;
                size(bytes.len(), layout.bytes(), "codes")?;
                fill(&mut out, k, |row, col| layout.code(bytes, row, col));
                match zeros {
                    Some(zeros) => {
                        size(zeros.bytes().len(), layout.zero_bytes(), "zero points")?;
                        fill(&mut centers, blocks, |row, it| layout.zero(zeros.bytes(), row, it));
                    }
                    None => centers.fill(layout.default_zero()),
                }
            }
            Layout::Qdq => {
                // On the symmetric grid the codes are stored as signed numbers, without zero
                // points; `code` gives them back as they were.
                let sign = match self.spec.grid {
                    Grid::Sym => Sign::Signed,
                    Grid::Asym => Sign::Unsigned,
                };
                let layout = Qdq::new(n, k, bits, sign).map_err(|it| wrong(it.to_string()))?;
                size(bytes.len(), layout.bytes(), "codes")?;
                fill(&mut out, k, |row, col| layout.code(bytes, row, col));
                match zeros {
                    Some(zeros) => {
                        size(zeros.bytes().len(), layout.zero_bytes(blocks), "zero points")?;
                        fill(&mut centers, blocks, |row, it| layout.zero(zeros.bytes(), row, it));
                    }
                    None => centers.fill(self.spec.bits.middle()),
                }
            }
            Layout::Dense => {
                let layout =
                    Dense::new(n, k, bits, self.block).map_err(|it| wrong(it.to_string()))?;
                size(bytes.len(), layout.bytes(), "codes")?;
                fill(&mut out, k, |row, col| layout.code(bytes, row, col));
                match zeros {
                    Some(zeros) => {
                        size(zeros.bytes().len(), n * blocks, "zero points")?;
                        centers.copy_from_slice(zeros.bytes());
                    }
                    None => centers.fill(self.spec.bits.middle()),
                }
            }
        }
        let mut steps = scales.to_f32()?.into_owned();
        if steps.len() != n * blocks {
            return Err(wrong(format!("{} scales, not {}", steps.len(), n * blocks)));
        }
        if self.layout == Layout::Qdq {
            steps = qcc_quant::layout::transpose(&steps, n); // stored [blocks][n]
        }
        let group = qcc_quant::spec::GroupSize::of(u32::try_from(self.block).unwrap_or(u32::MAX));
        let spec = WeightSpec { group: group.unwrap_or(self.spec.group), ..self.spec };
        Ok(Codes { n, k, spec, codes: out, scales: steps, zeros: centers })
    }
}

fn fill(out: &mut [u8], width: usize, value: impl Fn(usize, usize) -> u8) {
    for (row, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
        for (col, out) in out.iter_mut().enumerate() {
            *out = value(row, col);
        }
    }
}

impl Op for Packed {
    fn name(&self) -> &str {
        "Packed"
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = spec_attrs(&self.spec);
        self.form.attrs(&mut attrs);
        attrs.push(("layout".into(), self.layout.name().into()));
        attrs.push(("block".into(), Attr::Int(self.block as i64)));
        attrs.push(("dtype".into(), self.dtype.text().into()));
        attrs.push(("dims".into(), Attr::Ints(self.dims.iter().map(|&it| it as i64).collect())));
        if !self.by.is_empty() {
            attrs.push(("by".into(), self.by.as_str().into()));
        }
        attrs
    }

    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        if !matches!(inputs.len(), 2 | 3 | 5) {
            let (op, want) = ("Packed".into(), "2, 3 or 5".into());
            return Err(TypeError::Arity { op, want, got: inputs.len() });
        }
        Ok(vec![Type::tensor(self.dtype, self.dims.iter().copied())])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let [Some(codes), Some(scales), zeros @ ..] = inputs else {
            return Err(TypeError::Absent { op: "Packed".into(), index: 0 }.into());
        };
        let codes = self.unpack(codes, scales, zeros.first().copied().flatten())?;
        let outliers = match *zeros {
            [_, Some(scales), Some(places)] => {
                Some(outliers::read((self.form.n, self.form.k, self.block), scales, places)?)
            }
            _ => None,
        };
        let fill = &mut |row: usize, out: &mut [f32]| {
            codes.dequantize(row, out);
            for (column, scale) in outliers.iter().flat_map(|it| it.row(row)) {
                let code = codes.codes[row * codes.k + column];
                out[column] = decode(code, scale, codes.spec.bits.middle());
            }
        };
        Ok(vec![floats(self.form, self.dtype, self.dims.clone(), fill)?])
    }
}
