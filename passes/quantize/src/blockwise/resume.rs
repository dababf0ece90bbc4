//! Finished blocks, kept in a folder so that a run that was stopped goes on where it was.
//!
//! Each run has its own folder, by what all of its values follow from. An entry says what it follows
//! from itself, its [key](super::keys): what has the right one is taken from the folder of any run,
//! and what has another one never.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qcc_diag::{Diagnostic, codes};
use qcc_pass::{Ctx, PassError, Session, WorkDir};
use qcc_quant::codes::Codes;
use qcc_tensor::{MappedFile, Tensor};

use super::entry::{Entry, is_writable, read, write};
use super::few::Few;
use super::keys::Keys;
use super::weights::Tuned;
use super::{Options, Task, plan};
use crate::choose::Weight;

/// Name of what says why a block has no codes.
const OBSTACLE: &str = "obstacle";

/// Where entries of a run are; nowhere when the session keeps no work.
pub(super) struct Kept {
    place: Option<Place>,
}

struct Place {
    work: WorkDir,
    /// That of this run.
    folder: PathBuf,
    keys: Keys,
}

impl Place {
    fn path(&self, block: usize, part: Part) -> PathBuf {
        self.folder.join(match part {
            Part::Codes => format!("block-{block}.safetensors"),
            Part::Chain => format!("behind-{block}.safetensors"),
        })
    }

    fn key(&self, block: usize, part: Part) -> Option<String> {
        match part {
            Part::Codes => self.keys.codes(block),
            Part::Chain => self.keys.chain(block),
        }
    }

    /// The entry of a key in the folder of another run, which then is in that of this one too, so
    /// that neither needs the other.
    fn borrow(&self, path: &Path, key: &str) -> Option<Entry> {
        let others = self.work.elsewhere(&self.folder, path.file_name()?);
        let (entry, from) = others.into_iter().find_map(|it| Some((open(&it, key)?, it)))?;
        if self.work.make(&self.folder).is_ok() {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::hard_link(from, path);
        }
        Some(entry)
    }

    fn save(&self, path: &Path, key: &str, entry: &Entry) -> io::Result<()> {
        self.work.make(&self.folder)?;
        write(path, key, entry)
    }
}

/// The entry of a key; `None` when there is none, or it is damaged or that of another.
pub(super) fn open(path: &Path, key: &str) -> Option<Entry> {
    read(MappedFile::open(path, "finished block").ok()?.bytes(), key)
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
    /// The work of a run whose blocks have so many steps.
    pub(super) fn new(
        task: &Task<'_>,
        session: &Session,
        options: Options,
        steps: u16,
    ) -> Result<Self, PassError> {
        let (Some(work), Some(parts)) = (session.work_dir.clone(), &task.parts) else {
            return Ok(Self::nowhere());
        };
        let base = plan::base(session.seed, &Few::of(task.samples, options), options)?;
        let plan = plan::plan(&base, parts.model(), task.weights, options);
        let (keys, folder) = (parts.keys(&base.key(), steps), work.begin(plan));
        Ok(Self { place: Some(Place { work, folder, keys }) })
    }

    /// No work is kept.
    pub(super) fn nowhere() -> Self {
        Self { place: None }
    }

    /// An entry, of this run or another; `None` when there is none that is whole.
    pub(super) fn load(&self, block: usize, part: Part) -> Option<Entry> {
        let place = self.place.as_ref()?;
        let (path, key) = (place.path(block, part), place.key(block, part)?);
        open(&path, &key).or_else(|| place.borrow(&path, &key))
    }

    /// What of the unfinished work of another run is not as here; `None` where there is none.
    pub(super) fn other(&self) -> Option<String> {
        let Place { work, folder, .. } = self.place.as_ref()?;
        let own = work.begun().into_iter().find(|it| it.0 == *folder)?.1;
        let others = work.unfinished().into_iter().map(|it| own.differences(&it.1));
        let differs = others.min_by_key(Vec::len)?.join(", ");
        Some(format!("the work in '{}' is of another run: {differs}", work.folder().display()))
    }

    /// The codes of weights of a block, and all that was kept of it; `None` when it is not whole.
    pub(super) fn finished<'a>(
        &self,
        block: usize,
        weights: impl Iterator<Item = &'a Weight>,
    ) -> Option<(Vec<Codes>, Entry)> {
        let mut weights = weights.peekable();
        weights.peek()?;
        let entry = self.load(block, Part::Codes)?;
        let codes = weights.enumerate().map(|(idx, weight)| to_codes(idx, weight, &entry));
        Some((codes.collect::<Option<_>>()?, entry))
    }

    /// Why a block had to be left without codes.
    pub(super) fn obstacle(&self, block: usize) -> Option<String> {
        let entry = self.load(block, Part::Codes)?;
        let (_, text) = entry.iter().find(|it| it.0 == OBSTACLE)?;
        std::str::from_utf8(&text.as_slice::<u8>().ok()?).ok().map(str::to_owned)
    }

    /// Keeps why a block has no codes.
    pub(super) fn leave(&mut self, block: usize, why: &str, ctx: &mut Ctx<'_>) {
        let text = Tensor::vector(why.as_bytes().to_owned());
        let done = self.save(block, Part::Codes, &vec![(OBSTACLE.to_owned(), text)]);
        self.give_up(done, ctx);
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
        let each = tuned.iter().enumerate().map(|(idx, it)| of_codes(idx, &it.best));
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
            let _ = std::fs::remove_file(place.path(before, Part::Chain));
        }
        self.give_up(done, ctx);
    }

    /// Finds out whether anything can be kept, before there is work to lose.
    pub(super) fn begin(&mut self, ctx: &mut Ctx<'_>) {
        let Some(place) = &self.place else { return };
        let done = place.work.make(&place.folder);
        self.give_up(done, ctx);
    }

    fn give_up(&mut self, done: io::Result<()>, ctx: &mut Ctx<'_>) {
        if let Err(error) = done {
            let folder =
                self.place.take().map_or_else(String::new, |it| it.folder.display().to_string());
            let text = "finished blocks cannot be kept from here on: a run that is stopped makes them again";
            let note = Diagnostic::warning(codes::QCC0502, text);
            let note = note.with_note(format!("'{folder}': {error}"));
            ctx.warn(note.with_help(match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "--work-dir DIR names a folder with more space"
                }
                _ => "--work-dir DIR names a folder that can be written",
            }));
        }
    }

    fn save(&self, block: usize, part: Part, entry: &Entry) -> io::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let Some(key) = place.key(block, part) else { return Ok(()) };
        place.save(&place.path(block, part), &key, entry)
    }
}

/// The codes of a weight, by its place in its block, as entries.
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
