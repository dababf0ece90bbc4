//! Metadata that says how a model was made. Nothing in it depends on the machine or the time, so
//! two equal runs give equal files.

use std::collections::BTreeMap;

use qcc_onnx::Source;
use qcc_pass::{Record, SampleSource, Session, StandIn};
use qcc_tensor::release;
use xxhash_rust::xxh3::Xxh3;

use crate::own_text::OwnText;
use crate::{Output, version};

/// The samples that a run could calibrate on.
#[derive(Clone, Debug)]
pub(crate) struct Calibration {
    /// Where they came from, how many, how long.
    samples: String,
    /// BLAKE3 of their values, in hexadecimal digits.
    blake3: Option<String>,
}

impl Calibration {
    /// Those that the user gave, else those that the model wrote, where a pass asked for them and
    /// did not go on without.
    pub(crate) fn of(
        session: &Session,
        own_text: Option<&OwnText>,
        stand_in: Option<&StandIn>,
    ) -> Option<Self> {
        let own_text = own_text.filter(|_| !matches!(stand_in, Some(StandIn::Weights(_))));
        let given = session.samples.as_deref().map(|it| it as &dyn SampleSource);
        let source = given.or_else(|| own_text.and_then(OwnText::used))?;
        Some(Self { samples: source.describe(), blake3: source.digest() })
    }

    /// Where they came from, how many, how long.
    pub(crate) fn samples(&self) -> &str {
        &self.samples
    }
}

/// Keys and values for `metadata_props`.
pub(crate) fn metadata(output: &Output) -> Vec<(String, String)> {
    let source = &output.source;
    let mut entries = vec![
        ("qcc.version", version()),
        ("qcc.pipeline", output.pipeline.clone()),
        ("qcc.source.xxh128", digest(source)),
        ("qcc.source.producer", source.producer().to_owned()),
    ];
    if let Some(it) = &output.calibration {
        entries.push(("qcc.calibration", it.samples.clone()));
        entries.extend(it.blake3.clone().map(|it| ("qcc.calibration.blake3", it)));
    } else if let Some(it) = &output.record.stand_in {
        entries.push(("qcc.calibration", it.to_string()));
    }
    entries.push(("qcc.seed", output.seed.to_string()));
    entries.push(("qcc.bits", bits(output)));
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Keys and values for the nodes that read quantized weights, by the name of the node.
pub(crate) fn annotations(record: &Record) -> BTreeMap<String, Vec<(String, String)>> {
    let mut nodes = BTreeMap::new();
    for row in &record.weights {
        let Some(bits) = row.bits else { continue };
        let mut entries = vec![
            ("qcc.bits", bits.to_string()),
            ("qcc.group", row.group.clone()),
            ("qcc.scheme", row.grid.clone()),
            ("qcc.source_weight", row.name.clone()),
            ("qcc.pass", row.pass.to_owned()),
        ];
        entries.extend(row.snr_db.map(|it| ("qcc.snr_db", format!("{it:.2}"))));
        let entries: Vec<(String, String)> =
            entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        for site in &row.sites {
            nodes.insert(site.clone(), entries.clone());
        }
    }
    nodes
}

/// Bytes of a file that are read at a time.
const PART: usize = 1 << 24;

/// XXH128 of the model file, then of its data files in order of first use: what `xxhsum -H2` prints
/// of a model of one file. A cryptographic digest took half of the time of `rtn`.
fn digest(source: &Source) -> String {
    let mut hasher = Xxh3::new();
    for file in [source.file()].into_iter().chain(source.data_files().iter().map(|it| &it.1)) {
        for part in file.bytes().chunks(PART) {
            hasher.update(part);
            release(part); // else all of the file would be in memory at the end
        }
    }
    format!("{:032x}", hasher.digest128())
}

/// Average stored bits per weight, and how many weights have which width: `4.49;2:7,4:29,32:1`.
fn bits(output: &Output) -> String {
    let (mut stored, mut elements) = (0.0, 0.0);
    let mut widths: BTreeMap<u8, usize> = BTreeMap::new();
    for row in &output.record.weights {
        *widths.entry(row.bits.unwrap_or(32)).or_default() += 1;
        if row.bits.is_some() {
            let len = (row.n * row.k) as f64;
            stored += row.bpw * len;
            elements += len;
        }
    }
    let widths: Vec<String> =
        widths.iter().map(|(bits, count)| format!("{bits}:{count}")).collect();
    let average = if elements > 0.0 { stored / elements } else { 0.0 };
    format!("{average:.2};{}", widths.join(","))
}
