//! How a device computes.

/// How a device computes; see [`crate::configure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Whether cuDNN may multiply in TensorFloat-32 where maps are `f32`.
    pub tf32: bool,
    /// Whether the same inputs give the same bits every time, at some cost in speed. Our own kernels always do;
    /// cuDNN is held to algorithms that do. The CPU always does.
    pub deterministic: bool,
}
