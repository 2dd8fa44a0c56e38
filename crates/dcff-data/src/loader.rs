//! Batches of one pass over a dataset, assembled on a background thread while the previous one is trained on.
//!
//! Images that stay in their files are decoded by threads of the loader's own, as many as the program computes with; what is
//! drawn for an image depends on its position in the set and the seed alone, so the number of threads changes nothing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::augment::{Change, write_image};
use crate::random::Stream;
use crate::readers::Decoded;
use crate::resize::{Filter, resize};
use crate::{Augmentation, Dataset, DatasetInfo, Error, Normalisation, Result};

/// Batches that may wait to be taken. With the one being assembled, at most three exist beside the one in use.
const PREFETCH: usize = 2;

/// One batch; on the CPU, unless an [`Assembler`] made it.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `f32` `[N, C, H, W]`, augmented and normalised.
    pub images: Tensor,
    /// `u32` `[N]`.
    pub labels: Tensor,
}

/// How images become batches.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Images per batch, at least 1; the last batch may be smaller.
    pub batch_size: usize,
    /// Random changes of each image.
    pub augmentation: Augmentation,
    /// Applied to every image, after augmentation.
    pub normalisation: Normalisation,
    /// Leave out a last batch that is not full.
    pub drop_last: bool,
}

impl LoaderOptions {
    /// Batches of 128 with the dataset's normalisation and no augmentation: what evaluation wants.
    pub fn new(info: &DatasetInfo) -> Self {
        Self {
            batch_size: 128,
            augmentation: Augmentation::NONE,
            normalisation: info.normalisation.clone(),
            drop_last: false,
        }
    }

    /// As [`LoaderOptions::new`], with the dataset's default augmentation: what training wants.
    pub fn training(info: &DatasetInfo) -> Self {
        Self {
            augmentation: info.augmentation,
            ..Self::new(info)
        }
    }
}

/// Where an image of a batch is in the dataset, and how it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Position in the dataset.
    pub index: usize,
    /// Rows by which the crop window lies below the image (negative: above).
    pub down: isize,
    /// Columns by which it lies to the right of the image (negative: to the left).
    pub right: isize,
    /// Whether it is mirrored, left and right.
    pub flip: bool,
}

/// Makes batches of images elsewhere than on the CPU, from a copy of the dataset that it has.
pub trait Assembler: std::fmt::Debug + Send + Sync {
    /// The images `[N, C, H, W]`, changed and normalised; called on the thread that takes the batch, since a GPU may be
    /// recording what others launch.
    ///
    /// # Errors
    /// Those of the device.
    fn assemble(&self, images: &[Placed]) -> candle_core::Result<Tensor>;
}

/// Makes passes over a dataset, or over some of its images.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    indices: Arc<[usize]>,
    options: LoaderOptions,
    tables: Arc<[[f32; 256]]>,
    assembler: Option<Arc<dyn Assembler>>,
    /// Decodes images; none for a set in memory that is only shifted and mirrored.
    decoders: Option<Arc<ThreadPool>>,
}

impl Loader {
    /// Over all images.
    ///
    /// # Errors
    /// If the batch size is 0, the normalisation does not fit the channels, or no batch would come out.
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions) -> Result<Self> {
        let indices = (0..dataset.len()).collect();
        Self::over(dataset, indices, options)
    }

    /// Over the images at `indices` (see [`Dataset::hold_out_indices`]).
    ///
    /// # Errors
    /// As [`Loader::new`]; and if an index is not below [`Dataset::len`].
    pub fn over(
        dataset: Arc<Dataset>,
        indices: Vec<usize>,
        options: LoaderOptions,
    ) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(Error::invalid("batch size", "expected at least 1, got 0"));
        }
        if let Some(&index) = indices.iter().find(|&&i| i >= dataset.len()) {
            let detail = format!("expected an index below {}, got {index}", dataset.len());
            return Err(Error::invalid(dataset.name(), detail));
        }
        let tables = options.normalisation.tables(dataset.shape()[0])?.into();
        let decoders = match dataset.files().is_some() || options.augmentation.area.is_some() {
            false => None,
            true => {
                let threads = ThreadPoolBuilder::new()
                    .num_threads(rayon::current_num_threads())
                    .thread_name(|index| format!("decode {index}"))
                    .build()
                    .map_err(|error| Error::Thread(error.to_string()))?;
                Some(Arc::new(threads))
            }
        };
        let loader = Self {
            dataset,
            indices: indices.into(),
            options,
            tables,
            assembler: None,
            decoders,
        };
        if loader.batches() == 0 {
            let detail = format!(
                "{} images make no batch of {}",
                loader.images(),
                loader.options.batch_size
            );
            return Err(Error::invalid(loader.dataset.name(), detail));
        }
        Ok(loader)
    }

    /// Whether an [`Assembler`] with a copy of the pixels could make the batches: not where images stay in their files, or parts
    /// of them are resized.
    pub fn can_be_assembled(&self) -> bool {
        self.decoders.is_none()
    }

    /// Has `assembler` make the images of batches; labels stay on the CPU.
    #[must_use]
    pub fn assembled_by(mut self, assembler: Arc<dyn Assembler>) -> Self {
        self.assembler = Some(assembler);
        self
    }

    /// What each byte of a channel becomes: a row of 256 values per channel.
    pub fn tables(&self) -> &[[f32; 256]] {
        &self.tables
    }

    /// The dataset the images come from.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The options given.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// Images of one pass, counted before `drop_last`.
    pub fn images(&self) -> usize {
        self.indices.len()
    }

    /// Batches of one pass, at least 1.
    pub fn batches(&self) -> usize {
        if self.options.drop_last {
            self.indices.len() / self.options.batch_size
        } else {
            self.indices.len().div_ceil(self.options.batch_size)
        }
    }

    /// One pass.
    ///
    /// `order_seed` shuffles the images; `None` keeps their order. `augment_seed` with the image's position in the dataset
    /// decides its crop and flip, so they depend neither on the order nor on the batch size. A trainer hands in fresh seeds
    /// for every epoch.
    ///
    /// Up to two batches wait ready; the background thread ends when the iterator is dropped.
    pub fn epoch(&self, order_seed: Option<u64>, augment_seed: u64) -> Epoch {
        let mut order = self.indices.to_vec();
        if let Some(seed) = order_seed {
            Stream::new(seed).shuffle(&mut order);
        }
        order.truncate(self.batches().saturating_mul(self.options.batch_size));

        let remaining = self.batches();
        let loader = self.clone();
        let (sender, receiver) = sync_channel(PREFETCH);
        let thread = std::thread::Builder::new()
            .name("batches".to_owned())
            .spawn(move || {
                for indices in order.chunks(loader.options.batch_size) {
                    // A failed send means that the iterator is gone: nobody wants the rest.
                    if sender.send(loader.prepare(indices, augment_seed)).is_err() {
                        return;
                    }
                }
            });
        match thread {
            Ok(thread) => Epoch {
                receiver: Some(receiver),
                thread: Some(thread),
                remaining,
                assembler: self.assembler.clone(),
                refused: None,
            },
            Err(error) => Epoch {
                receiver: None,
                thread: None,
                remaining,
                assembler: None,
                refused: Some(error.to_string()),
            },
        }
    }

    /// What the background thread does for the batch of the images at `indices`.
    fn prepare(&self, indices: &[usize], augment_seed: u64) -> Result<Prepared> {
        let shape @ [channels, height, width] = self.dataset.shape();
        let len = self.dataset.image_len();
        let augmentation = self.options.augmentation;
        let change = |index: usize| {
            if augmentation == Augmentation::NONE {
                return Change::NONE;
            }
            let mut stream = Stream::indexed(augment_seed, index as u64);
            augmentation.draw(&mut stream)
        };
        let labels: Vec<u32> = indices.iter().map(|&i| self.dataset.labels()[i]).collect();
        let labels = Tensor::from_vec(labels, indices.len(), &Device::Cpu)?;
        if self.assembler.is_some() {
            let placed = |&index: &usize| {
                let Change { down, right, flip } = change(index);
                Placed {
                    index,
                    down,
                    right,
                    flip,
                }
            };
            let images = Images::Placed(indices.iter().map(placed).collect());
            return Ok(Prepared { images, labels });
        }
        let mut images = vec![0.0; indices.len() * len];
        if let Some(decoders) = &self.decoders {
            let made = decoders.install(|| {
                let images = images.par_chunks_exact_mut(len).zip(indices);
                let made: Vec<Result<()>> = images
                    .map(|(out, &index)| self.decode(index, augment_seed, out))
                    .collect();
                made
            });
            // The first in order, so that the message does not depend on the number of threads.
            made.into_iter().collect::<Result<()>>()?;
        } else {
            for (&index, out) in indices.iter().zip(images.chunks_exact_mut(len)) {
                let change = change(index);
                write_image(self.dataset.image(index), shape, change, &self.tables, out);
            }
        }
        let count = indices.len();
        let images = Tensor::from_vec(images, (count, channels, height, width), &Device::Cpu)?;
        Ok(Prepared {
            images: Images::Made(images),
            labels,
        })
    }
}

impl Loader {
    /// Image `index`, read where it stays in a file, changed and normalised, into `out` `[C, H, W]`.
    fn decode(&self, index: usize, augment_seed: u64, out: &mut [f32]) -> Result<()> {
        let (dataset, augmentation) = (&self.dataset, self.options.augmentation);
        let shape @ [_, height, width] = dataset.shape();
        let mut stream = Stream::indexed(augment_seed, index as u64);
        let image = match (dataset.files(), augmentation.area) {
            (Some(files), None) => files.fitted(index)?,
            (files, area) => {
                let whole = match files {
                    Some(files) => files.read(index)?,
                    None => Decoded::from_planes(dataset.image(index), shape),
                };
                match area {
                    Some(area) => {
                        let part = area.draw(whole.size, &mut stream);
                        let resized = resize(&whole, part, [height, width], Filter::BILINEAR);
                        resized.map_err(|detail| {
                            Error::invalid(dataset.name(), format!("image {index}: {detail}"))
                        })?
                    }
                    None => whole,
                }
            }
        };
        let change = match augmentation == Augmentation::NONE {
            true => Change::NONE,
            false => augmentation.draw(&mut stream),
        };
        let mut planes = vec![0; dataset.image_len()];
        image.write_planes(&mut planes);
        write_image(&planes, shape, change, &self.tables, out);
        Ok(())
    }
}

/// A batch as the background thread leaves it.
#[derive(Debug)]
struct Prepared {
    images: Images,
    labels: Tensor,
}

#[derive(Debug)]
enum Images {
    Made(Tensor),
    /// For an assembler.
    Placed(Vec<Placed>),
}

impl Prepared {
    fn finish(self, assembler: Option<&dyn Assembler>) -> Result<Batch> {
        let images = match (self.images, assembler) {
            (Images::Made(images), _) => images,
            (Images::Placed(placed), Some(assembler)) => assembler.assemble(&placed)?,
            (Images::Placed(_), None) => {
                return Err(Error::Thread("nobody makes its images".to_owned()));
            }
        };
        let labels = self.labels;
        Ok(Batch { images, labels })
    }
}

/// The batches of one pass, see [`Loader::epoch`].
#[derive(Debug)]
pub struct Epoch {
    receiver: Option<Receiver<Result<Prepared>>>,
    thread: Option<JoinHandle<()>>,
    remaining: usize,
    assembler: Option<Arc<dyn Assembler>>,
    refused: Option<String>,
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return None;
        }
        let batch = match &self.receiver {
            Some(receiver) => receiver
                .recv()
                .unwrap_or_else(|_| Err(Error::Thread("ended before its last batch".to_owned())))
                .and_then(|prepared| prepared.finish(self.assembler.as_deref())),
            None => Err(Error::Thread(self.refused.take().unwrap_or_default())),
        };
        // After an error there is nothing more to come.
        self.remaining = if batch.is_ok() { self.remaining - 1 } else { 0 };
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.remaining > 0), Some(self.remaining))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // The receiver goes first: a thread that waits for room in the channel is woken by that.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported as `Error::Thread` by `next`.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` images `[1, 1, 1]`, pixel = label = index, and a loader that hands bytes through unchanged.
    fn loader(n: usize, batch_size: usize, drop_last: bool) -> Loader {
        let classes = (0..n).map(|i| i.to_string()).collect();
        let pixels = (0..n as u8).collect();
        let set = Dataset::new("toy", [1, 1, 1], classes, (0..n as u32).collect(), pixels).unwrap();
        Loader::new(Arc::new(set), options(batch_size, drop_last)).unwrap()
    }

    const PAD_2: Augmentation = Augmentation {
        pad: 2,
        ..Augmentation::STANDARD
    };

    fn options(batch_size: usize, drop_last: bool) -> LoaderOptions {
        LoaderOptions {
            batch_size,
            augmentation: Augmentation::NONE,
            normalisation: Normalisation {
                mean: vec![0.0],
                std: vec![1.0 / 255.0],
            },
            drop_last,
        }
    }

    fn labels(epoch: Epoch) -> Vec<Vec<u32>> {
        epoch
            .map(|batch| batch.unwrap().labels.to_vec1().unwrap())
            .collect()
    }

    #[test]
    fn without_a_seed_the_order_is_the_datasets() {
        let all = labels(loader(5, 2, false).epoch(None, 0));
        assert_eq!(all, [vec![0, 1], vec![2, 3], vec![4]]);
        let full = labels(loader(5, 2, true).epoch(None, 0));
        assert_eq!(full, [[0, 1], [2, 3]]);
    }

    #[test]
    fn every_image_comes_once_with_its_own_label() {
        let loader = loader(50, 8, false);
        let mut seen = Vec::new();
        for batch in loader.epoch(Some(9), 0) {
            let batch = batch.unwrap();
            let images: Vec<f32> = batch.images.flatten_all().unwrap().to_vec1().unwrap();
            let labels: Vec<u32> = batch.labels.to_vec1().unwrap();
            for (image, label) in images.into_iter().zip(labels) {
                assert!((image - label as f32).abs() < 1e-4);
                seen.push(label);
            }
        }
        assert_ne!(seen, (0..50).collect::<Vec<_>>());
        assert_eq!(seen, labels(loader.epoch(Some(9), 1)).concat());
        assert_ne!(seen, labels(loader.epoch(Some(10), 0)).concat());
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn an_images_change_depends_on_the_augmentation_seed_alone() {
        let [c, h, w] = [1, 6, 6];
        let pixels = (0..8 * 36).map(|i| (i * 7 % 256) as u8).collect();
        let classes = (0..8).map(|i| i.to_string()).collect();
        let set = Dataset::new("toy", [c, h, w], classes, (0..8).collect(), pixels).unwrap();
        let set = Arc::new(set);
        let by_label = |batch_size, order, seed| {
            let options = LoaderOptions {
                augmentation: PAD_2,
                ..options(batch_size, false)
            };
            let mut images = vec![Vec::new(); 8];
            for batch in Loader::new(set.clone(), options)
                .unwrap()
                .epoch(order, seed)
            {
                let batch = batch.unwrap();
                for (i, &label) in batch.labels.to_vec1::<u32>().unwrap().iter().enumerate() {
                    let image = batch.images.get(i).unwrap().flatten_all().unwrap();
                    images[label as usize] = image.to_vec1::<f32>().unwrap();
                }
            }
            images
        };
        assert_eq!(by_label(3, Some(1), 5), by_label(8, None, 5));
        assert_ne!(by_label(3, Some(1), 5), by_label(3, Some(1), 6));
    }

    #[test]
    fn an_assembler_is_told_what_the_loader_would_do() {
        #[derive(Debug)]
        struct Recorder;
        impl Assembler for Recorder {
            fn assemble(&self, images: &[Placed]) -> candle_core::Result<Tensor> {
                let fields = |p: &Placed| {
                    [
                        p.index as f32,
                        p.down as f32,
                        p.right as f32,
                        f32::from(p.flip),
                    ]
                };
                let all: Vec<f32> = images.iter().flat_map(fields).collect();
                Tensor::from_vec(all, (images.len(), 4, 1, 1), &Device::Cpu)
            }
        }
        let options = LoaderOptions {
            augmentation: PAD_2,
            ..options(3, false)
        };
        let set = loader(5, 1, false).dataset().clone();
        let loader = Loader::new(set, options)
            .unwrap()
            .assembled_by(Arc::new(Recorder));
        for batch in loader.epoch(Some(1), 7) {
            let batch = batch.unwrap();
            for (i, &label) in batch.labels.to_vec1::<u32>().unwrap().iter().enumerate() {
                let got = batch.images.get(i).unwrap().flatten_all().unwrap();
                let mut stream = Stream::indexed(7, u64::from(label));
                let change = PAD_2.draw(&mut stream);
                let expected = [
                    label as f32,
                    change.down as f32,
                    change.right as f32,
                    f32::from(change.flip),
                ];
                assert_eq!(got.to_vec1::<f32>().unwrap(), expected);
            }
        }
    }

    #[test]
    fn dropping_an_epoch_early_ends_its_thread() {
        let loader = loader(200, 1, false);
        let mut epoch = loader.epoch(Some(1), 0);
        assert!(epoch.next().unwrap().is_ok());
        // Joins the thread: this test hangs if it does not end.
        drop(epoch);
        assert_eq!(Arc::strong_count(loader.dataset()), 1);
    }

    #[test]
    fn refuses_what_makes_no_batch() {
        let set = loader(3, 1, false).dataset().clone();
        let message = |indices, options| {
            Loader::over(set.clone(), indices, options)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(vec![0], options(0, false)),
            "batch size: expected at least 1, got 0"
        );
        assert_eq!(
            message(vec![3], options(1, false)),
            "toy: expected an index below 3, got 3"
        );
        assert_eq!(
            message(vec![], options(1, false)),
            "toy: 0 images make no batch of 1"
        );
        assert_eq!(
            message(vec![0, 1], options(4, true)),
            "toy: 2 images make no batch of 4"
        );
    }
}
