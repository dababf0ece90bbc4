//! `.npz` files: a zip archive of `.npy` files, one for each named array.
//!
//! Arrays that are stored as they are (`numpy.savez`) stay in the mapped file; compressed ones
//! (`numpy.savez_compressed`) are decoded when the file is opened, up to [`LIMIT`] bytes in all.

use std::io::{Cursor, Read, Seek, Write};

use bytes::Bytes;
use qcc_tensor::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::npy;

/// How many bytes compressed arrays may take when decoded.
pub const LIMIT: u64 = 4 << 30;

/// The arrays of an archive by name, in its order.
///
/// # Errors
/// What is wrong with the archive or one of its arrays, in words.
pub fn read(file: &Bytes) -> Result<Vec<(String, Tensor)>, String> {
    read_up_to(file, LIMIT)
}

fn read_up_to(file: &Bytes, limit: u64) -> Result<Vec<(String, Tensor)>, String> {
    let mut archive = ZipArchive::new(Cursor::new(file.clone())).map_err(|it| it.to_string())?;
    let mut left = limit;
    let mut arrays: Vec<(String, Tensor)> = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|it| it.to_string())?;
        let Some(name) = entry.name().strip_suffix(".npy").map(str::to_owned) else { continue };
        let stored = entry.compression() == CompressionMethod::Stored;
        let place = entry.data_start().filter(|_| stored);
        let bytes = match place {
            Some(start) => {
                let range = usize::try_from(start).ok().and_then(|start| {
                    let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
                    (end <= file.len()).then_some(start..end)
                });
                file.slice(range.ok_or_else(|| format!("array '{name}' leaves the archive"))?)
            }
            None => {
                let mut bytes = Vec::new();
                let mut some = (&mut entry).take(left.saturating_add(1));
                some.read_to_end(&mut bytes).map_err(|it| format!("array '{name}': {it}"))?;
                left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                    format!(
                        "its compressed arrays take more than {} MiB; save them with numpy.savez, \
                         which does not compress",
                        limit >> 20
                    )
                })?;
                Bytes::from(bytes)
            }
        };
        let tensor = npy::read(&bytes).map_err(|it| format!("array '{name}': {it}"))?;
        if arrays.iter().any(|it| it.0 == name) {
            return Err(format!("array '{name}' is there twice"));
        }
        arrays.push((name, tensor));
    }
    if arrays.is_empty() {
        return Err("it holds no array".into());
    }
    Ok(arrays)
}

/// Writes an archive of stored arrays. Times are left out: equal arrays give equal bytes.
///
/// # Errors
/// What the writer says, and types that [`npy::write`] refuses.
pub fn write<'a>(
    to: impl Write + Seek,
    arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), String> {
    let mut archive = ZipWriter::new(to);
    for (name, tensor) in arrays {
        let bytes = npy::write(tensor).map_err(|it| format!("array '{name}': {it}"))?;
        let large = bytes.len() as u64 >= u64::from(u32::MAX);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(large);
        archive.start_file(format!("{name}.npy"), options).map_err(|it| it.to_string())?;
        archive.write_all(&bytes).map_err(|it| it.to_string())?;
    }
    archive.finish().map(drop).map_err(|it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflated(name: &str, bytes: &[u8]) -> Bytes {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        archive.start_file(name, options).unwrap();
        archive.write_all(bytes).unwrap();
        Bytes::from(archive.finish().unwrap().into_inner())
    }

    #[test]
    fn stored_arrays_stay_in_the_file() {
        let (ids, scale) = (Tensor::vector(vec![3i64, 5]), Tensor::scalar(0.5f32));
        let mut file = Cursor::new(Vec::new());
        write(&mut file, [("model/ids", &ids), ("scale", &scale)]).unwrap();
        let file = Bytes::from(file.into_inner());
        let arrays = read(&file).unwrap();
        assert_eq!(arrays, [("model/ids".into(), ids), ("scale".into(), scale)]);
        let range = file.as_ptr_range();
        assert!(arrays.iter().all(|it| range.contains(&it.1.bytes().as_ptr())));
    }

    #[test]
    fn compressed_arrays_are_decoded_up_to_the_limit() {
        let zeros = Tensor::vector(vec![0f32; 1 << 18]);
        let file = deflated("zeros.npy", &npy::write(&zeros).unwrap());
        assert!(file.len() < 1 << 16);
        assert_eq!(read(&file).unwrap(), [("zeros".into(), zeros)]);
        let error = read_up_to(&file, 1 << 20).unwrap_err();
        assert!(error.contains("more than 1 MiB") && error.contains("numpy.savez"), "{error}");
    }

    #[test]
    fn broken_archives_are_refused() {
        assert!(read(&Bytes::from_static(b"no zip")).is_err());
        assert!(read(&deflated("a.txt", b"text")).unwrap_err().contains("no array"));
        assert!(read(&deflated("a.npy", b"text")).unwrap_err().contains("array 'a'"));
        let whole = deflated("a.npy", &npy::write(&Tensor::scalar(1i64)).unwrap());
        for cut in 0..whole.len() {
            assert!(read(&whole.slice(..cut)).is_err());
        }
    }
}
