//! `qcc inspect --weights`: each use of a weight, and what plain rounding would cost.
//!
//! The figures are signal by noise in the weight after rounding to nearest, asymmetric, in groups
//! of 32 with f32 scales: `10 log10(sum w^2 / sum (w - v)^2)`.

use std::collections::BTreeMap;

use qcc_ir::Graph;
use qcc_quant::error::measure_codes;
use qcc_quant::rtn::rtn;
use qcc_quant::spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec};
use qcc_quantize::{Role, Site, find_sites, find_unfit};
use qcc_report::{bytes, columns};
use qcc_tensor::Tensor;
use serde_json::{Value, json};

/// One use of a weight.
struct Row {
    node: String,
    name: String,
    op: String,
    /// K and N where it is a matrix, else the dimensions of the operand.
    shape: Vec<usize>,
    dtype: &'static str,
    bytes: u64,
    /// Why it cannot be quantized, or the option that it takes.
    left: Option<String>,
    /// Signal by noise at each of [`WIDTHS`], in dB; `None` where it cannot be quantized.
    snr_db: Option<[Option<f64>; WIDTHS.len()]>,
}

const WIDTHS: [u8; 3] = [2, 4, 8];
const GROUP: u32 = 32;

/// What there is to say about weights.
pub(super) struct Weights {
    /// Every use of a weight, in the order of the graph.
    rows: Vec<Row>,
    /// Products that read no float constant, by operator.
    without: BTreeMap<String, usize>,
}

impl Weights {
    /// Looks for weights. Types must have been inferred.
    pub(super) fn of(root: &Graph) -> Self {
        let mut sites = find_sites(root);
        sites.extend(find_unfit(root));
        let mut without: BTreeMap<String, usize> = BTreeMap::new();
        for scope in root.scopes() {
            let Some(graph) = root.at(&scope) else { continue };
            for (id, node) in graph.nodes() {
                let op = node.op().map_or("", |it| it.name());
                let is_product = matches!(op, "MatMul" | "Gemm" | "FusedMatMul");
                if is_product && !sites.iter().any(|it| it.node == id && it.scope == scope) {
                    *without.entry(op.to_owned()).or_default() += 1;
                }
            }
        }
        Self { rows: sites.iter().map(|it| row(root, it)).collect(), without }
    }

    /// The rows as JSON.
    pub(super) fn to_json(&self) -> Value {
        self.rows.iter().map(Row::to_json).collect()
    }
}

fn row(root: &Graph, site: &Site) -> Row {
    let tensor = site.tensor(root);
    let form = site.form.as_ref();
    let rows = form.ok().zip(tensor).and_then(|(form, tensor)| form.rows(tensor));
    let is_finite = rows.as_ref().is_none_or(|it| it.non_finite().is_none());
    let left = match (&site.form, site.role) {
        (Err(skip), _) => Some(format!("no: {skip}")),
        (Ok(_), _) if !is_finite => Some(format!("no: {}", qcc_quantize::Skip::NotFinite)),
        (Ok(_), Role::Table) => Some("with --embeddings".to_owned()),
        (Ok(_), Role::Head) => Some("with --lm-head".to_owned()),
        (Ok(_), Role::Product) => None,
    };
    let snr_db = rows.filter(|_| is_finite).map(|rows| {
        WIDTHS.map(|bits| {
            let (bits, group) = Bits::new(bits).zip(GroupSize::of(GROUP))?;
            let spec = WeightSpec { bits, group, grid: Grid::Asym, scale: ScaleType::F32 };
            Some(measure_codes(&rows, None, &rtn(&rows, &spec)).snr_db())
        })
    });
    Row {
        node: site.label.clone(),
        name: site.name.clone(),
        op: site.op.clone(),
        shape: form.map_or_else(|_| site.weight.dims.clone(), |it| vec![it.k, it.n]),
        dtype: tensor.map_or(site.weight.dtype, Tensor::dtype).text(),
        bytes: tensor.map_or(0, |it| it.bytes().len() as u64),
        left,
        snr_db,
    }
}

impl Row {
    /// The row as JSON; an error of zero has no signal by noise and gives `null`.
    fn to_json(&self) -> Value {
        let snr = self.snr_db.map(|it| {
            let pairs = WIDTHS.iter().zip(it).map(|(bits, snr)| (bits.to_string(), json!(snr)));
            serde_json::Map::from_iter(pairs)
        });
        json!({
            "node": self.node,
            "name": self.name,
            "op": self.op,
            "shape": self.shape,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "quantize": self.left.is_none(),
            "left": self.left,
            "snr_db": snr,
        })
    }
}

/// A table of one row for each use of a weight.
pub(super) fn table(weights: &Weights) -> String {
    let head = ["name", "op", "shape [K, N]", "type", "size", "SNR b2 / b4 / b8", "quantize"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for row in &weights.rows {
        let snr = row.snr_db.map_or(String::new(), |it| {
            let it = it.map(|snr| match snr {
                Some(snr) if snr.is_finite() => format!("{snr:.1}"),
                _ => "exact".to_owned(),
            });
            format!("{} dB", it.join(" / "))
        });
        cells.push(vec![
            qcc_report::line(&row.node),
            qcc_report::line(&row.op),
            format!("{:?}", row.shape),
            row.dtype.to_owned(),
            bytes(row.bytes),
            snr,
            row.left.clone().unwrap_or_else(|| "yes".to_owned()),
        ]);
    }
    let mut text = match weights.rows.as_slice() {
        [] => String::from("  no use of a float weight\n"),
        _ => columns(&cells, &[4, 5]),
    };
    for (op, count) in &weights.without {
        text.push_str(&format!("  {count} {op} without a float constant: nothing to quantize\n"));
    }
    if !weights.rows.is_empty() {
        text.push_str("  SNR: of the weight after rounding to nearest in groups of 32\n");
    }
    text
}
