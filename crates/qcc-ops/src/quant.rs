//! The compiler's own operators: a weight on its way from float to codes.
//!
//! `qcc::Quant(w)` marks a weight as chosen. Its result is the weight after rounding, in the shape
//! and element type that it came with; until a pass has chosen numbers that is the weight itself.
//! `qcc::Packed(codes, scales, zeros?)` is the same weight once it has bytes of a layout. Neither
//! is exported: an output format turns both into what other runtimes know.

use std::str::FromStr;
use std::sync::Arc;

use qcc_ir::{Attr, Attrs, EvalCx, EvalError, Input, Op, OpRef, Type, TypeError};
use qcc_quant::rows::{FloatKind, Order, WeightRows};
use qcc_quant::spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec};
use qcc_tensor::{DType, Tensor};

use crate::{AttrError, AttrReader, OpDef};

mod numbers;
mod packed;

pub use numbers::{Numbers, NumbersBuffer};
pub use packed::{Layout, Packed};

/// Domain of the operators of this file.
pub const DOMAIN: &str = "qcc";

/// The operators of this file.
pub const OPS: &[OpDef] = &[
    OpDef { domain: DOMAIN, name: "Quant", parse: Quant::parse },
    OpDef { domain: DOMAIN, name: "Packed", parse: Packed::parse },
];

/// How the elements of a tensor are the rows of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Rows: outputs of the product.
    pub n: usize,
    /// Weights in a row: inputs of the product.
    pub k: usize,
    /// Which of the two runs fastest.
    pub order: Order,
}

impl Form {
    /// The bytes of a float tensor as rows; `None` for other element types and sizes.
    pub fn rows(self, weight: &Tensor) -> Option<WeightRows<'_>> {
        let kind = match weight.dtype() {
            DType::F32 => FloatKind::F32,
            DType::F16 => FloatKind::F16,
            DType::BF16 => FloatKind::BF16,
            _ => return None,
        };
        WeightRows::new(weight.bytes(), kind, self.n, self.k, self.order).ok()
    }

    fn parse(reader: &AttrReader<'_>) -> Result<Self, AttrError> {
        let size = |name: &str| -> Result<usize, AttrError> {
            usize::try_from(reader.need_int(name)?).map_err(|_| reader.error(name, "is negative"))
        };
        let order = match reader.str("order", "kn")? {
            "kn" => Order::Kn,
            "nk" => Order::Nk,
            _ => return Err(reader.error("order", "is neither 'kn' nor 'nk'")),
        };
        Ok(Self { n: size("n")?, k: size("k")?, order })
    }

    fn attrs(self, attrs: &mut Attrs) {
        attrs.push(("n".into(), Attr::Int(self.n as i64)));
        attrs.push(("k".into(), Attr::Int(self.k as i64)));
        let order = match self.order {
            Order::Kn => "kn",
            Order::Nk => "nk",
        };
        attrs.push(("order".into(), order.into()));
    }
}

/// A weight that was chosen for quantization.
#[derive(Clone, Debug, PartialEq)]
pub struct Quant {
    /// What it is rounded to.
    pub spec: WeightSpec,
    /// How its elements are rows.
    pub form: Form,
    /// The numbers, once a pass has chosen them.
    pub numbers: Option<Numbers>,
    /// The pass that chose them; empty before.
    pub by: String,
}

impl Quant {
    fn parse(reader: &mut AttrReader<'_>) -> Result<OpRef, AttrError> {
        let (spec, form) = (parse_spec(reader)?, Form::parse(reader)?);
        let numbers = Numbers::parse(reader, spec, form)?;
        let by = reader.str("by", "")?.to_owned();
        Ok(Arc::new(Self { spec, form, numbers, by }))
    }
}

impl Op for Quant {
    fn name(&self) -> &str {
        "Quant"
    }

    fn domain(&self) -> &str {
        DOMAIN
    }

    fn attrs(&self) -> Attrs {
        let mut attrs = spec_attrs(&self.spec);
        self.form.attrs(&mut attrs);
        if let Some(numbers) = &self.numbers {
            attrs.extend(numbers.attrs());
        }
        if !self.by.is_empty() {
            attrs.push(("by".into(), self.by.as_str().into()));
        }
        attrs
    }

    /// `w: T[..]` of `n * k` elements gives `T[..]`.
    fn infer(&self, inputs: &[Option<Input<'_>>], _: usize) -> Result<Vec<Type>, TypeError> {
        let [Some(weight)] = inputs else {
            let (op, want) = ("Quant".into(), "1".into());
            return Err(TypeError::Arity { op, want, got: inputs.len() });
        };
        if let Some(dims) = weight.ty.known_dims()
            && qcc_tensor::checked_len(&dims) != self.form.n.checked_mul(self.form.k)
        {
            let (n, k) = (self.form.n, self.form.k);
            return Err(TypeError::other("Quant", format!("{dims:?} is not {n} rows of {k}")));
        }
        Ok(vec![weight.ty.clone()])
    }

    fn eval(
        &self,
        _: &EvalCx,
        inputs: &[Option<&Tensor>],
        _: usize,
    ) -> Result<Vec<Tensor>, EvalError> {
        let [Some(weight)] = inputs else {
            return Err(TypeError::Absent { op: "Quant".into(), index: 0 }.into());
        };
        let Some(numbers) = &self.numbers else { return Ok(vec![(*weight).clone()]) };
        Ok(vec![decoded(numbers, self.form.order, weight.dtype(), weight.dims().to_vec())?])
    }
}

/// The floats that numbers stand for, as a tensor in the order and element type of the weight.
///
/// # Errors
/// When `dims` has another number of elements, or `dtype` is no float of 16 or 32 bits.
pub fn decoded(
    numbers: &Numbers,
    order: Order,
    dtype: DType,
    dims: Vec<usize>,
) -> Result<Tensor, EvalError> {
    let numbers = numbers.view();
    let form = Form { n: numbers.shape.n, k: numbers.shape.k, order };
    let mut codes = vec![0; form.k];
    floats(form, dtype, dims, &mut |row, out| numbers.dequantize(row, &mut codes, out))
}

/// A weight of which `fill` gives each row, as a tensor in its own order and element type.
///
/// # Errors
/// When `dims` has another number of elements, or `dtype` is no float of 16 or 32 bits.
pub fn floats(
    form: Form,
    dtype: DType,
    dims: Vec<usize>,
    fill: &mut dyn FnMut(usize, &mut [f32]),
) -> Result<Tensor, EvalError> {
    let (n, k) = (form.n, form.k);
    let mut out = vec![0f32; n * k];
    match form.order {
        Order::Nk => {
            for (row, out) in out.chunks_exact_mut(k.max(1)).enumerate() {
                fill(row, out);
            }
        }
        Order::Kn => {
            // Some rows at a time, so that each line of the cache is written whole.
            const ROWS: usize = 16;
            let mut tile = vec![0f32; ROWS * k];
            for first in (0..n).step_by(ROWS) {
                let rows = ROWS.min(n - first);
                for (row, tile) in tile.chunks_exact_mut(k.max(1)).take(rows).enumerate() {
                    fill(first + row, tile);
                }
                for (col, line) in out.chunks_exact_mut(n).enumerate() {
                    for (row, out) in line[first..first + rows].iter_mut().enumerate() {
                        *out = tile[row * k + col];
                    }
                }
            }
        }
    }
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(dims, out)?,
        DType::F16 => {
            let out: Vec<half::f16> = out.into_iter().map(half::f16::from_f32).collect();
            Tensor::from_vec(dims, out)?
        }
        DType::BF16 => {
            let out: Vec<half::bf16> = out.into_iter().map(half::bf16::from_f32).collect();
            Tensor::from_vec(dims, out)?
        }
        other => {
            let (op, got) = ("Quant".into(), other.to_string());
            return Err(TypeError::DType { op, got }.into());
        }
    })
}

fn parse_spec(reader: &AttrReader<'_>) -> Result<WeightSpec, AttrError> {
    let bits = u8::try_from(reader.need_int("bits")?).ok().and_then(Bits::new);
    let bits = bits.ok_or_else(|| reader.error("bits", "is not 2 to 8"))?;
    let group = GroupSize::from_str(reader.str("group", "row")?)
        .map_err(|_| reader.error("group", "is neither a number nor 'row'"))?;
    let grid = match reader.str("grid", "asym")? {
        "asym" => Grid::Asym,
        "sym" => Grid::Sym,
        _ => return Err(reader.error("grid", "is neither 'asym' nor 'sym'")),
    };
    let scale = match reader.str("scale", "f32")? {
        "f32" => ScaleType::F32,
        "f16" => ScaleType::F16,
        "bf16" => ScaleType::BF16,
        _ => return Err(reader.error("scale", "is not 'f32', 'f16' or 'bf16'")),
    };
    Ok(WeightSpec { bits, group, grid, scale })
}

fn spec_attrs(spec: &WeightSpec) -> Attrs {
    let grid = match spec.grid {
        Grid::Asym => "asym",
        Grid::Sym => "sym",
    };
    let scale = match spec.scale {
        ScaleType::F32 => "f32",
        ScaleType::F16 => "f16",
        ScaleType::BF16 => "bf16",
    };
    vec![
        ("bits".into(), Attr::Int(spec.bits.get().into())),
        ("group".into(), spec.group.to_string().as_str().into()),
        ("grid".into(), grid.into()),
        ("scale".into(), scale.into()),
    ]
}

#[cfg(test)]
mod tests {
    use qcc_quant::rtn::rtn;
    use qcc_tensor::Store;

    use super::*;
    use crate::parse;

    fn weight() -> Tensor {
        let values = (0..24).map(|it| ((it * 7) % 11) as f32 - 5.0).collect();
        Tensor::from_vec(vec![6, 4], values).unwrap()
    }

    fn quant(codes: bool) -> Quant {
        let spec = WeightSpec {
            bits: Bits::new(3).unwrap(),
            group: GroupSize::of(4).unwrap(),
            grid: Grid::Asym,
            scale: ScaleType::F16,
        };
        let form = Form { n: 4, k: 6, order: Order::Kn };
        let weight = weight();
        let codes = codes.then(|| rtn(&form.rows(&weight).unwrap(), &spec));
        let numbers = codes.map(|it| Numbers::from_codes(&it, &Store::default()).unwrap());
        Quant { spec, form, numbers, by: "rtn".into() }
    }

    #[test]
    fn attributes_make_the_same_operator() {
        for codes in [false, true] {
            let quant = quant(codes);
            let again = parse(DOMAIN, "Quant", 1, quant.attrs()).unwrap();
            assert_eq!(again.is::<Quant>(), Some(&quant));
        }
    }

    #[test]
    fn value_is_the_rounded_weight_in_its_own_order() {
        let weight = weight();
        let out = |it: &Quant| it.eval(&EvalCx::default(), &[Some(&weight)], 1).unwrap().remove(0);
        assert_eq!(out(&quant(false)), weight);
        let rounded = out(&quant(true));
        assert_eq!(rounded.dims(), weight.dims());
        let (a, b) = (weight.to_f32().unwrap(), rounded.to_f32().unwrap());
        for (a, b) in a.iter().zip(b.iter()) {
            assert!((a - b).abs() <= 0.75, "{a} {b}: range 11 in 7 steps, half of one is 0.72");
        }
        assert_ne!(a, b);
    }

    #[test]
    fn codes_that_do_not_fit_are_refused() {
        let mut attrs = quant(true).attrs();
        for (name, attr) in &mut attrs {
            if name == "zeros" {
                *attr = Attr::Tensor(Tensor::from_vec(vec![4, 2], vec![8u8; 8]).unwrap());
            }
        }
        assert!(parse(DOMAIN, "Quant", 1, attrs).is_err());
    }
}
