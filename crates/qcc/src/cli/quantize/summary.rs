//! Lines below the table: what numbers were chosen on, what the runtime is asked for, and what may
//! come next.

use qcc::Output;
use qcc_pass::{Pipeline, StandIn};
use qcc_report::RunRecord;

use super::super::command::QuantizeArgs;
use super::super::streams;

/// The lines of a model that was written to `output`; none where nothing was quantized.
pub(super) fn below(
    args: &QuantizeArgs,
    compiled: &Output,
    pipeline: &Pipeline,
    record: &RunRecord,
) -> String {
    let Some(output) = record.output.as_ref().filter(|_| is_quantized(record)) else {
        return String::new();
    };
    let input = &record.input;
    let eval = format!("qcc eval {output} --ref {input} --data SAMPLES, or ");
    let eval = if args.eval.is_none() { eval } else { String::new() };
    let next = format!("next: {eval}qcc bench {output} --ref {input}");
    let is_named = |it: &str| it != streams::STREAM;
    let has_next = args.code.has_model() && is_named(input) && is_named(output);
    let lines = [
        samples(args, compiled),
        accuracy_level(pipeline, record),
        runtime(pipeline),
        has_next.then_some(next),
    ];
    lines.into_iter().flatten().map(|it| format!("  {it}\n")).collect()
}

fn is_quantized(record: &RunRecord) -> bool {
    record.weights.iter().any(|it| it.bits.is_some())
}

/// What stood in for samples, and what samples would gain.
fn samples(args: &QuantizeArgs, compiled: &Output) -> Option<String> {
    let is_file = args.calib.as_ref().is_some_and(|it| it != "self" && it != "random");
    if is_file {
        return None;
    }
    let made = |text: &str| {
        format!("calibrated without data, on {text}; --calib FILE with real inputs may lose less")
    };
    Some(match (compiled.samples(), &compiled.record().stand_in) {
        (Some(text), _) => made(text),
        (None, Some(StandIn::Samples(text))) => made(text),
        (None, Some(StandIn::Weights(pass))) => format!(
            "no samples: qcc cannot make inputs that this model runs on, so {pass} used the weights \
             alone; --calib FILE with real inputs loses less"
        ),
        (None, None) => {
            "no calibration data: signround on real inputs (--calib FILE) loses less".to_owned()
        }
    })
}

/// What a runtime needs that is not plain ONNX.
fn runtime(pipeline: &Pipeline) -> Option<String> {
    let has_nbits = pipeline.steps().iter().any(|it| it.pass.name == "to-nbits");
    let text = "runs in ONNX Runtime, and where com.microsoft is known; --format qdq is plain ONNX";
    has_nbits.then(|| text.to_owned())
}

/// The arithmetic that `MatMulNBits` asks for. Only codes in fields of 4 bits have a choice.
fn accuracy_level(pipeline: &Pipeline, record: &RunRecord) -> Option<String> {
    let step = pipeline.steps().iter().find(|it| it.pass.name == "to-nbits")?;
    let asked = step.options.int("accuracy-level");
    let bits = || record.weights.iter().filter_map(|it| it.bits);
    let is_open = |bits: u8| matches!(bits, 3 | 4);
    let level = if bits().any(is_open) { asked } else { 4 };
    let what = match level {
        0 => "the runtime chooses its arithmetic",
        1 => "the runtime computes in f32",
        2 => "the runtime computes in f16",
        3 => "the runtime computes in bf16",
        _ if bits().any(is_open) => {
            "the runtime may round activations to 8 bits (--accuracy-level 1 is f32)"
        }
        _ => "the runtime may round activations to 8 bits",
    };
    let fixed = match bits().all(is_open) {
        false if asked != 4 => "; codes of 2 bits and of 5 to 8 always have level 4",
        _ => "",
    };
    Some(format!("accuracy level {level}: {what}{fixed}"))
}
