//! CIFAR-10's python version: pickled dictionaries with `labels` (a list) and `data` (a numpy array `[N, 3072]` of `u8`, planar).
//!
//! Krizhevsky, <https://www.cs.toronto.edu/~kriz/cifar.html>, "Python version".

use std::path::{Path, PathBuf};

use super::pickle::Pickle;
use super::read_batches;
use crate::{Dataset, Error, Result};

/// Bytes of one image.
const IMAGE: usize = 3 * 32 * 32;

/// Reads batch files (`data_batch_1` and so on, no extension) in the order given into one set `[N, 3, 32, 32]`.
///
/// The reader builds plain values only: nothing that a file says is run.
///
/// # Errors
/// If a file cannot be read, is truncated, is no such pickle, or holds a label without a class.
pub fn read_cifar_python(name: &str, files: &[PathBuf], classes: &[String]) -> Result<Dataset> {
    read_batches(name, files, classes, append_batch)
}

/// Appends the images of one pickled batch.
pub(super) fn append_batch(
    file: &Path,
    bytes: &[u8],
    classes: usize,
    labels: &mut Vec<u32>,
    pixels: &mut Vec<u8>,
) -> Result<()> {
    let damaged = |detail: String| Error::damaged(file, detail);
    let pickle = Pickle::parse(bytes).map_err(damaged)?;
    let batch_labels = pickle.integers("labels").map_err(damaged)?;
    let (shape, data) = pickle.byte_array("data").map_err(damaged)?;
    let rows = batch_labels.len();
    if rows == 0 || shape != [rows as i64, IMAGE as i64] || data.len() != rows * IMAGE {
        return Err(damaged(format!(
            "expected data [{rows}, {IMAGE}] for {rows} labels, got {shape:?} of {} bytes",
            data.len()
        )));
    }
    for (row, label) in batch_labels.into_iter().enumerate() {
        let fits = u32::try_from(label)
            .ok()
            .filter(|&l| (l as usize) < classes);
        labels.push(fits.ok_or_else(|| {
            let detail = format!("expected a label below {classes}, got {label}");
            Error::record(file, "record", row, detail)
        })?);
    }
    pixels.extend_from_slice(data);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::readers::cifar_binary::tests::names;

    /// A batch as Python 2 and numpy 1 pickled it at protocol 2, opcode by opcode.
    pub(crate) fn batch(labels: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out =
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x07a batchq\x03U\x06labelsq\x04]q\x05("
                .to_vec();
        for &label in labels {
            out.extend([b'K', label]);
        }
        out.extend(
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08",
        );
        out.extend(b"K\x00\x85U\x01b\x87Rq\x09(K\x01");
        out.extend([b'K', labels.len() as u8, b'M', 0x00, 0x0c, 0x86]);
        out.extend(b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN");
        out.extend(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
        out.extend(b"tbU\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eh\x0eeu.");
        out
    }

    fn read(bytes: &[u8]) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data_batch_1");
        std::fs::write(&file, bytes).unwrap();
        read_cifar_python("toy", &[file], &names())
    }

    fn message(bytes: &[u8]) -> String {
        let error = read(bytes).unwrap_err().to_string();
        error[error.find("data_batch_1").unwrap()..].to_owned()
    }

    #[test]
    fn known_pixel_and_label() {
        let mut data = vec![0; 2 * IMAGE];
        // Image 1, channel 2, row 3, column 30.
        data[IMAGE + 2 * 1024 + 3 * 32 + 30] = 201;
        let set = read(&batch(&[4, 9], &data)).unwrap();
        assert_eq!(set.labels(), [4, 9]);
        assert_eq!(set.image(1)[2 * 1024 + 3 * 32 + 30], 201);
        assert_eq!(set.pixels().iter().filter(|&&p| p != 0).count(), 1);
    }

    #[test]
    fn contradictions_are_named() {
        let data = vec![0; 2 * IMAGE];
        assert_eq!(
            message(&batch(&[4, 10], &data)),
            "data_batch_1: record 1: expected a label below 10, got 10"
        );
        assert_eq!(
            message(&batch(&[4, 1, 2], &data)),
            "data_batch_1: expected data [3, 3072] for 3 labels, got [3, 3072] of 6144 bytes"
        );
        assert_eq!(
            message(b"\x80\x02}q\x01."),
            "data_batch_1: expected a dictionary with `labels`"
        );
        assert_eq!(
            message(b"\x80\x02cos\nsystem\nq\x00."),
            "data_batch_1: byte 2: refused to load `os system`"
        );
    }

    #[test]
    fn truncated_or_flipped_pickles_are_errors_and_never_panic() {
        let good = batch(&[4], &[7; IMAGE]);
        // The bytes of the image itself are alike, so a few lengths among them are enough.
        let lengths = (0..400).chain((400..good.len()).step_by(97));
        for length in lengths {
            assert!(read(&good[..length]).is_err(), "{length}");
        }
        let frame = (0..400).chain(good.len() - 40..good.len());
        for position in frame {
            for bit in [0x01, 0x10, 0x80] {
                let mut damaged = good.clone();
                damaged[position] ^= bit;
                let _ = Pickle::parse(&damaged).map(|pickle| {
                    let _ = pickle.integers("labels");
                    let _ = pickle.byte_array("data");
                });
            }
        }
    }
}
