//! What `gptq` and `signround` have in common: the second moments of the inputs of each weight, and
//! the search of scales for weights that have none.

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, PassError};
use qcc_quant::codes::Codes;
use qcc_quant::gram::{Gram, GramError};
use qcc_quant::numbers::NumbersMut;
use qcc_quant::rows::WeightRows;
use qcc_quant::search::{SearchKind, search_into};

use crate::activations::{self, Origin};
use crate::choose::{self, Weight};

/// Chooses numbers for weights under the second moments of its inputs. A weight without
/// inputs, a table, and one whose inputs are not finite, gets searched scales.
pub(crate) fn for_each(
    graph: &Graph,
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    weights: &[Weight],
    solve: impl Fn(&Weight, &WeightRows<'_>, &Gram) -> Result<Codes, GramError>,
) -> Result<Vec<Patch>, PassError> {
    let searched = |weight: &Weight, rows: &WeightRows<'_>, out: NumbersMut<'_>| {
        search_into(rows, &weight.quant.spec, SearchKind::Grid, None, out)
    };
    let Some((samples, origin)) = activations::source(ctx) else {
        activations::note_pseudo(ctx, pass, None);
        return choose::for_each(graph, ctx, pass, weights, searched);
    };
    if origin == Origin::Pseudo {
        activations::note_pseudo(ctx, pass, Some(samples.as_ref()));
    }
    let mut patches = Vec::new();
    let solved = activations::for_each(
        graph,
        ctx,
        weights,
        samples.as_ref(),
        |idx, range, gram: Option<&Gram>, ctx| {
            ctx.check_cancelled()?;
            if idx == range.start {
                ctx.session.progress.start(pass, range.len() as u64);
            }
            let weight = &weights[idx];
            let rows = weight.rows()?;
            let solved = gram.map(|it| solve(weight, &rows, it));
            if let Some(Ok(codes)) = &solved {
                let (numbers, error) = choose::numbers(ctx, weight, codes)?;
                patches.push(choose::patch(graph, ctx, weight, numbers, error, pass)?);
            } else {
                if let Some(Err(error)) = solved {
                    let text =
                        format!("{pass} cannot use the inputs of '{}': {error}", weight.name);
                    ctx.note(
                        Diagnostic::warning(codes::QCC0402, text)
                            .with_note("its scales were searched without them"),
                    );
                }
                let mut buffer = choose::buffer(ctx, weight)?;
                let error = searched(weight, &rows, buffer.numbers_mut());
                patches.push(choose::patch(graph, ctx, weight, buffer.finish()?, error, pass)?);
            }
            weight.tensor.release(); // the rest of the model does not read it
            ctx.session.progress.step(1, &weight.name);
            Ok(())
        },
    );
    ctx.session.progress.finish();
    if let Err(error) = solved {
        activations::do_without(ctx, pass, origin, error)?;
        return choose::for_each(graph, ctx, pass, weights, searched);
    }
    Ok(patches)
}
