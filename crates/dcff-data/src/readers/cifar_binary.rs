//! CIFAR-10's binary version: records of one label byte and 3,072 pixel bytes `[3, 32, 32]`, no header.
//!
//! Krizhevsky, <https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version".

use std::path::{Path, PathBuf};

use super::read_batches;
use crate::{Dataset, Error, Result};

/// One label and one image.
const RECORD: usize = 1 + 3 * 32 * 32;

/// Reads batch files (`data_batch_1.bin` and so on) in the order given into one set `[N, 3, 32, 32]`.
///
/// # Errors
/// If a file cannot be read, is empty, is not a whole number of records, or holds a label without a class.
pub fn read_cifar_binary(name: &str, files: &[PathBuf], classes: &[String]) -> Result<Dataset> {
    read_batches(name, files, classes, append_records)
}

/// Splits `bytes` into records and appends them.
pub(super) fn append_records(
    file: &Path,
    bytes: &[u8],
    classes: usize,
    labels: &mut Vec<u32>,
    pixels: &mut Vec<u8>,
) -> Result<()> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        let detail = format!(
            "truncated: expected a whole number of records of {RECORD} bytes, got {} records and {} bytes",
            bytes.len() / RECORD,
            bytes.len() % RECORD
        );
        return Err(Error::damaged(file, detail));
    }
    for (row, record) in bytes.chunks_exact(RECORD).enumerate() {
        if usize::from(record[0]) >= classes {
            let detail = format!("expected a label below {classes}, got {}", record[0]);
            return Err(Error::record(file, "record", row, detail));
        }
        labels.push(u32::from(record[0]));
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn names() -> Vec<String> {
        (0..10).map(|i| format!("c{i}")).collect()
    }

    /// A record whose byte at (channel, row, column) is known.
    pub(crate) fn record(
        label: u8,
        channel: usize,
        row: usize,
        column: usize,
        value: u8,
    ) -> Vec<u8> {
        let mut record = vec![0; RECORD];
        record[0] = label;
        record[1 + channel * 1024 + row * 32 + column] = value;
        record
    }

    #[test]
    fn known_pixels_and_labels_across_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("a.bin"), folder.path().join("b.bin")];
        let first = [record(3, 0, 1, 2, 77), record(9, 2, 31, 0, 5)].concat();
        std::fs::write(&files[0], first).unwrap();
        std::fs::write(&files[1], record(0, 1, 4, 30, 200)).unwrap();

        let set = read_cifar_binary("toy", &files, &names()).unwrap();
        assert_eq!(set.shape(), [3, 32, 32]);
        assert_eq!(set.labels(), [3, 9, 0]);
        let pixel = |image, c: usize, y: usize, x: usize| set.image(image)[c * 1024 + y * 32 + x];
        assert_eq!(pixel(0, 0, 1, 2), 77);
        assert_eq!(pixel(0, 0, 2, 1), 0);
        assert_eq!(pixel(1, 2, 31, 0), 5);
        assert_eq!(pixel(2, 1, 4, 30), 200);
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data_batch_1.bin");
        let message = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            let error = read_cifar_binary("toy", std::slice::from_ref(&file), &names());
            error
                .unwrap_err()
                .to_string()
                .replace(&file.display().to_string(), "FILE")
        };
        let two = [record(1, 0, 0, 0, 0), record(10, 0, 0, 0, 0)].concat();
        assert_eq!(
            message(&two),
            "FILE: record 1: expected a label below 10, got 10"
        );
        let cut = "FILE: truncated: expected a whole number of records of 3073 bytes, got";
        assert_eq!(
            message(&two[..4000]),
            format!("{cut} 1 records and 927 bytes")
        );
        assert_eq!(message(&[]), format!("{cut} 0 records and 0 bytes"));
    }
}
