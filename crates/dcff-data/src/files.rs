//! Images that stay in their files: read, decoded and brought to size when a batch needs them.
//!
//! A set of `N` images takes the bytes of their relative paths, and 8 more each, whatever the images' size.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::readers::{Decoded, Item, MAX_FILE_BYTES, decode};
use crate::resize::Fit;
use crate::{Error, Result};

/// Image files below one folder.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: PathBuf,
    /// The paths below the folder, one behind the other, with `/` between their parts.
    names: String,
    /// Where each path ends in `names`.
    ends: Vec<u32>,
    /// Bytes of each file.
    sizes: Vec<u32>,
    fit: Fit,
}

impl Files {
    /// The files `items` below `root`, to be brought to size by `fit`.
    ///
    /// # Errors
    /// If a path is not UTF-8, or all paths together are longer than 4 GiB.
    pub(crate) fn new(root: &Path, items: &[Item], fit: Fit) -> Result<Self> {
        let mut files = Self {
            root: root.to_owned(),
            names: String::new(),
            ends: Vec::with_capacity(items.len()),
            sizes: Vec::with_capacity(items.len()),
            fit,
        };
        for (path, _) in items {
            let refuse = || Error::image(path, "expected a path in UTF-8 of the set's folder");
            let inside = path.strip_prefix(root).map_err(|_| refuse())?;
            for (depth, part) in inside.components().enumerate() {
                if depth > 0 {
                    files.names.push('/');
                }
                let part = part.as_os_str().to_str().ok_or_else(refuse)?;
                files.names.push_str(part);
            }
            let end = u32::try_from(files.names.len()).map_err(|_| refuse())?;
            files.ends.push(end);
            let size = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
            files
                .sizes
                .push(u32::try_from(size.len()).unwrap_or(u32::MAX));
        }
        Ok(files)
    }

    fn name(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.names[start as usize..self.ends[index] as usize]
    }

    /// The whole image `index` with the set's channels, of its own size.
    ///
    /// # Errors
    /// If the file is gone or damaged; the message names it.
    pub(crate) fn read(&self, index: usize) -> Result<Decoded> {
        let path = self.root.join(self.name(index));
        let bytes = dcff_file::read(&path, MAX_FILE_BYTES)?;
        decode(&bytes, None)
            .and_then(|image| image.with_channels(self.fit.input_size[0]))
            .map_err(|detail| Error::image(&path, detail))
    }

    /// Image `index` at the set's size.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub(crate) fn fitted(&self, index: usize) -> Result<Decoded> {
        let image = self.read(index)?;
        let fitted = self.fit.apply(image);
        fitted.map_err(|detail| Error::image(&self.root.join(self.name(index)), detail))
    }

    /// How images are brought to size.
    pub(crate) fn fit(&self) -> &Fit {
        &self.fit
    }

    /// The files at `indices`, in that order.
    pub(crate) fn select(&self, indices: &[usize]) -> Self {
        let mut names = String::new();
        let ends = indices
            .iter()
            .map(|&index| {
                names.push_str(self.name(index));
                // Never longer than the paths of all, unless an index repeats; those are then short.
                names.len() as u32
            })
            .collect();
        Self {
            root: self.root.clone(),
            names,
            ends,
            sizes: indices.iter().map(|&index| self.sizes[index]).collect(),
            fit: self.fit.clone(),
        }
    }

    /// SHA-256 over paths, sizes in bytes and labels, and over what becomes of the images.
    pub(crate) fn fingerprint(&self, labels: &[u32], classes: usize) -> String {
        let mut hash = Sha256::new();
        hash.update(b"dcff files 1\n");
        let Fit {
            input_size: [c, h, w],
            crop_pct,
            interpolation,
        } = &self.fit;
        for count in [labels.len(), *c, *h, *w, classes] {
            hash.update((count as u64).to_le_bytes());
        }
        hash.update(crop_pct.to_le_bytes());
        hash.update(interpolation.as_bytes());
        for (index, label) in labels.iter().enumerate() {
            hash.update(b"\n");
            hash.update(self.name(index).as_bytes());
            hash.update([0]);
            hash.update(self.sizes[index].to_le_bytes());
            hash.update(label.to_le_bytes());
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}
