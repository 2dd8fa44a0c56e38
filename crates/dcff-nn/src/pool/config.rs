//! A pooling window.

/// A pooling window, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolConfig {
    /// Side of the window in pixels, 1 to 15.
    pub kernel: usize,
    /// Pixels from one window to the next, at least 1.
    pub stride: usize,
    /// Pixels around the map that windows may cover, at most half the kernel.
    pub padding: usize,
}
