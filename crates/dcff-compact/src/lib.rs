//! The artefact: plain narrow weights that anyone can load, and back.
//!
//! A compact network is a folder of two files:
//!
//! - `model.safetensors`: tensors under PyTorch's state-dict keys, metadata `{"format": "pt"}` and provenance;
//! - `config.json`: the narrow [`Architecture`](dcff_models::Architecture), preprocessing and labels, and how the
//!   network was made.
//!
//! ```text
//! Network + Views --collapse--> Artefact --save--> folder --load--> Artefact --network--> Network (plain)
//!                                                                      |--fold_batch_norm--> Artefact without batch norm
//!                                                                      |--export::onnx, export::modeling--> other programs
//! ```
//!
//! Loading links no method: this crate deliberately does not know criteria, rates, schedules or data sets, and a
//! reloaded network gives the logits that the trained one gave.
//!
//! # Example
//! ```
//! use std::collections::BTreeMap;
//! use candle_core::{Device, Tensor};
//! use dcff_compact::{Artefact, Preprocessing};
//! use dcff_models::{Mode, Network, Views, by_name};
//!
//! let full = by_name("resnet20")?;
//! let halves: Vec<usize> = full.widths().iter().map(|width| width / 2).collect();
//! let narrow = full.narrowed(&halves)?;
//! let network = Network::new(&narrow, &narrow, 1, &Device::Cpu)?;
//! let preprocessing = Preprocessing {
//!     input_size: narrow.input,
//!     mean: vec![0.5; 3],
//!     std: vec![0.25; 3],
//!     interpolation: "bilinear".into(),
//!     crop_pct: 1.0,
//!     num_classes: 10,
//!     label_names: (0..10).map(|class| class.to_string()).collect(),
//! };
//! let artefact = Artefact::new(&network, &Views::dense(), preprocessing, BTreeMap::new())?;
//! let scratch = tempfile::tempdir()?;
//! artefact.save(&scratch.path().join("compact"))?;
//!
//! let again = Artefact::load(&scratch.path().join("compact"))?.network(&Device::Cpu)?;
//! let images = Tensor::ones((1, 3, 32, 32), candle_core::DType::F32, &Device::Cpu)?;
//! let logits = |network: &Network| network.forward(&images, &Views::dense(), Mode::Eval);
//! let (before, after) = (logits(&network)?.0, logits(&again)?.0);
//! assert_eq!(before.to_vec2::<f32>()?, after.to_vec2::<f32>()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod artefact;
mod bundle;
mod error;
pub mod export;
mod fold;
#[cfg(test)]
mod testing;
mod weights;

pub use artefact::{
    Artefact, CONFIG, Config, MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES, Preprocessing, WEIGHTS,
};
pub use bundle::{Bundle, SLICES, STATISTICS, Slice, Statistics, Switchable};
pub use dcff_file as file;
pub use error::{Error, Result};
pub use weights::{read_tensors, tensors_from_bytes, tensors_to_bytes};
