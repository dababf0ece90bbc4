//! Cases, their operands, and the comparison.

use qcc_ir::{Attr, Attrs, EvalCx, Input, Opaque, Type};
use qcc_tensor::{DType, Element, Tensor};

use crate::ort::{self, Model};

/// Largest difference of a float, absolute and relative to the largest one of the result.
/// Operands are of size 1 and sums short, so f32 leaves two digits of room.
const TOLERANCE: f32 = 1e-4;

/// One node to run.
pub(crate) struct Case<'a> {
    pub(crate) domain: &'a str,
    pub(crate) name: &'a str,
    pub(crate) opset: i64,
    pub(crate) attrs: Attrs,
    pub(crate) inputs: Vec<Option<Tensor>>,
    pub(crate) outputs: Vec<Option<DType>>,
}

impl<'a> Case<'a> {
    /// A node of `com.microsoft` with one float result.
    pub(crate) fn new(name: &'a str) -> Self {
        let outputs = vec![Some(DType::F32)];
        let (attrs, inputs) = (Attrs::new(), Vec::new());
        Self { domain: "com.microsoft", name, opset: 21, attrs, inputs, outputs }
    }

    /// A node of the default domain.
    pub(crate) fn onnx(name: &'a str, opset: i64) -> Self {
        Self { domain: "", opset, ..Self::new(name) }
    }

    pub(crate) fn int(mut self, name: &str, value: i64) -> Self {
        self.attrs.push((name.into(), Attr::Int(value)));
        self
    }

    pub(crate) fn float(mut self, name: &str, value: f32) -> Self {
        self.attrs.push((name.into(), Attr::Float(value)));
        self
    }

    pub(crate) fn ints(mut self, name: &str, value: &[i64]) -> Self {
        self.attrs.push((name.into(), Attr::Ints(value.to_vec())));
        self
    }

    pub(crate) fn input(mut self, it: Tensor) -> Self {
        self.inputs.push(Some(it));
        self
    }

    pub(crate) fn maybe(mut self, it: Option<Tensor>) -> Self {
        self.inputs.push(it);
        self
    }

    pub(crate) fn absent(self, count: usize) -> Self {
        (0..count).fold(self, |it, _| it.maybe(None))
    }

    pub(crate) fn outputs(mut self, outputs: &[Option<DType>]) -> Self {
        self.outputs = outputs.to_vec();
        self
    }
}

/// Random numbers that follow from the seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// Floats in -1 to 1.
    pub(crate) fn floats(&mut self, dims: &[usize]) -> Tensor {
        let mut value = || (self.next() % 4001) as f32 / 2000.0 - 1.0;
        let values = (0..dims.iter().product()).map(|_| value()).collect::<Vec<f32>>();
        Tensor::from_vec(dims.to_vec(), values).unwrap()
    }

    /// Floats in 0.1 to 1.1.
    pub(crate) fn scales(&mut self, dims: &[usize]) -> Tensor {
        let mut value = || (self.next() % 1000) as f32 / 1000.0 + 0.1;
        let values = (0..dims.iter().product()).map(|_| value()).collect::<Vec<f32>>();
        Tensor::from_vec(dims.to_vec(), values).unwrap()
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self, dims: &[usize]) -> Tensor {
        let values = (0..dims.iter().product()).map(|_| self.next() as u8).collect::<Vec<u8>>();
        Tensor::from_vec(dims.to_vec(), values).unwrap()
    }

    /// Any bits of an element type.
    pub(crate) fn bits(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let size = dtype.size_of(dims.iter().product()).unwrap();
        let mut bytes: Vec<u8> = (0..size).map(|_| self.next() as u8).collect();
        // Bits behind the last element are 0.
        let used = dims.iter().product::<usize>() * dtype.bits() % 8;
        if let (Some(last), true) = (bytes.last_mut(), used != 0) {
            *last &= (1 << used) - 1;
        }
        Tensor::new(dtype, dims.to_vec(), bytes.into()).unwrap()
    }

    /// Integers below `end`.
    pub(crate) fn below(&mut self, end: u64, dims: &[usize]) -> Tensor {
        let values = (0..dims.iter().product()).map(|_| (self.next() % end) as i64);
        Tensor::from_vec(dims.to_vec(), values.collect::<Vec<_>>()).unwrap()
    }
}

pub(crate) fn tensor<T: Element>(dims: &[usize], values: &[T]) -> Tensor {
    Tensor::from_vec(dims.to_vec(), values.to_vec()).unwrap()
}

/// Runs the case here and in ONNX Runtime, and compares.
pub(crate) fn check(case: &Case<'_>) {
    let Case { domain, name, opset, ref attrs, ref inputs, ref outputs } = *case;
    let dims: Vec<_> = inputs.iter().map(|it| it.as_ref().map(Tensor::dims)).collect();
    let label = format!("{name} {attrs:?} {dims:?}");
    let op = qcc_ops::parse(domain, name, opset, attrs.clone()).unwrap();
    assert!(op.is::<Opaque>().is_none(), "{name} is not known");
    let again = qcc_ops::parse(domain, name, opset, op.attrs()).unwrap();
    assert_eq!(format!("{op:?}"), format!("{again:?}"), "attributes come back");

    let operands: Vec<_> = inputs.iter().map(Option::as_ref).collect();
    let got = op.eval(&EvalCx::default(), &operands, outputs.len());
    let got = got.unwrap_or_else(|it| panic!("{label}: {it}"));
    let types: Vec<_> = operands.iter().map(|it| it.map(Type::of)).collect();
    let as_inputs: Vec<_> = types
        .iter()
        .zip(&operands)
        .map(|(ty, &value)| ty.as_ref().map(|ty| Input { ty, value }))
        .collect();
    let inferred = op.infer(&as_inputs, outputs.len()).unwrap_or_else(|it| panic!("{label}: {it}"));
    assert_eq!(inferred.len(), outputs.len(), "{label}");
    for (ty, got) in inferred.iter().zip(&got) {
        assert!(ty.meet(&Type::of(got)).is_some(), "{label}: {ty} inferred of {}", Type::of(got));
    }

    let model = Model {
        domain,
        name,
        opset,
        attrs: attrs.clone(),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
    };
    let Some(want) = ort::run(&model) else { return };
    let want = want.unwrap_or_else(|it| panic!("{label}: ONNX Runtime: {it}"));
    for (i, want) in want.iter().enumerate() {
        let Some(want) = want else { continue };
        let got = &got[i];
        assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{label}: output {i}");
        if want.dtype() != DType::F32 {
            assert_eq!(got, want, "{label}: output {i}");
            continue;
        }
        let (a, b) = (got.to_f32().unwrap(), want.to_f32().unwrap());
        let size = b.iter().fold(1f32, |size, it| size.max(it.abs()));
        for (at, (a, b)) in a.iter().zip(b.iter()).enumerate() {
            let is_close = (a - b).abs() <= TOLERANCE * size;
            assert!(is_close, "{label}: output {i} at {at} is {a}, not {b}");
        }
    }
}
