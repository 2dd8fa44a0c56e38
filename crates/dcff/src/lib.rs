//! Compact convolutional networks in Rust: trained, compared and handed over.
//!
//! One name for the crates that a user of the library needs, in the order of the data:
//!
//! ```text
//! images --data--> batches --\
//!                             train: forward -> loss -> backward -> step
//! Architecture --models--> Network --/      ^
//!      |                                    |  the method's decisions
//!      |       filters --criteria--> scores --fusion--> kept filters, P
//!      |--flops--> cost table
//!                         views + weights --compact--> model.safetensors, ONNX, PyTorch
//! ```
//!
//! `examples/` shows the ways in: `train_score_fuse_export` (a run from images to an ONNX file), `own_criterion` (a criterion of
//! one's own, trained with), `own_method` (a method of one's own: a mask that learns, and a loss at the output of a stage) and
//! `candle_nn_model` (the filters of a plain candle-nn model scored and fused).
//!
//! This crate deliberately holds nothing of its own.

pub use dcff_compact as compact;
pub use dcff_criteria as criteria;
pub use dcff_data as data;
pub use dcff_flops as flops;
pub use dcff_fusion as fusion;
pub use dcff_models as models;
pub use dcff_nn as nn;
pub use dcff_run as run;
pub use dcff_train as train;
