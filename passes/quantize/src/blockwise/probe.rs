//! How long tuning takes: one step for one sample of each kind of block, timed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use qcc_ir::Graph;
use qcc_pass::{Ctx, Estimate, PassError, SampleSource};

use super::chain::Chain;
use super::few::Few;
use super::forward::Forward;
use super::needs::{Held, Needs};
use super::outline::Outline;
use super::shares::Shares;
use super::told;
use super::tune::{Objective, TRIALS};
use super::weights::Tuned;
use super::{Options, Steps};
use crate::choose::Weight;
use crate::held::Samples;

/// Times of a block.
#[derive(Clone, Copy)]
struct Times {
    /// Once for a sample, without gradients.
    forward: Duration,
    /// The gradients of a sample.
    backward: Duration,
    /// The search of scales.
    search: Duration,
    /// What a step does to the weights, however many samples it has.
    step: Duration,
}

/// What tuning would take; `None` when the weights of no block can be tuned.
///
/// # Errors
/// As [`tune`](super::tune), memory that is too small among them.
pub(crate) fn probe(
    root: &Graph,
    ctx: &mut Ctx<'_>,
    weights: &[Weight],
    samples: &dyn SampleSource,
    options: Options,
) -> Result<Option<Estimate>, PassError> {
    let session = ctx.session;
    let outline = Outline::new(root, weights, session)?;
    let all = Few::of(samples, options).len();
    let mut chain = Chain::new(&Few::first(samples), &session.store)?;
    let needs = chain.largest().and_then(|it| Needs::of(&outline, weights, it, all));
    let most = options.blocks_at_most(session.threads);
    let held_at_a_time = Held::of(needs, (options.batch.min(all), most), session)?;
    let shares = Shares::read(&Few::first(samples))?;
    let tried = Samples::new(all, session.rng("")).tried.len();
    let mut known: BTreeMap<u64, Option<Times>> = BTreeMap::new();
    let mut obstacles: BTreeMap<u64, String> = BTreeMap::new();
    let (mut seconds, mut has_any) = (0.0, false);
    for (at, (block, reads)) in outline.blocks.iter().zip(&outline.reads).enumerate() {
        ctx.check_cancelled()?;
        let forward = Forward {
            graph: &outline.graph,
            block,
            chain: &chain,
            shares: &shares,
            session,
            batch: 1,
        };
        let (results, squares) = forward.float(None, reads, weights)?;
        let times = if reads.is_empty() {
            None
        } else if let Some(times) = known.get(&block.class) {
            *times
        } else {
            let began = Instant::now();
            forward.float(None, reads, weights)?;
            let (forward, began) = (began.elapsed(), Instant::now());
            let each = reads.iter().map(|it| {
                let d = squares.get(&it.index).and_then(|it| it.sums.mean());
                let name = outline.graph.value_name(it.weight).to_owned();
                let weight = (it.index, &weights[it.index]);
                Tuned::new(weight, (it.weight, name), d.as_deref(), options)
            });
            let mut tuned = each.collect::<Result<Vec<_>, PassError>>()?;
            let search = began.elapsed();
            let objective = Objective {
                graph: &outline.graph,
                block,
                chain: &chain,
                shares: &shares,
                wanted: &results,
                at,
                joined: None,
            };
            let backward = match objective.probe(&tuned, ctx, 1)? {
                Ok(time) => Some(time),
                Err(why) => {
                    obstacles.insert(block.class, why);
                    None
                }
            };
            let began = Instant::now();
            tuned.iter_mut().for_each(|it| it.begin(1));
            for it in &mut tuned {
                // Gradients of 0 move nothing.
                if it.step().is_err() {
                    return Ok(None);
                }
            }
            let step = began.elapsed();
            backward.map(|backward| Times { forward, backward, search, step })
        };
        if !reads.is_empty() {
            known.insert(block.class, times);
        }
        if let Some(why) = obstacles.get(&block.class).filter(|_| !reads.is_empty()) {
            told::apart(at, reads.len(), why, ctx);
        }
        if let Some(Times { forward, backward, search, step }) = times {
            // With a time for all of it, the steps are what fits.
            let steps = match options.steps {
                Steps::Count(steps) => steps,
                Steps::Within(_) => 0,
            };
            let (batch, trials) = (options.batch.min(all), u32::from(TRIALS) + 1);
            let [forward, backward, search, step] =
                [forward, backward, search, step].map(|it| it.as_secs_f64());
            let samples = 2 * all + tried * trials as usize;
            seconds += search
                + samples as f64 * forward
                + f64::from(steps) * (batch as f64 * backward + step);
            has_any = true;
        }
        let later = &outline.blocks[at + 1..];
        chain.advance(&outline.graph, (block, later), None, results, None);
    }
    if let Steps::Within(time) = options.steps {
        seconds = time.as_secs_f64();
    }
    let memory_bytes = needs.map_or(0, |it| it.total(held_at_a_time, session.max_mem));
    Ok(has_any.then_some(Estimate { seconds: Some(seconds), memory_bytes }))
}
