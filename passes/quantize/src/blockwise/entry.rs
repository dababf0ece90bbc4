//! A file with named tensors: a safetensors file that holds whose it is and the BLAKE3 of that and
//! its values, so one that is damaged or was put under another name is found. It is there whole or
//! not at all.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use qcc_tensor::{DType, Tensor};
use safetensors::{Dtype, SafeTensors, View};

/// Named tensors, in their order.
pub(super) type Entry = Vec<(String, Tensor)>;

/// Names in the metadata of a file.
const KEY: &str = "key";
const CHECKSUM: &str = "blake3";

fn digest<'a>(
    key: &str,
    entries: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>,
) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(key.as_bytes());
    for (name, dtype, dims, bytes) in entries {
        hash.update(format!("{name} {dtype:?} {dims:?}").as_bytes()).update(bytes);
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
pub(super) fn is_writable(entry: &Entry) -> bool {
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

/// Writes the entry of a key, in a folder that is there.
pub(super) fn write(path: &Path, key: &str, entry: &Entry) -> io::Result<()> {
    let mut sorted: Vec<(&str, Viewed<'_>)> = entry
        .iter()
        .filter_map(|(name, tensor)| {
            let (_, dtype) = TYPES.iter().find(|it| it.0 == tensor.dtype())?;
            Some((name.as_str(), Viewed(tensor, *dtype)))
        })
        .collect();
    sorted.sort_by_key(|it| it.0);
    let hashed = sorted.iter().map(|(name, it)| (*name, it.1, it.0.dims(), it.0.bytes().as_ref()));
    let hash = digest(key, hashed);
    let views = sorted.iter().map(|(name, it)| (*name, Viewed(it.0, it.1)));
    let about = [(KEY.to_owned(), key.to_owned()), (CHECKSUM.to_owned(), hash)];
    let about = about.into_iter().collect();
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

/// The entry of a key; `None` if that of another, or damaged.
pub(super) fn read(bytes: &Bytes, key: &str) -> Option<Entry> {
    let (_, about) = SafeTensors::read_metadata(bytes).ok()?;
    let found = SafeTensors::deserialize(bytes).ok()?;
    let mut views = found.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let hashed = views.iter().map(|(name, it)| (name.as_str(), it.dtype(), it.shape(), it.data()));
    let hash = digest(key, hashed);
    let about = about.metadata().as_ref()?;
    if about.get(KEY)? != key || about.get(CHECKSUM)? != &hash {
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
        let path = folder.path().join("entry.safetensors");
        write(&path, "key", &entry()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(read(&bytes.clone().into(), "key"), Some(entry()));
        assert_eq!(read(&bytes.clone().into(), "another"), None);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(read(&damaged.into(), "key"), None, "byte {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len].to_vec().into(), "key"), None);
        }
    }
}
