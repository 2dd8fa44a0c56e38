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

mod artefact;
mod error;
pub mod export;
mod fold;
#[cfg(test)]
mod testing;
mod weights;

pub use artefact::{
    Artefact, CONFIG, Config, MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES, Preprocessing, WEIGHTS,
};
pub use dcff_file as file;
pub use error::{Error, Result};
pub use weights::{read_tensors, tensors_from_bytes, tensors_to_bytes};
