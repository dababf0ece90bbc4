//! Work that can be taken up again, in a folder: each run has a folder of its own in there, named
//! by what it is, with a file that says so.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

/// The file in the folder of a run that says what it is.
const PLAN: &str = "plan.json";

/// Stands in the folder of a run whose output is written.
const FINISHED: &str = "finished";

/// How many digits of its key name the folder of a run.
const DIGITS: usize = 16;

/// All that the work of a run follows from, for a reader: names and values in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan(Vec<(String, String)>);

impl Plan {
    /// A plan with these fields; names differ.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The plan with further fields.
    #[must_use]
    pub fn with<'a>(&self, fields: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        Self([self.0.clone(), Self::new(fields).0].concat())
    }

    /// BLAKE3 of the fields, in hexadecimal digits: work of one key is never taken for another.
    pub fn key(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex().to_string()
    }

    /// In which fields `other` differs: their names with its value, `steps 45`, say; long values
    /// are left out.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let value =
            |plan: &Self, name: &str| Some(plan.0.iter().find(|it| it.0 == name)?.1.clone());
        let differs = |name: &str| value(self, name) != value(other, name);
        let theirs = other.0.iter().filter(|it| differs(&it.0)).map(shown);
        let only_ours = self.0.iter().filter(|it| value(other, &it.0).is_none());
        theirs.chain(only_ours.map(|it| it.0.clone())).collect()
    }

    /// The fields, as [`Plan::differences`] tells them.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(shown).collect()
    }

    fn text(&self) -> String {
        let fields = self.0.iter().map(|(name, value)| (name.clone(), value.clone().into()));
        format!("{:#}\n", Value::Object(fields.collect::<Map<_, _>>()))
    }

    fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join(PLAN)).ok()?;
        let Value::Object(fields) = serde_json::from_str(&text).ok()? else { return None };
        let each = fields.into_iter().map(|(name, value)| Some((name, value.as_str()?.to_owned())));
        Some(Self(each.collect::<Option<_>>()?))
    }
}

fn shown((name, value): &(String, String)) -> String {
    const LONGEST: usize = 60;
    if value.len() > LONGEST { name.clone() } else { format!("{name} {value}") }
}

/// A folder with the work of runs. Clones know of the same runs.
#[derive(Clone, Debug)]
pub struct WorkDir {
    folder: PathBuf,
    begun: Arc<Mutex<BTreeMap<PathBuf, Plan>>>,
}

impl WorkDir {
    /// Work in `folder`, which need not be there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), begun: Arc::default() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a run, or goes on with it: where its work is. Nothing is made there before
    /// [`WorkDir::make`].
    pub fn begin(&self, plan: Plan) -> PathBuf {
        let mut name = plan.key();
        name.truncate(DIGITS);
        let folder = self.folder.join(name);
        self.runs(|it| it.insert(folder.clone(), plan));
        folder
    }

    /// Makes the folder of a run that was begun, and says in there what it is.
    ///
    /// # Errors
    /// What the system says when it cannot be made.
    pub fn make(&self, folder: &Path) -> io::Result<()> {
        let Some(plan) = self.runs(|it| it.get(folder).cloned()) else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let path = folder.join(PLAN);
        if Plan::read(folder) == Some(plan.clone()) {
            return Ok(());
        }
        let part = path.with_extension("part");
        std::fs::write(&part, plan.text())?;
        std::fs::rename(&part, &path)
    }

    /// Files of a name in the folders of other runs, in their order.
    pub fn elsewhere(&self, folder: &Path, name: &OsStr) -> Vec<PathBuf> {
        let others = folders(&self.folder).into_iter().filter(|it| it != folder);
        others.map(|it| it.join(name)).filter(|it| it.is_file()).collect()
    }

    /// The runs that were begun here by this value or a clone of it.
    pub fn begun(&self) -> Vec<(PathBuf, Plan)> {
        self.runs(|it| it.clone().into_iter().collect())
    }

    /// The other runs whose work is here though no output was written of it.
    pub fn unfinished(&self) -> Vec<(PathBuf, Plan)> {
        let begun = self.begun();
        let others =
            folders(&self.folder).into_iter().filter(|it| begun.iter().all(|a| a.0 != *it));
        let is_open = |it: &PathBuf| !it.join(FINISHED).exists();
        others.filter(is_open).filter_map(|it| Some((it.clone(), Plan::read(&it)?))).collect()
    }

    /// Whether a run that was begun has finished a part of its work.
    pub fn has_work(&self) -> bool {
        self.begun().iter().any(|it| files(&it.0).iter().any(|it| is_entry(it)))
    }

    /// Marks the runs that were begun: an output is written of their work.
    pub fn mark_finished(&self) {
        for (folder, _) in self.begun().iter().filter(|it| it.0.exists()) {
            let _ = std::fs::write(folder.join(FINISHED), b"");
        }
    }

    /// Removes the work of the runs that were begun.
    pub fn remove_begun(&self) {
        self.begun().iter().for_each(|it| remove(&it.0));
    }

    /// Removes the work of all runs.
    pub fn remove_all(&self) {
        folders(&self.folder).iter().for_each(|it| remove(it));
    }

    /// Removes what holds no work: parts of files, and runs that were begun with nothing in them.
    pub fn sweep(&self) {
        for (folder, _) in self.begun() {
            if files(&folder).iter().any(|it| is_entry(it)) {
                for it in files(&folder).iter().filter(|it| is_part(it)) {
                    let _ = std::fs::remove_file(it);
                }
            } else {
                remove(&folder);
            }
        }
    }

    fn runs<T>(&self, act: impl FnOnce(&mut BTreeMap<PathBuf, Plan>) -> T) -> T {
        act(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The folders of runs, in order.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let is_name = |it: &str| it.len() == DIGITS && it.bytes().all(|it| it.is_ascii_hexdigit());
    let is_run = |it: &PathBuf| it.file_name().and_then(|it| it.to_str()).is_some_and(is_name);
    let mut found: Vec<PathBuf> = files(folder).into_iter().filter(is_run).collect();
    found.sort();
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    listed.map(|it| it.path()).collect()
}

/// Removes a run, and nothing that somebody else has put there.
fn remove(folder: &Path) {
    let is_ours =
        |it: &PathBuf| is_entry(it) || is_part(it) || it.ends_with(PLAN) || it.ends_with(FINISHED);
    for it in files(folder).iter().filter(|it| is_ours(it)) {
        let _ = std::fs::remove_file(it);
    }
    let _ = std::fs::remove_dir(folder);
}

/// Whether a file holds finished work.
fn is_entry(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "safetensors")
}

/// Whether a file is one that a run was stopped in the middle of writing.
fn is_part(path: &Path) -> bool {
    let is_temporary =
        path.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b".tmp"));
    is_temporary || path.extension().is_some_and(|it| it == "part")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(steps: &str) -> Plan {
        Plan::new([("model", "m".repeat(64)), ("steps", steps.to_owned())])
    }

    #[test]
    fn a_run_is_found_again_and_others_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let one = WorkDir::new(folder.path());
        let place = one.begin(plan("45"));
        assert!(!place.exists() && !one.has_work());
        one.make(&place).unwrap();
        std::fs::write(place.join("block-0.safetensors"), b"work").unwrap();
        assert!(one.has_work() && one.unfinished().is_empty());

        let two = WorkDir::new(folder.path());
        let other = two.begin(plan("30"));
        assert_ne!(other, place);
        assert_eq!(two.unfinished(), [(place.clone(), plan("45"))]);
        assert_eq!(plan("30").differences(&plan("45")), ["steps 45"]);
        assert_eq!(plan("45").lines(), ["model", "steps 45"]);
        let name = OsStr::new("block-0.safetensors");
        assert_eq!(two.elsewhere(&other, name), [place.join(name)]);
        assert!(two.elsewhere(&place, name).is_empty());
        // What a run has used goes, and nothing else.
        two.make(&other).unwrap();
        two.remove_begun();
        assert!(!other.exists() && place.join("block-0.safetensors").exists());
        one.mark_finished();
        assert!(WorkDir::new(folder.path()).unfinished().is_empty());
    }

    #[test]
    fn what_holds_no_work_is_swept_and_foreign_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkDir::new(folder.path());
        let (empty, full) = (work.begin(plan("1")), work.begin(plan("2")));
        for it in [&empty, &full] {
            work.make(it).unwrap();
            std::fs::write(it.join("chain-0.part"), b"half").unwrap();
        }
        std::fs::write(full.join("chain-0.safetensors"), b"work").unwrap();
        work.sweep();
        assert!(!empty.exists() && !full.join("chain-0.part").exists());
        assert!(full.join("chain-0.safetensors").exists());

        std::fs::create_dir(folder.path().join("notes")).unwrap();
        std::fs::write(full.join("notes.txt"), b"mine").unwrap();
        WorkDir::new(folder.path()).remove_all();
        assert!(folder.path().join("notes").exists());
        assert_eq!(files(&full), [full.join("notes.txt")]);
    }

    #[test]
    fn a_plan_that_is_damaged_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkDir::new(folder.path());
        let place = work.begin(plan("1"));
        work.make(&place).unwrap();
        std::fs::write(place.join(PLAN), b"{").unwrap();
        assert!(WorkDir::new(folder.path()).unfinished().is_empty());
        work.make(&place).unwrap();
        assert_eq!(Plan::read(&place), Some(plan("1")));
    }
}
