//! The size of a layer's maps, and what windows make of it.

/// The largest kernel, step or border of a window.
pub(crate) const MAX_WINDOW: usize = 1 << 16;

/// The size of one image's maps, `[C, H, W]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// `C * H * W`.
    pub fn numel(&self) -> usize {
        self.channels * self.height * self.width
    }

    pub(crate) fn checked_numel(&self) -> Option<usize> {
        let plane = self.height.checked_mul(self.width)?;
        self.channels.checked_mul(plane)
    }
}

/// The shape of what windows over `x` yield.
pub(crate) fn window(
    x: Shape,
    channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<Shape, String> {
    if kernel == 0 || stride == 0 {
        return Err(format!(
            "expected kernel and stride of at least 1, got {kernel} and {stride}"
        ));
    }
    let largest = kernel.max(stride).max(padding);
    if largest > MAX_WINDOW {
        return Err(format!(
            "expected kernel, stride and padding of at most {MAX_WINDOW}, got {largest}"
        ));
    }
    let size = |length: usize| {
        let padded = length + 2 * padding;
        (padded >= kernel && padding < kernel)
            .then(|| (padded - kernel) / stride + 1)
            .ok_or_else(|| {
                format!(
                    "a window of {kernel} with padding {padding} does not fit maps of {} x {}",
                    x.height, x.width
                )
            })
    };
    Ok(Shape {
        channels,
        height: size(x.height)?,
        width: size(x.width)?,
    })
}
