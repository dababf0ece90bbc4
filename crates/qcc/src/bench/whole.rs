//! Runs of a whole model: on tokens behind others, with its cache, or on values that are made up.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use qcc_data::token_input;
use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, Plan, PlanOptions, Profile};
use qcc_ir::Graph;
use qcc_tensor::Tensor;

use super::{asked, feed};
use crate::generate::{Cache, DecodeError, Decoder};
use crate::runner::{Feed, diagnosed};
use crate::{Error, Model, generate};

/// Tokens by which a cache grows before it is made anew.
const GROWTH: usize = 64;

/// A model and what each of its runs brings.
pub(super) struct Whole<'a> {
    rows: usize,
    past: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// Token ids. The cache holds so many tokens now, and is made anew when it holds more than
    /// `most` of them.
    Text { decoder: Box<Decoder<'a>>, cache: Cache, held: usize, most: usize },
    /// Any values.
    Feed { plan: Box<Plan>, feed: Feed },
}

impl<'a> Whole<'a> {
    /// For so many tokens behind as many that were seen before.
    pub(super) fn new(
        model: &Model,
        graph: &'a Graph,
        (rows, past): (usize, usize),
        profile: bool,
    ) -> Result<Self, Error> {
        let options = PlanOptions { profile, ..PlanOptions::default() };
        let inputs = model.inputs();
        let text = || {
            let decoder =
                Decoder::new(Cow::Borrowed(graph), &inputs, model.cache_shape(), options.clone());
            let decoder = Box::new(decoder);
            // No run goes on behind the last position of the model.
            let context = generate::context(model).unwrap_or(usize::MAX);
            let most = context.saturating_sub(rows).min(past.saturating_add(GROWTH - 1));
            let kind = Kind::Text { decoder, cache: Cache::default(), held: 0, most };
            let mut whole = Self { rows, past, kind };
            whole.run().ok().map(|_| whole)
        };
        // Other models of tokens are run as any model.
        if token_input(&inputs).is_some()
            && let Some(whole) = text()
        {
            return Ok(whole);
        }
        let feed = feed::inputs(graph, rows, past)?;
        let ids = token_input(&inputs).and_then(|at| inputs.get(at));
        let rows = match ids.and_then(|it| feed.get(&it.name)) {
            Some(ids) => ids.dims().iter().product(),
            None => feed::rows(graph, rows, past),
        };
        let bound: Vec<_> = feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let plan = Box::new(Plan::new(graph, &bound, &options).map_err(diagnosed)?);
        Ok(Self { rows, past, kind: Kind::Feed { plan, feed } })
    }

    /// Tokens, or rows, of a run.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Runs it: the time, without that of making the cache ready.
    pub(super) fn run(&mut self) -> Result<Duration, Error> {
        let (rows, past) = (self.rows, self.past);
        match &mut self.kind {
            Kind::Feed { plan, feed } => {
                let start = Instant::now();
                plan.run(feed, &[], &mut |_, _| {}).map_err(diagnosed)?;
                Ok(start.elapsed())
            }
            Kind::Text { decoder, cache, held, most } => {
                let has_cache = decoder.pairs().is_some();
                if past == 0 || !has_cache || *held > *most {
                    *cache = Cache::expecting(past.saturating_add(rows).saturating_add(GROWTH));
                    *held = 0;
                }
                if has_cache && *held < past {
                    decoder.run(&ids(0, past)?, cache).map_err(wrong)?;
                    *held = past;
                }
                let ids = ids(*held, rows)?;
                let start = Instant::now();
                decoder.run(&ids, cache).map_err(wrong)?;
                *held += rows;
                Ok(start.elapsed())
            }
        }
    }

    /// Time of each operator so far.
    pub(super) fn profile(&self) -> Profile {
        match &self.kind {
            Kind::Text { decoder, .. } => decoder.profile(),
            Kind::Feed { plan, .. } => plan.profile(),
        }
    }
}

/// Ids that count up.
fn ids(first: usize, count: usize) -> Result<Tensor, Error> {
    // Where the model has rows of one length, nobody has looked at this one.
    asked::has_room(count.saturating_mul(size_of::<i64>()))?;
    let ids = feed::elements(count, |it| (first + it) as i64 % 1000);
    let made = ids.and_then(|it| Tensor::from_vec(vec![1, count], it));
    made.map_err(|it| asked::full(&it))
}

fn wrong(error: DecodeError) -> Error {
    match error {
        DecodeError::Exec(error) => diagnosed(error).into(),
        other => Diagnostic::error(codes::QCC0404, other.to_string()).into(),
    }
}
