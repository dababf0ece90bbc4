//! Finished blocks, kept in a folder so that a run that was stopped goes on where it was.
//!
//! Each run has its own folder, by what its values follow from, and an entry says whose it is: one
//! of another model, other samples or other options is never taken.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::Graph;
use qcc_pass::{Ctx, PassError, SampleSource, Session, WorkDir};
use qcc_quant::codes::Codes;
use qcc_tensor::{MappedFile, Tensor};

use super::entry::{Entry, is_writable, read, write};
use super::weights::Tuned;
use super::{Options, plan};
use crate::choose::Weight;

/// In place of a block: what holds for all of them.
const STEPS: usize = usize::MAX;

/// Where entries of a run are; nowhere when the session keeps no work.
pub(super) struct Kept {
    place: Option<Place>,
}

struct Place {
    work: WorkDir,
    /// That of this run.
    folder: PathBuf,
    /// Key of the plan.
    key: String,
}

impl Place {
    /// Where an entry is, and its key.
    fn entry(&self, block: usize, part: Part) -> (PathBuf, String) {
        let name = match (block, part) {
            (STEPS, _) => "steps".to_owned(),
            (_, Part::Codes) => format!("block-{block}"),
            (_, Part::Chain) => format!("behind-{block}"),
        };
        let path = self.folder.join(format!("{name}.safetensors"));
        (path, format!("{} {name}", self.key))
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Codes of the weights of a block.
    Codes,
    /// Samples behind a block.
    Chain,
}

impl Kept {
    pub(super) fn new(
        session: &Session,
        graph: &Graph,
        weights: &[Weight],
        samples: &dyn SampleSource,
        options: Options,
    ) -> Result<Self, PassError> {
        let Some(work) = session.work_dir.clone() else { return Ok(Self { place: None }) };
        let plan = plan::plan(session.seed, graph, weights, samples, options)?;
        let key = plan.key();
        let folder = work.begin(plan);
        Ok(Self { place: Some(Place { work, folder, key }) })
    }

    /// An entry; `None` when there is none, or it is damaged or foreign.
    pub(super) fn load(&self, block: usize, part: Part) -> Option<Entry> {
        let (path, key) = self.place.as_ref()?.entry(block, part);
        read(MappedFile::open(&path, "finished block").ok()?.bytes(), &key)
    }

    /// What of the unfinished work of another run is not as here; `None` where there is none.
    pub(super) fn other(&self) -> Option<String> {
        let Place { work, folder, .. } = self.place.as_ref()?;
        let own = work.begun().into_iter().find(|it| it.0 == *folder)?.1;
        let others = work.unfinished().into_iter().map(|it| own.differences(&it.1));
        let differs = others.min_by_key(Vec::len)?.join(", ");
        Some(format!("the work in '{}' is of another run: {differs}", work.folder().display()))
    }

    /// How many steps the run that was stopped had time for.
    pub(super) fn steps(&self) -> Option<u16> {
        let entry = self.load(STEPS, Part::Codes)?;
        let steps = entry.first()?.1.to_i64().ok()?;
        u16::try_from(*steps.first()?).ok()
    }

    /// Keeps how many steps there is time for.
    pub(super) fn save_steps(&mut self, steps: u16, ctx: &mut Ctx<'_>) {
        let entry = vec![("steps".to_owned(), Tensor::scalar(i64::from(steps)))];
        let done = self.save(STEPS, Part::Codes, &entry);
        self.give_up(done, ctx);
    }

    /// The codes of weights of a block, and all that was kept of it; `None` when it is not whole.
    pub(super) fn finished<'a>(
        &self,
        block: usize,
        weights: impl Iterator<Item = (usize, &'a Weight)>,
    ) -> Option<(Vec<Codes>, Entry)> {
        let mut weights = weights.peekable();
        weights.peek()?;
        let entry = self.load(block, Part::Codes)?;
        let codes = weights.map(|(idx, weight)| to_codes(idx, weight, &entry));
        Some((codes.collect::<Option<_>>()?, entry))
    }

    /// Keeps the weights of a block, and what is told of it. A folder that cannot be written to is
    /// told once, and then nothing is kept.
    pub(super) fn finish(
        &mut self,
        block: usize,
        tuned: &[Tuned],
        told: Entry,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), PassError> {
        if self.place.is_none() || tuned.is_empty() {
            return Ok(());
        }
        let each = tuned.iter().map(|it| of_codes(it.index, &it.best));
        let mut entry = each.collect::<Result<Vec<Entry>, PassError>>()?.concat();
        entry.extend(told);
        let done = self.save(block, Part::Codes, &entry);
        self.give_up(done, ctx);
        Ok(())
    }

    /// Keeps what is behind the last of some blocks; what is behind an earlier one is not needed
    /// any more.
    pub(super) fn go_on(&mut self, blocks: Range<usize>, chain: &Entry, ctx: &mut Ctx<'_>) {
        let Some(last) = blocks.end.checked_sub(1) else { return };
        let mut done = Ok(());
        if is_writable(chain) {
            done = self.save(last, Part::Chain, chain);
        }
        let before = blocks.start.checked_sub(1).zip(self.place.as_ref());
        if let (Ok(()), Some((before, place))) = (&done, before) {
            let _ = std::fs::remove_file(place.entry(before, Part::Chain).0);
        }
        self.give_up(done, ctx);
    }

    fn give_up(&mut self, done: io::Result<()>, ctx: &mut Ctx<'_>) {
        if let Err(error) = done {
            self.place = None;
            let text = "finished blocks cannot be kept: a run that is stopped begins anew";
            let note = Diagnostic::warning(codes::QCC0502, text).with_note(error.to_string());
            ctx.note(note.with_help("--work-dir DIR names a folder with more space"));
        }
    }

    fn save(&self, block: usize, part: Part, entry: &Entry) -> io::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let (path, key) = place.entry(block, part);
        place.work.make(&place.folder)?;
        write(&path, &key, entry)
    }
}

/// The codes of a weight as entries, and back.
fn of_codes(idx: usize, codes: &Codes) -> Result<Entry, PassError> {
    let rows = codes.n;
    let tensor = |name: &str, tensor: Tensor| (format!("{name}.{idx}"), tensor);
    let groups = codes.groups();
    Ok(vec![
        tensor("codes", Tensor::from_vec(vec![rows, codes.k], codes.codes.clone())?),
        tensor("scales", Tensor::from_vec(vec![rows, groups], codes.scales.clone())?),
        tensor("zeros", Tensor::from_vec(vec![rows, groups], codes.zeros.clone())?),
    ])
}

/// The codes of a weight in an entry; `None` if they are not those of such a weight.
fn to_codes(idx: usize, weight: &Weight, entry: &Entry) -> Option<Codes> {
    let get = |name: &str| Some(&entry.iter().find(|it| it.0 == format!("{name}.{idx}"))?.1);
    let mut codes = Codes::zeroed(weight.quant.form.n, weight.quant.form.k, weight.quant.spec);
    let fits = |a: &Tensor, len: usize| a.len() == len;
    let (q, s, z) = (get("codes")?, get("scales")?, get("zeros")?);
    if !(fits(q, codes.codes.len()) && fits(s, codes.scales.len()) && fits(z, codes.zeros.len())) {
        return None;
    }
    codes.codes.copy_from_slice(&q.as_slice::<u8>().ok()?);
    codes.scales.copy_from_slice(&s.as_slice::<f32>().ok()?);
    codes.zeros.copy_from_slice(&z.as_slice::<u8>().ok()?);
    let max = weight.quant.spec.bits.max_code();
    codes.codes.iter().all(|it| *it <= max).then_some(codes)
}
