//! Readers: files in, a checked [`crate::Dataset`] out. One layout per file.

use std::path::{Path, PathBuf};

use crate::{Dataset, Result};

mod cifar_binary;
mod cifar_python;
mod cifar_tar;
mod class_folders;
mod decode;
mod decoded;
mod folders;
mod jpeg;
mod left_out;
mod parquet;
mod pickle;

pub use cifar_binary::read_cifar_binary;
pub use cifar_python::read_cifar_python;
pub use cifar_tar::read_cifar_tar;
pub use class_folders::read_class_folders;
pub(crate) use class_folders::{read_folder, read_test_folder};
#[cfg(test)]
pub(crate) use decode::tests::png;
pub(crate) use decode::{MAX_FILE_BYTES, decode};
pub(crate) use decoded::Decoded;
pub(crate) use folders::Item;
pub use parquet::read_parquet;

/// Names of the batch files that hold CIFAR-10's training images, without extension.
pub(crate) const CIFAR_TRAIN: [&str; 5] = [
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
];

/// Name of the batch file that holds CIFAR-10's test images, without extension.
pub(crate) const CIFAR_TEST: &str = "test_batch";

/// No batch file is larger (10,000 records are 31 MB): bounds what a damaged one can ask for.
const LARGEST_BATCH: u64 = 64 << 20;

/// `[C, H, W]` of CIFAR's images in its binary and python versions.
pub(crate) const CIFAR_SHAPE: [usize; 3] = [3, 32, 32];

/// Takes the images of one batch file: its path, its bytes, the number of classes; the labels and pixels so far.
type Append = fn(&Path, &[u8], usize, &mut Vec<u32>, &mut Vec<u8>) -> Result<()>;

/// Reads CIFAR's batch files, in the order given, into one set `[N, 3, 32, 32]`.
fn read_batches(
    name: &str,
    files: &[PathBuf],
    classes: &[String],
    append: Append,
) -> Result<Dataset> {
    let (mut labels, mut pixels) = (Vec::new(), Vec::new());
    for file in files {
        let bytes = dcff_file::read(file, LARGEST_BATCH)?;
        append(file, &bytes, classes.len(), &mut labels, &mut pixels)?;
    }
    Dataset::new(name, CIFAR_SHAPE, classes.to_vec(), labels, pixels)
}
