//! Finished blocks, kept in a folder so that a run that was stopped goes on where it was.
//!
//! An entry is a safetensors file whose name is the BLAKE3 of all that its values follow from, so
//! one of another model, other samples or other options is never taken; it holds the BLAKE3 of its
//! values, so a damaged one is found and made again. An entry is there whole or not at all.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use qcc_diag::{Diagnostic, codes};
use qcc_ir::Graph;
use qcc_pass::{Ctx, PassError, SampleSource, Session};
use qcc_quant::codes::Codes;
use qcc_tensor::{DType, MappedFile, Tensor};
use safetensors::{Dtype, SafeTensors, View};

use super::weights::Tuned;
use super::{Options, Start};
use crate::choose::Weight;

/// Raised when the same inputs give other results than before.
const RESULTS: u32 = 4;

/// In place of a block: what holds for all of them.
const STEPS: usize = usize::MAX;

/// Named tensors, in their order.
pub(super) type Entry = Vec<(String, Tensor)>;

/// Where entries of a run are; nowhere when the session keeps no work.
pub(super) struct Kept {
    folder: Option<PathBuf>,
    /// BLAKE3 of the model, the samples and the options.
    run: blake3::Hash,
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
        let folder = session.work_dir.clone();
        let mut hash = blake3::Hasher::new();
        if folder.is_some() {
            let (version, seed) = (env!("CARGO_PKG_VERSION"), session.seed);
            let text = format!("{RESULTS} {version} {seed} {options:?}");
            hash.update(text.as_bytes());
            // Large constants stand in the text with a hash of their bytes.
            hash.update(qcc_ir::text::print(graph).as_bytes());
            for it in weights {
                hash.update(
                    format!("{} {:?} {:?}", it.name, it.quant.spec, it.quant.form).as_bytes(),
                );
                if let (Start::Given, Some(numbers)) = (options.start, &it.quant.numbers) {
                    let view = numbers.view();
                    let scales = bytemuck::cast_slice(view.scales);
                    for bytes in [view.codes, scales, view.zeros] {
                        hash.update(bytes);
                    }
                }
            }
            for sample in 0..samples.len() {
                let counted = samples.counted(sample)?.map(|it| ("counted".to_owned(), it));
                for (name, tensor) in samples.batch(sample)?.into_iter().chain(counted) {
                    hash.update(
                        format!("{name} {:?} {:?}", tensor.dtype(), tensor.dims()).as_bytes(),
                    );
                    hash.update(tensor.bytes());
                }
            }
        }
        Ok(Self { folder, run: hash.finalize() })
    }

    fn path(&self, block: usize, part: Part) -> Option<PathBuf> {
        let key = blake3::hash(format!("{} {block} {part:?}", self.run.to_hex()).as_bytes());
        Some(self.folder.as_ref()?.join(format!("{}.safetensors", key.to_hex())))
    }

    /// An entry; `None` when there is none, or it is damaged.
    pub(super) fn load(&self, block: usize, part: Part) -> Option<Entry> {
        let file = MappedFile::open(&self.path(block, part)?, "finished block").ok()?;
        read(file.bytes())
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

    /// Keeps the weights of a block, and what is told of it. A folder that cannot be written to is told once, and then
    /// nothing is kept.
    pub(super) fn finish(
        &mut self,
        block: usize,
        tuned: &[Tuned],
        told: Entry,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), PassError> {
        if self.folder.is_none() || tuned.is_empty() {
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
        let before = blocks.start.checked_sub(1).and_then(|it| self.path(it, Part::Chain));
        if let (Ok(()), Some(path)) = (&done, before) {
            let _ = std::fs::remove_file(path);
        }
        self.give_up(done, ctx);
    }

    fn give_up(&mut self, done: io::Result<()>, ctx: &mut Ctx<'_>) {
        if let Err(error) = done {
            self.folder = None;
            let text = "finished blocks cannot be kept: a run that is stopped begins anew";
            let note = Diagnostic::warning(codes::QCC0502, text).with_note(error.to_string());
            ctx.note(note.with_help("--work-dir DIR names a folder with more space"));
        }
    }

    fn save(&self, block: usize, part: Part, entry: &Entry) -> io::Result<()> {
        self.path(block, part).map_or(Ok(()), |it| write(&it, entry))
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

fn digest<'a>(entries: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut hash = blake3::Hasher::new();
    for (name, dims, bytes) in entries {
        hash.update(format!("{name} {dims:?}").as_bytes()).update(bytes);
    }
    hash.finalize().to_hex().to_string()
}

/// Types that a file can hold.
const TYPES: [(DType, Dtype); 10] = [
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::F64, Dtype::F64),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::U8, Dtype::U8),
    (DType::I8, Dtype::I8),
    (DType::U64, Dtype::U64),
    (DType::Bool, Dtype::BOOL),
];

/// Whether all of an entry can be written.
fn is_writable(entry: &Entry) -> bool {
    entry.iter().all(|it| TYPES.iter().any(|(ours, _)| *ours == it.1.dtype()))
}

struct Viewed<'a>(&'a Tensor, Dtype);

impl View for Viewed<'_> {
    fn dtype(&self) -> Dtype {
        self.1
    }
    fn shape(&self) -> &[usize] {
        self.0.dims()
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.bytes().as_ref().into()
    }
    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

fn write(path: &Path, entry: &Entry) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut sorted: Vec<&(String, Tensor)> = entry.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let hash = digest(sorted.iter().map(|it| (it.0.as_str(), it.1.dims(), it.1.bytes().as_ref())));
    let views = sorted.iter().filter_map(|(name, tensor)| {
        let (_, dtype) = TYPES.iter().find(|it| it.0 == tensor.dtype())?;
        Some((name.as_str(), Viewed(tensor, *dtype)))
    });
    let about = [("blake3".to_owned(), hash)].into_iter().collect();
    let part = path.with_extension("part");
    let done = safetensors::serialize_to_file(views, Some(about), &part)
        .map_err(|it| io::Error::other(it.to_string()))
        .and_then(|()| File::open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

fn read(bytes: &Bytes) -> Option<Entry> {
    let (_, about) = SafeTensors::read_metadata(bytes).ok()?;
    let found = SafeTensors::deserialize(bytes).ok()?;
    let mut views = found.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let hash = digest(views.iter().map(|it| (it.0.as_str(), it.1.shape(), it.1.data())));
    if about.metadata().as_ref()?.get("blake3")? != &hash {
        return None;
    }
    let tensor = |view: &safetensors::tensor::TensorView<'_>| {
        let (dtype, _) = TYPES.iter().find(|it| it.1 == view.dtype())?;
        Tensor::new(*dtype, view.shape().into(), bytes.slice_ref(view.data())).ok()
    };
    views.iter().map(|(name, view)| Some((name.clone(), tensor(view)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let x = Tensor::from_vec(vec![2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let y = Tensor::from_vec(vec![2], vec![7i64, 8]).unwrap();
        vec![("x".to_owned(), x), ("y".to_owned(), y)]
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_found() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("inner").join("entry.safetensors");
        write(&path, &entry()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(read(&bytes.clone().into()), Some(entry()));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_ne!(read(&damaged.into()), Some(entry()), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len].to_vec().into()), None);
        }
    }
}
