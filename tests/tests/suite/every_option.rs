//! Every option of a pass that chooses numbers, or how they are written, changes the output where it
//! applies. The bytes that are compared do not say how they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qcc::{Compiler, OpenOptions, Samples};
use qcc_tests::{Bench, books1m};

/// A pass where its options count: a pipeline with it, whether that has samples, and values of
/// options, each of which gives other bytes than the pipeline, and than other values of the option.
struct Place {
    pass: &'static str,
    pipeline: &'static str,
    has_samples: bool,
    rows: &'static [(&'static str, &'static [&'static str])],
}

const PLACES: &[Place] = &[
    Place {
        pass: "select",
        pipeline: "infer-types,select,rtn,pack,to-nbits",
        has_samples: false,
        rows: &[
            ("bits", &["2", "3", "5", "6", "7", "8"]),
            ("group", &["16", "64", "128", "row"]),
            ("sym", &["true"]),
            ("embeddings", &["4", "8"]),
            ("head", &["4", "8"]),
            ("op-types", &["Gemm"]),
            ("types", &["f16"]),
            ("exclude", &["node_linear_2"]),
            ("include", &["node_linear_2"]),
            (
                "set",
                &[
                    "node_linear_2:bits=8",
                    "node_linear_2:group=64",
                    "node_linear_2:sym",
                    "node_linear_2:skip",
                ],
            ),
        ],
    },
    Place {
        pass: "select",
        pipeline: "infer-types,select,rtn,to-fake",
        has_samples: false,
        rows: &[("scale", &["f16", "bf16"])],
    },
    Place {
        pass: "allocate-bits",
        pipeline: "infer-types,select,allocate-bits{bpw=4.5},rtn,pack,to-nbits",
        has_samples: true,
        rows: &[
            ("bpw", &["3.5", "5.5"]),
            ("layout", &["dense"]),
            ("candidates", &["2,8"]),
            ("groups", &["32,128"]),
            ("tie", &["node_linear_.*"]),
            ("set", &["node_linear_11:bits=4"]), // 2 without it
            ("samples", &["1"]),
        ],
    },
    Place {
        pass: "kl-precalibrate",
        pipeline: "infer-types,select{bits=3},kl-precalibrate,pack,to-nbits",
        has_samples: true,
        rows: &[("search", &["exact"]), ("weights", &["none", "pseudo"]), ("tau", &["0.5", "2"])],
    },
    Place {
        pass: "kl-precalibrate",
        pipeline: "infer-types,select{bits=3},kl-precalibrate{tau=1},pack,to-nbits",
        has_samples: false,
        rows: &[("estimator", &["hist", "gauss"])],
    },
    Place {
        pass: "adpq",
        pipeline: "infer-types,select{bits=3},adpq,pack{layout=dense},to-function",
        has_samples: false,
        rows: &[("outliers", &["0", "0.1"]), ("search", &["exact"])],
    },
    Place {
        pass: "gptq",
        pipeline: "infer-types,select{bits=3},gptq,pack,to-nbits",
        has_samples: true,
        rows: &[("damp", &["0.1", "0.5"]), ("sweeps", &["0", "1"])],
    },
    Place {
        pass: "signround",
        pipeline: "infer-types,select{bits=2},signround{objective=layer},pack,to-nbits",
        has_samples: true,
        rows: &[
            ("iters", &["5"]),
            ("moves", &["single"]),
            ("sweeps", &["0", "1"]),
            ("damp", &["0.1", "0.5"]),
        ],
    },
    Place {
        pass: "signround",
        pipeline: "infer-types,select{bits=2},gptq,signround{iters=12,batch=4},pack,to-nbits",
        has_samples: true,
        rows: &[
            ("objective", &["layer"]),
            ("iters", &["0", "8"]),
            ("lr", &["0.5"]),
            ("batch", &["2"]),
            ("inputs", &["float"]),
            ("scales", &["ends", "frozen"]),
            ("start", &["given"]),
        ],
    },
    Place {
        pass: "signround",
        pipeline: "infer-types,select{bits=2},signround{iters=12},pack,to-nbits",
        has_samples: true,
        // Samples of a step follow from it.
        rows: &[("preset", &["fast", "std"])],
    },
    Place {
        pass: "tune-scales",
        pipeline: "infer-types,select{bits=2},rtn,tune-scales{iters=2},pack,to-nbits",
        has_samples: true,
        rows: &[
            ("iters", &["0", "1"]),
            ("batch", &["1", "2"]),
            ("rate", &["0.1"]),
            ("norms", &["true"]),
        ],
    },
    Place {
        pass: "to-nbits",
        pipeline: "infer-types,select,rtn,pack,to-nbits",
        has_samples: false,
        rows: &[("accuracy-level", &["0", "1", "2", "3"])],
    },
];

/// Options that cannot be shown so, and why.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("select", "strict", "refuses a weight, and changes no other"),
    ("select", "scan", "who looks for values that are not finite, not what becomes of them"),
    ("allocate-bits", "target-size", "needs a file: budget.rs"),
    ("signround", "budget", "the clock decides what it changes: blockwise/pace.rs"),
    (
        "signround",
        "select",
        "counts where the last step is not the best: few_samples of blockwise.rs",
    ),
    ("tune-scales", "budget", "the clock decides what it changes: budget.rs of qcc"),
    ("pack", "layout", "goes with the format: each_format_has_its_own_bytes"),
];

fn samples(bench: &Bench) -> Arc<Samples> {
    let options = OpenOptions { samples: Some(12), seq_len: Some(32), ..OpenOptions::default() };
    Arc::new(bench.model().samples(books1m().join("calib.npy"), options).unwrap())
}

#[test]
fn each_option_changes_what_is_written() {
    let bench = Bench::new();
    let samples = samples(&bench);
    let mut faults = Vec::new();
    for place in PLACES {
        let make = |setting: Option<(&str, &str)>| {
            let compiler = Compiler::new().pipeline(place.pipeline).own_text(None).threads(2);
            let compiler =
                if place.has_samples { compiler.calibration(samples.clone()) } else { compiler };
            bench.plain_bytes(match setting {
                Some((name, value)) => compiler.setting(place.pass, name, value).unwrap(),
                None => compiler,
            })
        };
        let plain = make(None);
        for (name, values) in place.rows {
            let mut seen = BTreeMap::from([(plain.clone(), "no setting")]);
            for value in *values {
                if let Some(other) = seen.insert(make(Some((name, value))), value) {
                    faults.push(format!("{}: {name}={value} gives what {other} does", place.pass));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_option_is_left_out() {
    let rows = PLACES.iter().flat_map(|it| it.rows.iter().map(|row| (it.pass, row.0)));
    let named: BTreeSet<(&str, &str)> =
        rows.chain(ELSEWHERE.iter().map(|it| (it.0, it.1))).collect();
    let all: BTreeSet<(&str, &str)> = qcc::passes()
        .iter()
        .skip_while(|it| it.name != "select") // those before keep what the model computes
        .filter(|it| !it.name.starts_with("probe-")) // change nothing
        .flat_map(|it| it.options.iter().map(|option| (it.name, option.name)))
        .collect();
    assert_eq!(named, all);
}

#[test]
fn the_seed_and_the_samples_count() {
    let bench = Bench::new();
    let pipeline = "infer-types,select{bits=2},signround{iters=12,batch=2},pack,to-nbits";
    let run = |seed: u64, count: usize, length: usize| {
        let options =
            OpenOptions { samples: Some(count), seq_len: Some(length), ..OpenOptions::default() };
        let samples = bench.model().samples(books1m().join("calib.npy"), options).unwrap();
        let compiler = Compiler::new().pipeline(pipeline).calibration(Arc::new(samples));
        bench.plain_bytes(compiler.seed(seed).threads(2))
    };
    let plain = run(42, 8, 32);
    assert!(plain == run(42, 8, 32));
    assert!(plain != run(43, 8, 32), "seed");
    assert!(plain != run(42, 6, 32), "number of samples");
    assert!(plain != run(42, 8, 24), "tokens of a sample");
}

#[test]
fn each_format_has_its_own_bytes() {
    let bench = Bench::new();
    let mut seen = BTreeMap::new();
    for format in qcc::FORMATS {
        let compiler = Compiler::new().recipe("rtn").unwrap().format(format.name).unwrap();
        let other = seen.insert(bench.plain_bytes(compiler), format.name);
        assert_eq!(other, None, "gives what {} does", format.name);
    }
}
