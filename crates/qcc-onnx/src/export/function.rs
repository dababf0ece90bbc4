//! Bodies of the operators of `ai.qcc`, so that a runtime which does not know them can run them.
//!
//! `MatMulQ<b>(A, B, S, Z) -> Y` multiplies `A: T[.., K]` by the transposed weight that `B: u8[N,
//! blocks, block_size * b / 8]` (codes of exactly b bits, low bits first), scales `S: T[N, blocks]`
//! and zero points `Z: u8[N, blocks]` stand for; `MatMulQ<b>Sym` has no `Z`, its zero point is
//! `2^(b-1)`. `MatMulQ<b>Outliers(A, B, S, O, D)` is that one with the scales `O` for the codes at the
//! places that `D: u8[..]` counts off: see `qcc_quant::layout::gaps`. Codes whose width does not divide 8 are unpacked through words of b bytes, which hold
//! 8 codes; widths up to 6 fit what runtimes can sum without loss.

use onnx_protobuf::{
    AttributeProto, AttributeType, FunctionProto, NodeProto, OperatorSetIdProto, TensorProto,
};

/// Domain of the operators.
pub(super) const DOMAIN: &str = "ai.qcc";
/// Version of the domain.
pub(super) const VERSION: i64 = 1;
/// The oldest default opset and IR version that the bodies need.
pub(super) const NEEDS: (i64, i64) = (13, 8);

const FLOAT: i64 = 1;
const INT32: i64 = 6;
const INT64: i64 = 7;
const BOOL: i64 = 9;
const UINT32: i64 = 12;
const UINT64: i64 = 13;

/// The function behind an operator of the domain; `None` for names that are not of this file.
pub(super) fn body(op: &str, opset: i64) -> Option<FunctionProto> {
    let rest = op.strip_prefix("MatMulQ")?;
    let has_outliers = rest.ends_with("Outliers");
    let (bits, is_sym) = match rest.strip_suffix("Sym").or(rest.strip_suffix("Outliers")) {
        Some(bits) => (bits, true),
        None => (rest, false),
    };
    let bits: i64 = bits.parse().ok().filter(|it| matches!(it, 2..=6 | 8))?;
    let mut b = Body::default();

    // Words of 8 codes, or bytes of 8 / b codes.
    let divides = 8 % bits == 0;
    let (word_bytes, codes) = if divides { (1, 8 / bits) } else { (bits, 8) };
    let (sum_type, word_type) = if bits <= 3 { (INT32, UINT32) } else { (INT64, UINT64) };
    let shape = b.ints("shape_words", &[0, 0, -1, word_bytes]);
    let bytes = b.op("Reshape", &["B", &shape], "bytes", Vec::new());
    let (words, word_type) = if divides {
        (b.op("Cast", &[&bytes], "words", vec![int("to", UINT32)]), UINT32)
    } else {
        let wide = b.op("Cast", &[&bytes], "wide", vec![int("to", sum_type)]);
        let powers: Vec<i64> = (0..word_bytes).map(|it| 1 << (8 * it)).collect();
        let powers = b.tensor("powers", sum_type, &powers);
        let parts = b.op("Mul", &[&wide, &powers], "parts", Vec::new());
        let last = b.ints("last", &[-1]);
        let sum = b.op("ReduceSum", &[&parts, &last], "sum", vec![int("keepdims", 1)]);
        (b.op("Cast", &[&sum], "words", vec![int("to", word_type)]), word_type)
    };
    let shifts: Vec<i64> = (0..codes).map(|it| it * bits).collect();
    let shifts = b.tensor("shifts", word_type, &shifts);
    let right = vec![string("direction", "RIGHT")];
    let shifted = b.op("BitShift", &[&words, &shifts], "shifted", right);
    let levels = b.tensor("levels", word_type, &[1 << bits]);
    let codes = b.op("Mod", &[&shifted, &levels], "codes", Vec::new());
    let shape = b.ints("shape_blocks", &[0, 0, -1]);
    let codes = b.op("Reshape", &[&codes, &shape], "codes_in_blocks", Vec::new());
    let outliers = has_outliers.then(|| b.outliers(&codes));
    let codes = b.op("Cast", &[&codes], "codes_float", vec![int("to", FLOAT)]);

    let two = b.ints("two", &[2]);
    let zero = if is_sym {
        b.float("zero", (1 << (bits - 1)) as f32)
    } else {
        let zero = b.op("Cast", &["Z"], "zero_float", vec![int("to", FLOAT)]);
        b.op("Unsqueeze", &[&zero, &two], "zero", Vec::new())
    };
    let centered = b.op("Sub", &[&codes, &zero], "centered", Vec::new());
    let scale = b.op("Cast", &["S"], "scale_float", vec![int("to", FLOAT)]);
    let mut scale = b.op("Unsqueeze", &[&scale, &two], "scale", Vec::new());
    if let Some(outliers) = outliers {
        let own = b.op("Cast", &["O"], "own_float", vec![int("to", FLOAT)]);
        let own = b.op("Unsqueeze", &[&own, &two], "own", Vec::new());
        scale = b.op("Where", &[&outliers, &own, &scale], "scales", Vec::new());
    }
    let blocks = b.op("Mul", &[&centered, &scale], "blocks", Vec::new());
    let shape = b.ints("shape_rows", &[0, -1]);
    let rows = b.op("Reshape", &[&blocks, &shape], "rows", Vec::new());
    let columns = b.op("Transpose", &[&rows], "columns", vec![ints("perm", &[1, 0])]);
    // The last block may be longer than K.
    let inner = b.op("Constant", &[], "inner", vec![reference("value_int", "K")]);
    let one = b.ints("one", &[1]);
    let inner = b.op("Reshape", &[&inner, &one], "inner_vector", Vec::new());
    let (first, axis) = (b.ints("first", &[0]), b.ints("axis", &[0]));
    let mut weight = b.op("Slice", &[&columns, &first, &inner, &axis], "weight", Vec::new());
    if opset >= 15 {
        weight = b.op("CastLike", &[&weight, "A"], "weight_like", Vec::new());
    }
    b.nodes.push(NodeProto {
        input: vec!["A".into(), weight],
        output: vec!["Y".into()],
        op_type: Some("MatMul".into()),
        ..NodeProto::default()
    });

    let names = match (has_outliers, is_sym) {
        (true, _) => &["A", "B", "S", "O", "D"][..],
        (_, true) => &["A", "B", "S"],
        _ => &["A", "B", "S", "Z"],
    };
    let owned = |it: &[&str]| it.iter().map(|&it| it.to_owned()).collect();
    Some(FunctionProto {
        name: Some(op.to_owned()),
        domain: Some(DOMAIN.to_owned()),
        input: owned(names),
        output: owned(&["Y"]),
        attribute: owned(&["K", "N", "block_size"]),
        node: b.nodes,
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
        ..FunctionProto::default()
    })
}

#[derive(Default)]
struct Body {
    nodes: Vec<NodeProto>,
}

impl Body {
    fn op(&mut self, op: &str, inputs: &[&str], name: &str, attrs: Vec<AttributeProto>) -> String {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&it| it.to_owned()).collect(),
            output: vec![name.to_owned()],
            op_type: Some(op.to_owned()),
            attribute: attrs,
            ..NodeProto::default()
        });
        name.to_owned()
    }

    /// Which of `codes` are outliers, in their shape.
    fn outliers(&mut self, codes: &str) -> String {
        let cast = |to| vec![int("to", to)];
        // A byte that is 0 names no place.
        let names = self.op("Cast", &["D"], "names_place", cast(BOOL));
        let gap = self.op("Cast", &["D"], "gap", cast(INT64));
        let (most, one) = (self.ints("most", &[255]), self.ints("one_place", &[1]));
        let step = self.op("Where", &[&names, &gap, &most], "step", Vec::new());
        let axis = self.int("place_axis", 0);
        let end = self.op("CumSum", &[&step, &axis], "end", Vec::new());
        let place = self.op("Sub", &[&end, &one], "place", Vec::new());
        let all = self.ints("all", &[-1]);
        let flat = self.op("Reshape", &[codes, &all], "flat", Vec::new());
        let count = self.op("Shape", &[&flat], "count", Vec::new());
        let no = TensorProto {
            dims: vec![1],
            data_type: Some(BOOL as i32),
            int32_data: vec![0],
            ..TensorProto::default()
        };
        let mut value = attribute("value", AttributeType::Tensor);
        value.t = Some(no);
        let none = self.op("ConstantOfShape", &[&count], "none", vec![value]);
        let along = vec![int("axis", 0)];
        let found = self.op("ScatterElements", &[&none, &place, &names], "found", along);
        let shape = self.op("Shape", &[codes], "shape_codes", Vec::new());
        self.op("Reshape", &[&found, &shape], "is_outlier", Vec::new())
    }

    /// A number.
    fn int(&mut self, name: &str, value: i64) -> String {
        let tensor = TensorProto {
            data_type: Some(INT64 as i32),
            int64_data: vec![value],
            ..TensorProto::default()
        };
        self.constant(name, tensor)
    }

    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        self.tensor(name, INT64, values)
    }

    /// A vector of integers of the given ONNX type.
    fn tensor(&mut self, name: &str, kind: i64, values: &[i64]) -> String {
        // Raw bytes: OpenVINO 2026.4 reads `uint64_data` of 32-bit numbers wrongly.
        let bytes = |it: &i64| match kind {
            INT32 | UINT32 => (*it as u32).to_le_bytes().to_vec(),
            _ => it.to_le_bytes().to_vec(),
        };
        let tensor = TensorProto {
            dims: vec![values.len() as i64],
            data_type: i32::try_from(kind).ok(),
            raw_data: Some(values.iter().flat_map(bytes).collect::<Vec<u8>>().into()),
            ..TensorProto::default()
        };
        self.constant(name, tensor)
    }

    fn float(&mut self, name: &str, value: f32) -> String {
        let tensor =
            TensorProto { data_type: Some(1), float_data: vec![value], ..TensorProto::default() };
        self.constant(name, tensor)
    }

    fn constant(&mut self, name: &str, tensor: TensorProto) -> String {
        let mut value = attribute("value", AttributeType::Tensor);
        value.t = Some(tensor);
        self.op("Constant", &[], name, vec![value])
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind as i32),
        ..AttributeProto::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.into()), ..attribute(name, AttributeType::String) }
}

fn reference(name: &str, to: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(to.to_owned()), ..attribute(name, AttributeType::Int) }
}
