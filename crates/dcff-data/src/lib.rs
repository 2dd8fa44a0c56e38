//! Labelled images, augmentation and batches for training convolutional networks.
//!
//! ```text
//! name + folders --locate--> Located --load--> Loaded { info, splits: { train, test } }
//!                                                         |
//!                                   Arc<Dataset> + LoaderOptions --Loader--> epoch(seeds) --> Batch
//! ```
//!
//! Images stay `u8`, planar, `[N, C, H, W]`, until a [`Batch`] is assembled; a batch holds normalised `f32` on the CPU.
//! Large ones stay in their files and are decoded batch by batch.
//! Everything random comes from a seed handed in: same seed, same bits, whatever the number of threads.
//!
//! This crate deliberately knows neither networks nor training, opens no sockets, reads no environment and prints nothing.
//!
//! ```
//! use std::sync::Arc;
//! use dcff_data::{Loader, LoaderOptions, SyntheticConfig, find, synthetic};
//!
//! let splits = synthetic(&SyntheticConfig { train: 40, test: 10, seed: 1 })?;
//! let options = LoaderOptions { batch_size: 16, ..LoaderOptions::training(find("synthetic")?) };
//! let loader = Loader::new(Arc::new(splits.train), options)?;
//! for batch in loader.epoch(Some(1), 2) {
//!     let batch = batch?;
//!     assert_eq!(&batch.images.dims()[1..], &[3, 32, 32]);
//! }
//! # Ok::<(), dcff_data::Error>(())
//! ```

#![cfg_attr(not(test), forbid(unsafe_code))]

mod augment;
mod baseline;
mod dataset;
mod error;
mod files;
mod loader;
mod locate;
mod manifest;
mod preprocess;
mod random;
mod readers;
mod resize;
mod synthetic;
mod wanted;

pub use augment::{Area, Augmentation, Normalisation};
pub use baseline::linear_baseline;
pub use dataset::{Dataset, Splits};
pub use error::{Error, Result};
pub use loader::{Assembler, Batch, Epoch, Loader, LoaderOptions, Placed};
pub use locate::{Loaded, Located, Source, locate};
pub use manifest::{
    DatasetInfo, Fingerprints, Generator, HubFile, HubFiles, find, known, known_names,
};
pub use preprocess::Preprocess;
pub use random::split_mix;
pub use readers::{
    read_cifar_binary, read_cifar_python, read_cifar_tar, read_class_folders, read_parquet,
};
pub use resize::Fit;
pub use synthetic::{SyntheticConfig, synthetic};
pub use wanted::Wanted;
