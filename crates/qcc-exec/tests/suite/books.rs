//! The bundled language model: its perplexity is that of ONNX Runtime.

use std::path::{Path, PathBuf};

use qcc_onnx::{ReadOptions, read};

use crate::support::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/books1M")
}

/// Rows of 256 ids, from an `.npy` file of version 1.
fn rows() -> Vec<Vec<i64>> {
    let bytes = std::fs::read(folder().join("eval.npy")).unwrap();
    let head = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let ids = Tensor::new(
        qcc_tensor::DType::I64,
        vec![(bytes.len() - head) / 8],
        bytes::Bytes::copy_from_slice(&bytes[head..]),
    );
    ids.unwrap().to_i64().unwrap().chunks(256).map(<[i64]>::to_vec).collect()
}

/// Mean negative log likelihood of ids 1 and up, given those before.
fn loss(logits: &Tensor, ids: &[i64]) -> f64 {
    let logits = logits.to_f32().unwrap();
    let rows = logits.chunks(logits.len() / ids.len());
    let one = |(row, &next): (&[f32], &i64)| {
        let most = row.iter().fold(f64::MIN, |most, &it| most.max(it.into()));
        let sum: f64 = row.iter().map(|&it| (f64::from(it) - most).exp()).sum();
        most + sum.ln() - f64::from(row[next as usize])
    };
    rows.zip(&ids[1..]).map(one).sum::<f64>() / (ids.len() - 1) as f64
}

#[test]
fn losses_are_those_of_onnx_runtime() {
    // By ONNX Runtime 1.31.1, with `tools/py/perplexity.py` on each row alone.
    const WANT: [f64; 2] = [3.874_701_8, 3.717_694_0];
    let model = read(&folder().join("model.onnx"), &ReadOptions::default()).unwrap();
    let rows = rows();
    let sample = |row: &[i64]| {
        inputs([("input_ids", Tensor::from_vec(vec![1, 256], row.to_vec()).unwrap())])
    };
    let plan = plan(&model.graph, &sample(&rows[0])).unwrap();
    let mut peak = None;
    for (row, want) in rows.iter().zip(WANT) {
        let logits = run(&plan, &sample(row)).remove(0);
        assert_eq!(logits.dims(), [1, 256, 1536]);
        let loss = loss(&logits, row);
        assert!((loss - want).abs() < 2e-5, "{loss}, not {want}");
        let used = plan.pool().peak_bytes();
        assert_eq!(*peak.get_or_insert(used), used, "the second run needs no more memory");
    }
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&plan, &sample(&rows[3])))
    };
    assert_eq!(run(1), run(3), "bits do not depend on threads");
}

#[test]
fn one_open_plan_serves_every_length() {
    let model = read(&folder().join("model.onnx"), &ReadOptions::default()).unwrap();
    let dims = vec![qcc_tensor::Dim::Known(1), qcc_tensor::Dim::symbol("tokens")];
    let bound = [("input_ids".to_owned(), Bound::Open(qcc_tensor::DType::I64, dims))];
    let any = Plan::new(&model.graph, &bound, &PlanOptions::default()).unwrap();
    let row = rows().remove(0);
    for length in [1, 2, 31, 256, 7] {
        let ids = Tensor::from_vec(vec![1, length], row[..length].to_vec()).unwrap();
        let feed = inputs([("input_ids", ids)]);
        let one = plan(&model.graph, &feed).unwrap();
        assert_eq!(run(&any, &feed), run(&one, &feed), "{length} tokens");
    }
}
