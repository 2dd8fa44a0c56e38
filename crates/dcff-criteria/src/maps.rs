//! The feature maps of one image.

/// The feature maps of one image behind one convolution, `[C, H, W]`.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) dims: [usize; 3],
}

impl<'a> Maps<'a> {
    /// Channels, height and width.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// All maps, `[C, H, W]` row-major.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The maps of the channels, `[H, W]` row-major each.
    pub fn channels(&self) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.dims[1] * self.dims[2])
    }
}
