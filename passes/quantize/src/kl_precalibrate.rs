//! `kl-precalibrate`: searches the scale and zero point of each group.
//!
//! Replaces a `Quant` by one with numbers. The error that is made small is `sum d (w - v)^2`, where
//! d is the mean square of each input: measured on calibration samples, else on pseudo samples,
//! else 1. With `tau` above 0, of the candidates whose error is within `1 + tau` of the least, that
//! whose values are distributed most like the weights (least KL divergence) is taken.
//! Needs: `select`. Keeps: the float weight beside its numbers.
//!
//! Sources: arXiv 2501.09107 (choose values that keep the distribution), with the error as the main
//! criterion since that measured better: docs/results.md.

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_quant::kl::Estimator;
use qcc_quant::search::{KlBand, SearchKind, kl_precalibrate, search_into};

use crate::activations::{self, Origin, Squares};
use crate::choose::{self, Weight};

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "kl-precalibrate",
    summary: "search scales and zero points by error weighted with the inputs, and distribution",
    options: &[
        OptionInfo {
            name: "search",
            kind: OptionKind::Choice(&["grid", "exact"]),
            default: "grid",
            help: "a fixed set of scales, or the optimum over all of them",
        },
        OptionInfo {
            name: "weights",
            kind: OptionKind::Choice(&["auto", "none", "pseudo"]),
            default: "auto",
            help: "what an error at an input counts: its mean square on samples or pseudo samples, or 1",
        },
        OptionInfo {
            name: "tau",
            kind: OptionKind::Float { min: 0.0, max: 10.0 },
            default: "0",
            help: "width of the band in which the distribution decides",
        },
        OptionInfo {
            name: "estimator",
            kind: OptionKind::Choice(&["kde", "hist", "gauss"]),
            default: "kde",
            help: "how distributions are compared",
        },
    ],
    run,
};

/// Says that the inputs of a weight cannot be used, `wrong` of which are not finite.
fn unusable(weight: &Weight, wrong: usize) -> Diagnostic {
    let (name, k) = (&weight.name, weight.quant.form.k);
    let text = format!(
        "{} cannot use the inputs of '{name}': the mean squares of {wrong} of {k} are not finite",
        INFO.name
    );
    Diagnostic::warning(codes::QCC0402, text).with_note("its scales were searched without them")
}

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let kind = match ctx.options.text("search") {
        "exact" => SearchKind::Exact,
        _ => SearchKind::Grid,
    };
    let estimator = match ctx.options.text("estimator") {
        "hist" => Estimator::Hist { bins: 256 },
        "gauss" => Estimator::Gauss,
        _ => Estimator::Kde,
    };
    let tau = ctx.options.float("tau") as f32;
    let weights = choose::weights(graph);
    let mut d: Vec<Option<Vec<f32>>> = vec![None; weights.len()];
    let source = match ctx.options.text("weights") {
        "none" => None,
        "pseudo" => ctx.session.pseudo_samples.clone().map(|it| (it, Origin::Pseudo)),
        _ => activations::quick_source(ctx),
    };
    match &source {
        Some((samples, origin)) => {
            if *origin == Origin::Pseudo {
                activations::note_pseudo(ctx, INFO.name, Some(samples.as_ref()));
            }
            let collected = activations::for_each(
                graph,
                ctx,
                &weights,
                samples.as_ref(),
                |idx, _, sums: Option<&Squares>, ctx| {
                    d[idx] = sums.and_then(Squares::mean);
                    if let Some(wrong) = sums.map(Squares::non_finite).filter(|&it| it > 0) {
                        ctx.note(unusable(&weights[idx], wrong));
                    }
                    Ok(())
                },
            );
            if let Err(error) = collected {
                activations::do_without(ctx, INFO.name, *origin, error)?;
                d.fill(None);
            }
        }
        None => activations::note_pseudo(ctx, INFO.name, None),
    }
    let mut next = 0;
    choose::for_each(graph, ctx, INFO.name, &weights, |weight, rows, out| {
        let d = d[next].as_deref();
        next += 1;
        let spec = &weight.quant.spec;
        if tau > 0.0 {
            kl_precalibrate(rows, spec, KlBand { tau, estimator }, d, out)
        } else {
            search_into(rows, spec, kind, d, out)
        }
    })
}
