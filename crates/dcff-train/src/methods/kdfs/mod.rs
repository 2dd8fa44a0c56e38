//! KDFS: masks of filters that are drawn and learned, guided by a teacher, towards a cost.
//!
//! ```text
//! L = CE + 0.05 KD + 1000 mean over taps of RC + 10000 (F(m) / F(1) - ρ)²
//! ```
//!
//! In the search every convolution inside a block draws a mask in every step ([`masks`]); the student learns from labels, from the
//! teacher's logits and from where the teacher's maps are active ([`losses`]), and the cost of the drawn network
//! ([`dcff_flops::MaskedCost`]) is pulled to its target. Weights, decoders and batch norm are moved by one Adamax, the logits of the masks by
//! another. In the fine-tuning the likelier choice of every filter stands ([`masks::ticket`]), and cross-entropy alone trains the
//! weights.
//!
//! Lin, Huang, Xie and others, *Filter Pruning for Efficient CNNs via Knowledge-driven Differential Filter Sampler*, 2023,
//! <https://arxiv.org/abs/2307.00198>.

mod entry;
pub mod losses;
pub mod masks;
mod method;
mod published;
mod settings;
mod taps;

pub(super) use entry::Entrance;
pub use masks::Pair;
pub use method::{Factors, Kdfs, Noise, Terms};
pub use settings::{Export, KdfsConfig, Landing, Start};
