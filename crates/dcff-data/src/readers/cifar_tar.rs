//! CIFAR-10 as its authors distribute it: `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`, read without unpacking to disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;

use super::{
    Append, CIFAR_SHAPE, CIFAR_TEST, CIFAR_TRAIN, LARGEST_BATCH, cifar_binary, cifar_python,
};
use crate::{Dataset, Error, Result, Splits};

/// No archive is larger when unpacked (it has 186 MB): bounds what a damaged one can ask for.
const LARGEST_ARCHIVE: u64 = 400 << 20;

/// Reads both splits from an archive that holds the six batch files, `.bin` or pickled, in any folder.
///
/// # Errors
/// If the archive cannot be read or is truncated, a batch file is missing from it, or one is damaged.
pub fn read_cifar_tar(name: &str, archive: &Path, classes: &[String]) -> Result<Splits> {
    let batches = unpack(archive)?;
    let split = |split: &str, stems: &[&str]| {
        let (mut labels, mut pixels) = (Vec::new(), Vec::new());
        for stem in stems {
            let binary = format!("{stem}.bin");
            let (member, append): (&str, Append) = if batches.contains_key(&binary) {
                (&binary, cifar_binary::append_records)
            } else {
                (stem, cifar_python::append_batch)
            };
            let bytes = batches.get(member).ok_or_else(|| {
                Error::damaged(
                    archive,
                    format!("expected a member {binary} or {stem}, got neither"),
                )
            })?;
            let place = archive.join(member);
            append(&place, bytes, classes.len(), &mut labels, &mut pixels)?;
        }
        Dataset::new(
            format!("{name} {split}"),
            CIFAR_SHAPE,
            classes.to_vec(),
            labels,
            pixels,
        )
    };
    Splits::new(split("train", &CIFAR_TRAIN)?, split("test", &[CIFAR_TEST])?)
}

/// The batch files of an archive by file name.
fn unpack(archive: &Path) -> Result<HashMap<String, Vec<u8>>> {
    let damaged = |error: std::io::Error| {
        Error::damaged(
            archive,
            format!("expected a gzip-compressed tar archive: {error}"),
        )
    };
    let file = File::open(archive).map_err(|error| Error::io(archive, error))?;
    let unpacked = GzDecoder::new(BufReader::new(file)).take(LARGEST_ARCHIVE);
    let mut archive = tar::Archive::new(unpacked);
    let mut batches = HashMap::new();
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let stem = name.strip_suffix(".bin").unwrap_or(&name);
        if !entry.header().entry_type().is_file()
            || !(CIFAR_TRAIN.contains(&stem) || stem == CIFAR_TEST)
        {
            continue;
        }
        let mut bytes = Vec::new();
        entry
            .take(LARGEST_BATCH)
            .read_to_end(&mut bytes)
            .map_err(damaged)?;
        batches.insert(name, bytes);
    }
    // The gzip checksum is at the very end, behind what tar reads.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(damaged)?;
    match rest.limit() {
        0 => Err(damaged(std::io::Error::other(format!(
            "expected at most {LARGEST_ARCHIVE} bytes when unpacked, got more"
        )))),
        _ => Ok(batches),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::cifar_binary::tests::{names, record};
    use crate::readers::cifar_python::tests::batch;

    fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Splits> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cifar.tar.gz");
        std::fs::write(&file, bytes).unwrap();
        read_cifar_tar("toy", &file, &names())
    }

    /// One record per batch file, label `i` and pixel (channel 1, row 2, column 3 + i) = 100 + i.
    fn members(binary: bool) -> Vec<(String, Vec<u8>)> {
        let mut stems: Vec<_> = CIFAR_TRAIN
            .iter()
            .chain(&[CIFAR_TEST])
            .enumerate()
            .collect();
        // The order inside the archive need not be that of the batches.
        stems.reverse();
        stems
            .into_iter()
            .map(|(i, stem)| {
                let record = record(i as u8, 1, 2, 3 + i, 100 + i as u8);
                if binary {
                    (format!("cifar-10-batches-bin/{stem}.bin"), record)
                } else {
                    (
                        format!("cifar-10-batches-py/{stem}"),
                        batch(&record[..1], &record[1..]),
                    )
                }
            })
            .collect()
    }

    #[test]
    fn both_versions_give_the_same_images() {
        for binary in [true, false] {
            let splits = read(&archive(&members(binary))).unwrap();
            assert_eq!(splits.train.labels(), [0, 1, 2, 3, 4]);
            assert_eq!(splits.test.labels(), [5]);
            assert_eq!(splits.train.image(2)[1024 + 2 * 32 + 5], 102);
            assert_eq!(splits.test.image(0)[1024 + 2 * 32 + 8], 105);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let error = read(&archive(&members(true)[1..])).unwrap_err().to_string();
        assert!(
            error.ends_with("expected a member test_batch.bin or test_batch, got neither"),
            "{error}"
        );
        let good = archive(&members(true));
        for length in (0..good.len()).step_by(7) {
            assert!(read(&good[..length]).is_err(), "{length}");
        }
        let mut short = members(true);
        short[0].1.pop();
        let error = read(&archive(&short)).unwrap_err().to_string();
        assert!(
            error.contains("test_batch.bin: truncated: expected a whole number of records"),
            "{error}"
        );
    }
}
