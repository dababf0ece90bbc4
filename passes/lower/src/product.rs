//! What the formats have in common when a product reads a packed weight: the factor and the bias
//! that stay around it.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, Graph, OpRef, Output, Patch, Value};
use qcc_pass::PassError;
use qcc_tensor::{DType, Tensor};

use crate::readers::Reader;

/// A product that is being rewritten.
pub(crate) struct Product<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) reader: &'a Reader<'a>,
    /// The result that is replaced.
    pub(crate) old: Value,
    /// The left operand.
    pub(crate) left: Option<Value>,
    pub(crate) bias: Option<Value>,
    pub(crate) alpha: f32,
}

impl<'a> Product<'a> {
    /// The product that a reader is, if the format can take it.
    pub(crate) fn of(
        root: &'a Graph,
        reader: &'a Reader<'a>,
        format: &str,
    ) -> Result<Self, PassError> {
        let Some(graph) = root.at(&reader.scope) else {
            return Err(PassError::internal("a scope is gone"));
        };
        let op = reader.node.op().map_or("", |it| it.name());
        if !matches!((op, reader.operand), ("MatMul" | "FusedMatMul" | "Gemm", 1)) {
            return Err(no_form(reader, format, "the operator has no such form").into());
        }
        let is_transposed = reader.int("transB").unwrap_or(0) != 0;
        if !reader.fits(!is_transposed) {
            return Err(no_form(reader, format, "it reads the weight in another shape").into());
        }
        let bias = reader.node.inputs.get(2).copied().flatten();
        Ok(Self {
            graph,
            reader,
            old: Value { node: reader.id, slot: 0 },
            left: reader.node.inputs.first().copied().flatten(),
            // `select` takes a Gemm with alpha 1 and beta 0 or 1 only; FusedMatMul may have alpha.
            bias: bias.filter(|_| reader.float("beta").unwrap_or(1.0) != 0.0),
            alpha: reader.float("alpha").unwrap_or(1.0),
        })
    }

    /// A patch that puts new nodes where the product stands.
    pub(crate) fn patch(&self, pass: &'static str) -> Patch {
        let mut patch = Patch::within(pass, self.reader.scope.clone());
        patch.at(self.reader.id);
        patch
    }

    /// Adds the operator that takes the place of the product, the factor and the bias, and lets
    /// them replace the result.
    pub(crate) fn finish(&self, patch: &mut Patch, op: OpRef, inputs: Vec<Option<Value>>) {
        let ty = self.graph.ty(self.old).clone();
        let name = self.reader.node.name.as_str();
        let out = Output::new(self.graph.value_name(self.old), ty.clone());
        let node = patch.op(name, op, inputs, vec![out]);
        let mut value = Value { node, slot: 0 };
        if self.alpha != 1.0 {
            let factor = scalar(self.alpha, self.reader.weight.dtype);
            let factor = patch.constant(&format!("{name}_alpha"), factor);
            let inputs = vec![Some(value), Some(factor)];
            value = patch.op1(&format!("{name}_scaled"), plain("Mul"), inputs, ty.clone());
        }
        if let Some(bias) = self.bias {
            let inputs = vec![Some(value), Some(bias)];
            value = patch.op1(&format!("{name}_bias"), plain("Add"), inputs, ty);
        }
        patch.replace(self.old, value);
    }
}

/// An operator of the default domain without attributes.
pub(crate) fn plain(name: &str) -> OpRef {
    with_attrs(name, Vec::new())
}

/// An operator of the default domain.
pub(crate) fn with_attrs(name: &str, attrs: Vec<(String, Attr)>) -> OpRef {
    qcc_ops::parse("", name, 21, attrs.clone()).unwrap_or_else(|_| {
        Arc::new(qcc_ir::Opaque { domain: String::new(), name: name.to_owned(), attrs })
    })
}

/// A format that cannot take a reader of a weight.
pub(crate) fn no_form(reader: &Reader<'_>, format: &str, why: &str) -> Diagnostic {
    let op = reader.node.op().map_or("", |it| it.name());
    let node = &reader.node.name;
    let text = format!("{op} '{node}' cannot read '{}' in format {format}: {why}", reader.name);
    Diagnostic::error(codes::QCC0305, text)
        .at(format!("node '{node}'"))
        .with_help(format!("--exclude '{}' leaves the weight in float", reader.name))
}

fn scalar(value: f32, dtype: DType) -> Tensor {
    match dtype {
        DType::F16 => Tensor::scalar(half::f16::from_f32(value)),
        DType::BF16 => Tensor::scalar(half::bf16::from_f32(value)),
        _ => Tensor::scalar(value),
    }
}
