//! `select`: decides which weights are quantized, and to what.
//!
//! Replaces a chosen constant W by `qcc::Quant(W)`, right where it is made, so that all its uses
//! share one set of codes. Where only some uses are chosen, those get a `Quant` of their own and a
//! copy of the steps between.
//! Needs: inferred types. Keeps: types and values; nothing is rounded yet.
//! Declines, with a note each: what [`crate::Skip`] lists.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, NodeId, Output, Patch, Scope, Value};
use qcc_ops::quant::{Form, Quant};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::rows::NonFinite;
use qcc_quant::spec::{Bits, Grid, ScaleType, WeightSpec};
use qcc_tensor::{DType, Tensor};

use crate::coded::note_quantized;
use crate::overrides::{Override, Pattern, group};
use crate::sites::{Role, Site, Skip, find_sites, leaf_uses};
use crate::unfit::find_unfit;

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "select",
    summary: "choose the weights to quantize and what they become",
    options: &[
        OptionInfo {
            name: "bits",
            kind: OptionKind::Int { min: 2, max: 8 },
            default: "4",
            help: "bits of a code",
        },
        OptionInfo {
            name: "group",
            kind: OptionKind::Text,
            default: "32",
            help: "weights along K that share a scale; 'row' for the whole row",
        },
        OptionInfo {
            name: "sym",
            kind: OptionKind::Bool,
            default: "false",
            help: "fix the zero point at the middle code",
        },
        OptionInfo {
            name: "scale",
            kind: OptionKind::Choice(&["auto", "f32", "f16", "bf16"]),
            default: "auto",
            help: "type of the scales; auto is that of the weight",
        },
        OptionInfo {
            name: "embeddings",
            kind: OptionKind::Int { min: 0, max: 8 },
            default: "0",
            help: "bits of tables that rows are gathered from; 0 leaves them in float",
        },
        OptionInfo {
            name: "head",
            kind: OptionKind::Int { min: 0, max: 8 },
            default: "0",
            help: "bits of the head; 0 leaves it in float",
        },
        OptionInfo {
            name: "op-types",
            kind: OptionKind::Text,
            default: "MatMul,Gemm,FusedMatMul",
            help: "operators whose weights are taken",
        },
        OptionInfo {
            name: "types",
            kind: OptionKind::Text,
            default: "f32,f16,bf16",
            help: "element types that are taken; a format may not carry all of them",
        },
        OptionInfo {
            name: "include",
            kind: OptionKind::Text,
            default: "",
            help: "take only weights that one of these patterns matches, one to a line",
        },
        OptionInfo {
            name: "exclude",
            kind: OptionKind::Text,
            default: "",
            help: "leave weights that one of these patterns matches, one to a line",
        },
        OptionInfo {
            name: "set",
            kind: OptionKind::Text,
            default: "",
            help: "settings for some weights, PATTERN:bits=8,group=64 or PATTERN:skip, one to a line",
        },
        OptionInfo {
            name: "strict",
            kind: OptionKind::Bool,
            default: "false",
            help: "a weight that is not finite is an error",
        },
        OptionInfo {
            name: "scan",
            kind: OptionKind::Bool,
            default: "true",
            help: "look for values that are not finite now; rtn sees them in what it reads",
        },
    ],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let mut sites = find_sites(graph);
    sites.extend(find_unfit(graph));
    note_quantized(graph, ctx);
    let mut rules = Rules::new(ctx)?;
    let mut chosen: BTreeMap<(Scope, Value), Vec<Chosen<'_>>> = BTreeMap::new();
    let mut order = Vec::new();
    let mut left: Vec<(&Site, Skip)> = Vec::new();
    for site in &sites {
        ctx.check_cancelled()?;
        match rules.choose(site) {
            Ok(_) if !has_known_rank(graph, site) => {
                left.push((site, Skip::Attributes("an input of unknown rank")));
            }
            Ok((form, spec)) => {
                let key = (site.weight.scope.clone(), site.weight.source);
                if !chosen.contains_key(&key) {
                    order.push(key.clone());
                }
                chosen.entry(key).or_default().push(Chosen { site, form, spec });
            }
            Err(skip) => left.push((site, skip)),
        }
    }
    rules.check(&sites)?;

    let strict = ctx.options.flag("strict");
    let scan = strict || ctx.options.flag("scan");
    let mut patches = Vec::new();
    for key in order {
        let uses = chosen.remove(&key).unwrap_or_default();
        let Some(first) = uses.first() else { continue };
        if uses.iter().any(|it| it.form != first.form || it.spec != first.spec) {
            left.extend(uses.iter().map(|it| (it.site, Skip::Shared)));
            continue;
        }
        let name = &first.site.name;
        if let Some(note) = scan.then(|| non_finite(graph, &key, name, first.form)).flatten() {
            if strict {
                return Err(Diagnostic { severity: qcc_diag::Severity::Error, ..note }.into());
            }
            ctx.note(note);
            left.extend(uses.iter().map(|it| (it.site, Skip::NotFinite)));
            continue;
        }
        match patch(graph, &key, &uses) {
            Some(patch) => {
                record(ctx, graph, &key, &uses);
                note_kept(ctx, graph, &key, &uses);
                patches.push(patch);
            }
            None => left.extend(uses.iter().map(|it| (it.site, Skip::Shared))),
        }
    }
    for (site, skip) in left {
        record_left(ctx, graph, site, &skip);
    }
    Ok(patches)
}

/// A use that was chosen.
struct Chosen<'a> {
    site: &'a Site,
    form: Form,
    spec: WeightSpec,
}

/// The options, decoded.
struct Rules {
    spec: WeightSpec,
    scale: Option<ScaleType>,
    embeddings: Option<Bits>,
    head: Option<Bits>,
    op_types: Vec<String>,
    types: Vec<String>,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    overrides: Vec<Override>,
}

impl Rules {
    fn new(ctx: &Ctx<'_>) -> Result<Self, PassError> {
        let options = &ctx.options;
        let bits = |name: &str| u8::try_from(options.int(name)).ok().and_then(Bits::new);
        let Some(width) = bits("bits") else {
            return Err(PassError::internal("bits are out of range"));
        };
        let Some(group) = group(options.text("group")) else {
            let text = format!("'{}' is no group size", options.text("group"));
            let help = "give a number such as 32 or 128, or 'row' for the whole row";
            return Err(Diagnostic::error(codes::QCC0304, text).with_help(help).into());
        };
        for name in ["embeddings", "head"] {
            if options.int(name) == 1 {
                let text = format!("option '{name}' takes 0 or 2 to 8 bits");
                return Err(Diagnostic::error(codes::QCC0304, text)
                    .with_help("0 leaves the weight in float")
                    .into());
            }
        }
        let lines = |name: &str| -> Vec<String> {
            let text = options.text(name);
            text.split('\n').filter(|it| !it.is_empty()).map(str::to_owned).collect()
        };
        let patterns = |name: &str| -> Result<Vec<Pattern>, Diagnostic> {
            lines(name).iter().map(|it| Pattern::new(name, it)).collect()
        };
        let scale = match options.text("scale") {
            "f32" => Some(ScaleType::F32),
            "f16" => Some(ScaleType::F16),
            "bf16" => Some(ScaleType::BF16),
            _ => None,
        };
        let grid = if options.flag("sym") { Grid::Sym } else { Grid::Asym };
        let overrides: Result<Vec<_>, _> =
            lines("set").iter().map(|it| Override::parse(it)).collect();
        let list = |name: &str| -> Vec<String> {
            options.text(name).split(',').map(|it| it.trim().to_owned()).collect()
        };
        Ok(Self {
            spec: WeightSpec { bits: width, group, grid, scale: scale.unwrap_or(ScaleType::F32) },
            scale,
            embeddings: bits("embeddings"),
            head: bits("head"),
            op_types: list("op-types"),
            types: list("types"),
            include: patterns("include")?,
            exclude: patterns("exclude")?,
            overrides: overrides?,
        })
    }

    /// What a use becomes, or why not. Every pattern sees every weight, so that one that matches
    /// nothing is found.
    fn choose(&mut self, site: &Site) -> Result<(Form, WeightSpec), Skip> {
        let mut is_included = self.include.is_empty();
        for pattern in &mut self.include {
            is_included |= pattern.matches(site);
        }
        let mut is_excluded = false;
        for pattern in &mut self.exclude {
            is_excluded |= pattern.matches(site);
        }
        let (mut skip, mut bits, mut group, mut grid) = (false, None, None, None);
        for it in &mut self.overrides {
            if it.pattern.matches(site) {
                skip = it.skip;
                bits = it.bits.or(bits);
                group = it.group.or(group);
                grid = it.grid.or(grid);
            }
        }
        let form = site.form.clone()?;
        if !is_included || is_excluded {
            return Err(Skip::Excluded);
        }
        if skip {
            return Err(Skip::Override);
        }
        let by_role = match site.role {
            Role::Product => self.spec.bits,
            Role::Table => bits.or(self.embeddings).ok_or(Skip::Embedding)?,
            Role::Head => bits.or(self.head).ok_or(Skip::Head)?,
        };
        // An Einsum that may be quantized is a MatMul by another name, an Attention begins with one.
        let op = match site.op.as_str() {
            "Einsum" | "Attention" => "MatMul",
            other => other,
        };
        if site.role != Role::Table && !self.op_types.iter().any(|it| it == op) {
            return Err(Skip::OpType);
        }
        if !self.types.iter().any(|it| it == site.weight.dtype.text()) {
            return Err(Skip::Type(site.weight.dtype));
        }
        // Runtimes want the type of the other operand, which a cast of the weight gives it.
        let scale = self.scale.unwrap_or(match site.weight.dtype {
            DType::F16 => ScaleType::F16,
            DType::BF16 => ScaleType::BF16,
            _ => ScaleType::F32,
        });
        let spec = WeightSpec {
            bits: bits.unwrap_or(by_role),
            group: group.unwrap_or(self.spec.group),
            grid: grid.unwrap_or(self.spec.grid),
            scale,
        };
        Ok((form, spec))
    }

    fn check(&self, sites: &[Site]) -> Result<(), Diagnostic> {
        self.include.iter().try_for_each(|it| it.check("include", sites))?;
        self.exclude.iter().try_for_each(|it| it.check("exclude", sites))?;
        self.overrides.iter().try_for_each(|it| it.pattern.check("set", sites))
    }
}

/// Whether the rank of the result follows from that of the input: a weight of more axes than two
/// gives them to an input of fewer.
fn has_known_rank(root: &Graph, site: &Site) -> bool {
    let graph = root.at(&site.scope);
    let left = graph.and_then(|it| it.node(site.node)?.inputs.first().copied().flatten());
    let rank = graph.zip(left).and_then(|(graph, it)| graph.ty(it).rank());
    site.role == Role::Table || site.weight.dims.len() <= 2 || rank.is_some()
}

/// Says that a weight has values that are not finite: how many, and the index of the first in the
/// tensor as it is stored.
pub(crate) fn damaged(name: &str, weight: &Tensor, found: NonFinite) -> Diagnostic {
    let mut rest = found.first;
    let mut index: Vec<usize> = Vec::new();
    for &dim in weight.dims().iter().rev() {
        index.push(rest % dim.max(1));
        rest /= dim.max(1);
    }
    index.reverse();
    let len = weight.len();
    let what = match found.count {
        1 => format!("1 of its {len} values is not finite, at {index:?}"),
        count => format!("{count} of its {len} values are not finite, the first at {index:?}"),
    };
    Diagnostic::warning(codes::QCC0607, format!("'{name}' is left in float: {what}"))
        .with_help(format!("qcc inspect MODEL --values '{name}' shows what it holds and where"))
}

/// What to say of a weight that has values that are not finite.
fn non_finite(root: &Graph, key: &(Scope, Value), name: &str, form: Form) -> Option<Diagnostic> {
    let tensor = root.at(&key.0)?.constant(key.1)?;
    let found = form.rows(tensor)?.non_finite();
    tensor.release(); // passes read it one by one, later
    Some(damaged(name, tensor, found?))
}

/// `Quant` around the constant when all its uses are chosen, else around the chosen ones.
fn patch(root: &Graph, key: &(Scope, Value), uses: &[Chosen<'_>]) -> Option<Patch> {
    let (scope, source) = key;
    let graph = root.at(scope)?;
    let first = uses.first()?;
    let op =
        Arc::new(Quant { spec: first.spec, form: first.form, numbers: None, by: String::new() });
    let mut patch = Patch::within(INFO.name, scope.clone());
    patch.at(source.node);
    let name = format!("{}.quant", first.site.name);
    let quant = patch.op1(&name, op, vec![Some(*source)], graph.ty(*source).clone());

    if others(root, key, uses).is_some_and(|it| it.is_empty()) {
        patch.replace(*source, quant);
        return Some(patch);
    }
    for use_ in uses {
        let site = use_.site;
        let is_local = site.scope == *scope && site.weight.chain.iter().all(|it| it.0 == *scope);
        if !is_local {
            return None;
        }
        let mut value = quant;
        for (_, step) in &site.weight.chain {
            let node = graph.node(*step)?;
            let mut inputs = node.inputs.clone();
            *inputs.first_mut()? = Some(value);
            let outputs: Vec<Output> = node.outputs.clone();
            patch.at(*step);
            let id = patch.op(&node.name, node.op()?.clone(), inputs, outputs);
            value = Value { node: id, slot: 0 };
        }
        patch.rewire(site.node, site.operand, value);
    }
    Some(patch)
}

/// What reads a weight beside the chosen uses; `None` when an output of a graph is among it.
fn others(root: &Graph, key: &(Scope, Value), uses: &[Chosen<'_>]) -> Option<Vec<(Scope, NodeId)>> {
    let chosen: Vec<(&Scope, NodeId, usize)> =
        uses.iter().map(|it| (&it.site.scope, it.site.node, it.site.operand)).collect();
    let all = leaf_uses(root, key)?.into_iter();
    let left = all.filter(|it| !chosen.contains(&(&it.0, it.1, it.2))).map(|it| (it.0, it.1));
    let mut left: Vec<(Scope, NodeId)> = left.collect();
    left.dedup(); // a node may read it twice
    Some(left)
}

/// Says when the file will hold the floats of a weight beside its codes.
fn note_kept(ctx: &mut Ctx<'_>, root: &Graph, key: &(Scope, Value), uses: &[Chosen<'_>]) {
    let Some(first) = uses.first() else { return };
    let others = others(root, key, uses);
    let who = match others.as_deref() {
        None => "an output".to_owned(),
        Some([]) => return,
        Some([(scope, node), rest @ ..]) => {
            let label = root.at(scope).and_then(|graph| {
                let name = graph.node(*node)?.name.as_str();
                let value = Value { node: *node, slot: 0 };
                Some(if name.is_empty() { graph.value_name(value) } else { name })
            });
            let more = match rest.len() {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            format!("'{}'{more}", label.unwrap_or_default())
        }
    };
    let is_looked_up = others.iter().flatten().any(|(scope, node)| {
        let node = root.at(scope).and_then(|it| it.node(*node));
        node.and_then(|it| it.op()).is_some_and(|it| it.is_named("Gather"))
    });
    let name = &first.site.name;
    let text = format!("'{name}' is quantized, and kept in float as well for {who}");
    let mut note = Diagnostic::warning(codes::QCC0608, text).with_note("the file holds both");
    if is_looked_up {
        note = note.with_help("--embeddings with the same bits lets lookups read the codes");
    }
    ctx.note(note.with_help(format!("--exclude '{name}' leaves it in float only")));
}

fn record(ctx: &mut Ctx<'_>, graph: &Graph, key: &(Scope, Value), uses: &[Chosen<'_>]) {
    let Some(first) = uses.first() else { return };
    let bytes = graph.at(&key.0).and_then(|it| it.constant(key.1)).map_or(0, |it| it.bytes().len());
    let row = ctx.record.weight(&first.site.name);
    row.sites = uses.iter().map(|it| it.site.label.clone()).collect();
    row.op.clone_from(&first.site.op);
    (row.n, row.k) = (first.form.n, first.form.k);
    row.bits = Some(first.spec.bits.get());
    row.group = first.spec.group.to_string();
    row.grid = match first.spec.grid {
        Grid::Sym => "symmetric".to_owned(),
        Grid::Asym => "asymmetric".to_owned(),
    };
    row.bpw = first.spec.bpw(first.form.k);
    row.bytes_before = bytes as u64;
    row.reason_left_float = None;
}

fn record_left(ctx: &mut Ctx<'_>, graph: &Graph, site: &Site, skip: &Skip) {
    let bytes = site.tensor(graph).map_or(0, |it| it.bytes().len());
    let row = ctx.record.weight(&site.name);
    if row.bits.is_some() {
        return; // another use of it is quantized
    }
    if !row.sites.contains(&site.label) {
        row.sites.push(site.label.clone());
    }
    row.op.clone_from(&site.op);
    if let Ok(form) = &site.form {
        (row.n, row.k) = (form.n, form.k);
    }
    row.bytes_before = bytes as u64;
    row.reason_left_float = Some(skip.to_string());
    ctx.note(left_in_float(&site.name, &site.op, &site.label, skip));
}

/// Says why a use of a weight stays in float.
pub(crate) fn left_in_float(name: &str, op: &str, label: &str, why: &Skip) -> Diagnostic {
    let text = format!("'{name}' of {op} '{label}' is left in float: {why}");
    Diagnostic::note(codes::QCC0602, text)
}
