//! `pack`: gives the codes of each weight the bytes of a layout.
//!
//! Replaces `Quant(W)` with numbers by `Packed(codes, scales, zeros?)`; the float weight goes when
//! nothing else reads it. Needs: a pass that chose numbers. Keeps: the rounded value.
//! Fails where the layout has no field or block for the numbers, or no place for outliers, naming the
//! weight.

use std::str::FromStr;
use std::sync::Arc;

use half::{bf16, f16};
use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, NodeId, Patch, Scope, Value};
use qcc_ops::quant::{Layout, Numbers, Packed, Quant};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::layout::{Dense, NBits, Qdq, Sign, centering, expand, field_bits, gaps, transpose};
use qcc_quant::numbers::NumbersRef;
use qcc_quant::spec::{Grid, ScaleType};
use qcc_tensor::{Buffer, DType, Store, Tensor};

use crate::readers::{counts, weight_name};

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "pack",
    summary: "put codes, scales and zero points into the bytes of a layout",
    options: &[OptionInfo {
        name: "layout",
        kind: OptionKind::Choice(&["nbits", "qdq", "dense"]),
        default: "nbits",
        help: "order of the codes; each output format needs its own",
    }],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let layout = Layout::from_str(ctx.options.text("layout"))
        .map_err(|()| PassError::internal("a layout without a name"))?;
    let mut patches = Vec::new();
    let mut widened: Vec<(u8, u8)> = Vec::new();
    let mut slow: Vec<String> = Vec::new();
    let mut shared: Vec<(String, usize)> = Vec::new();
    let counts = counts(root);
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for id in graph.topo() {
            ctx.check_cancelled()?;
            let Some(node) = graph.node(id) else { continue };
            let Some(quant) = node.op().and_then(|it| it.is::<Quant>()) else { continue };
            let name = weight_name(graph, id);
            let Some(numbers) = &quant.numbers else {
                let text = format!("'{name}' has no codes yet");
                return Err(Diagnostic::error(codes::QCC0302, text)
                    .at("pass 'pack'")
                    .with_help("put a pass that chooses them before it: rtn, kl-precalibrate, gptq or signround")
                    .into());
            };
            let bytes = pack(layout, quant, numbers, &ctx.session.store)
                .map_err(|what| refused(&name, layout, &what))?;
            let field = field_bits(quant.spec.bits.get());
            if layout != Layout::Dense && field != quant.spec.bits.get() {
                widened.push((quant.spec.bits.get(), field));
            }
            let key = (scope.clone(), Value { node: id, slot: 0 });
            let readers = counts.get(&key).copied().unwrap_or(1).max(1);
            if readers > 1 {
                shared.push((name.clone(), readers));
            }
            // `to-qdq` gives each product codes of its own.
            let copies = if layout == Layout::Qdq { readers } else { 1 };
            let size = bytes.tensors().map(|it| it.bytes().len()).sum::<usize>() * copies;
            let row = ctx.record.weight(&name);
            if layout != Layout::Dense && field == 2 && bytes.block == 16 && row.op != "Gather" {
                slow.push(name.clone());
            }
            row.layout = layout.name().to_owned();
            row.bytes_after = size as u64;
            row.bytes_codes = (bytes.codes.bytes().len() * copies) as u64;
            row.bpw = 8.0 * size as f64 / (quant.form.n * quant.form.k).max(1) as f64;
            patches.push(patch(graph, &scope, id, quant, layout, &name, bytes));
        }
    }
    widened.sort_unstable();
    widened.dedup();
    for (bits, field) in widened {
        let text = format!("codes of {bits} bits are stored in fields of {field} bits");
        ctx.note(
            Diagnostic::warning(codes::QCC0603, text)
                .with_note("the bits per weight in the summary are those that are stored")
                .with_help("--format function stores 3, 5 and 6 bits as such"),
        );
    }
    if let Some(first) = slow.first() {
        let text = "ONNX Runtime has no fast kernel for 2 bits in blocks of 16";
        let note = match slow.len() {
            1 => format!("'{first}' has such"),
            count => format!("'{first}' and {} more have such", count - 1),
        };
        ctx.note(
            Diagnostic::warning(codes::QCC0609, text)
                .with_note(note)
                .with_help("-g 32, 64 or 128 are fast, and so are 4 bits"),
        );
    }
    if let Some(note) = note_shared(&shared, layout) {
        ctx.note(note);
    }
    Ok(patches)
}

/// That several nodes read one weight, and how often it is stored. `shared` has the weights with
/// the number of their readers.
fn note_shared(shared: &[(String, usize)], layout: Layout) -> Option<Diagnostic> {
    const NAMED: usize = 5;
    let (first, readers) = shared.first()?;
    let text = match (shared.len(), layout) {
        (1, Layout::Qdq) => {
            format!("'{first}' is read by {readers} nodes, and stored once for each of them")
        }
        (1, _) => format!("'{first}' is read by {readers} nodes, and stays one weight"),
        (count, Layout::Qdq) => {
            format!("{count} weights are read by several nodes, and stored once for each of them")
        }
        (count, _) => format!("{count} weights are read by several nodes, and stay one each"),
    };
    let mut note = Diagnostic::note(codes::QCC0611, text);
    if shared.len() > 1 {
        for (name, readers) in shared.iter().take(NAMED) {
            note = note.with_note(format!("'{name}' by {readers}"));
        }
    }
    Some(match layout {
        Layout::Qdq => note.with_help("--format nbits and --format function store them once"),
        Layout::NBits | Layout::Dense => note,
    })
}

/// Fails where the layout has no place for a weight that has no codes yet.
///
/// # Errors
/// QCC0305 with the name of the weight.
pub(crate) fn check(root: &Graph, layout: Layout) -> Result<(), PassError> {
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for id in graph.topo() {
            let quant = graph.node(id).and_then(|it| it.op()?.is::<Quant>());
            let Some(quant) = quant.filter(|it| it.numbers.is_none()) else { continue };
            if let Err(what) = layout.block(quant.form, &quant.spec) {
                return Err(refused(&weight_name(graph, id), layout, &what).into());
            }
        }
    }
    Ok(())
}

/// A weight that a layout has no place for.
fn refused(name: &str, layout: Layout, what: &str) -> Diagnostic {
    let error = Diagnostic::error(codes::QCC0305, format!("'{name}' {what}"))
        .at(format!("layout {}", layout.name()));
    error.with_help(match layout {
        Layout::NBits | Layout::Qdq => {
            "--format function takes 2 to 6 and 8 bits, and any group that is a multiple of 8"
        }
        Layout::Dense => "choose 2 to 6 or 8 bits (-b 8), and a multiple of 8 (-g 16, -g 32)",
    })
}

/// A weight in the bytes of a layout.
struct Bytes {
    codes: Tensor,
    scales: Tensor,
    zeros: Option<Tensor>,
    /// Scales of outliers, and where they are.
    outliers: Option<[Tensor; 2]>,
    block: usize,
}

impl Bytes {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let numbers = [&self.codes, &self.scales].into_iter().chain(&self.zeros);
        numbers.chain(self.outliers.iter().flatten())
    }
}

fn patch(
    graph: &Graph,
    scope: &Scope,
    id: NodeId,
    quant: &Quant,
    layout: Layout,
    name: &str,
    bytes: Bytes,
) -> Patch {
    let old = Value { node: id, slot: 0 };
    let ty = graph.ty(old).clone();
    let op = Arc::new(Packed {
        spec: quant.spec,
        form: quant.form,
        layout,
        block: bytes.block,
        dtype: ty.dtype().unwrap_or(DType::F32),
        dims: ty.known_dims().unwrap_or_default(),
        by: quant.by.clone(),
    });
    let mut patch = Patch::within(INFO.name, scope.clone());
    let source = graph.node(id).and_then(|it| it.inputs.first().copied().flatten());
    patch.at(source.map_or(id, |it| it.node));
    let mut inputs = vec![
        Some(patch.constant(&format!("{name}_q{}", quant.spec.bits.get()), bytes.codes)),
        Some(patch.constant(&format!("{name}_scales"), bytes.scales)),
    ];
    if let Some(zeros) = bytes.zeros {
        inputs.push(Some(patch.constant(&format!("{name}_zero_points"), zeros)));
    }
    if let Some([scales, places]) = bytes.outliers {
        inputs.resize(3, None);
        inputs.push(Some(patch.constant(&format!("{name}_outlier_scales"), scales)));
        inputs.push(Some(patch.constant(&format!("{name}_outliers"), places)));
    }
    let new = patch.op1(&format!("{name}.packed"), op, inputs, ty);
    patch.replace(old, new);
    patch
}

/// The bytes, or what the layout cannot do, going on from the name of the weight.
fn pack(layout: Layout, quant: &Quant, numbers: &Numbers, store: &Store) -> Result<Bytes, String> {
    let (n, k, spec) = (quant.form.n, quant.form.k, quant.spec);
    let (bits, group) = (spec.bits.get(), spec.group.len(k));
    let view = numbers.view();
    let NumbersRef { zeros, scales, outliers, .. } = view;
    if !outliers.places.is_empty() && (layout != Layout::Dense || spec.grid != Grid::Sym) {
        return Err("has outliers, whose scales this layout cannot hold".to_owned());
    }
    let block = layout.block(quant.form, &spec)?;
    let in_words = |it: &dyn std::fmt::Display| format!("cannot be packed: {it}");
    let room = |len: usize| store.take(len).map_err(|it| in_words(&it));
    match layout {
        Layout::NBits => {
            let layout = NBits::new(n, k, bits, block).map_err(|it| in_words(&it))?;
            // A symmetric weight needs no zero points when its middle is that of the field.
            let shift = if spec.grid == Grid::Sym { centering(bits) } else { 0 };
            let dims = vec![n, layout.blocks(), layout.block_bytes()];
            let is_whole = block == group && k.is_multiple_of(block);
            if is_whole && shift == 0 {
                // The numbers lie in the order of the layout already.
                let zeros = match spec.grid {
                    Grid::Sym => None,
                    Grid::Asym => Some(nbits_zeros(&layout, n, zeros, store)?),
                };
                let codes = numbers.codes().reshape(dims).map_err(|it| in_words(&it))?;
                let dims = vec![n, layout.blocks()];
                let scales = match spec.scale {
                    ScaleType::F32 => numbers.scales().reshape(dims).map_err(|it| in_words(&it))?,
                    _ => stored(scales.iter().copied(), dims, spec.scale)?,
                };
                return Ok(Bytes { codes, scales, zeros, outliers: None, block });
            }
            let mut codes = view.unpacked();
            codes.iter_mut().for_each(|it| *it += shift);
            let zeros: Vec<u8> =
                expand(zeros, k, group, block).into_iter().map(|it| it + shift).collect();
            let mut out = room(layout.bytes())?;
            layout.pack(&codes, &zeros, out.bytes_mut());
            let zeros = match spec.grid {
                Grid::Sym => None,
                Grid::Asym => Some(nbits_zeros(&layout, n, &zeros, store)?),
            };
            let scales = expand(scales, k, group, block);
            let scales = stored(scales, vec![n, layout.blocks()], spec.scale)?;
            Ok(Bytes { codes: tensor(DType::U8, dims, out)?, scales, zeros, outliers: None, block })
        }
        Layout::Qdq => {
            let sign = if spec.grid == Grid::Sym { Sign::Signed } else { Sign::Unsigned };
            let dtype = match (field_bits(bits), sign) {
                (2, Sign::Signed) => DType::I2,
                (2, Sign::Unsigned) => DType::U2,
                (4, Sign::Signed) => DType::I4,
                (4, Sign::Unsigned) => DType::U4,
                (_, Sign::Signed) => DType::I8,
                (_, Sign::Unsigned) => DType::U8,
            };
            let is_row = block >= k;
            let layout = Qdq::new(n, k, bits, sign).map_err(|it| in_words(&it))?;
            let blocks = k.div_ceil(block);
            let mut out = room(layout.bytes())?;
            layout.pack(&view.unpacked(), out.bytes_mut());
            let codes = tensor(dtype, vec![k, n], out)?;
            let dims = if is_row { vec![n] } else { vec![blocks, n] };
            let zeros = match spec.grid {
                Grid::Sym => None,
                Grid::Asym => {
                    let mut out = room(layout.zero_bytes(blocks))?;
                    layout.pack_zeros(&expand(zeros, k, group, block), blocks, out.bytes_mut());
                    Some(tensor(dtype, dims.clone(), out)?)
                }
            };
            let scales = expand(scales, k, group, block);
            let scales = stored(transpose(&scales, blocks), dims, spec.scale)?;
            Ok(Bytes { codes, scales, zeros, outliers: None, block })
        }
        Layout::Dense => {
            let layout = Dense::new(n, k, bits, block).map_err(|it| in_words(&it))?;
            let zeros = expand(zeros, k, group, block);
            let mut out = room(layout.bytes())?;
            layout.pack(&view.unpacked(), &zeros, out.bytes_mut());
            let dims = vec![n, layout.blocks(), layout.block_bytes()];
            let scales = expand(scales, k, group, block);
            let scales = stored(scales, vec![n, layout.blocks()], spec.scale)?;
            let zeros = match spec.grid {
                Grid::Sym => None,
                Grid::Asym => Some(
                    Tensor::from_vec(vec![n, layout.blocks()], zeros)
                        .map_err(|it| in_words(&it))?,
                ),
            };
            let outliers = if outliers.places.is_empty() {
                None
            } else {
                let own = expand(outliers.scales, k, group, block);
                let own = stored(own, vec![n, layout.blocks()], spec.scale)?;
                // Places among the codes as they are stored, with what fills up a row.
                let (k, width) = (k as u64, (layout.blocks() * block) as u64);
                let places: Vec<u64> =
                    outliers.places.iter().map(|it| it / k * width + it % k).collect();
                Some([own, Tensor::vector(gaps::pack(&places))])
            };
            let codes = tensor(DType::U8, dims, out)?;
            Ok(Bytes { codes, scales, zeros, outliers, block })
        }
    }
}

/// Zero points in the fields of the layout. `zeros: [n][blocks]`.
fn nbits_zeros(layout: &NBits, n: usize, zeros: &[u8], store: &Store) -> Result<Tensor, String> {
    let mut out = store.take(layout.zero_bytes()).map_err(|it| it.to_string())?;
    layout.pack_zeros(zeros, out.bytes_mut());
    tensor(DType::U8, vec![n, layout.zero_row_bytes()], out)
}

fn tensor(dtype: DType, dims: Vec<usize>, bytes: Buffer) -> Result<Tensor, String> {
    Tensor::new(dtype, dims, bytes.freeze()).map_err(|it| it.to_string())
}

/// Scales in the type they are stored in. They were rounded to it before codes were chosen.
fn stored(
    scales: impl IntoIterator<Item = f32>,
    dims: Vec<usize>,
    kind: ScaleType,
) -> Result<Tensor, String> {
    let scales = scales.into_iter();
    let tensor = match kind {
        ScaleType::F32 => Tensor::from_vec(dims, scales.collect::<Vec<_>>()),
        ScaleType::F16 => Tensor::from_vec(dims, scales.map(f16::from_f32).collect::<Vec<_>>()),
        ScaleType::BF16 => Tensor::from_vec(dims, scales.map(bf16::from_f32).collect::<Vec<_>>()),
    };
    tensor.map_err(|it| it.to_string())
}
