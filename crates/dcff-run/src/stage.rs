//! What the stages of a run cost.

use serde::{Deserialize, Serialize};

/// What a stage cost.
///
/// A training pass counts as three forward passes (forward, gradient of the maps, gradient of the weights), a forward pass
/// as the network's multiply-accumulates (`dcff-flops`, convention `macs`) per image.
/// The products that make fused weights, and evaluation, are not counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageCost {
    /// The stage's name.
    pub stage: String,
    /// Epochs trained.
    pub epochs: usize,
    /// Multiply-accumulates of training.
    pub training_macs: u64,
    /// Multiply-accumulates of collecting evidence for scores, and of a method's passes beside the network's own: a teacher's, a
    /// decoder's.
    pub scoring_macs: u64,
    /// Seconds of scoring, training and evaluation.
    pub seconds: f64,
    /// Whether another run trained it and its weights were taken over.
    #[serde(default)]
    pub reused: bool,
}
