//! A labelled set of images, `u8`, planar, all of one shape: in memory, or in files that are decoded when they are needed.

use std::borrow::Cow;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::files::Files;
use crate::random::Stream;
use crate::readers::Decoded;
use crate::resize::Fit;
use crate::{Error, Result};

/// Images `[N, C, H, W]` of `u8` with one class label each.
///
/// Planar means that an image is `C` planes of `H` rows of `W` pixels, the order of a PyTorch tensor.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: String,
    shape: [usize; 3],
    classes: Vec<String>,
    labels: Vec<u32>,
    images: Images,
    fingerprint: OnceLock<String>,
}

/// Where the pixels are.
#[derive(Debug, Clone)]
enum Images {
    /// `[N, C, H, W]`.
    Memory(Vec<u8>),
    Files(Files),
}

/// The training and the test images of one dataset; they share shape and classes.
#[derive(Debug, Clone)]
pub struct Splits {
    /// What is trained on (a validation set is held out of this one, see [`Dataset::hold_out`]).
    pub train: Dataset,
    /// What is measured on, and nothing else.
    pub test: Dataset,
}

impl Splits {
    /// Pairs two sets.
    ///
    /// # Errors
    /// If their image shapes or their classes differ.
    pub fn new(train: Dataset, test: Dataset) -> Result<Self> {
        if train.shape != test.shape {
            let detail = format!(
                "training images are {:?} [C, H, W], test images {:?}",
                train.shape, test.shape
            );
            return Err(Error::invalid(train.name, detail));
        }
        if train.classes != test.classes {
            let detail = format!(
                "training classes are {}, test classes {}",
                train.classes.join(" "),
                test.classes.join(" ")
            );
            return Err(Error::invalid(train.name, detail));
        }
        Ok(Self { train, test })
    }
}

impl Dataset {
    /// Checks and owns the images.
    ///
    /// * `shape`: `[C, H, W]`, none of them 0.
    /// * `pixels`: `N * C * H * W` bytes, image after image.
    /// * `labels`: `N` numbers below `classes.len()`; `N >= 1`.
    ///
    /// # Errors
    /// If there is no image, a length does not fit the shape, or a label has no class.
    pub fn new(
        name: impl Into<String>,
        shape: [usize; 3],
        classes: Vec<String>,
        labels: Vec<u32>,
        pixels: Vec<u8>,
    ) -> Result<Self> {
        let name = name.into();
        if shape.contains(&0) {
            return Err(Error::invalid(
                name,
                format!("image shape {shape:?} [C, H, W] contains 0"),
            ));
        }
        if labels.is_empty() {
            return Err(Error::invalid(name, "expected at least 1 image, got 0"));
        }
        let expected = shape
            .iter()
            .try_fold(labels.len(), |product, &n| product.checked_mul(n));
        if expected != Some(pixels.len()) {
            let detail = format!(
                "expected {} images of {shape:?} [C, H, W], got {} bytes of pixels",
                labels.len(),
                pixels.len()
            );
            return Err(Error::invalid(name, detail));
        }
        Self::of(name, shape, classes, labels, Images::Memory(pixels))
    }

    /// A set whose images stay in their files, one label each.
    ///
    /// # Errors
    /// If there is no image, or a label has no class.
    pub(crate) fn of_files(
        name: String,
        classes: Vec<String>,
        labels: Vec<u32>,
        files: Files,
    ) -> Result<Self> {
        if labels.is_empty() {
            return Err(Error::invalid(name, "expected at least 1 image, got 0"));
        }
        let shape = files.fit().input_size;
        Self::of(name, shape, classes, labels, Images::Files(files))
    }

    fn of(
        name: String,
        shape: [usize; 3],
        classes: Vec<String>,
        labels: Vec<u32>,
        images: Images,
    ) -> Result<Self> {
        if let Some(row) = labels.iter().position(|&l| l as usize >= classes.len()) {
            let detail = format!(
                "image {row}: expected a label below {}, got {}",
                classes.len(),
                labels[row]
            );
            return Err(Error::invalid(name, detail));
        }
        Ok(Self {
            name,
            shape,
            classes,
            labels,
            images,
            fingerprint: OnceLock::new(),
        })
    }

    /// What the set is called in messages and reports, such as `cifar10 train`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of images `N`, at least 1.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Always false: a set holds at least one image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// `[C, H, W]` of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Class names; a label is a position in this list.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// `N` labels.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// All pixels, `[N, C, H, W]`; none of a set whose images stay in their files.
    pub fn pixels(&self) -> &[u8] {
        match &self.images {
            Images::Memory(pixels) => pixels,
            Images::Files(_) => &[],
        }
    }

    /// The files of a set whose images stay there.
    pub(crate) fn files(&self) -> Option<&Files> {
        match &self.images {
            Images::Memory(_) => None,
            Images::Files(files) => Some(files),
        }
    }

    /// How images of other sizes became this set's, or would become ones like them.
    pub fn fit(&self) -> Fit {
        match &self.images {
            Images::Memory(_) => Fit::whole(self.shape),
            Images::Files(files) => files.fit().clone(),
        }
    }

    /// Bytes of one image: `C * H * W`.
    pub fn image_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Pixels `[C, H, W]` of image `index` of a set in memory; [`Dataset::read`] serves every set.
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`], like indexing a slice, or the images stay in their files.
    pub fn image(&self, index: usize) -> &[u8] {
        let len = self.image_len();
        &self.pixels()[index * len..(index + 1) * len]
    }

    /// Pixels `[C, H, W]` of image `index`, decoded where it stays in its file.
    ///
    /// # Errors
    /// If the file is gone or damaged; the message names it.
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`], like indexing a slice.
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let Images::Files(files) = &self.images else {
            return Ok(Cow::Borrowed(self.image(index)));
        };
        let mut planes = vec![0; self.image_len()];
        files.fitted(index)?.write_planes(&mut planes);
        Ok(Cow::Owned(planes))
    }

    /// The set in memory with so many channels: grey is repeated over three, colours become grey by ITU-R BT.709's luma.
    pub(crate) fn with_channels(self, channels: usize) -> Result<Self> {
        let [from, height, width] = self.shape;
        if from == channels {
            return Ok(self);
        }
        self.fitted(&Fit::whole([channels, height, width]))
    }

    /// The set with images of another size.
    ///
    /// # Errors
    /// If `fit` is unsound, or an image does not fit or cannot be read.
    pub(crate) fn fitted(self, fit: &Fit) -> Result<Self> {
        fit.check()?;
        if self.fit() == *fit {
            return Ok(self);
        }
        let len: usize = fit.input_size.iter().product();
        let mut pixels = vec![0; self.len() * len];
        for (index, out) in pixels.chunks_exact_mut(len).enumerate() {
            let image = Decoded::from_planes(&self.read(index)?, self.shape);
            let fitted = fit.apply(image);
            fitted
                .map_err(|detail| Error::invalid(&self.name, format!("image {index}: {detail}")))?
                .write_planes(out);
        }
        Self::new(self.name, fit.input_size, self.classes, self.labels, pixels)
    }

    /// The images at `indices`, in that order (an index may repeat).
    ///
    /// # Errors
    /// If there is none, or one is not below [`Dataset::len`].
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        if let Some(&index) = indices.iter().find(|&&i| i >= self.len()) {
            let detail = format!("expected an index below {}, got {index}", self.len());
            return Err(Error::invalid(&self.name, detail));
        }
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        if let Images::Files(files) = &self.images {
            let (name, classes) = (self.name.clone(), self.classes.clone());
            return Self::of_files(name, classes, labels, files.select(indices));
        }
        let mut pixels = Vec::with_capacity(indices.len() * self.image_len());
        for &index in indices {
            pixels.extend_from_slice(self.image(index));
        }
        Self::new(
            self.name.clone(),
            self.shape,
            self.classes.clone(),
            labels,
            pixels,
        )
    }

    /// The same images under another name.
    pub fn renamed(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// SHA-256 in hex over counts, shape, labels and pixels: equal exactly if the labelled images are equal, in order.
    ///
    /// Names do not count. Of a set whose images stay in their files it is over their paths below the set's folder, their sizes
    /// in bytes and their labels. Computed at the first call and kept.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            if let Images::Files(files) = &self.images {
                return files.fingerprint(&self.labels, self.classes.len());
            }
            let mut hash = Sha256::new();
            hash.update(b"dcff dataset 1\n");
            let [c, h, w] = self.shape;
            for count in [self.len(), c, h, w, self.classes.len()] {
                hash.update((count as u64).to_le_bytes());
            }
            for label in &self.labels {
                hash.update(label.to_le_bytes());
            }
            hash.update(self.pixels());
            hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
        })
    }

    /// Positions of a (training, validation) partition: `fraction` of each class goes to validation, chosen by `seed`.
    ///
    /// Per class the count is rounded to the nearest image, so classes keep their proportions. Both lists ascend.
    ///
    /// # Errors
    /// If `fraction` is not strictly between 0 and 1, or a side would be empty.
    pub fn hold_out_indices(&self, fraction: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            let detail = format!("expected a hold-out fraction between 0 and 1, got {fraction}");
            return Err(Error::invalid(&self.name, detail));
        }
        let mut held = vec![false; self.len()];
        for class in 0..self.classes.len() {
            let mut members: Vec<usize> = (0..self.len())
                .filter(|&i| self.labels[i] as usize == class)
                .collect();
            // One stream per class: adding images of one class does not move the choice in another.
            Stream::indexed(seed, class as u64).shuffle(&mut members);
            let count = (members.len() as f64 * fraction).round() as usize;
            for &index in &members[..count] {
                held[index] = true;
            }
        }
        let (validation, train): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|&index| held[index]);
        if train.is_empty() || validation.is_empty() {
            let detail = format!(
                "holding out {fraction} of {} images leaves {} to train and {} to validate",
                self.len(),
                train.len(),
                validation.len()
            );
            return Err(Error::invalid(&self.name, detail));
        }
        Ok((train, validation))
    }

    /// (training, validation) as two sets, see [`Dataset::hold_out_indices`].
    ///
    /// # Errors
    /// As [`Dataset::hold_out_indices`].
    pub fn hold_out(&self, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        let (train, validation) = self.hold_out_indices(fraction, seed)?;
        let validation = self
            .select(&validation)?
            .renamed(format!("{} (held out)", self.name));
        Ok((self.select(&train)?, validation))
    }

    /// The first `per_class` images of every class, in file order.
    ///
    /// # Errors
    /// If a class has fewer.
    pub fn first_per_class(&self, per_class: usize) -> Result<Self> {
        let mut taken = vec![0; self.classes.len()];
        let mut indices = Vec::with_capacity(per_class * taken.len());
        for (index, &label) in self.labels.iter().enumerate() {
            let count = &mut taken[label as usize];
            if *count < per_class {
                *count += 1;
                indices.push(index);
            }
        }
        if let Some(class) = taken.iter().position(|&count| count < per_class) {
            let detail = format!(
                "expected {per_class} images of class {}, got {}",
                self.classes[class], taken[class]
            );
            return Err(Error::invalid(&self.name, detail));
        }
        self.select(&indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("c{i}")).collect()
    }

    /// `n` images `[1, 1, 2]` whose pixels are (index, label), labels cycling through `classes`.
    fn cycling(n: usize, classes: usize) -> Dataset {
        let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        let pixels = (0..n)
            .flat_map(|i| [i as u8, (i % classes) as u8])
            .collect();
        Dataset::new("toy", [1, 1, 2], names(classes), labels, pixels).unwrap()
    }

    fn message(result: Result<Dataset>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn constructor_refuses_contradictions() {
        let new = |shape, labels: &[u32], bytes| {
            message(Dataset::new(
                "toy",
                shape,
                names(2),
                labels.to_vec(),
                vec![0; bytes],
            ))
        };
        assert_eq!(
            new([1, 2, 2], &[], 0),
            "toy: expected at least 1 image, got 0"
        );
        assert_eq!(
            new([1, 0, 2], &[0], 0),
            "toy: image shape [1, 0, 2] [C, H, W] contains 0"
        );
        assert_eq!(
            new([1, 2, 2], &[0, 1], 7),
            "toy: expected 2 images of [1, 2, 2] [C, H, W], got 7 bytes of pixels"
        );
        assert_eq!(
            new([1, 1, 1], &[0, 2], 2),
            "toy: image 1: expected a label below 2, got 2"
        );
        let huge = usize::MAX / 2;
        assert!(new([huge, huge, 1], &[0], 1).contains("got 1 bytes"));
    }

    #[test]
    fn image_and_select_address_the_right_bytes() {
        let set = cycling(6, 3);
        assert_eq!(set.image(4), [4, 1]);
        let picked = set.select(&[5, 0, 5]).unwrap();
        assert_eq!(picked.pixels(), [5, 2, 0, 0, 5, 2]);
        assert_eq!(picked.labels(), [2, 0, 2]);
        assert_eq!(
            message(set.select(&[6])),
            "toy: expected an index below 6, got 6"
        );
    }

    #[test]
    fn fingerprint_sees_pixels_labels_and_order_but_not_names() {
        let set = cycling(6, 3);
        assert_eq!(set.fingerprint().len(), 64);
        assert_eq!(
            set.fingerprint(),
            set.clone().renamed("other").fingerprint()
        );
        assert_ne!(
            set.fingerprint(),
            set.select(&[1, 0, 2, 3, 4, 5]).unwrap().fingerprint()
        );
        let mut pixels = set.pixels().to_vec();
        pixels[3] ^= 1;
        let changed = Dataset::new("toy", [1, 1, 2], names(3), set.labels().to_vec(), pixels);
        assert_ne!(set.fingerprint(), changed.unwrap().fingerprint());
        // The same bytes read as another shape are another dataset.
        let turned = Dataset::new(
            "toy",
            [1, 2, 1],
            names(3),
            set.labels().to_vec(),
            set.pixels().to_vec(),
        );
        assert_ne!(set.fingerprint(), turned.unwrap().fingerprint());
    }

    #[test]
    fn hold_out_is_stratified_disjoint_and_repeatable() {
        let set = cycling(100, 5);
        let (train, validation) = set.hold_out_indices(0.1, 7).unwrap();
        assert_eq!((train.len(), validation.len()), (90, 10));
        for class in 0..5 {
            let count = validation.iter().filter(|&&i| i % 5 == class).count();
            assert_eq!(count, 2);
        }
        let mut all = [train.clone(), validation.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(set.hold_out_indices(0.1, 7).unwrap().1, validation);
        assert_ne!(set.hold_out_indices(0.1, 8).unwrap().1, validation);
        let (_, held) = set.hold_out(0.1, 7).unwrap();
        assert_eq!(held.image(0)[0] as usize, validation[0]);
    }

    #[test]
    fn hold_out_refuses_fractions_that_leave_a_side_empty() {
        let set = cycling(10, 5);
        for fraction in [0.0, 1.0, -0.5, f64::NAN, 0.1, 0.9] {
            assert!(set.hold_out_indices(fraction, 0).is_err(), "{fraction}");
        }
    }

    #[test]
    fn first_per_class_keeps_file_order() {
        let set = cycling(9, 3);
        let first = set.first_per_class(2).unwrap();
        assert_eq!(
            first
                .pixels()
                .iter()
                .step_by(2)
                .copied()
                .collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5]
        );
        assert_eq!(
            message(set.first_per_class(4)),
            "toy: expected 4 images of class c0, got 3"
        );
    }
}
