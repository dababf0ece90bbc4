//! What the formats have in common when a product reads a packed weight: the factor, the bias and
//! the leading axes that stay around it.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, Graph, OpRef, Output, Patch, Type, Value};
use qcc_ops::contrib_attention::Parted;
use qcc_ops::einsum::Einsum;
use qcc_ops::quant::Layout;
use qcc_pass::PassError;
use qcc_tensor::{DType, Dim, Tensor};

use crate::attention;
use crate::readers::{Chosen, Reader};

/// A product that is being rewritten.
pub(crate) struct Product<'a> {
    root: &'a Graph,
    pub(crate) graph: &'a Graph,
    pub(crate) reader: &'a Reader<'a>,
    /// The result that is replaced.
    pub(crate) old: Value,
    /// The left operand.
    pub(crate) left: Option<Value>,
    bias: Option<Value>,
    pub(crate) alpha: f32,
    /// What the product is the first part of.
    attention: Option<Parted>,
}

/// Whether the format can take the product that a reader is.
///
/// # Errors
/// QCC0305 with the node and a way out.
pub(crate) fn carries<W: Chosen>(
    root: &Graph,
    reader: &Reader<'_, W>,
    format: &str,
) -> Result<(), PassError> {
    let op = reader.node.op().map_or("", |it| it.name());
    if (op, reader.operand) == ("Gather", 0) {
        return Err(no_form(reader, format, "the format has no tables")
            .with_help("leave out --embeddings, and --set with bits for the table")
            .with_help("--format nbits has tables")
            .into());
    }
    let attention = root.at(&reader.scope).and_then(|it| attention::parted(it, reader.id));
    if let (Some(Err(what)), 1) = (&attention, reader.operand) {
        let why = format!("it has {what}, which MultiHeadAttention cannot be given");
        return Err(leave_out(no_form(reader, format, &why), reader));
    }
    let equation = reader.node.op().and_then(|it| it.is::<Einsum>());
    let outputs_last = match (op, reader.operand) {
        ("MatMul" | "FusedMatMul" | "Gemm", 1) => Some(reader.int("transB").unwrap_or(0) == 0),
        (_, 1) if attention.is_some() => Some(true),
        (_, 1) => equation.and_then(Einsum::matmul_form),
        _ => None,
    };
    let Some(outputs_last) = outputs_last else {
        return Err(leave_out(no_form(reader, format, "the operator has no such form"), reader));
    };
    if !reader.fits(outputs_last) {
        let error = no_form(reader, format, "it reads the weight in another shape");
        return Err(leave_out(error, reader));
    }
    let left = reader.node.inputs.first().copied().flatten();
    let rank = root.at(&reader.scope).zip(left).and_then(|(graph, it)| graph.ty(it).rank());
    if rank.is_none() && reader.weight.dims.len() > 2 {
        let error = no_form(reader, format, "the rank of its input is not known");
        return Err(leave_out(error, reader));
    }
    Ok(())
}

/// Whether scales have the type that the operators of the format need.
///
/// # Errors
/// QCC0305 with the node and a way out.
pub(crate) fn scales_fit<W: Chosen>(reader: &Reader<'_, W>, format: &str) -> Result<(), PassError> {
    let (own, needed) = (reader.scale_type(), reader.weight.dtype);
    if own == needed {
        return Ok(());
    }
    let why = format!("its scales are {own}, and it computes in {needed}");
    let name = needed.text();
    Err(no_form(reader, format, &why)
        .with_help(format!("leave out --scale-type, or write --scale-type {name}"))
        .with_help("--format function takes scales of any type")
        .into())
}

impl<'a> Product<'a> {
    /// The product that a reader is, which the format [`carries`].
    pub(crate) fn of(root: &'a Graph, reader: &'a Reader<'a>) -> Result<Self, PassError> {
        let Some(graph) = root.at(&reader.scope) else {
            return Err(PassError::internal("a scope is gone"));
        };
        let bias = reader.node.inputs.get(2).copied().flatten();
        let left = reader.node.inputs.first().copied().flatten();
        Ok(Self {
            root,
            graph,
            reader,
            old: Value { node: reader.id, slot: 0 },
            left,
            // `select` takes a Gemm with alpha 1 and beta 0 or 1 only; FusedMatMul may have alpha.
            bias: bias.filter(|_| reader.float("beta").unwrap_or(1.0) != 0.0),
            alpha: reader.float("alpha").unwrap_or(1.0),
            attention: attention::parted(graph, reader.id).and_then(Result::ok),
        })
    }

    /// A patch that puts new nodes where the product stands.
    pub(crate) fn patch(&self, pass: &'static str) -> Patch {
        let mut patch = Patch::within(pass, self.reader.scope.clone());
        patch.at(self.reader.id);
        patch
    }

    /// The bias; a constant one `[1, N]` as `[N]`, which is what runtimes fuse.
    pub(crate) fn bias(&self, patch: &mut Patch) -> Option<Value> {
        match self.flat_bias() {
            Some((name, tensor)) => Some(patch.constant(name, tensor)),
            None => self.bias,
        }
    }

    /// Whether the bias is one value per output.
    pub(crate) fn is_bias_vector(&self) -> bool {
        let dims = self.bias.and_then(|it| self.graph.ty(it).known_dims());
        dims.is_some_and(|it| it == [self.reader.chosen.form.n]) || self.flat_bias().is_some()
    }

    fn flat_bias(&self) -> Option<(&'a str, Tensor)> {
        let (scope, value) = self.root.resolve(&self.reader.scope, self.bias?)?;
        let graph = self.root.at(&scope)?;
        let tensor = graph.constant(value)?;
        let n = self.reader.chosen.form.n;
        let is_row = tensor.dims().len() > 1 && tensor.dims().last() == Some(&n);
        let flat = Some(tensor).filter(|it| is_row && it.len() == n)?.reshape(vec![n]).ok()?;
        Some((graph.value_name(value), flat))
    }

    /// Rank of the result where that is not the rank of the input: a weight `[1, K, N]` gives one
    /// to an input `[M, K]`.
    fn wide_rank(&self) -> Option<usize> {
        let rank = self.graph.ty(self.left?).rank()?;
        let weight = self.reader.weight.dims.len();
        // The axis that an input of one axis is given goes again.
        let wide = if rank == 1 { weight.checked_sub(1)? } else { weight };
        (wide > rank).then_some(wide)
    }

    /// Adds the operator that takes the place of the product, the factor and the bias, and lets
    /// them replace the result.
    pub(crate) fn finish(
        &self,
        patch: &mut Patch,
        op: OpRef,
        inputs: Vec<Option<Value>>,
        bias: Option<Value>,
    ) {
        let label = self.reader.label(self.graph);
        let n = Dim::Known(self.reader.chosen.form.n);
        let rows = || self.graph.ty(self.left?).shape()?.split_last().map(|it| it.1);
        let columns = |ty: &Type| {
            let shape = rows().map(|it| it.iter().cloned().chain([n.clone()]).collect());
            ty.with_shape(shape)
        };
        let whole = self.graph.ty(self.old);
        let (name, ty) = match self.attention {
            Some(_) => (format!("{label}_qkv"), columns(whole)),
            None => (label.to_owned(), whole.clone()),
        };
        let wide = self.wide_rank();
        let own = if wide.is_some() && rows().is_some() { columns(&ty) } else { ty.clone() };
        let is_first = wide.is_some() || bias.is_some() || self.alpha != 1.0;
        let (node, value) = match self.attention {
            Some(_) => (name.as_str(), name.as_str()),
            None if is_first => (label, self.graph.value_name(self.old)),
            None => (self.reader.node.name.as_str(), self.graph.value_name(self.old)),
        };
        let node = patch.op(node, op, inputs, vec![Output::new(value, own)]);
        let mut value = Value { node, slot: 0 };
        if let Some(rank) = wide {
            let shape = Tensor::vector(vec![1i64; rank]);
            let shape = patch.constant(&format!("{name}_shape"), shape);
            let inputs = vec![Some(value), Some(shape)];
            value = patch.op1(&format!("{name}_wide"), plain("Expand"), inputs, ty.clone());
        }
        if self.alpha != 1.0 {
            let factor = scalar(self.alpha, self.reader.weight.dtype);
            let factor = patch.constant(&format!("{name}_alpha"), factor);
            let inputs = vec![Some(value), Some(factor)];
            value = patch.op1(&format!("{name}_scaled"), plain("Mul"), inputs, ty.clone());
        }
        if let Some(bias) = bias {
            let inputs = vec![Some(value), Some(bias)];
            value = patch.op1(&format!("{name}_bias"), plain("Add"), inputs, ty.clone());
        }
        if let Some(parted) = &self.attention {
            let at = (self.graph, self.reader.id);
            value = attention::behind(patch, at, label, parted, (value, &ty));
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
pub(crate) fn no_form<W>(reader: &Reader<'_, W>, format: &str, why: &str) -> Diagnostic {
    let op = reader.node.op().map_or("", |it| it.name());
    let node = &reader.node.name;
    let text = format!("{op} '{node}' cannot read '{}' in format {format}: {why}", reader.name);
    Diagnostic::error(codes::QCC0305, text).at(format!("node '{node}'"))
}

/// The way out where nothing but the weight itself is in the way.
pub(crate) fn leave_out<W>(error: Diagnostic, reader: &Reader<'_, W>) -> PassError {
    error.with_help(format!("--exclude '{}' leaves the weight in float", reader.name)).into()
}

/// Codes of another layout than that of the format: the pipeline does not fit together.
pub(crate) fn packed_for_another(reader: &Reader<'_>, format: &str, layout: Layout) -> PassError {
    no_form(reader, format, "its codes are packed for another format")
        .with_help(format!("write pack{{layout={}}} before the format", layout.name()))
        .into()
}

fn scalar(value: f32, dtype: DType) -> Tensor {
    match dtype {
        DType::F16 => Tensor::scalar(half::f16::from_f32(value)),
        DType::BF16 => Tensor::scalar(half::bf16::from_f32(value)),
        _ => Tensor::scalar(value),
    }
}
