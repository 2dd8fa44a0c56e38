//! What Adam and its kin are set by.

/// Settings of a step of [`crate::adamax_steps`] and [`crate::adamw_steps`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// Learning rate `η`.
    pub lr: f64,
    /// How much of the mean gradient stays, `β1`, 0 up to but not including 1.
    pub beta1: f64,
    /// How much of the other memory stays, `β2`, likewise: of the largest gradient or of the mean square.
    pub beta2: f64,
    /// `ε`, which keeps the division finite; each says where it is added.
    pub eps: f64,
    /// Weight decay `λ`: added to the gradient by Adamax, taken off the parameter by AdamW.
    pub weight_decay: f64,
    /// Which step this is, `t`, from 1.
    pub step: u64,
}
